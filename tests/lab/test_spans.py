"""A thinned curve against the rows it stands for, whatever they are; and what a curve of a million steps costs."""

import math
import sqlite3
import time
from collections import defaultdict
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from lab import spans
from lab.records import Records

VALUES = st.one_of(
    st.floats(-5, 5, width=32).map(lambda value: value + 0.0),  # SQLite has no -0.0
    st.sampled_from([math.nan, math.inf, -math.inf, 0.0]),
)
STEPS = st.integers(0, 5000)
ROWS = st.dictionaries(STEPS, VALUES, min_size=1, max_size=60)


def filled(
    folder: Path, rows: dict[int, float], rewound_to: int | None = None, after: dict[int, float] | None = None
) -> Path:
    """A database with one metric, in the order in which the rows are given; perhaps rewound once."""
    file = folder / "run.db"
    with Records.writer(file) as records:
        segment = records.new_segment(0, None, "a")
        for step, value in rows.items():
            records.metrics(segment, step, {"m": value})
        records.flush()
        if rewound_to is not None:
            segment = records.new_segment(rewound_to, segment, "a")
            for step, value in (after or {}).items():
                records.metrics(segment, step, {"m": value})
    return file


@given(rows=ROWS)
@settings(max_examples=40, deadline=None)
def test_spans_are_what_their_rows_say_in_whatever_order_these_come(tmp_path_factory, rows: dict[int, float]) -> None:  # type: ignore[no-untyped-def]
    file = filled(tmp_path_factory.mktemp("spans"), rows)
    expected = defaultdict(dict)
    for width in spans.WIDTHS:
        for step, value in rows.items():
            expected[width, step // width * width][step] = value
    with sqlite3.connect(file) as connection:
        found = connection.execute(
            "SELECT width, start, n, low, low_step, high, high_step, nan_step FROM metric_spans"
        ).fetchall()
    connection.close()
    assert {span[:2] for span in found} == set(expected)
    for width, start, n, low, low_step, high, high_step, nan_step in found:
        of_span = expected[width, start]
        known = [value for value in of_span.values() if not math.isnan(value)]
        assert n == len(of_span) and (low, high) == ((min(known), max(known)) if known else (None, None))
        assert (low_step is None) == (high_step is None) == (not known)
        assert not known or (of_span[low_step] == low and of_span[high_step] == high)
        assert (nan_step is None) == (len(known) == n) and (nan_step is None or math.isnan(of_span[nan_step]))


@given(rows=ROWS, rewound_to=STEPS, after=ROWS, most=st.integers(16, 40))
@settings(max_examples=40, deadline=None)
def test_a_thinned_curve_has_the_ends_the_extremes_and_a_nan_of_its_history(  # type: ignore[no-untyped-def]
    tmp_path_factory, rows: dict[int, float], rewound_to: int, after: dict[int, float], most: int
) -> None:
    after = {step: value for step, value in after.items() if step > rewound_to}
    file = filled(tmp_path_factory.mktemp("thinned"), rows, rewound_to, after)
    history = {step: value for step, value in rows.items() if step <= rewound_to} | after
    with Records.reader(file) as records:
        whole, thinned = records.series("m", max_points=1000), records.series("m", max_points=most)
    assert str([(step, value) for _, step, value in whole]) == str(sorted(history.items()))
    points = {step: value for _, step, value in thinned}
    assert str(points) == str({step: history[step] for step in points}), "every point is a row"
    assert len(points) <= max(most, 16)
    if history:
        assert {min(history), max(history)} <= set(points)
        known = [value for value in history.values() if not math.isnan(value)]
        kept = [value for value in points.values() if not math.isnan(value)]
        assert (min(kept), max(kept)) == (min(known), max(known)) if known else not kept
        assert len(kept) < len(points) or len(known) == len(history)


def test_a_curve_of_20_times_the_steps_costs_as_much(tmp_path: Path) -> None:
    seconds = {}
    for steps in (30_000, 600_000):
        (tmp_path / str(steps)).mkdir()
        file = tmp_path / str(steps) / "run.db"
        with Records.writer(file) as records:
            segment = records.new_segment(0, None, "a")
            records.flush()
            rows = [("m", segment, step, math.sin(step / 997)) for step in range(steps)]
            records._writing().add_metrics(rows)
        with Records.reader(file) as records:
            times = []
            for _ in range(7):
                began = time.thread_time()
                points = records.series("m")
                times.append(time.thread_time() - began)
        seconds[steps] = min(times)
        assert 800 < len(points) <= 2000 and points[-1][1] == steps - 1
    # Reading every row would take 20 times as long.
    assert seconds[600_000] < 5 * seconds[30_000]
