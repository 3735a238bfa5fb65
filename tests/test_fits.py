"""The fits behind README's curves of cost, on costs whose exponents are known."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.benchmarks.fits import beside_constant, drift, power_law

SIZES = (10, 32, 100, 316, 1000)


def noisy(costs: list[float], repeats: int = 9) -> list[list[float]]:
    noise = 1 + 0.01 * torch.randn(len(costs), repeats, generator=torch.Generator().manual_seed(0)).double()
    return [(cost * each).tolist() for cost, each in zip(costs, noise, strict=True)]


@settings(max_examples=20, deadline=None)
@given(st.floats(0.3, 2.5), st.floats(1e-6, 1e3))
def test_a_pure_power_law_gives_its_exponent_back(exponent: float, scale: float) -> None:
    found = power_law(SIZES, [scale * n**exponent for n in SIZES])
    assert abs(found["exponent"] - exponent) < 1e-3


def test_a_constant_bends_the_line_and_is_taken_out_by_the_other_fit() -> None:
    costs = [5.0 + 0.01 * n for n in SIZES]
    assert power_law(SIZES, costs)["exponent"] < 0.4
    found = beside_constant(SIZES, noisy(costs))
    low, high = found["interval"]
    assert low <= 1 <= high and high - low < 0.3
    assert abs(found["constant_share"] - 5.0 / 5.1) < 0.02


def test_what_grows_faster_than_it_should_is_seen_beside_a_constant() -> None:
    found = beside_constant(SIZES, noisy([2.0 + 1e-5 * n**2 for n in SIZES]))
    assert found["interval"][0] > 1.5


def test_a_flat_cost_has_no_exponent() -> None:
    assert beside_constant(SIZES, noisy([3.0] * len(SIZES)))["exponent"] is None


def test_a_level_that_creeps_up_by_six_per_cent_is_not_called_flat() -> None:
    steps = list(range(0, 100, 5))
    assert drift(steps, [100.0] * 20)["growth"] == 0
    assert drift(steps, [100 + 6.2 * step / 95 for step in steps])["growth"] > 0.05
