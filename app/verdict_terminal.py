"""Verdicts and the journal as plain text for a terminal: what `verdict_text` says, laid out in columns and wrapped."""

import shutil
import textwrap
from collections.abc import Sequence

from app.verdict_text import (
    ADJUSTED,
    NO_VERDICT,
    Facts,
    Json,
    byline,
    card_facts,
    claim_in_words,
    interval,
    number,
    reading_facts,
    readings,
    short,
    visible,
)


def overview(verdict: Json) -> list[tuple[str, ...]]:
    """The readings side by side, a header first: difference with its 95 % interval, both depths, verdict."""
    rows: list[tuple[str, ...]] = [("reading", "Δ = B less A (95 %)", "A at", "B at", "verdict")]
    for name, evidence in readings(verdict):
        delta, sides = evidence["delta"], [evidence[letter] or {} for letter in ("a", "b")]
        said = "–" if delta is None else interval(delta, signed=True).replace("95 % ", "")
        depths = [number(side["depth"]["value"]) if side.get("depth") else "–" for side in sides]
        star = " *" if name == verdict["primary"] else ""
        rows.append((visible(name) + star, said, *depths, visible(evidence["verdict"])))
    return rows if len(rows) > 1 else []


def to_text(verdict: Json, width: int | None = None) -> str:
    """A verdict for a terminal, wrapped to `width` characters (default: the terminal's, at most 120)."""
    width = width or min(120, shutil.get_terminal_size((100, 24)).columns)
    lines = textwrap.wrap(f"“{visible(verdict['claim']['text'])}” ({byline(verdict['author'])})", width) or [""]
    lines += textwrap.wrap(f"{visible(verdict['verdict'])}: {visible(verdict['wording'])}", width)
    lines += _laid_out(card_facts(verdict), width, indent=2)
    rows = overview(verdict)
    if rows:
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        table = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
        note = "* decides. Relative depth: 0 = embedding, 1 = after the last block."
        if any(evidence["reading"] == "decide" for _, evidence in readings(verdict)):
            note += f" {ADJUSTED}"
        lines += ["", *(f"  {line}".rstrip() for line in table)]
        lines += textwrap.wrap(note, width, initial_indent="  ", subsequent_indent="  ")
    for name, evidence in readings(verdict):
        lines += ["", *_laid_out(reading_facts(name, evidence, name == verdict["primary"]), width, indent=4)]
    return "\n".join(lines)


def journal_to_text(entries: Sequence[Json], width: int | None = None) -> str:
    """Entries as `lab journal ls` prints them: text indented, each claim with its verdict below."""
    width = width or min(120, shutil.get_terminal_size((100, 24)).columns)
    lines: list[str] = []
    for entry in entries:
        lines += ["", f"entry {entry['id']}, step {number(entry['step'])}, {byline(entry['author'], entry['kind'])}"]
        for paragraph in short(visible(entry["text"]), 1200).splitlines():
            lines += textwrap.wrap(paragraph, width, initial_indent="    ", subsequent_indent="    ") or [""]
        for at, claim in enumerate(entry["claims"], 1):
            said = f"{at}. {claim.get('verdict') or NO_VERDICT}: {claim_in_words(claim)}"
            lines += textwrap.wrap(said, width, initial_indent="  ", subsequent_indent="     ")
    return "\n".join(lines[1:])


def _laid_out(facts: Facts, width: int, indent: int) -> list[str]:
    column = min(28, max(len(label) for label, _ in facts)) + 2
    room = max(30, width - indent - column)
    lines = []
    for label, text in facts:
        for at, line in enumerate(textwrap.wrap(text, room) or [""]):
            lines.append(f"{'':{indent}}{short(label, column - 2) if not at else '':{column}}{line}".rstrip())
    return lines
