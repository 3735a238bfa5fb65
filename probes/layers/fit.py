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

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.errors import LabError
from probes.layers.calibrate import calibrate, log_loss_bits, temperature
from probes.layers.discriminant import PENALTIES, Alone, Block, Discriminant, Given

__all__ = [
    "PENALTIES",
    "Decoding",
    "Problem",
    "Untestable",
    "assign_folds",
    "conditional_bits",
    "prepare",
    "usable_bits",
]

RARE_WORDS, RARE_SENTENCES = 20, 10  # a class with fewer is left out and reported
FEWEST_WORDS, FEWEST_SENTENCES = 100, 30
ENOUGH_WORDS = 1000  # in one fold, to choose a penalty and a temperature on; at 640 intervals covered 2 points less


class Untestable(LabError):
    """The labels at hand cannot carry a reading; the message says why and what would help."""


@dataclass(frozen=True)
class Problem:
    """One label at every layer, ready to be probed. Made by `prepare`, which puts the words in order of fold.

    Attributes:
        features: fp32, centred and scaled over all words (for conditioning only; training folds standardise anew).
        label: class index per word, 0..K-1, no gaps.
        fold: per word, that of its sentence.
        sentence: per word.
        sentences: how many there are, those without a labelled word included.
        classes: names of 0..K-1.
        rare: classes left out, with their word counts.
    """

    task: str
    features: Float[Tensor, "layer word d_model"]
    layers: tuple[int, ...]
    label: Int[Tensor, "word"]
    fold: Int[Tensor, "word"]
    sentence: Int[Tensor, "word"]
    sentences: int
    folds: int
    classes: tuple[str, ...]
    rare: Mapping[str, int]

    @cached_property
    def rows(self) -> list[slice]:
        """The words of each fold."""
        ends = torch.bincount(self.fold, minlength=self.folds).cumsum(0).tolist()
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    @cached_property
    def blocks(self) -> list[Block]:
        onehot = torch.nn.functional.one_hot(self.label, len(self.classes)).float()
        return [Block.of(features, self.rows, onehot) for features in self.features]

    @cached_property
    def alone(self) -> list[tuple[Tensor, Tensor] | None]:
        """What `_read` gave for each layer alone, once it was asked for."""
        return [None] * len(self.layers)

    def read_alone(self, index: int) -> tuple[Float[Tensor, "word"], Float[Tensor, "fold"]]:
        """Loss of each word in bits under the probe of one layer, and the penalty of each fold."""
        found = self.alone[index]
        if found is None:
            found = self.alone[index] = _read(self, Alone(self.blocks[index], self.counts))
        return found

    @cached_property
    def counts(self) -> Float[Tensor, "fold class"]:
        onehot = torch.nn.functional.one_hot(self.label, len(self.classes)).double()
        return torch.stack([onehot[rows].sum(0) for rows in self.rows])


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


def assign_folds(sentences: int, folds: int, seed: int = 0) -> Int[Tensor, "sentence"]:
    """A fold for every sentence, sizes equal to one; the same for all layers, tasks, checkpoints and the twin.

    Raises:
        Untestable: fewer than 3 folds (a penalty is chosen on folds inside the training fold) or than 2 sentences each.
    """
    if folds < 3 or sentences < 2 * folds:
        raise Untestable(
            f"probing.folds = {folds} with {sentences} sentences: probes need at least 3 folds of at least 2 sentences. "
            "Use 5 folds and more sentences."
        )
    generator = torch.Generator().manual_seed(seed % 2**63)
    result = torch.empty(sentences, dtype=torch.long)
    result[torch.randperm(sentences, generator=generator)] = torch.arange(sentences) % folds
    return result


def prepare(
    task: str,
    features: Float[Tensor, "layer word d_model"],
    label: Int[Tensor, "word"],
    sentence: Int[Tensor, "word"],
    fold_of_sentence: Int[Tensor, "sentence"],
    classes: Sequence[str],
    layers: Sequence[int] | None = None,
) -> Problem:
    """Keep the labelled words of common classes, and refuse what no probe should be fitted to.

    Args:
        features: activations, fp32; any scale, it does not matter.
        label: class index per word; negative = no label.
        sentence: per word, an index into `fold_of_sentence`.

    Raises:
        Untestable: labels and words differ in number, activations are not finite, or fewer than two classes,
            100 words or 30 sentences are left.
    """
    words, sentences = features.shape[1], len(fold_of_sentence)
    if len(label) != words or len(sentence) != words:
        raise Untestable(
            f"{task}: {len(label)} labels and {len(sentence)} sentence numbers for {words} words of activations. "
            "Collect the activations of this probe set again."
        )
    if words and (int(sentence.min()) < 0 or int(sentence.max()) >= sentences):
        raise Untestable(f"{task}: a word in sentence {int(sentence.max())} of {sentences}. Build the probe set anew.")
    common, rare = _common_classes(label, sentence, classes)
    number = torch.full((len(classes) + 1,), -1)  # the last entry serves label -1
    number[common] = torch.arange(len(common))
    kept = (number[label.clamp(min=-1)] >= 0).nonzero()[:, 0]
    kept = kept[torch.argsort(fold_of_sentence[sentence[kept]], stable=True)]
    used = int((torch.bincount(sentence[kept]) > 0).sum())
    if len(common) < 2 or len(kept) < FEWEST_WORDS or used < FEWEST_SENTENCES:
        raise Untestable(
            f"{task}: {len(common)} classes with at least {RARE_WORDS} words, {len(kept)} words, {used} sentences; a "
            f"reading needs 2 classes, {FEWEST_WORDS} words and {FEWEST_SENTENCES} sentences. Raise probing.sentences or "
            "add validation text."
        )
    with one_thread():
        chosen = features[:, kept].float()
        centre = chosen.mean(1, keepdim=True)
        chosen -= centre
        spread = torch.linalg.vector_norm(chosen, dim=1, keepdim=True) / len(kept) ** 0.5
        if not spread.isfinite().all():
            raise Untestable(f"{task}: activations are not finite. Look at the loss, and probe an earlier checkpoint.")
        # A dimension that never moves is left at zero: dividing it by its rounding noise would make a feature of it.
        chosen *= torch.where(spread > 1e-6 * centre.abs() + 1e-30, 1 / spread.clamp(min=1e-30), torch.zeros(()))
    return Problem(
        task=task,
        features=chosen,
        layers=tuple(range(len(features)) if layers is None else layers),
        label=number[label[kept]],
        fold=fold_of_sentence[sentence[kept]],
        sentence=sentence[kept],
        sentences=sentences,
        folds=int(fold_of_sentence.max()) + 1,
        classes=tuple(classes[i] for i in common.tolist()),
        rare=rare,
    )


def usable_bits(problem: Problem) -> Decoding:
    """Bits per word that a linear probe reads from each layer alone.

    Example:
        >>> folds = assign_folds(len(sentences), 5)                              # doctest: +SKIP
        >>> usable_bits(prepare("class.next", h, label, sentence, folds, ("content", "function"))).bits  # doctest: +SKIP
    """
    with one_thread():
        read = [problem.read_alone(index) for index in range(len(problem.layers))]
    return _decoding(problem, _base_loss(problem) - torch.stack([loss for loss, _ in read]), [p for _, p in read])


def conditional_bits(problem: Problem) -> Decoding:
    """Bits per word that [h_0; h_l] gives beyond h_0 alone, for each layer; `problem.layers` must begin with 0.

    h_0 keeps the penalty that is best for h_0 alone, and h_l has its own, up to infinity (h_l unused). So the first
    probe is a member of the second family, and at layer 0, where h_l repeats h_0, the gain is 0 but for estimation.

    Raises:
        Untestable: layer 0 is not there.
    """
    if problem.layers[0] != 0:
        raise Untestable(f"{problem.task}: a reading given layer 0 needs layer 0. Add it to the layers collected.")
    with one_thread():
        base, held = problem.read_alone(0)
        family = Given(problem.blocks[0], problem.counts, held)
        read = [_read(problem, family.beside(block)) for block in problem.blocks]
    return _decoding(problem, base - torch.stack([loss for loss, _ in read]), [p for _, p in read])


@contextmanager
def one_thread() -> Iterator[None]:
    """Factors of a few hundred rows take longer on two threads than on one, ten times so on a busy machine; and sums
    made by one thread are the same on every number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _decoding(problem: Problem, gain: Float[Tensor, "layer word"], penalty: Sequence[Tensor]) -> Decoding:
    per_sentence = torch.zeros(len(gain), problem.sentences, dtype=torch.float64)
    per_sentence.index_add_(1, problem.sentence, gain.double())
    return Decoding(
        task=problem.task,
        layers=problem.layers,
        gain=per_sentence,
        words=torch.bincount(problem.sentence, minlength=problem.sentences),
        base_bits=float(_base_loss(problem).mean()),
        penalty=torch.stack(list(penalty)),
        classes=problem.classes,
        rare=problem.rare,
    )


def _common_classes(label: Tensor, sentence: Tensor, classes: Sequence[str]) -> tuple[Tensor, dict[str, int]]:
    labelled = label >= 0
    words = torch.bincount(label[labelled], minlength=len(classes))
    sentences = int(sentence.max()) + 1 if len(sentence) else 1
    pairs = torch.bincount(label[labelled] * sentences + sentence[labelled], minlength=len(classes) * sentences)
    in_sentences = (pairs.view(len(classes), sentences) > 0).sum(1)
    common = (words >= RARE_WORDS) & (in_sentences >= RARE_SENTENCES)
    rare = {classes[i]: int(words[i]) for i in (~common & (words > 0)).nonzero()[:, 0].tolist()}
    return common.nonzero()[:, 0], rare


def _read(problem: Problem, family: Alone | Given) -> tuple[Float[Tensor, "word"], Float[Tensor, "fold"]]:
    """Out-of-fold loss of each word in bits, and the chosen penalty of each fold.

    With fold f held out, one or two other folds (`_partners`) serve in turn as inner test sets, for the model of the
    remaining folds. A pair serves both its folds, so five folds cost five inner training sets or three, not 20.
    """
    loss = torch.empty(len(problem.label))
    chosen = torch.empty(problem.folds, dtype=torch.float64)
    memory: dict[tuple[int, int, float], Discriminant] = {}
    floor = 1 / len(problem.label)
    for fold in range(problem.folds):
        prior = _prior(problem.counts, fold)
        scores, labels = [], []
        for other in _partners(problem, fold):
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
        chosen[fold] = family.grid[best]
        rows = problem.rows[fold]
        final = family.solve((fold,), fold, family.grid[best : best + 1])
        score = final.scores([block.features[rows] for block in family.blocks])[0]
        loss[rows] = log_loss_bits(slope * score + offset[:, None], problem.label[rows], prior, floor)
    return loss, chosen


def _partners(problem: Problem, fold: int) -> list[int]:
    """The inner test folds of an outer fold: its two neighbours in the ring, or one where a fold alone has words enough."""
    if int(problem.counts.sum(1).min()) < ENOUGH_WORDS:
        return sorted({(fold - 1) % problem.folds, (fold + 1) % problem.folds})
    return [fold - 1] if fold % 2 else [(fold + 1) % problem.folds]


def _prior(counts: Float[Tensor, "fold class"], fold: int) -> Float[Tensor, "class"]:
    """Log class shares of the training fold, half a word added to each, so that no class is impossible."""
    n_class = counts.sum(0) - counts[fold] + 0.5
    return (n_class / n_class.sum()).log().float()


def _base_loss(problem: Problem) -> Float[Tensor, "word"]:
    priors = torch.stack([_prior(problem.counts, fold) for fold in range(problem.folds)])
    return -priors[problem.fold, problem.label] / torch.log(torch.tensor(2.0))
