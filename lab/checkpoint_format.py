"""The format of one checkpoint folder: names, manifest, verified reading, tensor files. Importing it imports no torch.

The manifest vouches for the other files and for itself; nothing is parsed before its sha256 was found right. Folders may
come from strangers: no pickle, no links followed, no file but the three that the format knows.
"""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lab.errors import LabError

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
WEIGHTS, OPTIMIZER, STATE, MANIFEST = "model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"
MOST_STEPS = 999_999_999  # nine digits in the name, so that names sort as steps do
NAME = re.compile(r"step-(\d{9})(?:\.replaced)?")
_ALIASES = "aliases"  # safetensors metadata: {name that was left out: name of the same tensor}


class CheckpointCorrupt(LabError):
    """A file of a checkpoint is not what was saved."""

    def __init__(self, file: Path, wrong: str) -> None:
        self.file, self.wrong = file, wrong
        super().__init__(
            f"{file}: {wrong}. Nothing of this checkpoint was used. Resuming falls back to the newest valid one; "
            "to keep this one, copy its folder again from where it was whole."
        )

    def __reduce__(self) -> tuple[type[Self], tuple[Path, str]]:
        """Made again from both, not from the message: it crosses from the processes of `lab probe --all --jobs`."""
        return type(self), (self.file, self.wrong)


class WeightsOnly(LabError):
    """Training cannot go on from here: the optimizer's state was dropped when the milestone was superseded."""


@dataclass(frozen=True)
class CheckpointInfo:
    """What a manifest says, without reading the weights."""

    path: Path
    step: int
    bytes: int
    has_optimizer: bool
    healthy: bool  # every weight was finite when it was saved
    saved_at: float  # unix seconds
    weights_sha256: str
    config_hash: str | None  # `config_hash` and `segment` of the saved state, when it had them
    segment: int | None


def name_of(step: int) -> str:
    if not 0 <= step <= MOST_STEPS:
        raise LabError(f"step {step} has no checkpoint name. Steps are 0..{MOST_STEPS}.")
    return f"step-{step:09d}"


def unshared(tensors: "Mapping[str, Tensor]") -> "tuple[dict[str, Tensor], dict[str, str]]":
    """Contiguous tensors of which no two share memory, and {name left out: name of the very same view}."""
    kept: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    views: dict[tuple[object, ...], str] = {}
    storages: set[tuple[object, int]] = set()
    for name, given in tensors.items():
        tensor = given.detach()
        view = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and view in views:
            aliases[name] = views[view]
            continue
        storage = (tensor.device, tensor.untyped_storage().data_ptr())
        kept[name] = tensor.clone().contiguous() if storage in storages else tensor.contiguous()
        views[view] = name
        storages.add(storage)
    return kept, aliases


def write_tensors(path: Path, tensors: "dict[str, Tensor]", aliases: dict[str, str]) -> None:
    from safetensors.torch import save_file

    save_file(tensors, path, metadata={_ALIASES: json.dumps(aliases, sort_keys=True)})
    os.chmod(path, 0o600)


def measured(path: Path) -> dict[str, Any]:
    """Size and sha256 of a file, which is on disk afterwards. 100 MB take 0.1 s where the processor has SHA instructions."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": file.tell(), "sha256": digest}


def parse_tensors(path: Path, data: bytes) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load as parse

    try:
        tensors = parse(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        aliases = json.loads(header.get("__metadata__", {}).get(_ALIASES, "{}"))
        return tensors | {name: tensors[kept] for name, kept in aliases.items()}
    except (SafetensorError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointCorrupt(path, f"holds no tensors that can be read ({error})") from error


def rendered_manifest(fields: Mapping[str, Any]) -> bytes:
    """A manifest as text that vouches for itself: one canonical spelling, with the sha256 of the rest in it."""
    body = {key: value for key, value in fields.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**body, "sha256": digest}, sort_keys=True, indent=1) + "\n").encode()


def read_manifest(path: Path) -> dict[str, Any]:
    file = path / MANIFEST
    raw = _content(file)
    fields: dict[str, Any] = {}
    try:
        fields = json.loads(raw)
        whole = isinstance(fields, dict) and rendered_manifest(fields) == raw
    except ValueError:
        whole = False
    if not whole:
        raise CheckpointCorrupt(file, "is damaged: it does not match the sha256 that it carries")
    if fields.get("format") != FORMAT:
        raise CheckpointCorrupt(file, f"has format {fields.get('format')!r}, and this version reads format {FORMAT}")
    if not _is_shaped(fields):
        raise CheckpointCorrupt(file, "is no manifest of a checkpoint")
    match = NAME.fullmatch(path.name)
    if match is None or int(match[1]) != fields["step"]:
        raise CheckpointCorrupt(file, f"says step {fields['step']}, but the folder is named {path.name}")
    return fields


def _is_shaped(fields: Mapping[str, Any]) -> bool:
    """Whether every field has its type: a stranger's manifest can carry a right sha256 of anything."""
    files = fields.get("files")
    return (
        isinstance(files, dict)
        and {WEIGHTS, STATE} <= set(files) <= {WEIGHTS, STATE, OPTIMIZER}
        and all(isinstance(entry, dict) for entry in files.values())
        and all(type(entry.get("bytes")) is int and type(entry.get("sha256")) is str for entry in files.values())
        and type(fields.get("step")) is int
        and type(fields.get("healthy")) is bool
        and type(fields.get("saved_at")) is float
        and isinstance(fields.get("config_hash"), str | None)
        and isinstance(fields.get("segment"), int | None)
    )


def read_files(path: Path, *names: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The named files, read once and hashed as read, so that what is used is what was checked."""
    fields = read_manifest(path)
    if OPTIMIZER in names and OPTIMIZER not in fields["files"]:
        raise WeightsOnly(
            f"{path} keeps weights only: it is a superseded milestone, and training cannot go on from it bit for bit. "
            "Resume from a newer checkpoint, or read the weights alone."
        )
    contents = {}
    try:
        for name in names:
            entry, contents[name] = fields["files"][name], _content(path / name)
            require_size(path / name, len(contents[name]), entry["bytes"])
            _require_hash(path / name, hashlib.sha256(contents[name]).hexdigest(), entry["sha256"])
    except CheckpointCorrupt:
        if read_manifest(path) == fields:
            raise
        return read_files(path, *names)  # the trainer replaced or thinned it while we were reading
    return fields, contents


def verified_manifest(path: Path) -> dict[str, Any]:
    """The manifest, once every file was found to have its size and sha256; constant memory."""
    fields = read_manifest(path)
    for name, entry in fields["files"].items():
        with opened(path / name) as descriptor, open(descriptor, "rb", closefd=False) as file:
            require_size(path / name, os.fstat(descriptor).st_size, entry["bytes"])
            _require_hash(path / name, hashlib.file_digest(file, "sha256").hexdigest(), entry["sha256"])
    return fields


def _content(path: Path) -> bytes:
    with opened(path) as descriptor, open(descriptor, "rb", closefd=False) as file:
        return file.read()


@contextlib.contextmanager
def opened(path: Path) -> Iterator[int]:
    """A descriptor of a regular file, never of what a link points at: a checkpoint may come from a stranger."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError as error:
        raise CheckpointCorrupt(path, "is missing") from error
    except OSError as error:
        raise CheckpointCorrupt(path, f"cannot be read ({error.strerror})") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def require_size(path: Path, is_: int, was: int) -> None:
    if is_ != was:
        raise CheckpointCorrupt(path, f"has {is_} bytes, but {was} were saved")


def _require_hash(path: Path, is_: str, was: str) -> None:
    if is_ != was:
        raise CheckpointCorrupt(path, f"has sha256 {is_[:12]}…, but {was[:12]}… was saved")


def info_of(path: Path, fields: Mapping[str, Any]) -> CheckpointInfo:
    files = fields["files"]
    return CheckpointInfo(
        path=path,
        step=fields["step"],
        bytes=sum(entry["bytes"] for entry in files.values()),
        has_optimizer=OPTIMIZER in files,
        healthy=fields["healthy"],
        saved_at=fields["saved_at"],
        weights_sha256=files[WEIGHTS]["sha256"],
        config_hash=fields["config_hash"],
        segment=fields["segment"],
    )
