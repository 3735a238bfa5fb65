"""When memory runs out within a step: the same step again, in smaller micro-batches.

The passes of a step either give all their gradients or leave nothing behind: then the micro-batch is halved, for good, and
the step is made again from the same batch. A step learns from as many sequences as before, in the same order, each with the
weight it had, so that the run goes on as one that was begun with the smaller micro-batch. The size is part of the
checkpoint's state. Of several processes none can step back alone: there the job ends, at its newest checkpoint.
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
Done = TypeVar("Done")


class NoRoom(LabError):
    """Memory ran out, and smaller micro-batches are no way out."""

    exit_code = 1


def within_memory(session: Session, passes: Callable[[], Done]) -> Done | None:
    """What a step's passes give. None where memory ran out: then all is as before them, but for the size of micro-batches.

    Raises:
        NoRoom: it ran out with one sequence at a time.
    """
    put_back = kept_generators()
    try:
        return passes()
    except (RuntimeError, MemoryError) as error:
        if session.ranks.count > 1 or not ran_out(error):
            raise
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
def said_when_full(session: Session) -> Iterator[None]:
    """Around the update, which takes the same memory whatever the micro-batch is.

    Raises:
        NoRoom: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        raise _no_room(session, "in the optimizer's update, whose memory no smaller micro-batch changes") from None


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
    train = session.config.train
    before = min(train.batch, session.micro_batch or train.batch)
    if before == 1:
        raise _no_room(session, "with one sequence at a time")
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
    flags = f"--set train.batch={now} --set train.accumulation={number}"
    session.say(
        f"{text}. For the next run: {flags if train.batch % now == 0 else 'a smaller train.batch'}; see lab plan"
    )


def _no_room(session: Session, where: str) -> NoRoom:
    blocks = "" if session.config.train.checkpoint_blocks else ", or --set train.checkpoint_blocks=true"
    return NoRoom(
        f"{session.run.name}: out of memory at step {session.step} {where}. See what takes it, and what would fit: "
        f"lab plan --config {session.run.path / 'config.toml'}. Then a smaller model.n_ctx or a smaller model{blocks}."
    )
