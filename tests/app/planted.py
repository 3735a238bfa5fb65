"""Runs with planted truth: what a page must show is known, because we wrote it."""

import math
from pathlib import Path

from app.figures import Cell
from lab.config import load_config
from lab.records import Event, Reading, Records, Regime
from lab.run import Run

LAYERS = 7
STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, *range(600, 2000, 100))
PLANTED = {  # task -> (bits at the last layer when fully learned, bits that layer 0 has from the start)
    "class.current": (0.12, 0.0),
    "class.next": (0.45, 0.10),
    "supersense.current": (0.35, 0.0),
    "supersense.next": (0.60, 0.15),
    "class.current.raw": (0.88, 0.85),
    "supersense.current.raw": (1.60, 0.70),
}


def planted(task: str, step: int, layer: int, layers: int = LAYERS) -> Cell:
    """Rises with depth and with training; the interval and the twin keep a known distance."""
    top, zero = PLANTED.get(task, (0.5, 0.1))
    share = layer / max(1, layers - 1) * min(1.0, math.log1p(step) / math.log1p(STEPS[-1]))
    value = round(zero + (top - zero) * share, 6)
    return Cell(step, layer, value, value - 0.02, value + 0.03, 5120, round(0.9 * zero + 0.004 * layer, 6), None)


def make_run(root: Path, name: str, steps: tuple[int, ...] = STEPS, tasks: tuple[str, ...] = tuple(PLANTED)) -> Run:
    """A run of two segments, resumed at 1,000 after it had come to 1,100; `steps=()` leaves its records empty."""
    run = Run.create(root, name, load_config("demo", overrides=["train.steps=2000"]))
    records = Records.writer(run.database)
    if steps:
        _train(records, 0, 1100, resumed_from=None)
        segment = _train(records, 1000, steps[-1], resumed_from=1) if steps[-1] > 1000 else 1
        regime = Regime(name="probing", step=0, protocol={"sentences": 400}, hash="0" * 64)
        records.add_now(regime)
        cells = [(task, planted(task, step, layer)) for task in tasks for step in steps for layer in range(LAYERS)]
        records.add(
            *(
                Reading(
                    task=task,
                    reading="decode",
                    segment=1 if cell.step <= 1000 else segment,
                    step=cell.step,
                    layer=cell.layer,
                    regime=regime.id,
                    value=cell.value,
                    lo=cell.lo,
                    hi=cell.hi,
                    n=cell.n,
                    baseline=cell.baseline,
                )
                for task, cell in cells
            )
        )
        records.add_now(
            Event(segment=segment, step=1000, kind="resume", text="resumed <b>at</b> 1000", data={}, at=1e9)
        )
    records.flush()
    records.close()
    return run


def _train(records: Records, first: int, last: int, resumed_from: int | None) -> int:
    segment = records.new_segment(first, resumed_from, "0" * 64)
    for step in range(first + 1, last + 1, 3):
        noise = math.sin(step * 12.9898) * 0.15
        values = {
            "train/loss": 4.5 + 3.8 * math.exp(-step / 300) + noise,
            "train/lr": 3e-3 * min(1, step / 50) * 0.5 * (1 + math.cos(math.pi * step / 2000)),
            "train/gradient_norm": 0.5 + abs(noise) * 4,
            "train/tokens_per_second": 21_000 + 3000 * noise,
        }
        if step % 100 < 3:
            values["validation/bits_per_byte"] = 1.7 + 1.5 * math.exp(-step / 350)
        records.metrics(segment, step, values)
    records.flush()
    records.end_segment(segment, last, "planted")
    return segment
