"""Closed-form probes: how many bits about a label can be read linearly from each layer.

Usable information (Xu et al. 2020, arXiv:2002.10689) of a linear family, out of fold: the cross-entropy of the label under
the training fold's class shares minus the cross-entropy under the probe, in bits per word. And the same given layer 0
(Hewitt et al. 2021, arXiv:2109.09234): what [h_0; h_l] adds to h_0. A figure says what is *linearly readable*, not that a
layer made it (Pimentel et al. 2020, arXiv:2004.03061).

The probe is shrinkage discriminant analysis with a fitted temperature and class offsets: closed form from per-fold sums
of moments, so that all folds and penalties cost one eigendecomposition for each of a few training sets. Everything that
is chosen (standardisation, penalty, temperature) is chosen inside the training fold, per layer and fold. No sentence is
in two folds, and layers and tasks share the folds. Nothing here draws a random number but `assign_folds`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.layers.calibrate import calibrate, log_loss_bits, temperature
from probes.layers.discriminant import PENALTIES, Alone, Discriminant, Given
from probes.layers.problem import Problem, Untestable, assign_folds, one_thread, prepare

__all__ = [
    "PENALTIES",
    "Decoding",
    "Problem",
    "Read",
    "Untestable",
    "assign_folds",
    "conditional_bits",
    "one_thread",
    "prepare",
    "read_alone",
    "read_given",
    "usable_bits",
]

ENOUGH_WORDS = 1000  # in one fold, to choose a penalty and a temperature on; at 640 intervals covered 2 points less


@dataclass(frozen=True)
class Read:
    """The probes of one layer, out of fold, and what was chosen inside each training fold.

    Attributes:
        loss: cross-entropy of each word, in bits.
        penalty: share of n; infinity = the layer was left out of [h_0; h_l].
        slope, offset: the temperature of the scores, and what calibration added to the log class shares.
    """

    loss: Float[Tensor, "word"]
    penalty: Float[Tensor, "fold"]
    slope: Float[Tensor, "fold"]
    offset: Float[Tensor, "fold class"]


@dataclass(frozen=True)
class Decoding:
    """Out-of-fold usable bits of one label, by layer and sentence; the input of every interval and profile.

    Attributes:
        gain: summed over the words of a sentence, in bits; divide by `words` to get bits per word.
        words: labelled words per sentence, 0 where there are none.
        base_bits: cross-entropy of the label under the class shares alone, bits per word.
        penalty: the chosen share of n, by layer and fold; infinity = the layer was left out of [h_0; h_l].
    """

    task: str
    layers: tuple[int, ...]
    gain: Float[Tensor, "layer sentence"]
    words: Int[Tensor, "sentence"]
    base_bits: float
    penalty: Float[Tensor, "layer fold"]
    classes: tuple[str, ...]
    rare: Mapping[str, int]

    @property
    def n(self) -> int:
        return int(self.words.sum())

    @property
    def bits(self) -> Float[Tensor, "layer"]:
        """Usable bits per word."""
        return self.gain.sum(1) / self.words.sum()


def usable_bits(problem: Problem) -> Decoding:
    """Bits per word that a linear probe reads from each layer alone.

    Example:
        >>> folds = assign_folds(len(sentences), 5)                              # doctest: +SKIP
        >>> usable_bits(prepare("class.next", h, label, sentence, folds, ("content", "function"))).bits  # doctest: +SKIP
    """
    with one_thread():
        read = [read_alone(problem, index) for index in range(len(problem.layers))]
    return decoding(problem, base_loss(problem), read)


def conditional_bits(problem: Problem) -> Decoding:
    """Bits per word that [h_0; h_l] gives beyond h_0 alone, for each layer; `problem.layers` must begin with 0.

    h_0 keeps the penalty that is best for h_0 alone, and h_l has its own, up to infinity (h_l unused). So the first
    probe is a member of the second family, and at layer 0, where h_l repeats h_0, the gain is 0 but for estimation.

    Raises:
        Untestable: layer 0 is not there.
    """
    with one_thread():
        read = read_given(problem)
    return decoding(problem, read_alone(problem, 0).loss, read)


def read_alone(problem: Problem, index: int) -> Read:
    """The probe of one layer (by its place in `problem.layers`); fitted once and kept with the problem."""
    if ("alone", index) not in problem.memory:
        problem.memory["alone", index] = _read(problem, Alone(problem.blocks[index], problem.counts))
    found: Read = problem.memory["alone", index]
    return found


def read_given(problem: Problem) -> list[Read]:
    """The probes of [h_0; h_l], for each layer; fitted once and kept with the problem.

    Raises:
        Untestable: layer 0 is not there.
    """
    if problem.layers[0] != 0:
        raise Untestable(f"{problem.task}: a reading given layer 0 needs layer 0. Add it to the layers collected.")
    if ("given", 0) not in problem.memory:
        family = Given(problem.blocks[0], problem.counts, read_alone(problem, 0).penalty)
        for index, block in enumerate(problem.blocks):
            problem.memory["given", index] = _read(problem, family.beside(block))
    return [problem.memory["given", index] for index in range(len(problem.layers))]


def decoding(problem: Problem, base: Float[Tensor, "word"], read: Sequence[Read]) -> Decoding:
    """Gains over `base` (bits of each word without the probe), summed by sentence."""
    gain = base - torch.stack([one.loss for one in read])
    per_sentence = torch.zeros(len(gain), problem.sentences, dtype=torch.float64)
    per_sentence.index_add_(1, problem.sentence, gain.double())
    return Decoding(
        task=problem.task,
        layers=problem.layers,
        gain=per_sentence,
        words=torch.bincount(problem.sentence, minlength=problem.sentences),
        base_bits=float(base_loss(problem).mean()),
        penalty=torch.stack([one.penalty for one in read]),
        classes=problem.classes,
        rare=problem.rare,
    )


def _read(problem: Problem, family: Alone | Given) -> Read:
    """Fit and choose inside each training fold, and score the words of the fold that was held out.

    With fold f held out, one or two other folds (`inner_folds`) serve in turn as inner test sets, for the model of the
    remaining folds. A pair serves both its folds, so five folds cost five inner training sets or three, not 20.
    """
    loss = torch.empty(len(problem.label))
    chosen = torch.empty(problem.folds, dtype=torch.float64)
    slopes_of, offsets = torch.empty(problem.folds), torch.empty(problem.folds, len(problem.classes))
    memory: dict[tuple[int, int, float], Discriminant] = {}
    floor = 1 / len(problem.label)
    for fold in range(problem.folds):
        prior = log_prior(problem.counts.sum(0) - problem.counts[fold])
        scores, labels = [], []
        for other in inner_folds(problem, fold):
            pair = (min(fold, other), max(fold, other))
            key = (*pair, family.key(fold))
            if key not in memory:
                memory[key] = family.solve(pair, fold, family.grid)
            rows = problem.rows[other]
            scores.append(memory[key].scores([block.features[rows] for block in family.blocks]))
            labels.append(problem.label[rows])
        inner, inner_label = torch.cat(scores, dim=2), torch.cat(labels)
        slopes, losses = temperature(inner, inner_label, prior)
        best = int(losses.argmin())
        slope, offset = calibrate(inner[best], inner_label, prior, slopes[best])
        chosen[fold], slopes_of[fold], offsets[fold] = family.grid[best], slope, offset - prior
        rows = problem.rows[fold]
        final = family.solve((fold,), fold, family.grid[best : best + 1])
        score = final.scores([block.features[rows] for block in family.blocks])[0]
        loss[rows] = log_loss_bits(slope * score + offset[:, None], problem.label[rows], prior, floor)
    return Read(loss, chosen, slopes_of, offsets)


def inner_folds(problem: Problem, fold: int) -> list[int]:
    """The inner test folds of an outer fold: its two neighbours in the ring, or one where a fold alone has words enough."""
    if int(problem.counts.sum(1).min()) < ENOUGH_WORDS:
        return sorted({(fold - 1) % problem.folds, (fold + 1) % problem.folds})
    return [fold - 1] if fold % 2 else [(fold + 1) % problem.folds]


def log_prior(count: Float[Tensor, "*set class"]) -> Float[Tensor, "*set class"]:
    """Log class shares of a training set, half a word added to each, so that no class is impossible."""
    padded = count + 0.5
    return (padded / padded.sum(-1, keepdim=True)).log().float()


def base_loss(problem: Problem) -> Float[Tensor, "word"]:
    """Bits of each word under the class shares of its training fold."""
    return -log_prior(problem.counts.sum(0) - problem.counts)[problem.fold, problem.label] / math.log(2)
