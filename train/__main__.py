"""`python -m train`: start or resume a run, show how it goes, exit with a code that says how it ended.

The `lab` command calls `run_new` and `run_again`; both print progress on stderr and return the exit code. Under
`torchrun --nproc-per-node N -m train` N processes train together (`parallel`), and the first of them alone speaks.
"""

import argparse
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lab.config import RunConfig, load_config
from lab.errors import LabError
from lab.run import Run, default_root
from train.loop import Outcome, train
from train.parallel import Ranks, joined
from train.session import Session, resume, start

PLAIN_EVERY_SECONDS = 10.0


class Reporter:
    """Progress for people: a bar on a terminal, a plain line every ten seconds elsewhere."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, soft_wrap=True, quiet=quiet)
        self.bar: Progress | None = None
        self.task: TaskID | None = None
        self.last = time.monotonic()
        self.finished = ""

    def data(self, what: str, share: float) -> None:
        """Preparing text: `share` of it is done."""
        finished = share >= 1 and what != self.finished
        pause = 0.2 if self.console.is_terminal else PLAIN_EVERY_SECONDS
        if finished or (share < 1 and time.monotonic() - self.last > pause):
            self.last, self.finished = time.monotonic(), what if finished else self.finished
            self.console.print(f"{what}: {share:.0%}", end="\r" if self.console.is_terminal and share < 1 else "\n")

    def step(self, session: Session) -> None:
        """One training step is done."""
        numbers = session.newest
        text = f"loss {numbers['train/loss']:.3f}  {numbers.get('train/tokens_per_second', 0):,.0f} tokens/s"
        if self.console.is_terminal:
            if self.bar is None:
                columns = (
                    TextColumn("step {task.completed}/{task.total}"),
                    BarColumn(),
                    TextColumn("{task.description}"),
                )
                self.bar = Progress(*columns, TimeRemainingColumn(), console=self.console)
                self.bar.start()
                self.task = self.bar.add_task("", total=session.end)
            assert self.task is not None
            self.bar.update(self.task, completed=session.step, description=text)
        elif time.monotonic() - self.last > PLAIN_EVERY_SECONDS or session.step == session.end:
            self.last = time.monotonic()
            self.console.print(f"step {session.step}/{session.end}  {text}")

    def say(self, text: str) -> None:
        """Something a person should read at once."""
        self.console.print(text, markup=False)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()


def run_new(config: RunConfig, root: Path | None = None, name: str | None = None) -> tuple[Run, Outcome]:
    """Train a new run to its horizon."""
    with joined() as ranks:
        reporter = Reporter(quiet=not ranks.leads)
        ended = _drive(start(config, root, name, progress=reporter.data, ranks=ranks), reporter)
    return _spoken_for(ranks, *ended)


def run_again(
    run: Run, from_step: int | None = None, extend_to: int | None = None, skip_batches: int = 0
) -> tuple[Run, Outcome]:
    """Go on with a run."""
    with joined() as ranks:
        reporter = Reporter(quiet=not ranks.leads)
        opening = resume(run, from_step, extend_to, skip_batches, progress=reporter.data, ranks=ranks)
        ended = _drive(opening, reporter)
    return _spoken_for(ranks, *ended)


def _spoken_for(ranks: Ranks, run: Run, outcome: Outcome) -> tuple[Run, Outcome]:
    """What rank 0 goes on with; the others have nothing to show, and end here."""
    if not ranks.leads:
        sys.exit(outcome.exit_code)
    return run, outcome


def _drive(opening: AbstractContextManager[Session], reporter: Reporter) -> tuple[Run, Outcome]:
    with opening as session:
        session.report = reporter.step
        session.say = reporter.say
        reporter.console.print(
            f"run {session.run.path}: step {session.step} to {session.end} on {session.model.W_E.device}, "
            f"{sum(p.numel() for p in session.model.parameters()) / 1e6:.1f} M parameters"
        )
        try:
            outcome = train(session)
        finally:
            reporter.close()
        if not session.ranks.leads:
            return session.run, outcome
        session.record_costs()
        session.records.end_segment(session.segment, session.step, outcome.reason)
        if outcome.exit_code == 130:
            unsaved = (
                ""
                if session.saved_step == session.step
                else f" (not saved; the last checkpoint is of step {session.saved_step})"
            )
            reporter.console.print(
                f"stopped at step {session.step}{unsaved}. Go on with: lab resume {session.run.name}"
            )
        elif outcome.exit_code == 3:
            reporter.console.print(
                f"the loss or gradient was not finite at step {session.step}; that update was not made, the batch is kept "
                f"in evidence/. Go on without that batch: lab resume {session.run.name} --skip-batches 1"
            )
        return session.run, outcome


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m train", description="Train or resume a run.")
    parser.add_argument("--preset")
    parser.add_argument("--config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--name")
    parser.add_argument("--resume", metavar="RUN")
    options = parser.parse_args()
    try:
        if options.resume:
            return run_again(Run.find(options.resume, default_root()))[1].exit_code
        return run_new(load_config(options.preset, options.config, options.set), name=options.name)[1].exit_code
    except LabError as error:
        Console(stderr=True, highlight=False, soft_wrap=True).print(str(error), markup=False)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
