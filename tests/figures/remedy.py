"""The loop remedy against its twin, as README shows it: a row a seed and one for all, from `remedy.json`."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
HEADER = (
    "| seed | parent loops | twin loops | with remedy | difference | layout, difference (90 %) | bits per byte | held |"
)


def measure(folder: Path) -> dict[str, Any]:
    """The bench; what is in the folder already is not trained again."""
    out = HERE / "remedy.json"
    command = ["tests.benchmarks.remedy", "--runs", str(folder / "remedy"), "--out", str(out)]
    subprocess.run([sys.executable, "-m", *command], cwd=ROOT, env=dict(os.environ), check=True)
    found: dict[str, Any] = json.loads(out.read_text(encoding="utf8"))
    return found | {"command": "python -m tests.figures remedy"}


def render(rows: Sequence[Mapping[str, Any]], together: Sequence[Mapping[str, Any]]) -> str:
    """The table; "" without rows."""
    if not rows:
        return ""
    lines = [HEADER, "|---|---|---|---|---|---|---|---|"]
    lines += [_row(str(row["seed"]), row) for row in rows]
    lines += [_row("all", row) for row in together]
    note = (
        f"Episodes: continuations of validation text at temperature {rows[0]['temperature']}; {rows[0]['steps']} steps "
    )
    return "\n".join(
        [*lines, "", f"{note}of each branch. Intervals: 95 %, seeds pooled as if one run in the last row."]
    )


def _row(name: str, row: Mapping[str, Any]) -> str:
    bits, held = row["bits_per_byte"], row["held"]
    said = ", ".join(f"{bound}: {'yes' if kept else 'no'}" for bound, kept in held.items())
    cells = [name, *(_rate(row[part]) for part in ("parent", "twin", "remedy"))]
    cells += [_points(row["loop_difference"]), _points(row["structure_difference_90"])]
    cells += [f"{bits['twin']:.4f} → {bits['remedy']:.4f} ({bits['worse']:+.2%})", said]
    return f"| {' | '.join(cells)} |"


def _rate(rate: Mapping[str, Any]) -> str:
    return f"{rate['count']} of {rate['checks']}: {rate['value']:.1%} ({rate['lo']:.1%} to {rate['hi']:.1%})"


def _points(interval: Mapping[str, Any]) -> str:
    return f"{100 * interval['value']:+.1f} ({100 * interval['lo']:+.1f} to {100 * interval['hi']:+.1f})"
