"""`lab doctor`: what this machine has and whether the runs are whole, in sentences. Changes nothing."""

import os
import platform
import shutil
import socket
import sqlite3
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from lab import checkpoint, checkpoint_format
from lab.checkpoint_upkeep import QUARANTINE, REPLACED
from lab.errors import LabError
from lab.run import Run, default_root
from lab.run_folder import run_names

PACKAGES = (
    "brightwoven-lab",
    "torch",
    "transformer-lens",
    "streamlit",
    "tokenizers",
    "tiktoken",
    "safetensors",
    "sqlalchemy",
)


@dataclass(frozen=True)
class Finding:
    name: str
    ok: bool
    text: str


def examine() -> list[Finding]:
    """Every check, in the order in which a first issue is usually solved."""
    root = default_root()
    return [*machine(root), _device(), *(of_run(root, name) for name in run_names(root))]


def machine(root: Path) -> list[Finding]:
    """What this machine has, but for the device, which only torch can tell: quick, and loads no torch."""
    return [
        Finding("python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *(_package(name) for name in PACKAGES),
        _sqlite(),
        _disk(root),
        _writable(root),
        _port(8501),
    ]


def _package(name: str) -> Finding:
    try:
        return Finding(name, True, metadata.version(name))
    except metadata.PackageNotFoundError:
        return Finding(name, False, "is not installed. Run: pip install brightwoven-lab")


def _device() -> Finding:
    import torch

    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 1e9
        return Finding("device", True, f"{torch.cuda.get_device_name(0)}, {memory:.1f} GB")
    return Finding("device", True, f"CPU, {os.cpu_count()} cores (no CUDA device found)")


def _sqlite() -> Finding:
    return Finding("sqlite", True, f"{sqlite3.sqlite_version}, one writer per run, so its WAL-reset bug cannot occur")


def free_bytes(root: Path) -> int | None:
    """What is free where the runs lie, or would; None where it cannot be asked."""
    try:
        return shutil.disk_usage(next(place for place in (root, *root.absolute().parents) if place.exists())).free
    except OSError:
        return None


def _disk(root: Path) -> Finding:
    free = free_bytes(root)
    if free is None:
        return Finding("disk", False, f"how much is free for {root} cannot be asked")
    return Finding("disk", free > 2e9, f"{free / 1e9:.1f} GB free for {root}" + ("" if free > 2e9 else ": make room"))


def _writable(root: Path) -> Finding:
    there = next(place for place in (root, *root.absolute().parents) if place.exists())
    ok = os.access(there, os.W_OK)
    return Finding(
        "runs folder", ok, f"{root.absolute()}" + ("" if ok else " cannot be written. Set LAB_RUNS to one that can")
    )


def _port(port: int) -> Finding:
    with socket.socket() as probe:
        taken = probe.connect_ex(("127.0.0.1", port)) == 0
    return Finding("port", True, f"{port} is {'taken; use lab app --port' if taken else 'free for lab app'}")


def of_run(root: Path, name: str) -> Finding:
    """Whether the run opens, its configuration and records can be read, and every checkpoint is what was saved."""
    title = f"run {name}"
    try:
        run = Run.open(root / name)
        _ = run.config  # read when first asked for
        with run.records() as records:
            steps, problems = records.newest("train/loss"), records.problems()
        folder = run.checkpoints_folder
        damaged = [wrong for path in _checkpoints(folder) if (wrong := _damage(path))]
        info, state = checkpoint.newest_valid(folder), run.state()
        aside = len(_folders(folder / QUARANTINE))
    except (LabError, OSError) as error:
        return Finding(title, False, str(error))
    recorded = f"records to step {steps[0]}" if steps else "no records yet"
    newest = f"newest valid checkpoint at step {info.step}" if info else _none_whole(folder, bool(damaged or aside))
    said = [state, recorded, newest]
    if aside:
        said.append(
            f"{aside} damaged {'checkpoint' if aside == 1 else 'checkpoints'} put aside in {folder / QUARANTINE}"
        )
    said += [f"checkpoint does not verify: {wrong}" for wrong in damaged]
    if problems:
        said.append(f"{run.database} is damaged: {'; '.join(problems[:3])}. Restore it from a copy")
    return Finding(title, not damaged and not problems and not (aside and info is None), ", ".join(said))


def _none_whole(folder: Path, harmed: bool) -> str:
    """What there is where training cannot go on from any checkpoint; `harmed`: one is damaged, or was put aside."""
    bare = [info.step for info in checkpoint.list_checkpoints(folder) if not info.has_optimizer]
    if bare:
        count = f"{len(bare)} checkpoint{'s' if len(bare) > 1 else ''} of weights alone, newest at step {max(bare)}"
        return f"{count}: can be read, not resumed from"
    return "no checkpoint that can be resumed from" if harmed else "no checkpoint yet"


def _checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, ascending; one that was set aside counts only while its successor is missing."""
    names = [name for name in _folders(folder) if checkpoint_format.NAME.fullmatch(name)]
    return [folder / name for name in names if not (name.endswith(REPLACED) and name.removesuffix(REPLACED) in names)]


def _folders(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint; looked at twice, since a trainer may have thinned or deleted it meanwhile."""
    for attempt in range(2):
        try:
            checkpoint_format.verified_manifest(path)
            return None
        except checkpoint.CheckpointCorrupt as error:
            if attempt:
                return f"{path.name}/{error.file.name} {error.wrong}" if path.exists() else None
    return None
