"""The journal: text that is inert, claims marked where they stand, and cards whose every number is the stored one."""

import html
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from streamlit.testing.v1 import AppTest

from app import queries, verdict_figures, verdict_html
from app.journal_rows import latest_verdicts, with_verdicts
from app.verdict_text import MODEL_WRITTEN, VERDICTS, card_facts, margin, number, reading_facts, visible
from app.views import note
from lab import checkpoint
from lab.records import Claim, Entry, Records
from lab.run import Run
from probes.claims import grammar, outcomes
from tests.app.commands import ROOT
from tests.app.planted import make_run
from tests.app.planted_verdicts import ENTRIES, SEED, make_journal, stored, verdict_of
from tests.app.test_views import as_markdown, words
from train import control

Opener = Callable[..., AppTest]
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e-\d+)?(?![\w%])")
FIGURES = ("95 %", "90 %")  # levels of intervals, in every card


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("journals")
    make_journal(root, "fox")
    make_journal(root, "long", long=True)
    return root


def blocks(page: AppTest) -> list[str]:
    return [element.proto.body for element in page.get("html") if "<style>" not in element.proto.body]


def plain(block: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", " ", block))


def entry_blocks(page: AppTest) -> list[str]:
    return [block for block in blocks(page) if 'class="bw-text"' in block]


def card(page: AppTest) -> str:
    """All that stands in words at right: blocks, captions and commands."""
    at_right = [plain(block) for block in blocks(page) if 'class="bw-text"' not in block]
    return "\n".join([*at_right, *(c.value for c in page.caption if "claim" not in c.value)])


def figure(page: AppTest, at: int) -> dict[str, Any]:
    return json.loads(page.get("plotly_chart")[at].proto.spec)  # type: ignore[no-any-return]


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from leaves(item)
    elif value is not None:
        yield value


def may_be_shown(verdict: dict[str, Any]) -> set[str]:
    """Every form in which a number of the JSON may stand in a card, numbers inside its sentences included."""
    found = {number(margin(verdict))}
    for leaf in leaves(verdict):
        if isinstance(leaf, str):
            found |= set(NUMBER.findall(leaf))
        elif not isinstance(leaf, bool):
            found |= {number(leaf), number(leaf, signed=True), str(leaf)}
    return found


def numbers_in(text: str) -> set[str]:
    for level in FIGURES:
        text = text.replace(level, "")
    return set(NUMBER.findall(text))


def test_an_empty_journal_names_the_commands_that_fill_it(tmp_path: Path, open_app: Opener) -> None:
    make_run(tmp_path, "new", steps=())
    shown = open_app(tmp_path, "journal")
    assert not shown.exception and not shown.error
    assert "lab journal add new" in words(shown) and "lab verify new" in words(shown)


@pytest.mark.parametrize("name", ["ruin", "half"])
def test_a_broken_run_is_an_error_in_words(broken_root: Path, name: str, open_app: Opener) -> None:
    shown = open_app(broken_root, "journal", run=name)
    assert not shown.exception and shown.error[0].value == "This run cannot be shown."


def test_without_any_run_the_page_names_the_demo(tmp_path: Path, open_app: Opener) -> None:
    assert "lab demo" in words(open_app(tmp_path, "journal"))


def test_entries_stand_newest_first_and_the_model_never_passes_for_a_person(root: Path, open_app: Opener) -> None:
    shown = open_app(root, "journal", run="fox")
    found = entry_blocks(shown)
    assert not shown.exception and len(found) == len(ENTRIES)
    for block, (author, _, step, text) in zip(found, reversed(ENTRIES), strict=True):
        assert f"step {step:,}" in block and visible(text)[:20] in plain(block)
        assert (MODEL_WRITTEN in block) == (author == "model")
        assert ("bw-model" in block) == (author == "model")
        assert author == "model" or f"by {html.escape(author)}" in block


def test_claims_are_marked_where_they_stand_with_number_and_verdict(root: Path, open_app: Opener) -> None:
    block = entry_blocks(open_app(root, "journal", run="fox", entry="3"))[2]
    marks = re.findall(r"<mark[^>]*>(.*?)</mark> <span[^>]*>(.*?)</span>", block)
    assert marks == [
        (SEED[:-1], "1 · SUPPORTED-WEAK"),
        ("Content words are settled before function words", "2 · REFUTED-REVERSED"),
        ("Function words qxz the lower layers blorp", "3 · UNPARSED"),
    ]


@pytest.mark.parametrize("entry", ["1", "2", "3"])
def test_every_number_of_a_card_is_in_the_stored_verdict(root: Path, entry: str, open_app: Opener) -> None:
    run = Run.open(root / "fox")
    for verdict in stored(run):
        if verdict["claim"]["entry"] != entry:
            continue
        shown = open_app(root, "journal", run="fox", entry=entry, claim=verdict["claim"]["id"])
        text = card(shown)
        for reading in verdict["readings"]:
            shown.session_state["reading"] = reading
            text += card(shown.run())
        text = re.sub(r"Claim \d", "", text)
        allowed = set().union(*(may_be_shown(v) for v in stored(run) if v["claim"]["entry"] == entry))
        assert numbers_in(text) <= allowed, numbers_in(text) - allowed
        if verdict["readings"]:
            for name in verdict["readings"]:
                delta = verdict["readings"][name]["delta"]
                depth = verdict["readings"][name]["a"]["depth"]
                assert number(depth["value"]) in text
                assert delta is None or number(delta["value"], signed=True) in text


def test_the_interval_plot_draws_the_stored_differences_and_the_margin(root: Path, open_app: Opener) -> None:
    verdict = stored(Run.open(root / "fox"))[0]
    shown = open_app(root, "journal", run="fox", entry="1")
    drawn = figure(shown, 1)
    points = [t["x"][0] for t in drawn["data"] if t.get("mode") == "markers"]
    expected = []
    for name in ("decide", "decode.next", "decode.current", "use"):
        found = verdict["readings"][name]
        expected += [found["delta"]["value"], *(v["value"] for v in found["variants"])]
    assert points == pytest.approx(expected)
    band = next(shape for shape in drawn["layout"]["shapes"] if shape["type"] == "rect")
    assert (band["x0"], band["x1"]) == pytest.approx((-0.5 / 6, 0.5 / 6))
    assert "decide +0.214 (95 % +0.144 to +0.287)" in shown.get("plotly_chart")[1].proto.alt


def test_profiles_have_bands_and_the_never_trained_twin_of_both_sides(root: Path, open_app: Opener) -> None:
    verdict = stored(Run.open(root / "fox"))[0]
    shown = open_app(root, "journal", run="fox", entry="1")
    shown.session_state["reading"] = "decode.next"
    drawn = figure(shown.run(), 0)
    assert shown.query_params["reading"] == "decode.next"
    names = [trace.get("name") for trace in drawn["data"]]
    assert names.count("A, never-trained twin") == names.count("B, never-trained twin") == 1
    side = verdict["readings"]["decode.next"]["a"]
    line = next(trace for trace in drawn["data"] if trace.get("name") == "A: function words")
    assert line["y"] == pytest.approx(side["curve"]["value"])
    filled = [trace["y"] for trace in drawn["data"] if trace.get("fill") == "tonexty"]
    assert filled[0] == pytest.approx(side["curve"]["lo"])


def test_a_claim_about_one_place_is_drawn_against_the_region_it_names(root: Path, open_app: Opener) -> None:
    shown = open_app(root, "journal", run="fox", entry="2")
    drawn = figure(shown, 1)
    band = next(shape for shape in drawn["layout"]["shapes"] if shape["type"] == "rect")
    assert (band["x0"], band["x1"]) == pytest.approx((2 / 3, 1), abs=0.02)
    assert [t["x"][0] for t in drawn["data"] if t.get("mode") == "markers"] == pytest.approx([0.35] * 4)
    assert "0.972" in card(shown)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ({"author": "Ada"}, {"5", "2"}),
        ({"written": "400"}, {"1"}),
        ({"verdict": "REFUTED-REVERSED"}, {"3"}),
        ({"verdict": "NO VERDICT YET"}, {"4"}),
    ],
)
def test_filters_by_author_step_and_verdict(
    root: Path, url: dict[str, str], expected: set[str], open_app: Opener
) -> None:
    found = entry_blocks(open_app(root, "journal", run="fox", **url))
    bodies = [plain(block.split('dir="auto">')[1]).strip() for block in found]
    begins = {str(at): visible(text)[:20] for at, (_, _, _, text) in enumerate(ENTRIES, 1)}
    assert {at for at, text in begins.items() for body in bodies if body.startswith(text)} == expected
    assert len(found) == len(expected)


def test_a_link_restores_entry_and_claim_and_a_wrong_one_says_so(root: Path, open_app: Opener) -> None:
    second = next(v for v in stored(Run.open(root / "fox")) if v["verdict"] == "REFUTED-REVERSED")
    shown = open_app(root, "journal", run="fox", entry="3", claim=second["claim"]["id"])
    assert "Δ, adjusted depth of B less A" in card(shown) and "-0.187" in card(shown)
    assert "lab verify fox --entry 3 --step 1900" in words(shown)
    gone = open_app(root, "journal", run="fox", entry="77", claim="<img>")
    assert not gone.exception and "names an entry that is not here" in words(gone)


def test_the_evidence_of_any_claim_is_one_click_away_and_in_the_url(root: Path, open_app: Opener) -> None:
    second = next(v for v in stored(Run.open(root / "fox")) if v["verdict"] == "REFUTED-REVERSED")["claim"]["id"]
    shown = open_app(root, "journal", run="fox", entry="1")
    assert "-0.187" not in card(shown)
    shown.button(key=f"entry 3 claim {second}").click().run()
    assert shown.query_params["entry"] == ["3"] or shown.query_params["entry"] == "3"
    assert "-0.187" in card(shown) and len(shown.get("plotly_chart")) == 2
    first = next(v for v in stored(Run.open(root / "fox")) if v["claim"]["entry"] == "3")["claim"]["id"]
    shown.button(key=f"claim {first}").click().run()  # the other cards of the entry, at right
    assert "-0.187" not in card(shown) and "+0.214" in card(shown)


def test_an_entry_of_which_nothing_can_be_tested_says_so_with_a_count(root: Path, open_app: Opener) -> None:
    said = words(open_app(root, "journal", run="fox", entry="5"))
    assert "Its one sentence makes no claim about the layers that can be tested." in said


def noted(page: AppTest, author: str, text: str) -> AppTest:
    page.text_input(key="note author").set_value(author)
    page.text_area(key="note text").set_value(text)
    next(one for one in page.button if one.label == "Add to the journal").click()
    return page.run()


def test_a_note_becomes_an_entry_with_its_author_and_its_claims(tmp_path: Path, open_app: Opener) -> None:
    run = make_run(tmp_path, "new", steps=())
    checkpoint.save(run.checkpoints_folder, 8, {"weight": torch.zeros(1)}, {}, {"step": 8})
    shown = noted(open_app(tmp_path, "journal"), "Ada", f"{SEED} The weather was fine.")
    assert not shown.exception and "Entry 1 is in the journal." in [said.value for said in shown.success]
    assert "lab verify new --entry 1" in words(shown) and shown.text_area(key="note text").value == ""
    with run.records() as records:
        [entry] = records.rows(Entry)
        claims = [row.data for row in records.rows(Claim)]
    assert (entry.author, entry.step, entry.kind, entry.text) == ("Ada", 8, "note", f"{SEED} The weather was fine.")
    assert claims == [claim.to_json() for claim in grammar.parse(entry.text, 1)]
    shown = noted(shown, "Ada", "The weather was fine.")
    assert note.UNTESTABLE in words(shown) and "1 is in" not in words(shown)


def test_a_note_that_cannot_be_written_is_kept_and_the_reason_said(
    tmp_path: Path, open_app: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(note, "PATIENCE", 0.3)
    run = make_run(tmp_path, "busy", steps=())
    checkpoint.save(run.checkpoints_folder, 8, {"weight": torch.zeros(1)}, {}, {"step": 8})
    shown = noted(open_app(tmp_path, "journal"), "", SEED)
    assert "Give a name." in words(shown) and shown.text_area(key="note text").value == SEED
    assert "that name is the model's" in words(noted(shown, "Model", SEED))
    with run.lock("verify"):
        shown = noted(shown, "Ada", SEED)
        assert "is in use: verify" in words(shown) and shown.text_area(key="note text").value == SEED
    with run.records() as records:
        assert records.rows(Entry) == []
    with run.lock("training"):  # by one who is busy
        shown = noted(shown, "Ada", SEED)
        assert "Sent, but not in the journal yet" in words(shown)
    control.wait(run, next(run.inbox.glob("command-*.json")).stem.removeprefix("command-"))
    with run.records() as records:
        assert [entry.text for entry in records.rows(Entry)] == [SEED]


def test_a_claim_without_verdict_names_the_command_that_makes_one(root: Path, open_app: Opener) -> None:
    shown = open_app(root, "journal", run="fox", entry="4")
    assert "lab verify fox --entry 4" in words(shown) and not shown.get("plotly_chart")


def test_hostile_text_is_inert_wherever_it_is_shown(root: Path, open_app: Opener) -> None:
    for entry in ("3", "4"):
        shown = open_app(root, "journal", run="fox", entry=entry)
        assert not shown.exception
        assert "evil" not in as_markdown(shown)
        for block in blocks(shown):
            assert not re.search(r"<(img|script|a|b)\b", block)
            assert not set(block) & set("\u202e\u202c\x1b")
        block = entry_blocks(shown)[1]
        assert "&lt;script&gt;alert(2)" in block and block.count("</div>") == block.count("<div")


def test_an_entry_of_100_kb_is_an_excerpt_until_it_is_chosen(root: Path, open_app: Opener) -> None:
    shown = open_app(root, "journal", run="long", author="Ada", written="1900", entry="18")
    assert sum(len(block) for block in blocks(shown)) < 20_000
    whole = open_app(root, "journal", run="long", author="Ada", written="1900", entry="1")
    assert any("end marker" in block for block in entry_blocks(whole))
    assert not whole.exception


def test_a_link_to_an_old_entry_opens_its_page_of_the_list(root: Path, open_app: Opener) -> None:
    shown = open_app(root, "journal", run="long", entry="2")
    assert not shown.exception
    assert any("Note 0:" in plain(block) for block in entry_blocks(shown))
    assert len(entry_blocks(shown)) <= 8


def test_a_verdict_that_cannot_be_read_spoils_its_own_card_only(tmp_path: Path, open_app: Opener) -> None:
    run = make_journal(tmp_path, "bent")
    with sqlite3.connect(run.database) as database:
        database.execute('UPDATE verdicts SET data = \'{"verdict": "<b>x", "readings": []}\' WHERE id = 4')
    shown = open_app(tmp_path, "journal", entry="3")
    assert not shown.exception
    assert "This run cannot be shown." not in words(shown) and "This verdict cannot be shown." in words(shown)
    assert "Claim 2" in card(shown) and len(entry_blocks(shown)) == len(ENTRIES)


def test_a_reading_links_to_its_label_in_layers_at_the_verdicts_step(root: Path, open_app: Opener) -> None:
    shown = open_app(root, "journal", run="fox", entry="1")
    links = [link.proto for link in shown.get("page_link")]
    assert [link.label for link in links] == [
        "Layers: class.next at step 1,900",
        "Layers: supersense.next at step 1,900",
    ]
    assert "task=class.next" in links[0].query_string and "step=1900" in links[0].query_string


def test_looking_changes_no_byte_and_a_new_entry_changes_the_mark(tmp_path: Path, open_app: Opener) -> None:
    run = make_journal(tmp_path, "still")
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path.suffix != ".db-shm"}
    assert not open_app(tmp_path, "journal").exception
    assert {path: path.read_bytes() for path in before} == before
    with run.records() as records:
        mark = queries.journal_mark(records, run.evidence)
        writer = Records.writer(run.database)
        writer.add_now(Entry(step=1, author="Ada", kind="note", text="more", created_at=1.0))
        assert queries.journal_mark(records, run.evidence) != mark
        writer.close()


@given(
    text=st.text(max_size=60),
    spans=st.lists(
        st.tuples(st.integers(-5, 70) | st.none(), st.integers(-5, 70), st.sampled_from([None, "UNPARSED"]))
    ),
)
def test_marking_changes_no_word_whatever_the_spans(text: str, spans: list[Any]) -> None:
    block = verdict_html.marked(text, spans)
    bare = re.sub(r" ?<span[^>]*>.*?</span>", "", block)
    inner = re.sub(r"</?(div|mark)[^>]*>", "", bare)
    assert html.unescape(inner).replace(" ", "") == visible(text).replace(" ", "")


def test_a_number_that_is_not_finite_is_not_drawn_and_not_shown() -> None:
    assert number(float("nan")) == number(float("inf")) == number(None) == "–"
    curve: dict[str, Any] = {"unit": "bits", "layers": [0, 1], "value": [0.1, float("nan")], "lo": [0.0, float("-inf")]}
    curve |= {"hi": [0.2, float("inf")], "baseline": None}
    side = {"curve": curve, "depth": None, "subject": "a"}
    drawn = verdict_figures.profiles({"a": side, "b": None, "reading": "decode"}, 1)
    assert drawn is not None and [list(trace.y) for trace in drawn.data] == [[0.2, None], [0.0, None], [0.1, None]]


def test_names_in_figures_are_escaped() -> None:
    assert verdict_figures.plain('<a href="http://evil">x</a>') == '&lt;a href="http://evil"&gt;x&lt;/a&gt;'


def test_names_margin_and_regions_are_those_that_the_verdicts_were_made_with() -> None:
    assert outcomes.VERDICTS == VERDICTS and set(verdict_html.LOOKS) == set(VERDICTS)
    for layers in (1, 2, 6, 30):
        assert margin({"n_layers": layers}) == outcomes.margin(layers)
    for text in ("top third of the layers", "layer 3", "last two layers", "layers 2 to 4"):
        where = grammar.parse(f"Animals are in the {text}." if "layer " not in text else f"Animals are in {text}.")[
            0
        ].where
        assert where is not None, text
        drawn = verdict_figures.claimed_region({"claim": {"where": where}, "n_layers": 6})
        assert drawn == pytest.approx(outcomes.relative_region(where, 6)), text


def test_a_verdict_made_while_training_is_shown_from_its_file(tmp_path: Path, open_app: Opener) -> None:
    run = make_journal(tmp_path, "busy")
    claim = grammar.parse(ENTRIES[3][3], 4)[0]
    made = verdict_of(claim, "Mallory", "busy", 1900, "SUPPORTED-STRONG", 0.432)
    run.evidence.mkdir(exist_ok=True)
    (run.evidence / f"verdict-{claim.id}.json").write_text(json.dumps(made))
    (run.evidence / "verdict-0123456789abcdef.json").write_text("{not json")
    (run.evidence / f"verdict-{grammar.parse(SEED, 1)[0].id}.json").write_text('{"claim": 5}')
    shown = open_app(tmp_path, "journal", entry="4")
    assert not shown.exception and "+0.432" in card(shown) and "SUPPORTED-STRONG" in card(shown)


def test_home_shows_the_newest_verdict_of_each_claim_with_a_link_to_its_evidence(
    tmp_path: Path, open_app: Opener
) -> None:
    run = make_journal(tmp_path, "fox")
    found = [one for one in stored(run)][-3:][::-1]
    shown = open_app(tmp_path)
    assert not shown.exception
    cards = [plain(block) for block in blocks(shown) if "bw-wording" in block]
    assert len(cards) == 3
    for verdict, drawn in zip(found, cards, strict=True):
        assert verdict["verdict"] in drawn and verdict["wording"] in drawn and verdict["claim"]["text"] in drawn
    links = [link.proto for link in shown.get("page_link")]
    assert f"claim={found[0]['claim']['id']}" in links[0].query_string and "run=fox" in links[0].query_string
    claim = grammar.parse(ENTRIES[3][3], 4)[0]  # tested while a trainer lived: a file that nobody recorded
    made = verdict_of(claim, "Mallory", "fox", 1900, "SUPPORTED-STRONG", 0.432)
    (run.evidence / f"verdict-{claim.id}.json").write_text(json.dumps(made))
    assert latest_verdicts(run.records(), run.evidence)[0].verdict == "SUPPORTED-STRONG"


def test_a_list_of_entries_carries_no_verdicts_and_one_entry_all_of_them(root: Path) -> None:
    run = Run.open(root / "fox")
    records = run.records()
    full, light = (queries.journal(records, run.evidence, data=data) for data in (True, False))
    assert [with_verdicts(records, run.evidence, entry) for entry in light] == full != light


def test_a_claim_about_training_shows_its_readings_at_every_checkpoint() -> None:
    point = {"bits": {"value": 0.25, "lo": 0.2, "hi": 0.31}, "depth": None}
    points = [point | {"step": 400}, point | {"step": 1900, "depth": {"value": 0.5, "lo": 0.4, "hi": 0.6}}]
    verdict = verdict_of(grammar.parse(SEED)[0], "Ada", "fox", 1900, "INCONCLUSIVE", 0.1)
    found = verdict["readings"]["decode.next"] | {"delta": None, "settings": {"series": {"function words": points}}}
    drawn = verdict_figures.over_checkpoints(found)
    assert drawn is not None and (list(drawn.data[0].x), list(drawn.data[0].y)) == ([400, 1900], [0.25, 0.25])
    said = dict(reading_facts("series", found))
    assert (
        said["function words, step 1,900"]
        == "0.250 (95 % 0.200 to 0.310) bits per word, depth 0.500 (95 % 0.400 to 0.600)"
    )
    verdict["preference"] = {"text": "the claim has no reversal", "prefers": None}
    assert ("Preference", "not testable: the claim has no reversal") in card_facts(verdict)


def test_the_journal_page_loads_no_torch() -> None:
    program = "import sys; import app.main, app.cli_verify, app.verdict_html; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
