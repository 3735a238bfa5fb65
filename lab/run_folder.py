"""What a run folder holds and what its manifest says; which folders are runs. `run` builds on it."""

import contextlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.errors import LabError

if TYPE_CHECKING:
    from lab.config import RunConfig

FORMAT = 1
CONFIG, MANIFEST, DATABASE = "config.toml", "manifest.json", "run.db"
FOLDERS = ("checkpoints", "concepts", "evidence", "inbox", "journal", "logs", "statistics")
_PACKAGES = (
    "brightwoven-lab",
    "torch",
    "transformer-lens",
    "numpy",
    "safetensors",
    "tokenizers",
    "tiktoken",
    "sqlalchemy",
)
_STALE_SECONDS = 3600  # a temporary folder this old belongs to a creation that was killed


class RunMissing(LabError):
    """No run of that name."""


class NotARun(LabError):
    """A folder that no run made, or that was copied halfway."""


class RunBroken(LabError):
    """A run whose manifest or configuration is damaged, or newer than this version."""


class RunExists(LabError):
    """The name is taken."""


def written_at(path: Path) -> float | None:
    """Unix seconds of the newest write to a database, from the files' times; None without one.

    The log beside it is younger while a writer lives. An empty one tells nothing: a reader makes it, too.
    """
    times = []
    for file in (path, path.with_name(path.name + "-wal")):
        with contextlib.suppress(OSError):
            status = file.stat()
            if status.st_size or file == path:
                times.append(status.st_mtime)
    return max(times, default=None)


def run_names(root: Path) -> list[str]:
    """Folders under `root` that look like runs, ascending."""
    try:
        entries = [entry.name for entry in os.scandir(root) if not entry.name.startswith(".") and entry.is_dir()]
    except OSError:
        return []
    return sorted(name for name in entries if (root / name / MANIFEST).is_file())


def sweep(root: Path) -> None:
    for entry in os.scandir(root):
        if entry.name.startswith(".tmp-") and time.time() - entry.stat(follow_symlinks=False).st_mtime > _STALE_SECONDS:
            shutil.rmtree(root / entry.name, ignore_errors=True)


def read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    try:
        manifest = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise RunBroken(f"{file}: cannot be read ({error}). Restore it from a copy of the run.") from error
    if not isinstance(manifest, dict) or not isinstance(manifest.get("format"), int):
        raise NotARun(f"{file}: is no manifest of a run. Point to a folder that `lab train` made.")
    if manifest["format"] > FORMAT:
        raise RunBroken(
            f"{path}: was made by a newer lab (run format {manifest['format']}; this one knows {FORMAT}). "
            "Update brightwoven-lab."
        )
    return manifest


def new_manifest(config: "RunConfig") -> dict[str, Any]:
    import importlib.metadata  # these take 30 ms, and only making a run needs them
    import platform
    import sqlite3

    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "format": FORMAT,
        "created_at": time.time(),
        "preset": config.preset,
        "seed": config.train.seed,
        "config_hash": config.hash(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "platform": platform.platform(),
        "packages": versions,
        "git": _git(),
        "data": {},  # hashes of the corpus, filled in when it was prepared
    }


def _git() -> dict[str, Any] | None:
    """The commit that the working directory is at, and whether it has changes; None outside a repository."""
    import subprocess

    try:
        commit, status = (
            subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=5, check=True).stdout
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.strip(), "changed": bool(status.strip())}


def as_json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()
