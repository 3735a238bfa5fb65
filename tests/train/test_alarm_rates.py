"""A real run whose alarms come at constant rates: changing the interval leaves them per 1,000 checks where they were."""

from collections.abc import Callable
from pathlib import Path

from lab.config import RunConfig
from tests.benchmarks.interval import SETTINGS, alarms


def test_on_a_run_the_alarms_per_1000_checks_stay_where_they_were(
    tiny_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    short = ("train.steps=500", "understanding.every=20", "reference.step=500", "checkpoint.log_spaced=false")
    found = alarms(tiny_config(*SETTINGS, *short), tmp_path, 250, 50, bad_batches=0.03)
    assert found["command"]["acknowledged_step"] <= 252
    assert [row[1:] for row in found["regimes"]] == [[20, False], [50, True], [50, False]]
    rows = {row["rule"]: row for row in found["rules"]}
    for row in rows.values():
        print(row)
    spikes = rows["health.loss-spike"]
    assert spikes["before"]["checks"] + spikes["after"]["checks"] >= 500, "every step is looked at on some schedule"
    disk = rows["health.disk"]
    assert (disk["before"]["checks"], disk["after"]["checks"]) == (26, 5), "five double checks in both"
    for rule in ("health.loss-spike", "health.disk"):
        assert rows[rule]["overlap"] and rows[rule]["after"]["alarms"] > 0
