"""Concepts: cards as `lab concept show` prints them, shimmer as the instrument tells it, freezes as they were proved."""

from __future__ import annotations

import copy
import html
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from streamlit.testing.v1 import AppTest

from app import concept_card, concept_figures, concepts, shimmer_rows
from app.views.freezes import MODES
from lab.config import RunConfig
from lab.records import Records
from lab.run import Run
from lab.sections import FreezeMode
from probes.concepts import proof as proof_module
from probes.concepts.rules import HOLDS
from tests.app.commands import ROOT, lab
from tests.app.conftest import OpenApp
from tests.app.planted import make_run
from tests.app.planted_concepts import (
    BITS,
    SE,
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
from train.concepts import Task, add
from train.loop import train
from train.session import start
from train.shimmer import shimmer, states

Opener = Callable[..., AppTest]
BROKEN: dict[str, Callable[[dict[str, Any]], object]] = {
    "no layer": lambda card: card.pop("layer"),
    "a layer that is a word": lambda card: card.update(layer="third"),
    "no details": lambda card: card.pop("details"),
    "details that are a list": lambda card: card.update(details=[]),
    "a profile without one interval": lambda card: card["details"]["profile"]["low"].pop(),
    "a profile of no layers": lambda card: card["details"]["profile"].update(layers=[], value=[], low=[], high=[]),
    "a histogram that lacks a bin": lambda card: card["details"]["histogram"]["counts"]["dry"].pop(),
    "an example without its word": lambda card: card["details"]["examples"]["top"][0].pop("word"),
    "a source that does not say of what": lambda card: card["details"].update(source={"kind": "task"}),
    "tokens that are numbers": lambda card: card["details"].update(tokens=[1, 2]),
}


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


def charts(page: AppTest) -> dict[str, dict[str, Any]]:
    """Figures by what they show, told by their accessible name."""
    found = {}
    for element in page.get("plotly_chart"):
        words = element.proto.alt
        name = next(
            key for key in ("Histogram", "Bits", "States", "Drift", "Loss", "Accuracy") if words.startswith(key)
        )
        found[name] = json.loads(element.proto.spec)
    return found


def text(page: AppTest) -> str:
    return "\n".join([words(page), *map(plain, blocks(page))])


# ------------------------------------------------------------------------------------------------ nothing, and nonsense


def test_the_page_reads_cards_and_shimmer_without_torch(root: Path) -> None:
    program = (
        "import sys; from pathlib import Path; import app.main; from app import concept_card, concepts, shimmer_rows; "
        "from lab.run import Run; run = Run.open(Path(sys.argv[1])); records = run.records(); "
        "found = shimmer_rows.followed(run, records); concept_card.card(run, 'weather'); "
        "concepts.held(run.path.parent, run.name, records); "
        "print(len(found['tracks']), len(found['tracks'][0]['change_points']), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(root / "fox")], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["2", "1", "False"], done.stderr


def test_no_run_no_concept_and_no_readable_run_are_said_in_words_with_the_command(
    tmp_path: Path, broken_root: Path, open_app: Opener
) -> None:
    assert "lab demo" in words(open_app(tmp_path, "concepts"))
    make_run(tmp_path, "new", steps=())
    shown = open_app(tmp_path, "concepts")
    assert not shown.exception and not shown.error
    assert "has no concepts yet" in words(shown) and "lab concept add new function --task class.next" in words(shown)
    for name in ("ruin", "half"):
        shown = open_app(broken_root, "concepts", run=name)
        assert not shown.exception and shown.error[0].value == "This run cannot be shown."


@pytest.mark.parametrize("what", BROKEN)
def test_a_card_that_does_not_hold_together_is_refused_in_words(what: str, copied: Path) -> None:
    run = Run.open(copied / "fox")
    card = planted_card()
    BROKEN[what](card)
    write_card(run, card | {"name": "weather"})
    with pytest.raises(concept_card.CardBroken, match="weather: its card does not hold together"):
        concept_card.card(run, "weather")


def test_a_broken_card_is_an_error_in_words_and_the_rest_of_the_page_stands(tmp_path: Path, open_app: Opener) -> None:
    run = make_run(tmp_path, "fox", steps=(0, 1), tasks=("class.next",))
    write_card(run, planted_card() | {"layer": "third"})
    shown = open_app(tmp_path, "concepts")
    assert not shown.exception
    assert shown.error[0].value == "The card of this concept cannot be shown."
    assert "lab concept rm fox weather" in words(shown) and "does not hold together" in words(shown)
    assert "Nothing is frozen in this run." in words(shown)
    assert not any(element.proto.alt.startswith(("Histogram", "Bits")) for element in shown.get("plotly_chart"))


def test_a_card_that_is_no_json_at_all_names_its_file(tmp_path: Path, open_app: Opener) -> None:
    run = make_run(tmp_path, "fox", steps=())
    write_card(run, planted_card()).write_text("{half a ca", encoding="utf8")
    shown = open_app(tmp_path, "concepts")
    assert not shown.exception and "card.json" in words(shown)


def test_a_card_that_holds_the_subspace_alone_says_so_and_can_be_frozen(root: Path, open_app: Opener) -> None:
    shown = open_app(root, "concepts", run="fox", concept="bare")
    assert not shown.exception and not shown.error
    assert "holds the subspace alone" in words(shown) and "lab freeze fox bare --mode anchor" in words(shown)
    assert "lab shimmer fox --concept bare" in words(shown)  # which fills the empty place


def test_a_link_to_a_concept_that_is_not_here_says_so_and_shows_another(root: Path, open_app: Opener) -> None:
    shown = open_app(root, "concepts", run="fox", concept="absent")
    assert not shown.exception and "a concept that is not here" in shown.warning[0].value
    assert shown.selectbox(key="concept").value == "bare" and "asked for: absent" in words(shown)


# ------------------------------------------------------------------------------------------------------------- the card


def test_the_page_s_numbers_are_those_of_lab_concept_show(root: Path, weather: AppTest) -> None:
    card = json.loads(lab("concept", "show", "fox", "weather", "--json", runs=root).stdout)
    details = card["details"]
    shown = weather
    assert not shown.exception and not shown.error
    drawn = charts(shown)
    line = trace(drawn["Bits"], "this run")
    assert (line["x"], line["y"]) == (details["profile"]["layers"], details["profile"]["value"])
    assert [row[2:4] for row in line["customdata"]] == [
        list(pair) for pair in zip(details["profile"]["low"], details["profile"]["high"], strict=True)
    ]
    counts = details["histogram"]["counts"]
    for name, row in counts.items():
        drawn_row = trace(drawn["Histogram"], f"{name}, n = {sum(row)}")
        assert drawn_row["x"] == details["histogram"]["edges"] and drawn_row["customdata"][:-1] == row
        assert sum(drawn_row["y"][:-1]) == pytest.approx(1)
    said = text(shown)
    use, floor, bits = details["use"], details["noise_floor"], details["bits"]
    for value in (bits["value"], bits["low"], bits["high"], floor["overlap"], floor["overlap_median"]):
        assert f"{value:.3f}" in said
    for cost in (use["concept"], use["all"]):
        for value in (cost["erased"], cost["random"], *cost["net"].values()):
            assert f"{value:+.3f}" in said
        assert f"n = {cost['tokens']:,} tokens" in said
    assert "so it is used" in said and "so it is not shown to be used" in said and "3.7% of what" in said
    assert "Layer **3**, rank **2**, found at step **512**" in said
    for effect in details["tokens"]:
        for token in (*effect["promoted"], *effect["demoted"]):
            assert f"{token['logit']:+.2f}" in said


def test_examples_stand_from_top_to_bottom_with_the_word_marked_and_all_of_them_on_request(
    root: Path, weather: AppTest, open_app: Opener
) -> None:
    examples = planted_card()["details"]["examples"]
    shown = weather
    block = next(one for one in blocks(shown) if "bw-words" in one)
    order = [block.index(f">{title}<") for title in ("top", "quantile 0.9", "quantile 0.5", "quantile 0.1", "bottom")]
    assert order == sorted(order) and block.count("<mark>") == 6 + 3 * 2 + 6
    assert "<mark>w0</mark> it was." in block and "+4.50" in block and "-3.50" in block
    every = open_app(root, "concepts", run="fox", concept="weather", examples="true")
    block = next(one for one in blocks(every) if "bw-words" in one)
    assert block.count("<mark>") == sum(map(len, examples.values()))
    assert f"n = {sum(map(len, examples.values()))} words shown" in words(every)


def test_captions_say_n_step_and_layer_convention(weather: AppTest) -> None:
    said = "\n".join(caption.value for caption in weather.caption)
    assert "n = 201 words, layer 3, step 512" in said  # histogram
    assert "n = 1,283 words, step 512, band = 95 %; layer 0 is the embedding sum, layer l the residual stream" in said


def test_words_of_a_stranger_s_card_are_shown_and_not_obeyed(tmp_path: Path, open_app: Opener) -> None:
    run = make_run(tmp_path, "fox", steps=())
    evil = "<script>alert(1)</script>![x](http://evil.example/b.png)\u202e"
    card = planted_card("weather", 3, (evil, "wet"))
    details = card["details"]
    details["notes"] = [evil]
    details["tokens"][0]["direction"] = details["tokens"][0]["promoted"][0]["token"] = evil
    details["examples"]["top"][0].update(before=evil, word=evil, after=evil)
    details["source"]["names"] = [evil, evil]
    write_card(run, card)
    shown = open_app(tmp_path, "concepts")
    assert not shown.exception and not shown.error
    for block in blocks(shown):
        assert "<script" not in block and "<img" not in block and "\u202e" not in block
    assert "&lt;script&gt;" in "".join(blocks(shown))
    rendered = [*shown.markdown, *shown.caption, *shown.info, *shown.error, *shown.warning]
    assert not any("evil" in str(element.value) for element in rendered)
    for figure in charts(shown).values():
        assert all("<script" not in str(drawn.get("name")) for drawn in figure["data"])


def test_many_classes_become_rows_of_a_map_each_on_its_own_scale() -> None:
    card = concept_card.Card.model_validate(planted_card("kinds", 2, [f"kind{place}" for place in range(9)]))
    assert card.details.histogram is not None
    figure = concept_figures.histogram(card.details.histogram)
    [drawn] = figure.data
    assert drawn.type == "heatmap" and len(drawn.z) == 9
    assert all(sum(row) == pytest.approx(1) for row in drawn.z)


# -------------------------------------------------------------------------------------------------------------- shimmer


def test_the_shimmer_map_shows_bits_states_and_the_planted_change_of_level(
    root: Path, weather: AppTest, open_app: Opener
) -> None:
    shown = weather
    figure = charts(shown)["States"]
    [map_] = [drawn for drawn in figure["data"] if drawn["type"] == "heatmap"]
    assert map_["z"] == [list(BITS)]
    with Run.open(root / "fox").records() as records:
        found = states(records, "concept.weather")
        [track, _] = shimmer_rows.followed(Run.open(root / "fox"), records)["tracks"][::-1]
    assert [(point["step"], point["state"]) for point in track["points"]] == found
    assert [(one["before"], one["step"]) for one in track["change_points"]] == [(8, 16)]
    assert track["points"][-1]["se"] == pytest.approx(SE)
    assert "STABLE at step 1,000, 0.310 ± 0.010 bits per word; born at step 32" in text(shown)
    assert "level changes at step 16 by +0.30" in text(shown)
    assert any("level changes" in str(drawn.get("name")) for drawn in figure["data"])
    with_labels = charts(open_app(root, "concepts", run="fox", concept="weather", labels="true"))["States"]
    assert any("class.next @ 3" in name for name in with_labels["layout"]["yaxis"]["ticktext"])


def test_snapshots_made_afterwards_are_read_as_lab_shimmer_reads_them(
    tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    quiet = [f"{name}.every=0" for name in ("probing", "evaluation", "understanding", "shimmer")]
    config = tiny_config("train.steps=24", "train.stop=2", "checkpoint.every=2", "data.validation_share=0.2", *quiet)
    with start(config, tmp_path, "fox") as session:
        outcome = train(session)
        session.records.end_segment(session.segment, session.step, outcome.reason)
    run = Run.open(tmp_path / "fox")
    add(run, "function", Task("class.current"), layer=1)
    with run.records() as records:
        assert shimmer_rows.followed(run, records)["tracks"] == []
    told = shimmer(run, tasks=["class.next"], concepts=["function"], layers=[0, 1]).to_dict()
    with run.records() as records:
        found = {(one["name"], one["layer"]): one for one in shimmer_rows.followed(run, records)["tracks"]}
    assert len(told["tracks"]) == 3
    for track in told["tracks"]:
        mine = found[track["name"], track["layer"]]
        for key in ("n", "state", "births", "deaths", "change_points"):
            assert mine[key] == track[key], key
        for a, b in zip(mine["points"], track["points"], strict=True):
            assert (a["step"], a["state"]) == (b["step"], b["state"])
            assert (a["bits"], a["se"]) == (pytest.approx(b["bits"]), pytest.approx(b["se"]))
    card = json.loads((run.concepts / "function" / "card.json").read_text())
    write_card(run, card | {"sha256": "9" * 64})  # found anew: what was read through the old one is not its history
    with run.records() as records:
        left = {one["name"] for one in shimmer_rows.followed(run, records)["tracks"]}
    assert left == {"class.next"}


# -------------------------------------------------------------------------------------------------------------- freezes


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
    for ruin in ("{half", "[]", json.dumps({key: whole[key] for key in whole if key != "drift"})):
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
