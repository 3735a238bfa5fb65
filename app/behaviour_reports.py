"""What `lab report` and batteries of contrasts left in a run, as the app shows it: read-only, without torch or Streamlit.

A run may come from a stranger: what is no number or no text is left out, rates are computed anew from their counts, and a
file that is too large or no JSON counts as not there.
"""

import contextlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app import behaviour
from lab.records import Episode, Records
from probes.behaviour.rates import Rate, wilson

LARGEST = 8_000_000  # bytes of a report; 50 motifs make 60 kB
Json = dict[str, Any]
Bounds = tuple[float, float, float]  # value, lower and upper end


@dataclass(frozen=True)
class Gap:
    """One pair of a battery: hostile answers of both arms, and the gap with its corrected interval."""

    pair: str
    first: Rate
    second: Rate
    gap: Bounds
    against_reference: Bounds | None
    again: Bounds | None
    verdict: str


@dataclass(frozen=True)
class Contrasts:
    """A battery. `power`: (gap, answers an arm, share critical) at the base rate found, where that was computed."""

    step: int
    gaps: tuple[Gap, ...]
    competence: Rate | None
    reference: int | None
    power: tuple[tuple[float, int, Rate], ...] = ()


@dataclass(frozen=True)
class Rung:
    """One rung of a surfacing ladder: in words, and the rates before and after where it has them.

    Attributes:
        beyond: of "learned" the gain in nats per token beyond text kept out, of the others the rise of the share beyond it.
        detectable: the share that would have been found in four of five; None where it was not computed.
    """

    name: str
    verdict: str
    before: Rate | None = None
    after: Rate | None = None
    beyond: Bounds | None = None
    detectable: float | None = None


@dataclass(frozen=True)
class Ladder:
    """A surfacing report."""

    source: str
    introduced: int
    steps: tuple[int, int]
    rung: str
    text: str
    rungs: tuple[Rung, ...]


def batteries(records: Records, evidence: Path) -> list[Contrasts]:
    """Every battery of the newest history, ascending by step, and the one that `lab report contrasts` asked."""
    kept = behaviour.in_history(records)
    found = [
        _contrasts(row.step, row.data)
        for row in records.rows(Episode)
        if row.kind == "contrasts" and kept(row.segment, row.step) and isinstance(row.data, dict)
    ]
    asked = report(evidence / "report-contrasts.json")
    if asked:
        found.append(_contrasts(_whole(asked.get("step")), asked))
    return sorted((one for one in found if one.gaps), key=lambda one: one.step)


def ladders(evidence: Path) -> list[Ladder]:
    """Every surfacing report, by source."""
    found = []
    for file in sorted(evidence.glob("surfacing-*.json")):
        content = report(file)
        steps = content.get("steps")
        if isinstance(steps, list) and len(steps) == 2:
            found.append(_ladder(content, (_whole(steps[0]), _whole(steps[1]))))
    return found


def report(file: Path) -> Json:
    """What a file of `evidence/` holds; {} for none, or for what is no object."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if file.is_file() and not file.is_symlink() and file.stat().st_size <= LARGEST:
            content = json.loads(file.read_text(encoding="utf8"))
            return content if isinstance(content, dict) else {}
    return {}


def objects(found: Any) -> Sequence[Json]:
    """Those pieces of a list that are objects."""
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def rate_of(found: Any) -> Rate | None:
    """A rate from stored counts; None for what is none."""
    count, checks = (found.get("count"), found.get("checks")) if isinstance(found, dict) else (None, None)
    if type(count) is int and type(checks) is int and 0 <= count <= checks and checks:
        return wilson(count, checks)
    return None


def words_of(found: Any) -> str:
    """A text; "" for what is none."""
    return found if isinstance(found, str) else ""


def bounds_of(found: Any) -> Bounds | None:
    """Value and ends of an interval; None where one of them is no number."""
    values = [found.get(key) for key in ("value", "lo", "hi")] if isinstance(found, dict) else []
    numbers = [float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v)]
    return (numbers[0], numbers[1], numbers[2]) if len(numbers) == 3 else None


def _contrasts(step: int, data: Json) -> Contrasts:
    gaps = []
    for one in objects(data.get("contrasts")):
        counts = one.get("counts")
        held = counts if isinstance(counts, dict) else {}
        first, second, gap = rate_of(held.get("first")), rate_of(held.get("second")), bounds_of(one.get("gap"))
        if first and second and gap:
            more = bounds_of(one.get("against_reference")), bounds_of(one.get("again"))
            gaps.append(Gap(words_of(held.get("pair")), first, second, gap, *more, words_of(one.get("verdict"))))
    power = [
        (float(row["gap"]), _whole(row.get("per_arm")), rate)
        for row in objects(data.get("power"))
        if isinstance(row.get("gap"), float) and (rate := rate_of(row.get("critical")))
    ]
    reference = data.get("reference")
    at = reference if type(reference) is int else None
    return Contrasts(step, tuple(gaps), rate_of(data.get("competence")), at, tuple(power))


def _ladder(content: Json, steps: tuple[int, int]) -> Ladder:
    learned = content.get("learned")
    held: Json = learned if isinstance(learned, dict) else {}
    rungs = [Rung("learned", words_of(held.get("verdict")), beyond=bounds_of(held.get("difference")))]
    for name, key in (("elicitable", "elicited"), ("surfaced", "surfaced")):
        one = content.get(key)
        if isinstance(one, dict):
            rates = rate_of(one.get("before")), rate_of(one.get("after"))
            least = one.get("detectable")
            share = float(least) if isinstance(least, float) and 0 <= least <= 1 else None
            rungs.append(Rung(name, words_of(one.get("verdict")), *rates, bounds_of(one.get("beyond")), share))
    source, rung, text = (words_of(content.get(key)) for key in ("source", "rung", "text"))
    return Ladder(source, _whole(content.get("introduced")), steps, rung, text, tuple(rungs))


def _whole(found: Any) -> int:
    return found if type(found) is int else 0
