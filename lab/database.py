"""Opening `run.db`: SQLite in WAL mode, one connection that writes, readers that cannot, versions that only go forward.

One writing process and read-only readers is not only our rule: SQLite before 3.51.3 could corrupt a WAL database when two
connections wrote or checkpointed at the same instant. Not for network file systems (WAL needs shared memory).
"""

import contextlib
import os
import shutil
import sqlite3
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Engine, Executable, create_engine, event
from sqlalchemy.dialects import sqlite as dialect
from sqlalchemy.pool import QueuePool, StaticPool
from sqlalchemy.schema import CreateIndex, CreateTable

from lab import spans
from lab.errors import LabError
from lab.tables import Base

VERSION = 2
READABLE = 1  # the oldest version that is read as it is: since then came spans, without which a curve only takes longer
# From version n to n + 1, as SQL that is never edited once released: tables.py describes only the newest version.
MIGRATIONS: dict[int, tuple[str, ...]] = {1: spans.ADDED}
APPLICATION = 0x4C414221  # "LAB!": tells our files from other programs' databases
_BUSY_SECONDS = 5.0
_WRITER_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = NORMAL",  # a power cut may take the last commits, never the file; FULL where it must not
    "PRAGMA foreign_keys = ON",
    "PRAGMA wal_autocheckpoint = 1000",
    "PRAGMA journal_size_limit = 67108864",
)


class RecordsMissing(LabError):
    """There is no database yet."""


class RecordsBroken(LabError):
    """The file is not a database of ours, or is damaged."""


class RecordsTooNew(LabError):
    """A newer version of the lab wrote the file."""


def connect_for_writing(path: Path) -> sqlite3.Connection:
    """The writing connection: the file is created (mode 0600) or brought to this version first.

    Raises:
        RecordsTooNew, RecordsBroken: nothing was changed.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
        connection = _connect(f"file:{quote(str(path.absolute()))}?mode=rw")
    except (OSError, sqlite3.OperationalError) as error:
        raise RecordsBroken(
            f"{path}: cannot be opened for writing ({error}). Make the run's folder writable."
        ) from error
    try:
        with _broken_if_unreadable(path):
            version = _version(connection, path)
            for pragma in _WRITER_PRAGMAS:
                connection.execute(pragma)
            if version == 0:
                _in_one_transaction(connection, _schema(), VERSION)
            elif version < VERSION:
                _bring_up(connection, path, version)
    except BaseException:
        connection.close()
        raise
    return connection


def _bring_up(connection: sqlite3.Connection, path: Path, version: int) -> None:
    try:
        _back_up(connection, path, version)
        upgrade(connection, version)
    except (sqlite3.OperationalError, OSError) as error:
        raise RecordsBroken(
            f"{path}: could not be brought from records version {version} to {VERSION} ({error}). "
            "Nothing is lost: make room on the disk or end what locks the file, then try again."
        ) from error


def upgrade(connection: sqlite3.Connection, version: int) -> None:
    """Bring a database from `version` to VERSION, each step in one transaction: a kill leaves the step undone or done."""
    for older in range(version, VERSION):
        _in_one_transaction(connection, MIGRATIONS[older], older + 1)


def writing_engine(connection: sqlite3.Connection) -> Engine:
    """SQLAlchemy on the one writing connection; a transaction takes the write lock at its beginning."""
    engine = create_engine("sqlite://", creator=lambda: connection, poolclass=StaticPool)
    event.listen(engine, "begin", lambda begun: begun.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def reading_engine(path: Path) -> Engine:
    """SQLAlchemy on connections that cannot write, whether the run lives, is finished, or lies on a read-only disk.

    A version older than `READABLE` is read through a copy in memory, upgraded there: readers never change a file.

    Raises:
        RecordsMissing, RecordsBroken, RecordsTooNew
    """
    if not path.is_file():
        raise _missing(path)
    with _broken_if_unreadable(path), contextlib.ExitStack() as failing:
        uri, cleanup = _readable(path)
        failing.callback(cleanup)
        with contextlib.closing(_connect(uri)) as probe:
            version = _version(probe, path)
            if version == 0:
                raise _missing(path)
            if version < READABLE:
                return _upgraded_in_memory(probe, path)
        engine = create_engine("sqlite://", creator=lambda: _connect_read_only(uri), poolclass=QueuePool, pool_size=4)
        weakref.finalize(engine, failing.pop_all().close)
    return engine


def _missing(path: Path) -> RecordsMissing:
    return RecordsMissing(f"{path}: there are no records yet. They begin with the run's first training step.")


def _upgraded_in_memory(file: sqlite3.Connection, path: Path) -> Engine:
    memory = _connect(":memory:")
    file.backup(memory)
    upgrade(memory, _version(memory, path))  # of the copy: a writer may have upgraded the file meanwhile
    memory.execute("PRAGMA query_only = ON")
    return create_engine("sqlite://", creator=lambda: memory, poolclass=StaticPool)


def _connect(uri: str) -> sqlite3.Connection:
    # Transactions are ours to begin and end; a connection is used by one thread at a time, not always the same one.
    return sqlite3.connect(uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def _connect_read_only(uri: str) -> sqlite3.Connection:
    connection = _connect(uri)
    connection.execute("PRAGMA query_only = ON")
    return connection


def read_rows(path: Path, query: Executable) -> Sequence[Any]:
    """All rows of one query, through a connection that is closed again. For a page that looks once."""
    engine = reading_engine(path)
    try:
        with engine.connect() as connection:
            return connection.execute(query).all()
    finally:
        engine.dispose()


def _readable(path: Path) -> tuple[str, Callable[[], object]]:
    """An address at which the file can be read, and what to do when nobody reads it any more."""
    quoted = quote(str(path.absolute()))
    wal = path.with_name(path.name + "-wal")
    try:
        with contextlib.closing(_connect(f"file:{quoted}?mode=ro")) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return f"file:{quoted}?mode=ro", _nothing
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            raise
    # A WAL database wants to make files beside itself even to be read, and here it may not.
    if not wal.exists() or not wal.stat().st_size:
        return f"file:{quoted}?mode=ro&immutable=1", _nothing
    copy = Path(tempfile.mkdtemp(prefix="lab-records-"))
    for file in (path, wal):
        shutil.copyfile(file, copy / file.name)
    return f"file:{quote(str(copy / path.name))}?mode=ro", lambda: shutil.rmtree(copy, ignore_errors=True)


def _nothing() -> None:
    """No copy was made, so there is none to delete."""


def _version(connection: sqlite3.Connection, path: Path) -> int:
    """The file's version, 0 for an empty file."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    application = int(connection.execute("PRAGMA application_id").fetchone()[0])
    tables = int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
    if not tables and not version:
        return 0
    if application != APPLICATION or version < 1:
        raise RecordsBroken(f"{path}: is a database of another program. Move it away; nothing was changed.")
    if version > VERSION:
        raise RecordsTooNew(
            f"{path}: was written by a newer lab (records version {version}; this one knows up to {VERSION}). "
            "Update brightwoven-lab; nothing was changed."
        )
    return version


def _schema() -> list[str]:
    sqlite = dialect.dialect()
    tables = Base.metadata.sorted_tables
    indexes = [index for table in tables for index in sorted(table.indexes, key=lambda index: str(index.name))]
    statements = [CreateTable(table) for table in tables] + [CreateIndex(index) for index in indexes]
    return [
        f"PRAGMA application_id = {APPLICATION}",
        *(str(statement.compile(dialect=sqlite)) for statement in statements),
        *spans.SCHEMA,
    ]


def _in_one_transaction(connection: sqlite3.Connection, statements: tuple[str, ...] | list[str], version: int) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in statements:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _back_up(connection: sqlite3.Connection, path: Path, version: int) -> None:
    """Keep the file as it was, whole under its name or not there at all: `run.db.version-1`."""
    temporary = path.with_name(f".tmp-{path.name}-{os.urandom(4).hex()}")
    os.close(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        with contextlib.closing(sqlite3.connect(temporary)) as copy:
            connection.backup(copy)
        os.replace(temporary, path.with_name(f"{path.name}.version-{version}"))
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _broken_if_unreadable(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise RecordsBroken(
            f"{path}: cannot be read as a database ({error}). Restore it from a copy; "
            "checkpoints do not depend on it, and `lab resume` can go on with a new one once this one is moved away."
        ) from error
