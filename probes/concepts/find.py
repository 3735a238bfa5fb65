"""A concept from labelled activations of one layer: its subspace, a probe inside it, and how well both are known.

Pure functions from activations to numbers. Which text, which layer and what else is told of a concept are for others
(`train.concepts`, `describe`, `costs`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.concepts.subspace import NoSubspace, Span, degrees, overlap, principal_cosines, random_subspace, span
from probes.layers.discriminant import Alone, Block
from probes.layers.fit import Decoding, Problem, Read, base_loss, decoding, log_prior, one_thread, prepare, read_alone

SPLITS = 20  # into halves; each needs one span a half
ENOUGH_TO_SPLIT = 8  # documents; with fewer, a half is one or two texts and sentences are split instead


@dataclass(frozen=True)
class Probe:
    """score_k = weight_k · Vᵀ(h − mean) + bias_k; softmax of the scores are the class probabilities.

    Attributes:
        decoding: usable bits out of fold: V, penalty and calibration come from the training folds alone.
    """

    weight: Float[Tensor, "class k"]
    bias: Float[Tensor, "class"]
    decoding: Decoding


@dataclass(frozen=True)
class NoiseFloor:
    """How far apart two spans of the same labels lie by chance, from halves of the text; and random subspaces beside them.

    Halves have half the words, so a span of all words is known better than this: what moves less than the floor has not
    been shown to move.

    Attributes:
        unit: what was kept whole, "document" or "sentence"; `units` how many there were.
        overlaps: mean squared cosine of the two halves' subspaces, by split.
        angles: degrees, principal angles of the two halves, by split; NaN where a half has fewer dimensions.
        random: overlap of V with random subspaces of its rank, as many as splits.
    """

    unit: str
    units: int
    overlaps: Float[Tensor, "split"]
    angles: Float[Tensor, "split k"]
    random: Float[Tensor, "split"]

    @property
    def overlap(self) -> float:
        """The 5 % quantile over splits: a subspace that overlaps V less than this has moved."""
        return float(torch.quantile(self.overlaps, 0.05))

    def to_dict(self) -> dict[str, Any]:
        found = self.angles.nanmedian(dim=0).values
        return {
            "splits": len(self.overlaps),
            "unit": self.unit,
            "units": self.units,
            "overlap": self.overlap,
            "overlap_median": float(self.overlaps.median()),
            "angles_degrees": found.tolist(),
            "random_overlap": float(self.random.mean()),
            "random_overlap_high": float(torch.quantile(self.random, 0.95)),
        }


@dataclass(frozen=True)
class Found:
    """A concept at one layer.

    Attributes:
        mean: of the stream over the labelled words.
        penalty: the median of what the folds chose.
        counts: words per class; `rare` classes were left out, with their words.
    """

    span: Span
    mean: Float[Tensor, "d"]
    probe: Probe
    penalty: float
    classes: tuple[str, ...]
    counts: tuple[int, ...]
    rare: Mapping[str, int]
    floor: NoiseFloor

    @property
    def basis(self) -> Float[Tensor, "d k"]:
        return self.span.basis


def find(
    values: Float[Tensor, "word d"],
    label: Int[Tensor, "word"],
    sentence: Int[Tensor, "word"],
    fold_of_sentence: Int[Tensor, "sentence"],
    classes: Sequence[str],
    *,
    unit: Int[Tensor, "sentence"],
    task: str = "concept",
    splits: int = SPLITS,
    seed: int = 0,
) -> Found:
    """The subspace of a label at one layer, V = orth[differences of class means, Σ⁻¹ · differences].

    Args:
        values: activations; label: class per word, negative = none.
        sentence: per word, an index into `fold_of_sentence` (`fit.assign_folds`).
        unit: per sentence, its document.
        splits: into halves, for the noise floor.

    Raises:
        Untestable: fewer than two classes with 20 words in 10 sentences, 100 words or 30 sentences.
        NoSubspace: equal class means, or as many columns as dimensions.
    """
    problem = prepare(task, values[None], label, sentence, fold_of_sentence, classes)
    mine = values[problem.word].double()
    chosen = read_alone(problem, 0).penalty
    penalty = float(chosen.median())
    with one_thread():
        found, mean = span(mine, problem.label, penalty), mine.mean(0)
        probe = _probe(problem, mine, fold_of_sentence, found.basis, chosen)
        floor = noise_floor(mine, problem.label, unit[problem.sentence], problem.sentence, penalty, splits, seed)
    counts = torch.bincount(problem.label, minlength=len(problem.classes)).tolist()
    return Found(found, mean, probe, penalty, problem.classes, tuple(counts), problem.rare, floor)


def noise_floor(
    values: Float[Tensor, "word d"],
    label: Int[Tensor, "word"],
    document: Int[Tensor, "word"],
    sentence: Int[Tensor, "word"],
    penalty: float,
    splits: int = SPLITS,
    seed: int = 0,
) -> NoiseFloor:
    """Spans of two halves of the text, split several times by whole documents (sentences, where documents are few).

    A half that lacks a class has fewer dimensions; what is missing counts as no overlap.

    Raises:
        NoSubspace: fewer than 2 units, or fewer than 2 classes in a half in every split.
    """
    whole = span(values, label, penalty)
    by_document = len(torch.unique(document)) >= ENOUGH_TO_SPLIT
    unit = torch.unique(document if by_document else sentence, return_inverse=True)[1]
    units = int(unit.max()) + 1
    generator = torch.Generator().manual_seed(seed % 2**63)
    overlaps: list[float] = []
    angles = torch.full((splits, whole.rank), torch.nan, dtype=torch.float64)
    for split in range(splits):
        first = torch.randperm(units, generator=generator)[unit] < units // 2
        try:
            a, b = (span(values[half], label[half], penalty).basis for half in (first, ~first))
        except NoSubspace:  # all words of a class lie in one half: this split knows nothing of the difference
            overlaps.append(0.0)
            continue
        cosines = principal_cosines(a, b)[: whole.rank]
        angles[split, : len(cosines)] = degrees(cosines)
        overlaps.append(overlap(a, b))
    if not any(overlaps):
        raise NoSubspace(
            f"no half of {units} {'documents' if by_document else 'sentences'} has words of two classes, so how well the "
            "subspace is known cannot be told. Use more text."
        )
    drawn = [overlap(whole.basis, random_subspace(len(whole.basis), whole.rank, generator)) for _ in range(splits)]
    name = "document" if by_document else "sentence"
    return NoiseFloor(name, units, torch.tensor(overlaps).double(), angles, torch.tensor(drawn, dtype=torch.float64))


def _probe(
    problem: Problem,
    values: Float[Tensor, "word d"],
    fold_of_sentence: Int[Tensor, "sentence"],
    basis: Float[Tensor, "d k"],
    penalties: Float[Tensor, "fold"],
) -> Probe:
    """A discriminant of the coordinates, calibrated; and its bits, with V found anew without each fold.

    The temperature of a fold is fitted on words that its V has seen, so the bits err to the low side.
    """

    def of(coordinates: Tensor) -> Problem:
        """The same words in the same order, k wide."""
        return prepare(
            problem.task, coordinates.float()[None], problem.label, problem.sentence, fold_of_sentence, problem.classes
        )

    mean = values.mean(0)
    loss = torch.empty(len(problem.label))
    for fold, rows in enumerate(problem.rows):
        training = torch.ones(len(problem.label), dtype=torch.bool)
        training[rows] = False
        other = span(values[training], problem.label[training], float(penalties[fold])).basis
        loss[rows] = read_alone(of((values - mean) @ other), 0).loss[rows]
    read = read_alone(of((values - mean) @ basis), 0)
    found = decoding(problem, base_loss(problem), [Read(loss, penalties, read.slope, read.offset)])
    weight, bias = _discriminant(problem, (values - mean) @ basis, float(read.penalty.median()))
    slope = read.slope.double().mean()
    offset = read.offset.double().mean(0) + log_prior(problem.counts.sum(0)).double()
    return Probe(slope * weight, slope * bias + offset, found)


def _discriminant(
    problem: Problem, coordinates: Float[Tensor, "word k"], penalty: float
) -> tuple[Float[Tensor, "class k"], Float[Tensor, "class"]]:
    """Fitted on all words."""
    onehot = torch.nn.functional.one_hot(problem.label, len(problem.classes)).double()
    block = Block.of(coordinates, [slice(0, len(coordinates))], onehot)
    grid = torch.tensor([penalty], dtype=torch.float64)
    fitted = Alone(block, onehot.sum(0)[None]).solve((), 0, grid)
    return fitted.weight[0][0].T.double(), fitted.bias[0].double()
