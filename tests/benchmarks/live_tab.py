"""What the app with one live tab open costs the trainer beside it, and the app itself.

    python -m tests.benchmarks.live_tab > tests/figures/live_tab.json      # about four minutes on two quiet cores
    python -m tests.benchmarks.live_tab --quick                            # half a minute, to try the bench itself

This process trains at `demo` shape with one thread, nothing attached, and times its own steps, in processor time of this
process and on the wall. The app is a process of its own, as `lab app` starts it; a headless Chromium holds its Training page
open, which asks for new curves every three seconds. Blocks alternate: "nothing" (the app is halted by SIGSTOP, so the tab
waits and draws nothing) and "tab". The wall has the browser in it too, which the processor time of the trainer has not.
Blocks, windows and intervals are those of `tests.benchmarks.serving`. JSON on stdout.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from app import launch
from lab.config import RunConfig, load_config
from lab.run import Run
from tests.app.browsing import Watched
from tests.app.commands import environment
from tests.app.conftest import CHROMIUM, FLAGS
from tests.benchmarks.pairs import circumstances
from tests.benchmarks.serving import (
    NOTHING,
    SETTINGS,
    Beside,
    Clock,
    Protocol,
    _described,
    _medians,
    compared,
    train_beside,
)
from train.segment import Session

TAB = "tab"
TRAINER, APP = 1.05, 0.05  # at most: steps over steps beside nothing; the app's share of a core
TICKS = os.sysconf("SC_CLK_TCK")
LOOK = "--look"
Json = dict[str, Any]


@dataclass(frozen=True)
class Turns(Protocol):
    """Blocks of both conditions in turns, each round in the other order. Seconds."""

    rounds: int = 5
    nothing: float = 20.0
    tab: float = 20.0
    settle: float = 4.0  # longer than a refresh: what was asked for while the app was halted is answered by then

    def blocks(self) -> list[tuple[str, float]]:
        turn = [(NOTHING, self.nothing), (TAB, self.tab)]
        return [block for number in range(self.rounds) for block in (turn if number % 2 == 0 else turn[::-1])]


QUICK = Turns(rounds=1, nothing=5.0, tab=7.0, window=1.0)


class Tab(Beside):
    """The app and a browser that looks at it, each a process, seen from the trainer between two of its steps."""

    def __init__(self, run: Run, protocol: Protocol) -> None:
        self.protocol, self.said, self.talk = protocol, [], None
        self.app = launch.start(run.path.parent, quiet=True, timeout=300)
        words = [sys.executable, "-m", "tests.benchmarks.live_tab", LOOK, f"{self.app.url}/training?run={run.name}"]
        self.looking = subprocess.Popen(words, env=environment(run.path.parent), stdout=subprocess.PIPE, text=True)
        assert self.looking.stdout is not None
        if not self.looking.stdout.readline():
            raise SystemExit("the browser did not show the page")
        self.spent: list[tuple[float, float]] = []  # of each block with the tab: seconds of processor, of wall
        self._since: tuple[float, float] | None = None

    def be(self, condition: str, seconds: float) -> None:
        """Become what a block asks for."""
        self._account()
        self.app.process.send_signal(signal.SIGSTOP if condition == NOTHING else signal.SIGCONT)
        if condition == TAB:
            self._since = self._used(), time.monotonic()

    def talking(self) -> bool:
        return False

    def close(self) -> None:
        self._account()
        self.app.process.send_signal(signal.SIGCONT)
        self.looking.terminate()
        self.looking.wait()
        self.app.stop()

    def _account(self) -> None:
        if self._since is not None:
            self.spent.append((self._used() - self._since[0], time.monotonic() - self._since[1]))
            self._since = None

    def _used(self) -> float:
        """Processor seconds of the app so far, of user and system."""
        fields = Path(f"/proc/{self.app.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


class Watch(Clock):
    """Times steps as its parent does, beside an app."""

    def __call__(self, session: Session) -> None:
        if self.beside is None:
            self.beside = Tab(session.run, self.protocol)
        super().__call__(session)


def look(url: str) -> None:
    """Hold the page open until somebody ends this process; says so once its curves are drawn."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        page = Watched(browser, None).page
        page.goto(url)
        page.get_by_text("▶ training").first.wait_for()
        page.locator("[data-testid=stVegaLiteChart]").first.wait_for()
        print("shown", flush=True)
        page.wait_for_timeout(3_600_000)


def measure(config: RunConfig, root: Path, protocol: Turns) -> Json:
    """Train a new run beside an app with a live tab, and beside nothing, in turns."""
    clock = Watch(protocol)
    _, loads = train_beside(config, root, "watched", clock)
    assert isinstance(clock.beside, Tab)
    timed = {name: torch.stack([_medians(one) for one in clock.windows[name]]) for name in (NOTHING, TAB)}
    ratio = compared(timed[TAB], timed[NOTHING])
    used, wall = (sum(one) for one in zip(*clock.beside.spent, strict=True))
    return {
        "preset": config.preset,
        "context": config.model.n_ctx,
        "batch": config.train.batch,
        "cores": os.cpu_count(),
        "load_average": [round(one, 2) for one in loads],
        "nice": os.nice(0),
        "protocol": vars(protocol),
        "steps": {name: _described(timed[name], sum(map(len, clock.windows[name]))) for name in timed},
        "ratio": ratio,
        "app": {"share_of_a_core": round(used / wall, 4), "seconds": round(wall, 1)},
        "targets": {
            "trainer": {"at_most": TRAINER, "held": ratio["cpu"] <= TRAINER},
            "app": {"at_most": APP, "held": used / wall <= APP},
        },
    }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes, at `tiny` shape")
    parser.add_argument(LOOK, metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.look:
        look(options.look)
        return
    torch.set_num_threads(1)
    preset = "tiny" if options.quick else "demo"
    config = load_config(preset, overrides=[*SETTINGS, "checkpoint.every=100000"])
    with tempfile.TemporaryDirectory() as folder:
        row = measure(config, Path(folder), QUICK if options.quick else Turns())
    print(json.dumps(circumstances("tests.benchmarks.live_tab", arguments, 1) | {"rows": [row]}, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
