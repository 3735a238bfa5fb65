"""A model whose every prediction is settled at a layer that we chose, and sentences to read it on.

A token is a kind and four signs a, b, c, d. Two products, a·b and c·d, choose one of the kind's four next words; no linear
map finds them. Block k computes them for the kinds that are due at k and writes the answer; nothing else ever moves. So
before layer k the best linear guess is one in four (2 bits away), and from layer k on the prediction is exact; a is needed
below layer k and never again. Decoys, of the same variance as the signs, are used for nothing.
"""

from collections.abc import Callable, Sequence
from itertools import product

import torch
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from probes.layers.probe_set import ProbeSet

SIGNS, DECOYS, COPIES = 4, 8, 4
BASE, STRENGTH = 12.0, 8.0  # logits: of the kind's four words from the start, and by how much the right one is raised


class Step(nn.Module):
    def __init__(self, due: Tensor) -> None:
        super().__init__()
        self.due = due  # [kind], 1 where the answer is written here
        self.hook_resid_pre, self.hook_resid_post = HookPoint(), HookPoint()

    def forward(self, x: Tensor) -> Tensor:
        x = self.hook_resid_pre(x)
        kinds = len(self.due)
        kind, signs = x[..., :kinds], x[..., kinds : kinds + SIGNS]
        first, second = signs[..., 0] * signs[..., 1], signs[..., 2] * signs[..., 3]
        corners = torch.tensor(list(product((-1.0, 1.0), repeat=2)))  # [word of the kind, product]
        vote = STRENGTH / 2 * (first[..., None] * corners[:, 0] + second[..., None] * corners[:, 1])
        answer = (kind * self.due)[..., None] * vote[..., None, :]  # [..., kind, word]
        write = torch.cat((torch.zeros_like(x[..., : kinds + SIGNS + DECOYS]), answer.flatten(-2)), dim=-1)
        result: Tensor = self.hook_resid_post(x + write)
        return result


class Unembed(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.W_U = nn.Parameter(weight)


class Settling(HookedRootModule):  # type: ignore[misc]
    """Token 0 begins a text; then the words that are read, by kind, signs and copy; then the words that follow."""

    def __init__(self, settles_at: Sequence[int], depth: int = 8) -> None:
        super().__init__()
        self.kinds = len(settles_at)
        self.read = self.kinds * 2**SIGNS * COPIES
        self.d_vocab = 1 + self.read + 4 * self.kinds
        width = self.kinds + SIGNS + DECOYS + 4 * self.kinds
        embed = torch.zeros(self.d_vocab, width)
        generator = torch.Generator().manual_seed(0)
        for index, (kind, *signs, _) in enumerate(self._words(), start=1):
            embed[index, kind] = 1
            embed[index, self.kinds : self.kinds + SIGNS] = torch.tensor(signs).float()
            first = width - 4 * self.kinds + 4 * kind
            embed[index, first : first + 4] = BASE
        decoys = torch.randint(2, (self.read, DECOYS), generator=generator) * 2.0 - 1
        embed[1 : 1 + self.read, self.kinds + SIGNS : self.kinds + SIGNS + DECOYS] = decoys
        self.embed = nn.Embedding.from_pretrained(embed)
        due = torch.tensor(settles_at)
        self.blocks = nn.ModuleList(Step((due == layer + 1).float()) for layer in range(depth))
        self.ln_final = nn.Identity()
        unembed = torch.full((width, self.d_vocab), 0.0)
        unembed[-4 * self.kinds :, -4 * self.kinds :] = torch.eye(4 * self.kinds)
        self.unembed = Unembed(unembed)
        self.setup()

    def _words(self) -> list[tuple[int, ...]]:
        return list(product(range(self.kinds), *[(-1, 1)] * SIGNS, range(COPIES)))

    def forward(
        self,
        input: Tensor,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
        tokens: Tensor | None = None,
    ) -> Tensor:
        x: Tensor = self.embed(input) if start_at_layer is None else input
        for block in list(self.blocks)[start_at_layer:stop_at_layer]:
            x = block(x)
        return x if stop_at_layer is not None else self.ln_final(x) @ self.unembed.W_U

    def follower(self, token: int) -> int:
        """The word that this one predicts, and that our sentences put after it."""
        kind, a, b, c, d, _ = self._words()[token - 1]
        return 1 + self.read + 4 * kind + 2 * (a * b > 0) + (c * d > 0)

    def kind(self, token: int) -> int:
        return self._words()[token - 1][0]


def sentences(
    model: Settling, count: int, words: int, seed: int, draw_kind: Callable[[torch.Generator], int] | None = None
) -> ProbeSet:
    """Texts of `words` words, each followed by what it predicts; labels: the kind of word, and its sign a."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> int:
        if draw_kind is None:
            return int(torch.randint(model.read, (1,), generator=generator)) + 1
        per_kind = model.read // model.kinds
        return draw_kind(generator) * per_kind + int(torch.randint(per_kind, (1,), generator=generator)) + 1

    texts = [[draw() for _ in range(words)] for _ in range(count)]
    every = [token for text in texts for token in text]
    kinds, signs = tuple(model.kind(token) for token in every), tuple(model._words()[t - 1][1] for t in every)
    return ProbeSet(
        sentences=tuple(f"text {seed}.{i}" for i in range(count)),
        documents=tuple(f"document {seed}.{i}" for i in range(count)),
        tokens=tuple((0, *(t for token in text for t in (token, model.follower(token)))) for text in texts),
        word_sentence=tuple(i for i in range(count) for _ in range(words)),
        word_position=tuple(1 + 2 * j for _ in range(count) for j in range(words)),
        labels={"kind": kinds, "sign": tuple(int(sign > 0) for sign in signs)},
        classes={"kind": tuple(f"kind {i}" for i in range(model.kinds)), "sign": ("minus", "plus")},
    )
