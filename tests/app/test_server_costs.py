"""What the bench of serving beside training measures, and what README says of it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lab.config import RunConfig
from tests.benchmarks.serving import CONDITIONS, IDLE, QUICK, SERVING, SETTINGS, Protocol, compared, measure
from tests.figures.serving import render


def test_conditions_take_turns_and_each_round_goes_the_other_way() -> None:
    blocks = Protocol().blocks()
    assert [name for name, _ in blocks] == [*CONDITIONS, *reversed(CONDITIONS), *CONDITIONS]
    assert all(seconds == 60 for name, seconds in blocks if name == SERVING)
    assert sum(seconds for _, seconds in blocks) < 500  # with starting and settling less than ten minutes


def test_a_planted_slow_down_is_found_and_its_interval_holds_it() -> None:
    generator = torch.Generator().manual_seed(0)
    alone = torch.stack([torch.full((30,), 0.1), torch.full((30,), 0.08)], dim=1).double()
    alone += 0.002 * torch.randn(alone.shape, generator=generator)
    slowed = alone * torch.tensor([1.25, 1.0], dtype=torch.float64)
    found = compared(slowed[torch.randperm(30, generator=generator)], alone)
    assert found["wall_interval"][0] < 1.25 < found["wall_interval"][1] and found["wall"] == pytest.approx(
        1.25, rel=0.01
    )
    assert found["cpu_interval"][0] < 1.0 < found["cpu_interval"][1]


@pytest.mark.slow
def test_the_bench_measures_all_conditions_in_one_run_and_every_answer_is_right(
    tmp_path: Path, tiny_config: Callable[..., RunConfig]
) -> None:
    row = measure(tiny_config(*SETTINGS, "checkpoint.every=50"), tmp_path, QUICK)
    talk = row["talk"]
    assert talk["errors"] == [] and talk["answers"] > 0 and talk["checkpoints_that_answered"] >= 1
    assert talk["as_recorded"] == talk["answers"] and talk["made_again_alike"] == talk["made_again"] > 0
    assert all(row["steps"][name]["windows"] >= 2 and row["steps"][name]["wall_seconds"] > 0 for name in CONDITIONS)
    assert row["trainer"]["threads"] == 1 and row["server"]["nice"] > row["trainer"]["nice"]
    assert set(row["ratios"]) == {IDLE, SERVING} and row["ratios"][SERVING]["cpu"] > 0
    shown = render([row])
    assert f"{talk['answers']:,} answers" in shown and shown.count("×") >= 6 and render([]) == ""
