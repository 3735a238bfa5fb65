"""One writer per run: a lock of the operating system, and a file that says who holds it.

The file may outlive a killed holder; only the lock itself tells whether it is true.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.durable import replace_file
from lab.errors import LabError

LOCK, HOLDER = "run.lock", "holder.json"
TRAINING = ("train", "resume")  # how the purposes begin under which a run trains; others look after it for a moment
_PATIENCE = 0.5  # seconds; `holder` looks by holding a shared lock for an instant, which must not refuse a trainer
_UNKNOWN = {"pid": None, "host": None, "started": None, "purpose": "unknown"}


class RunLocked(LabError):
    """Someone else writes to the run."""


class HolderUnwritten(LabError):
    """The run is free, but it cannot be said who holds it: commands would not find a trainer that goes without."""

    exit_code = 1


@contextlib.contextmanager
def lock(run: Path, purpose: str) -> Iterator[None]:
    """Be the only writer of the run folder `run` while inside. Raises RunLocked, naming the holder; HolderUnwritten."""
    from filelock import FileLock, Timeout

    file = FileLock(run / LOCK, timeout=_PATIENCE, poll_interval=0.02, mode=0o600)
    try:
        file.acquire()
    except Timeout as error:
        raise RunLocked(_who(run)) from error
    except OSError as error:
        raise RunLocked(f"{run}: cannot be locked ({error}). Make the folder writable.") from error
    try:
        _say_who(run, purpose)
        yield
    finally:
        with contextlib.suppress(OSError):
            (run / HOLDER).unlink()  # before the release: afterwards it could be the next holder's
        file.release()


def holder(run: Path) -> dict[str, Any] | None:
    """pid, host, started (unix seconds) and purpose of who holds the lock now; None when nobody does."""
    import fcntl

    try:
        descriptor = os.open(run / LOCK, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except OSError:
        with contextlib.suppress(OSError, ValueError):
            found = json.loads((run / HOLDER).read_bytes())
            if isinstance(found, dict):
                return _UNKNOWN | found
        return dict(_UNKNOWN)  # between the lock and the file
    finally:
        os.close(descriptor)


def _say_who(run: Path, purpose: str) -> None:
    me = {"pid": os.getpid(), "host": os.uname().nodename, "started": time.time(), "purpose": purpose}
    try:
        replace_file(run / HOLDER, json.dumps(me).encode())
    except OSError as error:
        raise HolderUnwritten(
            f"{run}: nobody uses it, but {HOLDER} cannot be written there ({error.strerror or error}). Make room on the disk "
            "and see that the folder is writable; nothing was changed."
        ) from error


def _who(run: Path) -> str:
    who = holder(run) or _UNKNOWN
    since = who["started"]
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since)) if isinstance(since, int | float) else "unknown"
    return (
        f"{run}: is in use: {who['purpose']}, by process {who['pid']} on {who['host']} since {when}. "
        "Wait for it or stop it; reading works meanwhile."
    )
