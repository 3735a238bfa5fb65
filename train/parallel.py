"""Several processes as one trainer: `torchrun --nproc-per-node 2 -m train …`.

Every process (rank) walks the same corpus stream and computes the gradients of its share of each step's rows; torch's
DistributedDataParallel (Li et al. 2020, arXiv:2006.15704) adds them up, over gloo on CPUs and NCCL on graphics cards. From
there on all ranks do the same to the same numbers, so they hold the same weights, bit for bit. Whatever else there is (the
run's lock, records, attachments, commands, checkpoints) is rank 0's: the others wait at the boundary between two steps and
take over what came of it. So nothing in a checkpoint depends on how many ranks there were.

`Ranks` is one process, which shares nothing with nobody; `Job` is one of several.
"""

import contextlib
import copy
import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lab import state_json
from lab.config import RunConfig
from lab.corpus import Batch
from lab.errors import LabError

if TYPE_CHECKING:
    from train.segment import Session

# How long ranks wait for rank 0: it may probe for an hour, or stand still over a holiday. That a process died is not noticed
# by waiting but by its connection, which closes with it.
PATIENCE = timedelta(days=30)
# This process is on its way out: a SIGTERM, by which torchrun ends what is left of a job, must not cut its last words short.
_ending = threading.Event()
_OF_THE_CONNECTION = (
    "gloo",
    "NCCL",
    "Connection closed",
    "Connection reset",
)  # in what torch raises when a rank is gone


class NotShareable(LabError):
    """The work of a step, or the machine's cards, cannot be shared out to so many processes."""


class RankLost(LabError):
    """Another process of this job has ended."""

    exit_code = 1


class Ranks:
    """One process: every share is the whole, and what is decided is decided here.

    Attributes:
        rank, count: which of how many; rank 0 leads.
        threads: CPU cores for each process of this machine.
    """

    rank, count = 0, 1
    threads = os.cpu_count() or 1

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def check(self, config: RunConfig) -> None:
        """Refuse what cannot be shared out. Raises NotShareable."""

    def place(self, device: torch.device) -> torch.device:
        """The device of this process, given that of the configuration."""
        return device

    def connect(self, model: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        """What a training step calls, so that gradients are those of all ranks."""
        return forward

    def share(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """This rank's micro-batches of a step's."""
        return batches

    def gradients(self, last: bool) -> AbstractContextManager[None]:
        """Around a micro-batch's forward and backward pass; gradients travel in the last one's only."""
        return contextlib.nullcontext()

    def total(self, value: float) -> float:
        """The sum over all ranks."""
        return value

    def decide(self, session: "Session", work: Callable[[], object]) -> None:
        """Let rank 0 do what is its alone, between two steps; what it changed about training holds for every rank then."""
        work()
        session.stop = session.control.stop_reason

    def telling(self) -> AbstractContextManager[None]:
        """Around what rank 0 prepares while the others wait to be told: what fails there, fails for all."""
        return contextlib.nullcontext()

    def tell(self, said: Mapping[str, Any]) -> None:
        """Rank 0 says something to the others, who `hear` it."""

    def hear(self) -> dict[str, Any]:
        """What rank 0 tells. Where it failed instead, it says so itself, and this process ends with the same exit code."""
        return {}


class Job(Ranks):
    """One of several processes, `local_count` of them on this machine."""

    def __init__(self, rank: int, count: int, local_rank: int, local_count: int) -> None:
        self.rank, self.count = rank, count
        self.threads = max(1, (os.cpu_count() or 1) // local_count)
        self._local_rank, self._local_count = local_rank, local_count
        self._connected: DistributedDataParallel | None = None

    def check(self, config: RunConfig) -> None:
        batch, accumulation = config.train.batch, config.train.accumulation
        if batch * accumulation % self.count:
            fitting = -(-batch // self.count) * self.count
            raise NotShareable(
                f"train.batch × train.accumulation = {batch} × {accumulation}: rows of a step that {self.count} processes "
                f"cannot share alike. Use --set train.batch={fitting}, or another --nproc-per-node."
            )

    def place(self, device: torch.device) -> torch.device:
        if device.type != "cuda":
            return device
        cards = torch.cuda.device_count()
        if device.index is not None or self._local_count > cards:
            raise NotShareable(
                f"train.device = {str(device)!r} for {self._local_count} processes on a machine with {cards} graphics "
                f"card{'s' * (cards != 1)}: each takes one of its own. Use train.device=cuda and at most "
                f"--nproc-per-node {cards}, or train.device=cpu."
            )
        own = torch.device("cuda", self._local_rank)
        torch.cuda.set_device(own)
        return own

    def connect(self, model: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
        module = model if forward is model else _Calling(model, forward)
        with _lost_is_said():
            self._connected = DistributedDataParallel(module, forward_sync_buffers=False, gradient_as_bucket_view=True)
        self._connected.register_comm_hook(None, _summed)
        return self._call

    def disconnect(self) -> None:
        """Let go of what `connect` built, which must be gone before the process group.

        Whichever of the two goes last ends gloo's threads. DistributedDataParallel's part waits for them with the
        interpreter's lock held, which a thread needs that still holds a tensor: about one run in five never ended so.
        """
        self._connected = None
        gc.collect()  # it refers to itself

    def share(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """Rows rank · n … (rank + 1) · n of the step, in micro-batches no larger than the configured ones.

        Rows are those that one process with so many smaller micro-batches would take together, in the same order.
        """
        most = len(batches[0].tokens)
        rows = len(batches) * most // self.count
        own = slice(self.rank * rows, (self.rank + 1) * rows)
        tokens = torch.split(torch.cat([batch.tokens for batch in batches])[own], most)
        masks = torch.split(torch.cat([batch.mask for batch in batches])[own], most)
        # Bytes are what validation divides by; a training step has no use for them.
        return [Batch(ids, mask, bytes=0) for ids, mask in zip(tokens, masks, strict=True)]

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        assert self._connected is not None, "a step is taken before the process group is left"
        return self._connected(*args, **kwargs)

    @contextmanager
    def gradients(self, last: bool) -> Iterator[None]:
        assert self._connected is not None, "a step is taken through what `connect` gave"
        with _lost_is_said(), contextlib.nullcontext() if last else self._connected.no_sync():
            yield

    def total(self, value: float) -> float:
        return totals([value])[0]

    def decide(self, session: "Session", work: Callable[[], object]) -> None:
        """As in one process. The others are told why training is to end, if it is, and of every intervention's new state."""
        if self.leads:
            before = _states(session)
            with self.telling():
                work()
            changed = {name: state for name, state in _states(session).items() if state != before[name]}
            told: dict[str, Any] = {"stop": session.control.stop_reason, "changed": changed}
            self.tell(told)
        else:
            told = self.hear()
        session.stop = told["stop"]
        settings = session.config.train
        most = min(settings.batch, session.micro_batch or settings.batch)
        number = micro_batches(settings.batch, settings.accumulation, self.count, most)
        for part in session.interventions:
            if not self.leads and part.name in told["changed"]:
                part.load_state_dict(told["changed"][part.name])
            at: Callable[[int, int], None] | None = getattr(part, "at", None)
            if at is not None:
                at(session.step, self.rank * number)

    @contextmanager
    def telling(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            _ending.set()
            with contextlib.suppress(RankLost):
                self.tell({"failed": error.exit_code if isinstance(error, LabError) else 1})
            raise

    def tell(self, said: Mapping[str, Any]) -> None:
        data = torch.frombuffer(bytearray(state_json.encode(said)), dtype=torch.uint8)
        with _lost_is_said():
            dist.broadcast(torch.tensor([len(data)]), 0)
            dist.broadcast(data, 0)

    def hear(self) -> dict[str, Any]:
        size = torch.zeros(1, dtype=torch.long)
        with _lost_is_said():
            dist.broadcast(size, 0)
            data = torch.empty(int(size), dtype=torch.uint8)
            dist.broadcast(data, 0)
        told = state_json.decode(data.numpy().tobytes())
        if "failed" in told:
            _ending.set()
            raise SystemExit(told["failed"])
        return told


class _Calling(nn.Module):
    """The model's parameters, and a compiled twin of it that is called."""

    def __init__(self, model: nn.Module, call: Callable[..., Any]) -> None:
        super().__init__()
        self.model, self.call = model, call

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*args, **kwargs)


@contextmanager
def joined() -> Iterator[Ranks]:
    """The processes that torchrun started this one with; without torchrun, this one alone.

    Nobody leaves before rank 0 has closed its records: torchrun ends all that are left when the first one fails.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count < 2:
        yield Ranks()
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
    job = Job(rank, count, local, int(os.environ.get("LOCAL_WORLD_SIZE", count)))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    with _ended_in_order():
        yield job
        totals([0.0])
        job.disconnect()
        dist.destroy_process_group()


@contextmanager
def _lost_is_said() -> Iterator[None]:
    """Around what needs the other ranks. Raises RankLost when one of them is gone."""
    try:
        yield
    except RuntimeError as error:
        if not any(word in str(error) for word in _OF_THE_CONNECTION):
            raise
        _ending.set()
        raise RankLost(
            f"process {dist.get_rank()} of {dist.get_world_size()} ends, because another process of this job has ended. The "
            "run's newest checkpoint is whole. Go on from there with one process (lab resume RUN) or with several "
            "(torchrun --nproc-per-node 2 -m train --resume RUN)."
        ) from error


@contextmanager
def _ended_in_order() -> Iterator[None]:
    """Within, a SIGTERM unwinds the process, and does nothing to one that is ending anyway and says why."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: FrameType | None) -> None:
        if not _ending.is_set():
            raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    yield
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def micro_batches(batch: int, accumulation: int, count: int, most: int) -> int:
    """How many micro-batches each of `count` ranks has in a step.

    Its rows are cut twice: by `batch` in `Job.share`, and each piece by `most` in `room.pieces`, so that a piece that `most`
    does not divide ends in a smaller micro-batch of its own.
    """
    whole, rest = divmod(batch * accumulation // count, batch)
    return whole * -(-batch // most) + -(-rest // most)


def totals(values: Sequence[float]) -> list[float]:
    """Each summed over all processes of this job, the same on every one; of one process, as they are."""
    if not dist.is_initialized():
        return list(values)
    found = torch.tensor(values, dtype=torch.float64)
    with _lost_is_said():
        dist.all_reduce(found)
    return [float(value) for value in found]


def of_rank_0(tensor: Tensor) -> Tensor:
    """What rank 0 has here, on every process of this job; of the same shape on all."""
    if dist.is_initialized():
        tensor = tensor.contiguous().clone()
        with _lost_is_said():
            dist.broadcast(tensor, 0)
    return tensor


def _summed(_: object, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
    """Gradients of all ranks added up, not averaged as by default: each rank's loss is divided by the targets of all."""
    sent = dist.all_reduce(bucket.buffer(), async_op=True)
    assert sent is not None
    added: torch.futures.Future[Tensor] = sent.get_future().then(lambda future: future.value()[0])
    return added


def _states(session: "Session") -> dict[str, Any]:
    return {part.name: copy.deepcopy(part.state_dict()) for part in session.interventions}
