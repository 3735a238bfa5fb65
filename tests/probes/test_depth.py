"""Depths of curves that are known, and Tenney et al.'s table from their published figures."""

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch

from probes.layers.depth import (
    WrongLayers,
    ends_lower,
    envelope,
    expected_depth,
    half_gain,
    labels_overlap,
    net_gain,
    peak,
    published_expected_layer,
    too_little_gain,
    too_unselective,
    total_gain,
    twin_has_it,
    twin_share,
)
from probes.layers.evidence import Interval

TENNEY: list[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "tenney.toml").read_text("utf8"))["task"]
CELLS = [(task, model) for task in TENNEY for model in ("base", "large")]


def named(cell: Any) -> str:
    return cell["name"] if isinstance(cell, dict) else str(cell)


def test_the_table_has_ten_tasks_on_13_and_25_layers() -> None:
    assert len(TENNEY) == 10
    assert all(len(task["base"]) == 13 and len(task["large"]) == 25 for task in TENNEY)


@pytest.mark.parametrize(("task", "model"), CELLS, ids=named)
def test_expected_layers_of_tenney_2019_come_out_of_their_f1_to_two_decimals(task: dict[str, Any], model: str) -> None:
    score = torch.tensor(task[model], dtype=torch.float64)
    assert f"{float(published_expected_layer(score)):.2f}" == f"{task[f'{model}_raw']:.2f}"
    assert f"{float(expected_depth(score)) * (len(score) - 1):.2f}" == f"{task[f'{model}_envelope']:.2f}"


def test_dpr_of_bert_base_has_no_depth_though_the_published_formula_gives_layer_24_of_12() -> None:
    task = next(task for task in TENNEY if task["name"] == "DPR")
    score = torch.tensor(task["base"], dtype=torch.float64)
    assert float(published_expected_layer(score)) == pytest.approx(23.92, abs=0.005)
    net = float(net_gain(score))
    assert net == pytest.approx(-0.8938, abs=1e-4)
    reason = ends_lower(Interval(net, net, net))
    assert reason is not None and "no more than layer 0" in reason
    others = [torch.tensor(t[m], dtype=torch.float64) for t, m in CELLS if (t["name"], m) != ("DPR", "base")]
    assert all(ends_lower(Interval(*[float(net_gain(one))] * 3)) is None for one in others)


def test_summed_by_parts_the_depth_is_the_mean_of_the_layers_weighted_by_what_each_adds() -> None:
    gain = torch.tensor([0.1, 0.1, 0.4, 0.5, 0.9], dtype=torch.float64)
    added = gain.diff()
    expected = float((added * torch.arange(1, 5)).sum() / added.sum()) / 4
    assert float(expected_depth(gain)) == pytest.approx(expected)
    assert float(published_expected_layer(gain)) == pytest.approx(4 * expected)


@pytest.mark.parametrize("layer", [1, 2, 3, 4])
def test_a_jump_at_layer_k_has_its_depth_and_its_half_gain_at_k(layer: int) -> None:
    gain = torch.tensor([float(at >= layer) for at in range(5)])
    assert float(expected_depth(gain)) == layer / 4
    assert float(half_gain(gain)) == layer / 4


def test_a_straight_line_has_its_half_gain_where_its_depth_is() -> None:
    gain = torch.linspace(0, 1, 9)
    assert float(expected_depth(gain)) == pytest.approx(4.5 / 8)
    assert float(half_gain(gain)) == pytest.approx(4.5 / 8)


def test_a_fall_before_the_last_layer_changes_nothing_and_depths_stay_in_0_to_1() -> None:
    rising = torch.tensor([0.0, 0.5, 1.0, 1.0, 1.0])
    falling = torch.tensor([0.0, 0.5, 1.0, 0.3, -2.0])
    assert float(expected_depth(falling)) == float(expected_depth(rising)) == 0.375
    assert float(half_gain(falling)) == float(half_gain(rising))
    assert not 0 <= float(published_expected_layer(falling)) / 4 <= 1
    curves = torch.randn(2000, 9, generator=torch.Generator().manual_seed(0))
    for depth in (expected_depth(curves), half_gain(curves)):
        there = depth[depth.isfinite()]
        assert len(there) > 1500 and float(there.min()) >= 0 and float(there.max()) <= 1
        assert torch.equal(depth.isnan(), total_gain(curves) <= 0)


def test_depths_of_a_batch_are_those_of_its_curves() -> None:
    curves = torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(1)).cumsum(-1)
    for depth in (expected_depth, half_gain, peak):
        together = depth(curves)
        apart = torch.stack([torch.stack([depth(curve) for curve in row]) for row in curves])
        torch.testing.assert_close(together, apart, equal_nan=True)
    assert torch.equal(envelope(curves)[..., -1] - curves[..., 0], total_gain(curves))


def test_scale_and_offset_of_a_curve_do_not_move_its_depth() -> None:
    gain = torch.rand(9, generator=torch.Generator().manual_seed(2)).cumsum(0).double()
    for depth in (expected_depth, half_gain, peak):
        assert float(depth(1000 * gain - 7)) == pytest.approx(float(depth(gain)))


def test_a_curve_that_never_rises_has_no_depth_and_one_that_is_not_finite_neither() -> None:
    curves = torch.tensor([[1.0, 0.5, 0.2], [0.0, 0.0, 0.0], [0.0, torch.nan, 1.0]])
    assert bool(expected_depth(curves).isnan().all()) and bool(half_gain(curves).isnan().all())
    assert math.isnan(float(peak(curves[2])))


def test_missing_layers_make_a_depth_later_by_at_most_their_gap() -> None:
    gain = torch.linspace(0, 1, 13)
    every, some = expected_depth(gain), expected_depth(gain[[0, 4, 8, 12]], (0, 4, 8, 12))
    assert 0 <= float(some - every) <= 4 / 12
    held = torch.tensor([0.0] * 4 + [gain[4]] * 4 + [gain[8]] * 4 + [1.0])
    assert float(some) == pytest.approx(float(expected_depth(held)))
    assert float(expected_depth(gain, range(13))) == float(every)
    assert float(peak(torch.tensor([0.0, 3.0, 1.0]), (0, 3, 12))) == 0.25


@pytest.mark.parametrize("layers", [(1, 2, 3), (0, 2), (0, 2, 1), (0, 1, 1)])
def test_layers_that_do_not_ascend_from_0_or_do_not_fit_the_curve_are_refused(layers: tuple[int, ...]) -> None:
    with pytest.raises(WrongLayers, match="layer 0"):
        expected_depth(torch.rand(3), layers)


def test_guards_speak_when_a_bound_is_on_the_wrong_side_and_are_silent_otherwise() -> None:
    assert too_little_gain(Interval(0.3, 0.021, 0.6)) is None
    assert "too little" in str(too_little_gain(Interval(0.3, 0.02, 0.6)))
    assert too_little_gain(Interval(math.nan, math.nan, math.nan)) is not None
    assert too_unselective(Interval(0.1, 0.01, 0.2)) is None
    assert "random labels" in str(too_unselective(Interval(0.1, 0.0, 0.2)))
    assert ends_lower(Interval(-0.1, -0.3, 0.1)) is None
    assert twin_has_it(0.94) is None and "95%" in str(twin_has_it(0.95)) and twin_has_it(math.nan) is not None
    assert labels_overlap(-0.5) is None and "0.51" in str(labels_overlap(-0.51))


def test_a_twin_that_only_falls_has_no_share_of_the_gain() -> None:
    gain = torch.tensor([0.0, 0.5, 1.0])
    assert float(twin_share(gain, torch.tensor([0.6, 0.3, 0.0]))) == 0
    assert float(twin_share(gain, gain / 2)) == 0.5
