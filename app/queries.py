"""What the app asks of the run folders: read-only, in words when something is wrong, and without torch or Streamlit.

A run may be training, dead, copied from elsewhere or half a ruin; asking never writes and never raises for a bad run.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from app.curves import Point
from app.figures import Cell, is_lexical
from app.journal_rows import ClaimRow as ClaimRow
from app.journal_rows import EntryRow as EntryRow
from app.journal_rows import changed_at as changed_at
from app.journal_rows import journal as journal
from app.journal_rows import journal_mark as journal_mark
from lab.errors import LabError
from lab.records import Records
from lab.run import Run
from lab.run_folder import written_at

SIGNS_OF_A_RUN = ("config.toml", "run.db", "manifest.json")
MOST_POINTS = 2000  # per curve: four lines of 50,000 points took 18 s to show, of 2,000 a moment
UNREADABLE = (LabError, SQLAlchemyError, OSError, ValueError, KeyError, TypeError)


@dataclass(frozen=True)
class Opened:
    """A run folder, opened or not: `problem` is words for people, and then the rest is None."""

    name: str
    path: Path
    run: Run | None = None
    records: Records | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Summary:
    """The newest numbers of one run; None where nothing is recorded."""

    name: str
    state: str
    preset: str = ""
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    bits_per_byte: float | None = None
    tokens_per_second: float | None = None
    last_write: float | None = None
    problem: str | None = None


def run_names(root: Path) -> list[str]:
    """Folders that look like runs, whole or broken; the one written last comes first."""
    try:
        folders = [entry for entry in root.iterdir() if not entry.name.startswith(".") and entry.is_dir()]
    except OSError:
        return []
    found = [(written_at(folder / "run.db") or 0.0, folder.name) for folder in folders if _looks_like_a_run(folder)]
    return [name for _, name in sorted(found, reverse=True)]


def foreign_names(root: Path) -> list[str]:
    """Other folders under the root: not ours, not touched, only said."""
    try:
        return sorted(e.name for e in root.iterdir() if e.is_dir() and e.name[0] != "." and not _looks_like_a_run(e))
    except OSError:
        return []


def identity(path: Path) -> tuple[str, int, int]:
    """Changes when a run is made anew under its name or its configuration is replaced, so that no cache outlives it."""
    marks = [0, 0]
    with contextlib.suppress(OSError):
        marks[0] = (path / "run.db").stat().st_ino
    with contextlib.suppress(OSError):
        marks[1] = (path / "config.toml").stat().st_mtime_ns
    return str(path), marks[0], marks[1]


def open_run(path: Path) -> Opened:
    """Open a run for reading; whatever is wrong becomes `problem`."""
    try:
        run = Run.open(path)
        return Opened(path.name, path, run, run.records())
    except UNREADABLE as error:
        return Opened(path.name, path, problem=in_words(path.name, error))


def in_words(name: str, error: Exception) -> str:
    """What is wrong with a run and what to do about it, for people."""
    if isinstance(error, LabError):
        return str(error)
    reason = str(getattr(error, "orig", None) or error) or type(error).__name__
    return (
        f"{name}: cannot be read ({reason.splitlines()[0][:200]}). The folder may be damaged, half copied, or no run "
        "of this lab. `lab doctor` looks at it; a copy needs run.db together with run.db-wal when the run was alive."
    )


def summarise(opened: Opened) -> Summary:
    """The newest numbers of a run; a run that cannot be read has the state "unreadable" and its problem."""
    if opened.run is None or opened.records is None:
        return Summary(opened.name, "unreadable", problem=opened.problem)
    try:
        config = opened.run.config
        newest = {name: opened.records.newest(name) for name in ("train/loss", "validation/bits_per_byte")}
        speed = opened.records.newest("train/tokens_per_second")
        return Summary(
            name=opened.name,
            state=opened.run.state(),
            preset=config.preset,
            step=max((found[0] for found in newest.values() if found), default=None),
            steps=config.train.steps,
            loss=_value(newest["train/loss"]),
            bits_per_byte=_value(newest["validation/bits_per_byte"]),
            tokens_per_second=_value(speed),
            last_write=opened.records.last_write_at(),
        )
    except UNREADABLE as error:
        return Summary(opened.name, "unreadable", problem=in_words(opened.name, error))


def series(records: Records, name: str, overtaken: bool = False, most: int = MOST_POINTS) -> list[Point]:
    """A curve of at most `most` points: the lineage, or (overtaken) the steps that a resume left behind."""
    points = records.series(name, max_points=most, lineage_only=not overtaken)
    if overtaken:
        kept = {segment: (first, last) for segment, first, last in records.lineage()}
        points = [point for point in points if not _within(point[1], kept.get(point[0]))]
    return (
        points[:: -(-len(points) // most)] if len(points) > most else points
    )  # hundreds of segments, each with its few


def resume_steps(records: Records) -> list[int]:
    """Steps whose weights a later segment of the lineage began with; its own first step is one later."""
    return [first - 1 for _, first, _ in records.lineage()[1:]]


def cells(records: Records, task: str) -> list[Cell]:
    """All decode readings of a task along the lineage."""
    return [
        Cell(r.step, r.layer, r.value, r.lo, r.hi, r.n, r.baseline, r.regime)
        for r in records.readings(task=task, reading="decode")
    ]


def happenings(records: Records, limit: int = 50) -> list[dict[str, Any]]:
    """The newest events, newest first, as rows of a table."""
    events = sorted(records.events(limit=limit), key=lambda event: event.id, reverse=True)
    return [{"at": e.at, "step": e.step, "kind": e.kind, "text": e.text} for e in events]


def lexical_tasks(records: Records, tasks: Sequence[str]) -> set[str]:
    """Tasks whose raw profile layer 0 already has, the raw profile itself included."""
    found = {t.removesuffix(".raw") for t in tasks if t.endswith(".raw") and is_lexical(cells(records, t))}
    return {task for task in tasks if task.removesuffix(".raw") in found}


def _looks_like_a_run(folder: Path) -> bool:
    return any((folder / sign).exists() for sign in SIGNS_OF_A_RUN)


def _within(step: int, span: tuple[int, int | None] | None) -> bool:
    return span is not None and step >= span[0] and (span[1] is None or step <= span[1])


def _value(found: tuple[int, float] | None) -> float | None:
    return found[1] if found else None
