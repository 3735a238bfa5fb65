"""What must be equal for two runs to be the same run: one hash over everything, piece by piece."""

import hashlib
import json
from pathlib import Path
from typing import Any

from lab import checkpoint
from lab.run import Run


def digest(run: Run, step: int | None = None) -> dict[str, str]:
    """sha256 of each piece of a checkpoint's state (the newest by default), the segment's number left out."""
    path = run.checkpoint_info(step).path
    state = checkpoint.load(path).state
    pieces: dict[str, Any] = {key: value for key, value in state.items() if key != "segment"}
    hashes = {
        key: hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest() for key, value in pieces.items()
    }
    return hashes | {file: _file(path / file) for file in ("model.safetensors", "optimizer.safetensors")}


def losses(run: Run) -> list[tuple[int, float]]:
    """(step, loss) of the run's present history."""
    with run.records() as records:
        return [(step, value) for _, step, value in records.series("train/loss", max_points=10**6)]


def _file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
