"""Where a reading's level changes at once, for a process that loads no torch.

The method and every number of `probes.concepts.change_points`, which says where it is from; a test holds the two together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from probes.concepts.states import LEAST_CHANGE

MIN_SIZE, NEAR, REPLICATES, SMALLEST = 3, 0.25, 200, 1e-12  # as there
Json = dict[str, Any]


def changes(steps: Sequence[int], values: Sequence[float], seed: int = 0) -> list[Json]:
    """Change points of a series on the axis of log steps, as dictionaries of step, before, rise and stability.

    NumPy's legacy Mersenne Twister draws what torch's does, so the stability is the same one too.

    Args:
        steps: ascending.
        values: bits per word, one per step; those that are not finite are left out.
        seed: of the bootstrap, which puts redrawn residuals on the levels that were found.
    """
    places = _places([(step, value) for step, value in zip(steps, values, strict=True) if math.isfinite(value)])
    if len(places) < 2 * MIN_SIZE:
        return []
    series = np.array([sum(value for _, value in place) / len(place) for place in places])
    moves = np.diff(series)
    noise = float(_middle(np.abs(moves - _middle(moves)))) / (2**0.5 * 0.6745)
    penalty = 2 * noise**2 * math.log(len(series))
    found = _segments(series, penalty)
    if not found:
        return []
    ends = [0, *found, len(series)]
    level = np.concatenate([np.full(b - a, series[a:b].mean()) for a, b in pairwise(ends)])
    freedom = (len(series) / (len(series) - len(found) - 1)) ** 0.5
    draws = np.random.RandomState(seed).randint(0, 2**32, (REPLICATES, len(series)), dtype=np.uint64) % len(series)
    again = [_segments(level + freedom * (series - level)[drawn], penalty) for drawn in draws.astype(int)]
    return [
        {
            "step": places[at][0][0],
            "before": places[at - 1][-1][0],
            "rise": float(level[at] - level[at - 1]),
            "stability": sum(any(abs(at - other) <= 1 for other in one) for one in again) / REPLICATES,
        }
        for at in found
        if abs(level[at] - level[at - 1]) >= LEAST_CHANGE
    ]


def _places(known: Sequence[tuple[int, float]]) -> list[list[tuple[int, float]]]:
    """Neighbours within `NEAR` doublings of the first of them, together."""
    places: list[list[tuple[int, float]]] = []
    for step, value in known:
        if places and math.log2((1 + step) / (1 + places[-1][0][0])) < NEAR:
            places[-1].append((step, value))
        else:
            places.append([(step, value)])
    return places


def _segments(series: np.ndarray[Any, Any], penalty: float) -> list[int]:
    from ruptures import KernelCPD  # with SciPy, 0.3 s: not for pages that have no series

    search = KernelCPD(kernel="linear", min_size=MIN_SIZE).fit(series[:, None])
    return [int(at) for at in search.predict(pen=max(penalty, SMALLEST))[:-1]]


def _middle(values: np.ndarray[Any, Any]) -> Any:
    """The lower of two middle values, as torch has the median."""
    return np.sort(values)[(len(values) - 1) // 2]
