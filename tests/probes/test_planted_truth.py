"""P1, Gaussian layers with an exact depth: bias, coverage, errors and power of depths and of their differences.

Every figure goes the way of a real reading: `prepare`, `usable_bits`, `refit_bits`, `expected_depth`, `difference`.
"""

from dataclasses import dataclass
from functools import cache

import pytest
from torch import Tensor

from probes.layers.depth import expected_depth
from probes.layers.evidence import Interval
from probes.layers.fit import assign_folds, prepare, usable_bits
from probes.layers.intervals import (
    Method,
    bootstrap_weights,
    difference,
    interval,
    replicate_means,
    unbiased,
)
from probes.layers.refit import refit_bits
from tests.probes.planted import LAYERS, World, exact_bits, gaussian, growing_norm, onset

REFITS = 50  # a standard error from 50 replicates is good to 10 %; a verdict takes 200
SAME, APART = (4.0, 4.0), (3.1, 4.85)  # layers at which a and b are half way; apart: Δ = .2 of the depth


@dataclass(frozen=True)
class Read:
    """One world read: depths of a and b and their difference, each with its interval; relative depth."""

    a: Interval
    b: Interval
    delta: Interval
    p: float


def read(world: World, method: Method, replicates: int, seed: int = 0) -> Read:
    folds = assign_folds(world.sentences, 5, seed)
    weights = bootstrap_weights(world.sentences, replicates, seed)
    depths: dict[str, tuple[Tensor, Tensor]] = {}
    for task in ("a", "b"):
        problem = prepare(task, world.values, world.labels[task], world.sentence, folds, ("no", "yes"))
        found = usable_bits(problem)
        if method == "refit":
            curve, samples = unbiased(found.bits, refit_bits(problem, weights))
        else:
            curve, samples = found.bits, replicate_means(found.gain, found.words, weights)
        depths[task] = expected_depth(curve), expected_depth(samples)
    (a, a_samples), (b, b_samples) = depths["a"], depths["b"]
    delta = difference(float(b - a), b_samples - a_samples, "sentence", world.sentences, method)
    return Read(
        interval(float(a), a_samples, method=method),
        interval(float(b), b_samples, method=method),
        Interval(delta.value, delta.lo, delta.hi),
        delta.p,
    )


@dataclass(frozen=True)
class Measured:
    """Over many worlds. Bias in layers; coverage and the rest as shares."""

    bias: dict[str, float]
    coverage: dict[str, float]
    rejected: float
    supported: float
    significant: float


@cache
def measure(worlds: int, sentences: int, onsets: tuple[float, float], method: Method, between: float = 0.5) -> Measured:
    distances = {"a": onset(onsets[0]), "b": onset(onsets[1])}
    inside = {"a": 0, "b": 0, "delta": 0}
    bias = {"a": 0.0, "b": 0.0, "delta": 0.0}
    rejected = supported = significant = 0
    for seed in range(worlds):
        world = gaussian(distances, sentences, seed, between_layers=between)
        found = read(world, method, REFITS if method == "refit" else 1000)
        truth = {**world.truth, "delta": world.difference}
        for name, one in (("a", found.a), ("b", found.b), ("delta", found.delta)):
            inside[name] += one.lo <= truth[name] <= one.hi
            bias[name] += LAYERS * (one.value - truth[name]) / worlds
        rejected += found.delta.lo > 0 or found.delta.hi < 0
        supported += found.delta.lo > 0
        significant += found.p < 0.05
    coverage = {name: count / worlds for name, count in inside.items()}
    return Measured(bias, coverage, rejected / worlds, supported / worlds, significant / worlds)


def test_the_exact_bits_of_a_gaussian_layer_are_those_of_its_channel() -> None:
    bits = exact_bits((0.0, 1.0, 2.0, 20.0))
    assert bits[0] == pytest.approx(0, abs=1e-9) and bits[3] == pytest.approx(1, abs=1e-9)
    assert bits[2] == pytest.approx(0.4859, abs=1e-4)  # binary-input Gaussian channel at 0 dB


def test_depths_of_gaussian_layers_come_out_with_intervals_that_hold_them() -> None:
    """50 worlds: 80 % leaves a true 93 % out of reach of chance (p < .002), and rejections of no difference likewise."""
    found = measure(50, 400, SAME, "fixed")
    assert all(abs(bias) < 0.1 for bias in found.bias.values())
    assert min(found.coverage.values()) >= 0.8 and found.rejected <= 0.18


@pytest.mark.slow
def test_at_400_sentences_bias_is_below_a_20th_of_a_layer_and_errors_are_as_stated() -> None:
    found = measure(1000, 400, SAME, "fixed")
    assert all(abs(bias) < 0.05 for bias in found.bias.values()), found
    assert 0.93 <= found.coverage["delta"] <= 0.97, found
    assert 0.03 <= found.rejected <= 0.07, found
    assert all(0.90 <= found.coverage[one] <= 0.97 for one in ("a", "b")), found  # the probes' own variance is left out


@pytest.mark.slow
def test_at_150_sentences_refitted_intervals_hold_depths_and_their_difference() -> None:
    found = measure(1000, 150, SAME, "refit")
    assert all(0.93 <= coverage <= 0.97 for coverage in found.coverage.values()), found
    assert 0.03 <= found.rejected <= 0.07, found


@pytest.mark.slow
def test_a_difference_of_a_fifth_of_the_depth_is_found_at_400_sentences() -> None:
    found = measure(150, 400, APART, "fixed")
    assert found.supported >= 0.9, found


def test_at_150_sentences_a_difference_of_a_fifth_is_seen_by_interval_and_p_value() -> None:
    found = read(gaussian({"a": onset(3.1), "b": onset(4.85)}, 150), "refit", REFITS)
    assert found.delta.lo > 0 and found.p < 0.05


def test_layers_that_double_in_size_leave_depths_where_they_were() -> None:
    world = gaussian({"a": onset(3.1), "b": onset(4.85)}, 200)
    plain, grown = (read(one, "fixed", 200) for one in (world, growing_norm(world)))
    assert grown.delta.value == pytest.approx(plain.delta.value, abs=1e-6)
    assert (grown.a.lo, grown.b.hi) == pytest.approx((plain.a.lo, plain.b.hi), abs=1e-6)
