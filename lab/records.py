"""The run's database: one writer, many readers, nothing overwritten.

Whoever holds the run's lock opens `Records.writer`; everyone else opens `Records.reader`, which cannot write. Numbers of
training are queued and committed in the background (`record_writer`); control and journal rows are durable when
`add_now` returns. Imports no torch. Tables are in `tables`, opening and versions in `database`.
"""

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import Connection, Engine, delete, exc, func, select, update
from sqlalchemy.dialects.sqlite import insert as insert_or_leave
from sqlalchemy.orm import Session

from lab.database import RecordsBroken, RecordsMissing, RecordsTooNew, reading_engine
from lab.errors import LabError
from lab.history import Piece, lineage, series
from lab.record_writer import RecordRefused, RecordsClosed, RecordsUnwritable, Writer
from lab.run_folder import written_at
from lab.tables import (
    Base,
    Claim,
    Command,
    Entry,
    Episode,
    Event,
    Finding,
    Item,
    Latch,
    Metric,
    Reading,
    Regime,
    Segment,
    Verdict,
)

__all__ = [
    "Base",
    "Claim",
    "Command",
    "Entry",
    "Episode",
    "Event",
    "Finding",
    "Item",
    "Latch",
    "Metric",
    "Reading",
    "ReadOnly",
    "RecordRefused",
    "Records",
    "RecordsBroken",
    "RecordsClosed",
    "RecordsMissing",
    "RecordsTooNew",
    "RecordsUnwritable",
    "Regime",
    "Segment",
    "Verdict",
]
Row = TypeVar("Row", bound=Base)


class ReadOnly(LabError):
    """A reader was asked to write."""


class Records:
    """See `writer` and `reader`. Usable from several threads; a context manager that closes."""

    def __init__(self, path: Path, engine: Engine, writer: Writer | None) -> None:
        self.path = path
        self._engine = engine
        self._writer = writer

    @classmethod
    def writer(cls, path: Path) -> Self:
        """Open for writing, as the holder of the run's lock; the file is created or upgraded (a backup stays beside it).

        Raises:
            RecordsTooNew, RecordsBroken: nothing was changed.
        """
        writer = Writer(path)
        return cls(path, reading_engine(path), writer)

    @classmethod
    def reader(cls, path: Path) -> Self:
        """Open for reading: a live run, a finished one, a copy, also on a read-only disk.

        Raises:
            RecordsMissing, RecordsTooNew, RecordsBroken
        """
        return cls(path, reading_engine(path), None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Commit what waits and fold the WAL into the file, so that `run.db` alone is the whole of it.

        Raises:
            RecordRefused, RecordsUnwritable: what failed since the last call; the records are closed nevertheless.
        """
        self._engine.dispose()
        if self._writer is not None:
            self._writer.close()

    # ------------------------------------------------------------------------------------------------------- writing

    def add(self, *rows: Base) -> None:
        """Queue rows; they are committed within half a second. Ids are not given back: use `add_now` for those.

        Raises:
            RecordRefused, RecordsUnwritable: about rows of earlier calls; `rows` are not taken then.
        """
        self._writing().add(rows)

    def metrics(self, segment: int, step: int, values: Mapping[str, float]) -> None:
        """Queue the numbers of one step. NaN and infinities come back as they are."""
        self._writing().add_metrics([(name, segment, step, float(value)) for name, value in values.items()])

    def add_now(self, *rows: Base) -> None:
        """Write rows in one transaction, after everything queued; on disk when this returns, ids filled in.

        Raises:
            RecordRefused: a row exists already, or points at one that does not; none of `rows` was written.
            RecordsUnwritable: the disk refused; none of `rows` was written.
        """
        writer = self._writing()
        writer.now(lambda connection: writer.insert(connection, rows))

    def flush(self) -> None:
        """Everything added so far is on disk when this returns. Raises as `add` does."""
        self._writing().flush()

    def new_segment(self, from_step: int, resumed_from: int | None, config_hash: str) -> int:
        """Open a segment of training.

        Args:
            from_step: step of the weights it starts from; its own rows begin one later.
            resumed_from: the segment those weights were trained in (a checkpoint's state knows it). None: it continues
                nothing, unless `from_step` > 0 and there are segments, then the newest one is meant.
        """
        writer = self._writing()

        def open_segment(connection: Connection) -> int:
            before = resumed_from
            if before is None and from_step > 0:
                before = connection.scalar(select(Segment.id).order_by(Segment.id.desc()).limit(1))
            elif before is not None and connection.scalar(select(Segment.id).where(Segment.id == before)) is None:
                raise RecordRefused(
                    f"{self.path}: segment {before} does not exist, so nothing can be resumed from it. "
                    "Give the id of a segment (not a step), or None for the newest."
                )
            segment = Segment(from_step=from_step, resumed_from=before, config_hash=config_hash, started_at=time.time())
            writer.insert(connection, [segment])
            return segment.id

        return writer.now(open_segment)

    def end_segment(self, id: int, step: int, reason: str) -> None:
        """Close a segment, durably. `reason` "finished" means that the horizon was reached."""
        self._change(
            update(Segment).where(Segment.id == id).values(end_step=step, ended_at=time.time(), reason=reason),
            f"segment {id} does not exist",
        )

    def hold(self, owner: str, reason: str, step: int, severity: str = "info") -> bool:
        """Take a latch, durably, with an event. False when the owner holds one already, which stays as it was."""
        writer = self._writing()
        latch = Latch(owner=owner, reason=reason, since=time.time(), step=step, severity=severity)
        values = {"owner": owner, "reason": reason, "since": latch.since, "step": step, "severity": severity}

        def take(connection: Connection) -> bool:
            taken = connection.execute(insert_or_leave(Latch).values(values).on_conflict_do_nothing(["owner"])).rowcount
            if taken:
                text = f"{owner} holds training: {reason}"
                writer.insert(connection, [Event(kind="hold", text=text, at=latch.since, step=step, data=values)])
            return bool(taken)

        return writer.now(take)

    def release(self, owner: str, step: int | None = None, reason: str = "") -> bool:
        """Let a latch go, durably, with an event. False when the owner holds none."""
        writer = self._writing()

        def let_go(connection: Connection) -> bool:
            gone = connection.execute(delete(Latch).where(Latch.owner == owner)).rowcount
            if gone:
                text = f"{owner} released" + (f": {reason}" if reason else "")
                data = {"owner": owner, "reason": reason}
                writer.insert(connection, [Event(kind="release", text=text, at=time.time(), step=step, data=data)])
            return bool(gone)

        return writer.now(let_go)

    def acknowledge(self, command: str, step: int, changed: bool, result: str) -> None:
        """Say, durably, what became of a command."""
        values = {"acknowledged_step": step, "changed": changed, "result": result}
        self._change(update(Command).where(Command.id == command).values(values), f"command {command!r} does not exist")

    def _change(self, statement: Any, missing: str) -> None:
        if not self._writing().now(lambda connection: connection.execute(statement).rowcount):
            raise RecordRefused(f"{self.path}: {missing}, so it cannot be changed. Add it first.")

    def _writing(self) -> Writer:
        if self._writer is None:
            raise ReadOnly(f"{self.path}: these records are open for reading. The holder of the run's lock writes.")
        return self._writer

    # ------------------------------------------------------------------------------------------------------- reading

    def lineage(self) -> list[Piece]:
        """(segment, first step, last step or None) of the newest history, ascending and without overlap.

        Steps that a resume or a rewind overtook are cut off; None: the newest segment is open-ended.
        """
        with self._reading() as session:
            rows = session.execute(select(Segment.id, Segment.from_step, Segment.resumed_from).order_by(Segment.id))
            return lineage([(id, from_step, before) for id, from_step, before in rows])

    def series(self, name: str, max_points: int = 2000, lineage_only: bool = True) -> list[tuple[int, int, float]]:
        """(segment, step, value) of a metric, ascending; thinned to at most about `max_points` when longer.

        Thinning keeps the first and the last point and of each bucket of steps the lowest and the highest, so that a
        spike survives, and one NaN where there are any.
        """
        pieces: list[Piece] = (
            self.lineage() if lineage_only else [(segment.id, 0, None) for segment in self.rows(Segment)]
        )
        with self._reading() as session:
            raw = session.connection().connection.driver_connection
            assert raw is not None
            return series(raw, name, pieces, max_points)

    def newest(self, name: str) -> tuple[int, float] | None:
        """(step, value) of a metric at the newest step of the newest history."""
        pieces = self.lineage()
        with self._reading() as session:
            for segment, first, last in reversed(pieces):
                found = session.execute(
                    select(Metric.step, Metric.value)
                    .where(Metric.name == name, Metric.segment == segment, Metric.step >= first)
                    .where(Metric.step <= last if last is not None else True)  # type: ignore[arg-type]
                    .order_by(Metric.step.desc())
                    .limit(1)
                ).first()
                if found is not None:
                    return found.step, found.value
        return None

    def metric_names(self) -> list[str]:
        """Every metric's name, ascending: one seek per name, not a scan of the table."""
        names: list[str] = []
        with self._reading() as session:
            while (
                name := session.scalar(select(Metric.name).where(Metric.name > (names or [""])[-1]).limit(1))
            ) is not None:
                names.append(name)
        return names

    def readings(self, task: str | None = None, step: int | None = None, reading: str = "decode") -> list[Reading]:
        """Readings of the newest history, ascending by step, task and layer."""
        found: list[Reading] = []
        for segment, first, last in self.lineage():
            query = select(Reading).where(Reading.segment == segment, Reading.reading == reading, Reading.step >= first)
            if last is not None:
                query = query.where(Reading.step <= last)
            if task is not None:
                query = query.where(Reading.task == task)
            if step is not None:
                query = query.where(Reading.step == step)
            with self._reading() as session:
                found += session.scalars(query.order_by(Reading.step, Reading.task, Reading.layer))
        return found

    def reading_steps(self, reading: str = "decode") -> list[int]:
        """Steps of the newest history that have readings of this kind, ascending."""
        steps: set[int] = set()
        pieces = self.lineage()
        with self._reading() as session:
            for segment, first, last in pieces:
                query = select(Reading.step).where(Reading.segment == segment, Reading.reading == reading).distinct()
                for step in session.scalars(query):
                    if first <= step and (last is None or step <= last):
                        steps.add(step)
        return sorted(steps)

    def tasks(self, reading: str = "decode") -> list[str]:
        """Names that have readings of this kind, sorted."""
        with self._reading() as session:
            query = select(Reading.task).where(Reading.reading == reading).distinct().order_by(Reading.task)
            return list(session.scalars(query))

    def readings_by_regime(self) -> dict[int, int]:
        """How many steps have readings under each regime, of every segment. Counted in SQL: there may be 10^5 rows."""
        one = select(Reading.regime, Reading.segment, Reading.step).distinct().subquery()
        with self._reading() as session:
            counted = session.execute(select(one.c.regime, func.count()).group_by(one.c.regime))
            return {regime: count for regime, count in counted}

    def events(self, limit: int = 100) -> list[Event]:
        """The newest events, newest first."""
        with self._reading() as session:
            return list(session.scalars(select(Event).order_by(Event.id.desc()).limit(limit)))

    def latches(self) -> list[Latch]:
        """The reasons to stand still that are held now, oldest first."""
        with self._reading() as session:
            return list(session.scalars(select(Latch).order_by(Latch.since)))

    def segments(self) -> list[Segment]:
        return self.rows(Segment)

    def rows(self, kind: type[Row], **equal: Any) -> list[Row]:
        """Every row of a table, in the order of its key; `equal` names columns and the values they must have."""
        query = select(kind).filter_by(**equal).order_by(*kind.__table__.primary_key)
        with self._reading() as session:
            return list(session.scalars(query))

    def last_write_at(self) -> float | None:
        """Unix seconds of the newest commit."""
        return written_at(self.path)

    def problems(self) -> list[str]:
        """What SQLite's integrity check finds; empty is good. Seconds per GB."""
        with self._reading() as session:
            raw = session.connection()
            found = [str(line) for line in raw.exec_driver_sql("PRAGMA integrity_check").scalars() if line != "ok"]
            return found + [json.dumps(list(row)) for row in raw.exec_driver_sql("PRAGMA foreign_key_check")]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Session]:
        """A short look: rows outlive it, no lock does (a long reader would keep the WAL from being folded in)."""
        try:
            with Session(self._engine, expire_on_commit=False) as session:
                yield session
        except (exc.DatabaseError, sqlite3.DatabaseError) as error:  # a curve is read past SQLAlchemy
            cause = getattr(error, "orig", None) or error
            raise RecordsBroken(
                f"{self.path}: could not be read ({cause}). If this stays, restore it from a copy; "
                "checkpoints do not depend on it."
            ) from error
