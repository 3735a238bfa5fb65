"""One label in one checkpoint: what is kept of it so that shimmer can be told later, when the activations are gone.

Out-of-fold scores need the activations, so their gains (from which bits and standard errors) and the decisions of two
half probes are kept as they are; everything else is kept as sums, from which any closed-form probe can be fitted again.
Nothing here compares checkpoints: `track` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.layers.collect import Harvest
from probes.layers.discriminant import Alone, Block, Discriminant
from probes.layers.fit import Read, log_prior, read_alone, usable_bits
from probes.layers.labels import NO_LABEL
from probes.layers.problem import Problem, Untestable, one_thread, prepare
from probes.layers.statistics import BadStatistics, Statistics, accumulate

HALVES = 2
BY_LAYER = ("gain", "penalty", "decision", "layers", "class_sum", "centred_moment")  # stored tensors, a slice a layer
_NONE = 255  # a word without a decision, in the stored bytes


@dataclass(frozen=True)
class Frame:
    """How the words of a probe set are divided; the same at every checkpoint.

    Attributes:
        sentence: per word.
        fold, block, unit: per sentence; blocks from `statistics.assign_blocks`, units are what is independent (documents
            where there are enough of them).
    """

    sentence: Int[Tensor, "word"]
    fold: Int[Tensor, "sentence"]
    block: Int[Tensor, "sentence"]
    unit: Int[Tensor, "sentence"]

    @property
    def half(self) -> Int[Tensor, "word"]:
        """Odd and even blocks, so that both halves have words of every fold and share no unit."""
        return (self.block % HALVES)[self.sentence]


@dataclass(frozen=True)
class Snapshot:
    """One label at some layers of one checkpoint.

    Attributes:
        classes: the common ones, those that count.
        gain: out-of-fold usable bits summed over the words of a sentence.
        words: labelled words per sentence.
        penalty: of the probe, a share of n, by layer: the median over folds.
        statistics: pooled sums, of raw activations (or of coordinates, for a concept).
        decision: of each word by the probes of either half, out of fold; negative = the word has no label.
        projection: coordinates Vᵀ(h − mean) of every word, for a concept.
    """

    name: str
    layers: tuple[int, ...]
    classes: tuple[str, ...]
    gain: Float[Tensor, "layer sentence"]
    words: Int[Tensor, "sentence"]
    penalty: Float[Tensor, "layer"]
    statistics: Statistics
    decision: Int[Tensor, "layer half word"]
    projection: Float[Tensor, "word k"] | None = None

    @property
    def n(self) -> int:
        return int(self.words.sum())

    def bits(self) -> Float[Tensor, "layer"]:
        """Usable bits per word, out of fold."""
        return self.gain.double().sum(1) / self.words.sum()

    def only(self, layer: int) -> Snapshot:
        """Of one layer."""
        at = self.layers.index(layer)
        sums = self.statistics
        return replace(
            self,
            layers=(layer,),
            gain=self.gain[at : at + 1],
            penalty=self.penalty[at : at + 1],
            decision=self.decision[at : at + 1],
            statistics=Statistics((layer,), sums.count, sums.class_sum[at : at + 1], sums.second_moment[at : at + 1]),
        )

    def to_tensors(self) -> dict[str, Tensor]:
        """Plain tensors for a safetensors file; names, layers and classes go into `card`."""
        tensors: dict[str, Tensor] = {
            "gain": self.gain.float(),
            "words": self.words.to(torch.int32),
            "penalty": self.penalty,
            "decision": torch.where(self.decision < 0, _NONE, self.decision).to(torch.uint8),
            **self.statistics.to_tensors(),
        }
        return tensors if self.projection is None else tensors | {"projection": self.projection.float()}

    def card(self) -> dict[str, Any]:
        return {"layers": list(self.layers), "classes": list(self.classes)}

    @classmethod
    def from_tensors(cls, name: str, card: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Snapshot:
        """The inverse of `to_tensors` and `card`.

        Raises:
            BadStatistics: something is missing or does not belong together.
        """
        missing = {"gain", "words", "penalty", "decision"} - set(tensors) or {"layers", "classes"} - set(card)
        if missing:
            raise BadStatistics(f"statistics of {name}: the file has no {', '.join(sorted(missing))}. Delete it.")
        decision = tensors["decision"].long()
        found = cls(
            name=name,
            layers=tuple(card["layers"]),
            classes=tuple(card["classes"]),
            gain=tensors["gain"],
            words=tensors["words"].long(),
            penalty=tensors["penalty"],
            statistics=Statistics.from_tensors(tensors),
            decision=torch.where(decision == _NONE, NO_LABEL, decision),
            projection=tensors.get("projection"),
        )
        shape = found.gain.shape == (len(found.layers), len(found.words))
        if not shape or found.statistics.layers != found.layers or len(found.decision) != len(found.layers):
            raise BadStatistics(f"statistics of {name}: gains, decisions and sums are of different layers. Delete it.")
        return found


def snapshot(
    name: str,
    values: Float[Tensor, "layer word d"],
    layers: Sequence[int],
    label: Int[Tensor, "word"],
    classes: Sequence[str],
    frame: Frame,
    kept: Bool[Tensor, "word"] | None = None,
    projection: Float[Tensor, "word k"] | None = None,
) -> Snapshot:
    """Read one label in one checkpoint.

    Args:
        values: activations at the words of the probe set, or coordinates in a concept's subspace.
        label: class index per word; negative = none.
        kept: False for words to leave out (`Activations.kept`).

    Raises:
        Untestable: too few words, sentences or classes; or a half of the blocks has no words in some training set.
    """
    with one_thread():
        usable = label if kept is None else torch.where(kept, label, NO_LABEL)
        problem = prepare(name, values, usable, frame.sentence, frame.fold, classes, layers)
        found = usable_bits(problem)
        known = torch.full((len(label),), NO_LABEL)
        known[problem.word] = problem.label
        decision = torch.full((len(problem.layers), HALVES, len(label)), NO_LABEL)
        half = frame.half[problem.word]
        for index in range(len(problem.layers)):
            decision[index][:, problem.word] = _half_decisions(problem, index, half)
        everything = Harvest(torch.arange(len(label)), values.float())
        block = frame.block[frame.sentence]
        sums = accumulate([everything], problem.layers, known, len(problem.classes), block)
    return Snapshot(
        name=name,
        layers=problem.layers,
        classes=problem.classes,
        gain=found.gain.float(),
        words=found.words,
        penalty=found.penalty.median(1).values,
        statistics=sums.pooled(),
        decision=decision,
        projection=projection,
    )


def standard_error(
    gain: Float[Tensor, "*layer sentence"], words: Int[Tensor, "sentence"], unit: Int[Tensor, "sentence"]
) -> Float[Tensor, "*layer"]:
    """Standard error of bits per word over independent units: the ratio estimator's, in closed form (Cochran 1977, ch. 6).

    Of a difference of two checkpoints' gains, it is the standard error of the paired difference.
    """
    number = torch.unique(unit, return_inverse=True)[1]
    units = int(number.max()) + 1
    size = torch.zeros(units, dtype=torch.float64).index_add_(0, number, words.double())
    total = torch.zeros(*gain.shape[:-1], units, dtype=torch.float64).index_add_(-1, number, gain.double())
    used = int((size > 0).sum())
    ratio = total.sum(-1, keepdim=True) / size.sum()
    spread = (total - ratio * size).square().sum(-1)
    found: Tensor = (spread * used / max(1, used - 1)).sqrt() / size.sum()
    return found


def refit(statistics: Statistics, index: int, penalty: float) -> Discriminant:
    """The shrinkage discriminant of one layer (by its place in `layers`), from stored sums alone.

    Its scores are those of the probe that would be fitted to the activations of all labelled words.
    """
    everything = Block(
        statistics.second_moment.new_empty(0, statistics.second_moment.shape[-1]),
        [],
        statistics.class_sum[index].sum(0, keepdim=True),
        statistics.second_moment[index].sum(0, keepdim=True),
    )
    with one_thread():
        return Alone(everything, statistics.count.sum(0, keepdim=True)).solve(
            (), 0, torch.tensor([penalty], dtype=torch.float64)
        )


def _half_decisions(problem: Problem, index: int, half: Int[Tensor, "word"]) -> Int[Tensor, "half word"]:
    """The class of each word by the probe of either half, fitted on the other folds' words of that half.

    Penalty, temperature and offsets are those that the whole training fold chose.
    """
    read: Read = read_alone(problem, index)
    group = HALVES * problem.fold + half
    order = torch.argsort(group, stable=True)
    size = torch.bincount(group, minlength=HALVES * problem.folds)
    ends = size.cumsum(0).tolist()
    rows = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
    onehot = torch.nn.functional.one_hot(problem.label, len(problem.classes)).float()
    block = Block.of(problem.features[index][order], rows, onehot[order])
    counts = torch.stack([onehot[order][one].double().sum(0) for one in rows])
    family = Alone(block, counts)
    found = torch.empty(HALVES, len(problem.label), dtype=torch.long)
    for fold, words in enumerate(problem.rows):
        prior = log_prior(problem.counts.sum(0) - problem.counts[fold])
        for one in range(HALVES):
            used = [HALVES * f + one for f in range(problem.folds) if f != fold]
            if float(counts[used].sum()) < len(problem.classes):
                raise Untestable(f"{problem.task}: half of the blocks hold hardly a labelled word. Use more sentences.")
            left_out = tuple(g for g in range(len(rows)) if g not in used)
            probe = family.solve(left_out, fold, read.penalty[fold : fold + 1])
            score = probe.scores([problem.features[index][words]])[0]
            found[one, words] = (read.slope[fold] * score + (read.offset[fold] + prior)[:, None]).argmax(0)
    return found
