"""Conversations: transcripts that are inert and marked, changes word by word, rates with intervals beside the reference."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamlit.testing.v1 import AppTest

from app import behaviour, behaviour_figures, transcript_html
from app.behaviour import Mark
from app.behaviour_figures import Point
from app.verdict_html import escaped
from lab.records import Episode, Records
from lab.run import Run
from probes.behaviour.rates import wilson
from tests.app.planted import make_run
from tests.app.planted_behaviour import CHECK_INS, LIST, LOOP, SAMPLES, SYSTEM, TOPIC, make_behaviour, samples
from tests.app.planted_verdicts import HOSTILE
from tests.app.test_journal_view import blocks, figure, plain
from tests.app.test_views import as_markdown, words

Opener = Callable[..., AppTest]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("talked")
    make_behaviour(root, "fox")
    return root


def said(page: AppTest) -> str:
    return "".join(blocks(page))


def lines(page: AppTest, at: int) -> list[dict[str, Any]]:
    return [trace for trace in figure(page, at)["data"] if trace["mode"] == "lines+markers"]


def test_a_transcript_has_every_turn_in_order_with_its_findings_marked(root: Path, open_app: Opener) -> None:
    shown = open_app(root, "conversations", kind="self-play")
    assert not shown.exception and not shown.error
    turns = next(b for b in blocks(shown) if "bw-turn" in b).split('<div class="bw-turn">')[1:]
    assert [plain(turn).split()[0] for turn in turns] == list("ABABAB")
    assert "given by the lab" in turns[0] and TOPIC in plain(turns[0])
    assert f">{LOOP}</mark>" in turns[3] and "loops.tail-cycle" in turns[3]
    assert "loops.turn-near-copy" in turns[4] and "<mark" not in turns[4]  # about the turn, not a place in it
    assert "<mark" not in turns[1] and "model-written" in said(shown)


def test_a_link_restores_kind_step_episode_and_question(root: Path, open_app: Opener) -> None:
    with Run.open(root / "fox").records() as records:
        here = [t for t in behaviour.talks(records) if (t.kind, t.step) == ("check-in", 1400)]
    for talk in here:
        url = {"kind": "check-in", "step": "1400", "episode": str(talk.id), "prompt": "story"}
        shown = open_app(root, "conversations", **url)
        assert not shown.exception and "Check-in at step 1,400" in words(shown)
        assert shown.selectbox(key="episode").value == str(talk.id) and shown.selectbox(key="prompt").value == "story"
        assert (SYSTEM in plain(said(shown))) == talk.system
    assert [talk.system for talk in here] == [False, True]


@pytest.mark.parametrize(
    "url", [{"step": "3"}, {"episode": "999"}, {"kind": "chess"}, {"kind": "check-in", "prompt": "<b>"}]
)
def test_a_link_to_what_is_not_there_falls_back(root: Path, url: dict[str, str], open_app: Opener) -> None:
    shown = open_app(root, "conversations", **url)
    assert not shown.exception and not shown.error and len(shown.get("plotly_chart")) == 2


def test_rates_have_wilson_intervals_and_lines_break_where_the_regime_changes(root: Path, open_app: Opener) -> None:
    shown = open_app(root, "conversations", kind="self-play")
    first, second = lines(shown, 1)  # share of turns that are layout
    assert (first["x"], second["x"]) == ([512, 1000], [1500, 1750])
    assert first["y"] == [0, 0] and second["y"] == [0.2, 0.2]
    pooled = wilson(0, 10)  # two conversations at step 1000, of five turns each
    assert first["error_y"]["array"][1] == pytest.approx(pooled.hi)
    assert "0 of 10" in first["customdata"][1][0]
    uprights = [s for s in figure(shown, 1)["layout"]["shapes"] if s["type"] == "line" and s["x0"] == s["x1"]]
    assert [s["x0"] for s in uprights] == [1500]


def test_check_ins_with_and_without_a_system_prompt_are_two_lines(root: Path, open_app: Opener) -> None:
    shown = open_app(root, "conversations", kind="check-in")
    without, with_it = lines(shown, 0)
    assert without["x"] == list(CHECK_INS) and with_it["x"] == [1400, 1800]
    assert without["y"] == [0, 0, 0.25, 0.25]
    assert without["marker"]["symbol"] != with_it["marker"]["symbol"]
    assert "at the reference, step 512" in shown.get("plotly_chart")[0].proto.alt.lower()


def test_each_rate_stands_beside_the_reference_with_its_denominator(root: Path, open_app: Opener) -> None:
    shown = open_app(root, "conversations", kind="check-in", step="1800")
    text = plain(said(shown))
    assert "25.0 % (95 % 7.1 to 59.1), 2 of 8 answers" in text
    assert "… at step 512" in text and "0 of 8; this one +25.0 points" in text
    changed = sum(a["text"] != b["text"] for a, b in zip(samples(1400, False), samples(1800, False), strict=True))
    assert f"{changed} of 8 answers, against the last one, step 1,400" in text
    first = plain(said(open_app(root, "conversations", kind="check-in", step="512")))
    assert "this is the reference checkpoint" in first and "no earlier check-in" in first


def test_answers_stand_beside_the_last_ones_and_the_reference_s_with_changes_marked(
    root: Path, open_app: Opener
) -> None:
    shown = open_app(root, "conversations", kind="check-in", step="1400", prompt="greeting")
    texts = [b for b in blocks(shown) if 'class="bw-text"' in b]
    assert len(texts) == 3 * SAMPLES
    now, last, reference = texts[6:9]  # sample 3 of 4
    assert "<ins>1400 </ins>" in now and "<del>1000 </del>" in last and "step 512" in plain(reference)
    assert "<ins" not in texts[0] and "<del" not in texts[1] and "the same words" in words(shown)
    assert f"<ins>{LOOP}</ins></mark>" in texts[3] and "loops.tail-cycle" in texts[3]
    heads = [m.value for m in shown.markdown]
    assert {"**This check-in**", "**The last one, step 1,000**", "**The reference, step 512**"} <= set(heads)


def test_what_the_model_wrote_is_inert_everywhere(root: Path, open_app: Opener) -> None:
    for url in ({"kind": "self-play"}, {"kind": "check-in", "prompt": "story"}):
        shown = open_app(root, "conversations", **url)
        assert "alert(2)" in plain(said(shown))
        assert "evil" not in as_markdown(shown)
        for block in blocks(shown):
            assert "\u202e" not in block and "\x1b" not in block
            assert set(re.findall(r"<(\w+)", block)) <= {
                "div",
                "span",
                "mark",
                "ins",
                "del",
                "dl",
                "dt",
                "dd",
                "code",
                "table",
            }


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"turns": 5, "rates": {"loop": {"count": 9, "checks": 2}}},
        {"turns": [1, {"text": 7, "findings": [{"spans": [{"start": -1, "end": "x", "unit": "character"}]}]}]},
        {"turns": [{"turn": "x", "voice": "<b>", "text": HOSTILE, "findings": {"rule": 1}}], "rates": [], "topic": 3},
        {
            "samples": [{"text": None, "findings": [{"rule": None}]}],
            "last": {"episode": "1"},
            "reference": 4,
            "setting": "../x",
        },
    ],
)
def test_episodes_of_another_version_or_a_forger_are_shown_as_far_as_they_go(
    tmp_path: Path, data: dict[str, Any], open_app: Opener
) -> None:
    run = make_run(tmp_path, "odd")
    with Records.writer(run.database) as records:
        segment = records.segments()[-1].id
        kind = "check-in" if "samples" in data else "self-play"
        records.add_now(Episode(segment=segment, step=1500, kind=kind, data=data))
        records.add_now(Episode(segment=segment, step=1500, kind="<img src=x>", data=data))
    shown = open_app(tmp_path, "conversations")
    assert not shown.exception and not shown.error
    assert "at step 1,500" in words(shown)


def test_without_a_reference_the_page_says_so(tmp_path: Path, open_app: Opener) -> None:
    run = make_run(tmp_path, "young")
    with Records.writer(run.database) as records:
        rates = {"loop": {"count": 1, "checks": 5, "value": 0.9, "lo": 0, "hi": 1}}
        row = Episode(
            segment=records.segments()[-1].id, step=1500, kind="self-play", data={"turns": [], "rates": rates}
        )
        records.add_now(row)
    shown = open_app(tmp_path, "conversations")
    assert not shown.exception and "No self-play was held at the reference" in words(shown)
    assert lines(shown, 0)[0]["y"] == [0.2]  # counted anew: a file does not choose its rate


def test_a_long_transcript_comes_in_pages(tmp_path: Path, open_app: Opener) -> None:
    run = make_run(tmp_path, "long")
    with Records.writer(run.database) as records:
        turns = [{"turn": at, "voice": "AB"[at % 2], "text": f"word {at}", "findings": []} for at in range(400)]
        records.add_now(Episode(segment=records.segments()[-1].id, step=1500, kind="self-play", data={"turns": turns}))
    shown = open_app(tmp_path, "conversations")
    assert not shown.exception and said(shown).count('class="bw-turn"') == 30


@given(st.text(max_size=60), st.text(max_size=60))
def test_what_is_left_unmarked_by_changes_is_common_to_both(before: str, after: str) -> None:
    gone, come = transcript_html.changes(before, after)

    def rest(text: str, ranges: list[tuple[int, int]]) -> str:
        return "".join(c for at, c in enumerate(text) if not any(a <= at < b for a, b in ranges))

    assert rest(before, gone) == rest(after, come)
    assert (gone, come) != ([], []) or before == after


@given(st.text(max_size=40), st.lists(st.tuples(st.integers(-5, 50), st.integers(-5, 50)), max_size=5))
def test_marks_and_changes_lose_no_letter_and_close_every_tag(text: str, spans: list[tuple[int, int]]) -> None:
    marks = [Mark("rule", "watch", "", a, b) for a, b in spans]
    block = transcript_html.text_block(text, marks, [(a, b) for a, b in sorted(spans) if a < b], "del")
    for tag in ("mark", "del", "div", "span"):
        assert block.count(f"<{tag}") == block.count(f"</{tag}>")
    bare = re.sub(r'<span class="bw-(chip|dim)".*?</span>', "", block)
    letters = plain(bare).replace(" ", "")
    assert letters.strip() == plain(escaped(text)).replace(" ", "").strip()


def test_a_huge_text_is_cut_and_compared_as_a_whole() -> None:
    long = "word " * 20_000
    assert transcript_html.changes(long, long) == ([], [])
    assert transcript_html.changes(long, "x") == ([(0, len(long))], [(0, 1)])
    assert "80,000 characters more" in transcript_html.text_block(long)


def test_a_figure_of_no_points_and_of_one_can_be_drawn() -> None:
    assert json.loads(behaviour_figures.over_steps([]).to_json())["layout"]["height"]
    drawn = behaviour_figures.over_steps([Point(5, None, wilson(0, 3))], (5, None), (1, wilson(1, 1)))
    assert json.loads(drawn.to_json())["data"][-1]["x"] == [5]
    assert LIST in samples(1400, True)[2]["text"]


def test_a_page_of_a_long_transcript_is_in_the_link(tmp_path: Path, open_app: Opener) -> None:
    run = make_run(tmp_path, "long")
    turns = [{"turn": t, "voice": "AB"[t % 2], "text": f"Turn {t}.", "given": t == 0} for t in range(70)]
    with Records.writer(run.database) as records:
        data = {"topic": "t", "turns": turns, "rates": {}, "protocol": {}}
        records.add_now(Episode(segment=1, step=300, kind="self-play", data=data))
    shown = open_app(tmp_path, "conversations", turns="3")
    assert not shown.exception
    assert any("Turn 65." in one.proto.body for one in shown.get("html"))
    beyond = open_app(tmp_path, "conversations", turns="9")
    assert not beyond.exception and any("Turn 1." in one.proto.body for one in beyond.get("html"))
