"""What a pause leaves behind: one folder of evidence, whole or not there.

`evidence/bundle-<step>-<rule>/bundle.json` holds everything that made a rule fire, and the sha256 that the weights have in
the checkpoint of that step, so that the two can be told to belong together.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.checkpoint_format import measured, unshared, write_tensors
from lab.durable import sync_folder, write_file
from lab.model import GPT
from lab.run import Run
from probes.behaviour.findings import finite

FILE = "bundle.json"


def keep(run: Run, step: int, rule: str, segment: int, model: GPT, content: Mapping[str, Any]) -> Path:
    """Write a bundle, durable when this returns. A rewound run that comes by again gets a second one, with its segment.

    Args:
        content: JSON; what is not finite becomes null.

    Raises:
        OSError: the disk refused; nothing is left behind.
    """
    run.evidence.mkdir(mode=0o700, exist_ok=True)
    folder = run.evidence / f"bundle-{step:09d}-{rule}"
    if folder.exists():
        folder = folder.with_name(f"{folder.name}-segment-{segment}")
    made = run.evidence / f".tmp-{folder.name}-{os.urandom(4).hex()}"
    try:
        made.mkdir(mode=0o700)
        checkpoint = {"step": step, "weights_sha256": _weights_sha256(model, made / "model.safetensors")}
        whole = finite({**content, "rule": rule, "step": step, "segment": segment, "checkpoint": checkpoint})
        write_file(made / FILE, json.dumps(whole, sort_keys=True, indent=1).encode())
        sync_folder(made)
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(folder)  # this very segment has been here: its process was killed before it was saved
        os.rename(made, folder)
        sync_folder(run.evidence)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return folder


def _weights_sha256(model: GPT, place: Path) -> str:
    """What `checkpoint.save` gives the file of these weights: written the same way, measured, and taken away again."""
    write_tensors(place, *unshared(model.state_dict()))
    digest: str = measured(place)["sha256"]
    place.unlink()
    return digest
