"""`lab doctor`: what this machine has and whether the runs are whole, in sentences. Changes nothing."""

import os
import platform
import shutil
import socket
import sqlite3
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from lab import checkpoint
from lab.errors import LabError
from lab.run import Run, default_root

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
    return [
        Finding("python", True, f"{platform.python_version()} on {platform.system()} {platform.machine()}"),
        *(_package(name) for name in PACKAGES),
        _device(),
        _sqlite(),
        _disk(root),
        _writable(root),
        _port(8501),
        *(_run(run) for run in Run.ls(root)),
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


def _disk(root: Path) -> Finding:
    there = next(place for place in (root, *root.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
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


def _run(run: Run) -> Finding:
    """Whether the newest checkpoint verifies and the records open."""
    try:
        info = checkpoint.newest_valid(run.checkpoints_folder)
        with run.records() as records:
            steps = records.newest("train/loss")
    except LabError as error:
        return Finding(f"run {run.name}", False, str(error))
    recorded = f"records to step {steps[0]}" if steps else "no records yet"
    saved = f"newest valid checkpoint at step {info.step}" if info else "no checkpoint yet"
    return Finding(f"run {run.name}", True, f"{run.state()}, {recorded}, {saved}")
