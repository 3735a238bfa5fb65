"""How costs grow: CPU time over parameters, context, vocabulary, layers probed, tasks, checkpoints, rows and entries.

    python -m tests.benchmarks.growth > tests/figures/growth.json

Each operation is the product's own (`growth_work`), at 4 to 6 sizes. Sizes are timed in turns, up and down, so that a machine
that slows down slows all of them; a cost is the median of the repeats. Two exponents: of the straight line through the
logarithms over all sizes, with Student's interval, and of cost = a + b·nᵏ, with a bootstrap over repeats, which is the one
that says how it goes on where a constant dominates the small sizes. One thread, about four minutes. JSON on stdout.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from lab.allocator import keep_freed_memory
from lab.run import default_root
from tests.benchmarks import fits, growth_work
from tests.benchmarks.growth_work import Curve, Work
from tests.benchmarks.pairs import circumstances, median

LEAST_SECONDS = 0.02  # of a timed call; shorter work is done several times


def measured(curve: Curve, repeats: int, budget: float) -> dict[str, Any]:
    """One curve: seconds by size, and what they grow like.

    Args:
        budget: CPU seconds for all repeats; dear work is repeated less often, but 5 times at least.
    """
    once = [_first(work) for work in curve.works]
    calls = [max(1, round(LEAST_SECONDS / seconds)) for seconds in once]
    round_trip = sum(max(seconds, LEAST_SECONDS) for seconds in once)
    rounds = max(5, min(repeats, int(budget / round_trip)))
    seconds: list[list[float]] = [[] for _ in curve.works]
    for index in range(rounds):
        turn = range(len(curve.works))
        for at in turn if index % 2 == 0 else reversed(turn):
            seconds[at].append(_timed(curve.works[at], calls[at]))
    medians = [median(torch.tensor(each, dtype=torch.float64)) for each in seconds]
    beside = fits.beside_constant(curve.sizes, seconds)
    print(f"{curve.quantity}, {curve.operation}: {beside['exponent']}", file=sys.stderr)
    return {
        "quantity": curve.quantity,
        "operation": curve.operation,
        "at_most": curve.at_most,
        "sizes": list(curve.sizes),
        "repeats": rounds,
        "cpu_seconds": [round(value, 7) for value in medians],
        "power_law": fits.power_law(curve.sizes, medians),
        "beside_constant": beside,
    }


def _first(work: Work) -> float:
    """Seconds of the second call: the first one pays for allocations, page caches and prepared statements."""
    work()
    return max(1e-7, _timed(work, 1))


def _timed(work: Work, calls: int) -> float:
    started = time.process_time()
    for _ in range(calls):
        work()
    return (time.process_time() - started) / calls


def all_curves(folder: Path, runs: Path, repeats: int, budget: float) -> list[dict[str, Any]]:
    found = [measured(curve, repeats, budget) for curve in growth_work.steps()]
    found += [measured(curve, repeats, budget) for curve in growth_work.probing(folder, runs)]
    curves: Sequence[Curve] = [*growth_work.records(folder / "rows"), growth_work.folders(folder / "checkpoints")]
    found += [measured(curve, repeats, budget) for curve in curves]
    for records in {id(one): one for curve in curves for one in curve.held}.values():
        records.close()
    return found


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--budget", type=float, default=15.0, help="CPU seconds for the repeats of a curve")
    parser.add_argument("--runs", type=Path, default=None, help="the folder that has the tokenised corpus (LAB_RUNS)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    keep_freed_memory()  # as a run does
    with tempfile.TemporaryDirectory() as folder:
        rows = all_curves(Path(folder), options.runs or default_root(), options.repeats, options.budget)
    print(json.dumps(circumstances("tests.benchmarks.growth", arguments, 1) | {"rows": rows}, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
