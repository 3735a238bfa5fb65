"""Rebuild the example run that `lab app --example` opens: app/example.zip.

    python scripts/make_example.py [--output FILE] [--work FOLDER]

Everything in it is made by the commands below, on text that the lab's dependencies ship, with one thread: about six minutes
on a quiet core. The same software gives the same figures again; only clock times and what depends on them (seconds, tokens
per second) differ. Afterwards what no page reads is left out: other checkpoints, optimizers, the probes' sums, the branches'
weights. What is kept is kept as it was made.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from lab.checkpoint import list_checkpoints
from lab.checkpoint_upkeep import delete, keep_weights_only
from lab.run import Run

ROOT = Path(__file__).resolve().parents[1]
NAME, CONCEPT = "example", "person"
HALF, STEPS, REFERENCE = 500, 1000, 512
KEPT = (
    REFERENCE,
    STEPS,
)  # checkpoints whose weights come along: what the server answers from, and what it compares with
SEED = "Function words at lower layers, semantic concepts at higher layers."
NOTE = (
    "The loss went down fastest before step 100. Word class came up before word meaning. "
    "Semantic concepts are in the top half of the layers."
)
SETTINGS = (
    "model.n_layers=4",
    "model.d_model=48",
    "model.d_mlp=96",
    "model.d_vocab=768",
    "model.n_ctx=128",
    f"train.steps={STEPS}",
    f"train.stop={HALF}",  # where the concept is found and a branch is frozen, before training goes on
    "train.batch=16",
    "train.threads=1",
    "train.device=cpu",
    "optimizer.lr=5e-3",
    "optimizer.warmup_steps=50",
    "checkpoint.every=100",
    "probing.every=100",
    "probing.sentences=400",
    "evaluation.every=50",
    "evaluation.tokens=16384",
    'evaluation.benchmarks=["lab"]',
    "evaluation.benchmarks_every=250",
    "understanding.every=50",
    "understanding.batteries_every=500",
    "understanding.contrasts_every=0",
    "understanding.budget=1.0",  # a visit that is put off because a machine is slow would make another run
    "self_play.every=250",
    "self_play.turns=6",
    "check_ins.every=250",
    "check_ins.prompts=4",
    "check_ins.samples=2",
    f"check_ins.system_from={HALF}",
    'check_ins.system_prompt="You are a small language model. Answer in one short sentence."',
    "journal.every=250",
    'journal.kinds=["blind"]',  # an informed entry's prompt is longer than this context
    "journal.max_tokens=64",
    "shimmer.every=100",
)
BRANCH = ("probing.every=0", "shimmer.every=0", "self_play.every=0", "check_ins.every=0", "journal.every=0")
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("train", "--preset", "tiny", "--name", NAME, *(part for one in SETTINGS for part in ("--set", one))),
    ("concept", "add", NAME, CONCEPT, "--task", "supersense.current:noun.person"),
    ("freeze", NAME, CONCEPT, "--mode", "anchor", "--steps", "200", *(p for one in BRANCH for p in ("--set", one))),
    ("resume", NAME, "--extend-to", str(STEPS)),
    ("journal", "add", NAME, "--author", "reader", "--text", NOTE),
    ("journal", "add", NAME, "--author", "log", "--text", SEED),  # the newest: what the journal opens with
    ("verify", NAME, "--quick"),
    ("report", "markers", NAME),
    ("report", "motifs", NAME),
)
LEFT_OUT = ("run.lock", "holder.json", "logs", "inbox", "exports")
BRANCHES_LACK = ("checkpoints", "tokenizer", "statistics")  # they have no weights to answer from
CLOCK = (2026, 1, 1, 0, 0, 0)  # of the archive's entries


def run_commands(runs: Path) -> None:
    """Every command, one after another, each a process of its own."""
    environment = os.environ | {
        "LAB_RUNS": str(runs),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    for command in COMMANDS:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-P", "-m", "app.cli", *command], env=environment, cwd=runs, check=True)
        print(f"lab {' '.join(command[:3])}: {time.perf_counter() - began:.0f} s", flush=True)


def trim(run: Run) -> None:
    """Leave out of a run what no page reads, and what tells of the machine it was made on."""
    main = run.name == NAME
    for info in list_checkpoints(run.checkpoints_folder):
        if main and info.step in KEPT:
            keep_weights_only(info.path)
        else:
            delete(info.path)
    for weights in (*run.statistics.glob("step-*.safetensors"), *run.concepts.glob("*/frozen-*.safetensors")):
        weights.unlink()
    run.update_manifest(platform=platform.system(), git=None)
    with contextlib.closing(sqlite3.connect(run.database)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.execute("VACUUM")
    for name in LEFT_OUT if main else LEFT_OUT + BRANCHES_LACK:
        path = run.path / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def pack(runs: Path, output: Path) -> None:
    """The run folders as one archive: names in order, no times, no owners."""
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(runs.rglob("*")):
            inside = path.relative_to(runs)
            if path.is_file() and not inside.parts[0].startswith("."):
                archive.writestr(zipfile.ZipInfo(str(inside), CLOCK), path.read_bytes(), zipfile.ZIP_DEFLATED, 9)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "app" / "example.zip")
    parser.add_argument("--work", type=Path, help="build here, and leave it there (default: a temporary folder)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        runs = arguments.work or Path(temporary)
        if any(runs.glob("*")):
            parser.error(f"{runs}: is not empty. Name a new folder.")
        runs.mkdir(parents=True, exist_ok=True)
        run_commands(runs)
        for run in Run.ls(runs):
            trim(run)
        pack(runs, arguments.output)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = used.ru_utime + used.ru_stime
    print(f"{arguments.output}: {arguments.output.stat().st_size / 1e6:.2f} MB, {seconds:.0f} s of a core")


if __name__ == "__main__":
    main()
