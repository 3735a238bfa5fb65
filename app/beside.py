"""Two steps or two runs side by side: the difference of what their probes read, with an interval that says how it was made.

Where both checkpoints have statistics of the same protocol, the same words were read both times, and the difference is taken
word by word. Otherwise two stored intervals are all there is. Pure functions and reading; no torch, no Streamlit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from app.figures import Cell
from app.shimmer_rows import Gains, bits, gains
from lab.records import Records, Regime
from lab.run import Run
from probes.concepts.states import Z95


@dataclass(frozen=True)
class Side:
    """A checkpoint of a run, as one side of a comparison."""

    run: Run
    records: Records
    step: int


@dataclass(frozen=True)
class Difference:
    """B less A at one layer, in bits per word, with its 95 % interval."""

    layer: int
    value: float
    lo: float
    hi: float
    n: int


@dataclass(frozen=True)
class Differences:
    """B less A over the layers.

    Attributes:
        paired: taken word by word; else the intervals of both sides were put together as if independent.
        same_text: both sides read the same sentences.
        same_protocol: and in the same way.
        same_subspace: of a concept: both sides read through one and the same.
    """

    layers: tuple[Difference, ...]
    paired: bool
    same_text: bool
    same_protocol: bool
    same_subspace: bool = True


def paired(a: Gains | None, b: Gains | None) -> Differences | None:
    """The difference word by word, or None where the words are not the same.

    The standard error is the closed form of a ratio over what is independent (Cochran 1977, ch. 6), of the differences.
    """
    if a is None or b is None or a.protocol != b.protocol or not np.array_equal(a.words, b.words):
        return None
    if not np.array_equal(a.unit, b.unit) or not a.words.sum():
        return None
    both = [layer for layer in a.layers if layer in b.layers]
    if not both:
        return None
    rows = np.stack([b.gain[b.layers.index(layer)] - a.gain[a.layers.index(layer)] for layer in both])
    found = tuple(
        Difference(layer, one.value, one.value - Z95 * one.se, one.value + Z95 * one.se, one.n)
        for layer, one in zip(both, bits(rows, a.words, a.unit), strict=True)
    )
    return Differences(found, True, True, True, a.subspace == b.subspace)


def apart(a: Cell, b: Cell) -> Difference:
    """From the two intervals alone, as if they were independent (Zou and Donner 2008, Statistics in Medicine 27:1693)."""
    value = b.value - a.value
    down, up = math.hypot(b.value - b.lo, a.hi - a.value), math.hypot(b.hi - b.value, a.value - a.lo)
    return Difference(a.layer, value, value - down, value + up, min(a.n, b.n))


def of_task(task: str, a: Side, b: Side, a_cells: Sequence[Cell], b_cells: Sequence[Cell]) -> Differences | None:
    """The difference of a task's readings at the layers that both sides have; None where they have none in common."""
    found = paired(gains(a.run, a.records, a.step, task), gains(b.run, b.records, b.step, task))
    if found is not None:  # a task that layer 0 is given is read again at every layer, and not kept by the sentence
        return found
    one = {cell.layer: cell for cell in a_cells if cell.step == a.step and math.isfinite(cell.value)}
    other = {cell.layer: cell for cell in b_cells if cell.step == b.step and math.isfinite(cell.value)}
    both = sorted(one.keys() & other.keys())
    if not both:
        return None
    first, second = _protocol(a.records, one[both[0]]), _protocol(b.records, other[both[0]])
    text = first is not None and second is not None and first.get("probe_set") == second.get("probe_set")
    same = first is not None and first == second
    return Differences(tuple(apart(one[layer], other[layer]) for layer in both), False, text, same)


def of_tracks(a: Gains | None, b: Gains | None, a_cell: Cell, b_cell: Cell) -> Differences | None:
    """The difference of what was read through a concept, at one layer a side; None where a reading is no number."""
    found = paired(a, b)
    if found is not None and len(found.layers) == 1:
        return found
    if not math.isfinite(a_cell.value + b_cell.value):
        return None
    text = a is not None and b is not None and a.protocol == b.protocol  # a protocol names its sentences
    same = a is not None and b is not None and a.subspace == b.subspace
    return Differences((apart(a_cell, b_cell),), False, text, text, same)


def is_same(a: Side, b: Side) -> bool:
    """Whether both sides are one and the same checkpoint."""
    return (a.run.path, a.step) == (b.run.path, b.step)


def _protocol(records: Records, cell: Cell) -> dict[str, Any] | None:
    """What a reading depends on besides the weights; how often was looked is no part of it."""
    for regime in records.rows(Regime, id=cell.regime):
        return {key: value for key, value in regime.protocol.items() if key != "every"}
    return None
