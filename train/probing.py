"""Live layer-wise probes: at each visit, what every layer holds of word class and meaning, with intervals, into `readings`.

The instrument is `probes.layers`; this file decides when it is used, keeps what must stay the same between visits (the
probe set, the readings of a random-initialisation twin) in the run's `statistics/`, and records what it says. `lab probe`
goes through the same code (`probe_run`).
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from lab.durable import replace_file
from lab.errors import LabError
from lab.model import GPT, GPTConfig
from lab.records import Event, Reading, Records, RecordsMissing, Regime
from lab.run import Run
from lab.sections import ProbingConfig
from lab.tokenizer import Tokenizer
from probes.layers import labels
from probes.layers.collect import check_layers, collect
from probes.layers.cross_check import CrossCheck, cross_check
from probes.layers.fit import PENALTIES, Untestable, assign_folds
from probes.layers.groups import ENOUGH_DOCUMENTS
from probes.layers.intervals import REPLICATES, bootstrap_weights
from probes.layers.profile import (
    TASKS,
    Profile,
    Readings,
    check_tasks,
    lexical_tasks,
    read_layers,
    with_raw,
)
from train.attachments import Moment
from train.generators import derived_generator
from train.profiles import LAYERS, Profiles

DECODE = "decode"
TWIN = "initial weights of another seed"


class NoReadings(LabError):
    """The run holds no readings to show."""


class Probing:
    """The attachment. A task that cannot be read becomes an event that says why, never a number."""

    name = "probing"

    def __init__(self, config: ProbingConfig) -> None:
        self.config = config
        self.every, self.log_spaced = config.every, config.log_spaced
        self._bench: Bench | None = None
        self._told: set[tuple[str, str]] = set()

    def visit(self, moment: Moment) -> None:
        try:
            if self._bench is None:
                texts = moment.corpus.validation_documents
                self._bench = Bench.open(moment.run, self.config, moment.corpus.tokenizer, texts)
            found = self._bench.read(moment.model)
        except LabError as error:
            found = Readings({}, dict.fromkeys(self.config.tasks, str(error)))
        for task, reason in found.untestable.items():
            if (task, reason) not in self._told:  # once a segment, not at every visit
                self._told.add((task, reason))
                moment.records.add(_untestable(moment, task, reason))
        if found.profiles and self._bench is not None:
            regime = _regime(moment.records, moment.step, self._bench.protocol | {"every": self.every})
            moment.records.add(*_rows(found.profiles, moment, regime))

    def state_dict(self) -> dict[str, Any]:
        return {"every": self.every}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.every = int(state["every"])


@dataclass
class Bench:
    """All that stays the same from one visit to the next: probe set, folds, bootstrap draws, the twin's readings."""

    run: Run
    config: ProbingConfig
    probe_set: labels.ProbeSet
    store: bool = True

    @classmethod
    def open(
        cls,
        run: Run,
        config: ProbingConfig,
        tokenizer: Tokenizer,
        texts: Callable[[], Sequence[str]],
        store: bool = True,
    ) -> "Bench":
        """Load the run's probe set, or build it from validation text and keep it.

        Args:
            texts: gives the validation documents; only called when the set is not there yet.
            store: write what is built to `statistics/`; off where the folder may belong to somebody else.

        Raises:
            BadProbeSet: too little text, or a stored set that does not hold together.
        """
        file = run.statistics / "probe_set.json"
        if file.exists():
            probe_set = labels.from_dict(_json(file))
            if probe_set.origin.get("tokenizer") != tokenizer.sha256:
                raise labels.BadProbeSet(
                    f"{file}: made with another tokenizer than this run's. Delete it to build it anew."
                )
        else:
            n_ctx = run.config.model.n_ctx
            probe_set = labels.build(texts(), tokenizer, config.sentences, n_ctx, config.seed)
            if store:
                _write(file, labels.to_dict(probe_set))
        return cls(run, config, probe_set, store)

    @property
    def tasks(self) -> tuple[str, ...]:
        """Those of the configuration, and the raw profiles beside them."""
        return with_raw(check_tasks(self.config.tasks))

    @cached_property
    def layers(self) -> tuple[int, ...]:
        depth = self.run.config.model.n_layers
        return check_layers(None if self.config.layers == "all" else self.config.layers, depth)

    @cached_property
    def protocol(self) -> dict[str, Any]:
        """What a number here depends on besides the weights; any change opens a regime."""
        return {
            "instrument": "shrinkage discriminant analysis, temperature and class offsets, 1",
            "probe_set": self.probe_set.sha256,
            "sentences": len(self.probe_set.sentences),
            "folds": self.config.folds,
            "unit": "sentence" if self._documents is None else "document",
            "seed": self.config.seed,
            "penalties": list(PENALTIES),
            "replicates": REPLICATES,
            "layers": LAYERS,
        }

    @cached_property
    def _folds(self) -> torch.Tensor:
        return assign_folds(len(self.probe_set.sentences), self.config.folds, self.config.seed, self._documents)

    @cached_property
    def _weights(self) -> torch.Tensor:
        return bootstrap_weights(len(self.probe_set.sentences), seed=self.config.seed, units=self._documents)

    @cached_property
    def _documents(self) -> torch.Tensor | None:
        """Per sentence its document, where there are enough to draw them whole: sentences of one are not independent."""
        units = torch.tensor(self.probe_set.units)
        return units if len(set(self.probe_set.units)) >= ENOUGH_DOCUMENTS else None

    def read(self, model: Any, tasks: Sequence[str] | None = None) -> Readings:
        """Profiles of a model, each beside the twin's.

        Raises:
            BadActivations: not finite, or no residual hooks.
        """
        return self.beside_twin(self.whole(model, tasks or self.tasks))

    def whole(self, model: Any, tasks: Sequence[str]) -> Readings:
        """Profiles of a model alone, layer 0 among them whatever layers are configured: "lexical" is judged there."""
        activations = collect(model, self.probe_set, sorted({0, *self.layers}))
        return read_layers(activations, self.probe_set, tasks, self._folds, self._weights)

    def cross_check(self, model: Any, tasks: Sequence[str]) -> tuple[dict[str, CrossCheck], dict[str, str]]:
        """The labels of these tasks by other instruments; and of those that cannot be read, why not."""
        activations = collect(model, self.probe_set, sorted({0, *self.layers}))
        found: dict[str, CrossCheck] = {}
        untestable: dict[str, str] = {}
        for label in dict.fromkeys(TASKS[task].label for task in tasks):
            try:
                found[label] = cross_check(activations, self.probe_set, label, self._folds, self.config.seed)
            except Untestable as error:
                untestable[label] = str(error)
        return found, untestable

    def beside_twin(self, whole: Readings) -> Readings:
        """The configured layers of what `whole` found, each beside the twin's."""
        found = self._chosen(whole)
        twin = self.twin([*found.profiles, *found.untestable])
        profiles = {task: replace(p, baseline=twin.get(task)) for task, p in found.profiles.items()}
        return replace(found, profiles=profiles)

    def twin(self, tasks: Sequence[str]) -> dict[str, tuple[float, ...]]:
        """Bits per word of a model of this shape that was never trained, by task and layer; made once and kept.

        What its layers hold comes from the tokens and the architecture alone, so a trained layer has to beat it.
        """
        file = self.run.statistics / "probe_twin.json"
        key = hashlib.sha256(
            _canonical([TWIN, self.protocol, self.run.config.model.model_dump(), self.layers])
        ).hexdigest()
        stored = _json(file) if file.exists() else {}
        known: dict[str, Any] = stored.get("tasks", {}) if stored.get("key") == key else {}
        missing = [task for task in tasks if task not in known]
        if missing:
            seed = derived_generator(self.run.config.train.seed, "twin", 0).initial_seed()
            model = GPT(GPTConfig.from_config(self.run.config.model), seed=seed)
            found = self._chosen(self.whole(model, missing)).profiles
            known = known | {task: asdict(found[task]) if task in found else None for task in missing}
            if self.store:
                _write(file, {"key": key, "seed": seed, "twin": TWIN, "layers": LAYERS, "tasks": known})
        return {task: tuple(known[task]["value"]) for task in tasks if known[task] is not None}

    def _chosen(self, found: Readings) -> Readings:
        if 0 in self.layers:
            return found
        return replace(found, profiles={task: _without_layer_0(p) for task, p in found.profiles.items()})


def probe_run(
    run: Run, step: int | None = None, tasks: Sequence[str] | None = None, thorough: bool = False
) -> Profiles:
    """Probe a stored checkpoint, through the same code as a live visit; writes nothing to the run's records.

    Args:
        thorough: read the labels by logistic regression, control task and online code length too.

    The run's own probe set and twin are used, and made (and kept, where the folder can be written) if they are not there.

    Raises:
        UnknownTask, BadProbeSet, BadActivations, CheckpointMissing
    """
    wanted = with_raw(check_tasks(tasks))
    info = run.checkpoint_info(step)  # once: a run in training may have a newer one a moment later
    writable = os.access(run.path, os.W_OK)  # a copy may lie on a read-only disk
    bench = Bench.open(run, run.config.probing, run.tokenizer(), lambda: _validation_texts(run), writable)
    model = run.model(info.step)
    whole = bench.whole(model, wanted)
    found = bench.beside_twin(whole)
    checks, refused = bench.cross_check(model, wanted) if thorough else ({}, {})
    reasons = {**found.untestable, **refused}
    return Profiles(run.name, info.step, found.profiles, reasons, checks, lexical_tasks(whole.profiles))


def stored_profiles(run: Run, tasks: Sequence[str] | None = None, step: int | None = None) -> Profiles:
    """The readings that live visits recorded, at `step` or at the newest that has any.

    Raises:
        UnknownTask: a task that is none of ours.
        NoReadings: nothing was recorded, or not at that step.
    """
    wanted = with_raw(check_tasks(tasks))
    try:
        with run.records() as records:
            steps = records.reading_steps()
            if not steps or (step is not None and step not in steps):
                raise NoReadings(
                    f"{run.name}: no probe readings"
                    + (f" at step {step}; there are some at {', '.join(map(str, steps))}." if steps else " yet.")
                    + f" Make some with: lab probe {run.name}"
                )
            at = steps[-1] if step is None else step
            rows = {task: records.readings(task, at, DECODE) for task in wanted}
            events = [e for e in records.rows(Event) if e.kind == "untestable" and e.data.get("task") in wanted]
    except RecordsMissing:
        raise NoReadings(f"{run.name}: no probe readings yet. Make some with: lab probe {run.name}") from None
    profiles = {task: profile_of(task, found) for task, found in rows.items() if found}
    reasons = {e.data["task"]: e.text for e in events if e.data["task"] not in profiles}
    return Profiles(run.name, at, profiles, reasons, lexical=lexical_tasks(profiles))


def profile_of(task: str, rows: Sequence[Reading]) -> Profile:
    """Stored rows of one task and step, ascending by layer, as a profile."""
    baselines = [row.baseline for row in rows]
    return Profile(
        task=task,
        layers=tuple(row.layer for row in rows),
        value=tuple(row.value for row in rows),
        low=tuple(row.lo for row in rows),
        high=tuple(row.hi for row in rows),
        n=rows[0].n,
        sentences=0,
        baseline=None if None in baselines else tuple(value for value in baselines if value is not None),
    )


def _rows(profiles: Mapping[str, Profile], moment: Moment, regime: int) -> list[Reading]:
    return [
        Reading(
            task=task,
            reading=DECODE,
            segment=moment.segment,
            step=moment.step,
            layer=layer,
            regime=regime,
            value=profile.value[i],
            lo=profile.low[i],
            hi=profile.high[i],
            n=profile.n,
            baseline=None if profile.baseline is None else profile.baseline[i],
        )
        for task, profile in profiles.items()
        for i, layer in enumerate(profile.layers)
    ]


def _regime(records: Records, step: int, protocol: dict[str, Any]) -> int:
    """The id of this protocol's regime; a new one where anything about it changed."""
    digest = hashlib.sha256(_canonical(protocol)).hexdigest()
    for regime in records.rows(Regime, name=Probing.name, hash=digest):
        return regime.id
    regime = Regime(name=Probing.name, step=step, protocol=protocol, hash=digest)
    records.add_now(regime)
    return regime.id


def _untestable(moment: Moment, task: str, reason: str) -> Event:
    data = {"attachment": Probing.name, "task": task}
    return Event(kind="untestable", text=reason, at=time.time(), segment=moment.segment, step=moment.step, data=data)


def _without_layer_0(profile: Profile) -> Profile:
    return replace(
        profile, layers=profile.layers[1:], value=profile.value[1:], low=profile.low[1:], high=profile.high[1:]
    )


def _validation_texts(run: Run) -> list[str]:
    from train.session import corpus_of  # which imports this file, to build the attachment

    return corpus_of(run).validation_documents()


def _json(file: Path) -> dict[str, Any]:
    with contextlib.suppress(UnicodeDecodeError, json.JSONDecodeError):
        data = json.loads(file.read_text(encoding="utf8"))
        if isinstance(data, dict):
            return data
    raise labels.BadProbeSet(f"{file}: not a JSON object any more. Delete it; it is made anew at the next visit.")


def _write(file: Path, data: Mapping[str, Any]) -> None:
    file.parent.mkdir(exist_ok=True)
    replace_file(file, json.dumps(data).encode())


def _canonical(data: Any) -> bytes:
    return json.dumps(data, sort_keys=True).encode()
