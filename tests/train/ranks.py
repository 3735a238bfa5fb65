"""Several processes that train one run, forked from a warm parent: what `tests/train/test_parallel.py` asserts on.

A script of its own (`python ranks.py FOLDER TEXT SCENARIO…` prints JSON), because the test process may have threads, and so
that everything is imported once instead of once a rank. Each rank goes through `joined`, as under torchrun, which sets the
same variables.
"""

import hashlib
import json
import os
import shutil
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # which DistributedDataParallel loads when it is first built: 1.6 s for each rank, were it not there yet

from lab import checkpoint
from lab.config import load_config
from lab.records import Latch
from lab.run import Run
from tests.train.digest import digest, losses
from tests.train.freezing import parent_run, request
from tests.train.riders import Nudge
from train import __main__ as command
from train import control
from train.branch import branch
from train.loop import train
from train.parallel import Ranks, joined
from train.session import Riders, Session, resume, start

STEPS = 50
ENDINGS = 20
SECONDS = 240  # that a job may take: the longest of these takes 4 s on a quiet core
SETTINGS = (
    "train.threads=1",
    "model.d_vocab=400",
    "data.tokenizer_bytes=200000",
    "data.validation_share=0.1",
    "data.phases=[{from_step=0, weights={story=1.0}}]",
    f"train.steps={STEPS}",
    "train.batch=4",
    "optimizer.warmup_steps=5",
    "checkpoint.every=10",
    "checkpoint.keep=9",
    "checkpoint.log_spaced=false",
    "evaluation.every=25",
    "evaluation.tokens=2000",
    "probing.every=0",
    "understanding.every=0",
)
Work = Callable[[], object]


@dataclass
class Started:
    """The processes of a job, by rank, and what they write to stderr."""

    pids: list[int]
    said: list[Path]
    at: float = field(default_factory=time.monotonic)

    def wait(self, seconds: float = SECONDS) -> list[int]:
        """Exit codes; of a process that was killed, minus the signal. Kills what has not ended in time, and says so."""
        codes: dict[int, int] = {}
        while len(codes) < len(self.pids) and time.monotonic() < self.at + seconds:
            for pid in self.pids:
                if pid not in codes and (ended := os.waitpid(pid, os.WNOHANG))[0]:
                    codes[pid] = os.waitstatus_to_exitcode(ended[1])
            time.sleep(0.01)
        for pid in self.pids:
            if pid not in codes:
                os.kill(pid, signal.SIGKILL)
        assert len(codes) == len(self.pids), f"processes {set(self.pids) - set(codes)} did not end within {seconds} s"
        return [codes[pid] for pid in self.pids]


def launch(count: int, work: Work) -> Started:
    """`work` in so many processes at once, under the variables that torchrun sets."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(os.environ["LAB_RUNS"]) / ".said"
    folder.mkdir(exist_ok=True)
    said = [folder / f"{port}-{rank}" for rank in range(count)]
    pids = []
    for rank in range(count):
        child = os.fork()
        if child:
            pids.append(child)
            continue
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
        os.environ.update(zip(names, map(str, (rank, count, rank, count, port)), strict=True), MASTER_ADDR="127.0.0.1")
        os.dup2(os.open(said[rank], os.O_WRONLY | os.O_CREAT), 2)
        code = 1
        try:
            work()
            code = 0
        except SystemExit as ending:
            code = int(ending.code or 0)
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)
    return Started(pids, said)


def main_with(*arguments: str) -> None:
    """`python -m train` with these arguments."""
    sys.argv = ["train", *arguments]
    sys.exit(command.main())


class Bench:
    """The scenarios; each returns what a test asserts on, as JSON."""

    def __init__(self, folder: Path, text: Path) -> None:
        self.folder = folder
        source = f'data.sources=[{{name="story", kind="text", path="{text}"}}]'
        self.config = load_config("tiny", None, [source, *SETTINGS])
        self.file = folder / "config.toml"
        self.file.write_text(self.config.to_toml())

    def run(self, name: str) -> Run:
        return Run.open(self.folder / name)

    def begin(self, name: str, count: int, *settings: str) -> Started:
        sets = [word for one in settings for word in ("--set", one)]
        return launch(count, lambda: main_with("--config", str(self.file), "--name", name, *sets))

    def go_on(self, name: str, count: int, from_step: int | None = None) -> list[int]:
        return launch(count, lambda: sys.exit(command.run_again(self.run(name), from_step)[1].exit_code)).wait()

    def copied(self, name: str, to: str) -> str:
        shutil.copytree(self.folder / name, self.folder / to)
        return to

    # ------------------------------------------------------------------------------------------------- the scenarios

    def same_losses(self) -> dict[str, Any]:
        """One process and two, the same global batch; and what each of two ranks holds at the end."""
        codes = self.begin("one", 1).wait()
        held: list[str] = []

        def follow() -> None:
            with joined() as ranks, start(self.config, self.folder, "two", ranks=ranks) as session:
                train(session)
                tell(self.folder / f"held-{ranks.rank}", session)
                close(session, ranks)

        codes += launch(2, follow).wait()
        held = [(self.folder / f"held-{rank}").read_text() for rank in range(2)]
        keys = ("corpus", "generators", "tokens_seen", "config_hash", "interventions", "attachments")
        first, second = digest(self.run("one")), digest(self.run("two"))
        return {
            "codes": codes,
            "held": held,
            "difference": difference(losses(self.run("one")), losses(self.run("two"))),
            "steps": len(losses(self.run("two"))),
            "differing_state": [key for key in keys if first[key] != second[key]],
        }

    def kill_of_rank_1(self) -> dict[str, Any]:
        return self._kill(1)

    def kill_of_rank_0(self) -> dict[str, Any]:
        return self._kill(0)

    def _kill(self, victim: int) -> dict[str, Any]:
        """One of two killed past the first checkpoint; what is left, and how it goes on with one and with two."""
        name = f"killed-{victim}"
        job = self.begin(name, 2)
        self._wait_for_checkpoint(job, name, 10)
        os.kill(job.pids[victim], signal.SIGKILL)
        killed = time.monotonic()
        codes = job.wait()
        seconds = time.monotonic() - killed
        run = self.run(name)
        info = checkpoint.newest_valid(run.checkpoints_folder)
        found = {"codes": codes, "seconds": seconds, "saved": info and info.step, "state": run.state()}
        found["said"] = job.said[1 - victim].read_text()
        alone = self.copied(name, f"{name}-alone")
        found["alone"] = [self.go_on(alone, 1), difference(losses(self.run("one")), losses(self.run(alone)))]
        found["both"] = [self.go_on(name, 2), difference(losses(self.run("two")), losses(run))]
        return found

    def one_then_two(self) -> dict[str, Any]:
        """A run of one process rewound and gone on with by two, as two had gone on."""
        name = self.copied("one", "joined-by-another")
        codes = self.go_on(name, 2, from_step=20)
        return {"codes": codes, "difference": difference(losses(self.run("one")), losses(self.run(name)))}

    def refused(self) -> dict[str, Any]:
        """Rows that cannot be shared out alike."""
        job = self.begin("three-rows", 2, "train.batch=3")
        codes = job.wait()
        said = [file.read_text() for file in job.said]
        return {"codes": codes, "said": said, "there": (self.folder / "three-rows").exists()}

    def paused(self) -> dict[str, Any]:
        """A pause that rank 0 obeys, looked at for a second, and lifted."""
        job = self.begin("paused", 2)
        self._wait_for_checkpoint(job, "paused", 10)
        run = self.run("paused")
        control.wait(run, control.send(run, "pause"))
        seen = []
        for _ in range(2):
            with run.records() as records:
                seen.append([records.newest("train/loss"), [latch.owner for latch in records.rows(Latch)]])
            time.sleep(0.5)
        control.wait(run, control.send(run, "unpause"))
        return {"seen": seen, "codes": job.wait(), "difference": difference(losses(self.run("two")), losses(run))}

    def not_finite(self) -> dict[str, Any]:
        """A loss that is not finite on the second rank alone."""

        def work() -> None:
            with joined() as ranks:
                riders = Riders([], [Nudge(nan_at=7 if ranks.rank == 1 else -1)])
                with start(self.config, self.folder, "nan", ranks=ranks, riders=riders) as session:
                    outcome = train(session)
                    close(session, ranks)
            sys.exit(outcome.exit_code)

        codes, run = launch(2, work).wait(), None
        run = self.run("nan")
        evidence = [file.name for file in sorted(run.evidence.iterdir())]
        return {"codes": codes, "saved": run.checkpoint_info().step, "evidence": evidence}

    def ended(self) -> dict[str, Any]:
        """Jobs of one small step, one after the other: torch's own order of taking down gloo hung one in five of these."""

        def work() -> None:
            with joined() as ranks:
                model = torch.nn.Linear(4, 4)
                forward = ranks.connect(model, model)
                with ranks.gradients(last=True):
                    forward(torch.ones(2, 4)).sum().backward()

        return {"codes": [code for _ in range(ENDINGS) for code in launch(2, work).wait()]}

    def frozen(self) -> dict[str, Any]:
        """Concepts held in every mode, one let go of on the way; by two ranks, and by one with as small micro-batches."""
        small = self.config.model_copy(
            update={"train": self.config.train.model_copy(update={"batch": 2, "accumulation": 2})}
        )
        parents = {"two": self.config, "one": small}
        told: dict[str, Any] = {"codes": []}
        for name, config in parents.items():
            asked = (
                request("top-0", "pin", until=18, fade_steps=4),
                request("top-1", "write+anchor"),
                request("top-2", "anchor", until=20),
            )
            made = launch(1, lambda name=name, config=config: parent_run(config, self.folder, f"parent-{name}")).wait()  # type: ignore[misc]
            branch(self.run(f"parent-{name}"), f"frozen-{name}", steps=12, freeze=asked)
            count = 2 if name == "two" else 1
            told["codes"] += made + launch(count, lambda name=name: self._branch(f"frozen-{name}")).wait()  # type: ignore[misc]
        told["held"] = [(self.folder / f"frozen-two-{rank}").read_text() for rank in range(2)]
        told["difference"] = difference(losses(self.run("frozen-one")), losses(self.run("frozen-two")))
        return told

    def remedied(self) -> dict[str, Any]:
        """A remedy whose pool grows by self-play on rank 0 and by continuations on every rank."""
        settings = ("every=1", "continuations_every=2", "continuations=2")
        config = load_config(
            None, self.file, [*(f"remedy.{one}" for one in settings), "self_play.every=8", "train.steps=20"]
        )

        def work() -> None:
            with joined() as ranks, start(config, self.folder, "remedied", ranks=ranks) as session:
                train(session)
                tell(self.folder / f"remedied-{ranks.rank}", session)
                close(session, ranks)

        codes = launch(2, work).wait()
        pool = checkpoint.load(self.run("remedied").checkpoint_info().path).state["interventions"]["remedy"]["pool"]
        held = [(self.folder / f"remedied-{rank}").read_text() for rank in range(2)]
        return {"codes": codes, "held": held, "pool": len(pool)}

    # ---------------------------------------------------------------------------------------------------------------

    def _branch(self, name: str) -> None:
        with joined() as ranks, resume(self.run(name), ranks=ranks) as session:
            train(session)
            tell(self.folder / f"{name}-{ranks.rank}", session)
            close(session, ranks)

    def _wait_for_checkpoint(self, job: Started, name: str, step: int) -> None:
        newest = self.folder / name / "checkpoints" / "LATEST"  # without it, a save was not acknowledged
        while not newest.exists() or newest.read_text().strip() < f"step-{step:09d}":
            assert os.waitpid(job.pids[0], os.WNOHANG) == (0, 0), f"{name} ended before step {step}"
            time.sleep(0.01)


def close(session: Session, ranks: Ranks) -> None:
    if ranks.leads:
        session.records.end_segment(session.segment, session.step, "finished")


def tell(file: Path, session: Session) -> None:
    """What a rank holds: weights, optimizer state and interventions."""
    whole = hashlib.sha256()
    for tensor in (*session.model.state_dict().values(), *optimizer_state(session)):
        whole.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    states = {part.name: part.state_dict() for part in session.interventions}
    file.write_text(whole.hexdigest() + hashlib.sha256(json.dumps(states, sort_keys=True).encode()).hexdigest())


def optimizer_state(session: Session) -> list[torch.Tensor]:
    states = (session.optimizer.state[p] for p in session.model.parameters() if p in session.optimizer.state)
    return [value.reshape(1) if value.ndim == 0 else value for state in states for value in state.values()]


def difference(first: list[tuple[int, float]], second: list[tuple[int, float]]) -> float | None:
    """The largest, over the steps of both; None where one has steps that the other has not."""
    if [step for step, _ in first] != [step for step, _ in second]:
        return None
    return max(abs(a - b) for (_, a), (_, b) in zip(first, second, strict=True))


def main(folder: Path, text: Path, scenarios: list[str]) -> dict[str, Any]:
    torch.set_num_threads(1)
    folder.mkdir(exist_ok=True)
    os.environ["LAB_RUNS"] = str(folder)
    bench = Bench(folder, text)
    return {scenario: getattr(bench, scenario)() for scenario in scenarios}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])))
