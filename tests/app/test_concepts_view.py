"""Concepts: cards as `lab concept show` prints them, shimmer as the instrument tells it. Freezes: `test_freezes_view`."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app import concept_card, concept_figures, shimmer_rows
from lab.config import RunConfig
from lab.run import Run
from tests.app.commands import ROOT, lab
from tests.app.concept_pages import charts, text
from tests.app.conftest import OpenApp
from tests.app.planted import make_run
from tests.app.planted_concepts import (
    BITS,
    SE,
    make_concepts,
    planted_card,
    write_card,
)
from tests.app.test_journal_view import blocks
from tests.app.test_views import as_markdown, trace, words
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
    assert "evil" not in as_markdown(shown)
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
