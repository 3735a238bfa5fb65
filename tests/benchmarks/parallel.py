"""What a second process buys: 2 ranks × 1 thread against 1 process × 2 threads and 1 × 1, the same global batch.

    python -m tests.benchmarks.parallel > tests/figures/parallel.json

The whole training loop of `torchrun -m train`, attachments off, real text. All three trainers are alive at once and take a
few steps in turn while the others stand still, so that whatever else the machine does falls on all alike; wall time, since
it is what a second process is for. A ratio is of one round, above 1 where two ranks are faster. JSON on stdout.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from lab.config import RunConfig, load_config
from lab.run import default_root
from tests.benchmarks.pairs import bootstrap, circumstances, median
from train.loop import train
from train.parallel import joined
from train.segment import Session
from train.session import prepare_corpus, start

TRAINERS = {"2 ranks × 1 thread": (2, 1), "1 process × 2 threads": (1, 2), "1 process × 1 thread": (1, 1)}
QUIET = ("evaluation", "probing", "understanding", "self_play", "check_ins", "journal", "shimmer")
FOREVER = 10**6


class Trainer:
    """The processes of one way to train, which take `steps` steps when asked to."""

    def __init__(self, ranks: int, threads: int, root: Path, arguments: Sequence[str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [
            sys.executable,
            "-m",
            "tests.benchmarks.parallel",
            *arguments,
            "--work",
            f"{threads}",
            "--root",
            str(root),
        ]
        self.processes = []
        for rank in range(ranks):
            named = {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": ranks,
                "LOCAL_WORLD_SIZE": ranks,
                "MASTER_PORT": port,
            }
            environment = (
                os.environ | {name: str(value) for name, value in named.items()} | {"MASTER_ADDR": "127.0.0.1"}
            )
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            self.processes.append(subprocess.Popen(command, env=environment, text=True, **pipes))

    def wait(self) -> None:
        """Until the steps asked for last (those of warming up, at first) are taken."""
        leader = self.processes[0]
        assert leader.stdout is not None
        if not leader.stdout.readline():
            raise SystemExit(f"a trainer ended with {leader.wait()} before its time; see its messages")

    def ask(self, what: str) -> None:
        leader = self.processes[0]
        assert leader.stdin is not None
        leader.stdin.write(f"{what}\n")
        leader.stdin.flush()

    def seconds(self) -> float:
        """Wall time of a turn."""
        begun = time.perf_counter()
        self.ask("go")
        self.wait()
        return time.perf_counter() - begun

    def end(self) -> None:
        self.ask("stop")
        for process in self.processes:
            process.wait()


def work(config: RunConfig, root: Path, steps: int) -> None:
    """One process of a trainer: trains on, and stands still after every `steps` steps until it is asked to go on."""

    def report(session: Session) -> None:
        if session.step % steps == 0:
            print("done", flush=True)
            if sys.stdin.readline().strip() != "go":
                session.control.stop_reason = "stop"

    with joined() as ranks, start(config, root, ranks=ranks) as session:
        session.report = report
        train(session)


def configured(options: argparse.Namespace) -> RunConfig:
    settings = [f"{section}.every=0" for section in QUIET]
    settings += [f"train.threads={options.work or 1}", f"train.steps={FOREVER}", "checkpoint.log_spaced=false"]
    return load_config(options.preset, None, [*settings, f"checkpoint.every={FOREVER}", *options.set])


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=2, help="of a turn")
    parser.add_argument("--work", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> None:
    options = parse(arguments)
    config = configured(options)
    if options.work:
        work(config, options.root, options.steps)
        return
    prepare_corpus(config, default_root())
    with tempfile.TemporaryDirectory(prefix="lab-parallel-") as folder, ExitStack() as stack:
        root = Path(folder)
        (root / ".data").symlink_to((default_root() / ".data").resolve())
        trainers = {name: Trainer(*shape, root, arguments) for name, shape in TRAINERS.items()}
        for trainer in trainers.values():
            trainer.wait()  # the first turn warms up, and is not timed
            stack.callback(trainer.end)
        rounds: dict[str, list[float]] = {name: [] for name in trainers}
        for index in range(options.rounds):
            order = list(trainers) if index % 2 == 0 else list(reversed(trainers))
            for name in order:
                rounds[name].append(trainers[name].seconds())
    tokens = options.steps * config.train.batch * config.train.accumulation * config.model.n_ctx
    speeds = {name: tokens / torch.tensor(seconds, dtype=torch.float64) for name, seconds in rounds.items()}
    first, *others = speeds
    row = {
        "preset": config.preset,
        "rounds": options.rounds,
        "tokens_per_step": tokens // options.steps,
        "tokens_per_second": {name: summary(values, 1) for name, values in speeds.items()},
        "ratio_of_speeds": {f"{first} / {other}": summary(speeds[first] / speeds[other], 4) for other in others},
    }
    report = circumstances("tests.benchmarks.parallel", list(arguments), 2) | {"rows": [row]}
    print(json.dumps(report, indent=2, ensure_ascii=False))


def summary(values: torch.Tensor, digits: int) -> dict[str, Any]:
    low, high = bootstrap(values)
    return {"median": round(median(values), digits), "interval": [round(low, digits), round(high, digits)]}


if __name__ == "__main__":
    main(sys.argv[1:])
