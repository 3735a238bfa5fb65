"""Online code length: how many bits it takes to send the labels to someone who has the activations.

Voita & Titov 2020 (arXiv:2003.12298): the labels go out in blocks, each coded with a probe fitted to all blocks before
it; the first has no probe and costs log2 K bits a word. Rewards a probe that needs few examples, where accuracy at full
data hardly differs. Everything here is in bits; published implementations add the first block in bits to the others in
nats, so their compressions are about 1.4 times too high.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.layers.calibrate import calibrate, log_loss_bits, temperature
from probes.layers.discriminant import Alone, Block
from probes.layers.fit import Problem, Untestable, log_prior, one_thread

FRACTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
_PARTS = 4  # of each prefix, in turn inner test sets for the penalty and the temperature
_FEWEST_SENTENCES = 2 * _PARTS  # a shorter prefix gives its class shares only


@dataclass(frozen=True)
class CodeLength:
    """Bits spent on the labels, by layer and block.

    Attributes:
        bits: of all labels of a block; the first block at log2 K a word.
        words: per block; blocks are whole sentences.
    """

    task: str
    layers: tuple[int, ...]
    bits: Float[Tensor, "layer block"]
    words: Int[Tensor, "block"]
    classes: tuple[str, ...]
    rare: Mapping[str, int]

    @property
    def total(self) -> Float[Tensor, "layer"]:
        return self.bits.sum(1)

    @property
    def per_word(self) -> Float[Tensor, "layer"]:
        return self.total / self.words.sum()

    @property
    def compression(self) -> Float[Tensor, "layer"]:
        """n · log2 K / code length; 1 = the activations say nothing about evenly spread labels."""
        return int(self.words.sum()) * math.log2(len(self.classes)) / self.total


def code_length(problem: Problem, seed: int = 0) -> CodeLength:
    """Prequential code length of the labels given each layer alone, coded by the closed-form probe.

    Sentences go out in an order drawn from the seed, a block ending with the sentence that fills its share of the words
    (`FRACTIONS`). Penalty, temperature and offsets are chosen inside each prefix.

    Raises:
        Untestable: the first sentences hold so many of the words that fewer than three blocks are left.
    """
    order = _Order.of(problem, seed)
    if len(order.ends) < 3:
        raise Untestable(
            f"{problem.task}: {len(order.words)} words in sentences so long that they make {len(order.ends)} blocks; an "
            "online code needs 3. Use more, or shorter, sentences."
        )
    with one_thread():
        bits = torch.stack([torch.stack(list(_layer(problem, order, h[order.words]))) for h in problem.features])
    sizes = torch.tensor(order.ends).diff(prepend=torch.zeros(1, dtype=torch.long))
    return CodeLength(problem.task, problem.layers, bits, sizes, problem.classes, problem.rare)


@dataclass(frozen=True)
class _Order:
    """The words in the order they are sent, except that inside a block they lie by part.

    Attributes:
        words: places in the problem.
        ends: of each block, in words.
        part: 0.._PARTS-1 per word; sentences take turns.
        sentences: how many there are up to the end of each block.
    """

    words: Int[Tensor, "word"]
    ends: list[int]
    part: Int[Tensor, "word"]
    sentences: list[int]

    @classmethod
    def of(cls, problem: Problem, seed: int) -> _Order:
        used = torch.bincount(problem.sentence) > 0
        sentence = (used.cumsum(0) - 1)[problem.sentence]  # numbered without those that have no word
        many = int(used.sum())
        turn = torch.randperm(many, generator=torch.Generator().manual_seed(seed % 2**63))
        filled = torch.bincount(turn[sentence]).cumsum(0)  # words up to and with each sentence
        goals = (torch.tensor(FRACTIONS, dtype=torch.float64) * len(sentence)).ceil().long().clamp(max=len(sentence))
        last = torch.unique(torch.searchsorted(filled, goals))  # the sentence that fills each share
        block = torch.searchsorted(last, turn[sentence])
        words = torch.argsort((block * _PARTS + turn[sentence] % _PARTS) * many + turn[sentence], stable=True)
        return cls(words, filled[last].tolist(), (turn[sentence] % _PARTS)[words], (last + 1).tolist())


def _layer(problem: Problem, order: _Order, features: Float[Tensor, "word d"]) -> Iterator[Float[Tensor, ""]]:
    """Bits of each block in turn. Sums of moments grow block by block, so the activations are read once."""
    classes, label = len(problem.classes), problem.label[order.words]
    onehot = torch.nn.functional.one_hot(label, classes).float()
    width = features.shape[1]
    counts = torch.zeros(_PARTS, classes, dtype=torch.float64)
    sums = torch.zeros(_PARTS, classes, width, dtype=torch.float64)
    moments = torch.zeros(_PARTS, width, width, dtype=torch.float64)
    start = 0
    for index, end in enumerate(order.ends):
        new = slice(start, end)
        if index == 0:
            yield torch.tensor((end - start) * math.log2(classes), dtype=torch.float64)
        else:
            family = Alone(Block(features, [], sums, moments), counts)
            told = order.part[:start] if order.sentences[index - 1] >= _FEWEST_SENTENCES else None
            yield _block(family, features, label, told, new)
        sizes = torch.bincount(order.part[new], minlength=_PARTS).tolist()
        for part, rows in enumerate(torch.split(torch.arange(start, end), sizes)):
            chosen, truth = features[rows], onehot[rows]
            counts[part] += truth.sum(0)
            sums[part] += truth.T @ chosen
            moments[part] += chosen.T @ chosen
        start = end


def _block(
    family: Alone, features: Tensor, label: Tensor, part: Int[Tensor, "told"] | None, new: slice
) -> Float[Tensor, ""]:
    """Bits of one block under the probe of all words before it; of the class shares where `part` is None."""
    prior = log_prior(family.counts.sum(0))
    logit = prior[:, None].expand(-1, new.stop - new.start)
    if part is not None:
        scores, labels = [], []
        for one in range(_PARTS):
            rows = (part == one).nonzero()[:, 0]
            scores.append(family.solve((one,), 0, family.grid).scores([features[rows]]))
            labels.append(label[rows])
        inner, truth = torch.cat(scores, dim=2), torch.cat(labels)
        slopes, losses = temperature(inner, truth, prior)
        best = int(losses.argmin())
        slope, offset = calibrate(inner[best], truth, prior, slopes[best])
        score = family.solve((), 0, family.grid[best : best + 1]).scores([features[new]])[0]
        logit = slope * score + offset[:, None]
    return log_loss_bits(logit, label[new], prior, 1 / new.start).double().sum()
