"""What several verbs of the `lab` command do alike: find the run, show progress, write one file, refuse what cannot be done.

Data goes to stdout, progress to stderr: a bar on a terminal, plain lines elsewhere.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from lab.errors import LabError

if TYPE_CHECKING:
    from lab.run import Run

Report = Callable[[str, float], None]


class BadRequest(LabError):
    """Options that do not go together, or a value that cannot be used."""


def find_run(reference: str) -> "Run":
    """The run that a path, a unique beginning of a name, or `latest` stands for."""
    from lab.run import Run, default_root

    return Run.find(reference, default_root())


def check_writable(path: Path | None) -> None:
    """Before minutes of measuring, not after them."""
    import os

    if path is None:
        return
    if path.is_dir():
        raise BadRequest(f"--html {path}: is a folder. Name a file in it.")
    if not path.parent.is_dir():
        raise BadRequest(f"--html {path}: there is no folder {path.parent}. Make it first.")
    if not os.access(path.parent, os.W_OK):
        raise BadRequest(f"--html {path}: the folder {path.parent} cannot be written to. Name another place.")


def write_file(path: Path, text: str) -> None:
    from lab.durable import replace_file

    try:
        replace_file(path, text.encode("utf8"))
    except OSError as error:
        raise BadRequest(
            f"--html {path}: cannot be written ({error.strerror or error}). Name another place."
        ) from error
    typer.echo(f"wrote {path}", err=True)


@contextlib.contextmanager
def progress() -> Iterator[Report]:
    """Reports of (what is being done, share of it that is done) on stderr."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns: tuple[Any, ...] = (TextColumn("{task.description}", markup=False), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("beginning", total=1.0)
            yield lambda what, share: bar.update(task, description=_one_line(what), completed=share)
        return
    said: set[tuple[str, int]] = set()

    def line(what: str, share: float) -> None:
        if (what, int(4 * share)) not in said:  # a log wants a line a quarter, not one a batch
            said.add((what, int(4 * share)))
            typer.echo(f"{_one_line(what)}: {share:.0%}", err=True)

    yield line


def _one_line(what: str) -> str:
    """What is being done may quote a claim, and that is a stranger's text."""
    from app.verdict_text import visible

    return " ".join(visible(what).split())
