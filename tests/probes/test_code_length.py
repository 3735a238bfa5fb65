"""Code length in bits: a coin costs a bit a toss, and what is known costs next to nothing."""

import math

import pytest
import torch

from probes.layers.code_length import code_length
from probes.layers.control_task import control_problem
from probes.layers.fit import Problem, Untestable, assign_folds, prepare
from tests.probes.test_control_task import of_types


def told(sentences: int, distance: float, classes: int = 2, width: int = 32, words: int = 10, seed: int = 0) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    n = sentences * words
    label = torch.randint(classes, (n,), generator=generator)
    x = torch.randn(1, n, width, generator=generator)
    x[0, torch.arange(n), label] += distance
    sentence = torch.arange(sentences).repeat_interleave(words)
    return prepare("told", x, label, sentence, assign_folds(sentences, 5), [str(i) for i in range(classes)])


@pytest.mark.parametrize("width", [16, 256])
def test_a_fair_coin_costs_one_bit_a_toss(width: int) -> None:
    found = code_length(told(1000, 0.0, width=width))
    assert float(found.per_word) == pytest.approx(1.0, abs=0.01)
    assert float(found.compression) == pytest.approx(1.0, abs=0.01)


def test_a_fair_die_costs_log2_of_six_not_its_natural_logarithm() -> None:
    assert float(code_length(told(1000, 0.0, classes=6)).per_word) == pytest.approx(math.log2(6), abs=0.03)


def test_a_certain_label_costs_far_below_a_bit_and_less_a_word_the_more_there_are() -> None:
    short, long = code_length(told(200, 8.0)), code_length(told(400, 8.0))
    assert float(short.per_word) < 0.1
    assert float(long.per_word) < 0.7 * float(short.per_word)  # what the first words cost is paid once


def test_twice_the_coins_cost_twice_the_bits() -> None:
    short, long = code_length(told(400, 0.0)), code_length(told(800, 0.0))
    assert float(long.total / short.total) == pytest.approx(2.0, abs=0.03)


def test_blocks_are_whole_sentences_and_the_first_is_coded_evenly() -> None:
    found = code_length(told(400, 1.0, classes=4, words=7))
    assert all(words % 7 == 0 for words in found.words.tolist()) and int(found.words.sum()) == 2800
    assert float(found.bits[0, 0]) == pytest.approx(2 * int(found.words[0]))


def test_the_same_seed_sends_the_same_order_and_another_seed_another() -> None:
    problem = told(200, 1.0)
    first, same, other = code_length(problem), code_length(problem), code_length(problem, seed=1)
    assert torch.equal(first.bits, same.bits) and not torch.equal(first.bits, other.bits)


def test_labels_of_context_are_shorter_than_those_of_their_control_task() -> None:
    problem, types = of_types(contextual=True)
    task, control = code_length(problem), code_length(control_problem(problem, types))
    assert float(task.per_word) < 0.8 * float(control.per_word)


def test_sentences_too_long_for_three_blocks_are_refused() -> None:
    generator = torch.Generator().manual_seed(0)
    sentence = torch.cat((torch.zeros(3000, dtype=torch.long), torch.arange(1, 40)))
    label = torch.randint(2, (3039,), generator=generator)
    x = torch.randn(1, 3039, 8, generator=generator)
    problem = prepare("long", x, label, sentence, assign_folds(40, 5), ("a", "b"))
    found = [_blocks(problem, seed) for seed in range(20)]
    assert 2 in found and max(found) > 2


def _blocks(problem: Problem, seed: int) -> int:
    try:
        return len(code_length(problem, seed).words)
    except Untestable as refusal:
        assert "needs 3" in str(refusal)
        return 2
