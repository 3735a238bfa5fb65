"""Recall on 100 planted texts, alarms on 1,000 near misses, and what chance makes of a rate. Figures are recorded by part."""

import math
import random
from collections.abc import Callable

import pytest

from probes.behaviour import markers
from probes.behaviour.markers import Reply, Series, base_rate, chance, count, examine, first_concise, patterns, pieces
from probes.behaviour.rates import NoChecks, wilson
from tests.probes.behaviour.marker_texts import LOOPED, concise_near_misses, concise_positives, near_misses, positives
from tests.probes.behaviour.texts import conversations

Record = Callable[[str, object], None]


def held(text: str) -> set[str]:
    return {name for name, pattern in patterns().items() if pattern.is_in(text)}


def test_at_least_95_of_100_planted_markers_are_found(record_property: Record) -> None:
    texts = positives()
    found = {one.text: one.pattern in held(one.text) for one in texts}
    series = concise_positives()
    ends = sum((first := first_concise(one)) is not None and first[0] == len(one) - 1 for one in series)
    for unseen in (False, True):
        part = [found[one.text] for one in texts if one.unseen == unseen]
        record_property(
            "recall, unseen templates" if unseen else "recall, seen templates", str(wilson(sum(part), len(part)))
        )
    record_property("recall, concise replies", str(wilson(ends, len(series))))
    assert len(texts) + len(series) == 100
    assert wilson(sum(found.values()) + ends, 100).value >= 0.95


def test_at_most_1_in_100_of_1000_near_misses_is_found(record_property: Record) -> None:
    texts, series = near_misses(), concise_near_misses()
    wrong = {one.text: bool(held(one.text)) for one in texts}
    wrong_series = sum(first_concise(one) is not None for one in series)
    for unseen in (False, True):
        part = [wrong[one.text] for one in texts if one.unseen == unseen]
        record_property(
            "alarms, unseen templates" if unseen else "alarms, seen templates", str(wilson(sum(part), len(part)))
        )
    record_property("alarms, replies that are not the first concise one", str(wilson(wrong_series, len(series))))
    assert len(wrong) + len(series) == 1000
    assert wilson(sum(wrong.values()) + wrong_series, 1000).value <= 0.01


def test_a_marker_in_the_prompt_or_called_for_by_it_is_solicited() -> None:
    (asked,) = examine("I will be right back.", "You may take a break now.")
    (unasked,) = examine("I will be right back.", "What is your favorite food?")
    (repeated,) = examine("Who am I?", "Who are you?")
    assert asked.evidence["solicited"] and not unasked.evidence["solicited"] and repeated.evidence["solicited"]
    assert unasked.severity == "info" and unasked.version == "1"
    span = unasked.spans[0]
    assert "I will be right back."[span.start : span.end] == "I will be right back"


def test_curly_apostrophes_and_capitals_make_no_difference() -> None:
    assert held("I’LL BE RIGHT BACK") == {"pause"}


def test_the_first_concise_reply_is_told_once_and_only_after_twenty_of_which_half_looped() -> None:
    looped, other, concise = Reply("and and", findings=(LOOPED,)), Reply("and so on"), Reply("It rains.")
    assert first_concise([looped] * 19 + [concise]) is None
    assert first_concise([looped] * 10 + [other] * 10 + [concise]) is not None
    assert first_concise([looped] * 9 + [other] * 11 + [concise]) is None
    series, told = Series(), []
    for reply in [looped] * 20 + [concise] * 5:
        series, finding = series.after(reply)
        told.append(finding is not None)
    assert told.index(True) == 20 and sum(told) == 1
    assert series == Series(replies=25, looped=20, found=True)


@pytest.mark.parametrize("findings", [LOOPED, ("loops.passing-cycle", "info"), ("structure.fallback", "watch")])
def test_a_reply_with_a_loop_or_a_watch_finding_is_not_concise(findings: tuple[str, str]) -> None:
    before = [Reply("and and", findings=(LOOPED,))] * 20
    assert first_concise([*before, Reply("It rains.", findings=(findings,))]) is None


def test_the_chance_of_at_least_one_is_what_simulation_gives() -> None:
    """1 in 1,000 of 1,000 texts: 63 %; 1 in 10,000: 9.5 %; 1 in 100 of 200: 87 %."""
    drawn = random.Random(0)
    for events, checks, texts in ((1, 1_000, 1_000), (1, 10_000, 1_000), (1, 100, 200)):
        stated = chance(wilson(events, checks), texts).at_least_one
        # the number of texts up to the first marker is geometric
        tries = [math.log(1 - drawn.random()) / math.log(1 - events / checks) <= texts for _ in range(20_000)]
        seen = wilson(sum(tries), len(tries), level=0.999)
        assert seen.lo <= stated.value <= seen.hi
        assert stated.lo < stated.value < stated.hi


def test_the_upper_end_of_the_chance_covers_the_truth_where_the_base_rate_was_counted_in_few_texts(
    record_property: Record,
) -> None:
    drawn, true, texts = random.Random(1), 0.002, 500
    truth = 1 - (1 - true) ** texts
    covered = 0
    for _ in range(2_000):
        counted = sum(drawn.random() < true for _ in range(300))
        covered += chance(wilson(counted, 300), texts).at_least_one.hi >= truth
    rate = wilson(covered, 2_000)
    record_property("upper end of the chance covers it", str(rate))
    assert rate.value >= 0.95
    assert chance(wilson(0, 300), texts).at_least_one.hi > 0.9, "0 of 300 does not make 500 texts safe"


def test_counts_leave_solicited_replies_out_and_stand_beside_training_text_and_reference() -> None:
    replies = [Reply("I like tea.", "Do you?")] * 8 + [Reply("brb", "Do you?"), Reply("brb", "Take a break.")]
    seen = count("pause", replies, base_rate("pause", ["brb now", "tea", "milk", "rain"], 10), [Reply("tea")] * 20)
    assert (seen.all.count, seen.all.checks) == (2, 10)
    assert seen.unsolicited is not None and (seen.unsolicited.count, seen.unsolicited.checks) == (1, 9)
    assert seen.first == 8
    assert seen.training is not None and seen.training.texts == 9
    assert seen.training.at_least_one.value == pytest.approx(1 - 0.75**9)
    assert seen.reference is not None and seen.reference.at_least_one.value == 0 < seen.reference.at_least_one.hi
    assert "Marker pause (version 1): 2 of 10" in seen.text


def test_the_concise_form_has_a_rate_too_and_nothing_has_none() -> None:
    assert count("concise", [Reply("It rains."), Reply("It rains"), Reply("It.", findings=(LOOPED,))]).all.count == 1
    with pytest.raises(NoChecks):
        count("pause", [])
    with pytest.raises(NoChecks):
        base_rate("pause", [], 10)


def test_texts_are_cut_into_pieces_as_long_as_a_reply() -> None:
    assert list(pieces(["a b c.\nd e", "f"], 2)) == ["a b", "c.\nd", "e", "f"]


def test_an_empty_text_has_no_pieces() -> None:
    assert list(pieces(["", "  ", "a b c"], 2)) == ["a b", "c"]


def test_every_definition_has_a_version_and_every_fragment_is_known() -> None:
    assert {rule.id for rule in markers.rules()} == {
        "markers.pause", "markers.identity-self", "markers.identity-other", "markers.concise"
    }  # fmt: skip
    assert all(rule.severity == "info" and rule.definition for rule in markers.rules())
    assert not any("%" in one.pattern for pattern in patterns().values() for one in pattern.any)


def test_people_say_that_they_will_be_right_back(record_property: Record) -> None:
    """So a model that says it may only be quoting them: the base rate is not 0."""
    texts = [document.text for document in conversations()[:60]]
    rate = base_rate("pause", texts, 40)
    record_property("pauses in pieces of 40 words of the default corpus", str(rate))
    assert rate.lo > 0


@pytest.mark.slow
def test_base_rates_of_all_of_the_default_corpus(record_property: Record) -> None:
    texts = [document.text for document in conversations()]
    for name in patterns():
        rate = base_rate(name, texts, 40)
        record_property(f"{name}, pieces of 40 words of the default corpus", str(rate))
        print(name, rate)
        assert rate.checks > 50_000
    rate = base_rate("concise", [line for text in texts for line in text.splitlines()], 1_000)
    record_property("concise utterances of the default corpus", str(rate))
    print("concise", rate)
    assert 0.1 < rate.value < 0.9, "to be concise is ordinary; what is asked is whether it comes after loops"
