"""A tiny trained run with a concept in it, for tests of freezes and their proofs."""

import hashlib
from collections.abc import Callable
from pathlib import Path

from lab.config import RunConfig
from lab.run import Run
from train.concepts import Task, add
from train.loop import train
from train.session import start

STEPS = 8  # of a branch: an unfrozen concept moves by some per cent of its spread in these
QUIET = [f"{name}.every=0" for name in ("probing", "evaluation", "understanding", "shimmer")]


def concept_run(tiny_config: Callable[..., RunConfig], root: Path, name: str = "fox") -> Run:
    """Trained for 30 of 60 steps, with "function" (function words against content words) found at layer 1."""
    config = tiny_config(
        "train.steps=60", "train.stop=30", "checkpoint.every=30", "data.validation_share=0.2", *QUIET
    )  # fmt: skip
    with start(config, root, name) as session:
        outcome = train(session)
        session.record_costs()
        session.records.end_segment(session.segment, session.step, outcome.reason)
    run = Run.open(root / name)
    add(run, "function", Task("class.current"), layer=1)
    return run


def folder_hash(run: Run) -> str:
    """sha256 over every file of a run and its name; what readers of the database leave beside it does not count."""
    digest = hashlib.sha256()
    for file in sorted(path for path in run.path.rglob("*") if path.is_file()):
        if file.name in ("run.lock", "run.db-shm", "run.db-wal"):
            continue
        digest.update(str(file.relative_to(run.path)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
