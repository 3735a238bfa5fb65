"""Whether a concept has leaked out of the subspace that holds it (M5): probed anew where that subspace has been taken out.

A subspace can be held exactly while the model learns to carry the same label beside it; nothing in the frozen coordinates
tells. So probes are fitted again on what is left after projecting V out, at the concept's layer and around it, and the
gain since the freeze is compared with that of a twin that was never frozen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.layers.discriminant import Alone
from probes.layers.erase import fit_leace
from probes.layers.evidence import Interval
from probes.layers.fit import Read, base_loss, log_prior, read_alone
from probes.layers.intervals import interval
from probes.layers.problem import Problem, Untestable, one_thread, prepare


@dataclass(frozen=True)
class Words:
    """Labelled held-out words, the same for every model.

    Attributes:
        label: class per word, negative = none; classes: what the numbers mean.
        sentence: per word; fold, document: per sentence.
    """

    label: Int[Tensor, "word"]
    classes: tuple[str, ...]
    sentence: Int[Tensor, "word"]
    fold: Int[Tensor, "sentence"]
    document: Int[Tensor, "sentence"]

    @property
    def documents(self) -> int:
        return int(self.document.max()) + 1

    def half(self, side: int) -> Int[Tensor, "word"]:
        """The labels of the words of every other document; the rest have none."""
        mine = self.document[self.sentence] % 2 == side
        return torch.where(mine, self.label, torch.full_like(self.label, -1))


@dataclass(frozen=True)
class Refit:
    """Probes fitted anew on one model's stream, out of fold.

    Attributes:
        right: 1 where the word's class was decided rightly, by layer and word.
        bits: usable bits of each word, by layer and word.
        document: per word, in the same order.
    """

    right: Float[Tensor, "layer word"]
    bits: Float[Tensor, "layer word"]
    document: Int[Tensor, "word"]

    @property
    def accuracy(self) -> tuple[float, ...]:
        return tuple(self.right.mean(1).tolist())

    @property
    def mean_bits(self) -> tuple[float, ...]:
        return tuple(self.bits.mean(1).tolist())


@dataclass(frozen=True)
class Leak:
    """One model's refits.

    Attributes:
        whole: on the stream as it is.
        outside: with V projected out at every layer.
        erased: with a fresh LEACE eraser of the label, fitted on every other document and probed on the rest. What is
            found then is the eraser's own noise, about √(8d/n) deviations between two classes of n words a half: the
            floor that `outside` is read against. None where half the words are too few.
    """

    layers: tuple[int, ...]
    whole: Refit
    outside: Refit
    erased: Refit | None


def neighbours(layer: int, depth: int) -> tuple[int, ...]:
    """The concept's layer, those beside it, and the last."""
    return tuple(sorted({one for one in (layer - 1, layer, layer + 1, depth) if 0 <= one <= depth}))


def leak(
    features: Float[Tensor, "layer word d_model"],
    layers: Sequence[int],
    basis: Float[Tensor, "d_model k"],
    words: Words,
) -> Leak:
    """Probe one model's stream whole, with V out, and after a fresh LEACE.

    Raises:
        Untestable: too few labelled words of two classes.
    """
    with one_thread():
        v = basis.to(features)
        outside = features - (features @ v) @ v.T
        return Leak(
            tuple(layers),
            refit(features, layers, words.label, words),
            refit(outside, layers, words.label, words),
            _erased(features, layers, words),
        )


def refit(
    features: Float[Tensor, "layer word d_model"], layers: Sequence[int], label: Int[Tensor, "word"], words: Words
) -> Refit:
    """Out-of-fold decisions and bits of the shrinkage discriminant that all live readings are made with.

    Raises:
        Untestable: too few labelled words of two classes.
    """
    problem = prepare("concept", features, label, words.sentence, words.fold, words.classes, layers)
    base = base_loss(problem)
    right, bits = [], []
    for index in range(len(problem.layers)):
        read = read_alone(problem, index)
        right.append((_decided(problem, index, read) == problem.label).double())
        bits.append((base - read.loss).double())
    return Refit(torch.stack(right), torch.stack(bits), words.document[problem.sentence])


def gain(after: Refit, before: Refit, weights: Float[Tensor, "replicate document"]) -> tuple[Interval, ...]:
    """Accuracy of one refit less another's on the same words, by layer, with the bootstrap over documents."""
    if after.right.shape != before.right.shape or not torch.equal(after.document, before.document):
        raise Untestable("leak: the two models were not probed on the same words. Measure both on one text.")
    found = []
    for mine, other in zip(after.right, before.right, strict=True):
        count, total = (
            torch.zeros(weights.shape[1], dtype=torch.float64).index_add_(0, after.document, values)
            for values in (torch.ones_like(mine), mine - other)
        )
        wide = weights.double()
        found.append(interval(float((mine - other).mean()), (wide @ total) / (wide @ count)))
    return tuple(found)


def _erased(features: Tensor, layers: Sequence[int], words: Words) -> Refit | None:
    fitted, probed = words.half(0), words.half(1)
    try:
        cleaned = torch.stack([fit_leace(one, fitted).apply(one) for one in features])
        return refit(cleaned, layers, probed, words)
    except Untestable:  # half of the words may be too few where all of them are not
        return None


def _decided(problem: Problem, index: int, read: Read) -> Int[Tensor, "word"]:
    """The class that each word is given by the probe of the other folds: `fit` keeps losses, so this fits it once more."""
    family = Alone(problem.blocks[index], problem.counts)
    result = torch.empty_like(problem.label)
    for fold in range(problem.folds):
        rows = problem.rows[fold]
        probe = family.solve((fold,), fold, read.penalty[fold : fold + 1])
        score = probe.scores([block.features[rows] for block in family.blocks])[0]
        offset = read.offset[fold] + log_prior(problem.counts.sum(0) - problem.counts[fold])
        result[rows] = (read.slope[fold] * score + offset[:, None]).argmax(0)
    return result
