"""Benchmark answers and reasons as rows of `items`: what is written, and how it is read back. Imports no torch.

A row is one item at one step under one key, the hash of protocol and weights; a row of the same key is never made twice, so
that a killed bench goes on where it was. Answers stand under the task's name, reasons under `<task>/reasons`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from lab.benchmarks import Answer
from lab.records import Item as Row
from lab.records import Records
from probes.behaviour.reasoning import Admission
from probes.behaviour.two_by_two import Judged

REASONS, ADMISSION = "/reasons", "admission"
SKIPPED = "skipped"  # of an item that does not fit the model


@dataclass(frozen=True)
class Reasons:
    """What the model said for its answer to one item, and how that was scored.

    Attributes:
        chosen: the option it found likeliest before it said anything; forced: a random other one.
        rationales: text by source (`probes.behaviour.two_by_two.SOURCES`).
        scores: by scorer, by source.
        first: the rationale written before any answer; first_choice: the answer after it.
        reference: whose rationale stands under "reference".
    """

    item: str
    subject: str
    chosen: int
    gold: int
    forced: int
    rationales: Mapping[str, str]
    scores: Mapping[str, Mapping[str, float]]
    first: str
    first_choice: int
    reference: str

    @property
    def right(self) -> bool:
        return self.chosen == self.gold

    @property
    def first_right(self) -> bool:
        return self.first_choice == self.gold

    @property
    def agrees(self) -> bool:
        """Whether the answer is the same before and after a rationale."""
        return self.first_choice == self.chosen

    def judged(self, scorer: str) -> Judged:
        return Judged(self.right, self.scores[scorer])

    def to_json(self) -> dict[str, Any]:
        scores = {scorer: dict(found) for scorer, found in self.scores.items()}
        return {**self.__dict__, "rationales": dict(self.rationales), "scores": scores}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(**{name: data[name] for name in cls.__dataclass_fields__})


def answered(records: Records, task: str, step: int, key: str | None = None) -> list[Answer]:
    """Stored answers to a task at a step: those of the key, by default of the newest one."""
    return [Answer.from_json(data["answer"]) for data in _data(records, task, step, key) if "answer" in data]


def reasoned(records: Records, task: str, step: int, key: str | None = None) -> list[Reasons]:
    """Stored reasons, likewise."""
    return [Reasons.from_json(data["reasons"]) for data in _data(records, task + REASONS, step, key)]


def admissions(records: Records, step: int, key: str | None = None) -> dict[str, Admission]:
    """The admission test of each scorer with this step's model as the reader."""
    found = [Admission.from_json(data["admission"]) for data in _data(records, ADMISSION, step, key)]
    return {one.scorer: one for one in found}


def done(records: Records, task: str, step: int, key: str) -> set[str]:
    """Items that need no second look."""
    return {row.item for row in records.rows(Row, task=task, step=step) if row.data.get("key") == key}


def benched(records: Records) -> dict[str, list[int]]:
    """Steps of each task that has answers, ascending, in the order in which tasks were first asked."""
    steps: dict[str, set[int]] = {}
    for row in records.rows(Row):
        if row.task != ADMISSION and not row.task.endswith(REASONS):
            steps.setdefault(row.task, set()).add(row.step)
    return {task: sorted(found) for task, found in steps.items()}


def mark(records: Records) -> int:
    """A number that changes when there is something new to show."""
    return max((row.id for row in records.rows(Row)), default=0)


def _data(records: Records, task: str, step: int, key: str | None) -> Sequence[dict[str, Any]]:
    rows = records.rows(Row, task=task, step=step)
    wanted = key or (rows[-1].data.get("key") if rows else None)
    return [row.data for row in rows if row.data.get("key") == wanted]
