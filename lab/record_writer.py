"""The one thread that writes `run.db`. Adding a row costs the training loop a list append; nothing added is lost in silence.

Rows wait in memory and are committed together at most twice a second. Work that someone waits for (a durable row, a flush)
is done at once, synchronous FULL. A row that the database refuses (a duplicate, a segment that is not there) costs only
itself; a disk that refuses costs nothing yet: the rows are kept and tried again. Either way the next caller hears of it.
"""

import atexit
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, exc, insert

from lab.database import connect_for_writing, writing_engine
from lab.errors import LabError
from lab.tables import Base

SECONDS_BETWEEN_COMMITS = 0.5
_INSERT_METRIC = "INSERT INTO metrics (name, segment, step, value) VALUES (?, ?, ?, ?)"
DISK_ERRORS = (exc.OperationalError, sqlite3.OperationalError)  # full, locked, read-only: not the row's fault
Result = TypeVar("Result")
MetricRow = tuple[str, int, int, float]


class RecordRefused(LabError):
    """The database refused a row: it exists already, or it points at something that does not."""


class RecordsUnwritable(LabError):
    """The disk refused; rows wait in memory and are tried again."""


class RecordsClosed(LabError):
    """Something was added after `close`."""


class Writer:
    """Owns the writing connection of one database and the thread that uses it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = connect_for_writing(path)
        self._engine = writing_engine(self._connection)
        self._changed = threading.Condition()
        self._rows: list[Base] = []  # guarded by _changed, as all below
        self._metrics: list[MetricRow] = []
        self._jobs: list[tuple[Callable[[Connection], Any], Future[Any]]] = []
        self._failures: list[LabError] = []
        self._closing = self._closed = False
        self._due = 0.0  # these three are used by the thread alone: when the next unhurried commit may be,
        self._durable = True  # whether commits now reach the disk before they return,
        self._unsynced = False  # and whether one since the last durable one did not
        self._thread = threading.Thread(target=self._work, name=f"records of {path.parent.name}", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # a script that forgets to close keeps its last half second

    def add(self, rows: Iterable[Base]) -> None:
        self._raise_failures()
        with self._changed:
            self._require_open()
            self._rows.extend(rows)
            self._changed.notify()

    def add_metrics(self, rows: Iterable[MetricRow]) -> None:
        self._raise_failures()
        with self._changed:
            self._require_open()
            self._metrics.extend(rows)
            self._changed.notify()

    def now(self, job: Callable[[Connection], Result]) -> Result:
        """Run `job` in its own durable transaction, after everything added so far; its exception is the caller's."""
        future: Future[Result] = Future()
        with self._changed:
            self._require_open()
            self._jobs.append((job, future))
            self._changed.notify()
        return future.result()

    def flush(self) -> None:
        self.now(_nothing)
        self._raise_failures()

    def close(self) -> None:
        """Commit what waits, fold the WAL into the file, and say what failed since anybody asked."""
        with self._changed:
            if self._closed:
                return
            self._closing = self._closed = True
            self._changed.notify()
        self._thread.join()
        atexit.unregister(self.close)
        lost = len(self._rows) + len(self._metrics)
        if lost:
            self._failures.append(RecordsUnwritable(f"{self.path}: {lost} rows could not be written and are lost."))
        self._raise_failures()

    def _require_open(self) -> None:
        if self._closed:
            raise RecordsClosed(f"{self.path}: these records are closed. Open the run again to add to them.")

    def _raise_failures(self) -> None:
        with self._changed:
            failures, self._failures = self._failures, []
        if len(failures) == 1:
            raise failures[0]
        if failures:
            raise type(failures[0])(f"{failures[0]} ({len(failures)} such failures since the last call.)")

    # -------------------------------------------------------------------------------------------- the writing thread

    def _work(self) -> None:
        try:
            while self._take_and_commit():
                pass
            self._end()
        except BaseException as error:  # a defect of ours: everyone who waits, and the next caller, must hear of it
            failure = self._unwritable(error)
            with self._changed:
                self._closed = True
                self._failures.append(failure)
                jobs, self._jobs = self._jobs, []
            for _, future in jobs:
                future.set_exception(failure)
            raise

    def _take_and_commit(self) -> bool:
        """Wait for work, do it, and say whether to go on."""
        with self._changed:
            while not (self._rows or self._metrics or self._jobs or self._closing):
                self._changed.wait()
            while not (self._jobs or self._closing) and (rest := self._due - time.monotonic()) > 0:
                self._changed.wait(rest)
            rows, self._rows = self._rows, []
            metrics, self._metrics = self._metrics, []
            jobs, self._jobs = self._jobs, []
            closing = self._closing
        try:
            self._durable = bool(jobs) or closing
            self._connection.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
            kept = self._commit(rows, metrics)
            for job, future in jobs:
                self._run(job, future, kept)
        except BaseException as error:
            for _, future in jobs:
                if not future.done():
                    future.set_exception(self._unwritable(error))
            raise
        self._due = time.monotonic() + SECONDS_BETWEEN_COMMITS
        return not closing

    def _commit(self, rows: list[Base], metrics: list[MetricRow]) -> LabError | None:
        """One transaction for everything; if a row spoils it, again with each row by itself.

        Returns what kept the rows from being written, if the disk did: they wait for the next attempt.
        """
        if not rows and not metrics:
            return None
        try:
            with self._engine.begin() as connection:
                for kind, group in groupby(rows, type):
                    connection.execute(insert(kind), [_values(row) for row in group])
                if metrics:
                    connection.exec_driver_sql(_INSERT_METRIC, metrics)
        except DISK_ERRORS as error:
            return self._keep(rows, metrics, error)
        except Exception:
            return self._commit_singly(rows, metrics)
        self._unsynced = not self._durable
        return None

    def _commit_singly(self, rows: list[Base], metrics: list[MetricRow]) -> LabError | None:
        refused: list[LabError] = []
        try:
            with self._engine.begin() as connection:
                waiting: list[Base | MetricRow] = [*rows, *metrics]
                for row in waiting:
                    try:
                        with connection.begin_nested():
                            if isinstance(row, Base):
                                connection.execute(insert(type(row)), [_values(row)])
                            else:
                                connection.exec_driver_sql(_INSERT_METRIC, row)
                    except DISK_ERRORS:
                        raise
                    except Exception as error:
                        refused.append(self._refusal(row, error))
        except DISK_ERRORS as error:
            return self._keep(rows, metrics, error)
        self._unsynced = not self._durable
        with self._changed:
            self._failures.extend(refused)
        return None

    def _keep(self, rows: list[Base], metrics: list[MetricRow], error: Exception) -> LabError:
        failure = self._unwritable(error)
        with self._changed:
            self._rows[:0], self._metrics[:0] = rows, metrics
            if not any(isinstance(known, RecordsUnwritable) for known in self._failures):
                self._failures.append(failure)
        return failure

    def _run(self, job: Callable[[Connection], Any], future: "Future[Any]", kept: LabError | None) -> None:
        if job is _nothing and kept is not None:
            return future.set_exception(kept)
        try:
            with self._engine.begin() as connection:
                result = job(connection)
                if job is _nothing and self._unsynced:
                    # A commit syncs the whole WAL, but an empty one is skipped: rewrite a value that every file has.
                    version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
                    connection.exec_driver_sql(f"PRAGMA user_version = {version}")
            self._unsynced = False
        except DISK_ERRORS as error:
            future.set_exception(self._unwritable(error))
        except Exception as error:
            future.set_exception(error)
        else:
            future.set_result(result)

    def _end(self) -> None:
        try:
            self._connection.execute("PRAGMA busy_timeout = 500")  # a reader in mid-query need not be waited for
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:  # every row is in the WAL already, which the next writer folds in
            with self._changed:
                self._failures.append(self._unwritable(error))
        finally:
            self._engine.dispose()
            self._connection.close()

    def insert(self, connection: Connection, rows: Iterable[Base]) -> None:
        """Insert rows in the caller's transaction and give each its id. Raises RecordRefused."""
        for row in rows:
            try:
                key = connection.execute(insert(type(row)).values(_values(row))).inserted_primary_key
            except DISK_ERRORS:
                raise
            except Exception as error:
                raise self._refusal(row, error) from error
            if key is not None and getattr(row, "id", "given") is None:
                row.id = key[0]  # type: ignore[attr-defined]

    def _refusal(self, row: Base | MetricRow, error: Exception) -> RecordRefused:
        if isinstance(row, Base):
            table = type(row).__table__
            key = ", ".join(f"{column.key} = {getattr(row, column.key)!r}" for column in table.primary_key)
            name = str(table.description)
        else:
            name, key = "metrics", f"name = {row[0]!r}, segment = {row[1]}, step = {row[2]}"
        cause = str(getattr(error, "orig", None) or error)
        remedy = "Correct the row and add it again."
        if "UNIQUE" in cause:
            remedy = (
                "There is such a row already, and rows are never overwritten: open a new segment, or use another key."
            )
        elif "FOREIGN KEY" in cause:
            remedy = "It points at a segment, regime, entry or claim that is not recorded: add that first."
        return RecordRefused(f"{self.path}: {name} ({key}) was refused: {cause}. {remedy}")

    def _unwritable(self, error: BaseException) -> RecordsUnwritable:
        return RecordsUnwritable(
            f"{self.path}: cannot be written now ({getattr(error, 'orig', None) or error}). "
            "Rows wait in memory and are tried again; make room on the disk or end what locks the file."
        )


def _nothing(connection: Connection) -> None:
    """The job of a flush: everything before it is committed by then."""


def _values(row: Base) -> dict[str, Any]:
    return {column.key: getattr(row, column.key) for column in type(row).__table__.columns}
