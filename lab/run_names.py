"""Names of runs and of what lies in them: which are allowed, and how one becomes a path that stays inside its folder."""

import os
import re
from pathlib import Path

from lab.errors import LabError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}


class BadName(LabError):
    """A name that is not allowed, or that leads out of its folder."""


def default_root() -> Path:
    """Where runs lie: $LAB_RUNS, else ./runs."""
    return Path(os.environ.get("LAB_RUNS") or "runs")


def check_name(name: str) -> str:
    """`name`, if a run may be called so. Raises BadName."""
    rule = "Use 1 to 64 of a-z, 0-9, '.', '_', '-', the first a letter or digit."
    if not _NAME.fullmatch(name):
        raise BadName(f"run name {name[:80]!r}: is not allowed. {rule}")
    if ".." in name or name.endswith("."):
        raise BadName(f"run name {name!r}: has '..' or a dot at its end. {rule}")
    if name.split(".")[0] in _DEVICES or name == "latest":
        raise BadName(f"run name {name!r}: is reserved. Choose another.")
    return name


def resolve_inside(root: Path, name: str) -> Path:
    """The path `root/name`, links followed, if it lies inside `root`; it need not exist.

    The one gate for every path that comes from outside: names with '..', absolute ones, and links that lead out are
    refused here and nowhere else.

    Args:
        name: one or several parts separated by '/'.

    Raises:
        BadName
    """
    parts = name.split("/")
    if not name or "\0" in name or "\\" in name or any(part in ("", ".", "..") for part in parts):
        raise BadName(f"{root}: {name[:80]!r} is no name of something inside it. Use plain names separated by '/'.")
    base = Path(os.path.realpath(root))
    try:
        path = Path(os.path.realpath(base / name))
        inside = path != base and path.is_relative_to(base)
        path.exists()  # raises where a part is too long for the disk
    except (OSError, ValueError) as error:
        raise BadName(f"{root}: {name[:80]!r} cannot be a name there ({error}).") from error
    if not inside:
        raise BadName(f"{root}: {name[:80]!r} leads out of it, to {path}. Use something that lies inside.")
    return path


def suggestion(name: str, names: list[str]) -> str:
    """The end of an error about a name that does not exist: the nearest ones, or the first few, or how to begin."""
    import difflib

    near = difflib.get_close_matches(name, names, n=3)
    if near:
        return f" Did you mean {' or '.join(near)}?"
    if names:
        return f" There are: {', '.join(names[:8])}{', …' if len(names) > 8 else ''}."
    return " There are no runs there yet. Start one: lab demo"
