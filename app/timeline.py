"""What happened to a run, in order of steps: regimes, first findings, pauses, snapshots, each with its denominator.

Reads the records, and the base rates that `lab report markers` left, without torch. "First" is an extreme of chance: it means
little without how much was looked at before, so a row that has no denominator says so instead of looking like one that has.
"""

from __future__ import annotations

import sys
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.benchmark_snapshots import snapshots
from app.first_seen import CONVERSATIONS, InHistory, Moment, firsts, texts_of
from lab.records import Claim, Entry, Episode, Event, Records, Regime
from lab.run import Run
from probes.claims.grammar import UNPARSED

__all__ = ["Moment", "timeline"]
PAUSES = {"hold": "pause", "release": "unpause"}
PAUSES |= {"remedy": "intervention", "feedback": "intervention", "feedback-stopped": "intervention"}
PAUSES |= {"chats": "intervention"}
AUTHOR = "model"  # of journal entries that no person wrote
# By attachment: a metric that it records at every look, where neither conversations nor readings tell when it looked.
LOOKS = {"understanding": "understanding/probe_loss", "evaluation": "validation/bits_per_byte"}
Steps = Mapping[str, Sequence[int]]  # by attachment: the step of each look, ascending


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

        talks = [row for row in records.rows(Episode) if in_history(row.segment, row.step)]
        looks = _looks(records, talks, in_history)
        rows = [
            *_regimes(records, talks, looks),
            *firsts(run, records, talks, in_history),
            *_architecture(records, in_history),
            *_events(records, talks, looks, in_history, top),
            *_evaluations(run, records),
            *(
                Moment(one.step, "benchmark", one.text, one.right, one.items, "items right")
                for one in snapshots(records)
                if in_history(None, one.step)
            ),
        ]
    return sorted(rows, key=lambda row: row.step)


def _looks(records: Records, talks: Sequence[Episode], in_history: InHistory) -> Steps:
    """When each attachment looked."""
    found: dict[str, list[int]] = {name: [] for name in CONVERSATIONS.values()}
    for talk in talks:
        found.setdefault(CONVERSATIONS.get(talk.kind, talk.kind), []).append(talk.step)
    found["journal"] = [
        event.step
        for event in records.rows(Event)
        if event.kind == "journal" and event.step is not None and in_history(event.segment, event.step)
    ]
    found["probing"] = list(records.reading_steps())
    found |= {
        name: [step for _, step, _ in records.series(metric, max_points=sys.maxsize)]  # counted, so never thinned
        for name, metric in LOOKS.items()
    }
    return {name: sorted(steps) for name, steps in found.items()}


def _regimes(records: Records, talks: Sequence[Episode], looks: Steps) -> Iterator[Moment]:
    """Each with how often it was looked under it; the first one with rules also says that patterns are tracked from there."""
    under: Counter[int] = Counter(talk.regime for talk in talks if talk.regime is not None)
    for event in records.rows(Event):
        if event.kind == "journal":
            under[event.data.get("regime", 0)] += 1
    under.update(records.readings_by_regime())
    known = records.rows(Regime)
    told: dict[str, dict[str, Any]] = {}
    for at, regime in enumerate(known):
        before = told.get(regime.name)
        told[regime.name] = regime.protocol
        if before is None and isinstance(regime.protocol.get("rules"), dict):
            yield _tracking(regime, talks, looks)
        changed = _changed(before, regime.protocol)
        text = f"{regime.name}: a first protocol" if before is None else f"{regime.name}: changed {changed}"
        later = next((one.step for one in known[at + 1 :] if one.name == regime.name), None)
        since = None if before is None else regime.step
        count = under[regime.id] or (_between(looks[regime.name], since, later) if regime.name in LOOKS else 0) or None
        yield Moment(regime.step, "regime", text, count, None, "looks under it" if count else None)


def _tracking(regime: Regime, talks: Sequence[Episode], looks: Steps) -> Moment:
    """Where an attachment begins to examine by rules: how many rules, and how much it has examined since."""
    rules = regime.protocol["rules"]
    kinds = Counter(str(rule).partition(".")[0] for rule in rules)
    named = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    text = f"{regime.name}: patterns are tracked from here on, by {len(rules)} rules ({named})"
    texts = [texts_of(talk) for talk in talks if CONVERSATIONS.get(talk.kind) == regime.name]
    if texts:
        return Moment(
            regime.step, "tracking", text, sum(texts), None, f"texts examined in {len(texts)} conversations so far"
        )
    return Moment(regime.step, "tracking", text, len(looks.get(regime.name, ())), None, "looks so far")


def _between(steps: Sequence[int], after: int | None, until: int | None) -> int:
    """Looks of a regime: a protocol is in force after the step at which it was opened, the first one at that step too."""
    first = 0 if after is None else bisect_right(steps, after)
    return (len(steps) if until is None else bisect_right(steps, until)) - first


def _architecture(records: Records, in_history: InHistory) -> Iterator[Moment]:
    """The first journal entry with a statement about layers, depth or concepts: by the model, and by people.

    What counts as one is what the claim grammar reads as one, testable or for want of labels untestable.
    """
    about = {row.entry for row in records.rows(Claim) if row.data.get("status") != UNPARSED}
    entries = [
        one
        for one in sorted(records.rows(Entry), key=lambda row: (row.step, row.id))
        if in_history(one.segment, one.step)
    ]
    for by_model in (True, False):
        own = [one for one in entries if (one.author == AUTHOR) == by_model]
        talks = [one for one in own if one.id in about]
        if not talks:
            if by_model and own:
                text, unit = "architecture talk in the model's journal", "entries so far speak of layers"
                yield Moment(own[-1].step, "not seen", text, 0, len(own), unit, len(own))
            continue
        first = talks[0]
        until = sum(one.step <= first.step for one in own)
        so_far = sum(one.step <= first.step for one in talks)
        who = "the model's journal" if by_model else "a person's journal"
        asked = "; the prompt asks about layers" if by_model else ""
        text = f"architecture talk in {who} for the first time: {first.kind} entry {first.id}{asked}"
        text += f" ({so_far:,} of {until:,} entries by then)"
        yield Moment(first.step, "first", text, len(talks), len(own), "entries so far speak of layers", until)


def _events(
    records: Records, talks: Sequence[Episode], looks: Steps, in_history: InHistory, top: int
) -> Iterator[Moment]:
    holds = 0
    for event in records.rows(Event):
        if event.step is None or not in_history(event.segment, event.step):
            continue
        step, text, data = event.step, event.text, event.data
        if event.kind == "journal":
            yield Moment(step, "journal", text, data.get("parsable"), data.get("sentences"), "sentences testable")
        elif event.kind == "interval":
            all_looks = looks.get(str(data.get("attachment")))
            since = None if all_looks is None else len(all_looks) - bisect_right(all_looks, step)
            unit = None if all_looks is None else "looks so far came after it"
            yield Moment(step, "interval", text, since, None if all_looks is None else len(all_looks), unit)
        elif event.kind == "system-prompt":
            later = [talk for talk in talks if talk.kind == "check-in" and talk.step >= step]
            with_it = sum(texts_of(talk) for talk in later if talk.data.get("system") == data.get("system"))
            unit = "answers since were asked that way"
            yield Moment(step, "system prompt", text, with_it, sum(map(texts_of, later)), unit)
        elif event.kind in PAUSES:
            holds += event.kind == "hold"
            counted = (holds, top, "steps trained until now") if event.kind == "hold" else ()
            yield Moment(step, PAUSES[event.kind], text, *counted)


def _evaluations(run: Run, records: Records) -> Iterator[Moment]:
    tokens = run.config.evaluation.tokens
    for _, step, value in records.series("validation/bits_per_byte"):  # thinned: a page lists these rows
        yield Moment(step, "evaluation", f"{value:.4f} bits per byte", tokens, None, "validation tokens at most")


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
