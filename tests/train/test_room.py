"""Memory that runs out within a step: what is done again, what is not counted twice, and what a resumed run goes on as."""

import math
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lab.config import RunConfig
from lab.corpus import Batch
from lab.model import GPT
from lab.records import Event, Metric
from lab.run import Run
from tests.train.riders import Nudge
from tests.train.test_chat_training import say
from train.loop import train
from train.parallel import Ranks
from train.room import KIND, NoRoom, pieces, ran_out
from train.session import Riders, Session, resume, start

Config = Callable[..., RunConfig]
QUIET = ("probing.every=0", "evaluation.every=0", "understanding.every=0", "checkpoint.log_spaced=false")
SHORT = (*QUIET, "train.steps=6", "optimizer.warmup_steps=1", "checkpoint.every=100")
CPU = "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."


class Room:
    """An intervention, and a fault: memory runs out once a micro-batch has more sequences than there is room for.

    Args:
        rows: there is room for so many, from a step on.
        backward: it runs out in the backward pass, not before it; and of a step's micro-batches only from this one on.
    """

    name = "room"

    def __init__(
        self, rows: int, step: int = 0, backward: bool = False, first: int = 0, error: Exception | None = None
    ) -> None:
        self.rows, self.step, self.backward, self.first = rows, step, backward, first
        self.error = error or torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        self.now, self.micro, self.seen = 0, 0, list[int]()

    def loss(self, model: GPT, batch: Batch) -> Tensor | None:
        random.random(), np.random.rand(), torch.rand(3)  # what another intervention draws comes after these
        self.seen.append(len(batch.tokens))
        self.micro += 1
        if len(batch.tokens) <= self.rows or self.now < self.step or self.micro <= self.first:
            return None
        if not self.backward:
            raise self.error
        return _Full.apply(model.W_E.sum() * 0, self.error)  # type: ignore[no-any-return, no-untyped-call]

    def again(self) -> None:
        self.micro = 0

    def before_step(self) -> None:
        """Nothing."""

    def after_step(self) -> None:
        self.micro, self.now = 0, self.now + 1

    def state_dict(self) -> dict[str, Any]:
        return {"now": self.now}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.now = state["now"]


class _Full(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, error: Exception) -> Tensor:
        ctx.error = error
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        raise ctx.error


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all runs of this file: its text is made into tokens once."""
    return tmp_path_factory.mktemp("room")


def trained(config: RunConfig, root: Path, name: str, *riders: Any, stop_at: int | None = None) -> Run:
    with start(config, root, name, riders=Riders(interventions=riders)) as session:
        finish(session, stop_at)
        return session.run


def finish(session: Session, stop_at: int | None = None) -> None:
    def report(session: Session) -> None:
        if session.step == stop_at:
            session.control.stop_reason = "SIGINT"

    session.report = report
    train(session)


def same(one: Run, other: Run) -> bool:
    first, second = one.model().state_dict(), other.model().state_dict()
    return all(torch.equal(first[name], second[name]) for name in first)


def losses(run: Run) -> list[float]:
    with run.records() as records:
        return [row.value for row in records.rows(Metric, name="train/loss")]


def events(run: Run) -> list[Event]:
    with run.records() as records:
        return [event for event in records.rows(Event) if event.kind == KIND]


@pytest.mark.parametrize(
    ("backward", "error"), [(False, torch.OutOfMemoryError("out of memory")), (True, RuntimeError(CPU))]
)
def test_a_run_that_ran_out_goes_on_as_one_begun_with_the_smaller_micro_batch(
    tiny_config: Config, root: Path, backward: bool, error: Exception
) -> None:
    """Bit for bit: gradients that were made before the error do not count twice, and nobody's random numbers are used up."""
    settings = (*SHORT, "train.batch=8", "train.accumulation=2")
    room = Room(4, backward=backward, first=1, error=error)  # the first micro-batch of 8 still passes
    full = trained(tiny_config(*settings), root, f"full-{backward}".lower(), room, Nudge())
    small = (*SHORT, "train.batch=4", "train.accumulation=4")
    expected = trained(tiny_config(*small), root, f"small-{backward}".lower(), Room(4), Nudge())
    assert same(full, expected) and losses(full) == losses(expected)
    assert room.seen[:4] == [8, 8, 4, 4] and set(room.seen[2:]) == {4}
    (event,) = events(full)
    assert event.data == {"before": 8, "micro_batch": 4, "accumulation": 4} and event.step == 0


def test_chats_are_drawn_again_as_if_the_step_had_only_been_made_so(tiny_config: Config, root: Path) -> None:
    """What is drawn depends on the micro-batch's number, which begins anew: no checkpoint knows of the pass that failed."""
    settings = (*SHORT, "data.chats=true", "train.steps=1", "optimizer.warmup_steps=0")
    runs = []
    for name, room, sizes in (("again", Room(4, first=1), (8, 2)), ("at-once", Room(4), (4, 4))):
        config = tiny_config(*settings, f"train.batch={sizes[0]}", f"train.accumulation={sizes[1]}")
        with start(config, root, name, riders=Riders(interventions=[room])) as session:
            say(
                session.run.path,
                *(f"the {word} of the old king" for word in ("song", "house", "garden", "winter", "dog")),
            )
            finish(session)
            runs.append(session.run)
    assert events(runs[0]) and not events(runs[1])
    assert same(*runs)


class Several(Ranks):
    """One process that takes itself for the first of three."""

    count = 3


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        (8, r"among-8: .*step 0 in process 0 of 3 with micro-batches of 8.*lab resume among-8.*train.batch=4 .*=2;"),
        (1, r"in process 0 of 3, with one sequence at a time.*lab plan --config"),
    ],
)
def test_of_several_processes_the_one_that_runs_out_says_how_to_go_on(
    tiny_config: Config, root: Path, batch: int, says: str
) -> None:
    config, riders = tiny_config(*SHORT, f"train.batch={batch}"), Riders(interventions=[Room(0)])
    with (
        pytest.raises(NoRoom, match=says),
        start(config, root, f"among-{batch}", riders=riders, ranks=Several()) as session,
    ):
        train(session)


def test_it_halves_down_to_one_sequence_and_then_says_what_to_do(tiny_config: Config, root: Path) -> None:
    said: list[str] = []
    with start(tiny_config(*SHORT, "train.batch=5"), root, "none", riders=Riders(interventions=[Room(0)])) as session:
        session.say = said.append
        with pytest.raises(
            NoRoom, match=r"one sequence at a time.*lab plan --config .*config\.toml.*checkpoint_blocks"
        ):
            train(session)
    assert [event.data["micro_batch"] for event in events(Run.open(root / "none"))] == [2, 1]
    assert len(said) == 2 and "--set train.batch=1 --set train.accumulation=5" in said[1]
    assert Run.open(root / "none").checkpoint_info().step == 0  # whole, for whoever changes something and goes on


def test_a_killed_run_goes_on_with_the_micro_batch_it_had(tiny_config: Config, root: Path) -> None:
    whole = trained(tiny_config(*SHORT), root, "whole", Room(2, step=2))
    stopped = trained(tiny_config(*SHORT), root, "stopped", Room(2, step=2), stop_at=4)
    with resume(
        stopped, riders=Riders(interventions=[Room(8)])
    ) as session:  # there is room again: it makes no difference
        assert session.micro_batch == 2
        finish(session)
    assert same(whole, stopped) and losses(whole) == losses(stopped)
    assert [event.step for event in events(whole)] == [2, 2]


def test_the_step_before_which_memory_ran_out_is_saved_with_the_smaller_size(tiny_config: Config, root: Path) -> None:
    """A kill right after it loses nothing, and checkpoints from before there was a size are read as they were."""
    run = trained(tiny_config(*SHORT), root, "saved", Room(4, step=2))
    with resume(run, from_step=2) as session:
        assert (session.step, session.micro_batch) == (2, 4)
    from lab import checkpoint

    saved = checkpoint.load(run.checkpoint_info(2).path)
    del saved.state["micro_batch"]
    with resume(run, from_step=2) as session:
        session.load(saved)
        assert session.micro_batch is None
    assert run.config.train.batch == 8


def test_an_anchor_counts_every_sequence_once(tiny_config: Config, root: Path) -> None:
    from tests.train.freezing import SETTINGS, parent_run, request

    parent = parent_run(tiny_config(*SETTINGS, "train.stop=14"), root)
    weights = {}
    for name, batch, room in (("full", 8, Room(2, first=0)), ("small", 2, Room(8))):
        run = Run.open(Path(shutil.copytree(parent.path, root / name)))
        with resume(run, from_step=12, riders=Riders(interventions=[room])) as session:
            session.note(session.freeze.add(request("top-1"), session.step))
            session.micro_batch = batch if name == "small" else None
            finish(session)
            (item,) = session.freeze.items
            weights[name] = item["lambda"], [p.detach().clone() for p in session.model.parameters()]
            assert all(not anchor._squares for _, anchor in session.freeze._anchors)
    assert weights["full"][0] == weights["small"][0] and math.isfinite(weights["full"][0])
    assert all(torch.equal(a, b) for a, b in zip(weights["full"][1], weights["small"][1], strict=True))


def test_pieces_are_the_same_sequences_in_the_same_order() -> None:
    def batch(first: int, rows: int) -> Batch:
        return Batch(torch.arange(first, first + rows)[:, None], torch.ones(rows, 1, dtype=torch.bool), 7)

    def rows(batches: Sequence[Batch]) -> list[list[int]]:
        return [one.tokens[:, 0].tolist() for one in batches]

    whole = [batch(0, 5), batch(5, 2)]
    assert rows(pieces(whole, 2)) == [[0, 1], [2, 3], [4], [5, 6]]
    assert pieces(whole, None) == whole and pieces(whole, 5) == whole


def test_other_errors_are_not_taken_for_memory() -> None:
    assert ran_out(torch.OutOfMemoryError("x")) and ran_out(MemoryError()) and ran_out(RuntimeError(CPU))
    assert ran_out(RuntimeError("MPS backend out of memory (MPS allocated: 5.00 GB)"))
    assert not ran_out(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_memory_that_runs_out_while_something_looks_is_said_with_its_name(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(*SHORT, "evaluation.every=3")

    def full(*_: object) -> None:
        raise RuntimeError(CPU)

    with start(config, tmp_path, "looked") as session:
        monkeypatch.setattr(session.attachments[0], "visit", full)
        with pytest.raises(NoRoom, match=r"at step 0 while evaluation looked.*or none of it: --set evaluation.every=0"):
            train(session)


def test_memory_that_runs_out_in_the_update_is_said(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with start(tiny_config(*SHORT), tmp_path, "updated") as session:
        monkeypatch.setattr(session.optimizer, "step", full)
        with pytest.raises(NoRoom, match=r"at step 0 in the optimizer's update"):
            train(session)
