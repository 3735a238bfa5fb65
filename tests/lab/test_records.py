"""Rows are never lost in silence and never overwritten; history is one path; every version and place can be read."""

import math
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import inspect

from lab import database, record_writer
from lab.errors import LabError
from lab.history import lineage
from lab.records import (
    Claim,
    Command,
    Entry,
    Event,
    Finding,
    Metric,
    Reading,
    ReadOnly,
    RecordRefused,
    Records,
    RecordsBroken,
    RecordsClosed,
    RecordsMissing,
    RecordsTooNew,
    RecordsUnwritable,
    Regime,
)
from lab.tables import Base

ROOT = Path(database.__file__).parents[1]


@pytest.fixture
def records(tmp_path: Path) -> Iterator[Records]:
    opened = Records.writer(tmp_path / "run.db")
    yield opened
    opened.close()


def event(step: int, text: str = "") -> Event:
    return Event(kind="test", text=text, at=float(step), step=step)


def loss(records: Records, segment: int, steps: range, value: float = 0.0) -> None:
    for step in steps:
        records.metrics(segment, step, {"train/loss": value + step})
    records.flush()


# ------------------------------------------------------------------------------------------------------------ writing


def test_numbers_come_back_as_they_were_nan_and_infinity_too(records: Records) -> None:
    segment = records.new_segment(0, None, "c0ffee")
    values = [1.5, math.nan, math.inf, -math.inf, 5e-324]
    for step, value in enumerate(values):
        records.metrics(segment, step, {"train/loss": value, "train/lr": step})
    records.flush()
    assert str(records.series("train/loss")) == str([(1, step, value) for step, value in enumerate(values)])
    assert records.metric_names() == ["train/loss", "train/lr"]
    assert records.newest("train/lr") == (4, 4.0) and records.newest("train/other") is None


def test_queued_rows_are_committed_within_a_second_without_anybody_asking(records: Records) -> None:
    records.add(event(1))
    with Records.reader(records.path) as reader:
        deadline = time.monotonic() + 5
        while not reader.events() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert [found.step for found in reader.events()] == [1]


def test_many_rows_cost_few_commits(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    commits: list[int] = []
    writer = records._writer
    assert writer is not None
    commit = writer._commit

    def counted(rows: list[Base], metrics: list[record_writer.MetricRow]) -> LabError | None:
        commits.append(len(metrics))
        return commit(rows, metrics)

    monkeypatch.setattr(writer, "_commit", counted)
    segment = records.new_segment(0, None, "c0ffee")
    started = time.monotonic()
    for step in range(200):
        records.metrics(segment, step, {"train/loss": 1.0})
        time.sleep(0.003)
    allowed = (time.monotonic() - started) / record_writer.SECONDS_BETWEEN_COMMITS + 2
    records.flush()
    assert sum(commits) == 200 and len([n for n in commits if n]) <= allowed + 1


def test_add_now_is_durable_ordered_after_the_queue_and_gives_ids_back(records: Records) -> None:
    records.add(Regime(name="probing", step=0, protocol={"n": 3}, hash="h"))
    segment = records.new_segment(0, None, "c0ffee")
    entry = Entry(step=1, author="user", kind="note", text="hello", created_at=1.0)
    records.add_now(reading(segment, 1, 0), entry)
    copy = records.path.parent / "copy.db"  # what is on disk now, without the process
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{records.path}{suffix}", f"{copy}{suffix}")
    with Records.reader(copy) as reader:
        assert reader.rows(Entry, id=entry.id)[0].text == "hello" and len(reader.readings()) == 1


def reading(segment: int, step: int, layer: int, baseline: float | None = None) -> Reading:
    return Reading(
        task="class.next", reading="decode", segment=segment, step=step, layer=layer, regime=1,
        value=step + layer / 10, lo=0.0, hi=math.nan, n=400, baseline=baseline,
    )  # fmt: skip


def test_a_row_that_exists_is_refused_and_costs_no_other_row(records: Records) -> None:
    segment = records.new_segment(0, None, "c0ffee")
    loss(records, segment, range(3))
    records.metrics(segment, 2, {"train/loss": 2.0})  # identical
    records.metrics(segment, 3, {"train/loss": 3.0})
    records.add(event(9))
    with pytest.raises(
        RecordRefused, match=r"'train/loss', segment = 1, step = 2\) was refused: UNIQUE.*never overwritten"
    ):
        records.flush()
    assert [step for _, step, _ in records.series("train/loss")] == [0, 1, 2, 3] and records.events()[0].step == 9
    records.flush()  # said once
    command = Command(id="a", verb="pause", arguments={}, received_at=1.0)
    records.add_now(command)
    with pytest.raises(RecordRefused, match="'a'"):
        records.add_now(event(10), command)
    assert records.events()[0].step == 9  # all of one add_now or none


def test_a_failure_in_the_background_is_heard_by_the_next_call_whichever_it_is(tmp_path: Path) -> None:
    for call in ("add", "metrics", "close"):
        records = Records.writer(tmp_path / f"{call}.db")
        records.metrics(77, 1, {"train/loss": 1.0})
        if call != "close":
            time.sleep(0.3)
        with pytest.raises(RecordRefused, match=r"segment = 77.*It points at a segment.*add that first"):
            if call == "add":
                records.add(event(1))
            elif call == "metrics":
                records.metrics(77, 2, {"train/loss": 1.0})
            else:
                records.close()
        records.close()


def test_a_value_that_cannot_be_stored_is_refused_by_name(records: Records) -> None:
    records.add(Event(kind="bad", text="x", at=1.0, data={"object": object()}), event(1))
    with pytest.raises(RecordRefused, match=r"events \(id = None\) was refused: .*not JSON serializable"):
        records.flush()
    assert [found.step for found in records.events()] == [1]
    segment = records.new_segment(0, None, "c0ffee")
    finding = Finding(segment=segment, step=1, instrument="loops", rule="r", version="1", severity="LOW", text="t")
    with pytest.raises(RecordRefused, match="severity_is_known"):
        records.add_now(finding)


def test_rows_wait_while_the_disk_is_full_and_are_written_when_it_is_not(tmp_path: Path) -> None:
    records = Records.writer(tmp_path / "run.db")
    writer = records._writer
    assert writer is not None
    records.flush()
    pages = writer._connection.execute("PRAGMA page_count").fetchone()[0]
    writer._connection.execute(f"PRAGMA max_page_count = {pages}")  # SQLite's own "database or disk is full"
    records.add(*(event(step, "x" * 4000) for step in range(50)))
    with pytest.raises(RecordsUnwritable, match=r"cannot be written now \(database or disk is full\)"):
        records.flush()
    with pytest.raises(RecordsUnwritable):
        records.add_now(event(99, "x" * 9000))
    writer._connection.execute("PRAGMA max_page_count = 1000000")
    try:
        records.flush()
    except RecordsUnwritable:  # an attempt between the two said so
        records.flush()
    assert [found.step for found in reversed(records.events())] == list(range(50))
    records.close()


def test_a_closed_writer_and_a_reader_refuse_rows(tmp_path: Path) -> None:
    records = Records.writer(tmp_path / "run.db")
    records.add(event(1))
    records.close()
    records.close()
    with pytest.raises(RecordsClosed):
        records.add(event(2))
    with Records.reader(records.path) as reader:
        for call in (lambda: reader.add(event(1)), lambda: reader.new_segment(0, None, ""), reader.flush):
            with pytest.raises(ReadOnly):
                call()
        assert len(reader.events()) == 1


def test_a_script_that_forgets_to_close_loses_nothing(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path; from lab.records import Records, Event\n"
        "Records.writer(Path(sys.argv[1])).add(Event(kind='a', text='b', at=1.0))\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "run.db"), str(ROOT)], check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.db"]
    with Records.reader(tmp_path / "run.db") as reader:
        assert len(reader.events()) == 1


def test_threads_that_add_at_once_lose_nothing(records: Records) -> None:
    segment = records.new_segment(0, None, "c0ffee")

    def add(worker: int) -> None:
        for step in range(300):
            records.metrics(segment, step, {f"worker/{worker}": step})
            if step % 100 == worker:
                records.flush()

    threads = [threading.Thread(target=add, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records.flush()
    assert [len(records.series(f"worker/{worker}")) for worker in range(4)] == [300] * 4


def test_latches_are_held_once_and_their_story_is_told_by_events(records: Records) -> None:
    assert records.hold("user", "look at the loss", step=5)
    assert not records.hold("user", "again", step=6)
    assert [(latch.owner, latch.reason, latch.step) for latch in records.latches()] == [("user", "look at the loss", 5)]
    assert records.release("user", step=7, reason="fine") and not records.release("user")
    assert records.latches() == []
    assert [found.text for found in records.events()] == [
        "user released: fine",
        "user holds training: look at the loss",
    ]


def test_a_command_is_acknowledged_and_an_unknown_one_is_not(records: Records) -> None:
    records.add_now(Command(id="a", verb="pause", arguments={"why": "tea"}, received_at=1.0))
    records.acknowledge("a", step=12, changed=True, result="paused")
    found = records.rows(Command)[0]
    assert (found.acknowledged_step, found.changed, found.result, found.arguments) == (
        12,
        True,
        "paused",
        {"why": "tea"},
    )
    with pytest.raises(RecordRefused, match="command 'b' does not exist"):
        records.acknowledge("b", 1, False, "")
    with pytest.raises(RecordRefused, match="segment 4 does not exist"):
        records.end_segment(4, 1, "finished")


# ------------------------------------------------------------------------------------------------------------ history


def test_a_resume_cuts_off_the_steps_that_it_overtook(records: Records) -> None:
    first = records.new_segment(0, None, "c0ffee")
    loss(records, first, range(0, 1031, 10))
    second = records.new_segment(1000, first, "c0ffee")  # killed at 1030, last checkpoint 1000
    loss(records, second, range(1010, 1051, 10), value=0.5)
    assert records.lineage() == [(1, 0, 1000), (2, 1001, None)]
    steps = [(segment, step) for segment, step, _ in records.series("train/loss")]
    assert steps == [(1, step) for step in range(0, 1001, 10)] + [(2, step) for step in range(1010, 1051, 10)]
    assert len(records.series("train/loss", lineage_only=False)) == 104 + 5
    assert records.newest("train/loss") == (1050, 1050.5)


def test_readings_follow_the_newest_history(records: Records) -> None:
    records.add_now(Regime(name="probing", step=0, protocol={}, hash="h"))
    first = records.new_segment(0, None, "c0ffee")
    records.add(*(reading(first, step, layer) for step in (0, 8, 16) for layer in (0, 1)))
    second = records.new_segment(8, first, "c0ffee")
    records.add_now(reading(second, 16, 0, baseline=0.25))
    found = [(r.segment, r.step, r.layer) for r in records.readings("class.next")]
    assert found == [(1, 0, 0), (1, 0, 1), (1, 8, 0), (1, 8, 1), (2, 16, 0)]
    newest = records.readings(step=16)[0]
    assert newest.baseline == 0.25 and math.isnan(newest.hi) and newest.value == 16.0
    assert records.reading_steps() == [0, 8, 16] and records.tasks() == ["class.next"]
    assert records.readings("class.current") == records.readings(reading="use") == []


def test_planted_histories() -> None:
    grow = (1, 0, None)
    assert lineage([]) == []
    assert lineage([grow]) == [(1, 0, None)]
    assert lineage([grow, (2, 1000, 1), (3, 500, 2)]) == [(1, 0, 500), (3, 501, None)]  # a rewind past segment 2
    assert lineage([grow, (2, 500, 1), (3, 500, 2)]) == [(1, 0, 500), (3, 501, None)]  # segment 2 never stepped
    assert lineage([grow, (2, 500, 1), (3, 800, 1)]) == [(1, 0, 800), (3, 801, None)]  # back to what a rewind had left
    assert lineage([grow, (2, 0, None)]) == [(2, 0, None)]  # started over
    assert lineage([grow, (2, 0, 1)]) == [(1, 0, 0), (2, 1, None)]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=12))
def test_history_is_the_path_that_the_weights_took(plan: list[tuple[int, float, float]]) -> None:
    """Against a simulation that carries, with the weights, the list of (segment, step) that made them."""
    segments: list[tuple[int, int, int | None]] = []
    checkpoints: list[tuple[int, int, list[tuple[int, int]]]] = []  # (segment, step, path)
    path: list[tuple[int, int]] = []
    for id, (steps, which, _) in enumerate(plan, start=1):
        if checkpoints:
            before, step, path = checkpoints[int(which * (len(checkpoints) - 1))]
            segments.append((id, step, before))
            path = list(path)
        else:
            step, path = 0, [(id, 0)]
            segments.append((id, 0, None))
            checkpoints.append((id, 0, list(path)))
        for _ in range(steps):
            step += 1
            path.append((id, step))
            checkpoints.append((id, step, list(path)))
    pieces = lineage(segments)
    end = path[-1][1]
    told = [(id, step) for id, first, last in pieces for step in range(first, (end if last is None else last) + 1)]
    assert told == path


def test_a_segment_that_names_no_predecessor_continues_the_newest_one(records: Records) -> None:
    records.new_segment(0, None, "a")
    records.new_segment(10, None, "a")
    assert records.lineage() == [(1, 0, 10), (2, 11, None)]
    with pytest.raises(RecordRefused, match="segment 99 does not exist, so nothing can be resumed from it"):
        records.new_segment(10, 99, "a")
    records.end_segment(2, 20, "finished")
    assert [(s.end_step, s.reason) for s in records.segments()] == [(None, None), (20, "finished")]


def test_a_long_series_is_thinned_without_losing_a_spike_an_end_or_a_nan(records: Records) -> None:
    first = records.new_segment(0, None, "a")
    records.add(*(Metric(name="m", segment=first, step=step, value=math.sin(step)) for step in range(6000)))
    records.flush()
    second = records.new_segment(4999, first, "a")
    special = {5123: 1e9, 7345: -1e9, 8000: math.nan}
    records.add(
        *(Metric(name="m", segment=second, step=step, value=special.get(step, 0.5)) for step in range(5000, 9001))
    )
    records.flush()
    thinned = records.series("m", max_points=200)
    steps = [step for _, step, _ in thinned]
    assert 100 < len(thinned) <= 200 and steps == sorted(set(steps))
    assert (steps[0], steps[-1]) == (0, 9000) and set(special) <= set(steps)
    assert {segment for segment, step, _ in thinned if step < 5000} == {1}
    assert len(records.series("m", max_points=20_000)) == 9001


# ------------------------------------------------------------------------------------------------ places and versions


def test_readers_see_a_live_run_and_leave_it_alone(records: Records) -> None:
    with Records.reader(records.path) as reader:
        records.add_now(event(1))
        assert len(reader.events()) == 1
        with pytest.raises(sqlite3.OperationalError, match="readonly"), reader._engine.connect() as connection:
            connection.connection.driver_connection.execute("DELETE FROM events")  # type: ignore[union-attr]


def test_a_finished_run_is_one_file_nobody_else_may_read(tmp_path: Path) -> None:
    with Records.writer(tmp_path / "run.db") as records:
        records.add(event(1))
    assert [path.name for path in tmp_path.iterdir()] == ["run.db"]
    assert stat.S_IMODE((tmp_path / "run.db").stat().st_mode) == 0o600


READ_ONLY = """
import os, sys; sys.path.insert(0, sys.argv[2])
from pathlib import Path; from lab.records import Records
if os.geteuid() == 0: os.seteuid(65534)
assert not os.access(Path(sys.argv[1]).parent, os.W_OK, effective_ids=True)
with Records.reader(Path(sys.argv[1])) as reader: print([event.step for event in reader.events()])
"""


@pytest.mark.parametrize("killed", [False, True])
def test_a_copy_on_a_read_only_disk_is_read_even_if_its_writer_was_killed(records: Records, killed: bool) -> None:
    records.add_now(event(1))
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to other users
        folder = Path(name)
        if killed:
            shutil.copyfile(f"{records.path}-wal", folder / "run.db-wal")
        else:
            records.close()
        shutil.copyfile(records.path, folder / "run.db")
        for file in folder.iterdir():
            file.chmod(0o444)
        folder.chmod(0o555)
        command = [sys.executable, "-c", READ_ONLY, str(folder / "run.db"), str(ROOT)]
        done = subprocess.run(command, capture_output=True, text=True)
        folder.chmod(0o755)
    assert (done.stdout, done.stderr) == ("[1]\n", "")


def test_what_is_no_database_of_ours_is_refused_and_left_alone(tmp_path: Path) -> None:
    with pytest.raises(RecordsMissing, match=r"none\.db: there are no records yet"):
        Records.reader(tmp_path / "none.db")
    (tmp_path / "text.db").write_text("not a database at all, but long enough to look" * 100)
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE bookmarks (id)")
    connection.close()
    for name, wrong in (("text.db", "file is not a database"), ("other.db", "is a database of another program")):
        before = (tmp_path / name).read_bytes()
        for way in (Records.reader, Records.writer):
            with pytest.raises(RecordsBroken, match=f"{name}: .*{wrong}"):
                way(tmp_path / name)
        assert (tmp_path / name).read_bytes() == before
    (tmp_path / "empty.db").touch()
    with pytest.raises(RecordsMissing):
        Records.reader(tmp_path / "empty.db")
    with pytest.raises(RecordsBroken, match="cannot be opened for writing"):
        Records.writer(tmp_path / "no" / "run.db")


def test_a_damaged_page_is_reported_as_damage(tmp_path: Path) -> None:
    with Records.writer(tmp_path / "run.db") as records:
        records.add(*(event(step, "x" * 500) for step in range(400)))
    raw = bytearray((tmp_path / "run.db").read_bytes())
    raw[len(raw) // 2 :] = os.urandom(len(raw) - len(raw) // 2)
    (tmp_path / "run.db").write_bytes(raw)
    with (
        pytest.raises(RecordsBroken, match=r"run\.db: could not be read"),
        Records.reader(tmp_path / "run.db") as reader,
    ):
        reader.rows(Event)


def test_a_damaged_page_of_a_curve_is_reported_as_damage(tmp_path: Path) -> None:
    with Records.writer(tmp_path / "run.db") as records:
        segment = records.new_segment(0, None, "a")
        for step in range(9000):
            records.metrics(segment, step, {"m": math.sin(step)})
    raw = bytearray((tmp_path / "run.db").read_bytes())
    schema = raw.rindex(b"CREATE TRIGGER") // 4096 * 4096 + 4096
    page = next(at for at in range(schema, len(raw), 4096) if raw[at] in (2, 5))  # an inner page of a tree
    for at in range(page, len(raw), 4096):
        raw[at : at + 4096] = os.urandom(4096)
    (tmp_path / "run.db").write_bytes(raw)
    with (
        pytest.raises(RecordsBroken, match=r"run\.db: could not be read"),
        Records.reader(tmp_path / "run.db") as reader,
    ):
        reader.series("m")


def test_a_newer_database_is_refused_with_the_way_out(records: Records) -> None:
    records.close()
    with sqlite3.connect(records.path) as connection:
        connection.execute(f"PRAGMA user_version = {database.VERSION + 3}")
    connection.close()
    for way in (Records.reader, Records.writer):
        with pytest.raises(
            RecordsTooNew, match=r"records version \d+; this one knows up to \d.*Update brightwoven-lab"
        ):
            way(records.path)


def test_an_older_database_is_upgraded_with_a_backup_and_read_without_touching_it(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    records.add_now(event(7, "old"))
    records.close()
    path = records.path
    before = path.read_bytes()
    today = database.VERSION
    monkeypatch.setattr(database, "VERSION", today + 2)
    monkeypatch.setattr(database, "READABLE", today + 2)
    steps = {today: ("CREATE TABLE later (id INTEGER)",), today + 1: ("UPDATE events SET text = 'upgraded'",)}
    monkeypatch.setattr(database, "MIGRATIONS", steps)
    with Records.reader(path) as reader:
        assert reader.events()[0].text == "upgraded"
    assert path.read_bytes() == before
    with Records.writer(path) as writer:
        assert writer.events()[0].text == "upgraded"
    backup = path.with_name(f"run.db.version-{today}")
    monkeypatch.setattr(database, "VERSION", today)
    with Records.reader(backup) as reader:
        assert reader.events()[0].text == "old"
    assert stat.S_IMODE(backup.stat().st_mode) == 0o600


def test_records_without_spans_are_read_where_they_are_and_followed_through_their_upgrade(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(RELEASED[0].read_text())
        rows = [("m", 1, step, math.sin(step / 50)) for step in range(9000)]
        connection.execute("UPDATE segments SET from_step = 8999 WHERE id = 2")
        connection.executemany("INSERT INTO metrics (name, segment, step, value) VALUES (?, ?, ?, ?)", rows)
    connection.close()
    before = path.read_bytes()
    with Records.reader(path) as reader:
        old = reader.series("m")
        assert path.read_bytes() == before and len(old) == 1998
        with Records.writer(path) as writer:
            writer.metrics(2, 9000, {"m": 7.0})
            writer.flush()
            assert reader.newest("m") == (9000, 7.0), "a reader that was open all the while"
            assert reader.series("m")[-1] == (2, 9000, 7.0)
    low, high = min(old, key=lambda point: point[2]), max(old, key=lambda point: point[2])
    assert (low[2], high[2]) == (min(row[3] for row in rows), max(row[3] for row in rows))


@pytest.mark.parametrize("error", [sqlite3.OperationalError("database or disk is full"), OSError(28, "No space left")])
def test_a_disk_that_fills_during_an_upgrade_is_no_broken_database(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sqlite3.connect(tmp_path / "run.db") as connection:
        connection.executescript(RELEASED[0].read_text())
    connection.close()

    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(database, "_back_up", full)
    with pytest.raises(RecordsBroken, match=r"from records version 1 to 2 .*Nothing is lost: make room"):
        Records.writer(tmp_path / "run.db")
    with Records.reader(tmp_path / "run.db") as reader:
        assert len(reader.segments()) == 2


def test_a_copy_that_was_read_leaves_no_folder_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy is made where SQLite may not make files beside the database; here it is told so."""
    path = tmp_path / "run.db"
    with sqlite3.connect(path) as connection:
        connection.executescript(RELEASED[0].read_text())
    connection.close()
    made = []

    def copied(_: Path) -> tuple[str, Callable[[], object]]:
        made.append("made")
        return f"file:{path}?mode=ro", lambda: made.append("deleted")

    monkeypatch.setattr(database, "_readable", copied)
    monkeypatch.setattr(database, "READABLE", 2)
    Records.reader(path).close()
    assert made == ["made", "deleted"]
    monkeypatch.setattr(database, "VERSION", 0)
    with pytest.raises(RecordsTooNew):
        Records.reader(path)
    assert made == ["made", "deleted"] * 2


def test_a_step_of_an_upgrade_that_fails_is_undone(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    records.close()
    today = database.VERSION
    monkeypatch.setattr(database, "VERSION", today + 1)
    monkeypatch.setattr(
        database, "MIGRATIONS", {today: ("CREATE TABLE later (id INTEGER)", "INSERT INTO nowhere VALUES (1)")}
    )
    with pytest.raises(RecordsBroken, match="no such table: nowhere"):
        Records.writer(records.path)
    monkeypatch.setattr(database, "VERSION", today)
    with Records.writer(records.path) as again:
        assert "later" not in inspect(again._engine).get_table_names()


# Schemas as they were released. Never edit one: when the schema changes, add a migration and a new text.
RELEASED = sorted(Path(__file__).parent.glob("records_version_*.sql"))


@pytest.mark.parametrize("released", RELEASED, ids=lambda file: file.stem)
def test_every_released_version_can_be_opened_and_ends_with_todays_schema(released: Path, tmp_path: Path) -> None:
    assert len(RELEASED) == database.VERSION
    with sqlite3.connect(tmp_path / "run.db") as connection:
        connection.executescript(released.read_text())
    connection.close()
    with Records.writer(tmp_path / "run.db") as records:
        assert [(s.id, s.from_step) for s in records.segments()] == [(1, 0), (2, 512)]
        assert records.series("train/loss") == [(1, 512, 4.25), (2, 513, 4.125)]
        records.metrics(2, 514, {"train/loss": 4.0})
        records.flush()
        claim = records.rows(Claim)[0]
        assert claim.data == {"layers": [0, 2]} and records.problems() == []
        upgraded, fresh = inspect(records._engine), Records.writer(tmp_path / "fresh.db")
        with fresh:
            wanted = inspect(fresh._engine)
            for table in Base.metadata.tables:
                for aspect in ("get_columns", "get_indexes", "get_foreign_keys", "get_pk_constraint"):
                    assert str(getattr(upgraded, aspect)(table)) == str(getattr(wanted, aspect)(table)), (table, aspect)
    schemas = []
    for name in ("run.db", "fresh.db"):
        with sqlite3.connect(tmp_path / name) as connection:
            found = connection.execute(
                "SELECT name, sql FROM sqlite_master WHERE name LIKE 'metric_spans%' ORDER BY name"
            )
            schemas.append(found.fetchall())
            spans = connection.execute(
                "SELECT segment, width, start, n, low, high FROM metric_spans ORDER BY 1, 2, 3"
            ).fetchall()
        connection.close()
        if name == "run.db":  # rows from before the upgrade and from after it
            assert [span for span in spans if span[1] == 512] == [
                (1, 512, 512, 2, 4.25, 9.0),
                (2, 512, 512, 2, 4.0, 4.125),
            ]
    assert schemas[0] == schemas[1] and len(schemas[0]) == 3
