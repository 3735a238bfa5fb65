"""What the model is asked for a journal entry: nothing but the step, or the newest probe readings as well."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from lab.errors import LabError
from lab.records import Reading
from lab.sections import JournalConfig
from train.conversations import Scene, fits
from train.prompts import journal_prompts

Kind = Literal["blind", "informed"]


class NoReadingsToShow(LabError):
    """An informed entry was asked for, and there is nothing to inform the model with."""


@dataclass(frozen=True)
class Shown:
    """Probe readings of a step, one a task: the layer where it reads most."""

    step: int | None
    rows: tuple[Reading, ...]

    def to_json(self, layers: int) -> dict[str, Any]:
        names = ("task", "layer", "value", "lo", "hi", "n", "baseline")
        return {
            "step": self.step,
            "layers": layers,
            "unit": "usable bits per word at the layer where the task reads most; baseline: a never-trained twin",
            "readings": [{name: getattr(row, name) for name in names} for row in self.rows],
        }


def newest_readings(scene: Scene) -> Shown:
    """The probe readings recorded at this step, or the newest before it."""
    scene.records.flush()  # probing may have looked a moment ago
    steps = [step for step in scene.records.reading_steps() if step <= scene.step]
    if not steps:
        return Shown(None, ())
    best: dict[str, Reading] = {}
    for row in scene.records.readings(step=steps[-1]):
        if row.task not in journal_prompts().tasks or not math.isfinite(row.value):
            continue
        if row.task not in best or row.value > best[row.task].value:
            best[row.task] = row
    return Shown(steps[-1], tuple(best[task] for task in sorted(best)))


def reading_lines(scene: Scene, shown: Shown) -> list[str]:
    """The readings as a prompt shows them."""
    known = journal_prompts()
    return [
        known.reading.format(
            task=known.tasks[row.task],
            value=row.value,
            layer=row.layer,
            layers=scene.run.config.model.n_layers,
            lo=row.lo,
            hi=row.hi,
            twin="unknown" if row.baseline is None else f"{row.baseline:.2f}",
        )
        for row in shown.rows
    ]


def entry_prompt(scene: Scene, config: JournalConfig, kind: Kind, lines: list[str]) -> str:
    """What the model is asked; of an informed entry, with as many readings as the context has room for.

    Raises:
        NoReadingsToShow
    """
    known = journal_prompts()
    if kind == "blind":
        return known.blind.format(step=scene.step)
    if not lines:
        raise NoReadingsToShow(
            f"{scene.run.name}: there are no probe readings at step {scene.step} or before, so no informed entry is "
            "written. Switch probing on, or leave informed out of journal.kinds."
        )
    while lines:
        asked = known.informed.format(step=scene.step, readings="\n".join(lines))
        if fits(scene, [{"role": "user", "content": asked}], config.max_tokens):
            return asked
        lines = lines[:-1]
    raise NoReadingsToShow(
        f"{scene.run.name}: model.n_ctx = {scene.model.cfg.n_ctx} has no room to show a reading, so no informed entry is "
        "written. Leave informed out of journal.kinds, or use a larger context."
    )
