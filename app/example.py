"""The example run that comes with the lab: unpacked into a folder of its own, to look at and to spoil.

`scripts/make_example.py` makes the archive. What is installed is never written to: it may be read-only, or shared.
"""

import contextlib
import os
import tempfile
import time
import zipfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

NAME = "example"
ARCHIVE = "example.zip"


def unpack(root: Path) -> Path:
    """Put the example run and its branches under `root`, which must exist; the run's path."""
    with resources.files("app").joinpath(ARCHIVE).open("rb") as file, zipfile.ZipFile(file) as archive:
        archive.extractall(root)
    run = root / NAME
    now = time.time()
    for database in root.glob("*/run.db"):  # the run that was written last is the one that an app shows first
        written = now if database.parent == run else now - 1
        os.utime(database, (written, written))
    return run


@contextlib.contextmanager
def copied() -> Iterator[Path]:
    """A root that holds a fresh copy, for as long as one is inside."""
    with tempfile.TemporaryDirectory(prefix="lab-example-", ignore_cleanup_errors=True) as folder:
        yield unpack(Path(folder)).parent
