"""What happens to a checkpoint folder after it was saved: thinned, deleted, swept, quarantined. Each step survives a kill.

Only the holder of the run's lock calls these; which checkpoint deserves what is decided in `checkpoint`.
"""

import os
import shutil
import time
from pathlib import Path

from lab.checkpoint_format import MANIFEST, NAME, OPTIMIZER, CheckpointCorrupt, read_manifest, rendered_manifest
from lab.durable import replace_file, sync_folder, write_file

QUARANTINE, TEMPORARY, REPLACED = "quarantine", ".tmp-", ".replaced"


def keep_weights_only(path: Path) -> None:
    fields = read_manifest(path)
    if fields["files"].pop(OPTIMIZER, None) is not None:
        replace_file(path / MANIFEST, rendered_manifest(fields))  # first: a file that no manifest names harms nobody
    (path / OPTIMIZER).unlink(missing_ok=True)


def delete(path: Path) -> None:
    """Take the name away in one step, then the files, so that no half-deleted checkpoint is ever listed."""
    doomed = path.with_name(f"{TEMPORARY}{path.name}-{os.urandom(4).hex()}")
    os.rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what killed saves and deletions left, and give a set-aside checkpoint its name back if it has no successor."""
    for entry in list(os.scandir(folder)):
        path = folder / entry.name
        if entry.name.startswith(TEMPORARY):
            shutil.rmtree(path) if entry.is_dir(follow_symlinks=False) else path.unlink()
        elif NAME.fullmatch(entry.name) and entry.name.endswith(REPLACED):
            successor = folder / entry.name.removesuffix(REPLACED)
            if successor.exists():
                delete(path)
            else:
                os.rename(path, successor)


def quarantine(path: Path, error: CheckpointCorrupt) -> None:
    """Move a bad checkpoint out of the way, the reason in a file beside it; nothing is deleted."""
    quarantine = path.parent / QUARANTINE
    quarantine.mkdir(mode=0o700, exist_ok=True)
    place = quarantine / f"{path.name}-{time.strftime('%Y%m%dT%H%M%S')}-{os.urandom(2).hex()}"
    write_file(place.with_name(place.name + ".reason.txt"), f"{error}\n".encode())
    os.rename(path, place)
    sync_folder(path.parent)
