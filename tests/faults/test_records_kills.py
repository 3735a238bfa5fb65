"""SIGKILL of the writer at random moments, readers open all the while: no acknowledged row is lost, the file stays whole."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lab import database
from lab.records import Event, Records

ROOT = Path(__file__).resolve().parents[2]


def warm_parent(folder: Path, action: str) -> "subprocess.Popen[str]":
    """A process with the libraries loaded that forks a child per line of input and prints what the children say."""
    return subprocess.Popen(
        [sys.executable, "-u", str(Path(__file__).resolve()), str(folder), action],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("kills", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_no_acknowledged_row_is_lost_when_the_writer_is_killed(tmp_path: Path, kills: int) -> None:
    generator = random.Random(kills)
    path = tmp_path / "run.db"
    Records.writer(path).close()
    acknowledged: set[tuple[int, int]] = set()
    wrong: list[str] = []
    done = threading.Event()

    def read() -> None:
        with Records.reader(path) as reader:
            while not done.is_set():
                try:
                    reader.series("train/loss", lineage_only=False)
                    reader.events(10)
                except Exception as error:
                    wrong.append(repr(error))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in readers:
        thread.start()
    parent = warm_parent(tmp_path, "write")
    assert parent.stdin is not None and parent.stdout is not None
    try:
        for _ in range(kills):
            parent.stdin.write("go\n")
            parent.stdin.flush()
            child = int(parent.stdout.readline())
            segment, step = map(int, parent.stdout.readline().split())
            acknowledged.add((segment, step))
            time.sleep(generator.uniform(0, 0.25))
            os.kill(child, signal.SIGKILL)
            while (line := parent.stdout.readline()) != "gone\n":
                if line.endswith("\n"):
                    acknowledged.add((int(line.split()[0]), int(line.split()[1])))
    finally:
        done.set()
        parent.stdin.close()
        parent.wait()
        for thread in readers:
            thread.join()
        parent.stdout.close()
    with Records.reader(path) as reader:
        assert reader.problems() == []
        events = {(event.segment, event.step) for event in reader.rows(Event)}
        points = {(segment, step) for segment, step, _ in reader.series("train/loss", 10**9, lineage_only=False)}
        assert len({segment for segment, _ in acknowledged}) == kills
        assert acknowledged - events == set() and acknowledged - points == set()
    assert wrong == []


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_kill_during_an_upgrade_leaves_the_old_version_or_the_new_one(tmp_path: Path, kills: int) -> None:
    generator = random.Random(kills)
    path = tmp_path / "run.db"
    with Records.writer(path) as records:
        segment = records.new_segment(0, None, "c0ffee")
        for step in range(3000):
            records.metrics(segment, step, {"train/loss": step})
    whole = path.read_bytes()
    parent = warm_parent(tmp_path, "upgrade")
    assert parent.stdin is not None and parent.stdout is not None
    versions = set()
    for _ in range(kills):
        path.write_bytes(whole)
        parent.stdin.write("go\n")
        parent.stdin.flush()
        child = int(parent.stdout.readline())
        time.sleep(generator.uniform(0, 0.06))
        os.kill(child, signal.SIGKILL)
        while parent.stdout.readline() != "gone\n":
            pass
        with sqlite3.connect(path) as connection:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            columns = [row[1] for row in connection.execute("PRAGMA table_info(metrics)")]
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("SELECT count(*), sum(value) FROM metrics").fetchone() == (3000, 4498500)
        connection.close()
        assert ("note" in columns) == (version == database.VERSION + 1)
        versions.add(version)
        for file in tmp_path.glob("run.db-*"):
            file.unlink()
    parent.stdin.close()
    parent.wait()
    parent.stdout.close()
    assert versions <= {database.VERSION, database.VERSION + 1}


def write(path: Path) -> None:
    """Add rows and say of each, once `flush` or `add_now` returned, that it is safe."""
    records = Records.writer(path)
    segment = records.new_segment(0, None, "c0ffee")
    for step in range(100_000):
        records.metrics(segment, step, {"train/loss": float(step), "train/lr": 0.1})
        event = Event(kind="step", text="x" * 200, at=time.time(), segment=segment, step=step)
        if step % 3:
            records.add(event)
            records.flush()
        else:
            records.add_now(event)
        os.write(1, f"{segment} {step}\n".encode())  # one system call: a kill leaves a whole line or none


def upgrade(path: Path) -> None:
    database.MIGRATIONS[database.VERSION] = (
        "ALTER TABLE metrics ADD COLUMN note TEXT",
        "UPDATE metrics SET note = name || step",
        "CREATE TABLE extra (id INTEGER PRIMARY KEY, text TEXT)",
        "INSERT INTO extra (text) SELECT name FROM metrics",
    )
    database.VERSION += 1
    Records.writer(path)
    time.sleep(60)  # until the kill


def main(path: Path, action: str) -> None:
    for _ in sys.stdin:
        child = os.fork()
        if not child:
            print(os.getpid(), flush=True)
            (write if action == "write" else upgrade)(path)
            os._exit(0)
        os.waitpid(child, 0)
        print("gone", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) / "run.db", sys.argv[2])
