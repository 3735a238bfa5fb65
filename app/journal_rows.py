"""What the app asks of a run's journal: entries, claims and verdicts. Read-only, without torch or Streamlit.

Rows are what a person disputes one by one, so a list of a thousand must not carry what each verdict holds.
"""

import contextlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from lab.database import read_rows, reading_engine
from lab.records import Claim, Entry, Records, Verdict

LARGEST_VERDICT = 4_000_000  # bytes; a real one has some 50 kB
MOST_NAMED = 500  # claims in one query; SQLite takes some 32,000 values


@dataclass(frozen=True)
class ClaimRow:
    """A claim of an entry: its stored reading, and its verdicts, the newest first, as (step, name, data)."""

    id: str
    data: dict[str, Any]
    verdicts: tuple[tuple[int, str, dict[str, Any]], ...] = ()

    @property
    def verdict(self) -> str | None:
        return self.verdicts[0][1] if self.verdicts else None


@dataclass(frozen=True)
class EntryRow:
    """A journal entry with its claims in the order of the text."""

    id: int
    step: int
    author: str
    kind: str
    text: str
    created_at: float
    claims: tuple[ClaimRow, ...] = ()


@dataclass(frozen=True)
class Latest:
    """A verdict as a list of the newest shows it."""

    claim: str
    entry: int
    step: int
    verdict: str
    author: str
    text: str
    wording: str


def changed_at(folder: Path) -> int:
    """When a file was last put into a folder or replaced in it, in nanoseconds; 0 when there is no such folder."""
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return 0


def journal_mark(records: Records, evidence: Path) -> tuple[int, int, int, int]:
    """Changes whenever an entry, a claim or a verdict is added; a few milliseconds."""
    engine = reading_engine(records.path)
    try:
        with engine.connect() as connection:
            entries, verdicts = (connection.scalar(select(func.max(table.id))) or 0 for table in (Entry, Verdict))
            claims = connection.scalar(select(func.count()).select_from(Claim)) or 0
            return entries, claims, verdicts, changed_at(evidence)
    finally:
        engine.dispose()


def journal(records: Records, evidence: Path, data: bool = True) -> list[EntryRow]:
    """Every entry, the newest first, with claims and verdicts.

    While a run trains, `lab verify` cannot record and leaves only files in `evidence`; the newer of both is shown.

    Args:
        data: False: leave what the verdicts hold empty; a thousand have 30 MB. `with_verdicts` fetches one entry's.
    """
    rows = records.rows(Claim)
    verdicts = _verdicts(records, evidence, {claim.id for claim in rows}, data)
    claims: dict[int, list[ClaimRow]] = {}
    for claim in rows:
        claims.setdefault(claim.entry, []).append(ClaimRow(claim.id, claim.data, tuple(verdicts.get(claim.id, ()))))
    return [
        EntryRow(e.id, e.step, e.author, e.kind, e.text, e.created_at, tuple(_in_order(claims.get(e.id, []))))
        for e in reversed(records.rows(Entry))
    ]


def with_verdicts(records: Records, evidence: Path, entry: EntryRow) -> EntryRow:
    """An entry of `journal(data=False)` with all that its verdicts hold."""
    verdicts = _verdicts(records, evidence, {claim.id for claim in entry.claims}, data=True)
    full = tuple(replace(claim, verdicts=tuple(verdicts.get(claim.id, ()))) for claim in entry.claims)
    return replace(entry, claims=full)


def latest_verdicts(records: Records, evidence: Path, limit: int = 4) -> list[Latest]:
    """The verdicts made last, the newest first, one for each claim; files that nobody has recorded yet come before all."""
    last = select(func.max(Verdict.id)).group_by(Verdict.claim)
    query = (
        select(
            Verdict.claim, Claim.entry, Verdict.step, Verdict.verdict, Entry.author, Claim.text, Verdict.data["wording"]
        )
        .where(Verdict.id.in_(last), Claim.id == Verdict.claim, Entry.id == Claim.entry)
        .order_by(Verdict.id.desc())
        .limit(limit)
    )
    stored = [
        Latest(claim, entry, step, name, author, text, wording if isinstance(wording, str) else "")
        for claim, entry, step, name, author, text, wording in read_rows(records.path, query)
    ]
    untested = select(Claim.id, Claim.entry).where(Claim.id.not_in(select(Verdict.claim)))
    entries = {claim: entry for claim, entry in read_rows(records.path, untested)}
    fresh = []
    for found in _verdict_files(evidence, set(entries)):
        claim, author, wording = found["claim"], found.get("author"), found.get("wording")
        if isinstance(author, str) and isinstance(wording, str) and isinstance(claim.get("text"), str):
            named = claim["id"], entries[claim["id"]], found["step"], found["verdict"]
            fresh.append(Latest(*named, author, claim["text"], wording))
    return (fresh + stored)[:limit]


def _verdicts(
    records: Records, evidence: Path, claims: set[str], data: bool
) -> dict[str, list[tuple[int, str, dict[str, Any]]]]:
    """By claim, the newest first: (step, name, what it holds)."""
    query = select(Verdict.claim, Verdict.step, Verdict.verdict, *([Verdict.data] if data else []))
    if len(claims) <= MOST_NAMED:
        query = query.where(Verdict.claim.in_(claims))
    verdicts: dict[str, list[tuple[int, str, dict[str, Any]]]] = {}
    for claim, step, name, *held in read_rows(records.path, query.order_by(Verdict.id)):
        verdicts.setdefault(claim, []).insert(0, (step, name, held[0] if held else {}))
    for found in _verdict_files(evidence, claims):
        of_claim = verdicts.setdefault(found["claim"]["id"], [])
        if not of_claim or found["step"] > of_claim[0][0]:
            of_claim.insert(0, (found["step"], found["verdict"], found))
    return verdicts


def _verdict_files(evidence: Path, claims: set[str]) -> list[dict[str, Any]]:
    """What the verdict files of known claims hold; one that cannot be read counts as none."""
    found = []
    with contextlib.suppress(OSError):
        for file in sorted(evidence.glob("verdict-*.json")):
            claim = file.stem.removeprefix("verdict-")
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                if claim in claims and file.is_file() and file.stat().st_size <= LARGEST_VERDICT:
                    data = json.loads(file.read_text(encoding="utf8"))
                    if (data["claim"]["id"], type(data["step"]), type(data["verdict"])) == (claim, int, str):
                        found.append(data)
    return found


def _in_order(claims: list[ClaimRow]) -> list[ClaimRow]:
    return sorted(claims, key=lambda claim: (claim.data["start"], claim.data["end"], claim.id))
