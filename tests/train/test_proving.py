"""Proving real branches of a tiny run: each mode's verdict, twins found by what they are, the same bytes twice."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.concepts import Concept, folder_of
from lab.config import RunConfig
from lab.run import Run, RunExists
from lab.sections import FreezeRequest
from probes.concepts import proof
from probes.concepts.rules import HOLDS
from tests.train.frozen_runs import STEPS, concept_run, folder_hash
from train import held_out, shimmer
from train.branch import branch, go_on
from train.experiment import BadExperiment, NotStable, plan, train
from train.proving import NothingToProve, _serves, case_of, prove, seconds_per_step


@pytest.fixture(scope="module", autouse=True)
def little_text() -> Iterator[None]:
    """A proof reads 1,000 sentences and 30,000 tokens; a tenth of that is enough here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_out, "SENTENCES", 150)
        patch.setattr(held_out, "TOKENS", 2500)
        patch.setattr(proof, "SPLITS", 8)
        yield


@pytest.fixture(scope="module")
def parent(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return concept_run(tiny_config, tmp_path_factory.mktemp("proving"))


@pytest.fixture(scope="module")
def pinned(parent: Run) -> Run:
    """A pinned branch and two twins, trained and proved."""
    before = folder_hash(parent)
    request = FreezeRequest(concept="function", mode="pin")
    made = train(plan(parent, request, STEPS, twins=["unfrozen", "random"]))
    prove(made)
    assert folder_hash(parent) == before
    return made


def proved(run: Run) -> dict[str, Any]:
    """The proof that is kept."""
    found: dict[str, Any] = json.loads((run.evidence / f"freeze-{run.name}.json").read_text(encoding="utf8"))
    return found


def test_a_pin_is_frozen_exactly_and_its_twins_are_not(pinned: Run) -> None:
    found = proved(pinned)
    assert found["verdict"] == "FROZEN-EXACT"
    assert found["drift"]["branch"]["worst"] <= 1e-5
    assert found["says"] == HOLDS["pin"]
    assert found["drift"]["unfrozen"]["raw"]["value"] > 0.01
    assert found["drift"]["random"]["raw"]["value"] > 0.01  # a random subspace is held there, and this one is not
    assert found["weights"]["branch"]["largest"] > 1e-3  # the layers below move freely
    assert set(found["missing"]) == {"lower"}


@pytest.mark.slow
def test_an_unfrozen_twin_is_not_frozen_and_moved_as_far_as_the_branchs_proof_says(pinned: Run) -> None:
    twin = prove(Run.open(pinned.path.parent / f"{pinned.name}--twin-unfrozen"))
    assert twin["mode"] == "none"
    assert twin["verdict"] == "NOT FROZEN"
    assert twin["drift"]["branch"]["raw"] == proved(pinned)["drift"]["unfrozen"]["raw"]
    assert "it is that twin itself" in twin["missing"]["unfrozen"]


def test_a_proof_is_the_same_bytes_twice_and_names_no_place(pinned: Run) -> None:
    file = pinned.evidence / f"freeze-{pinned.name}.json"
    first = file.read_bytes()
    prove(pinned)
    assert file.read_bytes() == first
    assert str(pinned.path.parent).encode() not in first


@pytest.mark.slow
def test_a_copied_branch_is_proved_without_its_twins_and_says_what_that_leaves_open(
    pinned: Run, parent: Run, tmp_path: Path
) -> None:
    shutil.copytree(pinned.path, tmp_path / pinned.name)
    shutil.copytree(parent.path, tmp_path / parent.name)
    shutil.copytree(parent.path.parent / ".data", tmp_path / ".data")
    found = prove(Run.open(tmp_path / pinned.name))
    assert found["verdict"] == "FROZEN-EXACT"
    assert set(found["missing"]) == {"unfrozen", "random", "lower"}
    assert {"LEAK", "COSTLY"} <= set(found["undecided"])


@pytest.mark.slow
def test_write_holds_the_weights_and_an_unfrozen_twin_of_another_mode_serves_it(pinned: Run, parent: Run) -> None:
    frozen = train(plan(parent, FreezeRequest(concept="function", mode="write"), STEPS, twins=[]))
    found = prove(frozen)
    assert found["weights"]["branch"]["largest"] <= 1e-6
    assert found["weights"]["unfrozen"]["largest"] > 1e-3
    assert found["models"]["unfrozen"]["run"] == f"{pinned.name}--twin-unfrozen"
    assert "random" in found["missing"]  # that twin holds a random subspace by a pin, not by write
    assert found["verdict"] != "FROZEN-EXACT"


@pytest.mark.slow
def test_lower_is_exact_and_serves_as_the_twin_of_the_others(pinned: Run, parent: Run) -> None:
    train(plan(parent, FreezeRequest(concept="function", mode="lower"), STEPS, twins=[]))
    found = prove(pinned)
    assert found["drift"]["lower"]["raw"]["value"] == 0.0
    assert found["weights"]["lower"]["largest"] == 0.0
    lower = prove(Run.open(pinned.path.parent / f"{parent.name}--function-lower"))
    assert lower["verdict"] == "FROZEN-EXACT"
    shutil.rmtree(pinned.path.parent / f"{parent.name}--function-lower")


def test_an_experiment_that_is_done_is_not_trained_again_and_another_of_its_name_is_refused(
    pinned: Run, parent: Run
) -> None:
    request = FreezeRequest(concept="function", mode="pin")
    again = plan(parent, request, STEPS, twins=["unfrozen", "random"])
    assert again.waiting == ()
    assert train(again).name == pinned.name
    with pytest.raises(Exception, match="another experiment"):
        plan(parent, request, STEPS + 1, twins=[])


def test_other_settings_are_another_experiment_and_twins_trained_so_stand_beside_no_other(
    parent: Run, pinned: Run
) -> None:
    request = FreezeRequest(concept="function", mode="pin")
    with pytest.raises(RunExists, match="settings_sha256"):  # not the first one's proof as an answer to the second
        plan(parent, request, STEPS, twins=[], overrides=["optimizer.lr=1e-5"])
    slow = branch(parent, "slow", steps=STEPS, overrides=["optimizer.lr=1e-5"], freeze=request, kind="freeze")
    ours, theirs = pinned.manifest["branch"], slow.manifest["branch"]
    twin = Run.open(pinned.path.parent / f"{pinned.name}--twin-unfrozen").manifest["branch"]
    assert _serves(twin, ours, "function") == "unfrozen"
    assert _serves(twin, theirs, "function") is None
    shutil.rmtree(slow.path)


def test_a_random_twin_serves_the_same_subspace_and_target_alone(pinned: Run) -> None:
    ours = pinned.manifest["branch"]
    twin = Run.open(pinned.path.parent / f"{pinned.name}--twin-random").manifest["branch"]
    assert _serves(twin, ours, "function") == "random"
    assert _serves(twin, ours | {"concept_sha256": {"function": "0" * 64}}, "function") is None
    tighter = [request | {"target": 0.02} for request in ours["frozen"]]
    assert _serves(twin, ours | {"frozen": tighter}, "function") is None


@pytest.mark.slow
def test_a_killed_experiment_goes_on_where_it_stopped(parent: Run) -> None:
    request = FreezeRequest(concept="function", mode="write+anchor")
    first = plan(parent, request, STEPS, twins=["unfrozen"], name="again")
    branch(parent, "again", first.step, STEPS, freeze=first.request, kind="freeze")
    second = plan(parent, request, STEPS, twins=["unfrozen"], name="again")
    assert [one.begun for one in second.runs] == [True, False]
    assert train(second).state() == "finished"
    assert plan(parent, request, STEPS, twins=["unfrozen"], name="again").waiting == ()


def test_the_cost_is_estimated_from_the_parents_pace(parent: Run) -> None:
    pace = seconds_per_step(parent)
    made = plan(parent, FreezeRequest(concept="function", mode="anchor"), 100, twins=["unfrozen"])
    assert pace is not None and pace > 0
    assert made.seconds == pytest.approx(100 * pace)
    assert len(made.waiting) == 2


def test_a_freeze_that_waits_for_a_stable_concept_goes_ahead_once_four_checkpoints_in_a_row_were(
    parent: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = FreezeRequest(concept="function", mode="pin", when="stable")
    told = [(step, "STABLE") for step in (0, 4, 8, 16)]
    monkeypatch.setattr(shimmer, "states", lambda run, concept, make: told)
    made = plan(parent, request, 5, twins=[], name="x")
    assert (made.request.when, made.request.from_step) == ("step", 30)  # stable now, so it is frozen at once
    monkeypatch.setattr(shimmer, "states", lambda run, concept, make: [*told, (24, "FLICKER")])
    with pytest.raises(NotStable, match="FLICKER"):
        plan(parent, request, 5, twins=[], name="x")
    monkeypatch.setattr(
        shimmer, "states", lambda run, concept, make: [*told[1:], (31, "STABLE")]
    )  # after the checkpoint
    with pytest.raises(NotStable):
        plan(parent, request, 5, twins=[], name="x")


def test_what_cannot_be_planned_is_refused_and_nothing_is_made(parent: Run) -> None:
    before = sorted(path.name for path in parent.path.parent.iterdir())
    request = FreezeRequest(concept="function", mode="pin")
    with pytest.raises(BadExperiment, match="no twin"):
        plan(parent, request, 5, twins=["frozen"], name="x")
    with pytest.raises(BadExperiment, match="at least one step"):
        plan(parent, request, 0, twins=[], name="x")
    with pytest.raises(NotStable) as refused:
        plan(parent, request.model_copy(update={"when": "stable"}), 5, twins=[], name="x")
    assert refused.value.exit_code == 3
    assert sorted(path.name for path in parent.path.parent.iterdir()) == before


def test_what_cannot_be_proved_says_why(parent: Run, pinned: Run) -> None:
    with pytest.raises(NothingToProve, match="no concept is frozen"):
        prove(parent)
    with pytest.raises(NothingToProve, match="random-subspace control"):
        prove(Run.open(pinned.path.parent / f"{pinned.name}--twin-random"))
    untrained = branch(
        parent, "untrained", steps=3, freeze=FreezeRequest(concept="function", mode="pin"), kind="freeze"
    )
    with pytest.raises(NothingToProve):
        prove(untrained)
    with pytest.raises(NothingToProve, match="is not frozen"):
        case_of(pinned, "another", None)


def test_a_branch_outlives_its_parent_as_long_as_it_keeps_the_weights_it_began_with(
    pinned: Run, tmp_path: Path
) -> None:
    shutil.copytree(pinned.path, tmp_path / pinned.name)
    alone = Run.open(tmp_path / pinned.name)
    assert case_of(alone, None, None).parent.run.name == pinned.name
    shutil.rmtree(alone.checkpoint_info(int(alone.manifest["branch"]["step"])).path)
    with pytest.raises(NothingToProve, match="no longer in it"):
        case_of(alone, None, None)


@pytest.mark.slow
def test_a_direction_from_a_file_is_proved_by_its_strongest_words(parent: Run) -> None:
    import torch

    whole = Concept.load(parent, "function")
    bare = Concept(
        "bare", whole.layer, whole.basis[:, :1], whole.mean, torch.zeros(0, 1), torch.zeros(0), (),
        whole.checkpoint, whole.tokenizer, {"source": {"kind": "file"}},
    )  # fmt: skip
    bare.save(parent)
    try:
        frozen = branch(parent, "bare", steps=2, freeze=FreezeRequest(concept="bare", mode="pin"), kind="freeze")
        assert go_on(frozen).exit_code == 0
        found = prove(frozen)
    finally:
        shutil.rmtree(folder_of(parent, "bare"))
    assert found["verdict"] == "FROZEN-EXACT"
    assert found["decisions"]["branch"]["churn"]["value"] == 0.0
    assert found["text"]["words_of_the_concept"] > 0
    assert "no labelled words" in found["text"]["labels"]
    assert {"LEAK", "STALE-DIRECTION"} <= set(found["undecided"])
