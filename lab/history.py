"""Which steps of which segments make up one history, and how a long series is thinned. Numbers in, numbers out.

Segments form a tree: each names the one it was resumed from and the step of the weights it started with.
"""

import math
import sqlite3
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from lab import spans

Piece = tuple[int, int, int | None]  # segment, its first step, its last step (None: no end yet)
Point = tuple[int, int, float]  # segment, step, value
Widths = tuple[int, ...]  # of spans
_FEWEST_POINTS = 8
_MOST_SPANS = 8000  # about 6 ms


def lineage(segments: Sequence[tuple[int, int, int | None]]) -> list[Piece]:
    """The history that ends in the newest segment, ascending by step and without overlap.

    Args:
        segments: (id, step of the weights it starts from, id of the segment it was resumed from), ascending by id.

    Example:
        Segment 1 reached step 1030, was resumed from its checkpoint of step 1000 as segment 2, and that was rewound to
        step 500 as segment 3: `[(1, 0, 500), (3, 501, None)]`.
    """
    known = {id: (from_step, before) for id, from_step, before in segments}
    pieces: list[Piece] = []
    id = max(known, default=None)
    last: int | None = None
    while id is not None:
        from_step, before = known[id]
        first = from_step if before is None else from_step + 1  # weights of `from_step` were seen by the one before
        if last is None or first <= last:
            pieces.append((id, first, last))
        last = from_step if last is None else min(last, from_step)
        id = before if before in known and before < id else None
    return pieces[::-1]


def series(connection: sqlite3.Connection, name: str, pieces: Sequence[Piece], max_points: int) -> list[Point]:
    """The values of a metric along `pieces`, thinned to about `max_points`: ends, and lows, highs and a NaN per bucket."""
    widths = spans.WIDTHS if spans.kept(connection) else ()
    parts = [part for piece in pieces if (part := _part(connection, name, *piece, widths))]
    total = sum(part.rows for part in parts)
    points: list[Point] = []
    for part in parts:
        share = part.rows if total <= max_points else max(_FEWEST_POINTS, max_points * part.rows // total)
        points += [(part.segment, step, value) for step, value in _thinned(connection, name, part, share, widths)]
    return points


class _Part(NamedTuple):
    """The rows of a metric in a segment: their number, and the steps of the first and the last of them."""

    segment: int
    first: int
    last: int
    rows: int


_RANGE = "FROM metrics WHERE name = ? AND segment = ? AND step BETWEEN ? AND ?"


def _part(
    connection: sqlite3.Connection, name: str, segment: int, first: int, last: int | None, widths: Widths
) -> _Part | None:
    where = (name, segment, first, last if last is not None else 2**62)
    # Each by itself: SQLite then looks one key up, where min and max in one query would read the whole range.
    begin, end = (connection.execute(f"SELECT {end}(step) {_RANGE}", where).fetchone()[0] for end in ("min", "max"))
    if begin is None:
        return None
    return _Part(
        segment, begin, end, sum(span[1] for span in spans.read(connection, name, segment, begin, end, widths))
    )


def _thinned(
    connection: sqlite3.Connection, name: str, part: _Part, most: int, kept: Widths
) -> list[tuple[int, float]]:
    """(step, value) of at most about so many rows, ascending."""
    segment, first, last, rows = part
    widths = () if rows <= most else _widths(part, kept)
    found = list(spans.read(connection, name, segment, first, last, widths))
    if rows > most:
        ends = [span for end in (first, last) for span in spans.read(connection, name, segment, end, end, widths=())]
        kinds = 2 if all(span[-1] is None for span in found) else 3
        buckets = max(1, (most - len(ends)) // kinds)
        alike = groupby(found, lambda span: (span[0] - first) * buckets // (last - first + 1))
        found = [*ends, *(spans.joined(list(bucket)) for _, bucket in alike)]
    chosen: dict[int, float] = {}
    for _, _, low, low_step, high, high_step, nan_step in found:
        for step, value in ((low_step, low), (high_step, high), (nan_step, math.nan)):
            if step is not None and value is not None:
                chosen[step] = value
    return sorted(chosen.items())


def _widths(part: _Part, kept: Widths) -> Widths:
    """Of spans that are read: narrow ones keep buckets even, and there should not be more than a few thousand of them."""
    for number, narrowest in enumerate((1, *kept)):
        if min(part.rows, (part.last - part.first) // narrowest) <= _MOST_SPANS:
            return kept[:number]
    return kept
