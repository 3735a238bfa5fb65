"""The journal's entries: text by the model or by a person, parsed into claims as it comes in.

What an entry says is never evidence; `verifying` tests its claims.
"""

from __future__ import annotations

import time
from typing import Any

from lab.errors import LabError
from lab.records import Claim as ClaimRow
from lab.records import Entry, Records, RecordsMissing, Verdict
from lab.run import Run
from probes.claims.grammar import Claim, parse
from probes.layers.labels import ALL_LABELS

LONGEST = 100_000  # characters; a journal entry is a page, not a book


class BadEntry(LabError):
    """Text or author that no journal should hold, or an entry that is not there."""


def add_entry(run: Run, text: str, author: str, step: int | None = None, kind: str = "note") -> tuple[int, list[Claim]]:
    """Store an entry by a person (or an imported one) and the claims in it; the run must not be in use.

    Args:
        step: what the entry speaks of; by default the newest checkpoint.

    Returns:
        The entry's number and its claims.

    Raises:
        BadEntry: no text, too much of it, or no author.
        RunLocked, CheckpointMissing
    """
    check_entry(text, author)
    at = run.checkpoint_info(step).step
    with run.lock("journal"), Records.writer(run.database) as records:
        return store(records, Entry(step=at, author=author, kind=kind, text=text, created_at=time.time()))


def store(records: Records, entry: Entry) -> tuple[int, list[Claim]]:
    """Record an entry and its claims; for whoever holds the run's lock."""
    records.add_now(entry)
    claims = parse(entry.text, entry.id, ALL_LABELS)
    records.add_now(*(as_row(claim, entry.id) for claim in claims))
    return entry.id, claims


def entries(run: Run) -> list[dict[str, Any]]:
    """All entries, oldest first: the row's fields, and `claims` with the newest verdict of each (None: not tested)."""
    try:
        with run.records() as records:
            newest = {row.claim: row.verdict for row in sorted(records.rows(Verdict), key=lambda row: row.id)}
            claims: dict[int, list[dict[str, Any]]] = {}
            for row in records.rows(ClaimRow):
                claims.setdefault(row.entry, []).append(row.data | {"verdict": newest.get(row.id)})
            return [
                {
                    "id": row.id,
                    "step": row.step,
                    "author": row.author,
                    "kind": row.kind,
                    "text": row.text,
                    "created_at": row.created_at,
                    "prompt": row.prompt,
                    "claims": sorted(claims.get(row.id, []), key=lambda claim: int(claim["start"])),
                }
                for row in sorted(records.rows(Entry), key=lambda row: row.id)
            ]
    except RecordsMissing:
        return []


def entry_of(run: Run, number: int) -> dict[str, Any]:
    """One entry, as in `entries`. Raises BadEntry, naming those there are."""
    found = entries(run)
    for one in found:
        if one["id"] == number:
            return one
    there = ", ".join(str(one["id"]) for one in found[-12:]) or "none yet"
    raise BadEntry(f"{run.name}: has no journal entry {number}. Entries: {there}. Add one with: lab journal add")


def check_entry(text: str, author: str) -> None:
    """Raises BadEntry."""
    if not text.strip():
        raise BadEntry("the entry is empty. Give it some text.")
    if len(text) > LONGEST:
        raise BadEntry(f"the entry has {len(text):,} characters, the most is {LONGEST:,}. Split it.")
    if not author.strip() or not author.isprintable():
        raise BadEntry("the author is empty or not printable. Give a name.")


def as_row(claim: Claim, entry: int) -> ClaimRow:
    """A claim as the database keeps it; what the grammar left open is empty text there, and None in `data`."""
    return ClaimRow(
        id=claim.id,
        entry=entry,
        text=claim.text,
        kind=claim.kind or "",
        a=claim.a or "",
        b=claim.b,
        reading=claim.reading or "",
        scope=claim.scope,
        polarity=claim.polarity,
        data=claim.to_json(),
    )
