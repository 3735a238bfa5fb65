"""Benchmarks as README shows them: SmolLM2 beside published figures, its reasons with all controls, BLiMP through training.

Each is made with the commands that people use; a figure that is not there yet is left out. Reasons are the long part: with
rationales of 32 tokens 5 to 6 s of one core an item, three fifths of it reading controls. BLiMP needs LAB_DEV_DATA.
"""

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from app.bench_text import points, rate
from app.bench_trend import in_words
from probes.behaviour.two_by_two import SOURCES
from tests.benchmarks.pairs import circumstances
from tests.figures.talks import ROOT, lab

TASKS = "arc_easy,arc_challenge,hellaswag,piqa,winogrande,boolq,openbookqa,csqa,socialiqa,sciq,copa,lambada"
REASONED, LIMIT = "arc_easy,csqa", 200
HARNESS_TASKS = "arc_easy,hellaswag,openbookqa,socialiqa"  # of PIQA the asset has 299 items
EACH = 10  # pairs of each of BLiMP's 67 paradigms
STEPS = (0, 16, 64, 128, 256, 512, 1000, 1250, 1500)
# https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct, "Evaluation": zero-shot, by lighteval; the whole validation or
# test sets in half precision, ours are samples of 4-bit weights. Three tasks are published for the base model alone.
CARD = "its model card (lighteval, zero-shot, weights that are not quantised)"
PUBLISHED = {
    "hellaswag": "40.9 %",
    "piqa": "66.3 %",
    "arc_easy": "37.3 % (mean of easy and challenge)",
    "arc_challenge": "37.3 % (mean of easy and challenge)",
    "csqa": "33.9 % (base model)",
    "winogrande": "51.3 % (base model)",
    "openbookqa": "34.6 % (base model)",
}

Json = dict[str, Any]


def accuracies(folder: Path) -> Json:
    """SmolLM2 on twelve tasks."""
    _smollm2(folder)
    return _made("bench_smollm2", lab(folder, "bench", "smollm2", "--tasks", TASKS, "--limit", str(LIMIT), "--json"))


def reasons(folder: Path) -> Json:
    """SmolLM2's reasons on two tasks."""
    _smollm2(folder)
    asked = ("bench", "smollm2", "--tasks", REASONED, "--limit", str(LIMIT), "--with-reasons", "--json")
    return _made("bench_reasons", lab(folder, *asked))


def blimp(folder: Path) -> Json:
    """BLiMP over the checkpoints of a `laptop` run, which has to be in the folder.

    Raises:
        KeyError: LAB_DEV_DATA is not set.
    """
    items = folder / "blimp"
    if not items.exists():
        sample(Path(os.environ["LAB_DEV_DATA"]) / "blimp" / "blimp_data.tar.xz", items)
    steps = [word for step in STEPS for word in ("--step", str(step))]
    lab(folder, "bench", "laptop", "--items", str(items), "--limit", "0", *steps)
    return _made("bench_blimp", lab(folder, "bench", "laptop", "--tasks", "blimp", "--show", "--json"))


def sample(archive: Path, folder: Path) -> None:
    """The first pairs of every paradigm of BLiMP, a file each (arXiv:1912.00582)."""
    folder.mkdir(parents=True)
    with tarfile.open(archive) as members:
        for member in members:
            content = members.extractfile(member) if member.name.endswith(".jsonl") else None
            if content is not None:
                lines = content.read().decode().splitlines()[:EACH]
                (folder / Path(member.name).name).write_text("\n".join(lines) + "\n", encoding="utf8")


def harness(folder: Path, pairs: int | None = None) -> Json:
    """lm-eval beside ours on SmolLM2: the same answers, and how many items a second."""
    _smollm2(folder)
    environment = os.environ | {"LAB_RUNS": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.benchmarks.bench_lm_eval", "--run", "smollm2", "--tasks", HARNESS_TASKS]
    command += ["--pairs", str(pairs)] if pairs is not None else []
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE)
    found: Json = json.loads(done.stdout)
    return found


MEASURES: dict[str, Callable[[Path], Json]] = {
    "bench_smollm2": accuracies,
    "bench_reasons": reasons,
    "bench_blimp": blimp,
    "bench_lm_eval": harness,
}


def _smollm2(folder: Path) -> None:
    if not (folder / "smollm2").exists():
        lab(folder, "import", "smollm2", "--name", "smollm2")


def _made(name: str, printed: str) -> Json:
    found = json.loads(printed)
    kept = {"rows": found["benchmarks"], "trends": found.get("trends", [])}
    return circumstances("tests.figures", [name], os.cpu_count() or 1) | kept


# ------------------------------------------------------------------------------------------------------------ in README


def render(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """One table; "" without rows."""
    return dict(zip(MEASURES, (_accuracies, _reasons, _blimp, _harness), strict=True))[name](rows)


def _accuracies(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    lines = [
        "**SmolLM2-135M-Instruct, 4-bit weights**, the same items every time; 95 % Wilson intervals. Published: from "
        f"{CARD}; other samples and other prompts, so a guide and no reproduction.",
        "",
        "| benchmark | chance | likeliest | likeliest per character | without the question | published |",
        "|---|---|---|---|---|---|",
    ]
    for one in rows:
        found = [rate(one["accuracy"].get(metric)) for metric in ("acc", "acc_norm", "zero_prompt")]
        cells = [one["task"], f"{one['chance']:.0%}", *found, PUBLISHED.get(one["task"], "–")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _reasons(rows: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for one in (row for row in rows if row["reasons"]):
        found = one["reasons"]
        parts += [
            f"**{one['task']}**, {found['items']:,} items. Answer first {rate(found['without'])}, rationale first "
            f"{rate(found['with'])}: {points(found['change'])}. Same answer before and after a rationale: "
            f"{rate(found['agreement'])}.",
            "",
            f"| called good | {' | '.join(table['scorer'] for table in found['tables'])} |",
            "|---|" + "---|" * len(found["tables"]),
        ]
        for source, about in SOURCES.items():
            cells = [_cell(table, source) for table in found["tables"]]
            name = f"{about} ({found['reference']})" if source == "reference" else about
            parts.append(f"| {name} | {' | '.join(cells)} |")
        heads = [points(table["headline"]) if table["headline"] else "–" for table in found["tables"]]
        parts.append(f"| **own beyond another item's, wrong answers** | {' | '.join(heads)} |")
        parts.append(f"| admission test | {' | '.join(_admission(table) for table in found['tables'])} |")
        parts.append("")
    return "\n".join(parts).rstrip()


def _cell(table: Mapping[str, Any], source: str) -> str:
    row = next((row for row in table["rows"] if row["source"] == source), None)
    return f"wrong {rate(row['wrong'])}; right {rate(row['right'])}" if row else "–"


def _admission(table: Mapping[str, Any]) -> str:
    if not table["test"]:
        return str(table["verdict"])
    shares = ", ".join(f"{kind} {one['count']}/{one['checks']}" for kind, one in table["test"]["good"].items())
    areas = ", ".join(f"{kind} {value:.2f}" for kind, value in table["test"]["areas"].items())
    return f"{table['verdict']}. Called good: {shares}; AUC against {areas}"


def _blimp(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    lines = [
        f"**BLiMP through a `laptop` run**: {rows[-1]['items']:,} minimal pairs, the first {EACH} of each paradigm; chance "
        f"is {rows[-1]['chance']:.0%}.",
        "",
        "| step | the better sentence is likelier | against the step before, the same pairs |",
        "|---|---|---|",
    ]
    for one in rows:
        lines.append(
            f"| {one['step']:,} | {rate(one['accuracy']['acc'])} | {points(one['against']) if one['against'] else '–'} |"
        )
    return "\n".join(lines)


def _harness(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    lines = [
        "| benchmark | items | acc, ours and lm-eval's | acc_norm, ours and lm-eval's | items that differ "
        "| largest difference | items per second, ours / lm-eval's |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        both = [" = ".join(f"{value:.1%}" for value in row["accuracy"][metric]) for metric in ("acc", "acc_norm")]
        differ = ", ".join(f"{metric} {count}" for metric, count in row["differing"].items())
        lines.append(
            f"| {row['task']} | {row['items']:,} | {both[0]} | {both[1]} | {differ} | {row['largest_nats']:.0e} nats "
            f"| {_speed(row)} |"
        )
    return "\n".join(lines)


def _speed(row: Mapping[str, Any]) -> str:
    if "items_per_second_ratio" not in row:
        return "–"
    low, high = row["items_per_second_interval"]
    return f"{row['items_per_second_ratio']:.2f}× [{low:.2f}, {high:.2f}], {row['pairs']} pairs of {row['timed']} items"


def trends(found: Sequence[Mapping[str, Any]]) -> str:
    """Whether reasons improved while scores stood still, in sentences."""
    return "\n".join(f"- {one['task']}, scorer {one['scorer']}: {in_words(one)}" for one in found)
