"""One piece of work with the model at a time, in order of arrival, in one thread of its own; beyond a bound, refused.

The thread makes items (pieces of an answer, or one result) and the event loop takes them as they come. Whoever leaves frees
the place at once: waiting work is taken out of the line, running work ends before its next token.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from lab.errors import LabError

T = TypeVar("T")
Work = Callable[[Callable[[], bool]], Iterator[T]]  # given `gone`, makes items
MOST_WAITING = 32
LAST_WORD_SECONDS = 1.0  # that running work gets to end by itself when all is to end: it notices before its next token


class QueueFull(LabError):
    """More work waits than will be taken on."""

    exit_code = 1


class Stopping(LabError):
    """The server is going down: nothing is begun any more, and what was begun ends early."""

    exit_code = 1

    def __init__(self) -> None:
        super().__init__("the server is stopping. Ask again when it is back.")


class _End:
    """After the last item."""


class Turn(Generic[T]):
    """A place in the line, and what comes of it. For the event loop that asked."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[T | BaseException | _End] = asyncio.Queue()
        self._left = threading.Event()
        self._stopped = False
        self._future: Future[None] | None = None

    async def next(self, seconds: float | None = None) -> T:
        """The next item.

        Raises:
            TimeoutError: none within `seconds`; ask again.
            StopAsyncIteration: there are no more.
            Exception: what the work raised.
        """
        item = await asyncio.wait_for(self._items.get(), seconds)
        if isinstance(item, _End):
            raise StopAsyncIteration
        if isinstance(item, BaseException):
            raise item
        return item

    def __aiter__(self) -> "Turn[T]":
        return self

    async def __anext__(self) -> T:
        return await self.next()

    def leave(self) -> None:
        """Nobody waits for this any more. Safe to call twice, and after the end."""
        self._left.set()
        if self._future is not None:
            self._future.cancel()

    def stop(self) -> None:
        """The server goes down: whoever waits hears `Stopping`, at once or in place of the next item."""
        self._stopped = True
        self._left.set()
        if self._future is not None and self._future.cancel():
            self._tell(Stopping())

    def run(self, work: Work[T]) -> None:
        """In the worker thread: make the items."""
        try:
            if self._left.is_set():
                self._tell(Stopping() if self._stopped else _End())
                return
            for item in work(self._left.is_set):
                self._tell(item)
            self._tell(_End())
        except BaseException as error:  # the thread must live on, and whoever asked must hear
            self._tell(Stopping() if self._stopped else error)

    def _tell(self, item: T | BaseException | _End) -> None:
        try:
            self._loop.call_soon_threadsafe(self._items.put_nowait, item)
        except RuntimeError:  # the loop is closed: the server is going down
            self._left.set()


@dataclass
class Turns:
    """The line. `waiting` counts those that have not begun, `busy` tells whether one has.

    Attributes:
        most: that may wait; the next one is refused.
    """

    most: int = MOST_WAITING
    waiting: int = 0
    busy: bool = False
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="model"))
    _count: threading.Lock = field(default_factory=threading.Lock)
    _turns: "set[Turn[Any]]" = field(default_factory=set)  # that have not ended
    _stopping: bool = False

    def take(self, work: Work[T]) -> Turn[T]:
        """Stand in line.

        Raises:
            QueueFull
            Stopping: `stop` was called.
        """
        turn: Turn[T] = Turn()
        with self._count:
            if self._stopping:
                raise Stopping
            if self.waiting >= self.most + (not self.busy):
                raise QueueFull(f"{self.waiting} requests wait already, and {self.most} may. Ask again in a moment.")
            self.waiting += 1
            self._turns.add(turn)

        def begin() -> None:
            with self._count:
                self.waiting, self.busy = self.waiting - 1, True
            try:
                turn.run(work)
            finally:
                with self._count:
                    self.busy = False

        def ended(future: "Future[None]") -> None:
            with self._count:
                self._turns.discard(turn)
                self.waiting -= future.cancelled()  # it left early

        turn._future = self._pool.submit(begin)
        turn._future.add_done_callback(ended)
        return turn

    def stop(self) -> None:
        """Take nothing more on, begin nothing that waits, and end what runs before its next token."""
        with self._count:
            self._stopping = True
            turns = list(self._turns)
        for turn in turns:
            turn.stop()

    def close(self) -> None:
        """`stop`, and wait for what runs: shortly, since work that cannot be told to end may take minutes."""
        self.stop()
        with self._count:
            running = [turn._future for turn in self._turns if turn._future is not None]
        wait(running, LAST_WORD_SECONDS)
        self._pool.shutdown(wait=False)
