"""The first finding of every rule, and markers that were not found: each with how much was looked at by then.

"First" is an extreme of chance. For markers the base rate in training text says what chance alone makes of it, once
`lab report markers` has counted it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from app.behaviour_reports import objects, rate_of, report
from lab.records import Episode, Finding, Records, Regime
from lab.run import Run
from probes.behaviour.markers import chance
from probes.behaviour.rates import Rate, wilson

MARKER, CONCISE, MARKER_REPORT = "markers.", "markers.concise", "report-markers.json"
CONVERSATIONS = {"self-play": "self_play", "check-in": "check_ins"}  # kind of episode -> attachment
InHistory = Callable[[int | None, int], bool]


@dataclass(frozen=True)
class Moment:
    """One row of the timeline.

    Attributes:
        kind: regime, tracking, first, not seen, pause, unpause, intervention, interval, system prompt, journal, evaluation,
            benchmark.
        text: in words, ours.
        count, of, unit: "`count` of `of` `unit`"; None where nobody counted.
        by_then: of a first occurrence, how much had been looked at up to and at its step.
        base: of a marker's first occurrence, its rate in the training text, where a report has counted it.
    """

    step: int
    kind: str
    text: str
    count: int | None = None
    of: int | None = None
    unit: str | None = None
    by_then: int | None = None
    base: Rate | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def firsts(run: Run, records: Records, talks: Sequence[Episode], in_history: InHistory) -> Iterator[Moment]:
    """The first finding of each rule and source, of how many findings, and after how many texts without one."""
    texts: dict[str, list[tuple[int, int]]] = {}
    for talk in talks:
        texts.setdefault(talk.kind, []).append((talk.step, texts_of(talk)))
    bases = _base_rates(run)
    found: dict[tuple[str, str, str], list[Finding]] = {}
    for finding in records.rows(Finding):
        if in_history(finding.segment, finding.step):
            source = str(finding.evidence.get("source", finding.instrument))
            found.setdefault((source, finding.rule, finding.version), []).append(finding)
    for (source, rule, version), findings in found.items():
        first = min(findings, key=lambda one: (one.step, one.id))
        looked = texts.get(source) or _checks(records, rule)
        until = sum(n for step, n in looked if step <= first.step) if looked else None
        so_far = sum(one.step <= first.step for one in findings)
        by_then = f" ({so_far:,} of {until:,} examined by then)" if looked else ""
        text = f"{rule} (version {version}, {first.severity}) in {source} for the first time: {first.text}{by_then}"
        base = bases.get(rule)
        if base and until:
            text += f"; {_by_chance(rule, base, until)}"
        elif rule.startswith(MARKER):
            text += f"; base rate not counted yet: lab report markers {run.name}"
        if not looked:
            yield Moment(first.step, "first", text, len(findings), base=base)
            continue
        last = max(step for step, _ in looked)  # checks of an old schedule are kept up after a change, but not recorded
        within = sum(one.step <= last for one in findings)
        unit = f"findings in {'texts examined' if source in texts else 'checks'} so far"
        unit += "" if within == len(findings) else f", counted up to step {last:,}"
        yield Moment(first.step, "first", text, within, sum(n for _, n in looked), unit, until, base)
    yield from _not_seen(records, texts, {(source, rule) for source, rule, _ in found}, bases)


def _not_seen(
    records: Records,
    texts: Mapping[str, Sequence[tuple[int, int]]],
    seen: Collection[tuple[str, str]],
    bases: Mapping[str, Rate],
) -> Iterator[Moment]:
    """Markers that were looked for and not found, with what their rate is below: as much a result as a first occurrence."""
    rules = {regime.name: regime.protocol.get("rules") for regime in records.rows(Regime)}
    for source, looked in texts.items():
        known = rules.get(CONVERSATIONS.get(source, ""))
        examined = sum(n for _, n in looked)
        for rule in known if isinstance(known, dict) and examined else ():
            if rule.startswith(MARKER) and (source, rule) not in seen:
                text, base = (
                    f"{rule} in {source}: its rate is below {wilson(0, examined).hi:.1%} (95 %)",
                    bases.get(rule),
                )
                if rule == CONCISE:  # found once at most, and its form alone is common
                    text, base = (
                        f"{rule} in {source}: no short clean reply after 20 or more of which half had looped",
                        None,
                    )
                text += f"; {_by_chance(rule, base, examined)}" if base else ""
                step = max(step for step, _ in looked)
                yield Moment(step, "not seen", text, 0, examined, "texts examined so far", examined, base)


def _by_chance(rule: str, base: Rate, texts: int) -> str:
    """What chance makes of a marker. Of the first concise reply it is the form alone that is counted, without the loops."""
    by_chance = chance(base, texts).at_least_one
    what = "its form alone" if rule == CONCISE else "it"
    return (
        f"training text holds {what} in {base.count:,} of {base.checks:,} pieces ({base.per_thousand.value:.3g} per 1,000), "
        f"so at least one in {texts:,} texts by chance with probability {by_chance.value:.0%}"
    )


def texts_of(talk: Episode) -> int:
    """Texts of a conversation that rules were asked about."""
    samples = talk.data.get("samples")
    return len([turn for turn in talk.data.get("turns", ()) if not turn.get("given")] if samples is None else samples)


def _base_rates(run: Run) -> dict[str, Rate]:
    """By rule: share of pieces of training text with a marker in them, as the newest `lab report markers` counted."""
    found = {}
    for one in objects(report(run.evidence / MARKER_REPORT).get("markers")):
        training = one.get("training")
        base = rate_of(training.get("base")) if isinstance(training, dict) else None
        if base:
            found[f"{MARKER}{one.get('name')}"] = base
    return found


def _checks(records: Records, rule: str) -> list[tuple[int, int]]:
    """(step, checks since the row before) of a rule of the understanding module, from its own tally."""
    found: list[tuple[int, int]] = []
    tally = 0.0
    for _, step, value in records.series(f"checks/{rule}", max_points=sys.maxsize):
        found.append((step, int(value - tally if value >= tally else value)))  # a new interval begins at nought
        tally = value
    return found
