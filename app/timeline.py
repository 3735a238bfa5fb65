"""What happened to a run, in order of steps: regimes, first findings, pauses, snapshots, each with its denominator.

Reads the records only, without torch. "First" is an extreme of chance: it means little without how much was looked at
before, so a row that has no denominator says so instead of looking like one that has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from lab.records import Episode, Event, Finding, Item, Reading, Records, Regime
from lab.run import Run

PAUSES = {"hold": "pause", "release": "unpause", "interval": "interval", "system-prompt": "system prompt"}
PAUSES |= {"remedy": "intervention", "feedback": "intervention", "feedback-stopped": "intervention"}
InHistory = Callable[[int | None, int], bool]


@dataclass(frozen=True)
class Moment:
    """One row of the timeline.

    Attributes:
        kind: regime, first, pause, unpause, intervention, interval, system prompt, journal, evaluation or benchmark.
        text: in words, ours.
        count, of, unit: "`count` of `of` `unit`"; None where nobody counted.
    """

    step: int
    kind: str
    text: str
    count: int | None = None
    of: int | None = None
    unit: str | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def timeline(run: Run) -> list[Moment]:
    """Every row of the newest history, ascending by step.

    Raises:
        RecordsMissing, RecordsBroken
    """
    with run.records() as records:
        pieces = records.lineage()
        spans = {id: (first, last) for id, first, last in pieces}
        top = max((step for step in [*records.reading_steps(), (records.newest("train/loss") or (0,))[0]]), default=0)

        def in_history(segment: int | None, step: int) -> bool:
            if segment is None:
                return step <= top
            first, last = spans.get(segment, (1, 0))
            return first <= step and (last is None or step <= last)

        rows = [
            *_regimes(records, in_history),
            *_firsts(records, in_history),
            *_events(records, in_history, top),
            *_snapshots(run, records),
        ]
    return sorted(rows, key=lambda row: row.step)


def _regimes(records: Records, in_history: InHistory) -> Iterator[Moment]:
    """Each with how often it was looked under it: conversations, entries or steps with readings."""
    looks: Counter[int] = Counter()
    for episode in records.rows(Episode):
        if episode.regime is not None and in_history(episode.segment, episode.step):
            looks[episode.regime] += 1
    for event in records.rows(Event):
        if event.kind == "journal" and event.step is not None and in_history(event.segment, event.step):
            looks[event.data.get("regime", 0)] += 1
    looks.update(regime for regime, _, _ in {(row.regime, row.segment, row.step) for row in records.rows(Reading)})
    known: dict[str, dict[str, Any]] = {}
    for regime in records.rows(Regime):
        before = known.get(regime.name)
        changed = _changed(before, regime.protocol)
        known[regime.name] = regime.protocol
        text = f"{regime.name}: a first protocol" if before is None else f"{regime.name}: changed {changed}"
        count = looks[regime.id] or None
        yield Moment(regime.step, "regime", text, count, None, "looks under it" if count else None)


def _firsts(records: Records, in_history: InHistory) -> Iterator[Moment]:
    """The first finding of each rule and source, of how many findings, and after how many texts without one."""
    texts = _texts_examined(records, in_history)
    found: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in records.rows(Finding):
        if in_history(finding.segment, finding.step):
            source = str(finding.evidence.get("source", finding.instrument))
            found.setdefault((source, finding.rule, finding.version), []).append(finding)
    for (source, rule, version), findings in found.items():
        first = min(findings, key=lambda one: (one.step, one.id))
        looked = texts.get(source) or _checks(records, rule)
        until = sum(n for step, n in looked if step <= first.step) if looked else None
        by_then = f" ({until:,} had been examined by then)" if looked else ""
        text = f"{rule} (version {version}, {first.severity}) in {source} for the first time: {first.text}{by_then}"
        unit = f"findings in {'texts examined' if source in texts else 'checks'} so far" if looked else None
        yield Moment(first.step, "first", text, len(findings), sum(n for _, n in looked) if looked else None, unit)


def _texts_examined(records: Records, in_history: InHistory) -> dict[str, list[tuple[int, int]]]:
    """By source: (step, texts of a conversation that rules were asked about)."""
    found: dict[str, list[tuple[int, int]]] = {}
    for episode in records.rows(Episode):
        if in_history(episode.segment, episode.step):
            samples = episode.data.get("samples")
            turns = [turn for turn in episode.data.get("turns", ()) if not turn.get("given")]
            found.setdefault(episode.kind, []).append((episode.step, len(turns if samples is None else samples)))
    return found


def _checks(records: Records, rule: str) -> list[tuple[int, int]]:
    """(step, checks since the row before) of a rule of the understanding module, from its own tally."""
    found: list[tuple[int, int]] = []
    tally = 0.0
    for _, step, value in records.series(f"checks/{rule}"):
        found.append((step, int(value - tally if value >= tally else value)))  # a new interval begins at nought
        tally = value
    return found


def _events(records: Records, in_history: InHistory, top: int) -> Iterator[Moment]:
    holds = 0
    for event in records.rows(Event):
        if event.step is None or not in_history(event.segment, event.step):
            continue
        if event.kind == "journal":
            data = event.data
            yield Moment(
                event.step, "journal", event.text, data.get("parsable"), data.get("sentences"), "sentences testable"
            )
        elif event.kind in PAUSES:
            holds += event.kind == "hold"
            unit = "steps trained until now" if event.kind == "hold" else None
            yield Moment(
                event.step, PAUSES[event.kind], event.text, holds if unit else None, top if unit else None, unit
            )


def _snapshots(run: Run, records: Records) -> Iterator[Moment]:
    tokens = run.config.evaluation.tokens
    for _, step, value in records.series("validation/bits_per_byte"):
        yield Moment(step, "evaluation", f"{value:.4f} bits per byte", tokens, None, "validation tokens at most")
    items = sorted(records.rows(Item), key=lambda item: (item.step, item.task))
    for (step, task), group in groupby(items, key=lambda item: (item.step, item.task)):
        yield Moment(step, "benchmark", task, len(list(group)), None, "items")


def _changed(before: dict[str, Any] | None, now: dict[str, Any]) -> str:
    if before is None:
        return ""
    keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    small = (int, float, str, type(None))
    said = [
        f"{key} {before.get(key)} → {now.get(key)}"
        if isinstance(before.get(key), small) and isinstance(now.get(key), small) and len(str(now.get(key))) < 40
        else key
        for key in keys
    ]
    return ", ".join(said) or "nothing"
