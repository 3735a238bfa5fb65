"""The checkpoint that behaviour is compared with, and what it said: made once, kept in the run's `statistics/`."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lab.checkpoint import CheckpointInfo, is_log_milestone, list_checkpoints
from lab.durable import replace_file
from lab.run import Run
from train.conversations import Scene

LEAST_STEP = 512  # the reference's, unless configured: before, a model babbles, and everything is better than that


def reference_of(scene: Scene) -> CheckpointInfo | str:
    """`reference_at` of a scene."""
    return reference_at(scene.run, scene.step)


def reference_at(run: Run, step: int) -> CheckpointInfo | str:
    """The run's reference checkpoint as it can be had at this step, or in words why there is none.

    `reference.step`, else step 0 of imported weights, else the first milestone of at least 512; a run that is too short to
    have that one, or keeps no milestones, is compared with the oldest checkpoint there is.
    """
    config = run.config
    infos = sorted(list_checkpoints(run.checkpoints_folder), key=lambda info: info.step)
    wanted = config.reference.step
    if wanted is None and run.manifest.get("imported"):
        wanted = 0
    if wanted is None and config.checkpoint.log_spaced and config.train.steps >= LEAST_STEP:
        wanted = next(one for one in range(LEAST_STEP, 2 * LEAST_STEP) if is_log_milestone(one))
    if wanted is None and infos:
        wanted = infos[0].step
    if wanted is None or step < wanted:
        return f"the reference, step {wanted}, is still to come" if wanted else "there is no checkpoint yet"
    found = next((info for info in infos if info.step == wanted), None)
    return found or f"the checkpoint of step {wanted}, the reference, is not there"


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
