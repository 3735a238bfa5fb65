"""Standing still and stopping: latches by owner, and the signals a person or the system sends.

Read at step boundaries only. Training moves while no latch is held; lifting one owner's latch never lifts another's.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lab.records import Records

POLL_SECONDS = 0.2


class Control:
    """The latches and stop requests of one segment."""

    def __init__(self, records: Records) -> None:
        self.records = records
        self.held: dict[str, str] = {latch.owner: latch.reason for latch in records.latches()}
        self.stop_reason: str | None = None

    def hold(self, owner: str, reason: str, step: int) -> bool:
        """Hold the owner's latch, durably. Holding it again changes nothing: False, and the first reason stays."""
        held = self.records.hold(owner, reason, step, severity="critical")
        if held:
            self.held[owner] = reason
        return held

    def release(self, owner: str, step: int) -> bool:
        """Lift the owner's latch; False if it holds none."""
        return self.held.pop(owner, None) is not None and self.records.release(owner, step)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Within, the first SIGINT or SIGTERM asks training to save and stop; a second one aborts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, _: FrameType | None) -> None:
            if self.stop_reason is not None:
                raise KeyboardInterrupt
            self.stop_reason = signal.Signals(number).name

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
