"""What the Runs page and `lab ls` ask of the runs in a folder: who descends from whom, what they take on disk, how two of
them differ. Reads files only, never raises for a bad run; no torch, no Streamlit, no database.
"""

from __future__ import annotations

import contextlib
import json
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.run_folder import CONFIG, DATABASE, MANIFEST

LARGEST = 8_000_000  # bytes of a configuration or manifest; a real one has some 10 kB
DEEPEST = 12  # folders below a run; ours has four
MOST_DIFFERENCES = 300  # rows; two corpora of a thousand shards would give as many hashes
OWN_WORDS = ("created_at", "config_hash", "format", "branch")  # of a manifest: say nothing about how a run was made
KINDS = ("checkpoints", "records", "evidence", "concepts", "exports", "other")
_KIND = {
    "checkpoints": "checkpoints",
    "logs": "records",
    "inbox": "records",
    "journal": "records",
    "evidence": "evidence",
    "statistics": "evidence",
    "concepts": "concepts",
    "exports": "exports",
}
_DATABASES = (DATABASE, "chats.db")


@dataclass(frozen=True)
class Descent:
    """A run's place in the family: its parent as its manifest says, what kind of branch it is, and how deep it stands.

    Attributes:
        step: of the parent that it began from; stop: the step that it is trained to. None for what is no branch.
    """

    name: str
    depth: int = 0
    parent: str | None = None
    kind: str | None = None
    step: int | None = None
    stop: int | None = None


@dataclass(frozen=True)
class Change:
    """One key that two runs do not share; None: it is not there."""

    key: str
    a: str | None
    b: str | None


def folders(root: Path) -> list[str]:
    """Folders under a root that a run made, whole or broken: with a manifest, a configuration or a database. Ascending."""
    with contextlib.suppress(OSError):
        found = [entry for entry in os.scandir(root) if not entry.name.startswith(".") and entry.is_dir()]
        signs = (MANIFEST, CONFIG, DATABASE)
        return sorted(entry.name for entry in found if any(os.path.isfile(os.path.join(entry, sign)) for sign in signs))
    return []


def family(root: Path, names: Sequence[str]) -> list[Descent]:
    """The runs in their order, branches and twins under the run that they branched from, by name.

    A parent that is not there, or descends from its own child, makes a run stand at the top.
    """
    about = {name: _branch(root / name) for name in names}
    children: dict[str | None, list[str]] = {}
    for name in names:
        parent = about[name].get("parent")
        there = isinstance(parent, str) and parent in about and parent != name and not _descends(parent, name, about)
        children.setdefault(parent if there else None, []).append(name)
    found: list[Descent] = []

    def place(name: str, depth: int) -> None:
        one = about[name]
        step, stop = _whole(one.get("step")), _whole(one.get("stop"))
        found.append(Descent(name, depth, _text(one.get("parent")), _text(one.get("kind")), step, stop))
        for child in sorted(children.get(name, [])):
            place(child, depth + 1)

    for name in children.get(None, []):
        place(name, 0)
    return found


def disk_use(path: Path) -> dict[str, int]:
    """Bytes of a run by kind, links not followed; what vanishes meanwhile counts as nothing."""
    used = dict.fromkeys(KINDS, 0)
    with contextlib.suppress(OSError):
        for entry in os.scandir(path):
            kind = "records" if entry.name.startswith(_DATABASES) else _KIND.get(entry.name, "other")
            used[kind] += _size(entry)
    return used


def changes(a: Path, b: Path) -> list[Change]:
    """What two runs do not share: keys of their configurations, then of their manifests, in each those that both have first.

    A file that cannot be read has no keys. When and under which name a run was made is left out; what a branch holds is in
    its configuration.
    """
    one, other = _described(a), _described(b)
    keys = [*one, *(key for key in other if key not in one)]
    found = [Change(key, one.get(key), other.get(key)) for key in keys if one.get(key) != other.get(key)]
    # stable, so in the files' own order otherwise: what both say and differ in is what a reader looks for
    return sorted(found, key=lambda one: (one.key.startswith("manifest"), None in (one.a, one.b)))


def flattened(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Keys as `train.steps` and `data.sources[0].kind`, with their values as JSON.

    >>> list(flattened({"train": {"steps": 5}, "layers": [0, 3], "sources": [{"kind": "text"}]}))
    [('train.steps', '5'), ('layers', '[0, 3]'), ('sources[0].kind', '"text"')]
    """
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from flattened(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        for at, inner in enumerate(value):
            yield from flattened(inner, f"{key}[{at}]")
    else:
        yield key, json.dumps(value, ensure_ascii=False, default=str)


def _described(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    with contextlib.suppress(OSError, ValueError, RecursionError):
        found |= dict(flattened(tomllib.loads(_read(path / CONFIG))))
    with contextlib.suppress(OSError, ValueError, RecursionError, AttributeError):
        manifest = {key: value for key, value in json.loads(_read(path / MANIFEST)).items() if key not in OWN_WORDS}
        found |= dict(flattened(manifest, "manifest"))
    return found


def _read(file: Path) -> str:
    if file.stat().st_size > LARGEST:
        raise ValueError(f"{file.name} is larger than any real one")
    return file.read_text(encoding="utf8")


def _branch(path: Path) -> Mapping[str, Any]:
    with contextlib.suppress(OSError, ValueError, RecursionError, AttributeError):
        about = json.loads(_read(path / MANIFEST)).get("branch")
        return about if isinstance(about, dict) else {}
    return {}


def _descends(name: str, ancestor: str, about: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a run's ancestors include another; manifests may go round in a circle."""
    seen: set[Any] = set()
    at: Any = name
    while at in about and at not in seen:
        if at == ancestor:
            return True
        seen.add(at)
        at = about[at].get("parent")
        if not isinstance(at, str):
            return False
    return False


def _size(entry: os.DirEntry[str], depth: int = 0) -> int:
    with contextlib.suppress(OSError):
        if entry.is_dir(follow_symlinks=False):
            return sum(_size(inner, depth + 1) for inner in os.scandir(entry)) if depth < DEEPEST else 0
        return entry.stat(follow_symlinks=False).st_size
    return 0


def _whole(value: Any) -> int | None:
    return value if type(value) is int else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
