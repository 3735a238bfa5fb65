"""Trainer, server and app of one run, started together and stopped together.

Each is a process of its own in a session of its own, so the terminal's Ctrl-C reaches only this one, which then asks all of
them to end: the trainer saves first. Nothing is called ready before it has answered, and what would keep one from starting
is looked for before any is started.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from app.interrupts import Interrupts
from app.launch import choose_port, start
from app.server_guard import LOOPBACK
from app.server_process import NOTE_FILE, find, listening
from lab.checkpoint import list_checkpoints
from lab.errors import LabError
from lab.records import Event, RecordsMissing
from lab.run import Run

READY_SECONDS = 120.0
SAVE_SECONDS = 300.0  # a trainer may be in the middle of a visit, and then saves
STOP_SECONDS = 10.0
_CODE = str(Path(__file__).resolve().parents[1])


class NotReady(LabError):
    """One of them cannot be started, ended, or did not answer in time."""

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def bring_up(
    run: Run,
    train: bool,
    port: int | None,
    app_port: int | None,
    system_prompt: str | None,
    say: Callable[[str], None],
) -> int:
    """Start them, say of each when it answers, and wait for Ctrl-C; then stop all.

    Args:
        port: of the server, and `app_port` of the app; None: the usual one or any free one.

    Returns:
        The exit status: 0, or 1 when the server or the app ended by itself.

    Raises:
        ServerDidNotStart, AppDidNotStart: a port that was asked for is taken; nothing was started.
        NotReady: with the exit status of the one that ended; what was started is stopped again.
    """
    listening(LOOPBACK[0], port).close()
    choose_port(app_port)
    if train:
        _check_trainable(run)
    options = [] if port is None else [f"--port={port}"]
    options += [] if system_prompt is None else [f"--system-prompt={system_prompt}"]
    with Interrupts(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as interrupts:  # the last: the terminal was closed
        return _together(run, train, options, app_port, say, interrupts)


def _together(
    run: Run, train: bool, options: list[str], app_port: int | None, say: Callable[[str], None], interrupts: Interrupts
) -> int:
    children: dict[str, subprocess.Popen[bytes]] = {}
    patience = STOP_SECONDS  # with the trainer: until it trains it has nothing to save
    try:
        if train:
            known = _beginnings(run)
            trainer = children["trainer"] = _lab("resume", str(run.path), root=run.path.parent)
            _until(lambda: _trains(run, trainer, known), trainer, "the trainer", interrupts)
            patience = SAVE_SECONDS
            say(f"{run.name} {'stands still' if run.state() == 'held' else 'trains'}")
        server = children["server"] = _lab("serve", *options, "--", str(run.path), root=run.path.parent)
        _until(lambda: _is_own(run, server), server, "the server", interrupts)
        found = find(run.path)
        say(f"the server answers at {found.url if found else '?'}/v1")
        app = start(run.path.parent, app_port)
        children["app"] = app.process
        say(f"the app answers at {app.url}; Ctrl-C stops all")
        while True:
            time.sleep(0.2)
            interrupts.check()
            for name, process in list(children.items()):
                if process.poll() is None:
                    continue
                if name != "trainer":
                    say(f"the {name} ended with status {process.returncode}; stopping the rest")
                    return 1
                say(f"training has ended ({run.state()}); server and app go on")
                del children[name]
    except KeyboardInterrupt:
        say("stopping" + (": the trainer saves first" if "trainer" in children else ""))
        return 0
    finally:
        interrupts.ignore()
        _stop(children, patience)


def _check_trainable(run: Run) -> None:
    """Raises NotReady: exit 2, where training it would fail or be somebody else's."""
    holder, state = run.holder(), run.state()
    if holder is not None:
        raise NotReady(
            f"{run.name}: is in use already ({holder['purpose']}, by process {holder['pid']}). Leave --train out to serve "
            "it as it is, or stop that first.",
            2,
        )
    if state == "finished":
        raise NotReady(
            f"{run.name}: has finished training. Leave --train out, or first train it on: lab resume {run.name} "
            "--extend-to STEP.",
            2,
        )


def _lab(*arguments: str, root: Path) -> "subprocess.Popen[bytes]":
    environment = os.environ | {
        "LAB_RUNS": str(root),
        "PYTHONPATH": os.pathsep.join(filter(None, [_CODE, os.environ.get("PYTHONPATH")])),
    }
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "app.cli", *arguments], env=environment, stdin=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip


def _trains(run: Run, trainer: "subprocess.Popen[bytes]", known: int) -> bool:
    """Whether this trainer has everything in memory and goes on: from then on it reads the run's inbox."""
    holder: dict[str, Any] = run.holder() or {}
    return holder.get("pid") == trainer.pid and _beginnings(run) > known


def _beginnings(run: Run) -> int:
    """How often training went on, by its events; a run that begins saves its first weights instead."""
    saved = bool(list_checkpoints(run.checkpoints_folder))
    try:
        with run.records() as records:
            return sum(event.kind == "resume" for event in records.rows(Event)) + saved
    except RecordsMissing:
        return saved


def _is_own(run: Run, server: "subprocess.Popen[bytes]") -> bool:
    with contextlib.suppress(OSError):
        noted = (run.path / NOTE_FILE).read_text(encoding="utf8")
        return f'"pid": {server.pid},' in noted and find(run.path) is not None
    return False


def _until(true: Callable[[], bool], process: "subprocess.Popen[bytes]", name: str, interrupts: Interrupts) -> None:
    for _ in _ticks(READY_SECONDS):
        interrupts.check()
        if true():
            return
        if (status := process.poll()) is not None:
            raise NotReady(f"{name} ended with status {status} before it answered; it says why above.", max(1, status))
    raise NotReady(f"{name} did not answer within {READY_SECONDS:.0f} s. Is the machine very busy?")


def _ticks(seconds: float) -> Iterator[None]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(0.1)


def _stop(children: "dict[str, subprocess.Popen[bytes]]", patience: float) -> None:
    """All at once as Ctrl-C would, the app as it wants to be; for good where that does not help."""
    for name, process in children.items():
        if process.poll() is None:
            process.send_signal(signal.SIGTERM if name == "app" else signal.SIGINT)
    for name, process in children.items():
        try:
            process.wait(patience if name == "trainer" else STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
