"""Findings, conversations, alarms and regimes as the app shows them: read-only, without torch or Streamlit.

Rows follow the newest history only: what a resume or a rewind left behind is not counted. A run may come from a stranger, so
what an episode holds is checked piece by piece, and a piece that is no number or no text is left out.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from lab.database import read_rows, reading_engine
from lab.records import Command, Episode, Event, Finding, Latch, Records, Regime
from probes.behaviour import contrasts
from probes.behaviour.fallback import FALLBACK
from probes.behaviour.rates import Rate, wilson

MOST_FINDINGS = 20_000  # the newest; 200 bytes each without their evidence
LARGEST_REFERENCE = 8_000_000  # bytes; 8 prompts, 4 samples make some 20 kB
SELF_PLAY, CHECK_IN = "self-play", "check-in"
KINDS = {SELF_PLAY: "Self-play", CHECK_IN: "Check-ins"}
RATE_NAMES = {"loop": "ends in a loop", "structure": "is layout"}
SCHEDULES = {FALLBACK.id: "batteries_every"} | {rule.id: "contrasts_every" for rule in contrasts.RULES}
UNITS = {SELF_PLAY: "turns", CHECK_IN: "answers"}

Json = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """A finding without its evidence."""

    id: int
    step: int
    severity: str
    instrument: str
    rule: str
    version: str
    text: str
    value: float | None
    lo: float | None
    hi: float | None


@dataclass(frozen=True)
class Talk:
    """One conversation as a list shows it.

    Attributes:
        system: it was asked with a system prompt (check-ins).
        reference: the reference checkpoint's step and rates, where the episode holds them.
    """

    id: int
    step: int
    kind: str
    regime: int | None
    topic: str
    system: bool
    rates: Mapping[str, Rate]
    reference: tuple[int, Mapping[str, Rate]] | None = None


@dataclass(frozen=True)
class Mark:
    """A finding inside a text, `start` up to `end` in characters; None where it is about the whole of it."""

    rule: str
    severity: str
    text: str
    start: int | None = None
    end: int | None = None


@dataclass(frozen=True)
class Said:
    """A piece of text: a turn of self-play (`who` is its voice), or an answer of a check-in (`prompt` was asked)."""

    number: int
    text: str
    who: str = ""
    given: bool = False
    prompt_id: str = ""
    prompt: str = ""
    marks: tuple[Mark, ...] = field(default_factory=tuple)


@dataclass(frozen=True)
class Alarms:
    """How often a rule fired on one interval, of how many checks."""

    rule: str
    every: int
    rate: Rate


def mark(records: Records) -> tuple[int, ...]:
    """Changes whenever a page about behaviour would look different; a millisecond."""
    engine = reading_engine(records.path)
    try:
        with engine.connect() as connection:
            newest = [connection.scalar(select(func.max(t.id))) or 0 for t in (Finding, Episode, Regime, Event)]
            answered = connection.scalar(select(func.count(Command.acknowledged_step))) or 0
            held = connection.execute(select(func.count(), func.sum(Latch.since)).select_from(Latch)).one()
            return (*newest, answered, int(held[0]), int(1000 * (held[1] or 0)))
    finally:
        engine.dispose()


def findings(records: Records) -> list[Seen]:
    """The newest findings, the newest first."""
    query = select(
        Finding.id, Finding.step, Finding.severity, Finding.instrument, Finding.rule, Finding.version,
        Finding.text, Finding.value, Finding.lo, Finding.hi, Finding.segment,
    )  # fmt: skip
    rows = read_rows(records.path, query.order_by(Finding.id.desc()).limit(MOST_FINDINGS))
    kept = in_history(records)
    return sorted((Seen(*row[:-1]) for row in rows if kept(row[-1], row[1])), key=lambda one: (-one.step, -one.id))


def evidence(records: Records, finding: int) -> Json:
    """What else a reader needs in order to check a finding; {} for one that is gone."""
    found = records.rows(Finding, id=finding)
    return found[0].evidence if found and isinstance(found[0].evidence, dict) else {}


def talks(records: Records) -> list[Talk]:
    """Every conversation, ascending by step."""
    data = Episode.data
    query = select(
        Episode.id, Episode.step, Episode.kind, Episode.regime, data["topic"], data["system"], data["rates"],
        data[("reference", "step")], data[("reference", "levels")], Episode.segment,
    )  # fmt: skip
    kept = in_history(records)
    found = []
    for id, step, kind, regime, topic, system, rates, at, levels, segment in read_rows(records.path, query):
        if kind in KINDS and kept(segment, step):
            known = rates_of(levels)
            reference = (at, known) if type(at) is int and known else None
            words = topic if isinstance(topic, str) else ""
            found.append(Talk(id, step, kind, regime, words, bool(system), rates_of(rates), reference))
    return sorted(found, key=lambda talk: (talk.step, talk.id))


def episode(records: Records, id: int) -> Json:
    """What a conversation holds; {} for one that is gone."""
    found = records.rows(Episode, id=id)
    return found[0].data if found and isinstance(found[0].data, dict) else {}


def turns(data: Json) -> list[Said]:
    """The turns of a self-play, with what was found in each; near-copies are kept apart from them and named by turn."""
    copies = _dicts(data.get("findings"))
    said: list[Said] = []
    for turn in _dicts(data.get("turns")):
        number = _whole(turn.get("turn"), len(said))
        marks = _marks([*_dicts(turn.get("findings")), *(one for one in copies if _last_turn(one) == number)])
        words, who = _text(turn.get("text")), _text(turn.get("voice"))
        said.append(Said(number, words, who, bool(turn.get("given")), marks=tuple(marks)))
    return said


def samples(found: Any) -> list[Said]:
    """The answers of a check-in, or of its reference."""
    said: list[Said] = []
    for one in _dicts(found):
        number, marks = _whole(one.get("sample"), len(said)), tuple(_marks(one.get("findings")))
        texts = _text(one.get("text")), _text(one.get("prompt_id")), _text(one.get("prompt"))
        said.append(Said(number, texts[0], prompt_id=texts[1], prompt=texts[2], marks=marks))
    return said


def reference_samples(statistics: Path, setting: Any) -> list[Said]:
    """What the reference checkpoint answered in this setting: made once by a check-in and kept in `statistics/`."""
    if not isinstance(setting, str) or not setting.isalnum():
        return []
    file = statistics / f"check-in-reference-{setting[:12]}.json"
    with contextlib.suppress(OSError, ValueError):
        if file.is_file() and file.stat().st_size <= LARGEST_REFERENCE:
            stored = json.loads(file.read_text(encoding="utf8"))
            return samples(stored.get("samples")) if isinstance(stored, dict) else []
    return []


def rates_of(found: Any) -> dict[str, Rate]:
    """Rates by name from stored counts; the intervals are computed anew, so that no file chooses them."""
    rates = {}
    for name, rate in found.items() if isinstance(found, dict) else ():
        if isinstance(rate, dict) and name in RATE_NAMES:
            count, checks = rate.get("count"), rate.get("checks")
            if type(count) is int and type(checks) is int and 0 <= count <= checks and checks:
                rates[name] = wilson(count, checks)
    return rates


def pooled(talks: Iterable[Talk], name: str) -> Rate | None:
    """One rate of several conversations; None where none has it."""
    found = [talk.rates[name] for talk in talks if name in talk.rates]
    return wilson(sum(r.count for r in found), sum(r.checks for r in found)) if found else None


def alarms(records: Records, up_to: int | None = None) -> list[Alarms]:
    """By rule and interval, as the module's own tally stands at its newest visit on that interval."""
    known = [(r.step, r.protocol) for r in records.rows(Regime, name="understanding")]
    found: list[Alarms] = []
    for metric in records.metric_names():
        if not metric.startswith("alarms/"):
            continue
        rule = metric.removeprefix("alarms/")
        # every point: a tally is told where both have one, and thinned series have few steps in common
        checks = {step: value for _, step, value in records.series(f"checks/{rule}", max_points=sys.maxsize)}
        schedule = SCHEDULES.get(rule, "every")
        regimes = [(step, protocol.get(schedule)) for step, protocol in known]
        newest: dict[int, tuple[float, float]] = {}
        for _, step, value in records.series(metric, max_points=sys.maxsize):
            begun = [every for since, every in regimes if since < step] or [every for _, every in regimes[:1]]
            every = begun[-1] if begun else 0  # an interval that is changed at a step is in force after it
            if step in checks and type(every) is int and (up_to is None or step <= up_to):
                newest[every] = (value, checks[step])
        found += [
            Alarms(rule, every, wilson(int(count), int(of)))
            for every, (count, of) in sorted(newest.items())
            if 0 <= count <= of < 2**53 and of >= 1
        ]
    return found


def interval(records: Records, configured: int) -> int:
    """Steps between two looks of the understanding module: as its newest regime says; it may change in training."""
    known = [r.protocol.get("every") for r in records.rows(Regime, name="understanding")]
    return _whole(known[-1] if known else None, configured)


def commands(records: Records, limit: int = 8) -> list[Command]:
    """The newest commands, newest first."""
    return sorted(records.rows(Command), key=lambda one: one.received_at, reverse=True)[:limit]


def in_history(records: Records) -> Callable[[int | None, int], bool]:
    """Whether a row of this segment and step belongs to the newest history."""
    spans = {id: (first, last) for id, first, last in records.lineage()}

    def kept(segment: int | None, step: int) -> bool:
        first, last = spans.get(segment or 0, (1, 0))
        return first <= step and (last is None or step <= last)

    return kept


def _marks(found: Any) -> Iterable[Mark]:
    """One mark for each place; one without a place where a finding has none in characters."""
    for one in _dicts(found):
        words = _text(one.get("rule")), _text(one.get("severity")), _text(one.get("text"))
        spans = [s for s in _dicts(one.get("spans")) if s.get("unit") == "character"]
        places = [(s.get("start"), s.get("end")) for s in spans]
        whole = [Mark(*words, a, b) for a, b in places if type(a) is int and type(b) is int and 0 <= a < b]
        yield from whole or [Mark(*words)]


def _last_turn(finding: Json) -> int | None:
    """The turn that a near-copy was found at: the last that its spans name."""
    starts = [s.get("start") for s in _dicts(finding.get("spans")) if s.get("unit") == "turn"]
    return max((start for start in starts if type(start) is int), default=None)


def _dicts(found: Any) -> list[Json]:
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _text(found: Any) -> str:
    return found if isinstance(found, str) else ""


def _whole(found: Any, otherwise: int) -> int:
    return found if type(found) is int else otherwise
