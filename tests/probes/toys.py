"""Planted activations, a toy tokenizer and a toy hooked model: the truth is known because we wrote it."""

import hashlib
import math
import re

import torch
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from probes.layers.labels import ProbeSet


class Pieces:
    """Cuts text into pieces of at most `size` characters, a leading space included; ids are hashes of the pieces."""

    bos = 1
    sha256 = "pieces"

    def __init__(self, size: int = 3, across: bool = False) -> None:
        self.pattern = re.compile(f"(?s:.{{1,{size}}})" if across else rf"\s?\w{{1,{size}}}|\s?[^\w\s]|\s")

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        spans = [match.span() for match in self.pattern.finditer(text)]
        ids = [int(hashlib.sha256(text[a:b].encode()).hexdigest()[:4], 16) % 500 + 2 for a, b in spans]
        return ids, spans


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.hook_resid_pre, self.hook_resid_post = HookPoint(), HookPoint()
        self.map = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.hook_resid_pre(x)
        past = x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]  # causal: a position sees itself and the past
        result: Tensor = self.hook_resid_post(x + torch.tanh(self.map(past)))
        return result


class Toy(HookedRootModule):  # type: ignore[misc]
    """Causal, two blocks, HookedTransformer's residual hook names, and nothing else of it."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(600, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(2))
        self.setup()

    def forward(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return x


def probe_set(sentences: int = 40, seed: int = 0) -> ProbeSet:
    """Random tokens in sentences of 4 to 12, a two-class label on every other word."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(4, 13, (sentences,), generator=generator).tolist()
    tokens = [tuple([1, *torch.randint(2, 600, (n,), generator=generator).tolist()]) for n in lengths]
    places = [(s, p) for s, ids in enumerate(tokens) for p in range(1, len(ids))]
    values = tuple(torch.randint(-1, 2, (len(places),), generator=generator).tolist())
    return ProbeSet(
        sentences=tuple(f"sentence {i}" for i in range(sentences)),
        documents=("0",) * sentences,
        tokens=tuple(tokens),
        word_sentence=tuple(s for s, _ in places),
        word_position=tuple(p for _, p in places),
        labels={"class.next": values},
        classes={"class.next": ("content", "function")},
    )


def binary_bits(distance: float) -> float:
    """Mutual information in bits of a fair label and a Gaussian whose class means are `distance` deviations apart."""
    z = torch.linspace(-15, 15, 30001, dtype=torch.float64)
    density = torch.exp(-((z - distance / 2) ** 2) / 2) / math.sqrt(2 * math.pi)
    return float(1 - (density * torch.log2(1 + torch.exp(-distance * z))).sum() * (z[1] - z[0]))


def simplex_bits(classes: int, distance: float) -> float:
    """The same for K equally likely classes at the corners `distance` · e_k, by 400,000 draws (± .002 bits)."""
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(classes, (400_000,), generator=generator)
    x = torch.randn(400_000, classes, generator=generator)
    x[torch.arange(len(x)), label] += distance
    log = torch.log_softmax(distance * x, dim=1).gather(1, label[:, None])
    return math.log2(classes) + float(log.mean()) / math.log(2)


def gaussian_layers(
    distances: list[float], sentences: int, words: int, width: int, seed: int = 0, shared: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Activations [layer, word, width], fair labels and sentence numbers; class means `distance` apart, noise mixed.

    `shared`: variance of a noise that all words of a sentence have in common, along the direction of the label too.
    """
    generator = torch.Generator().manual_seed(seed)
    n = sentences * words
    label = torch.randint(2, (n,), generator=generator)
    sentence = torch.arange(sentences).repeat_interleave(words)
    mix = torch.randn(width, width, generator=generator)
    layers = []
    for distance in distances:
        noise = torch.randn(n, width, generator=generator) * (1 - shared) ** 0.5
        noise += torch.randn(sentences, width, generator=generator)[sentence] * shared**0.5
        noise[:, 0] += distance * (label - 0.5)
        layers.append(noise @ mix)
    return torch.stack(layers), label, sentence
