"""From activations to profiles: bits per word at each layer, with intervals, for the tasks that people name.

A task is a label and a way to read it: alone, or given layer 0. One label's problem is prepared once for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.errors import LabError
from probes.layers.collect import Activations
from probes.layers.fit import Decoding, Untestable, conditional_bits, one_thread, prepare, usable_bits
from probes.layers.intervals import sentence_intervals
from probes.layers.labels import NO_LABEL, ProbeSet
from probes.layers.lexical import is_lexical


@dataclass(frozen=True)
class Task:
    """A label, and whether what layer 0 already gives is taken off."""

    label: str
    given_layer_0: bool


TASKS: Mapping[str, Task] = {
    "class.current": Task("class.current", True),
    "supersense.current": Task("supersense.current", True),
    "class.next": Task("class.next", False),
    "supersense.next": Task("supersense.next", False),
    "class.current.raw": Task("class.current", False),
    "supersense.current.raw": Task("supersense.current", False),
}


class UnknownTask(LabError):
    """A task name that is none of ours."""


@dataclass(frozen=True)
class Profile:
    """One task along the layers, in usable bits per word.

    Attributes:
        layers: 0 = embedding sum, l = after block l, before the final norm.
        value, low, high: per layer; `low` and `high` are the 95 % sentence bootstrap.
        n: labelled words; `sentences` those they are in.
        baseline: the random-initialisation twin's value per layer, where known.
        base_bits: cross-entropy of the label under the class shares alone: the most that could be read.
        rare: classes left out, with their word counts.
    """

    task: str
    layers: tuple[int, ...]
    value: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n: int
    sentences: int
    base_bits: float | None = None
    baseline: tuple[float, ...] | None = None
    classes: tuple[str, ...] = ()
    rare: Mapping[str, int] = field(default_factory=dict)

    @property
    def by_layer(self) -> dict[int, float]:
        return dict(zip(self.layers, self.value, strict=True))


@dataclass(frozen=True)
class Readings:
    """Profiles by task, and for the tasks that cannot be read, why not."""

    profiles: Mapping[str, Profile]
    untestable: Mapping[str, str]
    outliers: int = 0


def check_tasks(tasks: Sequence[str] | None) -> tuple[str, ...]:
    """The tasks asked for, in our order; None means all.

    Raises:
        UnknownTask: naming those that exist.
    """
    for task in tasks or ():
        if task not in TASKS:
            raise UnknownTask(f"task {task!r} is none of ours. Tasks are: {', '.join(TASKS)}.")
    return tuple(task for task in TASKS if tasks is None or task in tasks)


def with_raw(tasks: Sequence[str]) -> tuple[str, ...]:
    """The tasks, and beside each that is given layer 0 the unconditional one, so that "lexical" can be shown."""
    wanted = {*tasks, *(f"{task}.raw" for task in tasks if TASKS[task].given_layer_0)}
    return tuple(task for task in TASKS if task in wanted)


def read_layers(
    activations: Activations,
    probe_set: ProbeSet,
    tasks: Sequence[str],
    fold_of_sentence: Int[Tensor, "sentence"],
    weights: Float[Tensor, "replicate sentence"],
) -> Readings:
    """Every task's profile from one collection of activations.

    Args:
        activations: of this probe set; layer 0 among them when a task is given layer 0.
        tasks: names in `TASKS`.
        fold_of_sentence: from `fit.assign_folds`; shared by everything that is to be compared.
        weights: from `intervals.bootstrap_weights`; likewise.

    Returns:
        A profile for every task that can be read; the others are in `untestable` with the reason, never with a number.
    """
    sentence = torch.tensor(probe_set.word_sentence, dtype=torch.long)

    def read_label(label: str) -> tuple[dict[str, Profile], dict[str, str]]:
        of_label = [task for task in tasks if TASKS[task].label == label]
        found: dict[str, Profile] = {}
        try:
            labels = torch.tensor(probe_set.labels[label], dtype=torch.long)
            labels = torch.where(activations.kept, labels, NO_LABEL)
            problem = prepare(
                label,
                activations.values,
                labels,
                sentence,
                fold_of_sentence,
                probe_set.classes[label],
                activations.layers,
            )
            for task in of_label:
                decoding = conditional_bits(problem) if TASKS[task].given_layer_0 else usable_bits(problem)
                found[task] = _profile(task, decoding, weights)
        except Untestable as error:
            return found, {task: str(error) for task in of_label if task not in found}
        return found, {}

    # Each label's arithmetic stays on one thread (see one_thread); labels are independent, so they share the cores.
    workers = torch.get_num_threads()
    with one_thread(), ThreadPoolExecutor(workers) as pool:
        results = list(pool.map(read_label, dict.fromkeys(TASKS[task].label for task in tasks)))
    profiles = {task: profile for found, _ in results for task, profile in found.items()}
    untestable = {task: reason for _, reasons in results for task, reason in reasons.items()}
    ordered = {task: profiles[task] for task in tasks if task in profiles}
    return Readings(ordered, untestable, activations.outliers)


def lexical_tasks(profiles: Mapping[str, Profile]) -> tuple[str, ...]:
    """Tasks of the current word whose raw profile is lexical."""
    raw = [task for task in profiles if task.endswith(".raw")]
    return tuple(task.removesuffix(".raw") for task in raw if is_lexical(profiles[task].by_layer))


def profile_table(profiles: Mapping[str, Profile]) -> list[dict[str, Any]]:
    """One row a layer: `layer`, and per task a dict of value, low, high, baseline and n (None where not read)."""
    layers = sorted({layer for profile in profiles.values() for layer in profile.layers})
    rows: list[dict[str, Any]] = []
    for layer in layers:
        row: dict[str, Any] = {"layer": layer}
        for task, profile in profiles.items():
            if layer not in profile.layers:
                row[task] = None
                continue
            at = profile.layers.index(layer)
            row[task] = {
                "value": profile.value[at],
                "low": profile.low[at],
                "high": profile.high[at],
                "baseline": None if profile.baseline is None else profile.baseline[at],
                "n": profile.n,
            }
        rows.append(row)
    return rows


def _profile(task: str, found: Decoding, weights: Float[Tensor, "replicate sentence"]) -> Profile:
    intervals = sentence_intervals(found.gain, found.words, weights)
    return Profile(
        task=task,
        layers=found.layers,
        value=tuple(intervals.value.tolist()),
        low=tuple(intervals.low.tolist()),
        high=tuple(intervals.high.tolist()),
        n=found.n,
        sentences=int((found.words > 0).sum()),
        base_bits=found.base_bits,
        classes=found.classes,
        rare=found.rare,
    )
