"""A conversation of self-play as interventions are given it: what the model read and said, in tokens, and what was found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """One turn that the model took.

    Attributes:
        read, ids: tokens of what it read and of what it said.
        text: what it said.
        findings: rule and severity of each.
    """

    read: tuple[int, ...]
    ids: tuple[int, ...]
    text: str
    findings: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Talk:
    """A whole conversation: its topic, which the model did not write, and its turns."""

    topic: str
    turns: tuple[Turn, ...]
