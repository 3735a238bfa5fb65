"""Checkpoints that a kill, a full disk or a flipped bit cannot turn into a silent loss.

A checkpoint is a folder of safetensors and JSON that appears under its name only when every byte of it is on disk:
temporary folder → files, each fsynced → manifest with their sha256 → fsync → rename → fsync of the parent → LATEST.
Loading checks every sha256 before a single number is used, because safetensors alone loads a flipped data bit silently
(100 of 100 in our check). No pickle. Writing functions are for the holder of the run's lock; reading ones move nothing
unless told to repair. Importing this module does not import torch.
"""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import state_json
from lab.checkpoint_format import (
    FORMAT,
    MANIFEST,
    MOST_STEPS,
    NAME,
    OPTIMIZER,
    STATE,
    WEIGHTS,
    CheckpointCorrupt,
    CheckpointInfo,
    WeightsOnly,
    info_of,
    measured,
    name_of,
    opened,
    parse_tensors,
    read_files,
    read_manifest,
    rendered_manifest,
    require_size,
    unshared,
    verified_manifest,
    write_tensors,
)
from lab.checkpoint_upkeep import REPLACED, TEMPORARY, delete, keep_weights_only, quarantine, sweep
from lab.durable import replace_file, sync_folder, write_file
from lab.errors import LabError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Checkpoint",
    "CheckpointCorrupt",
    "CheckpointInfo",
    "CheckpointNotSaved",
    "NotEnoughDisk",
    "WeightsOnly",
    "is_log_milestone",
    "list_checkpoints",
    "load",
    "name_of",
    "newest_first",
    "newest_valid",
    "point_latest",
    "read_weights",
    "rotate",
    "save",
]
LATEST = "LATEST"


class CheckpointNotSaved(LabError):
    """Writing a checkpoint failed; the earlier ones are untouched."""


class NotEnoughDisk(CheckpointNotSaved):
    """The disk has less than twice the size of the checkpoint (or ran full meanwhile)."""


@dataclass(frozen=True)
class Checkpoint:
    info: CheckpointInfo
    weights: "dict[str, Tensor]"
    optimizer: "dict[str, Tensor]"
    state: dict[str, Any]


def is_log_milestone(step: int) -> bool:
    """Steps 0, 1, 2, 4, …, 512: early training changes fast, so its checkpoints are log-spaced (as Pythia's are)."""
    return step == 0 or (0 < step <= 512 and step & (step - 1) == 0)


def save(
    folder: Path,
    step: int,
    weights: "Mapping[str, Tensor]",
    optimizer: "Mapping[str, Tensor] | None",
    state: Mapping[str, Any],
    healthy: bool = True,
) -> CheckpointInfo:
    """Write checkpoint `step` under `folder`, durable when this returns, and point LATEST at it.

    A step that exists with the same bytes is left alone; with other bytes it is replaced, and at every moment one of
    the two is whole on disk. Tensors that share memory come back as one tensor when they were the same view, else as
    equal copies. Call it as the holder of the run's lock: leftovers of killed saves are swept.

    Args:
        optimizer: None writes weights only; an empty mapping is a complete state of an optimizer that has none.
        state: see `state_json.encode`; its `config_hash` and `segment` are repeated in the manifest.
        healthy: False marks weights that training should not go on from; non-finite weights are marked in any case.

    Raises:
        NotEnoughDisk: before anything is written, when less than twice the size is free.
        CheckpointNotSaved: the disk refused; nothing is left behind.
        UnsavableState: `state` holds something that could not be given back exactly.
    """
    import torch
    from safetensors import SafetensorError

    name = name_of(step)
    tensors = {WEIGHTS: unshared(weights)} | ({} if optimizer is None else {OPTIMIZER: unshared(optimizer)})
    state_bytes = state_json.encode(state)
    config_hash, segment = state.get("config_hash"), state.get("segment")
    healthy = healthy and all(
        bool(torch.isfinite(t).all()) for t in tensors[WEIGHTS][0].values() if t.is_floating_point()
    )
    size = len(state_bytes) + sum(t.nbytes for kept, _ in tensors.values() for t in kept.values())
    _require_disk(folder, step, size)

    temporary = folder / f"{TEMPORARY}{name}-{os.getpid()}-{os.urandom(4).hex()}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        sweep(folder)
        temporary.mkdir(mode=0o700)
        for file, (kept, aliases) in tensors.items():
            write_tensors(temporary / file, kept, aliases)
        write_file(temporary / STATE, state_bytes)
        fields = {
            "format": FORMAT,
            "step": step,
            "healthy": healthy,
            "saved_at": time.time(),
            "config_hash": config_hash if isinstance(config_hash, str) else None,
            "segment": segment if type(segment) is int else None,
            "files": {file: measured(temporary / file) for file in (*tensors, STATE)},
        }
        write_file(temporary / MANIFEST, rendered_manifest(fields))
        sync_folder(temporary)
        _publish(temporary, folder / name, fields)
        point_latest(folder, step)
    except (OSError, SafetensorError) as error:
        full = (isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT)) or "os error 28" in str(error)
        kind = NotEnoughDisk if full else CheckpointNotSaved
        raise kind(
            f"{folder / name}: the checkpoint could not be written ({error}). Earlier checkpoints are untouched; "
            "make room or make the folder writable, then save again."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return info_of(folder / name, read_manifest(folder / name))


def point_latest(folder: Path, step: int) -> None:
    """Make `step` the checkpoint that resuming starts from: after a save, and when a run is rewound to it."""
    replace_file(folder / LATEST, (name_of(step) + "\n").encode())


def _require_disk(folder: Path, step: int, size: int) -> None:
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(there).free
    if free < 2 * size:
        raise NotEnoughDisk(
            f"{folder / name_of(step)}: saving needs 2 × {size / 1e6:,.1f} MB free, but the disk has {free / 1e6:,.1f} MB. "
            "Nothing was written. Free some space (exports and old runs are the largest), then save again."
        )


def _publish(temporary: Path, target: Path, fields: Mapping[str, Any]) -> None:
    """Rename the finished folder to its name. While it replaces another, that one stays whole as `….replaced`."""
    aside = target.with_name(target.name + REPLACED)
    if target.exists():
        try:
            there = verified_manifest(target)
        except CheckpointCorrupt as error:
            quarantine(target, error)
        else:
            if all(there[key] == fields[key] for key in ("files", "healthy")):
                return
            os.rename(target, aside)
    os.rename(temporary, target)
    sync_folder(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def load(path: Path, optimizer: bool = True) -> Checkpoint:
    """Read a checkpoint, every sha256 checked before anything is used.

    Raises:
        CheckpointCorrupt: naming the file that differs from what was saved.
        WeightsOnly: `optimizer` is wanted, but this is a superseded milestone.
    """
    fields, contents = read_files(path, WEIGHTS, STATE, *([OPTIMIZER] if optimizer else []))
    try:
        state = state_json.decode(contents[STATE])
    except (
        ValueError,
        KeyError,
        TypeError,
    ) as error:  # its hash is right, so it was written so: a foreign or newer writer
        raise CheckpointCorrupt(path / STATE, f"is no state that this version can read ({error})") from error
    weights = parse_tensors(path / WEIGHTS, contents[WEIGHTS])
    moments = parse_tensors(path / OPTIMIZER, contents[OPTIMIZER]) if optimizer else {}
    return Checkpoint(info_of(path, fields), weights, moments, state)


def read_weights(path: Path) -> "dict[str, Tensor]":
    """The weights alone, verified. Raises CheckpointCorrupt as `load` does."""
    return parse_tensors(path / WEIGHTS, read_files(path, WEIGHTS)[1][WEIGHTS])


def list_checkpoints(folder: Path) -> list[CheckpointInfo]:
    """Every checkpoint whose manifest is whole and whose files have the right sizes, ascending by step; hashes unread."""
    return [info for info, _ in _scan(folder) if info is not None]


def newest_first(folder: Path) -> list[CheckpointInfo]:
    """Checkpoints in the order in which resuming tries them.

    From LATEST downwards; those beyond it come last: they belong to a history that a rewind left, or to a save that was
    killed before it was acknowledged. Without a readable LATEST simply descending.
    """
    latest = _latest(folder)
    return sorted(list_checkpoints(folder), key=lambda info: (info.step > latest, -info.step))


def newest_valid(folder: Path, *, repair: bool = False) -> CheckpointInfo | None:
    """The newest checkpoint with optimizer state whose every sha256 is right; healthy ones before unhealthy ones.

    Args:
        repair: only for the holder of the run's lock. Moves invalid checkpoints to `quarantine/` with the reason beside
            them, sweeps what killed saves left, and points LATEST at the result. Without it nothing is touched.
    """
    if repair and folder.is_dir():
        sweep(folder)
        for _, error in _scan(folder):
            if error is not None:
                quarantine(error.file.parent, error)
    full = [info for info in newest_first(folder) if info.has_optimizer]
    for info in sorted(full, key=lambda info: not info.healthy):  # a stable sort: newest first within each
        try:
            verified_manifest(info.path)
        except CheckpointCorrupt as error:
            if repair:
                quarantine(info.path, error)
            continue
        if repair and info.step != _latest(folder):
            point_latest(folder, info.step)
        return info
    return None


def _scan(folder: Path) -> list[tuple[CheckpointInfo | None, CheckpointCorrupt | None]]:
    """Each checkpoint folder, ascending: what it is, or what is wrong with it as far as names and sizes tell."""
    found: list[tuple[CheckpointInfo | None, CheckpointCorrupt | None]] = []
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []
    for name in names:
        # `….replaced` counts only while its successor has not taken the name
        if not NAME.fullmatch(name) or (name.endswith(REPLACED) and name.removesuffix(REPLACED) in names):
            continue
        path = folder / name
        try:
            fields = read_manifest(path)
            for file, entry in fields["files"].items():
                with opened(path / file) as descriptor:
                    require_size(path / file, os.fstat(descriptor).st_size, entry["bytes"])
            found.append((info_of(path, fields), None))
        except CheckpointCorrupt as error:
            found.append((None, error))
    return found


def _latest(folder: Path) -> int:
    try:
        match = NAME.fullmatch((folder / LATEST).read_text("ascii").strip())
    except (OSError, ValueError):
        match = None
    return int(match[1]) if match else MOST_STEPS  # a pointer is a hint: without it the highest step is the newest


def rotate(folder: Path, keep: int, milestones: Callable[[int], bool]) -> list[Path]:
    """Keep the newest `keep` checkpoints and, of older ones, the milestones as weights only; delete the rest.

    The newest healthy checkpoint is never touched, whatever its age, nor is the newest healthy one that training can
    resume from. A kill at any moment leaves each checkpoint whole, thinned or gone.

    Args:
        keep: at least 2, so that one flipped bit never costs the only one.
        milestones: says of a step whether its weights stay; `is_log_milestone`, or that and the reference step.

    Returns:
        The folders that were deleted.
    """
    if keep < 2:
        raise LabError(f"{folder}: keep = {keep}, but with one checkpoint a single flipped bit loses the run. Use ≥ 2.")
    infos = newest_first(folder)
    full = [info for info in infos if info.has_optimizer]
    spared = {info.path for info in full[:keep]}
    for among in (infos, full):
        spared.update(info.path for info in [info for info in among if info.healthy][:1])
    deleted = []
    for info in infos:
        if info.path in spared:
            continue
        if milestones(info.step):
            keep_weights_only(info.path)
        else:
            delete(info.path)
            deleted.append(info.path)
    return deleted
