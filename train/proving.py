"""Prove a freeze: find the parent, the branch and its twins, read them on one held-out text, judge, keep the proof.

The measurements are `probes.concepts.proof`'s. The proof is `evidence/freeze-<branch>.json` in the branch's folder; the same
checkpoints give the same file, byte for byte. Whatever twins are missing are named, and what needs them is left undecided.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lab.checkpoint import read_weights
from lab.concepts import Concept
from lab.durable import replace_file
from lab.errors import LabError
from lab.pins import frozen_of
from lab.run import CheckpointMissing, Run
from lab.run_folder import RunMissing
from probes.concepts import proof, rules
from probes.concepts.drift import weight_drift
from probes.concepts.look import Look, look
from train.held_out import gather
from train.material import LAYER_CONVENTION, canonical
from train.verifying import as_bytes

RULES = "1"  # of this file's protocol; the thresholds are in `rules`, whose text is hashed too
NONE = "none"
Json = dict[str, Any]
Progress = Callable[[str, float], None]


class NothingToProve(LabError):
    """A run that holds no frozen concept, or whose beginning is gone."""


@dataclass(frozen=True)
class Model:
    """A checkpoint to read."""

    run: Run
    step: int
    sha256: str

    @classmethod
    def of(cls, run: Run, step: int | None) -> Model:
        info = run.checkpoint_info(step)
        return cls(run, info.step, info.weights_sha256)


@dataclass(frozen=True)
class Case:
    """What is proved: one concept of one run, from the freeze to its newest checkpoint.

    Attributes:
        mode: of the freeze; "none" for an unfrozen twin, which is proved like any other.
        item: what the checkpoint says of the freeze; empty for a twin without one.
    """

    run: Run
    concept: Concept
    mode: str
    item: Mapping[str, Any]
    parent: Model
    branch: Model
    twins: Mapping[str, Model]
    missing: Mapping[str, str]


def prove(run: Run, concept: str | None = None, step: int | None = None, progress: Progress | None = None) -> Json:
    """The proof of a branch, of a twin, or of a concept frozen in a run that went on; kept in the run's `evidence/`.

    Args:
        concept: which one, where a run holds several.
        step: the checkpoint to prove at; the newest by default.

    Returns:
        What the file holds: verdict, flags, reasons, undecided, says, and every measurement by model.

    Raises:
        NothingToProve: no frozen concept, or the weights of the freeze are gone.
        LabError: a checkpoint or concept that cannot be read, or too little held-out text.
    """
    report = progress or (lambda what, share: None)
    case = case_of(run, concept, step)
    models = {proof.PARENT: case.parent, proof.BRANCH: case.branch, **case.twins}
    report("reading held-out text", 0.0)
    text, told = gather(case.parent.run, case.concept, case.parent.run.model(case.parent.step))
    looks: dict[str, Look] = {}
    drifts: dict[str, dict[str, float]] = {}
    start = read_weights(case.parent.run.checkpoint_info(case.parent.step).path)
    for number, (name, model) in enumerate(models.items()):
        report(f"reading the {name}", 0.1 + 0.6 * number / len(models))
        looks[name] = look(model.run.model(model.step), case.concept, text)
        if name != proof.PARENT:
            weights = read_weights(model.run.checkpoint_info(model.step).path)
            drifts[name] = weight_drift(start, weights, case.concept.basis, case.concept.layer)
    report("judging", 0.75)
    seed = run.config.train.seed
    found = proof.prove(case.concept, text, looks, drifts, case.missing, seed)
    found["text"] |= told
    result = _described(case, models) | found | {"resources": resources(case, models)}
    run.evidence.mkdir(exist_ok=True)
    replace_file(run.evidence / file_name(run, case.concept.name), as_bytes(result))
    report("done", 1.0)
    return result


def file_name(run: Run, concept: str) -> str:
    """`freeze-<run>.json`; a concept beside the one that a branch was made for is named too."""
    first = (run.manifest.get("branch") or {}).get("concepts", [])[:1]
    return f"freeze-{run.name}.json" if concept in first else f"freeze-{run.name}--{concept}.json"


def case_of(run: Run, concept: str | None, step: int | None) -> Case:
    """Everything that is to be read for a proof, found and checked before anything heavy is loaded.

    Raises:
        NothingToProve: naming what is missing.
    """
    branch: Mapping[str, Any] = run.manifest.get("branch") or {}
    end = Model.of(run, step)
    if branch.get("kind") == proof.RANDOM:
        raise NothingToProve(
            f"{run.name}: is the random-subspace control of a freeze, and holds no concept. Prove the freeze itself."
        )
    free = branch.get("kind") == proof.UNFROZEN  # of nothing, so of any concept
    if branch and branch["concepts"] and (free or concept is None or concept in branch["concepts"]):
        name, first = concept or str(branch["concepts"][0]), int(branch["step"])
        mode = NONE if free else _held(branch)[name][0]
        item = _item(run, end.step, name) if mode != NONE else {}
        parent = _weights_of(run, str(branch["parent"]), first, str(branch["weights_sha256"]))
        twins, missing = _twins(run, branch, name, end.step)
    else:
        item = _item(run, end.step, concept)
        name, first, mode = str(item["concept"]), int(item["from_step"]), str(item["mode"])
        parent = _own(run, name, first)
        twins, missing = {}, dict.fromkeys(proof.TWINS, "the concept was frozen in the run itself, without twins")
    if end.step <= parent.step:
        raise NothingToProve(
            f"{run.name}: has not trained a step since {name!r} was frozen at step {parent.step}. "
            f"Train it: lab resume {run.name}"
        )
    return Case(run, Concept.load(run, name), mode, item, parent, end, twins, missing)


def resources(case: Case, models: Mapping[str, Model]) -> Json:
    """M8, from the records: seconds that a step of training takes each model, and what the freeze keeps in memory."""
    per_step = {name: seconds_per_step(one.run) for name, one in models.items() if name != proof.PARENT}
    known = {name: value for name, value in per_step.items() if value is not None}
    base = known.get(proof.UNFROZEN)
    return {
        "seconds_per_step": known,
        "times_unfrozen": {name: value / base for name, value in known.items()} if base else {},
        "frozen_copy_bytes": case.item.get("bytes"),
    }


def seconds_per_step(run: Run) -> float | None:
    """Wall seconds that a step of the newest segment took, without attachments; None before the first visit."""
    with run.records() as records:
        newest, segments = records.newest("cost/train_seconds"), records.segments()
    if newest is None or not segments or newest[0] <= segments[-1].from_step:
        return None
    return newest[1] / (newest[0] - segments[-1].from_step)


def _described(case: Case, models: Mapping[str, Model]) -> Json:
    concept = case.concept
    return {
        "version": 1,
        "branch": case.run.name,
        "parent": case.parent.run.name,
        "from_step": case.parent.step,
        "to_step": case.branch.step,
        "mode": case.mode,
        "target": case.item.get("target"),
        "status": case.item.get("status"),
        "says": rules.HOLDS[case.mode],
        "concept": {
            "name": concept.name,
            "layer": concept.layer,
            "rank": concept.rank,
            "classes": list(concept.classes),
            "sha256": concept.sha256,
        },
        "n_layers": case.run.config.model.n_layers,
        "models": {name: {"run": one.run.name, "step": one.step, "sha256": one.sha256} for name, one in models.items()},
        "rules": canonical([RULES, {k: repr(v) for k, v in sorted(vars(rules).items()) if k.isupper()}]),
        "layer_convention": LAYER_CONVENTION,
    }


def _item(run: Run, step: int, concept: str | None) -> Mapping[str, Any]:
    """What a checkpoint says of a frozen concept; the only one, where none is named."""
    items = frozen_of(run, step)
    fitting = [item for item in items if concept in (None, item["concept"])]
    if not items or not fitting:
        there = ", ".join(sorted({str(item["concept"]) for item in items})) or "none"
        what = f"{concept!r} is not frozen" if concept else "no concept is frozen"
        raise NothingToProve(
            f"{run.name}: {what} at step {step} (frozen there: {there}). Freeze one: lab freeze {run.name} CONCEPT"
        )
    if concept is None and len({item["concept"] for item in fitting}) > 1:
        names = ", ".join(sorted({str(item["concept"]) for item in fitting}))
        raise NothingToProve(f"{run.name}: holds several concepts ({names}). Name one with --concept.")
    return fitting[-1]


def _weights_of(run: Run, parent: str, step: int, sha256: str) -> Model:
    """The weights of the freeze: the parent's, or the branch's own copy of them."""
    for place in (_sibling(run, parent), run):
        try:
            if place is not None and (found := Model.of(place, step)).sha256 == sha256:
                return found
        except CheckpointMissing:
            continue
    raise NothingToProve(
        f"{run.name}: the weights that it was frozen from (step {step} of {parent}) are no longer in it, nor in {parent}. "
        "Copy that checkpoint back, or freeze anew."
    )


def _own(run: Run, concept: str, step: int) -> Model:
    try:
        return Model.of(run, step)
    except CheckpointMissing as error:
        raise NothingToProve(
            f"{run.name}: {concept!r} was frozen at step {step}, and no checkpoint of it is left to compare with. {error}"
        ) from None


def _twins(run: Run, branch: Mapping[str, Any], concept: str, step: int) -> tuple[dict[str, Model], dict[str, str]]:
    """Twins in the same place, trained from the same weights to the same step, and why others are missing.

    An unfrozen twin serves every freeze from those weights; one that holds the lower layers every freeze of the concept.
    """
    found: dict[str, Model] = {}
    missing: dict[str, str] = {}
    for other in sorted(Run.ls(run.path.parent), key=lambda one: one.name):
        theirs: Mapping[str, Any] = other.manifest.get("branch") or {}
        kind = _serves(theirs, branch, concept) if theirs and other.name != run.name else None
        if kind is None or kind in found:
            continue
        try:
            found[kind] = Model.of(other, step)
        except CheckpointMissing:
            missing[kind] = f"{other.name} has no checkpoint of step {step}"
    if branch["kind"] == proof.UNFROZEN:
        missing[proof.UNFROZEN] = "it is that twin itself"
    return found, {kind: missing.get(kind, "not trained") for kind in proof.TWINS if kind not in found}


def _serves(twin: Mapping[str, Any], branch: Mapping[str, Any], concept: str) -> str | None:
    """As which twin of a branch another branch may serve: trained alike, and holding the same subspace, not just its name."""
    alike = ("parent", "step", "weights_sha256", "settings_sha256", "horizon")
    if any(twin.get(key) != branch.get(key) for key in alike):
        return None
    if twin["kind"] == proof.UNFROZEN:
        return proof.UNFROZEN
    theirs, ours = (each.get("concept_sha256", {}).get(concept) for each in (twin, branch))
    held = _held(twin).get(concept)
    if held is None or theirs != ours:
        return None
    if twin["kind"] == proof.RANDOM:
        return proof.RANDOM if held == _held(branch).get(concept) else None
    return proof.LOWER if held[0] == proof.LOWER else None


def _held(branch: Mapping[str, Any]) -> dict[str, tuple[str, float]]:
    """Mode and target by concept that was asked for; a random twin holds a random subspace in the place of each."""
    asked, frozen = branch["concepts"], branch["frozen"]
    return {
        name: (str(request["mode"]), float(request["target"]))
        for name, request in zip(asked, frozen, strict=bool(frozen))
    }


def _sibling(run: Run, name: str) -> Run | None:
    try:
        return Run.open(run.path.parent / name)
    except (RunMissing, LabError):
        return None
