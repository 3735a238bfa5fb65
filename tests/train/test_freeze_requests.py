"""Freezing and releasing on request: through control while a run trains, and everything that is refused."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.concepts import Concept, ConceptFrozen, remove
from lab.errors import LabError
from lab.lower_copy import LowerCopyDamaged, LowerCopyNotWritten
from lab.pins import frozen_of
from lab.records import Command
from lab.run import Run
from tests.made_runs import made_run
from tests.train.freezing import SETTINGS, Config, parent_run, request, resume_to, stop, tree_hash
from train.branch import branch
from train.commands import BadCommand, order
from train.control import send
from train.freeze import FreezeRefused
from train.session import Session, resume


@pytest.fixture(scope="module")
def parent(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return parent_run(tiny_config(*SETTINGS), tmp_path_factory.mktemp("runs"), stop_at=6)


START = 6


def live(run: Run, *asked: tuple[int, str, dict[str, Any]], end: int = START + 9) -> list[Command]:
    """Resume a run, send each command at its step, and give back what became of them, in the order sent."""
    sent: list[str] = []
    with resume(run) as session:

        def ask(session: Session) -> None:
            for at, verb, arguments in asked:
                if session.step == START + at:
                    sent.append(send(run, verb, arguments))
            if session.step == end:
                session.control.stop_reason = "SIGINT"

        session.report = ask
        from train.loop import train

        train(session)
    with run.records() as records:
        return [records.rows(Command, id=id)[0] for id in sent]


def test_a_live_freeze_and_release_are_acknowledged_saved_and_open_segments(parent: Run) -> None:
    run = branch(parent, "live", steps=30)
    first, again, other, second, third = live(
        run,
        (2, "freeze", {"concept": "top-1", "mode": "write"}),
        (3, "freeze", {"concept": "top-1", "mode": "write"}),
        (4, "freeze", {"concept": "top-1", "mode": "pin"}),
        (6, "release", {"concept": "top-1"}),
        (7, "release", {"concept": "top-1"}),
    )
    assert first.changed and "is saved" in (first.result or "") and first.acknowledged_step == START + 2
    assert (
        again.changed is False and "already" in (again.result or "") and not (again.result or "").startswith("refused")
    )
    assert (other.result or "").startswith("refused: top-1: is holding already (mode write, since step 8)")
    assert second.changed and "without a jump" in (second.result or "")
    assert (third.result or "").startswith("refused: top-1: is not frozen")
    with run.records() as records:
        reasons = [(segment.from_step, segment.reason) for segment in records.segments()]
    assert reasons[1:] == [(START, "freeze"), (START + 2, "freeze-release"), (START + 6, None)]
    assert [(i["from_step"], i["released_step"], i["asked"]) for i in frozen_of(run)] == [(8, 12, "command")]


def test_a_live_freeze_outlives_a_kill(parent: Run) -> None:
    run = branch(parent, "outlives", steps=30)
    with pytest.raises(ZeroDivisionError), resume(run) as session:  # a crash two steps later, nothing saved since

        def crash(session: Session) -> None:
            if session.step == START + 2:
                send(run, "freeze", {"concept": "top-1", "mode": "pin"})
            if session.step == START + 4:
                raise ZeroDivisionError

        session.report = crash
        from train.loop import train

        train(session)
    assert run.checkpoint_info().step == START + 2
    assert [item["mode"] for item in frozen_of(run)] == ["pin"]


ORDERS: list[tuple[str, dict[str, Any], str]] = [
    ("freeze", {}, "concept"),
    ("freeze", {"concept": "../top"}, "concept"),
    ("freeze", {"concept": "top-1", "mode": "hold"}, "mode"),
    ("freeze", {"concept": "top-1", "target": 0.0}, "target"),
    ("freeze", {"concept": "top-1", "target": float("nan")}, "target"),
    ("freeze", {"concept": "top-1", "until": 0}, "until"),
    ("freeze", {"concept": "top-1", "layer": 2}, "layer"),
    ("release", {"concept": "top-1", "fade_steps": -1}, "fade_steps"),
    ("release", {}, "concept"),
]


@pytest.mark.parametrize(("verb", "arguments", "says"), ORDERS)
def test_orders_that_are_none_are_refused_before_they_are_sent(verb: str, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(BadCommand, match=says):
        order(verb, arguments)


# -------------------------------------------------------------------------------------------------- what is refused


def spoiled(change: Callable[[Run], object], asked: Any = None) -> Callable[[Session], object]:
    def attempt(session: Session) -> object:
        change(session.run)
        return session.freeze.add(asked or request("top-1", "pin"), session.step)

    return attempt


def edit_card(**fields: Any) -> Callable[[Run], object]:
    def edit(run: Run) -> None:
        file = run.concepts / "top-1" / "card.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | fields))

    return edit


def with_basis(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Run], object]:
    """A subspace file that somebody else wrote, with a card that agrees with it."""

    def write(run: Run) -> None:
        from dataclasses import replace

        from safetensors.torch import save_file

        concept = Concept.load(run, "top-1")
        bad = replace(concept, basis=change(concept.basis.clone()))
        parts = {"basis": bad.basis, "mean": bad.mean, "weight": bad.weight, "bias": bad.bias}
        save_file(parts, run.concepts / "top-1" / "subspace.safetensors")
        edit_card(sha256=bad.sha256)(run)

    return write


def nan_in(basis: torch.Tensor) -> torch.Tensor:
    basis[0, 0] = float("nan")
    return basis


def nothing(_: Run) -> None:
    pass


REFUSED: list[tuple[Callable[[Session], object], type[LabError], str]] = [
    (spoiled(nothing, request("unheard-of")), LabError, "no concept 'unheard-of'"),
    (spoiled(nothing, request("top-1", until=START)), FreezeRefused, "until = 6, but this is step 6"),
    (spoiled(edit_card(layer=9)), LabError, "layer 9, but the model has layers 0..2"),
    (spoiled(with_basis(nan_in)), LabError, "NaN"),
    (spoiled(with_basis(lambda basis: basis * 2)), LabError, "not orthonormal"),
    (spoiled(with_basis(lambda basis: basis[:32].contiguous())), LabError, "32 dimensions, but the model is 64"),
    (spoiled(edit_card(tokenizer="0" * 64)), LabError, "another tokenizer"),
    (spoiled(edit_card(checkpoint={"step": START, "sha256": "0" * 64})), FreezeRefused, "another model"),
    (spoiled(lambda run: (run.concepts / "top-1" / "card.json").write_text("{")), LabError, "cannot be read"),
    (spoiled(lambda run: (run.concepts / "top-1" / "subspace.safetensors").unlink()), LabError, "cannot be read"),
    (lambda session: session.freeze.release("top-1", session.step), FreezeRefused, "is not frozen"),
]


@pytest.mark.parametrize(("attempt", "error", "says"), REFUSED, ids=[says for _, _, says in REFUSED])
def test_what_cannot_be_held_is_refused_and_training_is_as_it_was(
    parent: Run, attempt: Callable[[Session], object], error: type[LabError], says: str, tmp_path: Path
) -> None:
    before = tree_hash(parent.path)
    run = branch(parent, "attempted", steps=2)
    try:
        with resume(run) as session:
            with pytest.raises(error, match=says):
                attempt(session)
            assert session.freeze.items == [] and session.freeze.bytes == 0
            assert list(run.concepts.glob("*/frozen-*")) == []
            stop(session)
    finally:
        shutil.rmtree(run.path)
    assert tree_hash(parent.path) == before


def test_what_is_frozen_is_not_frozen_again_nor_released_twice(parent: Run) -> None:
    with resume(branch(parent, "again", steps=9)) as session:
        session.freeze.add(request("top-1", "pin"), session.step)
        with pytest.raises(FreezeRefused, match=r"is holding already \(mode pin, since step 6\)"):
            session.freeze.add(request("top-1", "anchor"), session.step)
        session.freeze.release("top-1", session.step, fade_steps=5)
        with pytest.raises(FreezeRefused, match="fades out over 5 steps"):
            session.freeze.release("top-1", session.step)
        with pytest.raises(FreezeRefused, match="is fading already"):
            session.freeze.add(request("top-1", "anchor"), session.step)


def test_a_disk_that_is_full_when_the_copy_is_written_leaves_nothing_of_it(
    parent: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = branch(parent, "full", steps=2)
    with resume(run) as session:
        real = os.replace

        def replace(source: Any, target: Any) -> None:
            if "frozen-" in str(target):
                raise OSError(28, "No space left on device")
            real(source, target)

        monkeypatch.setattr("os.replace", replace)
        with pytest.raises(LowerCopyNotWritten, match="Nothing is frozen"):
            session.freeze.add(request("top-1", "pin"), session.step)
        monkeypatch.undo()
        assert session.freeze.items == []
        assert sorted(file.name for file in (run.concepts / "top-1").iterdir()) == ["card.json", "subspace.safetensors"]
        session.freeze.add(request("top-1", "pin"), session.step)  # there is room again


@pytest.mark.parametrize("how", ["gone", "flipped", "another"])
def test_a_copy_that_is_not_the_one_that_was_frozen_is_never_used(parent: Run, how: str) -> None:
    run = branch(parent, f"damaged-{how}", steps=3, freeze=request("top-1", "pin"))
    resume_to(run)
    file = next(run.concepts.glob("top-1/frozen-*"))
    if how == "gone":
        file.unlink()
    elif how == "flipped":
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    else:
        shutil.copyfile(run.concepts / "top-1" / "subspace.safetensors", file)
    with pytest.raises(LowerCopyDamaged, match="frozen lower copy"):
        run.model()
    with pytest.raises(LowerCopyDamaged), resume(run, extend_to=START + 9):
        pass


def test_a_concept_of_an_earlier_step_is_held_and_it_is_said_where_it_is_from(parent: Run) -> None:
    run = branch(parent, "older", steps=9)
    resume_to(run, START + 4)
    with resume(run) as session:
        change = session.freeze.add(request("top-1", "write"), session.step)
    assert change.data["found"] == "It was found at step 6, 4 steps away" and change.data["found"] in change.text


def test_a_concept_that_checkpoints_stand_on_is_neither_removed_nor_replaced(parent: Run) -> None:
    run = branch(parent, "kept", steps=2, freeze=request("top-1", "pin"))
    resume_to(run)
    with pytest.raises(ConceptFrozen, match=r"checkpoints of it stand on frozen-6\.safetensors"):
        remove(run, "top-1")
    with pytest.raises(ConceptFrozen):
        Concept.load(run, "top-1").save(run, replace=True)
    run.model()
    remove(run, "top-2")


def test_a_run_made_before_concepts_could_be_frozen_is_read_as_ever(tmp_path: Path) -> None:
    run = made_run(tmp_path, steps=(0, 8))
    file = run.path / "config.toml"
    text = file.read_text()
    file.write_text(text[: text.index("[freeze]")] + "[freeze]\nevery = 0\n" if "[freeze]" in text else text)
    again = Run.open(run.path)
    assert again.config.freeze.concepts == () and frozen_of(again) == []
    again.model()
