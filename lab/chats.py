"""Every exchange with a model, in the run's `chats.db`: what was asked, of which weights, with which seed, and the tokens.

Written by the server alone (or by `lab chat` where no server runs), one writer at a time; nothing that trains reads it, but
for a run that was told to (`data.chats`). An exchange is recorded before its first token leaves, with all that decides its
tokens, so a kill loses no record: what was cut short can be made again, word for word, by `reproduce`. No torch until then.
"""

import contextlib
import os
import sqlite3
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self
from urllib.parse import quote

from filelock import FileLock, Timeout
from sqlalchemy import JSON, ColumnElement, Engine, create_engine, func, literal_column, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, Session, mapped_column
from sqlalchemy.pool import StaticPool

from lab.errors import LabError

if TYPE_CHECKING:
    from lab.generate import Generation
    from lab.run import Run

DATABASE, LOCK = "chats.db", "chats.lock"
APPLICATION, VERSION = 0x4C414243, 1  # "LABC"
_PATIENCE = 0.5  # seconds
_PLAINLY = {"synchronize_session": False}  # no object of the session is to be brought up to date
_BUSY_SECONDS = 5.0


def use(trained_on: bool) -> str:
    """What is said to people before they talk, by the run's `data.chats`."""
    return "used for training: data.chats = true" if trained_on else "not used for training"


class ChatsUnwritable(LabError):
    """The record of exchanges cannot be kept, so none is begun."""

    exit_code = 1


class ChatsMissing(LabError):
    """No exchange was ever recorded, or none of that name."""


class Irreproducible(LabError):
    """The weights that answered are not there any more."""


class Base(MappedAsDataclass, DeclarativeBase, kw_only=True):
    type_annotation_map: ClassVar[dict[Any, Any]] = {dict[str, Any]: JSON, list[int]: JSON, list[dict[str, str]]: JSON}


class Exchange(Base):
    """One question and its answer.

    Attributes:
        id: as the client was told it.
        checkpoint: sha256 of the weights; tokenizer: sha256 of what cut the words.
        asked: the messages as they came (a completion's prompt: one of role "prompt").
        system_prompt: the server's, where it was put in front of the messages.
        heard: how many messages the model read; the oldest are left out where the context is too short.
        prompt_ids, seed, settings: with the weights, all that decides the answer.
        state: begun, done, abandoned (the client left), failed, or interrupted (the server was killed).
    """

    __tablename__ = "exchanges"
    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    run: Mapped[str]
    step: Mapped[int]
    checkpoint: Mapped[str]
    tokenizer: Mapped[str]
    client: Mapped[str]
    asked: Mapped[list[dict[str, str]]]
    system_prompt: Mapped[str | None]
    heard: Mapped[int]
    prompt_ids: Mapped[list[int]]
    seed: Mapped[int]
    settings: Mapped[dict[str, Any]]
    begun_at: Mapped[float] = mapped_column(default_factory=time.time)
    state: Mapped[str] = mapped_column(default="begun")
    ids: Mapped[list[int]] = mapped_column(default_factory=list)
    text: Mapped[str] = mapped_column(default="")
    finish_reason: Mapped[str | None] = mapped_column(default=None)
    ended_at: Mapped[float | None] = mapped_column(default=None)


class Chats:
    """See `writer` and `reader`. Usable from several threads; a context manager that closes."""

    def __init__(self, path: Path, engine: Engine, lock: FileLock | None) -> None:
        self.path = path
        self._engine, self._lock = engine, lock
        self._one_at_a_time = threading.Lock()

    @classmethod
    def writer(cls, run: Path) -> Self:
        """Be the one who writes to the run's exchanges; those that a kill cut short are marked `interrupted`.

        Raises:
            ChatsUnwritable: somebody else does, or the folder or file cannot be written to.
        """
        path = run / DATABASE
        lock = FileLock(run / LOCK, timeout=_PATIENCE, poll_interval=0.02, mode=0o600, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            raise ChatsUnwritable(
                f"{path}: another server or chat keeps it. Talk through that one, or stop it first."
            ) from None
        except OSError as error:
            raise ChatsUnwritable(f"{path}: cannot be locked ({error}). Make the run's folder writable.") from None
        try:
            engine = create_engine("sqlite://", creator=lambda: _opened(path), poolclass=StaticPool)
            Base.metadata.create_all(engine)
            with Session(engine) as session, session.begin():
                session.execute(update(Exchange).where(Exchange.state == "begun").values(state="interrupted"))
        except (OSError, sqlite3.Error, SQLAlchemyError) as error:
            lock.release()
            raise ChatsUnwritable(
                f"{path}: cannot be written to ({_reason(error)}). Move it away, or mend it."
            ) from None
        except BaseException:
            lock.release()
            raise
        return cls(path, engine, lock)

    @classmethod
    def reader(cls, run: Path) -> Self:
        """Read what a server writes, live or not.

        Raises:
            ChatsMissing: there is nothing to read.
        """
        path = run / DATABASE
        if not path.is_file():
            raise ChatsMissing(f"{path}: nobody has talked with this run yet. Begin with: lab chat {run.name}")
        address = f"file:{quote(str(path.absolute()))}?mode=ro"
        return cls(path, create_engine("sqlite://", creator=lambda: _connect(address), poolclass=StaticPool), None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Fold the WAL into the file, and let another writer come."""
        with self._one_at_a_time:
            if self._lock is not None:
                with contextlib.suppress(SQLAlchemyError), self._engine.connect() as connection:
                    connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
            self._engine.dispose()
            if self._lock is not None:
                self._lock.release()

    def begin(self, exchange: Exchange) -> None:
        """Put a new exchange on disk. Raises ChatsUnwritable."""
        with self._writing() as session:
            session.add(exchange)

    def end(self, id: str, state: str, ids: list[int], text: str, finish_reason: str | None) -> None:
        """Say what became of it, on disk when this returns. Raises ChatsUnwritable."""
        values = {"state": state, "ids": ids, "text": text, "finish_reason": finish_reason, "ended_at": time.time()}
        with self._writing() as session:
            session.execute(update(Exchange).where(Exchange.id == id).values(**values), execution_options=_PLAINLY)

    def exchange(self, id: str) -> Exchange:
        """Raises ChatsMissing."""
        with self._one_at_a_time, Session(self._engine, expire_on_commit=False) as session:
            found = session.get(Exchange, id)
        if found is None:
            raise ChatsMissing(f"{self.path}: has no exchange {id[:80]!r}.")
        return found

    def exchanges(self, limit: int = 100) -> list[Exchange]:
        """The newest, newest first."""
        wanted = select(Exchange).order_by(Exchange.begun_at.desc(), Exchange.id).limit(limit)
        with self._one_at_a_time, Session(self._engine, expire_on_commit=False) as session:
            return list(session.scalars(wanted))

    def said_after(self, last: str) -> list[tuple[str, list[dict[str, str]]]]:
        """Messages of every chat recorded after the exchange `last`, in the order of recording, each with its id.

        By rowid, which grows with every commit. The time begun does not: clocks are set back, and of two exchanges the one
        begun later may be recorded first. All chats where there is no exchange `last`: it was one of another record, which
        was moved away, or of the run that this one branched from.
        """
        rowid: ColumnElement[int] = literal_column("rowid")
        with self._one_at_a_time, Session(self._engine) as session:
            before = session.scalar(select(rowid).select_from(Exchange).where(Exchange.id == last)) or 0
            wanted = select(Exchange.id, Exchange.asked).where(Exchange.kind == "chat", rowid > before).order_by(rowid)
            return [(id, asked) for id, asked in session.execute(wanted)]

    def count(self) -> int:
        with self._one_at_a_time, Session(self._engine) as session:
            return session.scalar(select(func.count()).select_from(Exchange)) or 0

    @contextlib.contextmanager
    def _writing(self) -> Any:
        try:
            with self._one_at_a_time, Session(self._engine, expire_on_commit=False) as session, session.begin():
                yield session
        except (OSError, sqlite3.Error, SQLAlchemyError) as error:
            raise ChatsUnwritable(f"{self.path}: the exchange cannot be recorded ({_reason(error)}).") from None


def reproduce(run: "Run", exchange: Exchange) -> "Generation":
    """The answer made again from the record alone: the same tokens, however the first one ended.

    Raises:
        Irreproducible: that checkpoint is gone, or its weights or tokenizer are others now.
    """
    from lab.generate import Sampling, generate
    from lab.run import CheckpointMissing

    try:
        info = run.checkpoint_info(exchange.step)
    except CheckpointMissing as error:
        raise Irreproducible(f"exchange {exchange.id}: {error}") from None
    tokenizer = run.tokenizer()
    if (info.weights_sha256, tokenizer.sha256) != (exchange.checkpoint, exchange.tokenizer):
        raise Irreproducible(
            f"exchange {exchange.id}: step {exchange.step} of {run.name} has other weights or another tokenizer now."
        )
    settings = exchange.settings | {"stop": tuple(exchange.settings["stop"])}
    return generate(run.model(exchange.step), tokenizer, exchange.prompt_ids, Sampling(seed=exchange.seed, **settings))


def _opened(path: Path) -> sqlite3.Connection:
    """The writing connection; the file is made (mode 0600) where there is none, and never reached through a link."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
    connection = _connect(f"file:{quote(str(path.absolute()))}?mode=rw")
    try:
        tables = int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
        mark = int(connection.execute("PRAGMA application_id").fetchone()[0])
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if tables and (mark, version) != (APPLICATION, VERSION):
            raise sqlite3.DatabaseError("it is another program's, or a newer lab's")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(
            "PRAGMA synchronous = NORMAL"
        )  # as run.db: a kill takes nothing, a power cut the last commits
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(address: str) -> sqlite3.Connection:
    return sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS, check_same_thread=False)


def _reason(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0][:200]
