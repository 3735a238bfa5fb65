"""Recall of the understanding module under injected faults, and its alerts in a clean run: the slow tests, counted.

    python -m tests.benchmarks.faults > tests/figures/faults.json      # 20 seeds a fault, 5,000 clean steps
    python -m tests.benchmarks.faults --quick                          # what `make test` does

Runs tests/faults/test_injected_faults.py and keeps what its tests record. JSON on stdout, pytest's report on stderr. Gates:
recall of 95 % of each fault, one alert at most in the clean run.
"""

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.benchmarks.pairs import circumstances

HARNESS = Path(__file__).resolve().parents[1] / "faults" / "test_injected_faults.py"


class Kept:
    """What tests hand to `record_property`, by its name, in the order in which they ran."""

    def __init__(self) -> None:
        self.rows: dict[str, list[Any]] = {"figure": [], "clean": []}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            for name, value in report.user_properties:
                self.rows[name].append(value)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 seeds a fault and a short clean run")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    kept, started = Kept(), time.process_time()
    chosen = ["-m", "not slow" if options.quick else "slow", "-s", "-p", "no:cacheprovider"]
    with contextlib.redirect_stdout(sys.stderr):
        code = pytest.main([str(HARNESS), *chosen], plugins=[kept])
    figures = {
        "cpu_seconds": round(time.process_time() - started),
        "rows": kept.rows["figure"],
        "clean": kept.rows["clean"],
    }
    print(json.dumps(circumstances("tests.benchmarks.faults", arguments, 1) | figures, indent=2))
    return (
        0 if code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) else int(code)
    )  # a gate missed is a figure too


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
