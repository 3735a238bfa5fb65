"""100,000 steps of `tiny` with everything attached, watched from outside: does anything grow that should not?

    python -m tests.benchmarks.soak --folder soak > tests/figures/soak.json
    python -m tests.benchmarks.soak --folder soak --steps 4000 --samples 20      # a look in two minutes

The trainer is the ordinary command, `lab train`, in a process of its own with one thread. At equally spaced steps this
process reads the trainer's resident size (and the part of it that is no mapped file), bytes and rows of its database, and the
CPU time of what the app asks (`standard_queries`). Judged are the last 80 %: caches fill, and the first visits build what all
others use. Every attachment of the configuration is on, at intervals that leave more than half of the time to training;
`understanding.observe_only` keeps a critical finding from holding the run for ever. JSON on stdout.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy import func, select

from lab.database import read_rows
from lab.errors import LabError
from lab.records import Base, Records
from lab.run import Run
from tests.benchmarks import fits
from tests.benchmarks.pairs import circumstances
from tests.benchmarks.standard_queries import BOUNDED, QUERIES, seconds

NAME = "soak"
BATCH = 2  # a step of 10 ms in place of 22: what could grow does not depend on it
EVERY = {
    "evaluation": 500,
    "probing": 1000,
    "shimmer": 1000,
    "understanding": 100,
    "self_play": 500,
    "check_ins": 500,
    "journal": 500,
    "checkpoint": 500,
}
SETTINGS = (
    "train.threads=1",
    f"train.batch={BATCH}",
    "understanding.observe_only=true",
    "self_play.turns=4",
    "check_ins.prompts=4",
    "check_ins.samples=2",
    "journal.max_tokens=24",
)
JUDGED = 0.8  # the last so much of the steps
MOST_GROWTH = 0.05
POLL_SECONDS = 0.5  # rows are committed twice a second

Json = dict[str, Any]


def trainer(folder: Path, steps: int) -> "subprocess.Popen[bytes]":
    """`lab train`, its messages in a file beside the run."""
    settings = (f"train.steps={steps}", *(f"{name}.every={every}" for name, every in EVERY.items()), *SETTINGS)
    command = [sys.executable, "-m", "app.cli", "train", "--preset", "tiny", "--name", NAME]
    command += [word for setting in settings for word in ("--set", setting)]
    environment = os.environ | {"LAB_RUNS": str(folder), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    with (folder / "trainer.log").open("wb") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def watched(process: "subprocess.Popen[bytes]", folder: Path, marks: Sequence[int]) -> Iterator[Json]:
    """A sample as soon as each of these steps is recorded.

    Raises:
        SystemExit: the trainer ended before the last of them.
    """
    began = time.monotonic()
    run = records = None
    for mark in marks:
        while (step := newest(records)) < mark:
            if process.poll() is not None:
                log = (folder / "trainer.log").read_text(errors="replace")
                raise SystemExit(f"the trainer ended (exit {process.returncode}) at step {step}:\n{log[-2000:]}")
            time.sleep(POLL_SECONDS)
            if records is None:
                run, records = opened(folder)
        assert run is not None and records is not None
        memory = psutil.Process(process.pid).memory_info()
        yield {
            "step": step,
            "seconds": round(time.monotonic() - began, 1),
            "resident_bytes": memory.rss,
            "anonymous_bytes": memory.rss - memory.shared,  # without what is mapped from files
            "database_bytes": database_bytes(run),
            "rows": row_counts(run),
            "query_seconds": {name: round(seconds(run, records, query), 6) for name, query in QUERIES.items()},
        }


def opened(folder: Path) -> tuple[Run, Records] | tuple[None, None]:
    """The run and its records, as soon as they are there."""
    try:
        run = Run.open(folder / NAME)
        return run, run.records()
    except LabError:
        return None, None


def newest(records: Records | None) -> int:
    found = records.newest("train/loss") if records is not None else None
    return found[0] if found else 0


def database_bytes(run: Run) -> int:
    """The file and what waits beside it."""
    files = (run.database, run.database.with_name(f"{run.database.name}-wal"))
    return sum(file.stat().st_size for file in files if file.exists())


def row_counts(run: Run) -> dict[str, int]:
    tables = {table.name: table for table in Base.metadata.sorted_tables}
    return {
        name: int(read_rows(run.database, select(func.count()).select_from(table))[0][0])
        for name, table in tables.items()
    }


def judged(samples: Sequence[Json]) -> Json:
    """What grew over the last 80 % of the steps, and how."""
    last = [one for one in samples if one["step"] >= (1 - JUDGED) * samples[-1]["step"]]
    steps = [one["step"] for one in last]
    rows = [sum(one["rows"].values()) for one in last]
    resident = fits.drift(steps, [one["resident_bytes"] for one in last])
    middle = len(last) // 2
    added = last[-1]["database_bytes"] - last[0]["database_bytes"]
    queries = {}
    for name in QUERIES:
        times = [one["query_seconds"][name] for one in last]
        queries[name] = fits.power_law(rows, times) | {
            "bounded": name in BOUNDED,
            "first_ms": round(1000 * times[0], 2),
            "last_ms": round(1000 * times[-1], 2),
        }
    return {
        "from_step": steps[0],
        "resident": resident | {"mean_bytes": round(sum(one["resident_bytes"] for one in last) / len(last))},
        "anonymous": fits.drift(steps, [one["anonymous_bytes"] for one in last]),
        "resident_is_flat": abs(resident["growth"]) <= MOST_GROWTH and resident["spread"] <= MOST_GROWTH,
        "rows": fits.power_law(steps, rows) | {"first": rows[0], "last": rows[-1]},
        "rows_per_step": round((rows[-1] - rows[0]) / (steps[-1] - steps[0]), 3),
        "rows_per_step_by_half": [
            round((rows[to] - rows[since]) / (steps[to] - steps[since]), 3) for since, to in ((0, middle), (middle, -1))
        ],
        "bytes_per_row": round(added / (rows[-1] - rows[0]), 1),
        "queries": queries,
    }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where the run is made; it must not hold one yet")
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--samples", type=int, default=50)
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    marks = [options.steps * nth // options.samples for nth in range(1, options.samples)]
    process = trainer(options.folder, options.steps)
    samples = []
    try:
        for sample in watched(process, options.folder, marks):
            samples.append(sample)
            (options.folder / "samples.json").write_text(json.dumps(samples))
            print(f"step {sample['step']}: {sample['resident_bytes'] / 1e6:.0f} MB resident", file=sys.stderr)
        if code := process.wait():
            raise SystemExit(f"the trainer ended with {code}; see {options.folder / 'trainer.log'}")
    finally:
        process.kill()
    row = {"preset": "tiny", "steps": options.steps, "batch": BATCH, "every": EVERY, "settings": SETTINGS}
    row |= judged(samples) | {"samples": samples}
    print(json.dumps(circumstances("tests.benchmarks.soak", arguments, 1) | {"rows": [row]}, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
