"""Running the `lab` command in tests: in this process, where it is quick, or as a process of its own."""

import contextlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from app.cli import main

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def lab(*arguments: str, runs: Path) -> Done:
    """The command in this process: what it prints and how it exits. Real processes cost 4 s each; a few tests use them."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    before = sys.argv, dict(os.environ)
    sys.argv = ["lab", *arguments]
    os.environ["LAB_RUNS"] = str(runs)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as leave:
        code = int(leave.code or 0)
    finally:
        sys.argv = before[0]
        os.environ.clear()
        os.environ.update(before[1])
    return Done(code, out.getvalue(), err.getvalue())


def real_lab(*arguments: str, runs: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), env=environment(runs), capture_output=True, text=True, timeout=240)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "app.cli", *arguments]


def environment(runs: Path) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    return kept | {
        "LAB_RUNS": str(runs),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "TOKENIZERS_PARALLELISM": "false",
    }
