"""Shimmer: how a label's reading at one layer moves over checkpoints, sampling noise taken off where it can be.

From snapshots of the same words at several steps: bits with their error, the direction's turning, decisions that changed,
and how often the reading comes and goes. Two probes on the same words share their noise, so halves are crossed: the
direction or decision of one half of the blocks at one checkpoint against the other half's at the next, and the two halves
of one checkpoint for the noise. Nothing here touches a model, a file or a figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.concepts.change_points import ChangePoint, change_points
from probes.concepts.geometry import Direction, direction, turn
from probes.concepts.snapshot import HALVES, Snapshot, standard_error
from probes.concepts.states import WINDOW, Z95, Life, State, life

NAN = math.nan


@dataclass(frozen=True)
class Point:
    """One checkpoint of a track; what compares is against the checkpoint before, NaN at the first.

    Attributes:
        bits, se: usable bits per word, out of fold.
        se_step: standard error of the change of bits, the words being the same; NaN where unknown.
        reliability: cosine of the two halves' directions (differences of class means).
        cosine: of the direction with the one before, disattenuated, at most 1; NaN where a direction is mostly noise.
        cosine_reader: the same of the probe's directions, in the metric of the words' spread.
        turning: degrees per doubling of the step, so that unequal gaps can be compared.
        to_reference: disattenuated cosine with the reference checkpoint.
        norm, norm_ratio: length of the direction, noise taken off, and over the one before.
        churn: share of words that the two checkpoints' half probes decide differently.
        excess_churn: that less what the halves of one checkpoint differ by.
        flipped: the direction turned round, by more than three standard deviations of a random cosine.
    """

    step: int
    bits: float
    se: float
    state: State
    se_step: float = NAN
    reliability: float = NAN
    cosine: float = NAN
    cosine_reader: float = NAN
    turning: float = NAN
    to_reference: float = NAN
    norm: float = NAN
    norm_ratio: float = NAN
    churn: float = NAN
    excess_churn: float = NAN
    flipped: bool = False

    @property
    def low(self) -> float:
        return self.bits - Z95 * self.se

    @property
    def high(self) -> float:
        return self.bits + Z95 * self.se


@dataclass(frozen=True)
class Track:
    """One label at one layer over checkpoints.

    Attributes:
        flicker: F over the newest `WINDOW` checkpoints, bits²; below zero = less movement than noise explains.
        von_neumann: η over the same; 2 = pure flicker, towards 0 = trend.
        births, deaths, flips: steps.
    """

    name: str
    layer: int
    n: int
    points: tuple[Point, ...]
    flicker: float
    von_neumann: float
    births: tuple[int, ...]
    deaths: tuple[int, ...]
    flips: tuple[int, ...]
    change_points: tuple[ChangePoint, ...]

    @property
    def state(self) -> State:
        return self.points[-1].state

    @property
    def newest(self) -> Point:
        return self.points[-1]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: numbers that are not there are null."""
        found: dict[str, Any] = plain(asdict(self) | {"state": self.state})
        return found


def track(
    snapshots: Sequence[tuple[int, Snapshot]], layer: int, unit: Int[Tensor, "sentence"], reference: int | None = None
) -> Track:
    """Follow one label at one layer.

    Args:
        snapshots: (step, snapshot) of one name, ascending by step, at least one; all of the same probe set.
        layer: one that every snapshot has.
        unit: per sentence, what is independent (`Frame.unit`).
        reference: the step that directions are also compared with; None = the first.
    """
    steps = [step for step, _ in snapshots]
    found = [one for _, one in snapshots]
    at = [one.layers.index(layer) for one in found]
    bits = [float(one.bits()[i]) for one, i in zip(found, at, strict=True)]
    se = [float(standard_error(one.gain[i], one.words, unit)) for one, i in zip(found, at, strict=True)]
    directions = [
        direction(one.statistics, i, one.classes, float(one.penalty[i])) for one, i in zip(found, at, strict=True)
    ]
    far = directions[steps.index(reference)] if reference in steps else directions[0]
    lived = life(steps, bits, se)
    points = [Point(steps[0], bits[0], se[0], lived.states[0], **_alone(directions[0], far))]
    for i in range(1, len(steps)):
        gap = math.log2((1 + steps[i]) / (1 + steps[i - 1]))
        points.append(
            Point(
                steps[i],
                bits[i],
                se[i],
                lived.states[i],
                se_step=_paired(found[i - 1], at[i - 1], found[i], at[i], unit),
                **_alone(directions[i], far),
                **_turned(directions[i - 1], directions[i], gap),
                **_churned(found[i - 1].decision[at[i - 1]], found[i].decision[at[i]]),
            )
        )
    return assembled(found[-1].name, layer, found[-1].n, points, lived)


def assembled(name: str, layer: int, n: int, points: Sequence[Point], lived: Life) -> Track:
    """A track from its points: what is told over a window or over all of them."""
    steps, bits = [p.step for p in points], [p.bits for p in points]
    window = points[-WINDOW:]
    return Track(
        name=name,
        layer=layer,
        n=n,
        points=tuple(points),
        flicker=flicker([p.bits for p in window], [p.se for p in window], [p.se_step for p in window[1:]]),
        von_neumann=von_neumann([p.bits for p in window]),
        births=tuple(steps[i] for i in lived.births),
        deaths=tuple(steps[i] for i in lived.deaths),
        flips=tuple(p.step for p in points if p.flipped),
        change_points=change_points(steps, bits),
    )


def flicker(bits: Sequence[float], se: Sequence[float], se_step: Sequence[float] = ()) -> float:
    """F = ½ Σ(x_i − x_{i−1})² / (W − 1) − noise, in bits²: movement from one checkpoint to the next beyond noise.

    Independent readings have a noise of mean SE². Readings of the same words share most of theirs, so where the error of
    every change is known, half its mean square is the noise; the two agree when nothing is shared.

    >>> round(flicker([0.1, 0.3, 0.1], [0.0, 0.0, 0.0]), 3)
    0.02
    """
    if len(bits) < 2:
        return NAN
    moved = sum((b - a) ** 2 for a, b in pairwise(bits)) / (2 * (len(bits) - 1))
    paired = len(se_step) == len(bits) - 1 and all(math.isfinite(one) for one in se_step)
    noise = fmean(one**2 for one in se_step) / 2 if paired else fmean(one**2 for one in se)
    return moved - noise


def von_neumann(bits: Sequence[float]) -> float:
    """η = Σ(x_i − x_{i−1})² / Σ(x_i − x̄)² (von Neumann 1941); NaN for fewer than 3 values or a constant."""
    centre = fmean(bits)
    spread = sum((x - centre) ** 2 for x in bits)
    if len(bits) < 3 or not spread > 0:
        return NAN
    return sum((b - a) ** 2 for a, b in pairwise(bits)) / spread


def shimmer_index(tracks: Sequence[Track]) -> list[float]:
    """√max(F, 0) of each track over the spread of all tracks' newest bits: 1 = it moves between two checkpoints as much as
    features differ from each other. NaN with fewer than two tracks, or where they are all alike."""
    spread = stdev([one.newest.bits for one in tracks]) if len(tracks) > 1 else 0.0
    return [math.sqrt(max(one.flicker, 0.0)) / spread if spread > 0 else NAN for one in tracks]


def _paired(before: Snapshot, i: int, after: Snapshot, j: int, unit: Int[Tensor, "sentence"]) -> float:
    if not torch.equal(before.words, after.words):  # an outlier more or less: not the same words
        return NAN
    return float(standard_error(after.gain[j].double() - before.gain[i].double(), after.words, unit))


def _alone(now: Direction, reference: Direction) -> Mapping[str, Any]:
    to_reference = turn(reference, now).cosine
    return {"reliability": now.reliability, "norm": now.norm, "to_reference": to_reference}


def _turned(before: Direction, now: Direction, gap: float) -> Mapping[str, Any]:
    found = turn(before, now)
    return {
        "cosine": found.cosine,
        "cosine_reader": found.cosine_reader,
        "turning": math.degrees(math.acos(max(-1.0, found.cosine))) / gap if math.isfinite(found.cosine) else NAN,
        "norm_ratio": now.norm / before.norm if before.norm > 0 else NAN,
        "flipped": found.flipped,
    }


def _churned(before: Int[Tensor, "half word"], now: Int[Tensor, "half word"]) -> Mapping[str, Any]:
    """Halves crossed between the checkpoints, less halves crossed within each."""
    both = (before >= 0).all(0) & (now >= 0).all(0)
    if not bool(both.any()):
        return {"churn": NAN, "excess_churn": NAN}

    def differ(a: Tensor, b: Tensor) -> float:
        share: Float[Tensor, ""] = (a[both] != b[both]).double().mean()
        return float(share)

    assert HALVES == 2  # crossing is of two
    across = (differ(before[0], now[1]) + differ(before[1], now[0])) / 2
    within = (differ(before[0], before[1]) + differ(now[0], now[1])) / 2
    return {"churn": across, "excess_churn": across - within}


def plain(value: Any) -> Any:
    """JSON-able: numbers that are not finite become None."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
