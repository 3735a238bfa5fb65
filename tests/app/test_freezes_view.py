"""Freezes on the Concepts page: what is held, branches and proofs as they were made, and the command."""

from __future__ import annotations

import copy
import html
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import pytest
from streamlit.testing.v1 import AppTest

from app import concepts
from app.views.freeze_dialog import MODES
from lab.config import RunConfig
from lab.records import Records
from lab.run import Run
from lab.sections import FreezeMode
from probes.concepts import proof as proof_module
from probes.concepts.rules import HOLDS
from tests.app.commands import lab
from tests.app.concept_pages import charts, text
from tests.app.conftest import OpenApp
from tests.app.planted_concepts import (
    branch,
    held,
    make_concepts,
    planted_card,
    planted_proof,
    write_card,
)
from tests.app.test_journal_view import blocks, plain
from tests.app.test_views import trace, words
from tests.train.frozen_runs import concept_run
from train import held_out

Opener = Callable[..., AppTest]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("concepts")
    make_concepts(root, "fox")
    return root


@pytest.fixture(scope="module")
def weather(root: Path) -> Iterator[AppTest]:
    """The page of the concept that has everything, drawn once for all who only look at it."""
    with pytest.MonkeyPatch.context() as patch:
        yield OpenApp(patch)(root, "concepts", run="fox", concept="weather", branch="fox--weather-write")


@pytest.fixture
def copied(root: Path, tmp_path: Path) -> Path:
    shutil.copytree(root, tmp_path / "runs")
    return tmp_path / "runs"


def test_what_is_held_follows_the_history_and_is_released_when_it_is(copied: Path, open_app: Opener) -> None:
    run = Run.open(copied / "fox")
    with run.records() as records:
        [item] = concepts.held(copied, "fox", records)  # "lost" was frozen on a history that a resume left behind
    assert (item["concept"], item["status"]) == ("weather", "holding")
    shown = open_app(copied, "concepts", run="fox", concept="weather")
    said = text(shown)
    assert "weather (this concept)" in said and "0.087 at step 1,500" in said and "lab release fox weather" in said
    assert "lost" not in said and "It is held in this run already" in said
    with Records.writer(run.database) as records:
        records.add_now(
            held(1700, "weather", "anchor", "freeze-release", 2, status="released", released_step=1700, from_step=600)
        )
    shown = open_app(copied, "concepts", run="fox", concept="weather")
    assert "released, let go at step 1700" in text(shown) and "lab release" not in words(shown)


def test_a_branch_holds_what_its_parent_held_when_it_began(copied: Path, open_app: Opener) -> None:
    name = "fox--weather-pin"
    with Run.open(copied / name).records() as records:
        assert [item["concept"] for item in concepts.held(copied, name, records)] == ["weather"]
    early = branch(copied, "fox", "early", "pin", step=500)
    with early.records() as records:
        assert concepts.held(copied, "early", records) == []
    run = Run.open(copied / name)
    run.update_manifest(branch=run.manifest["branch"] | {"parent": name})  # a manifest that goes round in a circle
    with run.records() as records:
        assert concepts.held(copied, name, records) == []
    write_card(run, planted_card())
    assert "This run is a branch of" in words(open_app(copied, "concepts", run=name))


def test_branches_stand_with_verdict_before_and_after_flags_and_figures(weather: AppTest) -> None:
    name = "fox--weather-write"
    shown = weather
    assert not shown.exception and not shown.error and not shown.warning
    table = next(block for block in blocks(shown) if "NRMSE (95 %)</th><th>ΔCE to random V" in block)
    rows = [plain(row).split() for row in table.split("<tr>")[2:]]
    assert [row[0] for row in rows] == ["fox--weather-pin", name]
    assert "not proved yet" in table and "FROZEN-WEIGHTS-ONLY" in table and "COSTLY" in table
    assert "0.173 [0.162, 0.186]" in table and "+0.026 [+0.015, +0.039]" in table
    measured = next(block for block in blocks(shown) if "at the freeze" in block)
    before, after = (next(row for row in measured.split("<tr>") if key in row) for key in ("at the freeze", ">branch<"))
    assert "0.913" in before and "+0.042" in before and "3.1e-08" in after and "0.173 [0.162, 0.186]" in after
    said = text(shown)
    assert f"Its twins: {name}--twin-unfrozen." in said and "flag: COSTLY" in said and "no lower twin" in said
    assert "61 documents, 7,013 tokens" in said and f"lab prove {name} --html" in said
    drawn = charts(shown)
    values = {point["name"]: point["y"] for point in drawn["Drift"]["data"]}
    assert values["branch"] == [0.173] and values["twin, unfrozen"] == [0.357]
    assert {"Loss", "Accuracy"} <= set(drawn)


def test_an_unproved_branch_names_the_command_that_proves_it(root: Path, open_app: Opener) -> None:
    shown = open_app(root, "concepts", run="fox", concept="weather", branch="fox--weather-pin")
    assert "has not been proved yet" in words(shown) and "lab prove fox--weather-pin" in words(shown)
    assert "lab resume fox--weather-pin" in words(shown)


def test_a_broken_proof_and_one_of_an_earlier_subspace_are_said_in_words(copied: Path, open_app: Opener) -> None:
    name = "fox--weather-write"
    file = copied / name / "evidence" / f"freeze-{name}.json"
    whole = json.loads(file.read_text())
    old = copy.deepcopy(whole)
    old["concept"]["sha256"] = "8" * 64
    file.write_text(json.dumps(old))
    url = {"run": "fox", "concept": "weather", "branch": name}
    assert "earlier subspace" in open_app(copied, "concepts", **url).warning[0].value
    anothers = json.dumps(whole | {"branch": "fox--weather-pin"})
    for ruin in ("{half", "[]", json.dumps({key: whole[key] for key in whole if key != "drift"}), anothers):
        file.write_text(ruin)
        shown = open_app(copied, "concepts", **url)
        assert not shown.exception and "proof of this freeze cannot be shown" in shown.error[0].value
        assert f"lab prove {name}" in words(shown)


def test_a_proof_of_a_live_freeze_stands_with_the_run_itself(copied: Path, open_app: Opener) -> None:
    file = copied / "fox" / "evidence" / "freeze-fox--weather.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(planted_proof("fox", "fox", "anchor")))
    shown = open_app(copied, "concepts", run="fox", concept="weather")
    assert not shown.exception and "fox (this run)" in text(shown)
    assert "lab prove fox --concept weather --html" in words(shown)


def test_hostile_words_of_a_proof_are_inert(weather: AppTest) -> None:
    shown = weather
    for block in blocks(shown):
        assert "<img" not in block and "\u202e" not in block
    assert "&lt;img" in html.escape(text(shown)) or "<img" in text(shown)  # shown as words


def test_the_command_freezes_the_chosen_concept_in_the_chosen_mode(root: Path, open_app: Opener) -> None:
    shown = open_app(root, "concepts", run="fox", concept="weather", mode="write+anchor")
    for mode in ("write+anchor", "pin"):
        shown.selectbox(key="mode").select(mode).run()
        command = next(code.value for code in shown.code if code.value.startswith("lab freeze"))
        assert f"lab freeze fox weather --mode {mode} --steps 500 --twins unfrozen,random,lower" in command
        assert HOLDS[mode] in words(shown) and "--live" not in command  # nobody trains
        assert shown.query_params["mode"] in (mode, [mode])
    assert set(MODES) == set(get_args(FreezeMode))
    refused = lab(*command.splitlines()[0].split()[1:], runs=root)
    assert refused.returncode == 2 and "No such option" not in refused.stderr  # understood; there are no weights here


@pytest.mark.slow
def test_a_real_freeze_and_its_proof_stand_on_the_page_as_the_terminal_says(
    tiny_config: Callable[..., RunConfig], tmp_path: Path, open_app: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    concept_run(tiny_config, tmp_path)
    monkeypatch.setattr(held_out, "SENTENCES", 150)
    monkeypatch.setattr(held_out, "TOKENS", 2500)
    monkeypatch.setattr(proof_module, "SPLITS", 8)
    done = lab("freeze", "fox", "function", "--mode", "pin", "--steps", "8", "--twins", "unfrozen", runs=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = open_app(tmp_path, "concepts", run="fox", concept="function")
    assert not shown.exception and not shown.error
    assert "FROZEN-EXACT" in text(shown) and done.stdout.startswith("FROZEN-EXACT")
    for row in done.stdout.split("\n\n")[1].splitlines():
        for cell in (part.strip() for part in row.split("  ") if part.strip()):
            assert cell in text(shown), cell
    card = json.loads(lab("concept", "show", "fox", "function", "--json", runs=tmp_path).stdout)
    assert trace(charts(shown)["Bits"], "this run")["y"] == card["details"]["profile"]["value"]
    held_there = open_app(tmp_path, "concepts", run="fox--function-pin", concept="function")
    assert "function (this concept)" in text(held_there) and "holding" in text(held_there)
