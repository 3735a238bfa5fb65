"""The fixed texts of `prompts.toml`: the battery of check-ins, the topics of self-play, the prompts of the journal.

Each set has a version that people read and a hash that regimes keep: whoever changes a word and forgets the version still
opens a new regime.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Battery:
    """Prompts of a check-in by their id, in the order of asking."""

    version: str
    sha256: str
    prompts: Mapping[str, str]


@dataclass(frozen=True)
class Topics:
    """How conversations begin. `invitation` is what the voice that spoke a topic is taken to have been asked."""

    version: str
    sha256: str
    invitation: str
    topics: tuple[str, ...]


@dataclass(frozen=True)
class JournalPrompts:
    """Templates: `blind` of the step, `informed` of the step and of lines that `reading` makes; `tasks`: probes' in words."""

    version: str
    sha256: str
    blind: str
    informed: str
    reading: str
    tasks: Mapping[str, str]


def battery(most: int = 0) -> Battery:
    """The battery, or its first `most` prompts (0 = all)."""
    part = _texts()["check_in"]
    prompts = dict(list(part["prompts"].items())[: most or None])
    return Battery(part["version"], canonical(prompts), prompts)


def topics() -> Topics:
    part = _texts()["self_play"]
    return Topics(part["version"], canonical(part), part["invitation"], tuple(part["topics"]))


def journal_prompts() -> JournalPrompts:
    part = _texts()["journal"]
    return JournalPrompts(sha256=canonical(part), **part)


def canonical(data: Any) -> str:
    """sha256 of data in one spelling."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


@cache
def _texts() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("prompts.toml").read_text(encoding="utf8"))
