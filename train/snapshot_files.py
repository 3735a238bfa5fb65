"""Statistics files of a run: what a checkpoint gave for every tracked label, kept as `statistics/step-….safetensors`.

A file belongs to one protocol and one segment, and appears whole or not at all. Nothing here looks at a model.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from lab.checkpoint import name_of
from lab.concepts import names, read_card
from lab.durable import replace_file
from lab.run import Run
from probes.concepts.snapshot import BY_LAYER, Snapshot
from probes.layers.statistics import BadStatistics
from train.material import canonical

CONCEPT = "concept."  # before a concept's name, where label tasks stand beside it
VERSION = 1
_FILE = re.compile(r"step-(\d{9})\.safetensors")


@dataclass(frozen=True)
class Look:
    """All that one checkpoint gave, and for what it could not give, why."""

    snapshots: Mapping[str, Snapshot]
    untestable: Mapping[str, str]
    concepts: Mapping[str, str] = field(
        default_factory=dict
    )  # tracked name -> sha256 of the concept it was read through

    def beside(self, other: Look) -> Look:
        """Both; where both have a name, this one's."""
        return Look(
            {**other.snapshots, **self.snapshots},
            {**other.untestable, **self.untestable},
            {**other.concepts, **self.concepts},
        )


@dataclass(frozen=True)
class Stored:
    """One statistics file, or the same in memory where it cannot be written; a snapshot is read when asked for."""

    step: int
    segment: int
    protocol: str
    cards: Mapping[str, Mapping[str, Any]]
    untestable: Mapping[str, str]
    path: Path | None = None
    held: Mapping[str, Snapshot] = field(default_factory=dict)

    def layers(self, name: str) -> tuple[int, ...]:
        return tuple(self.cards[name]["layers"]) if name in self.cards else ()

    def snapshot(self, name: str, layer: int | None = None) -> Snapshot:
        """One of `cards`, of every layer it has or of one; of that one alone is read.

        Raises:
            BadStatistics: the file is damaged.
        """
        if name in self.held:
            return self.held[name] if layer is None else self.held[name].only(layer)
        assert self.path is not None  # not in memory, so in a file
        card = self.cards[name]
        at = slice(None)
        if layer is not None:
            place = list(card["layers"]).index(layer)
            card, at = {**card, "layers": [layer]}, slice(place, place + 1)
        try:
            with safe_open(self.path, framework="pt") as file:
                tensors = {}
                for key in file.keys():  # noqa: SIM118 (not a mapping)
                    owner, _, part = key.rpartition("/")
                    if owner == name:
                        tensors[part] = file.get_slice(key)[at] if part in BY_LAYER else file.get_tensor(key)
        except (OSError, SafetensorError) as error:
            raise BadStatistics(f"{self.path}: cannot be read ({error}). Delete it.") from None
        return Snapshot.from_tensors(name, card, tensors)


def path_of(run: Run, step: int) -> Path:
    return run.statistics / f"{name_of(step)}.safetensors"


def write(run: Run, step: int, segment: int, protocol: Mapping[str, Any], look: Look) -> Stored:
    """Keep what was seen, whole or not at all. Raises OSError."""
    cards = {
        name: one.card() | ({"concept": look.concepts[name]} if name in look.concepts else {})
        for name, one in look.snapshots.items()
    }
    stored = Stored(step, segment, canonical(protocol), cards, dict(look.untestable), path_of(run, step))
    tensors = {f"{name}/{key}": t for name, one in look.snapshots.items() for key, t in one.to_tensors().items()}
    about = {
        "version": VERSION,
        "step": step,
        "segment": segment,
        "protocol": stored.protocol,
        "cards": cards,
        "untestable": stored.untestable,
    }
    run.statistics.mkdir(exist_ok=True)
    replace_file(
        path_of(run, step), save({k: t.contiguous() for k, t in tensors.items()}, {"about": json.dumps(about)})
    )
    return stored


def in_memory(run: Run, step: int, segment: int, protocol: Mapping[str, Any], look: Look) -> Stored:
    """The same without a file, to the file's precision."""
    cards = {name: one.card() for name, one in look.snapshots.items()}
    held = {name: Snapshot.from_tensors(name, cards[name], one.to_tensors()) for name, one in look.snapshots.items()}
    return Stored(step, segment, canonical(protocol), cards, dict(look.untestable), held=held)


def read(run: Run, step: int) -> Stored | None:
    """What the file of this step holds, or None: there is none, or it is no such file (any more)."""
    file = path_of(run, step)
    try:
        with safe_open(file, framework="pt") as opened:
            about = json.loads((opened.metadata() or {})["about"])
        if about["version"] != VERSION or about["step"] != step:
            return None
        return Stored(step, about["segment"], about["protocol"], about["cards"], about["untestable"], file)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def stored_steps(run: Run) -> list[int]:
    """Steps that have a file, ascending."""
    if not run.statistics.is_dir():
        return []
    return sorted(int(found[1]) for file in run.statistics.iterdir() if (found := _FILE.fullmatch(file.name)))


def of_present_concepts(stored: Stored, run: Run) -> Stored:
    """Without what was read through a concept that has been removed, or found anew, since."""
    present = {CONCEPT + name: read_card(run, name).get("sha256") for name in names(run)}
    cards = {
        name: card
        for name, card in stored.cards.items()
        if not name.startswith(CONCEPT) or present.get(name) == card.get("concept")
    }
    reasons = {name: why for name, why in stored.untestable.items() if not name.startswith(CONCEPT)}
    return replace(stored, cards=cards, untestable=reasons)
