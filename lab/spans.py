"""What a metric did over 64 and over 512 steps, kept beside its rows, so that a curve costs the same at any length.

A span has the number of its rows, its lowest and its highest value and a NaN if there is one, each with its step. Triggers
keep spans true in the transaction that adds a row, whoever adds it; nothing is ever taken from a run's metrics. A curve of
100,000 steps reads 1,600 spans in place of 100,000 rows.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from operator import itemgetter

WIDTHS = (64, 512)  # steps
_CREATE = """CREATE TABLE metric_spans (
    name VARCHAR NOT NULL,
    segment INTEGER NOT NULL,
    width INTEGER NOT NULL,
    start INTEGER NOT NULL,
    n INTEGER NOT NULL,
    low DOUBLE,
    low_step INTEGER,
    high DOUBLE,
    high_step INTEGER,
    nan_step INTEGER,
    PRIMARY KEY (name, segment, width, start)
) WITHOUT ROWID"""
_JOIN = """ON CONFLICT DO UPDATE SET
    n = n + 1,
    low_step = CASE WHEN low IS NULL OR excluded.low < low THEN excluded.low_step ELSE low_step END,
    low = CASE WHEN low IS NULL OR excluded.low < low THEN excluded.low ELSE low END,
    high_step = CASE WHEN high IS NULL OR excluded.high > high THEN excluded.high_step ELSE high_step END,
    high = CASE WHEN high IS NULL OR excluded.high > high THEN excluded.high ELSE high END,
    nan_step = coalesce(nan_step, excluded.nan_step)"""


def _alone(row: str) -> str:
    """What one row is as a span: NaN is stored as NULL."""
    known = f"{row}.value, CASE WHEN {row}.value IS NOT NULL THEN {row}.step END"
    return f"1, {known}, {known}, CASE WHEN {row}.value IS NULL THEN {row}.step END"


def _added(row: str, width: int) -> str:
    """SQL that puts a row, or every row of a table, into its span."""
    start = f"{row}.step - {row}.step % {width}"
    source = "" if row == "new" else f"FROM {row}"
    span = f"SELECT {row}.name, {row}.segment, {width}, {start}, {_alone(row)} {source}"
    return f"INSERT INTO metric_spans {span} WHERE true {_JOIN}"


def _trigger(width: int) -> str:
    return f"CREATE TRIGGER metric_spans_of_{width} AFTER INSERT ON metrics BEGIN {_added('new', width)}; END"


SCHEMA = (_CREATE, *(_trigger(width) for width in WIDTHS))
# From records without spans to records with them; released, so never edited.
ADDED = (*SCHEMA, *(_added("metrics", width) for width in WIDTHS))

Span = tuple[int, int, float | None, int | None, float | None, int | None, int | None]
"""First step that it may have, number of rows, lowest value and its step, highest value and its step, step of a NaN."""

_ROWS = f"SELECT step, {_alone('metrics')} FROM metrics WHERE name = ? AND segment = ? AND step BETWEEN ? AND ? ORDER BY step"
_SPANS = (
    "SELECT start, n, low, low_step, high, high_step, nan_step FROM metric_spans "
    "WHERE name = ? AND segment = ? AND width = ? AND start BETWEEN ? AND ? ORDER BY start"
)


def read(
    connection: sqlite3.Connection, name: str, segment: int, first: int, last: int, widths: Sequence[int] = WIDTHS
) -> Iterator[Span]:
    """Spans that together hold exactly the rows of steps `first` … `last`, ascending: the widest of `widths` that fit.

    With no widths, every row is a span of its own.
    """
    if not widths:
        yield from connection.execute(_ROWS, (name, segment, first, last))
        return
    *narrower, width = widths
    begin, end = -(-first // width) * width, (last + 1) // width * width
    if begin >= end:
        yield from read(connection, name, segment, first, last, narrower)
        return
    yield from read(connection, name, segment, first, begin - 1, narrower)
    yield from connection.execute(_SPANS, (name, segment, width, begin, end - 1))
    yield from read(connection, name, segment, end, last, narrower)


def kept(connection: sqlite3.Connection) -> bool:
    """Whether these records have spans: version 1 had none."""
    return bool(connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'metric_spans'").fetchone()[0])


def joined(parts: Sequence[Span]) -> Span:
    """One span of all of these, which are one after the other."""
    lows = [part for part in parts if part[3] is not None]
    lowest, highest = min(lows, key=itemgetter(2), default=parts[0]), max(lows, key=itemgetter(4), default=parts[0])
    nan = next((part[6] for part in parts if part[6] is not None), None)
    return parts[0][0], sum(part[1] for part in parts), lowest[2], lowest[3], highest[4], highest[5], nan
