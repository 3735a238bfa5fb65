"""Do alarms per 1,000 checks stay where they were when a real run's understanding interval goes from 100 to 250?

    python -m tests.benchmarks.interval > tests/figures/interval.json      # 6,000 steps of `tiny`, some minutes

Alarms come at constant rates that are put there: a step's batch is random tokens with a fixed probability, and at a visit the
disk is nearly full with another. Half-way a real `set-interval` goes through the run's inbox. Five double checks belong to
both regimes. JSON on stdout: by rule and regime, alarms of checks with Wilson's interval per 1,000 checks.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.config import RunConfig, load_config
from lab.corpus import Batch
from lab.records import Command, Finding, Regime
from probes.behaviour.rates import Rate
from tests.benchmarks.pairs import circumstances
from train import health
from train.control import send
from train.loop import train
from train.rhythm import DOUBLES
from train.session import Session, start

BAD_BATCHES, FULL_DISKS = 0.02, 0.3  # of steps, of looks at the disk
SETTINGS = (
    "understanding.budget=1.0",  # every visit takes place, whatever it costs
    "understanding.observe_only=true",
    "understanding.batteries_every=0",
    "probing.every=0",
    "evaluation.every=0",
    "checkpoint.every=5000",
)


def alarms(
    config: RunConfig,
    root: Path,
    change_at: int,
    every: int,
    bad_batches: float = BAD_BATCHES,
    full_disks: float = FULL_DISKS,
) -> dict[str, Any]:
    """Train a run with alarms planted at constant rates; its interval becomes `every` after `change_at` steps.

    Args:
        bad_batches: share of steps whose batch is random tokens.
        full_disks: share of looks at the disk that find it nearly full.
    """
    with pytest.MonkeyPatch.context() as patch, start(config, root, "interval") as session:
        planted = plant(session, patch, bad_batches, full_disks)

        def report(session: Session) -> None:
            if session.step == change_at:
                send(session.run, "set-interval", {"name": "understanding", "every": every})

        session.report = report
        assert train(session).reason == "finished"
        watch: Any = next(a for a in session.attachments if a.name == "understanding")
        before = config.understanding.every
        rows = [
            compared(rule, found, watch.tally.rates(every)[rule])
            for rule, found in watch.tally.rates(before).items()
            if found.count or watch.tally.rates(every)[rule].count
        ]
    with session.run.records() as records:
        (command,) = records.rows(Command)
        regimes = records.rows(Regime, name="understanding")
        return {
            "steps": config.train.steps,
            "seed": config.train.seed,
            "from": before,
            "to": every,
            "command": {
                "verb": command.verb,
                "sent_at_step": change_at,
                "acknowledged_step": command.acknowledged_step,
            },
            "double_checks": DOUBLES,
            "regimes": [[row.step, row.protocol["every"], row.protocol["double_checks"]] for row in regimes],
            "bad_batches": planted["batches"],
            "findings": len(records.rows(Finding)),
            "rules": rows,
        }


def plant(session: Session, patch: pytest.MonkeyPatch, bad_batches: float, full_disks: float) -> dict[str, int]:
    """Faults at constant rates, drawn from a generator of their own; counts the bad batches."""
    draw, generator = random.Random(session.config.train.seed), torch.Generator().manual_seed(session.config.train.seed)
    next_batch, usage, counts = session.corpus.next_batch, shutil.disk_usage, {"batches": 0}
    left = (health.ROOM - 1) * health.checkpoint_bytes(session.model)  # an alarm, and yet enough to save

    def batch_of(at: int) -> Batch:
        batch = next_batch(at)
        if draw.random() >= bad_batches:
            return batch
        counts["batches"] += 1
        tokens = torch.randint(session.model.cfg.d_vocab, batch.tokens.shape, generator=generator)
        return Batch(tokens, batch.mask, batch.bytes)

    def usage_of(path: Any) -> Any:
        whole = usage(path)
        return whole._replace(free=left) if draw.random() < full_disks else whole

    patch.setattr(session.corpus, "next_batch", batch_of)
    patch.setattr(shutil, "disk_usage", usage_of)
    return counts


def compared(rule: str, before: Rate, after: Rate) -> dict[str, Any]:
    """One rule in both regimes, and whether their intervals overlap."""
    overlap = before.lo <= after.hi and after.lo <= before.hi
    return {"rule": rule, "before": per_thousand(before), "after": per_thousand(after), "overlap": overlap}


def per_thousand(rate: Rate) -> dict[str, Any]:
    found = rate.per_thousand
    interval = [round(found.lo, 2), round(found.hi, 2)]
    return {"alarms": rate.count, "checks": rate.checks, "per_thousand": round(found.value, 2), "interval": interval}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    own = (
        f"train.steps={options.steps}",
        f"train.seed={options.seed}",
        "train.threads=1",
        "data.tokenizer_bytes=1000000",
    )
    config, begin = load_config("tiny", None, [*SETTINGS, "understanding.every=100", *own]), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        found = alarms(config, Path(folder), options.steps // 2, 250)
    found |= {"cpu_seconds": round(time.process_time() - begin)}
    print(json.dumps(circumstances("tests.benchmarks.interval", arguments, 1) | {"rows": [found]}, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
