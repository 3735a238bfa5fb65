"""Where along training a reading's level changes at once: exact segmentation by squared error, with its stability.

Minimises Σ(x − segment mean)² + a penalty of 2σ² d ln T per change, with d = 1 level that it adds, by PELT (Killick et al.
2012, arXiv:1101.1438) as `ruptures` has it; its linear kernel is that cost, in C, which the bootstrap's 200 series need.
No torch: the app draws change points too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from probes.concepts.states import LEAST_CHANGE

MIN_SIZE = 3  # checkpoints in a segment
DIMENSIONS = 1.0  # d of the penalty 2σ² d ln T: one level a segment
NEAR = 0.25  # doublings of the step: checkpoints closer than that are one place on the axis, the mean of their readings
REPLICATES = 200
SMALLEST = 1e-12  # penalty of a series without noise: ruptures asks for one above 0


@dataclass(frozen=True)
class ChangePoint:
    """A new level begins.

    Attributes:
        step: the first checkpoint of the new level; `before`: the last of the old one.
        rise: new level less old, in the unit of the series.
        stability: share of bootstrap series with a change here, give or take one place.
    """

    step: int
    before: int
    rise: float
    stability: float


def change_points(steps: Sequence[int], values: Sequence[float], seed: int = 0) -> tuple[ChangePoint, ...]:
    """Change points of a series on the axis of log steps.

    Log-spaced checkpoints are places as they are; later, regular ones crowd together on that axis and are averaged. No
    value is interpolated: that would make neighbours alike, and every wiggle a change against so small a noise. A change of
    less than `LEAST_CHANGE` bits is not reported: where a reading hardly moves, as at layer 0, anything is beyond its noise.

    Args:
        steps: ascending.
        values: one per step; those that are not finite are left out.
        seed: of the bootstrap, which puts redrawn residuals on the levels that were found.
    """
    known = [(step, value) for step, value in zip(steps, values, strict=True) if math.isfinite(value)]
    places = _places(known)
    if len(places) < 2 * MIN_SIZE:
        return ()
    series = np.array([sum(v for _, v in place) / len(place) for place in places])
    penalty = 2 * noise(series) ** 2 * DIMENSIONS * math.log(len(series))
    found = segment(series, penalty)
    if not found:
        return ()
    ends = [0, *found, len(series)]
    level = np.concatenate([np.full(b - a, series[a:b].mean()) for a, b in pairwise(ends)])
    residual = series - level
    freedom = (len(series) / (len(series) - len(found) - 1)) ** 0.5
    drawn = np.random.default_rng(seed).integers(len(series), size=(REPLICATES, len(series)))
    redrawn = level + freedom * residual[drawn]
    again = [segment(one, penalty) for one in redrawn]
    return tuple(
        ChangePoint(
            step=places[at][0][0],
            before=places[at - 1][-1][0],
            rise=float(level[at] - level[at - 1]),
            stability=sum(any(abs(at - other) <= 1 for other in one) for one in again) / REPLICATES,
        )
        for at in found
        if abs(level[at] - level[at - 1]) >= LEAST_CHANGE
    )


def noise(series: Float[np.ndarray, "time"]) -> float:
    """Standard deviation of what is not level: MAD of the first differences / (√2 · 0.6745), blind to a few jumps."""
    steps = np.diff(series)
    return float(np.median(np.abs(steps - np.median(steps)))) / (2**0.5 * 0.6745)


def segment(series: Float[np.ndarray, "time"], penalty: float, min_size: int = MIN_SIZE) -> list[int]:
    """The best segmentation of a series: where new segments begin, ascending.

    >>> segment(np.array([0.0, 0, 0, 1, 1, 1]), 0.1)
    [3]
    """
    if len(series) < 2 * min_size:
        return []
    from ruptures import KernelCPD  # brings most of scipy: a third of what the app's first page waited for

    search = KernelCPD(kernel="linear", min_size=min_size).fit(series[:, None])
    return [int(at) for at in search.predict(pen=max(penalty, SMALLEST))[:-1]]


def _places(known: Sequence[tuple[int, float]]) -> list[list[tuple[int, float]]]:
    """Neighbours within `NEAR` doublings of the first of them, together."""
    places: list[list[tuple[int, float]]] = []
    for step, value in known:
        if places and math.log2((1 + step) / (1 + places[-1][0][0])) < NEAR:
            places[-1].append((step, value))
        else:
            places.append([(step, value)])
    return places
