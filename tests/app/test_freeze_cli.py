"""`lab freeze`, `lab release` and `lab prove` as a person meets them; and that no bad input touches the parent run."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from app import proof_figures
from app.proof_html import report
from app.proof_text import HEADER, facts, interval, rows, to_text
from lab.concepts import Concept
from lab.config import RunConfig
from lab.records import Claim
from lab.run import Run
from probes.concepts import proof as proof_module
from probes.concepts.rules import HOLDS
from tests.app.commands import Done, command, environment, lab
from tests.train.frozen_runs import STEPS, concept_run, folder_hash
from train import held_out


@pytest.fixture(scope="module")
def runs(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    spoil(concept_run(tiny_config, root))
    return root


def spoil(run: Run) -> None:
    """Concepts beside the sound one, each broken in its own way after it was written."""
    for name in ("nan", "skewed", "foreign", "deep", "edited", "garbled"):
        shutil.copytree(run.concepts / "function", run.concepts / name)
    one = Concept.load(run, "function")
    tensors = {"basis": one.basis, "mean": one.mean, "weight": one.weight, "bias": one.bias}
    changed = {"nan": torch.full_like(one.basis, torch.nan), "skewed": one.basis * 1.5, "edited": -one.basis}
    for name, basis in changed.items():
        save_file(
            {k: v.contiguous() for k, v in (tensors | {"basis": basis}).items()},
            run.concepts / name / "subspace.safetensors",
        )
    for name, field, value in (("foreign", "tokenizer", "0" * 64), ("deep", "layer", 9)):
        file = run.concepts / name / "card.json"
        card = json.loads(file.read_text())
        digest = Concept.sha256.fget  # type: ignore[attr-defined]
        card[field] = value
        if name == "deep":
            card["sha256"] = digest(SimpleNamespace(layer=9, classes=one.classes, **tensors))
        file.write_text(json.dumps(card))
    (run.concepts / "garbled" / "card.json").write_text("{not json")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Files that no concept can be made of."""
    save_file({"v": torch.ones(64, 2)}, tmp_path / "skewed.safetensors")
    save_file({"v": torch.full((64,), torch.nan)}, tmp_path / "nan.safetensors")
    save_file({"v": torch.ones(63)}, tmp_path / "narrow.safetensors")
    (tmp_path / "noise.safetensors").write_bytes(b"not a tensor")
    return tmp_path


BAD: dict[str, tuple[str, str]] = {
    "no concept named": ("freeze fox", "no concept is named"),
    "a concept that is not there": ("freeze fox absent", "no concept 'absent'"),
    "a name that leaves the folder": ("freeze fox ../fox", "concept"),
    "an unknown mode": ("freeze fox function --mode glue", "mode"),
    "a target of nothing": ("freeze fox function --target 0", "target"),
    "a target beyond the spread": ("freeze fox function --target 2", "target"),
    "no steps": ("freeze fox function --steps 0", "at least one step"),
    "an unknown twin": ("freeze fox function --twins frozen", "'frozen' is no twin"),
    "empty twins": ("freeze fox function --twins ,", "names none"),
    "a step without a checkpoint": ("freeze fox function --step 29", "no checkpoint of step 29"),
    "a step that kept its weights alone": ("freeze fox function --step 4", "whole checkpoint"),
    "another layer than the concept's": ("freeze fox function --layer 2", "was found at layer 1"),
    "a moment that is none": ("freeze fox function --when soon", "is stable, or left out"),
    "live with what is for branches": ("freeze fox function --live --steps 9", "--steps is for branches"),
    "live without a trainer": ("freeze fox function --live", "is not training"),
    "a claim that is not there": ("freeze fox new --from-claim 99", "no claim '99'"),
    "a branch name that is taken": ("freeze fox function --name fox", "exists already"),
    "a branch name that is a path": ("freeze fox function --name ../x", "name"),
    "a negative fade": ("freeze fox function --mode pin --fade-steps -1", "fade_steps"),
    "an override of what twins share": ("freeze fox function --set train.batch=2", "train.batch"),
    "an override that is none": ("freeze fox function --set nonsense", "nonsense"),
    "a report where no folder is": ("freeze fox function --html no/such/place.html", "no folder"),
    "a subspace with NaN": ("freeze fox nan", "NaN"),
    "a subspace that is not orthonormal": ("freeze fox skewed", "not orthonormal"),
    "a subspace of another tokenizer": ("freeze fox foreign", "another tokenizer"),
    "a subspace at a layer that is not there": ("freeze fox deep", "layer 9"),
    "a subspace that its card does not describe": ("freeze fox edited", "not the one that its card describes"),
    "a card that is no JSON": ("freeze fox garbled", "cannot be read"),
    "finding at a layer that is not there": ("concept add fox new --task class.current --layer 9", "layers 0..2"),
    "finding a task that is none": ("concept add fox new --task class.past", "none of ours"),
    "finding a class without words": ("concept add fox new --task class.current:adverb", "adverb"),
    "a file with NaN": ("concept add fox new --layer 1 --from-file FILES/nan.safetensors", "NaN"),
    "a file that is not orthonormal": (
        "concept add fox new --layer 1 --from-file FILES/skewed.safetensors",
        "orthonormal",
    ),
    "a file of another width": ("concept add fox new --layer 1 --from-file FILES/narrow.safetensors", "64 wide"),
    "a file that is none": ("concept add fox new --layer 1 --from-file FILES/noise.safetensors", "noise"),
    "proving what is not frozen": ("prove fox", "no concept is frozen"),
    "proving a run that is not there": ("prove wolf", "no run is called"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_input_is_refused_in_words_and_leaves_the_parent_run_untouched(
    what: str, runs: Path, files: Path
) -> None:
    command, expected = BAD[what]
    parent = Run.open(runs / "fox")
    before, there = folder_hash(parent), sorted(path.name for path in runs.iterdir())
    done = lab(*command.replace("FILES", str(files)).split(), runs=runs)
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert expected in done.stderr
    assert done.stderr.startswith("lab: ") or "\nlab: " in done.stderr
    assert "Traceback" not in done.stderr
    assert folder_hash(parent) == before
    assert sorted(path.name for path in runs.iterdir()) == there


def test_a_full_disk_while_a_branch_is_made_leaves_nothing_behind(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = Run.open(runs / "fox")
    before, there = folder_hash(parent), sorted(path.name for path in runs.iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=1, used=1, free=0))
    done = lab("freeze", "fox", "function", "--steps", "2", "--twins", "none", runs=runs)
    assert done.returncode == 2, done
    assert "room" in done.stderr or "free" in done.stderr
    assert folder_hash(parent) == before
    assert sorted(path.name for path in runs.iterdir()) == there


def test_a_freeze_that_waits_for_a_stable_concept_is_stopped_by_the_gate(runs: Path) -> None:
    before = folder_hash(Run.open(runs / "fox"))
    done = lab("freeze", "fox", "function", "--when", "stable", runs=runs)
    assert done.returncode == 3
    assert "STABLE" in done.stderr
    assert folder_hash(Run.open(runs / "fox")) == before


def test_releasing_what_is_not_frozen_is_refused(runs: Path) -> None:
    done = lab("release", "fox", "function", "--wait", "5", runs=runs)
    assert done.returncode == 1
    assert "fox" in done.stderr


# --------------------------------------------------------------------------------------------------------- a real freeze


@pytest.fixture(scope="module")
def frozen(runs: Path) -> Done:
    """A pin, its unfrozen twin and the proof, by one command."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held_out, "SENTENCES", 150)
        patch.setattr(held_out, "TOKENS", 2500)
        patch.setattr(proof_module, "SPLITS", 8)
        return lab(
            "freeze", "fox", "function", "--mode", "pin", "--steps", str(STEPS), "--twins", "unfrozen", "--json", runs=runs
        )  # fmt: skip


def test_a_pin_through_the_command_line_is_frozen_exactly(frozen: Done, runs: Path) -> None:
    assert frozen.returncode == 0, frozen.stderr
    found = json.loads(frozen.stdout)
    assert found["verdict"] == "FROZEN-EXACT"
    assert found["branch"] == "fox--function-pin"
    kept = runs / "fox--function-pin" / "evidence" / "freeze-fox--function-pin.json"
    assert json.loads(kept.read_text(encoding="utf8")) == found
    first = frozen.stderr.splitlines()[0]
    assert re.match(
        rf"training 2 runs of {STEPS} steps from step 30 of fox: about \d+ seconds, at the parent's ", first
    )


def test_its_unfrozen_twin_is_not_frozen(frozen: Done, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_out, "SENTENCES", 150)
    monkeypatch.setattr(held_out, "TOKENS", 2500)
    done = lab("prove", "fox--function-pin--twin-unfrozen", runs=runs)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0].startswith("NOT FROZEN")
    assert "twin" in done.stderr  # those that are missing are named


def test_freezing_twice_trains_nothing_and_other_settings_under_the_name_are_refused(frozen: Done, runs: Path) -> None:
    before = folder_hash(Run.open(runs / "fox--function-pin"))
    done = lab("freeze", "fox", "function", "--mode", "pin", "--steps", "99", "--twins", "none", runs=runs)
    assert done.returncode == 2
    assert "another experiment" in done.stderr
    again = ("freeze", "fox--function-pin", "function", "--mode", "anchor", "--steps", "2", "--twins", "none")
    done = lab(*again, runs=runs)
    assert done.returncode == 2
    assert "frozen" in done.stderr
    assert folder_hash(Run.open(runs / "fox--function-pin")) == before


def test_the_table_has_a_row_for_every_model_and_says_what_is_open(frozen: Done) -> None:
    found = json.loads(frozen.stdout)
    text = to_text(found, width=100)
    assert text.startswith("FROZEN-EXACT")
    assert [row[0] for row in rows(found)[1:]] == ["at the freeze", "branch", "twin, unfrozen"]
    assert all(len(row) == len(HEADER) for row in rows(found))
    told = dict(facts(found))
    assert told["holds"] == HOLDS["pin"]
    assert "COSTLY" in told["not decided"] or any(
        "COSTLY" in text for label, text in facts(found) if label == "not decided"
    )
    assert "held-out text" in told


class Tags(HTMLParser):
    """What a browser would make of a page: attributes, and words outside scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.attributes: set[str] = set()
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.words += "" if self.cdata_elem == "script" else data


def test_the_report_is_one_file_with_its_figures_and_no_address(frozen: Done) -> None:
    found = json.loads(frozen.stdout)
    page = report(found)
    assert page == report(found)
    assert all(f'id="{name}"' in page for name in ("drift", "cost", "leak"))
    assert "FROZEN-EXACT" in page
    assert "default-src 'none'" in page
    tags = Tags(page)
    assert not tags.attributes & {"src", "href"}
    assert "http" not in tags.words


def test_the_figures_draw_the_numbers_of_the_proof_and_leave_out_what_was_not_measured(frozen: Done) -> None:
    found: dict[str, Any] = json.loads(frozen.stdout)
    drawn = {trace.name: trace.y[0] for trace in proof_figures.drift(found).data}
    assert drawn["twin, unfrozen"] == found["drift"]["unfrozen"]["raw"]["value"]
    assert 0 < drawn["branch"] <= 1e-5  # on a log axis, where 0 itself has no place
    leak = proof_figures.leak(found)
    assert leak is not None
    assert [tuple(trace.y) for trace in leak.data] == [
        tuple(found["leak"]["models"][name]["outside"]["accuracy"]) for name in ("parent", "branch", "unfrozen")
    ]
    assert proof_figures.leak(found | {"leak": None}) is None
    assert proof_figures.cost(found | {"cost": {}}) is None


def test_a_name_with_markup_is_shown_and_not_obeyed(frozen: Done) -> None:
    found: dict[str, Any] = json.loads(frozen.stdout)
    found["concept"]["name"] = "<img src=x>\x1b[2J"
    assert "<img" not in report(found)
    assert "\x1b" not in to_text(found)


def test_an_interval_has_the_digits_that_tell_it_from_nothing() -> None:
    assert interval({"value": 0.054, "lo": 0.05, "hi": 0.058}) == "0.054 [0.050, 0.058]"
    assert interval({"value": 1.7e-7, "lo": 1.6e-7, "hi": 1.8e-7}) == "1.7e-07 [1.6e-07, 1.8e-07]"
    assert interval({"value": 0.0, "lo": 0.0, "hi": 0.0}) == "0.000 [0.000, 0.000]"


# ---------------------------------------------------------------------------------- live, and from a claim of the journal


def copied(runs: Path, to: Path) -> Run:
    """The parent run and its text in a place of their own."""
    shutil.copytree(runs / "fox", to / "fox")
    shutil.copytree(runs / ".data", to / ".data")
    return Run.open(to / "fox")


@pytest.mark.slow
def test_a_run_in_training_freezes_a_concept_live_and_is_proved_against_that_moment(runs: Path, tmp_path: Path) -> None:
    run = copied(runs, tmp_path)
    trainer = subprocess.Popen(
        command("resume", "fox", "--extend-to", "6000"), env=environment(tmp_path), stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while run.state() != "training" and trainer.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    live = lab("freeze", "fox", "function", "--mode", "pin", "--live", "--wait", "120", "--json", runs=tmp_path)
    assert live.returncode == 0, live.stderr + live.stdout
    step = json.loads(live.stdout)["step"]
    twice = lab("freeze", "fox", "function", "--mode", "anchor", "--live", "--wait", "120", runs=tmp_path)
    assert twice.returncode == 1
    assert "already" in twice.stderr
    unknown = lab("release", "fox", "absent", "--wait", "120", runs=tmp_path)
    assert unknown.returncode == 1
    assert "not frozen" in unknown.stderr
    assert lab("stop", "fox", "--wait", "120", runs=tmp_path).returncode == 0
    trainer.communicate(timeout=120)
    proved = lab("prove", "fox", "--json", runs=tmp_path)
    assert proved.returncode == 0, proved.stderr
    proof = json.loads(proved.stdout)
    assert proof["verdict"] == "FROZEN-EXACT"
    assert proof["from_step"] == step  # whose weights were saved then, and kept since
    assert set(proof["missing"]) == {"unfrozen", "random", "lower"}


@pytest.mark.slow
def test_a_claim_of_the_journal_becomes_a_concept_is_frozen_and_proved_by_one_command(
    runs: Path, tmp_path: Path
) -> None:
    run = copied(runs, tmp_path)
    text = "Function words are settled at lower layers."
    assert lab("journal", "add", "fox", "--author", "me", "--text", text, runs=tmp_path).returncode == 0
    with run.records() as records:
        claim = records.rows(Claim)[0].id
    arguments = ("--from-claim", claim, "--layer", "1", "--mode", "pin", "--steps", "2", "--twins", "none", "--json")
    done = lab("freeze", "fox", "settled", *arguments, runs=tmp_path)
    assert done.returncode == 0, done.stderr
    proof = json.loads(done.stdout)
    assert proof["verdict"] == "FROZEN-EXACT"
    assert proof["concept"]["name"] == "settled"
    assert proof["text"]["labelled_words"] > 100
    again = lab("freeze", "fox", "settled", *arguments, runs=tmp_path)
    assert again.returncode == 2
    assert "has a concept 'settled' already" in again.stderr
