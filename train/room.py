"""When memory runs out within a step: the same step again, in smaller micro-batches.

The passes of a step either give all their gradients or leave nothing behind: then the micro-batch is halved, for good, and
the step is made again from the same batch. A step learns from as many sequences as before, in the same order, each with the
weight it had, so that the run goes on as one that was begun with the smaller micro-batch. The size is part of the
checkpoint's state. Of several processes none can step back alone: there the job ends, at its newest checkpoint, and says how
to go on.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from lab.corpus import Batch
from lab.errors import LabError
from lab.records import Event
from train.generators import kept_generators
from train.segment import Session

KIND = "out-of-memory"
_SAID = ("out of memory", "can't allocate memory")  # by torch: of graphics cards, and of the CPU
_ALONE = "with one sequence at a time"
Done = TypeVar("Done")


class NoRoom(LabError):
    """Memory ran out, and smaller micro-batches are no way out."""

    exit_code = 1


def within_memory(session: Session, passes: Callable[[], Done]) -> Done | None:
    """What a step's passes give. None where memory ran out: then all is as before them, but for the size of micro-batches.

    Raises:
        NoRoom: it ran out with one sequence at a time, or in one of several processes.
    """
    put_back = kept_generators()
    try:
        return passes()
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        if session.ranks.count > 1:
            raise _no_room_among(session) from None
    # Out here the error is gone, and with it the frames that held what the passes had made.
    session.optimizer.zero_grad(set_to_none=True)
    for intervention in session.interventions:
        again: Callable[[], None] | None = getattr(intervention, "again", None)
        if again is not None:
            again()
    put_back()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    _halve(session)
    return None


@contextmanager
def said_when_full(session: Session, where: str, way: str = "") -> Iterator[None]:
    """Around what takes the same memory whatever the micro-batch is: `where` that is, and a `way` out of its own.

    Raises:
        NoRoom: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        raise _no_room(session, where, way) from None


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there is no memory left."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(text in str(error) for text in _SAID)


def pieces(batches: Sequence[Batch], most: int | None) -> list[Batch]:
    """The same sequences in the same order, in micro-batches of at most `most`; bytes of what is cut are not counted."""
    cut: list[Batch] = []
    for batch in batches:
        if most is None or len(batch.tokens) <= most:
            cut.append(batch)
            continue
        parts = range(0, len(batch.tokens), most)
        cut += [Batch(batch.tokens[at : at + most], batch.mask[at : at + most], 0) for at in parts]
    return cut


def _halve(session: Session) -> None:
    train, before = session.config.train, _size(session)
    if before == 1:
        raise _no_room(session, _ALONE)
    now = before // 2
    number = -(-train.batch // now) * train.accumulation
    session.micro_batch = now
    session.saved_step = None  # a checkpoint of this step, if there is one, does not know of it yet
    text = (
        f"out of memory at step {session.step} with micro-batches of {before}: {now} sequences at a time from here on, "
        f"{number} times a step, so that a step still learns from {train.batch * train.accumulation}"
    )
    data = {"before": before, "micro_batch": now, "accumulation": number}
    at, step = time.time(), session.step
    session.records.add_now(Event(kind=KIND, text=text, at=at, segment=session.segment, step=step, data=data))
    session.say(f"{text}. For the next run: {_flags(session, now)}; see lab plan")


def _size(session: Session) -> int:
    """Sequences of a micro-batch now."""
    batch = session.config.train.batch
    return min(batch, session.micro_batch or batch)


def _flags(session: Session, size: int) -> str:
    """How to configure a run whose micro-batches have this size from the start."""
    train = session.config.train
    if train.batch % size:
        return "a smaller train.batch"
    return f"--set train.batch={size} --set train.accumulation={train.batch // size * train.accumulation}"


def _no_room_among(session: Session) -> NoRoom:
    """Of several processes: whoever goes on alone finds the size that fits, and several can join it again."""
    ranks, size, name = session.ranks, _size(session), session.run.name
    where = f"in process {ranks.rank} of {ranks.count}"
    if size == 1:
        return _no_room(session, f"{where}, {_ALONE}")
    return NoRoom(
        f"{name}: out of memory at step {session.step} {where} with micro-batches of {size}, which several processes do not "
        f"make smaller on the way. One process does: go on from the newest checkpoint with lab resume {name}. Or begin a new "
        f"run with {_flags(session, size // 2)}; see lab plan."
    )


def _no_room(session: Session, where: str, way: str = "") -> NoRoom:
    blocks = "" if session.config.train.checkpoint_blocks else ", or --set train.checkpoint_blocks=true"
    return NoRoom(
        f"{session.run.name}: out of memory at step {session.step} {where}. See what takes it, and what would fit: "
        f"lab plan --config {session.run.path / 'config.toml'}. Then a smaller model.n_ctx or a smaller model{blocks}{way}."
    )
