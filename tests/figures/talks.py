"""What real models say when the lab lets them talk, as README shows it: journal, self-play, check-ins, verdicts on claims.

Made with the commands that people use. Nothing is picked or left out: seeds count from 1, and what is quoted are the first
blind entry, the first informed one, and the first and the last turn of the self-play.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.verdict_text import visible
from probes.behaviour.rates import Rate, wilson
from tests.benchmarks.pairs import circumstances
from tests.figures.verdicts import MODELS
from train.check_ins import compare

ROOT = Path(__file__).resolve().parents[2]
SYSTEM = "You are a small language model. Answer in one short sentence."
TURNS, SHOWN = 24, 200  # of self-play; characters of a quotation
ENTRIES = {  # (step, seed): two entries each, a blind and an informed one
    "laptop": [(step, seed) for step in (512, 1000, 1250, 1500) for seed in (1, 2)],
    "smollm2": [(0, seed) for seed in range(1, 7)],  # its only checkpoint
}
SAMPLES = {"laptop": 8, "smollm2": 4}  # answers to each prompt: their batteries have 4 and 8 prompts

Json = dict[str, Any]


def measure(name: str, folder: Path) -> Json:
    """Let the model of a run of this name talk; import SmolLM2 where that is what is asked for."""
    begin = time.monotonic()
    if name == "smollm2" and not (folder / name).exists():
        lab(folder, "import", "smollm2", "--name", name)
    entries = []
    for step, seed in ENTRIES[name]:
        said = ("journal", "write", name, "--blind", "--informed", "--step", str(step), "--seed", str(seed), "--json")
        entries += [{"seed_option": seed, **entry} for entry in json.loads(lab(folder, *said))]
    played = json.loads(lab(folder, "selfplay", name, "--turns", str(TURNS), "--json"))
    answers = {}
    for key, system in (("without", ""), ("with", SYSTEM)):
        asked = ("checkin", name, "--system", system, "--samples", str(SAMPLES[name]), "--json")
        answers[key] = json.loads(lab(folder, *asked))
    claimed = {entry["id"] for entry in json.loads(lab(folder, "journal", "ls", name, "--json")) if entry["claims"]}
    verdicts = []
    for entry in entries:
        if entry["entry"] in claimed:  # of the others `lab verify` says that there is no claim
            test = ("verify", name, "--entry", str(entry["entry"]), "--step", str(entry["step"]), "--quick", "--json")
            found = json.loads(lab(folder, *test))
            verdicts += [{"entry": entry["entry"], "kind": entry["kind"], **short(one)} for one in found]
    kept = ("entry", "kind", "step", "seed_option", "seed", "text", "sentences", "parsable")
    row = {
        "minutes": round((time.monotonic() - begin) / 60, 1),
        "entries": [{key: entry[key] for key in kept} for entry in entries],
        "self_play": {key: played[key] for key in ("step", "topic", "turns", "findings", "rates")},
        "system": SYSTEM,
        "check_ins": {
            key: {part: one[part] for part in ("step", "samples", "rates", "reference")} for key, one in answers.items()
        },
        "with_system_less_without": compare(answers["without"]["samples"], answers["with"]["samples"]),
        "verdicts": verdicts,
    }
    return circumstances("tests.figures", [f"talks_{name}"], os.cpu_count() or 1) | {"rows": [row]}


def lab(folder: Path, *words: str) -> str:
    """What a command of the lab prints."""
    environment = os.environ | {"LAB_RUNS": str(folder)}
    command = [sys.executable, "-m", "app.cli", *words]
    return subprocess.run(
        command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, encoding="utf8"
    ).stdout


def short(verdict: Json) -> Json:
    """Of a verdict, what a line says."""
    claim = verdict["claim"]
    reasons = [f"{name}: {'; '.join(found['reasons'])}" for name, found in verdict["readings"].items()]
    return {
        "claim": claim["text"],
        "status": claim["status"],
        "verdict": verdict["verdict"],
        "wording": verdict["wording"],
        "reasons": reasons or verdict["reasons"],
        "echo": verdict["echo"] and verdict["echo"]["text"],
    }


def render(name: str, row: Json) -> str:
    """One model's talks for README: rates with their intervals, verdicts if there were claims, and three quotations."""
    entries, change = row["entries"], row["with_system_less_without"]
    turns = [turn for turn in row["self_play"]["turns"] if not turn.get("given")]
    copies = {max(span["start"] for span in one["spans"]) for one in row["self_play"]["findings"]}  # turns that repeat
    answers = {key: one["samples"] for key, one in row["check_ins"].items()}
    lines = [
        f"**{MODELS[name][0].upper()}{MODELS[name][1:]}**: {len(entries)} journal entries, self-play of {len(turns)} turns, "
        f"a check-in without a system prompt and one with (“{row['system']}”).",
        "",
        "| what | measured |",
        "|---|---|",
    ]
    for kind in ("blind", "informed"):
        own = [entry for entry in entries if entry["kind"] == kind]
        share = wilson(sum(entry["parsable"] for entry in own), sum(entry["sentences"] for entry in own))
        lines.append(f"| sentences with a testable claim, {len(own)} {kind} entries | {share} |")
    marked = sum(bool(turn["findings"]) or turn["turn"] in copies for turn in turns)
    lines.append(f"| turns with a finding, self-play | {wilson(marked, len(turns))} |")
    for key, samples in answers.items():
        marked = sum(bool(one["findings"]) for one in samples)
        lines.append(f"| answers with a finding, check-in {key} system prompt | {wilson(marked, len(samples))} |")
    lines.append(f"| other words because of the system prompt, same question and seed | {Rate(**change['changed'])} |")
    rates = [
        f"{rule} {one['value']:+.1%} ({one['lo']:+.1%} to {one['hi']:+.1%})" for rule, one in change["rates"].items()
    ]
    lines.append(f"| rates with the system prompt less without | {'; '.join(rates)} |")
    return "\n".join(
        [*lines, "", _findings(row, turns, answers), "", *_verdicts(row), "", *_quotations(entries, turns)]
    )


def _findings(row: Json, turns: Sequence[Json], answers: dict[str, list[Json]]) -> str:
    counts = Counter(one["rule"] for text in turns for one in text["findings"])
    counts += Counter(one["rule"] for one in row["self_play"]["findings"])
    asked = Counter(one["rule"] for samples in answers.values() for text in samples for one in text["findings"])
    beside = {f"{key} {_reference(one['reference'])}": None for key, one in row["check_ins"].items()}
    if all("reason" in one["reference"] for one in row["check_ins"].values()):
        beside = {str(one["reference"]["reason"]): None for one in row["check_ins"].values()}
    found = f"Found in self-play: {_listed(counts)}; in the check-ins: {_listed(asked)}. "
    return found + f"Reference: {'; '.join(beside)}."


def _reference(found: Json) -> str:
    if "reason" in found:
        return str(found["reason"])
    return f"system prompt, other words than at step {found['step']} in {Rate(**found['changed'])}"


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count} × `{rule}`" for rule, count in sorted(counts.items())) or "nothing"


def _verdicts(row: Json) -> list[str]:
    total = sum(entry["sentences"] for entry in row["entries"])
    tested = [one for one in row["verdicts"] if one["status"] == "PARSED"]
    said = f"Verdicts (`lab verify`): {len(tested) or 'none'} of {total} sentences makes a claim that can be tested"
    counts = Counter(one["verdict"] for one in row["verdicts"])
    lines = [said + "".join(f"; {count} × {name}" for name, count in sorted(counts.items())) + "."]
    return lines + [
        f"- {one['kind']} entry: “{quoted(one['claim'])}”: **{one['verdict']}**. {quoted(one['wording'])}"
        for one in row["verdicts"]
    ]


def _quotations(entries: Sequence[Json], turns: Sequence[Json]) -> list[str]:
    first = {kind: next(entry for entry in entries if entry["kind"] == kind) for kind in ("blind", "informed")}
    said = [(f"First {kind} entry, step {one['step']}", one["text"]) for kind, one in first.items()]
    said += [(f"Turn {turn['turn']} of the self-play", turn["text"]) for turn in (turns[0], turns[-1])]
    return [line for title, text in said for line in (f"> {title}: “{quoted(text)}”", ">")][:-1]


def quoted(text: str, most: int = SHOWN) -> str:
    """Model text inside Markdown: one line, its marks escaped, cut with an ellipsis."""
    line = " ".join(visible(text).split())
    line = line if len(line) <= most else line[:most].rstrip() + " …"
    return re.sub(r"([\\`*_{}\[\]<>()#+\-!|~&$:])", r"\\\1", line)
