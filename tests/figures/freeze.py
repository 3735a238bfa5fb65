"""The comparison of freezes in README: a row for each shape, concept and mode, seeds together, from `freeze.json`."""

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]

ORDER = ("none", "anchor", "pin", "write", "write+anchor", "lower")
SHAPES = {
    "demo": "`demo` (6 layers × 128)",
    "laptop": "`laptop` (6 layers × 256)",
    "smollm2": "SmolLM2-135M-Instruct (30 layers × 576)",
}
CONCEPTS = {"person": "the word is a person", "function": "the next word is a function word"}
HEADER = (
    "| mode | n | verdict | VᵀW drift | NRMSE | decisions changed | outside V, before → after | used less "
    "| ΔCE over unfrozen | ΔCE over random V | step |"
)
Row = Mapping[str, Any]


def measure(folder: Path) -> dict[str, Any]:
    """Every shape in turn; what is trained in the folder already is not trained again. `freeze.json` grows meanwhile."""
    out = HERE / "freeze.json"
    for shape in SHAPES:
        command = ["tests.benchmarks.freezing", "--runs", str(folder / "freezing"), "--shape", shape, "--out", str(out)]
        subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=dict(os.environ), check=True)
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf8"))
    return found | {"command": "python -m tests.figures freeze"}  # the folders are this machine's own


def render(rows: Sequence[Row]) -> str:
    """A table for each shape and concept of which there is a row."""
    groups: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["shape"], row["concept"]].append(row)
    parts = []
    for shape in SHAPES:
        for concept in CONCEPTS:
            if groups[shape, concept]:
                parts.append(_table(shape, concept, groups[shape, concept]))
    if not parts:
        return ""
    note = (
        "n: seeds. NRMSE, ΔCE (nats per token): mean over seeds, in brackets the lowest and highest end of their 95 % "
        "intervals (bootstrap over held-out documents). Outside V: accuracy of a new probe with the subspace projected out. "
        "Used less: the share of what ablating the subspace costs the concept's tokens that is gone. Step: time over an "
        "unfrozen step, not alternating. Flags in brackets, with the number of seeds."
    )
    return "\n\n".join([*parts, note])


def _table(shape: str, concept: str, rows: Sequence[Row]) -> str:
    first = rows[0]
    title = (
        f"**{CONCEPTS[concept]}**, {SHAPES[shape]}, {first['steps']} steps after the freeze, rank {first['rank']}, "
        f"{first['documents']} held-out documents, {first['words']:,} labelled words"
    )
    lines = [title, "", HEADER, "|" + "---|" * 11]
    for mode in ORDER:
        own = [row for row in rows if row["mode"] == mode]
        if own:
            lines.append("| " + " | ".join((mode, str(len({row["seed"] for row in own})), *_cells(own))) + " |")
    return "\n".join(lines)


def _cells(rows: Sequence[Row]) -> tuple[str, ...]:
    drops = [row["drop"]["value"] for row in rows if row["drop"]]
    outside = [row["outside"] for row in rows if row["outside"]["branch"] is not None]
    times = [row["times_unfrozen"] for row in rows if row["times_unfrozen"]]
    return (
        _verdicts(rows),
        f"{max(row['weights'] for row in rows):.1e}",
        _pooled([row["nrmse"] for row in rows]),
        f"{_mean([row['churn'] for row in rows]):.1%}",
        f"{_mean([one['parent'] for one in outside]):.3f} → {_mean([one['branch'] for one in outside]):.3f}"
        if outside
        else "–",
        f"{_mean(drops):.0%}" if drops else "–",
        _pooled([row["cost_unfrozen"] for row in rows if row["cost_unfrozen"]], signed=True),
        _pooled([row["cost_random"] for row in rows if row["cost_random"]], signed=True),
        f"{_mean(times):.2f}×" if times else "–",
    )


def _verdicts(rows: Sequence[Row]) -> str:
    names = Counter(row["verdict"] for row in rows)
    flags = Counter(flag for row in rows for flag in row["flags"])
    total = len(rows)

    def counted(found: Counter[str]) -> str:
        return ", ".join(name if n == total else f"{name} {n}/{total}" for name, n in sorted(found.items()))

    return counted(names) + (f" ({counted(flags)})" if flags else "")


def _pooled(found: Sequence[Mapping[str, float]], signed: bool = False) -> str:
    if not found:
        return "–"
    form = "+.3f" if signed else ".3f" if max(one["hi"] for one in found) >= 0.001 else ".1e"
    value, low, high = _mean([one["value"] for one in found]), min(o["lo"] for o in found), max(o["hi"] for o in found)
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
