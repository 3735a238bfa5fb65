"""What a server beside a trainer costs the trainer: nothing beside it, an idle server, sixteen people talking with it.

    python -m tests.benchmarks.serving > tests/figures/serving.json      # about eight minutes on two quiet cores
    python -m tests.benchmarks.serving --quick                           # half a minute, to try the bench itself

This process trains at `demo` shape with one thread, nothing attached, and times its own steps, on the wall and in processor
time of this process. The server is `lab serve` as people start it (one thread, low priority) in a process of its own, the
people are another. Blocks alternate, each round in the other order; for "nothing" the server is halted (SIGSTOP), so it
takes no processor. A block is cut into windows, whose median steps are what medians and bootstrap intervals are of: steps
that follow each other are not independent. JSON on stdout.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from app.server_process import NICE, Found, find
from lab.chats import Chats, reproduce
from lab.config import RunConfig, load_config
from lab.run import Run
from tests.app.commands import command, environment
from tests.benchmarks.pairs import bootstrap, circumstances, median
from train.loop import train
from train.session import Session, start

NOTHING, IDLE, SERVING = CONDITIONS = ("nothing", "idle", "serving")
TARGETS = {IDLE: 1.02, SERVING: 1.25}
QUIET = [f"{name}.every=0" for name in ("probing", "self_play", "check_ins", "journal", "understanding", "shimmer")]
SETTINGS = [*QUIET, "evaluation.every=0", "train.threads=1", "train.steps=1000000", "checkpoint.keep=1000"]
RESAMPLES = 10_000
START_SECONDS = 300.0

Json = dict[str, Any]


@dataclass(frozen=True)
class Protocol:
    """How long and how many. Seconds.

    Attributes:
        rounds: each has every condition once.
        settle: at the start of a block, not timed: caches, and answers of the block before, come to an end.
        check: answers to make again, spread over all of them.
    """

    rounds: int = 3
    nothing: float = 30.0
    idle: float = 30.0
    serving: float = 60.0
    settle: float = 2.0
    window: float = 5.0
    people: int = 16
    tokens: int = 64
    check: int = 60

    def blocks(self) -> list[tuple[str, float]]:
        """Conditions and their seconds, in the order in which they come."""
        seconds = {NOTHING: self.nothing, IDLE: self.idle, SERVING: self.serving}
        turns = [CONDITIONS if number % 2 == 0 else CONDITIONS[::-1] for number in range(self.rounds)]
        return [(condition, seconds[condition]) for turn in turns for condition in turn]


QUICK = Protocol(rounds=1, nothing=2.0, idle=2.0, serving=4.0, settle=0.5, window=1.0, people=4, tokens=16, check=10)


class Beside:
    """The server and the people, each a process, seen from the trainer between two of its steps."""

    def __init__(self, run: Run, protocol: Protocol) -> None:
        self.protocol, self.said = protocol, list[Json]()
        around, nobody = environment(run.path.parent), subprocess.DEVNULL
        words = command("serve", "--port", "0", "--", str(run.path))
        self.server = subprocess.Popen(words, env=around, stdout=nobody, stderr=nobody)
        people = ["nice", "-n", str(NICE), sys.executable, "-m", "tests.benchmarks.talkers"]
        self.people = subprocess.Popen(people, env=around, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=nobody)
        self.reading = ThreadPoolExecutor(1)
        self.talk: Future[bytes] | None = None
        self.found = self._answering(run)

    def _answering(self, run: Run) -> Found:
        deadline = time.monotonic() + START_SECONDS
        while (found := find(run.path)) is None:
            if self.server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the server did not answer")
            time.sleep(0.1)
        return found

    def be(self, condition: str, seconds: float) -> None:
        """Become what a block asks for."""
        self.server.send_signal(signal.SIGSTOP if condition == NOTHING else signal.SIGCONT)
        if condition == SERVING:
            about = {"url": self.found.url, "token": self.found.token, "seconds": seconds}
            about |= {"people": self.protocol.people, "tokens": self.protocol.tokens, "seed": 100_000 * len(self.said)}
            assert self.people.stdin is not None and self.people.stdout is not None
            self.people.stdin.write(json.dumps(about).encode() + b"\n")
            self.people.stdin.flush()
            self.talk = self.reading.submit(self.people.stdout.readline)

    def talking(self) -> bool:
        """Whether anybody is still being answered."""
        if self.talk is not None and self.talk.done():
            self.said.append(json.loads(self.talk.result()))
            self.talk = None
        return self.talk is not None

    def close(self) -> None:
        self.server.send_signal(signal.SIGCONT)
        self.server.send_signal(signal.SIGINT)
        self.people.kill()
        for process in (self.server, self.people):
            process.wait()
        self.reading.shutdown()


class Clock:
    """Times steps: called at the end of each. One block after the other, then training stops."""

    def __init__(self, protocol: Protocol) -> None:
        self.protocol, self.left = protocol, protocol.blocks()
        self.beside: Beside | None = None
        self.windows: dict[str, list[list[tuple[float, float]]]] = defaultdict(list)  # (wall, processor) of each step
        self.condition, self.before = "", 0  # windows that the condition had when its block began
        self.begin = self.end = self.wall = self.cpu = 0.0

    def __call__(self, session: Session) -> None:
        wall, cpu = time.monotonic(), time.process_time()
        if self.beside is None:
            self.beside = Beside(session.run, self.protocol)
        nothing_yet = len(self.windows[self.condition]) == self.before  # a step may outlast its block on a busy machine
        if self.condition and self.wall >= self.begin and (wall < self.end or nothing_yet):
            number = int((wall - self.begin) / self.protocol.window)
            if number >= len(self.windows[self.condition]) - self.before:
                self.windows[self.condition].append([])
            self.windows[self.condition][-1].append((wall - self.wall, cpu - self.cpu))
        elif wall >= self.end and not nothing_yet * bool(self.condition) and not self.beside.talking():
            if not self.left:
                session.control.stop_reason = session.control.stop_reason or "SIGINT"
                return
            self.condition, seconds = self.left.pop(0)
            print(f"{self.condition}, {seconds:g} s, at step {session.step}", file=sys.stderr)
            self.beside.be(self.condition, self.protocol.settle + seconds)
            self.before = len(self.windows[self.condition])
            self.begin = time.monotonic() + self.protocol.settle
            self.end = self.begin + seconds
        self.wall, self.cpu = time.monotonic(), time.process_time()


def train_beside(config: RunConfig, root: Path, name: str, clock: Clock) -> tuple[Run, list[float]]:
    """Train a new run until its clock says that all blocks are over; the run, and the machine's load before and after."""
    before = os.getloadavg()[0]
    with start(config, root, name) as session:
        session.report = clock
        try:
            outcome = train(session)
            session.records.end_segment(session.segment, session.step, outcome.reason)
        finally:
            if clock.beside is not None:
                clock.beside.close()
    return session.run, [before, os.getloadavg()[0]]


def measure(config: RunConfig, root: Path, protocol: Protocol) -> Json:
    """Train a new run under all conditions in turns; what that did to its steps, and what the people were told."""
    clock = Clock(protocol)
    run, loads = train_beside(config, root, "served", clock)
    assert clock.beside is not None
    timed = {name: torch.stack([_medians(one) for one in clock.windows[name]]) for name in CONDITIONS}
    counts = {name: sum(map(len, clock.windows[name])) for name in CONDITIONS}
    ratios = {name: compared(timed[name], timed[NOTHING]) for name in TARGETS}
    return {
        "preset": config.preset,
        "context": config.model.n_ctx,
        "batch": config.train.batch,
        "cores": os.cpu_count(),
        "load_average": [round(one, 2) for one in loads],  # of everything on the machine; a quiet one begins near 0
        "trainer": {"threads": 1, "nice": os.nice(0)},
        "server": {"threads": 1, "nice": min(19, os.nice(0) + NICE)},
        "protocol": vars(protocol),
        "steps": {name: _described(timed[name], counts[name]) for name in CONDITIONS},
        "ratios": ratios,
        "targets": {name: {"at_most": most, "held": ratios[name]["wall"] <= most} for name, most in TARGETS.items()},
        "talk": talked(run, clock.beside.said, protocol),
    }


def _medians(window: Sequence[tuple[float, float]]) -> Tensor:
    return torch.tensor(window, dtype=torch.float64).quantile(0.5, dim=0)


def _described(windows: Tensor, steps: int) -> Json:
    found: Json = {"windows": len(windows), "steps": steps}
    for column, name in enumerate(("wall", "cpu")):
        found[f"{name}_seconds"] = round(median(windows[:, column]), 5)
        found[f"{name}_interval"] = [round(one, 5) for one in bootstrap(windows[:, column])]
    return found


def compared(mine: Tensor, other: Tensor) -> Json:
    """Ratios of median steps, wall and processor, with 95 % intervals: windows of both are drawn anew.

    Args:
        mine: [window, (wall, processor)]; other: likewise, of the trainer with nothing beside it.
    """
    generator, found = torch.Generator().manual_seed(0), dict[str, Any]()
    for column, name in enumerate(("wall", "cpu")):
        drawn = [
            one[:, column][torch.randint(len(one), (RESAMPLES, len(one)), generator=generator)].quantile(0.5, dim=1)
            for one in (mine, other)
        ]
        interval = (drawn[0] / drawn[1]).quantile(torch.tensor([0.025, 0.975], dtype=mine.dtype))
        found[name] = round(median(mine[:, column]) / median(other[:, column]), 4)
        found[f"{name}_interval"] = [round(one, 4) for one in interval.tolist()]
    return found


def talked(run: Run, blocks: Sequence[Json], protocol: Protocol) -> Json:
    """What the people were told: how much, how soon, and whether it is what `lab.generate` says to the same question.

    Every answer is held against its record; some, spread over all, are made again from it.
    """
    answers = [answer for block in blocks for answer in block["answers"]]
    with Chats.reader(run.path) as chats:
        records = [chats.exchange(answer["id"]) for answer in answers]
    as_told = [
        (one.text, one.step, one.seed, one.state) == (told["text"], told["step"], told["seed"], "done")
        for one, told in zip(records, answers, strict=True)
    ]
    again = records[:: max(1, len(records) // protocol.check)]
    waits = torch.tensor([one["first_seconds"] for one in answers if one["first_seconds"] is not None])
    seconds = protocol.rounds * (protocol.settle + protocol.serving)
    return {
        "answers": len(answers),
        "tokens_per_second": round(sum(len(one.ids) for one in records) / seconds, 1),
        "errors": [error for block in blocks for error in block["errors"]],
        "refused_with_429": sum(block["refused"] for block in blocks),
        "first_token_seconds": {"median": round(median(waits), 3), "p95": round(float(waits.quantile(0.95)), 3)},
        "checkpoints_that_answered": len({one.step for one in records}),
        "as_recorded": sum(as_told),
        "made_again": len(again),
        "made_again_alike": sum(reproduce(run, one).ids == one.ids for one in again),
    }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes, at `tiny` shape")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    preset, every = ("tiny", 50) if options.quick else ("demo", 200)
    config = load_config(preset, overrides=[*SETTINGS, f"checkpoint.every={every}"])
    with tempfile.TemporaryDirectory() as folder:
        row = measure(config, Path(folder), QUICK if options.quick else Protocol())
    print(json.dumps(circumstances("tests.benchmarks.serving", arguments, 1) | {"rows": [row]}, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
