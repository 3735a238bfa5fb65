"""Which way a label points at one layer, from stored sums: its length and direction with noise taken off, and its turns.

A direction is the difference of class means; with K classes, the K means about their average, as one long vector. The
label gives it its sign. The probe's own direction Σ⁻¹δ is compared in the metric Σ, where its cosine is the correlation of
the two probes' scores, and equals that of the δ in the metric Σ⁻¹.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from probes.layers.discriminant import Block, Moments
from probes.layers.problem import one_thread
from probes.layers.statistics import Statistics

NOISE_SDS = 3.0  # an inner product within so many standard deviations of sampling noise says nothing


@dataclass(frozen=True)
class Direction:
    """Of one label at one layer.

    Attributes:
        classes: their names; directions of other classes are not compared.
        halves: class means about their average, from even and from odd blocks.
        counts: words per class in either half.
        within: covariance within classes, raw units; `deviation`: of each dimension; `penalty`: of the probe.
    """

    classes: tuple[str, ...]
    halves: Float[Tensor, "half class d"]
    counts: Float[Tensor, "half class"]
    within: Float[Tensor, "d d"]
    deviation: Float[Tensor, "d"]
    penalty: float

    @cached_property
    def reliability(self) -> float:
        """Cosine of the two halves; NaN where a half lacks a class."""
        return _cosine(self.halves[0], self.halves[1])

    @cached_property
    def norm(self) -> float:
        """Length, noise taken off: the halves' noises are independent, so their inner product has none."""
        return math.sqrt(max(0.0, float((self.halves[0] * self.halves[1]).sum())))

    @cached_property
    def root(self) -> Float[Tensor, "d d"]:
        """L with L Lᵀ = Σ, shrunk as the probe's."""
        ridge = torch.diag(self.deviation.square() * self.penalty)
        factor: Tensor = torch.linalg.cholesky(self.within + ridge)
        return factor


@dataclass(frozen=True)
class Turn:
    """From one checkpoint's direction to another's.

    Attributes:
        cosine: s / √(r r′), at most 1: s of opposite halves (different sentences, so their noises are independent), r and
            r′ of the halves of one checkpoint. NaN where either direction is within noise of being none.
        cosine_reader: the same in the metric Σ⁻¹ of the first.
        flipped: s < 0 by more than `NOISE_SDS` standard deviations of what sampling noise alone would give.
    """

    cosine: float
    cosine_reader: float
    flipped: bool


def direction(statistics: Statistics, index: int, classes: tuple[str, ...], penalty: float) -> Direction:
    """The direction of one layer (by its place in `layers`).

    Args:
        statistics: pooled or not; sums of classes by block.
        classes: what its classes are called.
        penalty: of the probe, for the metric.
    """
    means, counts = [], []
    for half in (0, 1):
        count = statistics.count[half::2].sum(0)
        mean = statistics.class_sum[index, half::2].sum(0) / count[:, None]  # NaN where a class has no word
        means.append(mean - mean.mean(0))
        counts.append(count)
    everything = Block(
        statistics.second_moment.new_empty(0, 0),
        [],
        statistics.class_sum[index].sum(0, keepdim=True),
        statistics.second_moment[index].sum(0, keepdim=True),
    )
    with one_thread():
        moments = Moments.of(everything, statistics.count.sum(0, keepdim=True), ())
        within = moments.within * moments.deviation * moments.deviation[:, None]
    return Direction(classes, torch.stack(means), torch.stack(counts), within, moments.deviation, penalty)


def turn(before: Direction, now: Direction) -> Turn:
    """How one direction lies to another; NaN where they are of different classes."""
    if before.classes != now.classes:
        return Turn(math.nan, math.nan, False)
    with one_thread():
        white = [torch.linalg.solve_triangular(before.root, d.halves.mT, upper=False).mT for d in (before, now)]
        crossed = (before.halves * now.halves.flip(0)).sum() / 2
        around = math.sqrt(before.within.shape[0])  # √tr(ΣΣ′) where Σ = 1
        return Turn(
            cosine=_disattenuated(before.halves, now.halves, _noise(before, before), _noise(now, now)),
            cosine_reader=_disattenuated(
                white[0], white[1], around * _scarcity(before, before), around * _scarcity(now, now)
            ),
            flipped=float(crossed) < -NOISE_SDS * _noise(before, now),
        )


def _noise(a: Direction, b: Direction) -> float:
    """Standard deviation of the inner product of one half's class means and the other half's, were both noise alone."""
    return math.sqrt(float((a.within * b.within).sum())) * _scarcity(a, b)


def _scarcity(a: Direction, b: Direction) -> float:
    """That for words of one dimension and unit variance: √tr(S S′), S the covariance of the K means about their average."""
    classes = len(a.classes)
    about = torch.eye(classes, dtype=torch.float64) - 1 / classes
    spread = [about @ torch.diag(1 / count.double()) @ about for count in (a.counts[0], b.counts[1])]
    return math.sqrt(float((spread[0] * spread[1]).sum()))


def _disattenuated(
    a: Float[Tensor, "half class d"], b: Float[Tensor, "half class d"], noise_a: float, noise_b: float
) -> float:
    """NaN where a direction is within noise of being none, or a half lacks a class."""
    clear = all(float((d[0] * d[1]).sum()) > NOISE_SDS * noise for d, noise in ((a, noise_a), (b, noise_b)))
    if not clear:
        return math.nan
    crossed = (_cosine(a[0], b[1]) + _cosine(a[1], b[0])) / 2
    return min(1.0, crossed / math.sqrt(_cosine(a[0], a[1]) * _cosine(b[0], b[1])))


def _cosine(a: Tensor, b: Tensor) -> float:
    length = float(a.norm() * b.norm())
    return float((a * b).sum()) / length if length > 0 else math.nan
