"""What everything attached costs a `laptop` run: process CPU time of steps and visits, one thread.

    LAB_RUNS=… python -m tests.benchmarks.costs --run laptop > tests/figures/costs.json

On a copy of a trained run, at step 1,000. Steps: the loop itself, everything attached at every second step and nothing at the
others, between two visits, so that what differs is what attachments do at every step. Visits: each attachment alone, the
first (which may build what is kept for all others) and the median of three more. Together: what the preset's schedule adds
to its 1,500 steps, extra log-spaced visits included, and what an ordinary interval of 250 steps has. JSON on stdout.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.config import load_config
from lab.run import Run, default_root
from tests.benchmarks.pairs import bootstrap, circumstances, median
from train.attachments import Attachment, is_due
from train.equipment import build_attachments
from train.loop import train, visit
from train.session import Session, resume
from train.understanding import Understanding

AT, INTERVAL = 1000, 250
VISITS = 3


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="laptop", help="a trained run of the preset laptop; it is copied")
    parser.add_argument("--pairs", type=int, default=15)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        row = measured(copied(Run.find(options.run, default_root()), Path(folder)), options.pairs)
    print(json.dumps(circumstances("tests.benchmarks.costs", arguments, 1) | {"rows": [row]}, indent=2))


def copied(run: Run, root: Path) -> Run:
    """The run with everything of its preset attached, and nothing of what its attachments keep for later visits."""
    (root / ".data").symlink_to(run.path.parent / ".data")
    shutil.copytree(run.path, root / run.name, ignore=shutil.ignore_patterns("statistics", "run.lock"))
    copy = Run.open(root / run.name)
    copy.update_config(load_config("laptop", overrides=["train.threads=1"]))
    return copy


def measured(run: Run, pairs: int) -> dict[str, Any]:
    with resume(run, from_step=AT) as session:
        visits = [visit_cost(session, attachment) for attachment in session.attachments]
        session.step = AT
        timed = alternate_steps(session, pairs)
    plain, steps = timed["without_cpu_seconds"], run.config.train.steps
    follow = max(0.0, timed["ratio_median"] - 1)  # of a step; being followed saves none, so less than nothing is noise
    for one in visits:
        one["visits"] = planned(run, one["name"], steps)
        one["extra_cpu_seconds"] = round(one["first_cpu_seconds"] + (one["visits"] - 1) * one["cpu_seconds"], 2)
        one["share_of_interval"] = round(INTERVAL / one["every"] * one["cpu_seconds"] / (INTERVAL * plain), 4)
        one["share_of_run"] = round(one["extra_cpu_seconds"] / (steps * plain), 4)
    return {
        "preset": run.config.preset,
        "at_step": AT,
        "step": timed,
        "attachments": visits,
        "ratio_of_interval": round(1 + follow + sum(one["share_of_interval"] for one in visits), 4),
        "ratio_of_run": round(1 + follow + sum(one["share_of_run"] for one in visits), 4),
        "steps": steps,
    }


def visit_cost(session: Session, attachment: Attachment) -> dict[str, Any]:
    """CPU seconds of the first visit and the median of three more, each at a step of its own: rows are keyed by it."""
    seconds = []
    for _ in range(1 + VISITS):
        session.step += 1
        begin = time.process_time()
        visit(session, [attachment])
        seconds.append(time.process_time() - begin)
    usual = median(torch.tensor(seconds[1:], dtype=torch.float64))
    print(f"{attachment.name}: {seconds}", file=sys.stderr)
    name, every = attachment.name, attachment.every
    return {"name": name, "every": every, "first_cpu_seconds": round(seconds[0], 3), "cpu_seconds": round(usual, 3)}


def alternate_steps(session: Session, pairs: int) -> dict[str, Any]:
    """Steps of the loop with everything attached and with nothing, in turns; the first two are not timed."""
    everything: Sequence[Attachment] = session.attachments
    seconds: dict[bool, list[float]] = {True: [], False: []}
    began = time.process_time()

    def report(session: Session) -> None:  # at the end of a step, its numbers handed to whoever follows
        nonlocal began
        attached = len(session.attachments) > 0
        seconds[attached].append(time.process_time() - began)
        # Two with, two without, …: each is as often first in its pair.
        turn = (len(seconds[True]) + len(seconds[False])) // 2
        session.attachments = () if turn % 2 else everything
        if min(len(found) for found in seconds.values()) > pairs:
            session.control.stop_reason = session.control.stop_reason or "SIGINT"
        began = time.process_time()

    session.report = report
    train(session)
    mine, other = (torch.tensor(seconds[key][-pairs:], dtype=torch.float64) for key in (True, False))
    return ratio(mine, other)


def ratio(mine: Tensor, other: Tensor) -> dict[str, Any]:
    low, high = bootstrap(mine / other)
    return {
        "pairs": len(mine),
        "ratio_median": round(median(mine / other), 4),
        "ratio_interval": [round(low, 4), round(high, 4)],
        "with_cpu_seconds": round(median(mine), 4),
        "without_cpu_seconds": round(median(other), 4),
    }


def planned(run: Run, name: str, steps: int) -> int:
    """Visits of an attachment over a whole run of the preset, as the loop asks for them."""
    (attachment,) = (one for one in build_attachments(run.config, torch.float32) if one.name == name)
    assert not isinstance(attachment, Understanding) or attachment.heavy.every > steps, (
        "its batteries would be visits too"
    )
    return sum(is_due(attachment, step, steps) for step in range(steps + 1))


if __name__ == "__main__":
    main(sys.argv[1:])
