"""Scorers of rationales against readers whose mind is planted, the two-by-two, and rates of answers."""

import hashlib
import math
import random
import re
from collections.abc import Sequence

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lab.benchmark_items import Item, load_items
from lab.benchmarks import Answer
from probes.behaviour.accuracy import area, between, contaminated, error_bound, every_accuracy, paired
from probes.behaviour.rates import NoChecks
from probes.behaviour.reasoning import (
    DOUBLED,
    GAIN,
    LEAST_AREA,
    SCORERS,
    SEED,
    TRUNCATION,
    Admission,
    Case,
    admit,
    criteria,
    echo,
    of_others,
    share,
    words_shuffled,
)
from probes.behaviour.two_by_two import OWN, SAME_SUBJECT, Judged, tabulate

ITEMS = load_items("lab")


def mood(item: Item, text: str, option: int) -> float:
    """A little noise that depends on every word, so that nothing is exactly equal."""
    digest = hashlib.sha256(f"{item.id}/{text}/{option}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 * 0.2


def attentive(asked: Sequence[tuple[Item, str]]) -> list[tuple[float, ...]]:
    """Believes the end of an item's own reason, word for word and in order: those four words are the information."""
    return [
        tuple(
            mood(item, text, option) + 4.0 * (option == item.gold and " ".join(item.reason.split()[-4:]) in text)
            for option in range(len(item.options))
        )
        for item, text in asked
    ]


def spotting(asked: Sequence[tuple[Item, str]]) -> list[tuple[float, ...]]:
    """Likes an option whose words stand anywhere in the text, in whatever order."""

    def words(text: str) -> set[str]:
        return set(re.findall(r"[\w']+", text))

    return [
        tuple(mood(item, text, at) + 4.0 * (words(option) <= words(text)) for at, option in enumerate(item.options))
        for item, text in asked
    ]


def deaf(asked: Sequence[tuple[Item, str]]) -> list[tuple[float, ...]]:
    return [tuple(mood(item, text, at) for at in range(len(item.options))) for item, text in asked]


def cases(texts: Sequence[str]) -> list[Case]:
    others = of_others(ITEMS, [item.reason for item in ITEMS])
    return [Case(item, item.gold, text, other) for item, text, other in zip(ITEMS, texts, others, strict=True)]


# ---------------------------------------------------------------------------------------------------------- admission


def test_every_scorer_that_an_attentive_reader_admits_finds_planted_reasons_good_and_shuffled_ones_at_zero() -> None:
    admitted = [scorer for scorer in SCORERS.values() if admit(scorer, ITEMS, attentive).admitted]
    assert admitted == [GAIN, TRUNCATION]
    for scorer in admitted:
        real = scorer.score(cases([item.reason for item in ITEMS]), attentive)
        shuffled = scorer.score(cases([words_shuffled(item.reason) for item in ITEMS]), attentive)
        elsewhere = scorer.score(
            cases([other[-1] for other in of_others(ITEMS, [item.reason for item in ITEMS])]), attentive
        )
        assert np.mean([scorer.good(score) for score in real]) == 1.0 and np.mean(real) > DOUBLED
        for null in (shuffled, elsewhere):
            assert not any(scorer.good(score) for score in null) and abs(np.mean(null)) < 0.3


def test_the_seed_heuristic_passes_shuffled_words_and_is_not_admitted() -> None:
    found = admit(SEED, ITEMS)
    assert not found.admitted and found.verdict.startswith("does not measure reasoning")
    assert found.good["real"].value == 1.0 and found.good["word-shuffled"].value > 0.9
    assert found.areas["word-shuffled"] < LEAST_AREA


def test_a_deaf_reader_admits_nothing() -> None:
    for scorer in (GAIN, TRUNCATION):
        found = admit(scorer, ITEMS, deaf)
        assert not found.admitted and found.good["real"].value < 0.1


def test_a_reader_that_spots_the_answer_in_a_bag_of_words_admits_no_gain() -> None:
    """The rationale's own words in disorder are among the baselines: naming the answer alone is no reason."""
    found = admit(GAIN, ITEMS, spotting)
    assert not found.admitted and found.areas["word-shuffled"] < LEAST_AREA


def test_an_admission_comes_back_from_json() -> None:
    found = admit(SEED, ITEMS)
    assert Admission.from_json(found.to_json()) == found


def test_a_reading_scorer_without_a_reader_is_refused() -> None:
    with pytest.raises(ValueError, match="reader"):
        GAIN.score(cases([item.reason for item in ITEMS]), None)


# ------------------------------------------------------------------------------------------------------------ scorers


def test_the_four_criteria_see_what_they_are_named_for() -> None:
    item = next(one for one in ITEMS if "puddle" in one.contexts[0])
    assert all(criteria(item, item.reason).values())
    assert not criteria(item, "because " + "zebras run quickly over wide plains and never stop to think")["relevant"]
    assert not criteria(item, "puddle puddle")["coherent"]
    assert not criteria(item, "the puddle dries " * 10)["not repetitive"]
    assert not criteria(item, "the puddle dries.")["substantial"]
    assert SEED.score([Case(item, item.gold, "")], None) == [0.0]


def test_fluency_of_a_rationale_that_lifts_all_options_alike_cancels() -> None:
    assert share((-5.0, -7.0), 0) == pytest.approx(share((-105.0, -107.0), 0))
    assert math.exp(share((0.0, 0.0, 0.0, 0.0), 2)) == pytest.approx(0.25)


def test_an_empty_rationale_is_never_good() -> None:
    for scorer in SCORERS.values():
        reader = attentive if scorer.read else None
        assert not any(scorer.good(score) for score in scorer.score(cases([""] * len(ITEMS)), reader))


def test_shuffling_keeps_the_words_and_is_the_same_every_time() -> None:
    text = ITEMS[0].reason
    assert sorted(words_shuffled(text).split()) == sorted(text.split()) and words_shuffled(text) != text
    assert words_shuffled(text, 1) == words_shuffled(text, 1) != words_shuffled(text, 2)


def test_other_items_reasons_are_of_the_same_subject_and_never_ones_own() -> None:
    reasons = [item.reason for item in ITEMS]
    subject = {item.reason: item.subject for item in ITEMS}
    for item, others in zip(ITEMS, of_others(ITEMS, reasons), strict=True):
        assert len(others) == 5 and item.reason not in others
        assert {subject[other] for other in others} == {item.subject}


def test_an_echo_is_the_question_alone() -> None:
    assert all(f"Question: {echo(item)}\nAnswer:" == item.contexts[0] for item in ITEMS)


# --------------------------------------------------------------------------------------------------------- two by two


def judged(right: bool, own: float, other: float) -> Judged:
    return Judged(right, {OWN: own, SAME_SUBJECT: other})


def test_the_table_counts_good_among_wrong_and_right_and_the_headline_is_paired_on_wrong_answers() -> None:
    everything = [judged(False, 1.0, 1.0)] * 30 + [judged(False, 1.0, 0.0)] * 30 + [judged(False, 0.0, 0.0)] * 40
    everything += [judged(True, 1.0, 0.0)] * 50
    table = tabulate(SEED, everything)
    own, other = table.row(OWN), table.row(SAME_SUBJECT)
    assert own is not None and other is not None and own.given_wrong is not None and own.given_right is not None
    assert (own.given_wrong.count, own.given_wrong.checks) == (60, 100)
    assert (own.given_right.count, own.given_right.checks) == (50, 50)
    assert own.difference is not None and own.difference.value == pytest.approx(0.4)
    assert table.headline is not None and table.headline.value == pytest.approx(0.3)
    assert (table.headline.gained, table.headline.lost, table.headline.items) == (30, 0, 100)
    assert table.area == pytest.approx(0.5 + 0.5 * 0.4)


def test_a_fluent_model_that_reasons_about_nothing_has_a_headline_of_zero() -> None:
    """66 % good among wrong answers, and 66 % of another item's rationales too: the number was the scorer's."""
    drawn = random.Random(0)
    everything = [judged(False, float(drawn.random() < 0.66), float(drawn.random() < 0.66)) for _ in range(400)]
    table = tabulate(SEED, everything)
    assert table.headline is not None and table.headline.lo < 0 < table.headline.hi


def test_a_table_without_wrong_answers_has_no_headline() -> None:
    table = tabulate(SEED, [judged(True, 1.0, 0.0)] * 3)
    assert table.headline is None and table.area is None
    row = table.row()
    assert row is not None and row.given_wrong is None and row.difference is None


# -------------------------------------------------------------------------------------------------------------- rates


def test_the_paired_error_is_smaller_than_the_unpaired_one_when_answers_go_together() -> None:
    drawn = np.random.default_rng(0)
    first = drawn.random(500) < 0.5
    second = np.where(drawn.random(500) < 0.1, ~first, first)
    found = paired(first.tolist(), second.tolist())
    change = second.astype(int) - first.astype(int)
    assert found.error == pytest.approx(change.std(ddof=1) / math.sqrt(500))
    assert found.error < 0.5 * math.sqrt(2 * 0.25 / 500)
    assert found.gained + found.lost == int((first != second).sum())


def test_the_paired_interval_covers_the_truth_as_often_as_it_says() -> None:
    drawn = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        first = drawn.random(200) < 0.4
        second = first ^ (drawn.random(200) < np.where(first, 0.15, 0.20))
        truth = 0.6 * 0.20 - 0.4 * 0.15
        found = paired(first.tolist(), second.tolist())
        hits += found.lo <= truth <= found.hi
    assert 0.92 <= hits / 400 <= 0.98


def test_no_change_at_all_is_still_uncertain() -> None:
    found = paired([True, False] * 50, [True, False] * 50)
    assert found.error == 0 and found.hi == pytest.approx(0.0295, abs=1e-3) and found.lo == -found.hi


def test_answers_that_cannot_be_paired_are_refused() -> None:
    with pytest.raises(NoChecks, match="cannot be paired"):
        paired([True], [True, False])


def test_bad_labels_explain_at_most_what_they_can() -> None:
    assert error_bound(0.211, 0.25) == pytest.approx(0.2813, abs=1e-4)  # HellaSwag at chance, several endings fit
    assert error_bound(0.221, 0.40) == pytest.approx(0.3683, abs=1e-4)  # CommonsenseQA at 40 %
    assert error_bound(0.5, 0.9) == 1.0 and error_bound(None, 0.5) is None and error_bound(0.1, 1.0) is None


def test_the_area_is_scikit_learns() -> None:
    drawn = np.random.default_rng(2)
    high, low = drawn.integers(0, 6, 40).tolist(), drawn.integers(0, 5, 30).tolist()
    assert area({True: high, False: low}) == pytest.approx(roc_auc_score([1] * 40 + [0] * 30, high + low))
    assert area({True: [1.0]}) is None


def answer(item: Item, likelihood: Sequence[float], contamination: float | None = None) -> Answer:
    count = len(item.options)
    return Answer(item, tuple(likelihood), (0.0,) * count, ((),) * count, (False,) * count, False, contamination)


def test_two_checkpoints_are_compared_on_the_items_that_both_answered() -> None:
    right = [answer(item, [float(at == item.gold) for at in range(4)]) for item in ITEMS]
    wrong = [answer(item, [float(at != item.gold) for at in range(4)]) for item in ITEMS[:30]]
    found = between(wrong, right)
    assert found is not None and (found.items, found.value) == (30, 1.0)
    assert between([], right) is None
    assert every_accuracy(right)["acc"].value == 1.0


def test_only_items_that_were_looked_up_count_as_contaminated_or_clean() -> None:
    shares = [1.0, 0.6, 0.1, None]
    found = contaminated([answer(ITEMS[0], (0.0,) * 4, share) for share in shares])
    assert found is not None and (found.count, found.checks) == (2, 3)
