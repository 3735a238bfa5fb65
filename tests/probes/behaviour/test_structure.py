"""Layout by its lines, and the fallback channel by planted rates."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.behaviour.fallback import associate, judge
from probes.behaviour.rates import NoChecks
from probes.behaviour.structure import examine, read

PROSE = """Dear Sir: I have your letter of the 3rd, and thank you.
The king said: go home - and they went - all of them.
In 1848 there were two (or three) of them [so he wrote], 12. of whom had left.
He asked | no one answered.
"""


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("- bread", "bullet"),
        ("  * milk", "bullet"),
        ("• salt", "bullet"),
        ("3. third", "number"),
        ("(12) twelfth", "number"),
        ("## Install", "heading"),
        ("| a | b |", "table"),
        ("a | b | c", "table"),
        ("|---|---|", "table"),
        ("> quoted", "quote"),
        ("```python", "fence"),
        ("name: value", "key"),
        ("**Note**: look", "key"),
        ('"name": "fox",', "key"),
        ("{", "bracket"),
        ("]},", "bracket"),
        ("[1, 2, 3],", "bracket"),
    ],
)
def test_a_line_of_layout_is_of_its_kind(line: str, kind: str) -> None:
    seen = read(line)
    assert seen.kinds == {kind: 1} and seen.score == 1.0
    assert [line[span.start : span.end] for span in seen.spans] == [line.strip()]


def test_lines_of_prose_are_none() -> None:
    assert read(PROSE).structured == 0


def test_a_closed_fence_makes_its_content_layout_and_an_open_one_does_not() -> None:
    code = "Run this\n```\nmake it so\n\nnow please\n```\nand wait"
    assert read(code).kinds == {"fence": 2, "code": 2} and read(code).lines == 6
    assert read(code.replace("```\nand", "and")).kinds == {"fence": 1}


def test_half_of_the_lines_and_three_of_them_are_needed() -> None:
    assert not read("- a\n- b").is_structured
    assert read("- a\n- b\n- c\nx\ny\nz").is_structured
    assert not read("- a\n- b\n- c\nx\ny\nz\nw").is_structured
    assert examine(PROSE) == ()
    (finding,) = examine("- a\n- b\n- c")
    assert (finding.rule, finding.version, finding.severity) == ("structure.layout", "1", "info")


@settings(deadline=None)
@given(st.text(alphabet=st.sampled_from(list("ab -#*|>`:{}[]1.\n\r\x0b é"))))
def test_any_text_has_a_score_in_0_to_1_and_spans_inside_it(text: str) -> None:
    seen = read(text)
    assert 0 <= seen.score <= 1 and sum(seen.kinds.values()) == seen.structured
    assert all(text[span.start : span.end].strip() == text[span.start : span.end] != "" for span in seen.spans)


def verdicts(there: float, absent: float, rows: int = 150, simulations: int = 200) -> list[str]:
    """Texts of which half are degraded, with layout at these rates."""
    found = []
    for seed in range(simulations):
        chosen = np.random.default_rng(seed)
        degraded = [True] * rows + [False] * rows
        structured = (chosen.random(2 * rows) < np.where(degraded, there, absent)).tolist()
        found.append(judge(associate(structured, degraded)).verdict)
    return found


def test_a_planted_fallback_is_found_and_equal_rates_are_not() -> None:
    assert verdicts(0.6, 0.1).count("found") >= 190
    assert verdicts(0.3, 0.3).count("not found") >= 190


def test_a_fallback_the_wrong_way_round_is_not_found_and_says_so() -> None:
    answer = judge(associate([True] * 5 + [False] * 145 + [True] * 60 + [False] * 90, [True] * 150 + [False] * 150))
    assert answer.verdict == "not found" and "other way round" in answer.text and answer.finding() is None


def test_too_few_texts_say_how_many_are_needed() -> None:
    answer = judge(associate([True, False, False] * 6, [True] * 9 + [False] * 9))
    assert answer.verdict == "too few"
    assert answer.n_needed is not None and 80 <= answer.n_needed <= 120 and str(answer.n_needed) in answer.text


@pytest.mark.parametrize("degraded", [True, False])
@pytest.mark.parametrize("structured", [True, False])
def test_a_table_with_an_empty_row_is_too_few_never_an_error(degraded: bool, structured: bool) -> None:
    answer = judge(associate([structured] * 500, [degraded] * 500))
    assert answer.verdict == "too few" and answer.run.odds_ratio is None and answer.run.p == 1


def test_the_reference_stands_beside_the_run() -> None:
    degraded = [True] * 100 + [False] * 100
    run = associate([True] * 60 + [False] * 40 + [True] * 10 + [False] * 90, degraded)
    flat = associate([True] * 20 + [False] * 80 + [True] * 20 + [False] * 80, degraded)
    more, same, alone = judge(run, flat), judge(run, run), judge(run)
    assert more.verdict == same.verdict == alone.verdict == "found"
    assert more.against_reference is not None and more.against_reference.lo > 1 and "more than there" in more.text
    assert "not distinguishable from there" in same.text
    assert "No reference checkpoint was asked" in alone.text
    finding = more.finding()
    assert finding is not None and finding.interval is not None and finding.interval[0] > 1
    assert json.loads(json.dumps(finding.to_row(), allow_nan=False))["rule"] == "structure.fallback"


def test_an_infinite_odds_ratio_is_stored_as_json_can_hold() -> None:
    finding = judge(associate([True] * 50 + [False] * 50, [True] * 50 + [False] * 50)).finding()
    assert finding is not None and "∞" in finding.text
    row = json.loads(json.dumps(finding.to_row(), allow_nan=False))
    assert row["value"] is None and row["hi"] is None and row["lo"] > 1


def test_layouts_without_their_texts_are_refused() -> None:
    with pytest.raises(NoChecks, match="both for every text"):
        associate([True], [True, False])
