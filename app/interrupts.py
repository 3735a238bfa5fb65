"""Ctrl-C that cannot be lost: a signal is raised as KeyboardInterrupt, and remembered where that was swallowed.

Python drops what a handler raises while a finalizer runs; a process that loads torch runs thousands of them. Seen: a server
that was told to stop in its first second went on to serve.
"""

import signal
from types import FrameType, TracebackType
from typing import Any, Self


class Interrupts:
    """A context manager inside of which signals are taken.

    Attributes:
        number: of the last signal that came; 0: none.
        raising: whether the next is raised, or only remembered.
    """

    def __init__(self, *signals: signal.Signals) -> None:
        self.number, self.raising = 0, True
        self._signals, self._before = signals, dict[signal.Signals, Any]()

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._take) for number in self._signals}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def check(self) -> None:
        """Raises KeyboardInterrupt where a signal has come."""
        if self.number:
            raise KeyboardInterrupt

    def ignore(self) -> None:
        """From now on: what has begun to stop is not to be stopped halfway."""
        for number in self._signals:
            signal.signal(number, signal.SIG_IGN)

    def _take(self, number: int, _: FrameType | None) -> None:
        self.number = number
        if self.raising:
            raise KeyboardInterrupt
