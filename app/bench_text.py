"""A bench in words and columns: accuracies, changes, the table of reasons with its controls, a scorer's admission test.

Pure functions of what `bench_report` gives; a rate never stands without its interval and its number of items.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app import bench_trend
from app.bench_trend import in_words
from lab.benchmarks import METRICS
from probes.behaviour.two_by_two import SOURCES

Json = Mapping[str, Any]
LABELS = {"wrong": "P(good | wrong)", "right": "P(good | right)"}


def to_text(reports: Sequence[Json]) -> str:
    """Accuracies of all tasks as one table, then what there is to say about each."""
    parts = [accuracies(reports)]
    parts += [about for one in reports if (about := remarks(one))]
    parts += [reasons(one) for one in reports if one["reasons"]]
    parts += moved(reports)
    return "\n\n".join(parts)


def moved(reports: Sequence[Json]) -> list[str]:
    """Whether reasons improved while scores stood still, a sentence for each task and scorer with enough steps."""
    return [f"{one['task']}, scorer {one['scorer']}: {in_words(one)}" for one in bench_trend.trends(reports)]


def accuracies(reports: Sequence[Json]) -> str:
    """A line a task and step: items, chance, and accuracy by each way of counting."""
    metrics = [metric for metric in METRICS if any(metric in one["accuracy"] for one in reports)]
    lines = [["task", "step", "items", "chance", *metrics]]
    for one in reports:
        found = [rate(one["accuracy"].get(metric)) for metric in metrics]
        lines.append([one["task"], f"{one['step']:,}", f"{one['items']:,}", f"{one['chance']:.1%}", *found])
    return _columns(lines)


def remarks(one: Json) -> str:
    """What has to be known beside the numbers of one task."""
    said = []
    if one["against"]:
        change = one["against"]
        said.append(
            f"against step {change['step']:,}, the same {change['items']:,} items: {points(change)} "
            f"(standard error {100 * change['error']:.1f}; {change['gained']} gained, {change['lost']} lost)"
        )
    if one["error_bound"] is not None:
        said.append(
            f"bad labels can explain at most {one['error_bound']:.0%} of the wrong answers ({one['errors_source']})"
        )
    if one["contaminated"]:
        said.append(f"in the training text by 13-grams: {rate(one['contaminated'])} of the items")
    if one["truncated"]:
        said.append(f"{one['truncated']:,} items were longer than the model reads; their beginnings were left out")
    return "\n".join([f"{one['task']} at step {one['step']:,}", *(f"  {line}" for line in said)]) if said else ""


def reasons(one: Json) -> str:
    """Accuracy with and without a rationale, then each scorer's table under what its admission test said."""
    found = one["reasons"]
    lines = [
        f"reasons for {one['task']} at step {one['step']:,}, {found['items']:,} items",
        f"  answer first {rate(found['without'])}, rationale first {rate(found['with'])}: {points(found['change'])}",
        f"  the same answer before and after a rationale: {rate(found['agreement'])}",
    ]
    for table in found["tables"]:
        lines += ["", *(f"  {line}" for line in table_lines(table, found["reference"]))]
    return "\n".join(lines)


def table_lines(table: Json, reference: str) -> list[str]:
    """One scorer's table; a scorer that fails its admission test says so above its numbers and beside its headline."""
    caveat = "" if table["admitted"] else " (this scorer does not measure reasoning)"
    rows = [["rationale", LABELS["wrong"], LABELS["right"], "difference"]]
    for row in table["rows"]:
        name = SOURCES[row["source"]] + (f" ({reference})" if row["source"] == "reference" else "")
        gap = points(row["difference"]) if row["difference"] else "–"
        rows.append([name, rate(row["wrong"]), rate(row["right"]), gap])
    lines = [f"scorer {table['scorer']}: {table['verdict']}", *test_lines(table["test"]), *_columns(rows).splitlines()]
    if table["headline"]:
        head = table["headline"]
        lines.append(
            f"wrong, with good reasons, beyond another item's: {points(head)} on {head['items']:,} wrong answers{caveat}"
        )
    if table["area"] is not None:
        lines.append(f"a right answer's rationale scores higher than a wrong one's: {table['area']:.2f} (0.5 = chance)")
    return lines


def test_lines(test: Json | None) -> list[str]:
    """The admission test: what the scorer made of reasons that people wrote, and of texts that are none."""
    if test is None:
        return []
    shares = ", ".join(f"{kind} {one['count']}/{one['checks']}" for kind, one in test["good"].items())
    areas = ", ".join(f"{kind} {value:.2f}" for kind, value in test["areas"].items())
    return [f"admission test, called good: {shares}; AUC of real against {areas}"]


def harness_lines(sides: Sequence[Any]) -> str:
    """Our numbers and lm-eval's side by side."""
    lines = [["task", "items", "metric", "ours", "lm-eval", "items that differ"]]
    for side in sides:
        for metric, ours in side.ours.items():
            lines.append(
                [
                    side.task,
                    f"{ours.checks:,}",
                    metric,
                    f"{ours.value:.1%}",
                    f"{side.theirs[metric].value:.1%}",
                    str(side.differing[metric]),
                ]
            )
    largest = max((side.largest for side in sides), default=0.0)
    return _columns(lines) + f"\n\nlargest difference of a log-likelihood: {largest:.1e} nats"


def rate(found: Json | None) -> str:
    """12.3 % (10.1 to 14.9, n 200)"""
    if found is None:
        return "–"
    return f"{found['value']:.1%} ({100 * found['lo']:.0f} to {100 * found['hi']:.0f}, n {found['checks']:,})"


def points(found: Json) -> str:
    """A difference in percentage points with its interval."""
    return f"{100 * found['value']:+.1f} points ({100 * found['lo']:+.1f} to {100 * found['hi']:+.1f})"


def _columns(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[at]) for line in lines) for at in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
