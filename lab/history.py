"""Which steps of which segments make up one history, and how a long series is thinned. Numbers in, numbers out.

Segments form a tree: each names the one it was resumed from and the step of the weights it started with.
"""

import sqlite3
from collections.abc import Iterator, Sequence

Piece = tuple[int, int, int | None]  # segment, its first step, its last step (None: no end yet)
Point = tuple[int, int, float]  # segment, step, value
_FEWEST_POINTS = 8


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
    ends = [(segment, first, last if last is not None else 2**62) for segment, first, last in pieces]
    sizes = [_size(connection, (name, *end)) for end in ends]
    rows = sum(size[0] for size in sizes)
    points: list[Point] = []
    for end, (count, finite, low, high) in zip(ends, sizes, strict=True):
        if not count:
            continue
        if rows <= max_points:
            found = connection.execute(f"SELECT segment, step, value FROM metrics {_RANGE}", (name, *end))
            points += [_point(row) for row in found]
        else:
            share = max(_FEWEST_POINTS, max_points * count // rows)
            kinds = 2 if finite == count else 3
            points += _thinned(connection, name, end[0], low, high, max(1, (share - 2) // kinds), kinds)
    return points


_RANGE = "WHERE name = ? AND segment = ? AND step BETWEEN ? AND ? ORDER BY step"
_BUCKET = "FROM metrics WHERE name = ? AND segment = ? AND step BETWEEN ? AND ?"
# In a query with one min() or max(), SQLite takes the other columns from the row that has it.
_LOWEST = f"SELECT segment, step, min(value) {_BUCKET}"
_HIGHEST = f"SELECT segment, step, max(value) {_BUCKET}"
_NAN = f"SELECT segment, min(step), value {_BUCKET} AND value IS NULL"


def _size(connection: sqlite3.Connection, where: tuple[str, int, int, int]) -> tuple[int, int, int, int]:
    row = connection.execute(
        "SELECT count(*), count(value), coalesce(min(step), 0), coalesce(max(step), 0) FROM metrics "
        "WHERE name = ? AND segment = ? AND step BETWEEN ? AND ?",
        where,
    ).fetchone()
    return row[0], row[1], row[2], row[3]


def _thinned(
    connection: sqlite3.Connection, name: str, segment: int, low: int, high: int, buckets: int, kinds: int
) -> list[Point]:
    kept: dict[int, Point] = {}
    for first, last in ((low, low), *_buckets(low, high, buckets), (high, high)):
        for query in (_LOWEST, _HIGHEST, _NAN)[:kinds]:  # ranges of the key: 4 × as fast as GROUP BY, which sorts
            row = connection.execute(query, (name, segment, first, last)).fetchone()
            if row[1] is not None:
                kept[row[1]] = _point(row)
    return [kept[step] for step in sorted(kept)]


def _buckets(low: int, high: int, count: int) -> Iterator[tuple[int, int]]:
    width = high - low + 1
    for i in range(count):
        first, last = low + width * i // count, low + width * (i + 1) // count - 1
        if first <= last:
            yield first, last


def _point(row: tuple[int, int, float | None]) -> Point:
    return row[0], row[1], float("nan") if row[2] is None else row[2]
