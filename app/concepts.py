"""What became of a run's concepts: branches that froze one, proofs, and what is held. Read-only, without torch or Streamlit.

A proof may come from a stranger, or be half written: it is checked as a whole before a word of it is shown. Cards are
`concept_card`'s.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app import proof_text, queries
from app.concept_card import DAMAGED, LARGEST
from lab.records import Event, Records
from lab.run import Run

HELD = ("freeze", "freeze-release", "faded")  # kinds of events that say what a run holds
FREEZES = ("freeze", "branch")  # kinds of branches that are no controls
Json = Mapping[str, Any]


@dataclass(frozen=True)
class Branch:
    """A run that branched from another's checkpoint to hold a concept."""

    name: str
    path: Path
    parent: str
    mode: str
    step: int
    stop: int
    controls: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proof:
    """A proof file of one concept; `problem` is words, and then `data` is empty."""

    run: str
    data: Json
    problem: str | None = None


def branches(root: Path, run: str, concept: str) -> list[Branch]:
    """Branches of a run that hold a concept, each with its controls that are there; sorted by name."""
    manifests = {folder.name: branch_record(folder) for folder in _folders(root)}
    found = []
    for name, about in sorted(manifests.items()):
        with contextlib.suppress(*DAMAGED):
            if about["parent"] != run or about["kind"] not in FREEZES:
                continue
            modes = {asked: one["mode"] for asked, one in zip(about["concepts"], about["frozen"], strict=True)}
            if concept in modes:
                twins = tuple(
                    other for other, theirs in sorted(manifests.items()) if _is_control(theirs, about, concept)
                )
                step, stop = int(about["step"]), int(about["stop"])
                found.append(Branch(name, root / name, run, str(modes[concept]), step, stop, twins))
    return found


def branch_record(folder: Path) -> dict[str, Any]:
    """What a run's manifest says of how it branched; empty for any other run, and where it cannot be read."""
    with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
        file = folder / "manifest.json"
        if file.stat().st_size <= LARGEST:
            about = json.loads(file.read_text(encoding="utf8")).get("branch")
            return about if isinstance(about, dict) else {}
    return {}


def branched_from(run: Run) -> Json | None:
    """What the manifest says of a run that is a branch; None for any other, and where it does not hold together."""
    about = branch_record(run.path)
    with contextlib.suppress(*DAMAGED):
        return {key: about[key] for key in ("parent", "step", "kind")}
    return None


def proof(folder: Path, concept: str) -> Proof | None:
    """The proof of a concept in a run's `evidence/`; None where nobody proved it."""
    for file in (folder / "evidence" / f"freeze-{folder.name}{end}.json" for end in ("", f"--{concept}")):
        try:
            if file.stat().st_size > LARGEST:
                raise ValueError("larger than any real one")
            data = json.loads(file.read_text(encoding="utf8"))
            if data["concept"]["name"] != concept:
                continue
            if data["branch"] != folder.name:
                raise ValueError("it is another run's: prove this one")
            proof_text.headline(data), proof_text.subject(data), proof_text.rows(data), proof_text.facts(data)
            return Proof(folder.name, data)
        except FileNotFoundError:
            continue
        except (OSError, RecursionError, *DAMAGED) as error:
            return Proof(folder.name, {}, f"{file.name}: cannot be read ({type(error).__name__}: {error})"[:400])
    return None


def held(root: Path, run: str, records: Records, until: int | None = None, generations: int = 8) -> list[Json]:
    """The newest item of every concept that this history froze: what it says is `status`; the first frozen come first.

    A branch holds what its parent held at its first step.

    Args:
        until: leave out what came after this step.
        generations: how far back branches of branches are followed.
    """
    found: dict[str, Json] = {}
    about = branch_record(root / run)
    parent, step = about.get("parent"), about.get("step")
    if generations and isinstance(step, int) and parent in {folder.name for folder in _folders(root)}:
        opened = queries.open_run(root / str(parent))
        if opened.records is not None:
            before = held(
                root, str(parent), opened.records, step if until is None else min(step, until), generations - 1
            )
            found |= {item["concept"]: item for item in before}
            opened.records.close()
    spans = {segment: (first - 1, last) for segment, first, last in records.lineage()}  # before the first step, too
    for event in sorted((one for one in records.rows(Event) if one.kind in HELD), key=lambda one: one.id):
        at, item = event.step or 0, event.data
        first, last = spans.get(event.segment or 0, (1, 0))
        inside = first <= at <= min(end for end in (last, until, at) if end is not None)
        if inside and isinstance(item.get("concept"), str) and isinstance(item.get("status"), str):
            found[item["concept"]] = item
    return list(found.values())


def mark(root: Path, opened: queries.Opened, records: Records) -> tuple[int, ...]:
    """Changes whenever the page would look different, apart from what records say: cards, statistics, runs and proofs."""
    cards = [queries.changed_at(path) for path in (opened.path / "concepts", opened.path / "statistics")]
    proofs = sum(queries.changed_at(folder / "evidence") for folder in _folders(root))
    return (*cards, queries.changed_at(root), proofs, len(records.reading_steps("shimmer")))


def _folders(root: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [path for path in root.iterdir() if not path.name.startswith(".") and path.is_dir()]
    return []


def _is_control(theirs: Json, about: Json, concept: str) -> bool:
    """A twin in the same place that `lab prove` may compare with."""
    same = all(theirs.get(key) == about[key] for key in ("parent", "step", "weights_sha256", "horizon"))
    kind = theirs.get("kind")
    return same and (kind == "unfrozen" or (kind in ("random", "lower") and concept in theirs.get("concepts", ())))
