"""Canaries are the same from the same seed, share no run of words, and their rank test is the exact one."""

import random

import pytest
from scipy.stats import mannwhitneyu

from lab.ngrams import Words
from probes.behaviour.canaries import NoTest, canaries, candidates, exposure, rank_test
from tests.probes.behaviour.texts import conversations


def runs(text: str, length: int) -> set[tuple[str, ...]]:
    words = Words.split(text)
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}


def test_canaries_depend_on_the_seed_alone() -> None:
    assert canaries(3) == canaries(3) != canaries(4)
    assert canaries(0).put_in[0].text == "A poteimul teaches the frozen thimble before the lamp drifts."
    assert len(canaries(3).put_in) == len(canaries(3).kept_out) == 20


def test_no_two_canaries_share_six_words_nor_a_made_up_one_and_no_saying_has_fewer_than_eight_words() -> None:
    for seed in range(10):
        both = canaries(seed)
        every = [*both.put_in, *both.kept_out]
        assert len({one.term for one in every}) == 40
        seen: set[tuple[str, ...]] = set()
        for one in every:
            own = runs(one.text, 6)
            assert len(Words.split(one.text)) >= 8 and not own & seen
            seen |= own


def test_those_put_in_and_those_kept_out_have_the_same_forms() -> None:
    both = canaries(7)
    for one, other in zip(both.put_in, both.kept_out, strict=True):
        assert len(Words.split(one.text)) == len(Words.split(other.text))
        assert Words.split(one.text)[0] in ("an", "a", Words.split(other.text)[0])


def test_terms_are_no_words_of_earlier_data_and_candidates_are_no_canaries() -> None:
    known = {word for document in conversations()[:20] for word in Words.split(document.text)}
    both = canaries(0, known=known | {canaries(0).put_in[0].term})
    terms = {one.term for one in (*both.put_in, *both.kept_out)}
    assert not terms & known and canaries(0).put_in[0].term not in terms
    assert not {one.term for one in candidates(0, 200)} & {
        one.term for one in (*canaries(0).put_in, *canaries(0).kept_out)
    }


def test_the_rank_test_is_mann_and_whitneys_exact_one() -> None:
    drawn = random.Random(0)
    for size in ((20, 20), (5, 9), (1, 3)):
        for lift in (0.0, 0.7):
            first = [drawn.gauss(lift, 1) for _ in range(size[0])]
            second = [drawn.gauss(0, 1) for _ in range(size[1])]
            theirs = mannwhitneyu(first, second, alternative="greater", method="exact")
            ours = rank_test(first, second)
            assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
            assert ours.auc == pytest.approx(theirs.statistic / (size[0] * size[1]))


def test_ties_count_against_those_put_in_and_nothing_has_no_rank() -> None:
    assert rank_test([1.0] * 5, [1.0] * 5).auc == 0.0 and rank_test([1.0] * 5, [1.0] * 5).p == 1.0
    with pytest.raises(NoTest):
        rank_test([], [1.0])
    with pytest.raises(NoTest):
        exposure(1.0, [])


def test_exposure_is_the_rank_among_others_in_bits() -> None:
    others = [float(number) for number in range(1023)]
    assert exposure(2000.0, others) == 10.0
    assert exposure(-1.0, others) == 0.0
    assert exposure(511.5, others) == pytest.approx(1.0, abs=0.01)
