"""Did reasoning improve while scores stood still? The headline over checkpoints, as numbers with intervals and a sentence.

Both changes are from the first to the last step that has reasons. Accuracy is compared item by item; the headline stands on
the wrong answers of each step, which are not the same items, so its two errors are added as if independent (too wide, if
anything). Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

from probes.behaviour.rates import LEVEL
from probes.behaviour.reasoning import SCORERS

Json = Mapping[str, Any]
LEAST_STEPS = 4
_Z = NormalDist().inv_cdf((1 + LEVEL) / 2)


def trend(reports: Sequence[Json], scorer: str) -> dict[str, Any] | None:
    """What happened to one scorer's headline and to the accuracy of one task, steps ascending; None below four steps.

    Args:
        reports: of `bench_report.everything`, one task.
    """
    found = [(one, table) for one in reports if (table := _table(one, scorer)) and table["headline"]]
    if len(found) < LEAST_STEPS or not found[-1][0]["since"]:
        return None
    (first, before), (last, after) = found[0], found[-1]
    value = after["headline"]["value"] - before["headline"]["value"]
    half = _Z * math.hypot(*(_error(one["headline"]) for one in (before, after)))
    return {
        "task": last["task"],
        "scorer": scorer,
        "admitted": after["admitted"],
        "steps": [one["step"] for one, _ in found],
        "reasons": {"value": value, "lo": value - half, "hi": value + half},
        "wrong": [table["headline"]["items"] for table in (before, after)],
        "accuracy": last["since"],
        "started": first["step"],
    }


def trends(reports: Sequence[Json]) -> list[dict[str, Any]]:
    """Every trend there is, by task and scorer."""
    tasks = {one["task"]: [other for other in reports if other["task"] == one["task"]] for one in reports}
    return [found for here in tasks.values() for scorer in SCORERS if (found := trend(here, scorer))]


def in_words(found: Json) -> str:
    """The sentence: what moved, beyond its interval or not, and whether the scorer measures anything."""
    reasons, accuracy = found["reasons"], found["accuracy"]
    if _moved(reasons) > 0 and not _moved(accuracy):
        answer = "Reasons improved while scores stood still"
    elif not _moved(reasons) and not _moved(accuracy):
        answer = "Neither reasons nor scores moved beyond their intervals"
    elif not _moved(reasons):
        answer = f"Scores {_direction(accuracy)}, reasons did not move beyond their interval"
    else:
        answer = f"Reasons {_direction(reasons)}; scores {_direction(accuracy)}"
    first, last = found["steps"][0], found["steps"][-1]
    text = (
        f"{answer}: from step {first:,} to {last:,} ({len(found['steps'])} checkpoints), good reasons of wrong answers "
        f"beyond another item's {_points(reasons)} ({found['wrong'][0]:,} and {found['wrong'][1]:,} wrong answers), accuracy "
        f"{_points(accuracy)} on the same {accuracy['items']:,} items."
    )
    return text if found["admitted"] else f"{text} The scorer {found['scorer']} does not measure reasoning."


def _table(report: Json, scorer: str) -> Json | None:
    tables = report["reasons"]["tables"] if report["reasons"] else []
    return next((table for table in tables if table["scorer"] == scorer), None)


def _error(headline: Json) -> float:
    """The standard error; of a headline in which no answer differs, that of its interval."""
    return float(headline["error"] or (headline["hi"] - headline["lo"]) / 2 / _Z)


def _moved(change: Json) -> int:
    return int(change["lo"] > 0) - int(change["hi"] < 0)


def _direction(change: Json) -> str:
    return {1: "improved", 0: "stood still", -1: "got worse"}[_moved(change)]


def _points(change: Json) -> str:
    return f"{100 * change['value']:+.1f} points ({100 * change['lo']:+.1f} to {100 * change['hi']:+.1f})"
