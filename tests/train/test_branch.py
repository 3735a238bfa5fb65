"""A branch is what its parent would have become, but for what is asked of it; and the parent never notices."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lab import checkpoint
from lab.checkpoint import WeightsOnly
from lab.concepts import Concept
from lab.errors import LabError
from lab.pins import PinnedExport, frozen_of, pins_of
from lab.run import Run
from tests.train.digest import digest, losses
from tests.train.freezing import PARENT_STEP, SETTINGS, Config, documents, parent_run, request, resume_to, tree_hash
from train.branch import BranchRefused, Kind, branch, branch_name, go_on, twin_name
from train.schedule import learning_rate
from train.session import CannotResume, resume

WEIGHTS = ("model.safetensors", "optimizer.safetensors", "generators", "corpus")


@pytest.fixture(scope="module")
def parent(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return parent_run(tiny_config(*SETTINGS), tmp_path_factory.mktemp("runs"))


def same(one: dict[str, str], other: dict[str, str]) -> bool:
    return {key: one[key] for key in WEIGHTS} == {key: other[key] for key in WEIGHTS}


def test_an_unfrozen_twin_is_bit_for_bit_the_parent_resumed_for_as_many_steps(parent: Run, tmp_path: Path) -> None:
    before = tree_hash(parent.path)
    twin = branch(parent, "twin", steps=14, freeze=request("top-1"), kind="unfrozen")
    outcome = go_on(twin)
    assert (outcome.reason, outcome.exit_code) == ("finished", 0)
    assert twin.checkpoint_info().step == PARENT_STEP + 14 and twin.state() == "finished"
    assert tree_hash(parent.path) == before
    shutil.copytree(parent.path.parent / ".data", tmp_path / ".data")
    itself = Run.open(Path(shutil.copytree(parent.path, tmp_path / "itself")))
    resume_to(itself, PARENT_STEP + 14)
    assert same(digest(twin), digest(itself))
    assert losses(twin) == losses(itself)[PARENT_STEP:]


def test_its_learning_rate_is_the_parents_within_the_parents_horizon_and_stretched_beyond(parent: Run) -> None:
    within, beyond = branch(parent, "within", steps=20), branch(parent, "beyond", steps=100)
    assert within.manifest["branch"]["horizon"] == 60 and beyond.manifest["branch"]["horizon"] == PARENT_STEP + 100
    with resume(within) as session:
        assert (session.horizon, session.end) == (60, PARENT_STEP + 20)
    with resume(beyond) as session:
        assert (session.horizon, session.end) == (PARENT_STEP + 100, PARENT_STEP + 100)
        settings = session.config.optimizer
    with beyond.records() as records:
        text = next(event.text for event in records.events() if event.kind == "extend")
    assert f"{learning_rate(PARENT_STEP, 60, settings):.2e}" in text
    assert f"{learning_rate(PARENT_STEP, PARENT_STEP + 100, settings):.2e}" in text


def test_it_ends_at_its_own_end_and_goes_on_only_when_extended(parent: Run) -> None:
    run = branch(parent, "ended", steps=3)
    go_on(run)
    assert run.checkpoint_info().step == PARENT_STEP + 3
    with pytest.raises(CannotResume, match=f"finished at step {PARENT_STEP + 3}"):
        go_on(run)
    with resume(run, extend_to=PARENT_STEP + 5) as session:
        assert (session.horizon, session.end) == (60, PARENT_STEP + 5), "within the horizon the schedule stays"
        session.control.stop_reason = "SIGINT"
    with resume(run) as session:
        assert session.end == PARENT_STEP + 5, "an extension outlives a kill"
    with pytest.raises(CannotResume, match="not after"), resume(run, extend_to=PARENT_STEP + 4):
        pass


def test_where_it_is_from_is_in_its_manifest_and_its_records(parent: Run) -> None:
    run = branch(parent, "told", steps=2, freeze=request("top-1", "pin"), kind="freeze")
    about = run.manifest["branch"]
    info = parent.checkpoint_info()
    assert (about["parent"], about["step"], about["weights_sha256"]) == (parent.name, info.step, info.weights_sha256)
    assert (about["kind"], about["concepts"], about["stop"]) == ("freeze", ["top-1"], PARENT_STEP + 2)
    assert run.checkpoint_info().weights_sha256 == info.weights_sha256
    with run.records() as records:
        assert [event.kind for event in records.events()] == ["branch"]
    go_on(run)
    with run.records() as records:
        assert records.series("train/loss")[0][1] == PARENT_STEP + 1


def test_a_branch_of_an_earlier_step_starts_there(parent: Run) -> None:
    run = branch(parent, "earlier", step=10, steps=4)
    go_on(run)
    assert [step for step, _ in losses(run)] == [11, 12, 13, 14]


def test_twins_differ_in_what_they_hold_and_in_nothing_else(parent: Run) -> None:
    asked, made = request("top-1", "pin"), {}
    kinds: tuple[Kind, ...] = ("freeze", "unfrozen", "random", "lower")
    for kind in kinds:
        made[kind] = branch(parent, twin_name("t", "top-1", "pin", kind), steps=2, freeze=asked, kind=kind)
        go_on(made[kind])
    held = {kind: [(i["concept"], i["mode"], i["from_step"]) for i in frozen_of(run)] for kind, run in made.items()}
    assert held == {
        "freeze": [("top-1", "pin", PARENT_STEP)],
        "unfrozen": [],
        "random": [("top-1-random", "pin", PARENT_STEP)],
        "lower": [("top-1", "lower", PARENT_STEP)],
    }
    batches = {kind: digest(run)["corpus"] for kind, run in made.items()}
    assert len(set(batches.values())) == 1
    assert {each.config.freeze.concepts[0].target for kind, each in made.items() if kind != "unfrozen"} == {0.1}


def test_a_random_twin_has_the_rank_and_the_variance_of_the_concept_it_stands_for(parent: Run) -> None:
    run = branch(parent, "by-chance", steps=1, freeze=request("top-2", "write"), kind="random")
    concept, other = Concept.load(parent, "top-2"), Concept.load(run, "top-2-random")
    assert (other.rank, other.layer) == (concept.rank, concept.layer)
    model = parent.model()
    with torch.no_grad():
        h = torch.cat([model(row, stop_at_layer=2)[0, 1:] for row in documents(parent)]).double()
    ours, theirs = (float((h @ c.basis.double()).var(0).sum()) for c in (concept, other))
    everywhere = float(h.var(0).sum())
    assert abs(theirs - ours) < 0.1 * everywhere and theirs > 0.7 * ours, f"{theirs:.3f} beside {ours:.3f}"
    again = branch(parent, "by-chance-again", steps=1, freeze=request("top-2", "write"), kind="random")
    assert torch.equal(Concept.load(again, "top-2-random").basis, other.basis), "drawn from the seed"


def test_a_branch_that_was_stopped_goes_on_with_lab_resume(parent: Run) -> None:
    whole = branch(parent, "whole", steps=8, freeze=request("top-1", "write+anchor"))
    go_on(whole)
    run = branch(parent, "broken-off", steps=8, freeze=request("top-1", "write+anchor"))
    assert resume_to(run, PARENT_STEP + 3).exit_code == 130
    with resume(run) as session:
        assert session.end == PARENT_STEP + 8
        from train.loop import train

        assert train(session).reason == "finished"
    assert digest(run) == digest(whole)


def test_a_branch_of_a_pinned_run_stays_pinned_without_its_parent(parent: Run) -> None:
    first = branch(parent, "first", steps=3, freeze=request("top-1", "pin"))
    go_on(first)
    second = branch(first, "second", steps=3)
    shutil.rmtree(first.path)
    go_on(second)
    assert [pin.concept for pin in pins_of(second.model())] == ["top-1"]
    with pytest.raises(BranchRefused, match="frozen at step 15"):
        branch(second, "third", step=15, steps=3, freeze=request("top-1", "write"))


@pytest.mark.parametrize("format", ["hf", "hooked"])
def test_a_pinned_checkpoint_is_exported_nowhere_and_an_unpinned_one_of_the_same_run_is(
    parent: Run, format: str, tmp_path: Path
) -> None:
    from lab.exports import export

    run = Run.open(parent.path.parent / "exporting") if (parent.path.parent / "exporting").exists() else None
    if run is None:
        run = branch(parent, "exporting", steps=8, freeze=request("top-1", "pin", until=PARENT_STEP + 2, fade_steps=2))
        go_on(run)
    with pytest.raises(PinnedExport, match=r"top-1 at layer 1.*lab release exporting top-1"):
        export(run, format, PARENT_STEP + 2, tmp_path / "pinned")
    assert not (tmp_path / "pinned").exists()
    assert export(run, format, None, tmp_path / "free").is_dir()


# ----------------------------------------------------------------------------------------------------------- refusals

REFUSALS: list[tuple[dict[str, Any], type[LabError], str]] = [
    ({"steps": 0}, BranchRefused, "at least one"),
    ({"step": 999}, LabError, "no checkpoint of step 999"),
    ({"step": 1}, WeightsOnly, "weights only"),
    ({"name": "parent"}, LabError, "exists already"),
    ({"name": "Not A Name"}, LabError, "not allowed"),
    ({"overrides": ("model.d_model=32",)}, BranchRefused, "model.d_model is the parent's"),
    ({"overrides": ("train.batch=4",)}, BranchRefused, "train.batch is the parent's"),
    ({"overrides": ("train.seed=4",)}, BranchRefused, "train.seed"),
    ({"overrides": ("data.validation_share=0.3",)}, BranchRefused, "data.validation_share"),
    ({"overrides": ("optimizer.lr=banana",)}, LabError, "optimizer.lr"),
    ({"freeze": request("unheard-of")}, LabError, "no concept 'unheard-of'"),
    ({"freeze": [request("top-1"), request("top-1", "pin")]}, LabError, "twice"),
    ({"freeze": request("top-1", until=PARENT_STEP)}, LabError, "not after"),
]


@pytest.mark.parametrize(("asked", "error", "says"), REFUSALS)
def test_what_cannot_be_is_refused_and_leaves_parent_and_folder_as_they_were(
    parent: Run, asked: dict[str, Any], error: type[LabError], says: str
) -> None:
    before, there = tree_hash(parent.path), {path.name for path in parent.path.parent.iterdir()}
    arguments: dict[str, Any] = {"name": "refused", "steps": 3} | asked
    with pytest.raises(error, match=says):
        branch(parent, **arguments)
    assert tree_hash(parent.path) == before
    assert {path.name for path in parent.path.parent.iterdir()} == there


def no_room(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("where", ["shutil.copyfile", "lab.checkpoint.write_tensors", "lab.run.write_file"])
def test_a_disk_that_runs_full_mid_branch_leaves_nothing_of_it(
    parent: Run, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, there = tree_hash(parent.path), {path.name for path in parent.path.parent.iterdir()}
    monkeypatch.setattr(where, no_room)
    with pytest.raises(BranchRefused, match="Nothing is left of it"):
        branch(parent, "no-room", steps=3)
    monkeypatch.undo()
    assert tree_hash(parent.path) == before
    assert {path.name for path in parent.path.parent.iterdir()} == there


def test_overrides_of_what_is_not_shared_are_taken_and_an_attachment_begins_anew(parent: Run) -> None:
    run = branch(
        parent, "overridden", steps=4, overrides=("optimizer.lr=1e-4", "checkpoint.every=2", "evaluation.every=2")
    )
    go_on(run)
    assert run.config.optimizer.lr == 1e-4
    with run.records() as records:
        assert [step for _, step, _ in records.series("validation/loss")] == [14, 16]
    assert [info.step for info in checkpoint.list_checkpoints(run.checkpoints_folder)] == [12, 14, 16]


def test_names_of_branches_and_twins() -> None:
    assert branch_name("fox", "weather", "write+anchor") == "fox--weather-write-anchor"
    assert twin_name("fox", "weather", "pin", "random") == "fox--weather-pin--twin-random"
