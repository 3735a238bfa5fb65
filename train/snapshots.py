"""Snapshots of a run's tracked labels, made from a model: at a live visit, or of the checkpoints that are stored.

The same eyes serve both, so both give the same numbers. What was made under another protocol, or on a history that a rewind
left, is not put beside the rest. The files are `snapshot_files`; what becomes of a label is told in `shimmer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from lab.checkpoint import list_checkpoints
from lab.concepts import Concept, names
from lab.errors import LabError
from lab.records import RecordsMissing
from lab.run import Run
from lab.tokenizer import Tokenizer
from probes.concepts.snapshot import Frame, Snapshot, snapshot
from probes.layers import labels
from probes.layers.balance import binary
from probes.layers.collect import collect
from probes.layers.fit import Untestable, assign_folds
from probes.layers.groups import ENOUGH_DOCUMENTS
from probes.layers.probe_set import ProbeSet
from probes.layers.profile import TASKS, check_tasks
from probes.layers.statistics import BLOCKS, assign_blocks
from train.material import canonical
from train.probing import Bench
from train.snapshot_files import (
    CONCEPT,
    VERSION,
    Look,
    Stored,
    in_memory,
    of_present_concepts,
    read,
    stored_steps,
    write,
)

Progress = Callable[[str, float], None]


@dataclass
class Eyes:
    """All that stays the same from one checkpoint to the next: probe set, division, and the labels of concepts."""

    run: Run
    probe_set: ProbeSet
    layers: tuple[int, ...]
    _labels: dict[str, tuple[Tensor, tuple[str, ...]]] = field(default_factory=dict)

    @classmethod
    def open(cls, run: Run, tokenizer: Tokenizer, texts: Callable[[], Sequence[str]], store: bool = True) -> Eyes:
        """On the probe set of the run's live probes; made of validation text, and kept, if it is not there yet.

        Raises:
            BadProbeSet: too little text, or a stored set that does not hold together.
        """
        bench = Bench.open(run, run.config.probing, tokenizer, texts, store)
        return cls(run, bench.probe_set, bench.layers)

    @cached_property
    def frame(self) -> Frame:
        config = self.run.config.probing
        sentences, units = len(self.probe_set.sentences), torch.tensor(self.probe_set.units)
        whole = units if len(set(self.probe_set.units)) >= ENOUGH_DOCUMENTS else None
        fold = assign_folds(sentences, config.folds, config.seed, whole)
        block, _ = assign_blocks(fold, whole, config.folds * max(2, BLOCKS // config.folds))
        sentence = torch.tensor(self.probe_set.word_sentence, dtype=torch.long)
        return Frame(sentence, fold, block, torch.arange(sentences) if whole is None else whole)

    @cached_property
    def protocol(self) -> dict[str, Any]:
        """What a number here depends on besides the weights; any change opens a regime and makes new files."""
        config = self.run.config.probing
        return {
            "instrument": f"snapshots of shrinkage discriminants, {VERSION}",
            "probe_set": self.probe_set.sha256,
            "folds": config.folds,
            "blocks": int(self.frame.block.max()) + 1,
            "seed": config.seed,
            "layers": list(self.layers),
        }

    def tracked(self) -> tuple[str, ...]:
        """What is followed by default: the labels of the run's probing tasks, each read alone, and its concepts."""
        wanted = {TASKS[task].label for task in self.run.config.probing.tasks}
        tasks = (name for name, task in TASKS.items() if task.label in wanted and not task.given_layer_0)
        return (*tasks, *(CONCEPT + name for name in names(self.run)))

    def look(self, model: Any, tracked: Sequence[str]) -> Look:
        """One pass of a model over the probe set. A name that cannot be read is untestable, with the reason.

        Raises:
            BadActivations: not finite, or no residual hooks.
        """
        activations = collect(model, self.probe_set)
        found: dict[str, Snapshot] = {}
        untestable: dict[str, str] = {}
        concepts: dict[str, str] = {}
        for name in tracked:
            try:
                if name.startswith(CONCEPT):
                    concept = Concept.load(self.run, name.removeprefix(CONCEPT))
                    concepts[name] = concept.sha256
                    coordinates = concept.coordinates(activations.values[concept.layer])
                    layers: tuple[int, ...] = (concept.layer,)
                    values = coordinates[None]
                    label, classes = self._of_concept(concept)
                else:
                    coordinates, layers = None, self.layers
                    values = activations.values[list(layers)]
                    label, classes = self._of_task(TASKS[name].label)
                found[name] = snapshot(name, values, layers, label, classes, self.frame, activations.kept, coordinates)
            except LabError as error:
                untestable[name] = str(error)
        return Look(found, untestable, concepts)

    def _of_task(self, label: str) -> tuple[Tensor, tuple[str, ...]]:
        if label not in self.probe_set.labels:
            why = self.probe_set.origin.get("absent", {}).get(label.split(".")[0], "this text does not carry it")
            raise Untestable(f"{label}: the run's probe set has no such labels: {why}.")
        return torch.tensor(self.probe_set.labels[label], dtype=torch.long), tuple(self.probe_set.classes[label])

    def _of_concept(self, concept: Concept) -> tuple[Tensor, tuple[str, ...]]:
        """Classes of the words: those of the label task it was found from, where the probe set has it; else what its own
        probe said of them in the weights it was found in (without classes: the side of the mean along its first column).

        Raises:
            Untestable: neither can be had.
        """
        if concept.sha256 not in self._labels:
            source = concept.details.get("source", {})
            name, _, one = str(source.get("task", "")).partition(":")
            if source.get("kind") == "task" and name in self.probe_set.labels:
                self._labels[concept.sha256] = _by_task(self.probe_set, name, one, concept.classes)
            else:
                self._labels[concept.sha256] = self._by_own_probe(concept)
        return self._labels[concept.sha256]

    def _by_own_probe(self, concept: Concept) -> tuple[Tensor, tuple[str, ...]]:
        step = concept.checkpoint.get("step")
        there = {info.step: info for info in list_checkpoints(self.run.checkpoints_folder)}
        if step not in there or there[step].weights_sha256 != concept.checkpoint.get("sha256"):
            raise Untestable(
                f"{concept.name}: the probe set has no labels for it, and the checkpoint it was found in (step {step}) is "
                "no longer there to sort words by its own probe. Find it again in a checkpoint that stays."
            )
        values = collect(self.run.model(step), self.probe_set).values[concept.layer]
        coordinates = concept.coordinates(values).double()
        if not concept.classes:
            return (coordinates[:, 0] > 0).long(), ("below its mean", "above its mean")
        score = coordinates @ concept.weight.double().T + concept.bias.double()
        return score.argmax(1), concept.classes


def gather(
    run: Run, eyes: Eyes, wanted: Sequence[str], writable: bool, report: Progress
) -> tuple[list[Stored], list[int]]:
    """What there is of every step, ascending, completed from checkpoints; and the steps of files that cannot be used.

    Args:
        wanted: tracked names.
        writable: keep what is made now.
        report: what is being done, and the share of it that is done.
    """
    protocol = canonical(eyes.protocol)
    there = {info.step: info for info in list_checkpoints(run.checkpoints_folder)}
    steps = sorted({*stored_steps(run), *there})
    row: list[Stored] = []
    unusable: list[int] = []
    history = _history(run)
    for place, step in enumerate(steps):
        report(f"step {step:,}", place / len(steps))
        stored = read(run, step)
        if stored is not None and (stored.protocol != protocol or not history(stored.segment, step)):
            stored = None
        stored = None if stored is None else of_present_concepts(stored, run)
        missing = [n for n in wanted if stored is None or not (n in stored.cards or n in stored.untestable)]
        if missing and step in there:
            look = eyes.look(run.model(step), missing)
            if stored is not None:
                look = look.beside(_all_of(stored))
            segment = stored.segment if stored is not None else (there[step].segment or 0)
            stored = (write if writable else in_memory)(run, step, segment, eyes.protocol, look)
        if stored is not None and any(name in stored.cards or name in stored.untestable for name in wanted):
            row.append(stored)
        else:
            unusable.append(step)
    return row, unusable


def _history(run: Run) -> Callable[[int, int], bool]:
    """Whether a segment's step is part of the newest history."""
    try:
        with run.records() as records:
            pieces = records.lineage()
    except RecordsMissing:
        pieces = []
    known = {segment: (first, last) for segment, first, last in pieces}

    def belongs(segment: int, step: int) -> bool:
        if segment not in known:
            return not pieces
        first, last = known[segment]
        return first <= step and (last is None or step <= last)

    return belongs


def _all_of(stored: Stored) -> Look:
    concepts = {name: card["concept"] for name, card in stored.cards.items() if "concept" in card}
    return Look({name: stored.snapshot(name) for name in stored.cards}, stored.untestable, concepts)


def tracked_name(wanted: str, known: Sequence[str]) -> str | None:
    """The tracked name that a person means: itself, a concept without its prefix, or a task of the same label."""
    if wanted in known:
        return wanted
    if CONCEPT + wanted in known:
        return CONCEPT + wanted
    if wanted in TASKS:
        label = TASKS[check_tasks([wanted])[0]].label
        return next((name for name in known if name in TASKS and TASKS[name].label == label), None)
    return None


def _by_task(
    probe_set: ProbeSet, name: str, one: str, classes: Sequence[str]
) -> tuple[Int[Tensor, "word"], tuple[str, ...]]:
    values, known = torch.tensor(probe_set.labels[name], dtype=torch.long), probe_set.classes[name]
    if one:
        if one not in known:
            raise Untestable(f"{name}: no word of the probe set is {one!r}.")
        return binary(values, known, one)
    table = torch.tensor([classes.index(each) if each in classes else labels.NO_LABEL for each in (*known, "")])
    table[-1] = labels.NO_LABEL  # serves words without a label
    return table[values], tuple(classes)
