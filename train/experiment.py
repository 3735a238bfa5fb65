"""A freeze as an experiment: the frozen branch and its twins, trained on the same batches one after another.

Each is a run of its own beside the parent, whose folder is only read. What is finished is not trained again, what was
interrupted goes on where it stopped, so the same command takes up a killed experiment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lab.checkpoint import list_checkpoints
from lab.concepts import Concept
from lab.config import load_config
from lab.errors import LabError
from lab.run import Run, RunExists
from lab.run_folder import CONFIG
from lab.run_names import check_name
from lab.sections import FreezeRequest
from probes.concepts.proof import LOWER, TWINS, UNFROZEN
from train import shimmer
from train.branch import branch, branch_name, go_on, settings_sha256, twin_name
from train.proving import seconds_per_step
from train.session import Session

FREEZE: Literal["freeze"] = "freeze"
STABLE, STABLE_CHECKPOINTS = "STABLE", 4
Kind = Literal["freeze", "unfrozen", "random", "lower"]
Report = Callable[[Session], None]
Say = Callable[[str], None]


class BadExperiment(LabError):
    """What is asked for cannot be trained; nothing was made."""


class NotStable(LabError):
    """A freeze that waits for a stable concept, of one that is not."""

    exit_code = 3


class Unfinished(LabError):
    """A run did not reach its end; those after it were not begun."""

    exit_code = 130


@dataclass(frozen=True)
class Planned:
    """One run of the experiment."""

    name: str
    kind: Kind
    done: bool
    begun: bool


@dataclass(frozen=True)
class Plan:
    """What is to be trained.

    Attributes:
        step: the parent's checkpoint; steps: to train from there, each run.
        runs: the frozen branch first.
        seconds: that one run will take at the parent's pace; None where its records do not say.
    """

    parent: Run
    request: FreezeRequest
    step: int
    steps: int
    overrides: tuple[str, ...]
    runs: tuple[Planned, ...]
    seconds: float | None

    @property
    def waiting(self) -> tuple[Planned, ...]:
        return tuple(one for one in self.runs if not one.done)


def plan(
    run: Run,
    request: FreezeRequest,
    steps: int,
    step: int | None = None,
    twins: Sequence[str] = TWINS,
    name: str | None = None,
    overrides: Sequence[str] = (),
) -> Plan:
    """What there is to train, everything checked that can be before anything is written.

    Args:
        request: with `when` "stable", the concept must have been so at its newest checkpoints.
        step: the parent's checkpoint; by default the newest that training can go on from.
        twins: of "unfrozen", "random" and "lower".
        name: of the frozen branch; by default `<run>--<concept>-<mode>`. Twins add `--twin-<kind>`.

    Raises:
        BadExperiment: unknown twins, no steps, a checkpoint that training cannot go on from, nothing left to train.
        BadName, RunExists: a name that is none, or that of another experiment.
        NotStable: exit 3.
        ConceptMissing, BadConcept, CheckpointMissing
    """
    unknown = sorted(set(twins) - set(TWINS))
    if unknown:
        raise BadExperiment(f"--twins: {unknown[0]!r} is no twin. Twins are: {', '.join(TWINS)}; or none.")
    if steps < 1:
        raise BadExperiment(f"--steps {steps}: train at least one step.")
    concept = Concept.load(run, request.concept)
    whole = [info for info in list_checkpoints(run.checkpoints_folder) if info.has_optimizer]
    info = run.checkpoint_info(step)
    if info.step not in {one.step for one in whole}:
        there = ", ".join(str(one.step) for one in whole) or "none is left"
        raise BadExperiment(
            f"{run.name}: step {info.step} has kept its weights alone, and training goes on from a whole checkpoint only. "
            f"Whole ones: {there}."
        )
    if request.when == "stable":
        _check_stable(run, concept.name, info.step)
    names: dict[Kind, str] = {FREEZE: check_name(name or branch_name(run.name, concept.name, request.mode))}
    for kind in twins:
        if not (kind == LOWER and request.mode == LOWER):  # that branch is its own upper bound
            twin = f"{name}--twin-{kind}" if name else twin_name(run.name, concept.name, request.mode, kind)
            names[_kind(kind)] = check_name(twin)
    wanted = {
        "parent": run.name,
        "step": info.step,
        "steps": steps,
        "weights_sha256": info.weights_sha256,
        "settings_sha256": settings_sha256(load_config(file=run.path / CONFIG, overrides=overrides)),
        "concept_sha256": {concept.name: concept.sha256},
    }
    runs = tuple(_planned(run, one, kind, request, wanted) for kind, one in names.items())
    pace = seconds_per_step(run)
    now = request.model_copy(update={"when": "step", "from_step": info.step})
    seconds = None if pace is None else pace * steps
    return Plan(run, now, info.step, steps, tuple(overrides), runs, seconds)


def train(plan: Plan, report: Report | None = None, say: Say | None = None) -> Run:
    """Train what is not trained yet; the frozen branch.

    Raises:
        Unfinished: a run stopped before its end. The same plan goes on there.
        LabError: a branch that cannot be made, or a freeze that cannot begin.
    """
    tell = say or (lambda text: None)
    root = plan.parent.path.parent
    for number, one in enumerate(plan.waiting, 1):
        tell(f"{number} of {len(plan.waiting)}: {one.name}")
        if one.begun:
            made = Run.open(root / one.name)
        else:
            made = branch(
                plan.parent, one.name, plan.step, plan.steps, plan.overrides, freeze=plan.request, kind=one.kind
            )
        outcome = go_on(made, report=report, say=say)
        if outcome.exit_code != 0:
            raise Unfinished(f"{one.name}: ended by {outcome.reason}. The same command again goes on there.")
    return Run.open(root / plan.runs[0].name)


def _planned(run: Run, name: str, kind: Kind, request: FreezeRequest, wanted: Mapping[str, Any]) -> Planned:
    """What there is of a run already."""
    path = run.path.parent / name
    if not path.exists():
        return Planned(name, kind, done=False, begun=False)
    there = Run.open(path)
    found: Mapping[str, Any] = there.manifest.get("branch") or {}
    wanted = {**wanted, "kind": kind}
    other = {key: found.get(key) for key, value in wanted.items() if found.get(key) != value}
    if kind == FREEZE and found and not other:
        frozen = {key: found["frozen"][0][key] for key in ("mode", "target", "concept")}
        asked = {"mode": request.mode, "target": request.target, "concept": request.concept}
        other = {key: value for key, value in frozen.items() if asked[key] != value}
    if not found or other:
        what = ", ".join(f"{key} {value}" for key, value in other.items()) if found else "it is no branch"
        raise RunExists(f"{path}: exists already, and is another experiment ({what}). Give another name: --name")
    newest = max((info.step for info in list_checkpoints(there.checkpoints_folder)), default=-1)
    return Planned(name, kind, done=newest >= int(found["stop"]), begun=True)


def _kind(twin: str) -> Kind:
    kinds: dict[str, Kind] = {UNFROZEN: "unfrozen", "random": "random", LOWER: "lower"}
    return kinds[twin]


def _check_stable(run: Run, concept: str, step: int) -> None:
    """The gate of `--when stable`: the newest four checkpoints up to the step."""
    newest = [state for at, state in shimmer.states(run, concept, make=True) if at <= step][-STABLE_CHECKPOINTS:]
    if len(newest) < STABLE_CHECKPOINTS or set(newest) != {STABLE}:
        seen = ", ".join(newest) or "nothing of it yet"
        raise NotStable(
            f"{run.name}: {concept!r} is to be frozen once it is {STABLE} at {STABLE_CHECKPOINTS} checkpoints in a row, and "
            f"shimmer says: {seen}. Train on (lab resume {run.name}), or leave --when out."
        )
