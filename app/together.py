"""Trainer, server and app of one run, started together and stopped together.

Each is a process of its own in a session of its own, so the terminal's Ctrl-C reaches only this one, which then stops them
in order: the trainer is asked to save first. Nothing is called ready before it has answered.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from app.launch import App, start
from app.server_process import find
from lab.errors import LabError
from lab.run import Run

READY_SECONDS = 120.0
SAVE_SECONDS = 300.0  # a trainer may be in the middle of a visit, and then saves
STOP_SECONDS = 10.0
_CODE = str(Path(__file__).resolve().parents[1])


class NotReady(LabError):
    """One of them ended, or did not answer in time."""

    exit_code = 1


def bring_up(run: Run, train: bool, options: list[str], app_port: int | None, say: Callable[[str], None]) -> int:
    """Start them, say of each when it answers, and wait for Ctrl-C; then stop all.

    Args:
        options: for `lab serve`.

    Returns:
        The exit status: 0, or 1 when the server or the app ended by itself.

    Raises:
        NotReady, AppDidNotStart: what was started is stopped again.
    """
    before = {number: signal.signal(number, _interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    trainer: subprocess.Popen[bytes] | None = None
    server: subprocess.Popen[bytes] | None = None
    app: App | None = None
    try:
        if train:
            trainer = _lab("resume", str(run.path), root=run.path.parent)
            _until(lambda: run.state() in ("training", "held"), trainer, "the trainer")
            say(f"{run.name} {'stands still' if run.state() == 'held' else 'trains'}")
        server = _lab("serve", *options, "--", str(run.path), root=run.path.parent)
        _until(lambda: _is_own(run, server), server, "the server")
        found = find(run.path)
        say(f"the server answers at {found.url if found else '?'}/v1")
        app = start(run.path.parent, app_port)
        say(f"the app answers at {app.url}; Ctrl-C stops all")
        while True:
            time.sleep(0.2)
            if trainer is not None and trainer.poll() is not None:
                say(f"training has ended ({run.state()}); server and app go on")
                trainer = None
            for name, process in (("server", server), ("app", app.process)):
                if process.poll() is not None:
                    say(f"the {name} ended with status {process.returncode}; stopping the rest")
                    return 1
    except KeyboardInterrupt:
        say("stopping" + (": the trainer saves first" if trainer is not None else ""))
        return 0
    finally:
        for number in before:
            signal.signal(number, signal.SIG_IGN)  # stopping is not to be stopped halfway
        _stop(trainer, SAVE_SECONDS)
        _stop(server, STOP_SECONDS)
        if app is not None:
            app.stop()
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _lab(*arguments: str, root: Path) -> "subprocess.Popen[bytes]":
    environment = os.environ | {
        "LAB_RUNS": str(root),
        "PYTHONPATH": os.pathsep.join(filter(None, [_CODE, os.environ.get("PYTHONPATH")])),
    }
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "app.cli", *arguments], env=environment, stdin=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip


def _is_own(run: Run, server: "subprocess.Popen[bytes] | None") -> bool:
    from app.server_process import NOTE_FILE

    with contextlib.suppress(OSError):
        noted = (run.path / NOTE_FILE).read_text(encoding="utf8")
        return server is not None and f'"pid": {server.pid}' in noted and find(run.path) is not None
    return False


def _until(true: Callable[[], bool], process: "subprocess.Popen[bytes]", name: str) -> None:
    for _ in _ticks(READY_SECONDS):
        if true():
            return
        if process.poll() is not None:
            raise NotReady(f"{name} ended with status {process.returncode} before it answered; see its output.")
    raise NotReady(f"{name} did not answer within {READY_SECONDS:.0f} s. Is the machine very busy?")


def _ticks(seconds: float) -> Iterator[None]:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(0.1)


def _stop(process: "subprocess.Popen[bytes] | None", patience: float) -> None:
    """As Ctrl-C would, and for good when that does not help."""
    if process is None or process.poll() is not None:
        return
    process.send_signal(signal.SIGINT)
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
