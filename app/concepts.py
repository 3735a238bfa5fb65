"""Concepts of a run as the app shows them: cards, proofs, branches and what is held. Read-only, without torch or Streamlit.

A card or a proof may come from a stranger, or be half written: it is checked as a whole before a word of it is shown.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app import proof_text, queries
from app.concept_text import source_in_words
from lab.concepts import CARD as CARD_FILE
from lab.concepts import BadConcept, folder_of, read_card
from lab.errors import LabError
from lab.records import Event, Records
from lab.run import Run

LARGEST = 8_000_000  # bytes of a card or a proof; real ones have some 50 kB
DAMAGED = (KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError)
HELD = ("freeze", "freeze-release", "faded")  # kinds of events that say what a run holds
FREEZES = ("freeze", "branch")  # kinds of branches that are no controls
Json = Mapping[str, Any]


class CardBroken(LabError):
    """A concept's card cannot be shown."""


class Part(BaseModel):
    """A part of a card; what a later version adds is left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)


class Interval(Part):
    value: float
    low: float
    high: float


class Bits(Interval):
    n: int
    of: float


class Profile(Part):
    layers: list[int]
    value: list[float]
    low: list[float]
    high: list[float]
    n: int

    @model_validator(mode="after")
    def has_a_value_for_every_layer(self) -> Self:
        if {len(self.value), len(self.low), len(self.high)} != {len(self.layers)} or not self.layers:
            raise ValueError("not a value and an interval for every layer")
        return self


class Floor(Part):
    angles_degrees: list[float]
    overlap: float
    overlap_median: float
    random_overlap: float
    splits: int
    units: int
    unit: str


class Cost(Part):
    erased: float
    random: float
    net: Interval
    used: bool
    tokens: int
    sentences: int


class Use(Part):
    subspaces: int
    concept: Cost | None = None
    every: Cost | None = Field(None, alias="all")
    untestable: str | None = None


class Variance(Part):
    share: float


class Token(Part):
    token: str
    logit: float


class Effect(Part):
    direction: str
    promoted: list[Token]
    demoted: list[Token]


class Histogram(Part):
    edges: list[float]
    counts: dict[str, list[int]]

    @model_validator(mode="after")
    def has_a_count_for_every_bin(self) -> Self:
        if len(self.edges) < 2 or any(len(row) != len(self.edges) - 1 for row in self.counts.values()):
            raise ValueError("not a count for every bin")
        return self


class Example(Part):
    before: str
    word: str
    after: str
    at: float
    klass: str | None = Field(None, alias="class")


class Text(Part):
    documents: int | None = None
    sentences: int | None = None


class Columns(Part):
    kept: int


class Details(Part):
    """What finding it measured; a concept that was not found by `lab concept add` may have none of it."""

    source: dict[str, Any] = {}
    layers: str = ""
    text: Text | None = None
    counts: dict[str, int] = {}
    columns: Columns | None = None
    bits: Bits | None = None
    profile: Profile | None = None
    noise_floor: Floor | None = None
    tokens: list[Effect] = []
    histogram: Histogram | None = None
    examples: dict[str, list[Example]] = {}
    use: Use | None = None
    variance: Variance | None = None
    notes: list[str] = []


class Found(Part):
    step: int | None = None
    sha256: str = ""


class Card(Part):
    """`concepts/<name>/card.json`, as `lab concept show --json` prints it."""

    name: str
    layer: int
    classes: list[str]
    checkpoint: Found
    sha256: str
    details: Details


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


def card(run: Run, name: str) -> Card:
    """
    Raises:
        CardBroken: it is missing, or does not hold together; in words.
    """
    try:
        if (folder_of(run, name) / CARD_FILE).stat().st_size > LARGEST:
            raise CardBroken(f"{name}: its card is larger than any real one ({LARGEST:,} bytes).")
        found = Card.model_validate(read_card(run, name))
        source_in_words(found.details.source)  # raises where that does not hold together
        return found
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the card"
        raise CardBroken(f"{name}: its card does not hold together ({where}: {first['msg']}).") from None
    except (BadConcept, OSError, RecursionError) as error:
        raise CardBroken(str(error)) from None
    except DAMAGED as error:
        raise CardBroken(f"{name}: its card does not hold together (details.source: {error!r}).") from None


def branches(root: Path, run: str, concept: str) -> list[Branch]:
    """Branches of a run that hold a concept, each with its controls that are there; sorted by name."""
    manifests = {folder.name: _branch_of(folder) for folder in _folders(root)}
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


def branched_from(run: Run) -> Json | None:
    """What the manifest says of a run that is a branch; None for any other, and where it does not hold together."""
    about = _branch_of(run.path)
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
    about = _branch_of(root / run)
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


def _branch_of(folder: Path) -> dict[str, Any]:
    """`manifest["branch"]`, or nothing."""
    with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
        file = folder / "manifest.json"
        if file.stat().st_size <= LARGEST:
            about = json.loads(file.read_text(encoding="utf8")).get("branch")
            return about if isinstance(about, dict) else {}
    return {}


def _is_control(theirs: Json, about: Json, concept: str) -> bool:
    """A twin in the same place that `lab prove` may compare with."""
    same = all(theirs.get(key) == about[key] for key in ("parent", "step", "weights_sha256", "horizon"))
    kind = theirs.get("kind")
    return same and (kind == "unfrozen" or (kind in ("random", "lower") and concept in theirs.get("concepts", ())))
