"""The checkpoint that behaviour is compared with, and what it said: made once, kept in the run's `statistics/`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab.checkpoint import CheckpointInfo, list_checkpoints
from lab.durable import replace_file
from lab.run import Run

LEAST_STEP = 512  # the last log-spaced milestone: before it a model babbles, and everything is better than that


def reference_at(run: Run, step: int, or_oldest: bool = True) -> CheckpointInfo | str:
    """The run's reference checkpoint as it can be had at this step, or in words why there is none.

    `reference.step`, else step 0 of imported weights, else the milestone 512.

    Args:
        or_oldest: a run that is too short to have that milestone, or keeps none, is compared with the oldest checkpoint
            there is. For comparisons that may be read at any reference; a rate of loops may not: an untrained model draws
            almost uniformly and never loops, so that every model would seem to loop too much.
    """
    config = run.config
    infos = sorted(list_checkpoints(run.checkpoints_folder), key=lambda info: info.step)
    wanted = config.reference.step
    if wanted is None and run.manifest.get("imported"):
        wanted = 0
    if wanted is None and config.checkpoint.log_spaced and max(config.train.steps, step) >= LEAST_STEP:
        wanted = LEAST_STEP
    if wanted is None and infos and or_oldest:
        wanted = infos[0].step
    if wanted is None or step < wanted:
        return f"the reference, step {wanted}, is still to come" if wanted else "there is no checkpoint yet"
    found = next((info for info in infos if info.step == wanted), None)
    return found or f"the checkpoint of step {wanted}, the reference, is not there"


def earlier_reference(run: Run, step: int) -> CheckpointInfo | None:
    """The reference checkpoint that a rate at this step is compared with: one before it, and never the merely oldest."""
    found = reference_at(run, step, or_oldest=False)
    return None if isinstance(found, str) or found.step >= step else found


def remembered(file: Path, key: str, make: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What the file holds under this key, else what `make` gives, written there. A damaged file is made anew."""
    with contextlib.suppress(OSError, ValueError):
        stored = json.loads(file.read_text(encoding="utf8"))
        if isinstance(stored, dict) and stored.get("key") == key:
            return list(stored["samples"])
    samples = make()
    file.parent.mkdir(exist_ok=True)
    replace_file(file, json.dumps({"key": key, "samples": samples}).encode())
    return samples
