"""How much of a text is layout: lists, headings, tables, code fences, `key: value`, brackets of JSON.

A score of lines, not of meaning. It feeds the test of the *fallback channel* (`fallback`): does a model resort to layout
where its language fails?

What stands between two fences is layout too: counting the fences alone, as one might, finds 26 % of 82 long package
descriptions in Markdown instead of 72 %. A fence that is never closed counts for itself only. In the default corpus .02 % of
conversations are layout, and .5 % of the speeches' passages: those that enumerate.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from probes.behaviour.findings import Finding, Rule, Span

THRESHOLD = 0.5
FEWEST_LINES = 3  # one bullet is half of a two-line answer

# Looked at in this order; a line counts once. Each is met at the start of a line, after its indentation.
KINDS: dict[str, re.Pattern[str]] = {
    "fence": re.compile(r"(?:```|~~~)"),
    "heading": re.compile(r"#{1,6}\s+\S"),
    "table": re.compile(r"\||.*\S\s*\|.*\|"),  # a row starts with a bar, or has two
    "quote": re.compile(r">"),
    "bullet": re.compile(r"[-*+•]\s+\S"),
    "number": re.compile(r"\(?\d{1,3}[.)]\s+\S"),
    "key": re.compile(
        r"[`\"'*_]{0,3}\w[\w.-]*[`\"'*_]{0,3}\s?:(?:[`\"'*_]{0,3}\s|$)"
    ),  # one word: "Dear Sir: ..." is prose
    "bracket": re.compile(r"[\[\]{}(),;]+\s*$|[\[{].*[\]}],?\s*$"),
}

STRUCTURED = Rule(
    "structure",
    "structure.layout",
    "1",
    "info",
    f"at least {THRESHOLD:.0%} of the lines that are not empty, and {FEWEST_LINES} or more, are layout: "
    f"{', '.join(KINDS)}, or code between fences",
)


@dataclass(frozen=True)
class Structure:
    """The layout of one text.

    Attributes:
        lines: lines that are not empty.
        kinds: how many of them are of each kind; a line is of one kind at most.
        spans: where those lines are, in characters.
    """

    lines: int
    kinds: dict[str, int]
    spans: tuple[Span, ...]

    @property
    def structured(self) -> int:
        return len(self.spans)

    @property
    def score(self) -> float:
        """Share of the lines that are layout, 0..1; 0 for an empty text."""
        return self.structured / self.lines if self.lines else 0.0

    @property
    def is_structured(self) -> bool:
        return self.structured >= FEWEST_LINES and self.score >= THRESHOLD


def read(text: str) -> Structure:
    """The layout of a text, line by line.

    >>> read("Shopping\\n- bread\\n- milk\\n- salt").score
    0.75
    """
    rows = text.splitlines(keepends=True)
    kinds = [_kind(row.strip()) for row in rows]
    borders = [index for index, kind in enumerate(kinds) if kind == "fence"]
    for opening, closing in zip(borders[::2], borders[1::2], strict=False):
        kinds[opening + 1 : closing] = ["code" if row.strip() else None for row in rows[opening + 1 : closing]]
    counts: dict[str, int] = {}
    spans = []
    start = 0
    for row, kind in zip(rows, kinds, strict=True):
        if kind is not None:
            content = row.strip()
            counts[kind] = counts.get(kind, 0) + 1
            at = start + row.index(content)
            spans.append(Span(at, at + len(content), "character"))
        start += len(row)
    return Structure(sum(1 for row in rows if row.strip()), counts, tuple(spans))


def _kind(content: str) -> str | None:
    return next((name for name, pattern in KINDS.items() if pattern.match(content)), None) if content else None


def examine(text: str) -> tuple[Finding, ...]:
    """The finding that a text is layout, or none."""
    seen = read(text)
    if not seen.is_structured:
        return ()
    return (
        STRUCTURED.finding(
            f"{seen.structured} of {seen.lines} lines are layout",
            value=seen.score,
            spans=seen.spans,
            evidence={"lines": seen.lines, "kinds": seen.kinds},
        ),
    )
