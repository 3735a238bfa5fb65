"""`lab up`: real processes that start together, say when each answers, and stop together."""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.interrupts import Interrupts
from app.server_process import find, listening
from lab.config import RunConfig
from lab.run import Run
from tests.app.commands import command, environment, lab
from tests.app.serving import PATIENCE, until
from tests.made_runs import made_run


def test_a_port_that_is_taken_is_said_before_anything_is_started(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    with listening("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        for option in ("--port", "--app-port"):
            done = lab("up", run.name, option, str(port), runs=tmp_path)
            assert done.returncode == 2 and str(port) in done.stderr and "Choose another" in done.stderr
    assert "answers" not in done.stderr and not (run.path / "server.token").exists()


def test_a_run_that_cannot_be_trained_now_is_refused_with_the_way_out(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    done = lab("up", run.name, "--train", runs=tmp_path)
    assert done.returncode == 2 and "--extend-to" in done.stderr
    with run.lock("training"):
        done = lab("up", run.name, "--train", runs=tmp_path)
    assert done.returncode == 2 and str(os.getpid()) in done.stderr and "Leave --train out" in done.stderr


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_a_finalizer_swallows_is_remembered() -> None:
    class Finalized:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0)  # Python looks for signals between two instructions

    before = signal.getsignal(signal.SIGINT)
    with Interrupts(signal.SIGINT) as interrupts:
        interrupts.check()
        Finalized()
        with pytest.raises(KeyboardInterrupt):
            interrupts.check()
    assert interrupts.number == signal.SIGINT and signal.getsignal(signal.SIGINT) is before


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory, tiny_config: Callable[..., RunConfig]) -> Run:
    """A run that stopped after three of very many steps."""
    from train.loop import train
    from train.session import Session, start

    settings = ("train.steps=1000000", "probing.every=0", "checkpoint.every=50")
    with start(tiny_config(*settings), tmp_path_factory.mktemp("up"), "fox") as session:

        def report(session: Session) -> None:
            session.control.stop_reason = "SIGINT" if session.step >= 3 else None

        session.report = report
        outcome = train(session)
        session.records.end_segment(session.segment, session.step, outcome.reason)
    return session.run


class Up:
    """A `lab up` that runs, the lines that it has said, and all processes that come of it."""

    def __init__(self, run: Run, *options: str) -> None:
        words = command("up", run.name, *options)
        self.process = subprocess.Popen(
            words, env=environment(run.path.parent), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        self.lines: list[str] = []
        self.pids: set[int] = set()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.decode().strip())

    def said(self, words: str) -> str:
        """The line with these words, waited for."""
        until(lambda: self.process.poll() is not None or any(words in line for line in self.lines), words)
        found = [line for line in self.lines if words in line]
        assert found, self.lines
        self.pids |= descendants(self.process.pid)
        return found[0]

    def interrupt(self) -> int:
        self.pids |= descendants(self.process.pid)
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE)


@contextlib.contextmanager
def up(run: Run, *options: str) -> Iterator[Up]:
    """Whatever a test finds, nothing of it outlives the test."""
    started = Up(run, *options)
    try:
        yield started
    finally:
        for pid in {started.process.pid} | started.pids | descendants(started.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        started.process.wait()


def descendants(pid: int) -> set[int]:
    """Processes that came of this one, as Linux lists them."""
    found: set[int] = set()
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, children.read_text().split()):
                found |= {child} | descendants(child)
    return found


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


@pytest.mark.slow
def test_trainer_server_and_app_are_ready_when_it_is_said_and_one_ctrl_c_stops_all(parent: Run) -> None:
    begun = parent.checkpoint_info().step
    with up(parent, "--train") as started:
        started.said("fox trains")
        holder = parent.holder()
        assert holder is not None and holder["pid"] in started.pids and parent.state() == "training"
        with parent.records() as records:
            assert len(records.segments()) == 2
        started.said("the server answers")
        server = find(parent.path)
        assert server is not None
        place = next(word for word in started.said("the app answers").split() if word.startswith("http")).rstrip(";")
        with urllib.request.urlopen(f"{place}/_stcore/health", timeout=PATIENCE) as answer:
            assert answer.status == 200
        until(lambda: parent.checkpoint_info().step > begun, "it trains on")
        with urllib.request.urlopen(f"{server.url}/health", timeout=PATIENCE) as answer:
            assert json.loads(answer.read())["training"] == "training"
        assert started.interrupt() == 0 and len(started.pids) >= 3
        assert alive(started.pids) == set() and "saves first" in started.said("stopping")
    assert find(parent.path) is None and parent.holder() is None and parent.state() == "stopped"
    with parent.records() as records:
        last = records.segments()[-1]
    assert last.reason == "SIGINT" and parent.checkpoint_info().step == last.end_step  # nothing trained was lost


@pytest.mark.slow
def test_what_was_started_is_stopped_again_when_a_part_dies_at_its_start(parent: Run) -> None:
    (parent.path / "server.token").write_text("short")
    try:
        with up(parent, "--train") as started:
            started.said("fox trains")
            assert started.process.wait(PATIENCE) == 2
            assert "Delete it" in " ".join(started.lines) and "the server ended with status 2" in started.lines[-1]
            assert alive(started.pids) == set() and parent.state() == "stopped"
            assert not any("answers at" in line for line in started.lines)
    finally:
        (parent.path / "server.token").unlink()


@pytest.mark.slow
def test_ctrl_c_before_all_have_answered_stops_those_that_were_started(parent: Run) -> None:
    with up(parent, "--train") as started:
        started.said("fox trains")
        time.sleep(0.5)  # the server is being started
        assert started.interrupt() == 0 and alive(started.pids) == set() and parent.state() == "stopped"
