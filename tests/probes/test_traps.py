"""P3: every trap through the whole path, from activations by `decode` and `judge` to the verdict's name."""

from collections.abc import Callable

import pytest
import torch

from probes.claims.grammar import Claim
from probes.claims.judging import judge
from probes.claims.outcomes import EQUIVALENT, REVERSED, UNTESTABLE, WEAK, ReadingVerdict
from probes.layers.compare import Bench, Labelled, decode
from probes.layers.evidence import Evidence
from probes.layers.fit import Problem, assign_folds, prepare, usable_bits
from tests.probes.planted import (
    LAYERS,
    World,
    activations_of,
    constant_in_sentence,
    decaying_twin,
    duplicated,
    gaussian,
    growing_norm,
    onset,
    permuted,
    probe_set_of,
    saturated,
    swapped,
    twin_alike,
    unequal,
    with_outliers,
)

A_FIRST = Claim("planted", "", "", 0, 0, "PARSED", "depth_order", "a", "b", relation="lower")


def apart() -> World:
    """b a fifth of the depth after a."""
    return gaussian({"a": onset(3.1), "b": onset(4.85)}, 400)


def same() -> World:
    return gaussian({"a": onset(4.0), "b": onset(4.0)}, 400)


def verdict(world: World) -> tuple[Evidence, ReadingVerdict]:
    bench = Bench(probe_set_of(world), *activations_of(world))
    a, b = (Labelled(task, f"{task}.next", world.labels[task], ("no", "yes")) for task in ("a", "b"))
    evidence = decode(bench, a, b, "next")
    return evidence, judge(evidence, A_FIRST, LAYERS)


FAST: dict[str, tuple[Callable[[], World], str, str]] = {
    "permuted labels": (lambda: permuted(apart()), UNTESTABLE, "too little"),
    "saturated layer 0": (saturated, UNTESTABLE, "too little"),
    "twin that decays with depth": (decaying_twin, UNTESTABLE, "too little"),
}
SLOW: dict[str, tuple[Callable[[], World], str, str]] = {
    "a before b": (apart, WEAK, "difference of depth"),
    "a and b swapped": (lambda: swapped(apart()), REVERSED, "difference of depth"),
    "a is b": (same, EQUIVALENT, "difference of depth"),
    "norm growth": (lambda: growing_norm(apart()), WEAK, "difference of depth"),
    "outlier positions": (lambda: with_outliers(apart()), WEAK, "difference of depth"),
    "twin that gains as much": (twin_alike, UNTESTABLE, "never-trained twin"),
    "duplicate sentences": (duplicated, UNTESTABLE, "too little"),
    "label constant within a sentence": (constant_in_sentence, UNTESTABLE, "too little"),
}
TRAPS = [pytest.param(*trap, id=name) for name, trap in FAST.items()]
TRAPS += [pytest.param(*trap, id=name, marks=pytest.mark.slow) for name, trap in SLOW.items()]


@pytest.mark.parametrize(("world", "expected", "because"), TRAPS)
def test_a_trap_gets_the_verdict_it_should(world: Callable[[], World], expected: str, because: str) -> None:
    evidence, found = verdict(world())
    assert found.verdict == expected, found
    assert any(because in reason for reason in found.reasons), found.reasons
    assert (evidence.delta is None) == (expected == UNTESTABLE)  # no number where there is nothing to say


@pytest.mark.slow
def test_the_larger_label_is_cut_to_the_smaller_and_a_rare_label_is_not_found_deeper_for_being_rare() -> None:
    evidence, found = verdict(unequal(same()))
    assert evidence.b is not None and evidence.a.words == evidence.b.words < 400
    assert not found.supports


@pytest.mark.slow
def test_growing_norms_and_outliers_move_the_difference_by_less_than_a_hundredth() -> None:
    plain, grown, outlying = (verdict(one)[0].delta for one in (apart(), growing_norm(apart()), with_outliers(apart())))
    assert plain is not None and grown is not None and outlying is not None
    assert grown.value == pytest.approx(plain.value, abs=1e-6)
    assert outlying.value == pytest.approx(plain.value, abs=0.01)


def best_bits(world: World, groups: torch.Tensor) -> float:
    """Most bits at any layer, the folds keeping words of one group together."""
    fold_of_word = assign_folds(int(groups.max()) + 1, 5)[groups]
    problem: Problem = prepare(
        "a", world.values, world.labels["a"], torch.arange(len(groups)), fold_of_word, ("no", "yes")
    )
    return float(usable_bits(problem).bits.max())


def test_a_label_constant_within_a_sentence_is_read_from_nothing_only_if_words_are_split() -> None:
    """What the trap would do: the same noise, words split at random, and half a bit appears."""
    world = constant_in_sentence(100)
    by_word = best_bits(world, torch.arange(len(world.sentence)))
    assert by_word > 0.3 and best_bits(world, world.sentence) < 0.02


def test_copies_of_a_sentence_on_both_sides_are_read_from_nothing() -> None:
    world = duplicated(60, 5)
    assert world.document is not None
    by_sentence, by_original = best_bits(world, world.sentence), best_bits(world, world.document[world.sentence])
    assert by_sentence > 0.02 > by_original
