"""CrowS-Pairs and BBQ from planted likelihoods: the planted bias comes back, by category, and guessing is called guessing."""

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from lab.bias_items import Question, SentencePair
from probes.behaviour.bias_scores import ALL, bbq_scores, choose, crows, examine_shift, prefer, shift

Record = Callable[[str, object], None]


def sentence_pairs(count: int = 400) -> list[SentencePair]:
    return [SentencePair("town" if n % 4 else "hill", f"more {n}", f"less {n}") for n in range(count)]


def preferring(share: float, seed: int = 0) -> Callable[[Sequence[tuple[str, str]]], list[float]]:
    """A model to which this share of stereotyping sentences is likelier."""
    drawn = random.Random(seed)
    ahead = [drawn.random() < share for _ in range(400)]

    def likelihood(items: Sequence[tuple[str, str]]) -> list[float]:
        return [(2.0 if ahead[int(text.split()[1])] == text.startswith("more") else 1.0) - 50 for _, text in items]

    return likelihood


def test_the_planted_share_comes_back_by_category() -> None:
    items = sentence_pairs()
    scores = {one.category: one for one in crows(items, prefer(items, preferring(0.7)))}
    assert list(scores) == [ALL, "town", "hill"]
    assert scores[ALL].stereotyping.lo < 0.7 < scores[ALL].stereotyping.hi and scores[ALL].stereotyping.checks == 400
    assert scores["hill"].stereotyping.checks == 100 and scores["hill"].nats == 1.0
    widths = {name: one.stereotyping.hi - one.stereotyping.lo for name, one in scores.items()}
    assert widths["hill"] > widths["town"] > widths[ALL]


def test_pairs_of_equal_likelihood_are_left_out_and_counted() -> None:
    items = sentence_pairs(4)
    (score,) = [one for one in crows(items, np.array([1.0, 0.0, -1.0, 2.0])) if one.category == ALL]
    assert score.ties == 1 and (score.stereotyping.count, score.stereotyping.checks) == (2, 3)


def test_a_shift_is_an_alert_only_upwards_and_beyond_two_paired_errors() -> None:
    items = sentence_pairs()
    before, same, more = (prefer(items, preferring(share, seed)) for share, seed in ((0.5, 1), (0.5, 2), (0.7, 3)))
    assert shift(more, before).lo > 0 and examine_shift(more, before)[0].severity == "alert"
    assert examine_shift(before, more) == () and examine_shift(before, before) == ()
    assert shift(same, before).lo < 0 < shift(same, before).hi


def test_false_shifts_are_as_rare_as_two_errors_make_them(record_property: Record) -> None:
    items = sentence_pairs()
    scores = [prefer(items, preferring(0.5, seed)) for seed in range(200)]
    rate = sum(bool(examine_shift(now, before)) for now, before in zip(scores[::2], scores[1::2], strict=True)) / 100
    record_property("false CrowS shifts of 100", rate)
    assert rate <= 0.07  # 2.3 % expected


def questions() -> list[Question]:
    """20 templates, each asked 8 times clearly and 8 times not; the stereotype is right in half of the clear ones."""
    made = []
    for number in range(320):
        ambiguous, stereotype_right = number % 2 == 0, number % 4 == 1
        right = 2 if ambiguous else (0 if stereotype_right else 1)
        template, options = f"town/{number // 16}", ("Ann", "Bob", "Nobody knows")
        made.append(Question("town", template, ambiguous, f"Context {number}.", "Who?", options, right, 2, 0))
    return made


def answers(asked: Sequence[Question], biased: float, seed: int = 0, reads: bool = True) -> list[int]:
    """A model that answers by the stereotype in this share of cases, and else rightly, or by chance if it cannot read."""
    drawn = random.Random(seed)
    return [0 if drawn.random() < biased else (one.right if reads else drawn.randrange(3)) for one in asked]


def test_a_reader_without_bias_is_right_and_even() -> None:
    asked = questions()
    overall, town = bbq_scores(asked, answers(asked, 0.0))
    assert (overall.category, town.category, overall.templates) == (ALL, "town", 20)
    assert overall.clear.value == overall.unclear.value == 1.0 and not overall.guesses
    assert overall.bias_clear is not None and overall.bias_clear.value == 0.0
    assert overall.bias_unclear is None, "it never said anything but 'unknown'"


def test_a_planted_bias_comes_back_in_both_kinds_of_questions() -> None:
    asked = questions()
    overall = bbq_scores(asked, answers(asked, 0.5))[0]
    assert overall.bias_clear is not None and overall.bias_unclear is not None
    assert overall.bias_clear.lo <= 0.5 <= overall.bias_clear.hi, "half by stereotype, the rest even: 2 · .75 - 1"
    assert overall.bias_unclear.lo <= 0.5 <= overall.bias_unclear.hi, "wrong in half, always by stereotype"


def test_a_model_that_guesses_is_said_to_guess() -> None:
    asked = questions()
    overall = bbq_scores(asked, answers(asked, 0.0, reads=False))[0]
    assert overall.guesses and overall.bias_clear is not None and overall.bias_clear.lo < 0 < overall.bias_clear.hi


def test_intervals_are_over_templates_as_questions_of_one_are_near_copies() -> None:
    """A model that goes by the template has 20 opinions, not 320."""
    asked = questions()
    by_template = [int(one.template.split("/")[1]) % 2 for one in asked]
    (wide, *_), (narrow, *_) = bbq_scores(asked, by_template), bbq_scores(asked, [n % 2 for n in range(320)][::-1])
    assert wide.bias_unclear is not None and narrow.bias_unclear is not None
    assert wide.bias_unclear.hi - wide.bias_unclear.lo > 0.5


def test_answers_are_compared_per_byte() -> None:
    def likelihood(items: Sequence[tuple[str, str]]) -> list[float]:
        return [{" Ann": -4.0, " Bob": -8.0, " Nobody knows": -6.0}[answer] for _, answer in items]

    assert choose(questions()[:2], likelihood) == [2, 2]


def test_questions_whose_labels_do_not_tell_count_for_accuracy_alone() -> None:
    asked = [Question("x", "x/1", n % 2 == 0, "", "", ("a", "b", "c"), 0, 2, None) for n in range(8)]
    overall = bbq_scores(asked, [0] * 8)[0]
    assert overall.clear.checks == 4 and overall.bias_clear is None


@pytest.mark.parametrize("kind", [True, False])
def test_a_category_without_both_kinds_of_questions_is_left_out(kind: bool) -> None:
    asked = [one for one in questions() if one.ambiguous is kind]
    assert bbq_scores(asked, [0] * len(asked)) == ()
