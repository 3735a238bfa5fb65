"""The journal's entries: text by the model or by a person, parsed into claims as it comes in.

What an entry says is never evidence; `verifying` tests its claims.
"""

from __future__ import annotations

import time
from typing import Any

from lab.errors import LabError
from lab.records import Claim as ClaimRow
from lab.records import Entry, Records, RecordsMissing, Verdict
from lab.run import Run, RunLocked
from probes.claims.grammar import Claim, parse
from probes.layers.labels import ALL_LABELS
from train import control
from train.commands import Note

LONGEST = 100_000  # characters; a journal entry is a page, not a book


class BadEntry(LabError):
    """Text or author that no journal should hold, or an entry that is not there."""


def add_entry(
    run: Run, text: str, author: str, step: int | None = None, kind: str = "note", patience: float = 30.0
) -> tuple[int, list[Claim]]:
    """Store an entry by a person (or an imported one) and the claims in it. A note is the trainer's to store while it trains.

    Args:
        step: what the entry speaks of; by default the newest checkpoint.
        patience: seconds to wait for a trainer.

    Returns:
        The entry's number and its claims.

    Raises:
        BadEntry: no text, too much of it, or no author.
        RunLocked: another verb than training has the run.
        NotAcknowledged: the trainer did not come to it in time; it will.
        CheckpointMissing
    """
    check_entry(text, author)
    at, now = run.checkpoint_info(step).step, time.time()
    try:
        with run.lock("journal"), Records.writer(run.database) as records:
            return store(records, Entry(step=at, author=author, kind=kind, text=text, created_at=now))
    except RunLocked:
        if kind != "note" or not control.is_trained(run):
            raise
    note = {"author": author, "text": text, "step": at, "written_at": now}
    became = control.wait(run, control.send(run, "note", note), patience)
    with run.records() as records:
        number = next((row.id for row in records.rows(Entry, author=author, created_at=now)), None)
    if number is None:
        raise BadEntry(f"{run.name}: the trainer did not take the note: {became.result}")
    return number, parse(text, number, ALL_LABELS)


def take(records: Records, note: Note) -> tuple[int, bool]:
    """Store a note that was sent to whoever holds the run's lock: its number, and whether it is new.

    Raises:
        BadEntry
    """
    check_entry(note.text, note.author)
    for row in records.rows(Entry, author=note.author, created_at=note.written_at):
        if row.text == note.text:  # a kill came before the acknowledgement: the command is repeated
            with_claims(records, row.id, row.text)
            return row.id, False
    entry = Entry(step=note.step, author=note.author, kind="note", text=note.text, created_at=note.written_at)
    return store(records, entry)[0], True


def store(records: Records, entry: Entry) -> tuple[int, list[Claim]]:
    """Record an entry and its claims; for whoever holds the run's lock."""
    records.add_now(entry)
    return entry.id, with_claims(records, entry.id, entry.text)


def with_claims(records: Records, entry: int, text: str) -> list[Claim]:
    """The claims of a recorded entry, of which those are recorded that are not yet.

    An entry has its number, and so its claims have theirs, only once it is written: a kill may come before they are. And a
    newer grammar finds claims that an older one passed over.
    """
    claims = parse(text, entry, ALL_LABELS)
    known = {row.id for row in records.rows(ClaimRow, entry=entry)}
    missing = [as_row(claim, entry) for claim in claims if claim.id not in known]
    if missing:
        records.add_now(*missing)
    return claims


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
