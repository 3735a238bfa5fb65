"""What a bench found, as plain data: accuracies with intervals and chance, what bad labels can explain, reasons.

Read from a run's records; the text, the figures and the view show the same data. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lab.benchmark_items import tasks
from lab.benchmarks import Answer
from lab.records import Records
from probes.behaviour import accuracy
from probes.behaviour.rates import wilson
from probes.behaviour.reasoning import SCORERS, Admission
from probes.behaviour.two_by_two import Row, Table, tabulate
from train.benchmark_records import Reasons, admissions, answered, benched, reasoned

Json = dict[str, Any]
CLOSE = 0.05  # nats; two options nearer than this would change places under float16


def everything(records: Records, wanted: Sequence[str] | None = None) -> list[Json]:
    """A report of each task at each step, steps ascending within a task.

    Each is compared with the step before it, and one with reasons with the first that has any.
    """
    found = []
    for task, steps in benched(records).items():
        if wanted is not None and task not in wanted:
            continue
        before: tuple[int, list[Answer]] | None = None
        first: tuple[int, list[Answer]] | None = None
        for step in steps:
            answers = answered(records, task, step)
            if not answers:
                continue
            one = report(records, task, step, answers)
            if before is not None:
                change = accuracy.between(before[1], answers)
                one["against"] = None if change is None else {"step": before[0], **asdict(change)}
            if one["reasons"] and first is not None:
                change = accuracy.between(first[1], answers)
                one["since"] = None if change is None else {"step": first[0], **asdict(change)}
            elif one["reasons"]:
                first = step, answers
            found.append(one)
            before = step, answers
    return found


def report(records: Records, task: str, step: int, answers: Sequence[Answer]) -> Json:
    """One task at one step, from the answers given (some or all of those stored) and the reasons for them."""
    rates = accuracy.every_accuracy(answers)
    known = tasks().get(task)
    errors = known.errors if known else None
    looked_up = accuracy.contaminated(answers)
    ids = {answer.item.id for answer in answers}
    reasons = [one for one in reasoned(records, task, step) if one.item in ids]
    margins = [_margin(answer) for answer in answers]
    return {
        "task": task,
        "about": known.about if known else "",
        "step": step,
        "items": len(answers),
        "truncated": sum(answer.truncated for answer in answers),
        "close": sum(margin < CLOSE for margin in margins if margin is not None),
        "chance": accuracy.chance(answers),
        "accuracy": {metric: asdict(rate) for metric, rate in rates.items()},
        "errors": errors,
        "errors_source": known.errors_source if known else "",
        "error_bound": accuracy.error_bound(errors, rates["acc"].value),
        "contaminated": asdict(looked_up) if looked_up else None,
        "against": None,
        "since": None,
        "reasons": reasons_report(reasons, admissions(records, step)) if reasons else None,
    }


def reasons_report(reasons: Sequence[Reasons], admitted: dict[str, Admission]) -> Json:
    """Accuracy with and without a rationale, and the table of every scorer, with what its admission test said."""
    before, after = [one.right for one in reasons], [one.first_right for one in reasons]
    return {
        "items": len(reasons),
        "reference": reasons[0].reference,
        "without": asdict(wilson(sum(before), len(before))),
        "with": asdict(wilson(sum(after), len(after))),
        "change": asdict(accuracy.paired(before, after)),
        "agreement": asdict(wilson(sum(one.agrees for one in reasons), len(reasons))),
        "tables": [
            _table(tabulate(scorer, [one.judged(scorer.id) for one in reasons]), admitted.get(scorer.id))
            for scorer in SCORERS.values()
            if all(scorer.id in one.scores for one in reasons)
        ],
    }


def _table(table: Table, admission: Admission | None) -> Json:
    return {
        "scorer": table.scorer,
        "about": SCORERS[table.scorer].about,
        "admitted": admission is not None and admission.admitted,
        "verdict": admission.verdict if admission else "was not tested",
        "test": admission.to_json() if admission else None,
        "rows": [_row(row) for row in table.rows],
        "headline": asdict(table.headline) if table.headline else None,
        "area": table.area,
    }


def _row(row: Row) -> Json:
    gap = row.difference
    return {
        "source": row.source,
        "wrong": asdict(row.given_wrong) if row.given_wrong else None,
        "right": asdict(row.given_right) if row.given_right else None,
        "difference": asdict(gap) if gap else None,
    }


def _margin(answer: Answer) -> float | None:
    """Nats between the likeliest option and the next; None of a single one."""
    ordered = sorted(answer.likelihood, reverse=True)
    return ordered[0] - ordered[1] if len(ordered) > 1 else None
