"""A run of any size, put into its database by plain SQL: seconds where the recorder would take minutes."""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lab.config import load_config
from lab.records import Records
from lab.run import Run
from probes.claims import grammar
from tests.app.planted_behaviour import LIST, LOOP
from tests.app.planted_verdicts import verdict_of
from train.entries import as_row

NAMES = ("train/loss", "train/lr", "train/gradient_norm", "train/tokens_per_second", "validation/bits_per_byte")
RULES = ("loss-spike", "dead-units", "loops.tail-cycle", "structure.layout", "stereotypes.gap")
SENTENCES = (
    "Function words are settled at lower layers than content words.",
    "Animals are in the top third of the layers.",
    "Verbs are decodable at lower layers than nouns.",
)


@dataclass(frozen=True)
class Size:
    """Rows to make; what a long run on a large model leaves behind."""

    metrics: int = 1_000_000
    entries: int = 1_000
    checkpoints: int = 200
    layers: int = 31
    tasks: int = 10
    findings: int = 5_000
    events: int = 3_000
    episodes: int = 200


HUGE = Size()
TENTH = Size(100_000, 150, 40, 31, 4, 1_000, 600, 30)


def make_huge(root: Path, name: str, size: Size = HUGE) -> Run:
    """A finished run with as many rows of every kind; deterministic."""
    steps = size.metrics // len(NAMES)
    run = Run.create(root, name, load_config("demo", overrides=[f"train.steps={steps}"]))
    Records.writer(run.database).close()
    with sqlite3.connect(run.database) as database:
        database.execute("PRAGMA synchronous = OFF")
        database.execute(
            "INSERT INTO segments (id, from_step, config_hash, started_at, end_step, ended_at, reason) "
            "VALUES (1, 0, 'x', 1.79e9, ?, 1.791e9, 'finished')",
            (steps,),
        )
        database.execute("INSERT INTO regimes (id, name, step, protocol, hash) VALUES (1, 'probing', 0, '{}', 'x')")
        database.executemany("INSERT INTO metrics (name, segment, step, value) VALUES (?, 1, ?, ?)", _metrics(steps))
        at = [steps * i // size.checkpoints for i in range(1, size.checkpoints + 1)]
        database.executemany(
            "INSERT INTO readings (task, reading, segment, step, layer, regime, value, lo, hi, n, baseline) "
            "VALUES (?, 'decode', 1, ?, ?, 1, ?, ?, ?, 5120, 0.01)",
            _readings(at, size),
        )
        database.executemany(
            "INSERT INTO findings (segment, step, instrument, rule, version, severity, text, value, evidence) "
            "VALUES (1, ?, 'planted', ?, '1', ?, 'something was seen', 0.5, '{}')",
            (
                (steps * i // size.findings, RULES[i % len(RULES)], ("info", "watch", "alert")[i % 3])
                for i in range(size.findings)
            ),
        )
        database.executemany(
            "INSERT INTO events (segment, step, kind, text, data, at) VALUES (1, ?, ?, 'it happened', '{}', ?)",
            ((steps * i // size.events, ("hold", "release")[i % 2], 1.79e9 + i) for i in range(size.events)),
        )
        database.executemany(
            "INSERT INTO episodes (segment, step, kind, regime, data) VALUES (1, ?, 'self-play', 1, ?)",
            ((at[i % len(at)], _episode(i)) for i in range(size.episodes)),
        )
        _journal(database, size.entries, at)
    database.close()
    return run


def _metrics(steps: int) -> Iterator[tuple[str, int, float]]:
    for column, name in enumerate(sorted(NAMES)):
        for step in range(1, steps + 1):
            yield name, step, 2.0 + column + (step * 7919 % 1000) / 1000 + 100.0 / step


def _readings(at: list[int], size: Size) -> Iterator[tuple[str, int, int, float, float, float]]:
    known = ("class.current", "class.next", "supersense.current", "supersense.next", "class.current.raw")
    tasks = [known[i] if i < len(known) else f"task-{i}" for i in range(size.tasks)]
    for task in sorted(tasks):
        for nth, step in enumerate(at):
            for layer in range(size.layers):
                value = 0.6 * layer / size.layers * (1 + nth) / len(at)
                yield task, step, layer, value, value - 0.02, value + 0.03


def _episode(i: int) -> str:
    said = (f"I saw a dog, number {i}.", LOOP, LIST)
    turns = [{"turn": t, "voice": "AB"[t % 2], "text": said[(i + t) % 3], "findings": []} for t in range(12)]
    rates = {name: {"count": i % 5, "checks": 12} for name in ("loop", "structure")}
    return json.dumps({"topic": "a dog", "turns": turns, "findings": [], "rates": rates})


def _journal(database: sqlite3.Connection, entries: int, at: list[int]) -> None:
    """Each entry of a few hundred words with up to three claims, and a verdict of the real size for each but some."""
    made: dict[str, dict[str, Any]] = {}
    read: dict[int, list[grammar.Claim]] = {}
    filler = "I have read much today and remember little of it. " * 12
    for i in range(1, entries + 1):
        step, author = at[i * len(at) // (entries + 1)], ("model", "Ada", "log")[i % 3]
        text = f"Entry {i:04d}. {filler}" + " ".join(SENTENCES[: i % 4])
        database.execute(
            "INSERT INTO entries (id, step, author, kind, text, created_at) VALUES (?, ?, ?, 'note', ?, ?)",
            (i, step, author, text, 1.79e9 + i),
        )
        if i % 4 not in read:  # their places are the same in every entry, and reading one takes 0.1 s
            read[i % 4] = list(grammar.parse(text, i))
        for nth, known in enumerate(read[i % 4]):
            claim = replace(known, id=f"{i:08x}{nth:08x}", entry=str(i))
            row = as_row(claim, i)
            database.execute(
                "INSERT INTO claims (id, entry, text, kind, a, b, reading, scope, polarity, data) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (row.id, i, row.text, row.kind, row.a, row.b, row.reading, row.scope, row.polarity,
                 json.dumps(row.data)),
            )  # fmt: skip
            if i % 10:
                base = made.setdefault(claim.text, verdict_of(claim, author, "huge", step, "SUPPORTED-WEAK", 0.21))
                data = {**base, "claim": claim.to_json(), "step": step, "author": author}
                database.execute(
                    "INSERT INTO verdicts (claim, step, verdict, created_at, data) VALUES (?, ?, ?, 1.79e9, ?)",
                    (row.id, step, base["verdict"], json.dumps(data)),
                )
