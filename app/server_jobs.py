"""Long work that is asked for over HTTP: verbs of the `lab` command as processes of their own, one at a time.

A kind is one of a closed list, and only where the command has that verb; its options are those of the verb that name no
file. Nothing is run through a shell. What a job found lies in the run, as if a person had typed the verb.
"""

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.server_errors import Missing
from app.server_job_progress import Progress, branch_of, progress_of
from app.server_queue import QueueFull, Stopping
from lab.errors import LabError
from lab.run import Run

# All that the verbs take, but what names a file (--html, --items, --conllu, --streusle) or could (--set).
KINDS: Mapping[str, frozenset[str]] = {
    "verify": frozenset({"entry", "text", "author", "step", "readings", "sentences", "quick"}),
    "bench": frozenset({"tasks", "limit", "step", "every_checkpoint", "with_reasons", "harness", "show"}),
    "freeze": frozenset(
        {"concept", "mode", "steps", "target", "twins", "layer", "when", "from_claim", "step", "fade_steps", "name"}
        | {"live", "wait"}
    ),
    "shimmer": frozenset({"concept", "task", "layer"}),
}
MOST_WAITING, MOST_REMEMBERED = 16, 100
MOST_OUTPUT = 1024 * 1024
LAST_LINES = 20
LONGEST_VALUE = 4096
_PATIENCE = 30.0  # seconds that a cancelled job has to leave by itself: a freeze saves what it has trained
CLOSING_SECONDS = 5.0  # that it has when the server is to end


class BadJob(LabError):
    """A kind that is none, or an option that its verb does not take."""


def verbs() -> dict[str, Any]:
    """The kinds whose verb the command line has, and the verb's parameters by name."""
    import typer.main

    from app.cli import app

    commands: Mapping[str, Any] = getattr(typer.main.get_command(app), "commands", {})
    return {kind: {p.name: p for p in commands[kind].params} for kind in KINDS if kind in commands}


def command_line(kind: str, run: Run, options: Mapping[str, Any]) -> list[str]:
    """The verb as a list of words.

    Whether a number is one, and in its bounds, the verb says itself, as it does to a person.

    Raises:
        BadJob: naming what is wrong and what would do.
    """
    known = verbs()
    if kind not in known:
        raise BadJob(f"{kind[:40]!r} is no kind of job. Kinds are: {', '.join(known) or 'none yet'}.")
    parameters = {name: one for name, one in known[kind].items() if name in KINDS[kind]}
    flags: list[str] = ["--json"] if "as_json" in known[kind] else []
    places = {"run": str(run.path)}
    for name, value in options.items():
        if name not in parameters:
            raise BadJob(
                f"{kind}: takes no {name[:40]!r}. Options of it are: {', '.join(sorted(parameters)) or 'none'}."
            )
        parameter = parameters[name]
        if getattr(parameter, "is_flag", False):
            if not isinstance(value, bool):
                raise BadJob(f"{kind}: {name} is yes or no. Use true or false.")
            flags += [parameter.opts[0]] if value else []
            continue
        for word in _words(kind, parameter, value):
            if parameter.param_type_name == "argument":
                places[name] = word
            else:
                flags.append(f"{parameter.opts[0]}={word}")
    ordered = [
        places[name] for name, one in known[kind].items() if one.param_type_name == "argument" and name in places
    ]
    return [sys.executable, "-P", "-m", "app.cli", kind, *flags, "--", *ordered]


def _words(kind: str, parameter: Any, value: Any) -> list[str]:
    several = value if isinstance(value, list) and parameter.multiple else [value]
    words = []
    for one in several:
        if isinstance(one, bool) or not isinstance(one, str | int | float):
            raise BadJob(
                f"{kind}: {parameter.name} must be a text or a number{', or a list of them' * parameter.multiple}."
            )
        word = str(one)
        if len(word) > LONGEST_VALUE or not all(c.isprintable() or c == "\n" for c in word):
            raise BadJob(f"{kind}: {parameter.name} must be printable and at most {LONGEST_VALUE} characters long.")
        words.append(word)
    return words


@dataclass
class Job:
    """One verb, asked for.

    Attributes:
        state: queued, running, done, failed or cancelled.
        branch: the run that a freeze makes, which is there once that is being trained; None of other jobs.
        progress: 0..1 as its lines say; None where they say nothing.
        lines: the last ones of its messages, oldest first.
        result: what it printed, as JSON where it is.
    """

    id: str
    kind: str
    run: str
    options: dict[str, Any]
    command: list[str] = field(repr=False)
    branch: str | None = None
    state: str = "queued"
    lines: "deque[str]" = field(default_factory=lambda: deque(maxlen=LAST_LINES))
    result: Any = None
    exit_code: int | None = None
    asked_at: float = field(default_factory=time.time)
    begun_at: float | None = None
    ended_at: float | None = None
    _progress: Progress = field(default_factory=Progress, repr=False)
    _future: "Future[None] | None" = field(default=None, repr=False)
    _process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def progress(self) -> float | None:
        return 1.0 if self.state == "done" else self._progress.share

    def to_json(self) -> dict[str, Any]:
        shown = {name: value for name, value in vars(self).items() if name != "command" and name[0] != "_"}
        return shown | {"lines": list(self.lines), "progress": self.progress}


class Jobs:
    """The jobs of one server."""

    def __init__(self, root: Path, most: int = MOST_WAITING) -> None:
        """Args: root: where runs lie, for the verbs."""
        self._root, self._most = root, most
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._stopping = False
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="job")

    def ask(self, kind: str, run: Run, options: Mapping[str, Any]) -> Job:
        """Put a job in line.

        Raises:
            BadJob, QueueFull
            Stopping: `stop` was called.
        """
        command = command_line(kind, run, options)
        job = Job(
            f"job-{secrets.token_hex(8)}", kind, run.name, dict(options), command, branch_of(kind, run.name, options)
        )
        job._progress = progress_of(kind, options)
        with self._lock:
            if self._stopping:
                raise Stopping
            if sum(one.state == "queued" for one in self._jobs.values()) >= self._most:
                raise QueueFull(f"{self._most} jobs wait already. Cancel one, or ask again later.")
            ended = [one.id for one in self._jobs.values() if one.ended_at is not None]
            for id in ended[: max(0, len(self._jobs) - MOST_REMEMBERED + 1)]:
                del self._jobs[id]
            self._jobs[job.id] = job
            job._future = self._pool.submit(self._run, job)
        return job

    def all(self) -> list[Job]:
        """Newest first."""
        with self._lock:
            return list(reversed(self._jobs.values()))

    def job(self, id: str) -> Job:
        """Raises Missing."""
        with self._lock:
            if id not in self._jobs:
                raise Missing(f"job {id[:60]!r} is not known to this server.")
            return self._jobs[id]

    def cancel(self, id: str) -> Job:
        """Take it out of the line, or interrupt it as Ctrl-C would; one that has ended stays as it is. Raises Missing."""
        job = self.job(id)
        with self._lock:
            if job.ended_at is None:
                job.state = "cancelled"
                if job._future is not None and job._future.cancel():
                    job.ended_at = time.time()
                elif job._process is not None:
                    _interrupt(job._process)
        return job

    def stop(self) -> None:
        """Cancel what there is, and take no more on."""
        with self._lock:
            self._stopping = True
        for job in self.all():
            self.cancel(job.id)

    def close(self) -> None:
        """`stop`, and wait for what runs; what does not end in a few seconds is killed."""
        self.stop()
        wait([job._future for job in self.all() if job._future is not None], CLOSING_SECONDS)
        for job in self.all():
            with self._lock:
                if job._process is not None:
                    _kill(job._process)
        self._pool.shutdown(wait=True)

    def _run(self, job: Job) -> None:
        try:
            with self._lock:
                if job.state == "cancelled":
                    return
                job.state, job.begun_at = "running", time.time()
                job._process = process = self._started(job)
            output = _Drain(process)
            assert process.stderr is not None
            for line in process.stderr:
                self._heard(job, line)
            job.exit_code = process.wait()
            job.result = output.value()
        except OSError as error:
            job.lines.append(f"could not be started: {error}")
        finally:
            with self._lock:
                if job.state != "cancelled":
                    job.state = "done" if job.exit_code == 0 else "failed"
                job._process, job.ended_at = None, time.time()

    def _started(self, job: Job) -> "subprocess.Popen[bytes]":
        environment = os.environ | {
            "LAB_RUNS": str(self._root),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(filter(None, [_code(), os.environ.get("PYTHONPATH")])),
        }
        return subprocess.Popen(  # a session of its own: the terminal's Ctrl-C is not meant for it
            job.command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip

    def _heard(self, job: Job, line: bytes) -> None:
        from app.verdict_text import visible

        text = visible(line.decode("utf8", errors="replace").strip())[:500]
        if text:
            job.lines.append(text)
            job._progress.hear(text)


class _Drain:
    """Reads what a process prints, to the end and beyond the bound, so that it never waits for us."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        self._stream, self._kept = process.stdout, bytearray()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while piece := self._stream.read(65_536):
            self._kept += piece[: max(0, MOST_OUTPUT - len(self._kept))]

    def value(self) -> Any:
        self._thread.join()
        with contextlib.suppress(ValueError):
            return json.loads(self._kept)
        return self._kept.decode("utf8", errors="replace") or None


def _interrupt(process: "subprocess.Popen[bytes]") -> None:
    def insist() -> None:
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGINT)
            process.wait(_PATIENCE)
            return
        _kill(process)

    threading.Thread(target=insist, daemon=True).start()


def _kill(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _code() -> str:
    return str(Path(__file__).resolve().parents[1])
