"""What an instrument says about a text, and by which rule: the rule has an id and a version, the finding its places.

Plain carriers. A text that a model wrote is data: it is never part of a finding's `text`, only pointed at by spans.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Severity = Literal["info", "watch", "alert", "critical"]
Unit = Literal["token", "character", "turn"]


@dataclass(frozen=True)
class Span:
    """A place, `start` up to but not including `end`, counted in `unit`s from the beginning of what was examined."""

    start: int
    end: int
    unit: Unit


@dataclass(frozen=True)
class Finding:
    """What an instrument saw.

    Attributes:
        rule, version: which definition fired; a series over steps breaks where the version changes.
        severity: info, watch, alert or critical.
        text: one plain sentence of ours, with the numbers.
        value, interval: the number that the rule looks at and its 95 % interval; None where it has none.
        spans: where, so that a view can mark it.
        evidence: whatever else a reader needs in order to check it; JSON.
    """

    instrument: str
    rule: str
    version: str
    severity: Severity
    text: str
    value: float | None = None
    interval: tuple[float, float] | None = None
    spans: tuple[Span, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def to_row(self) -> dict[str, Any]:
        """Columns of the table `findings`, without segment and step; what is not finite (an odds ratio's end) is None."""
        lo, hi = self.interval or (None, None)
        return {
            "instrument": self.instrument,
            "rule": self.rule,
            "version": self.version,
            "severity": self.severity,
            "text": self.text,
            "value": finite(self.value),
            "lo": finite(lo),
            "hi": finite(hi),
            "evidence": finite({**self.evidence, "spans": [asdict(span) for span in self.spans]}),
        }


@dataclass(frozen=True)
class Rule:
    """A definition that can fire. Any change of its meaning or thresholds is a new version."""

    instrument: str
    id: str
    version: str
    severity: Severity
    definition: str

    def finding(
        self,
        text: str,
        value: float | None = None,
        interval: tuple[float, float] | None = None,
        spans: Sequence[Span] = (),
        evidence: Mapping[str, Any] | None = None,
    ) -> Finding:
        return Finding(
            self.instrument, self.id, self.version, self.severity, text, value, interval, tuple(spans), evidence or {}
        )


def finite(value: Any) -> Any:
    """The same value with None for every float that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_characters(span: Span, pieces: Sequence[bytes]) -> Span:
    """A span of tokens as one of characters in `b"".join(pieces).decode(errors="replace")`, cut characters included.

    Args:
        pieces: the bytes behind each token (`tokenizer.decode_bytes([token])`).
    """
    before, through = b"".join(pieces[: span.start]), b"".join(pieces[: span.end])
    whole = codecs.getincrementaldecoder("utf-8")("replace").decode(before)  # holds a character that the cut splits
    return Span(len(whole), len(through.decode(errors="replace")), "character")


def merged(spans: Sequence[Span]) -> tuple[Span, ...]:
    """The same places, in order, with those that touch or overlap made one. All in one unit."""
    joined: list[Span] = []
    for span in sorted(spans, key=lambda one: one.start):
        if joined and span.start <= joined[-1].end:
            joined[-1] = Span(joined[-1].start, max(joined[-1].end, span.end), span.unit)
        else:
            joined.append(span)
    return tuple(joined)
