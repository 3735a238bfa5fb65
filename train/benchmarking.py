"""Benchmarks over a run: answers by likelihood, then reasons for them, kept item by item in the records.

`bench` asks stored checkpoints, `Benchmarks` the model that trains. Work is done in small batches of fixed members, each
committed whole: after a kill the same call goes on with the next batch, and comes to the same rows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.benchmark_files import BadItems, read_items
from lab.benchmark_items import Item, in_order, load_items, task
from lab.benchmarks import Answer, TrainingText, score
from lab.errors import LabError
from lab.records import Item as Row
from lab.run import Run
from lab.sections import EvaluationConfig
from probes.behaviour.accuracy import every_accuracy
from train.attachments import Moment
from train.benchmark_records import SKIPPED, answered, done
from train.conversations import Scene, stored_scene, weights_mark
from train.prompts import canonical

NAME, PROTOCOL = "benchmarks", "options by likelihood, 1"
BATCH = 16  # items; a kill costs at most the work on so many
Report = Callable[[str, float], None]


@dataclass(frozen=True)
class Asked:
    """A benchmark and the items of it that are asked."""

    task: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Result:
    """What one checkpoint answered.

    Attributes:
        skipped: items of which an option alone is longer than the model reads.
        fresh: items answered now; the others were there already.
    """

    step: int
    task: str
    answers: tuple[Answer, ...]
    skipped: int
    fresh: int


def asked(names: Sequence[str], files: Sequence[Path] = (), limit: int | None = None) -> list[Asked]:
    """Benchmarks by name and from files, each cut to its first `limit` items.

    Raises:
        UnknownTask, AssetMissing, BadItems
    """
    for name in names:
        task(name)  # all names before any file is opened
    found = [Asked(name, tuple(load_items(name, limit))) for name in dict.fromkeys(names)]
    for file in files:
        items = read_items(file)
        if items[0].task in {one.task for one in found}:
            raise BadItems(f"{file}: {items[0].task!r} is the name of another benchmark. Rename the file.")
        found.append(Asked(items[0].task, tuple(in_order(items)[:limit])))
    return found


def bench(
    run: Run,
    benchmarks: Sequence[Asked],
    steps: Sequence[int | None] = (None,),
    with_reasons: bool = False,
    contamination: bool = True,
    report: Report | None = None,
) -> list[Result]:
    """Ask stored checkpoints (None: the newest); what is in the records under the same weights is not asked again.

    Args:
        with_reasons: also a rationale for each answer, one before each answer, and the controls (`train.reasoning`).
        contamination: look the items up in the training text, where the run has one.

    Raises:
        RunLocked, CheckpointMissing
        CannotReason: a benchmark whose items have no question; nothing was asked.
    """
    from train.reasoning import check_questions, reason

    say = report or (lambda what, share: None)
    if with_reasons:
        check_questions([item for one in benchmarks for item in one.items])
    text = _training_text(run, say) if contamination else None
    results = []
    for step in steps:
        with stored_scene(run, step, "bench") as scene:
            for one in benchmarks:
                result = answer(scene, one, text, say)
                results.append(result)
                if with_reasons:
                    reason(scene, one.task, result.answers, say)
    return results


def answer(scene: Scene, benchmark: Asked, text: TrainingText | None = None, report: Report | None = None) -> Result:
    """A benchmark at one step, batch by batch; batches that the records have are passed over."""
    say = report or (lambda what, share: None)
    key = answer_key(scene, text is not None)
    known = done(scene.records, benchmark.task, scene.step, key)
    fresh = 0
    for start in range(0, len(benchmark.items), BATCH):
        batch = [item for item in benchmark.items[start : start + BATCH] if item.id not in known]
        if batch:
            rows = _rows(scene, benchmark.task, key, batch, score(scene.model, scene.tokenizer, batch, text))
            scene.records.add_now(*rows)
            fresh += len(rows)
        share = min(1.0, (start + BATCH) / len(benchmark.items))
        say(f"{benchmark.task} at step {scene.step}", share)
    wanted = {item.id: at for at, item in enumerate(benchmark.items)}
    found = [one for one in answered(scene.records, benchmark.task, scene.step, key) if one.item.id in wanted]
    found.sort(key=lambda one: wanted[one.item.id])
    result = Result(scene.step, benchmark.task, tuple(found), len(benchmark.items) - len(found), fresh)
    _record_metrics(scene, result)
    return result


def answer_key(scene: Scene, looked_up: bool) -> str:
    """What an answer depends on besides its item: the weights, the tokenizer and the way of asking."""
    protocol = {"protocol": PROTOCOL, "weights": weights_mark(scene.model, scene.step), "looked_up": looked_up}
    return canonical(protocol)


def _rows(scene: Scene, name: str, key: str, items: Sequence[Item], answers: Sequence[Answer | None]) -> list[Row]:
    rows = []
    for item, one in zip(items, answers, strict=True):
        data: dict[str, Any] = {"key": key, SKIPPED: True} if one is None else {"key": key, "answer": one.to_json()}
        rows.append(Row(step=scene.step, task=name, item=item.id, data=data))
    return rows


def _record_metrics(scene: Scene, result: Result) -> None:
    """`bench/<task>/acc` and its like, once a segment and step: numbers of a wider bench are read from the items."""
    if not result.answers:
        return
    known = scene.records.series(f"bench/{result.task}/acc", max_points=sys.maxsize, lineage_only=False)
    if any(point[:2] == (scene.segment, scene.step) for point in known):
        return
    rates = every_accuracy(result.answers)
    values = {f"bench/{result.task}/{metric}": rate.value for metric, rate in rates.items()}
    scene.records.metrics(scene.segment, scene.step, values | {f"bench/{result.task}/items": len(result.answers)})


def _training_text(run: Run, say: Report) -> TrainingText | None:
    """None for imported weights that were not trained here: nobody can look up what they have read."""
    if not run.manifest.get("data"):
        return None
    from train.session import corpus_of  # sessions are equipped with the attachment below

    say("indexing the training text", 0.0)
    return TrainingText(corpus_of(run).training_documents())


class Benchmarks:
    """The attachment: the same items every time, answers alone."""

    name = NAME
    log_spaced = True

    def __init__(self, config: EvaluationConfig) -> None:
        self.every = config.benchmarks_every
        self.benchmarks = asked(config.benchmarks, limit=config.benchmark_items)  # refused before the first step
        self._told: set[str] = set()

    def visit(self, moment: Moment) -> None:
        scene = Scene.of(moment)
        for one in self.benchmarks:
            try:
                answer(scene, one)
            except (LabError, OSError) as error:
                if str(error) not in self._told:  # once a segment, not at every visit
                    self._told.add(str(error))
                    scene.tell("untestable", str(error), {"attachment": self.name})

    def state_dict(self) -> dict[str, Any]:
        return {"every": self.every}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.every = int(state["every"])
