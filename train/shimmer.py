"""Shimmer as it rides along, and afterwards: what is tracked, at which checkpoints, and what became of it.

A live visit keeps a snapshot of every tracked label in `statistics/` and its bits in `readings`; `shimmer` puts the
snapshots in a row, making those that are missing from stored checkpoints. The instrument is `probes.concepts.track`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from lab.concepts import ConceptMissing, names
from lab.errors import LabError
from lab.records import Event, Reading, Records, RecordsMissing
from lab.run import Run
from lab.sections import ShimmerConfig
from probes.concepts.snapshot import standard_error
from probes.concepts.states import WINDOW, Z95, State, life
from probes.concepts.track import Track, plain, shimmer_index, track
from probes.layers.profile import TASKS, UnknownTask
from train.attachments import Moment
from train.conversations import open_regime
from train.references import reference_at
from train.snapshot_files import CONCEPT, Look, write
from train.snapshots import Eyes, Progress, gather, tracked_name

SHIMMER = "shimmer"  # attachment, regime and reading


class NoShimmer(LabError):
    """There is nothing to follow, or what is asked for is not followed."""


class Shimmer:
    """The attachment. What cannot be read becomes an event that says why, never a number."""

    name = SHIMMER

    def __init__(self, config: ShimmerConfig) -> None:
        self.every, self.log_spaced = config.every, config.log_spaced
        self._eyes: Eyes | None = None
        self._told: set[tuple[str, str]] = set()

    def visit(self, moment: Moment) -> None:
        try:
            if self._eyes is None:
                texts = moment.corpus.validation_documents
                self._eyes = Eyes.open(moment.run, moment.corpus.tokenizer, texts)
            look = self._eyes.look(moment.model, self._eyes.tracked())
            write(moment.run, moment.step, moment.segment, self._eyes.protocol, look)
        except (LabError, OSError) as error:
            self._tell(moment, self.name, str(error))
            return
        for name, reason in look.untestable.items():
            self._tell(moment, name, reason)
        protocol = self._eyes.protocol | {"every": self.every}
        regime = open_regime(moment.records, SHIMMER, moment.step, protocol)
        # Durable at once: an intervention that waits for STABLE must read the same rows in every run of the same seed.
        moment.records.add_now(*_rows(look, self._eyes, moment, regime))

    def state_dict(self) -> dict[str, Any]:
        return {"every": self.every}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.every = int(state["every"])

    def _tell(self, moment: Moment, what: str, reason: str) -> None:
        if (what, reason) in self._told:  # once a segment, not at every visit
            return
        self._told.add((what, reason))
        data = {"attachment": self.name, "task": what}
        moment.records.add(
            Event(kind="untestable", text=reason, at=time.time(), segment=moment.segment, step=moment.step, data=data)
        )


@dataclass(frozen=True)
class Shimmering:
    """Every track of a run, for a terminal, a figure or a program.

    Attributes:
        tracks: by tracked name and layer.
        index: the shimmer index of each, against all tracks of this list.
        untestable: names that could not be read, with the newest reason.
        missing: steps whose file is damaged, or of another protocol or history, or without what is followed (a concept that
            came later), and that have no checkpoint.
    """

    run: str
    steps: tuple[int, ...]
    tracks: tuple[Track, ...]
    index: tuple[float, ...]
    untestable: dict[str, str]
    missing: tuple[int, ...]
    reference: int | None

    def to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = plain(
            {
                "run": self.run,
                "steps": self.steps,
                "unit": "usable bits per word, out of fold",
                "window": WINDOW,
                "reference": self.reference,
                "tracks": [one.to_dict() | {"index": i} for one, i in zip(self.tracks, self.index, strict=True)],
                "untestable": self.untestable,
                "missing": self.missing,
            }
        )
        return found


def shimmer(
    run: Run,
    tasks: Sequence[str] = (),
    concepts: Sequence[str] = (),
    layers: Sequence[int] = (),
    progress: Progress | None = None,
    keep: bool = True,
) -> Shimmering:
    """Follow a run's labels and concepts over its checkpoints: live snapshots, and those made now from stored weights.

    Snapshots made now are kept in `statistics/` where the folder can be written; nothing goes into the records.

    Args:
        tasks, concepts: what to follow; neither = everything that is tracked by default.
        layers: of the tasks; none = all that are probed. A concept has one layer.
        keep: off leaves the run's folder as it is.

    Raises:
        NoShimmer: nothing to follow, or a layer that is not read.
        UnknownTask, ConceptMissing: a name that there is not.
        BadProbeSet, BadActivations
    """
    writable = keep and os.access(run.path, os.W_OK)
    eyes = Eyes.open(run, run.tokenizer(), lambda: _validation_texts(run), store=writable)
    wanted = _wanted(run, eyes, tasks, concepts)
    wrong = [layer for layer in layers if layer not in eyes.layers]
    if wrong:
        raise NoShimmer(
            f"--layer {wrong[0]}: {run.name} is read at layers {', '.join(map(str, eyes.layers))}. Use those."
        )
    row, missing = gather(run, eyes, wanted, writable, progress or (lambda what, share: None))
    if not row:
        raise NoShimmer(f"{run.name}: has no checkpoint and no statistics yet, so there is nothing to follow.")
    reference = reference_at(run, row[-1].step)
    at = None if isinstance(reference, str) else reference.step
    tracks = [
        track([(one.step, one.snapshot(name, layer)) for one in having], layer, eyes.frame.unit, at)
        for name in wanted
        if (having := [one for one in row if name in one.cards])
        for layer in having[-1].layers(name)
        if (not layers or layer in layers) and all(layer in one.layers(name) for one in having)
    ]
    reasons = {name: why for one in row for name, why in one.untestable.items() if name in wanted}
    return Shimmering(
        run=run.name,
        steps=tuple(one.step for one in row),
        tracks=tuple(tracks),
        index=tuple(shimmer_index(tracks)),
        untestable=reasons,
        missing=tuple(missing),
        reference=at,
    )


def states(
    source: Run | Records, concept: str, layer: int | None = None, make: bool = False
) -> list[tuple[int, State]]:
    """(step, state) of a concept or task at every live visit of the newest history and regime, ascending; empty if none.

    Args:
        source: a run, or its records (the trainer's own, say).
        concept: a concept's name or a task's.
        layer: needed for a task, which is read at several; a concept has one.
        make: of a run where no live visit followed it, read the stored checkpoints instead, keeping nothing (seconds each).

    Raises:
        NoShimmer: several layers and none chosen, or the layer was not read.
    """
    if isinstance(source, Run):
        try:
            with source.records() as records:
                found = states(records, concept, layer)
        except RecordsMissing:
            found = []
        return found or (_states_of_checkpoints(source, concept, layer) if make else [])
    name = tracked_name(concept, source.tasks(SHIMMER))
    rows = source.readings(name, reading=SHIMMER) if name is not None else []
    rows = [row for row in rows if row.regime == rows[-1].regime]  # another protocol is another series
    at = _one_layer(concept, {row.layer for row in rows}, layer) if rows else None
    rows = [row for row in rows if row.layer == at]
    lived = life([r.step for r in rows], [r.value for r in rows], [(r.hi - r.lo) / (2 * Z95) for r in rows])
    return list(zip([row.step for row in rows], lived.states, strict=True))


def _states_of_checkpoints(run: Run, concept: str, layer: int | None) -> list[tuple[int, State]]:
    concepts, tasks = ([concept], []) if concept in names(run) else ([], [concept])
    found = shimmer(run, tasks, concepts, keep=False)
    tracks = {one.layer: one for one in found.tracks}
    return [(p.step, p.state) for p in tracks[_one_layer(concept, set(tracks), layer)].points] if tracks else []


def _one_layer(concept: str, there: Collection[int], layer: int | None) -> int:
    if len(there) > 1 if layer is None else layer not in there:
        raise NoShimmer(f"{concept}: is read at layers {', '.join(map(str, sorted(there)))}. Name one of them.")
    return next(iter(there)) if layer is None else layer


def _wanted(run: Run, eyes: Eyes, tasks: Sequence[str], concepts: Sequence[str]) -> tuple[str, ...]:
    for name in concepts:
        if name not in names(run):
            there = ", ".join(names(run)) or "none yet"
            raise ConceptMissing(
                f"{run.name} has no concept {name!r}. Concepts there: {there}. Make one: lab concept add"
            )
    alone = tuple(name for name, task in TASKS.items() if not task.given_layer_0)
    chosen: list[str] = []
    for task in tasks:
        found = tracked_name(task, alone)
        if found is None:
            raise UnknownTask(f"task {task!r} is none of ours. Tasks are: {', '.join(alone)}.")
        chosen.append(found)
    return tuple(dict.fromkeys([*chosen, *(CONCEPT + name for name in concepts)])) or eyes.tracked()


def _rows(look: Look, eyes: Eyes, moment: Moment, regime: int) -> list[Reading]:
    rows = []
    for name, one in look.snapshots.items():
        bits, error = one.bits(), standard_error(one.gain, one.words, eyes.frame.unit)
        for index, layer in enumerate(one.layers):
            value, half = float(bits[index]), Z95 * float(error[index])
            rows.append(
                Reading(
                    task=name,
                    reading=SHIMMER,
                    segment=moment.segment,
                    step=moment.step,
                    layer=layer,
                    regime=regime,
                    value=value,
                    lo=value - half,
                    hi=value + half,
                    n=one.n,
                )
            )
    return rows


def _validation_texts(run: Run) -> list[str]:
    from train.session import corpus_of  # which imports this file, to build the attachment

    return corpus_of(run).validation_documents()
