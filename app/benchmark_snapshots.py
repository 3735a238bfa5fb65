"""Every benchmark snapshot of a run as one line each: how many items were right, and what guessing gives.

Only the numbers are fetched, not the texts: a run may hold tens of thousands of answers. The whole report is `bench_report`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from lab.database import reading_engine
from lab.records import Item, Records
from probes.behaviour.rates import wilson


@dataclass(frozen=True)
class Snapshot:
    """A benchmark at a step: `right` of `items` (likeliest option), of which guessing gets the share `chance`."""

    step: int
    task: str
    right: int
    items: int
    chance: float

    @property
    def text(self) -> str:
        return f"{self.task}: right in {wilson(self.right, self.items)}; guessing {self.chance:.1%}"


def snapshots(records: Records) -> list[Snapshot]:
    """One for each task and step that has answers, ascending by step; of answers under several keys, the newest."""
    answer = "answer"
    query = select(
        Item.step, Item.task, Item.data["key"], Item.data[(answer, "likelihood")],
        Item.data[(answer, "greedy")], Item.data[(answer, "item", "gold")],
    ).where(Item.data[(answer, "likelihood")].is_not(None)).order_by(Item.id)  # fmt: skip
    engine = reading_engine(records.path)
    try:
        with engine.connect() as connection:
            found: dict[tuple[int, str], tuple[Any, list[tuple[bool, float]]]] = {}
            for step, task, key, likelihood, greedy, gold in connection.execute(query):
                if isinstance(likelihood, list) and likelihood and isinstance(greedy, list) and greedy:
                    known = found.get((step, task))
                    if known is None or known[0] != key:
                        known = found[step, task] = (key, [])
                    known[1].append(_right(likelihood, greedy, gold))
    finally:
        engine.dispose()
    return [
        Snapshot(step, task, sum(right for right, _ in all), len(all), sum(chance for _, chance in all) / len(all))
        for (step, task), (_, all) in sorted(found.items())
    ]


def _right(likelihood: list[float], greedy: list[bool], gold: Any) -> tuple[bool, float]:
    """Whether the first of the likeliest options is the gold one, as `Answer.right`; and the chance of guessing it."""
    if len(likelihood) == 1:
        return bool(greedy[0]), 0.0
    return likelihood.index(max(likelihood)) == gold, 1 / len(likelihood)
