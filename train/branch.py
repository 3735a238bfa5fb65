"""A run started from another's checkpoint: the same weights, optimizer, generators and batches, and one thing different.

The parent is read and never written to. The branch is a run of its own, with the parent's tokenizer, probe set, concepts and
frozen lower copies; it appears under its name when it is whole, or not at all. Trained without any difference it is, bit for
bit, what the parent would have become. Twins are branches of one checkpoint: frozen, unfrozen, frozen with a random subspace
(`twins`), and with everything below the layer frozen.
"""

import copy
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from lab import checkpoint
from lab.checkpoint import Checkpoint, CheckpointNotSaved
from lab.concepts import Concept, names
from lab.config import RunConfig, load_config
from lab.errors import LabError
from lab.pins import frozen_items
from lab.records import Event, Records
from lab.run import Run, RunExists, check_name, resolve_inside
from lab.run_folder import CONFIG, RunBroken
from lab.sections import FreezeConfig, FreezeMode, FreezeRequest
from train.loop import Outcome, train
from train.schedule import learning_rate
from train.session import Progress, Session, resume
from train.twins import random_concept

Kind = Literal["branch", "freeze", "unfrozen", "random", "lower"]
PROBE_SET = "probe_set.json"
# Another value of these would be other batches or another model, and the comparison with the parent would mean nothing.
SHARED = (
    "model",
    "data",
    "train.seed",
    "train.batch",
    "train.accumulation",
    "train.steps",
    "train.stop",
    "freeze",
    "optimizer.kind",
)


class BranchRefused(LabError):
    """A branch cannot be made as asked. Nothing was made, and the parent is as it was."""


def branch_name(run: str, concept: str, mode: FreezeMode) -> str:
    """`<run>--<concept>-<mode>`.

    >>> branch_name("fox", "weather", "write+anchor")
    'fox--weather-write-anchor'
    """
    return f"{run}--{concept}-{mode.replace('+', '-')}"


def twin_name(run: str, concept: str, mode: FreezeMode, kind: str) -> str:
    """`<run>--<concept>-<mode>--twin-<kind>`."""
    return f"{branch_name(run, concept, mode)}--twin-{kind}"


def branch(
    run: Run,
    name: str,
    step: int | None = None,
    steps: int = 200,
    overrides: Sequence[str] = (),
    freeze: FreezeRequest | Sequence[FreezeRequest] = (),
    kind: Kind = "branch",
    progress: Progress | None = None,
) -> Run:
    """A new run beside its parent that goes on from one of its checkpoints for so many steps; train it with `go_on`.

    Within the parent's horizon the learning rate is the parent's at every step. A branch that goes beyond it stretches the
    schedule to its own end, as `lab resume --extend-to` does; that is recorded, and the same for all twins.

    Args:
        name: of the new run; `branch_name` and `twin_name` give the usual ones.
        step: of the checkpoint; the newest one that training can go on from by default.
        steps: how far it is to be trained.
        overrides: `section.key=value`, of what changes neither batches nor model.
        freeze: what to hold from the checkpoint on. Give every twin the same requests: `kind` says what becomes of them.
        kind: "freeze" holds them; "unfrozen" none; "random" a random subspace of equal rank and variance in place of each;
            "lower" everything below their layers.

    Raises:
        BranchRefused: an override of what twins share, no steps, or a disk without room.
        RunExists, BadName, CheckpointMissing, WeightsOnly, CheckpointCorrupt, BadConfig, ConceptMissing, BadConcept
    """
    if steps < 1:
        raise BranchRefused(f"{name}: {steps} steps are none. Train a branch for at least one.")
    root = run.path.parent
    if resolve_inside(root, check_name(name)).exists():
        raise RunExists(f"{root / name}: exists already. Choose another name, or go on with it: lab resume {name}")
    saved = _checkpoint(run, step)
    asked = (freeze,) if isinstance(freeze, FreezeRequest) else tuple(freeze)
    requests = [] if kind == "unfrozen" else [each.model_copy(update={"from_step": saved.info.step}) for each in asked]
    held = {item["concept"]: item for item in frozen_items(saved.state) if item["status"] != "released"}
    for request in requests:
        Concept.load(run, request.concept)
        if request.concept in held:
            raise BranchRefused(
                f"{request.concept}: is frozen at step {saved.info.step} of {run.name} already (mode "
                f"{held[request.concept]['mode']}), and a branch goes on with that. Branch from an earlier step."
            )
    drawn: list[Concept] = []
    if kind == "random":
        drawn = [random_concept(run, request.concept, saved.info.step, progress) for request in requests]
        requests = [r.model_copy(update={"concept": c.name}) for r, c in zip(requests, drawn, strict=True)]
    if kind == "lower":
        requests = [request.model_copy(update={"mode": "lower"}) for request in requests]
    config, horizon = _configuration(run, saved, steps, overrides, requests)
    about = {
        "parent": run.name,
        "step": saved.info.step,
        "weights_sha256": saved.info.weights_sha256,
        "kind": kind,
        "settings_sha256": settings_sha256(config),
        "concepts": [each.concept for each in asked],
        "concept_sha256": {c: Concept.load(run, c).sha256 for each in asked if (c := each.concept) in names(run)},
        "frozen": [request.model_dump(mode="json") for request in requests],
        "steps": steps,
        "stop": config.train.stop,
        "horizon": horizon,
        "parent_horizon": int(saved.state["horizon"]),
    }
    hidden = root / f".tmp-branch-{os.urandom(4).hex()}"
    try:
        made = Run.create(hidden, name, config)
        _copy(run, made, saved.state)
        for concept in drawn:
            concept.save(made)
        state = _state(run, made, saved, about)
        checkpoint.save(made.checkpoints_folder, saved.info.step, saved.weights, saved.optimizer, state)
        made.update_manifest(branch=about, **{k: run.manifest[k] for k in _INHERITED if k in run.manifest})
        try:
            os.rename(made.path, root / name)
        except OSError as error:
            raise RunExists(f"{root / name}: appeared meanwhile ({error.strerror}). Choose another name.") from None
    except (OSError, CheckpointNotSaved, RunBroken) as error:
        raise BranchRefused(
            f"{root / name}: the branch could not be made ({error}). Nothing is left of it, and {run.name} is as it was. "
            f"Make room on the disk, or make {root} writable, then branch again."
        ) from error
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return Run.open(root / name)


_INHERITED = ("data", "imported", "tokenizer")  # of the manifest: what says which text and weights these are


def go_on(
    run: Run,
    report: Callable[[Session], None] | None = None,
    say: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Train a branch to its end, or as far as it gets: a stopped or killed one goes on here too, or with `lab resume`.

    Raises:
        CannotResume: it has reached its end.
    """
    with resume(run, progress=progress) as session:
        session.report, session.say = report or session.report, say or session.say
        outcome = train(session)
        session.record_costs()
        session.records.end_segment(session.segment, session.step, outcome.reason)
        return outcome


def _checkpoint(run: Run, step: int | None) -> Checkpoint:
    if step is not None:
        return checkpoint.load(run.checkpoint_info(step).path)
    info = checkpoint.newest_valid(run.checkpoints_folder)
    return checkpoint.load((info or run.checkpoint_info()).path)


def _configuration(
    run: Run, saved: Checkpoint, steps: int, overrides: Sequence[str], requests: Sequence[FreezeRequest]
) -> tuple[RunConfig, int]:
    """The parent's configuration with what is different, and the schedule's horizon."""
    for override in overrides:
        key = override.split("=")[0].strip()
        if any(key == shared or key.startswith(shared + ".") for shared in SHARED):
            raise BranchRefused(
                f"--set {override}: {key} is the parent's in every branch: with another one, the batches, the model or the "
                "schedule would differ too. Leave it out."
            )
    config = load_config(file=run.path / CONFIG, overrides=overrides)
    stop, imported = saved.info.step + steps, bool(saved.state.get("imported"))
    horizon = max(config.train.steps if imported else int(saved.state["horizon"]), stop)
    train_section = config.train.model_copy(update={"stop": stop, "steps": horizon if imported else config.train.steps})
    # What the parent is still to freeze is not inherited: a branch differs by what it is asked to hold, and by nothing else.
    try:  # copies of requests are not checked when they are made
        freeze = FreezeConfig.model_validate({"concepts": tuple(request.model_dump() for request in requests)})
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise BranchRefused(f"a branch of {run.name} at step {saved.info.step}: {said}") from None
    return config.model_copy(update={"train": train_section, "freeze": freeze}), horizon


def settings_sha256(config: RunConfig) -> str:
    """Of all that moves weights besides freezes and how long: equal for branches that may stand beside each other."""
    kept = config.model_dump(mode="json", include={"model", "data", "optimizer", "remedy", "feedback"})
    kept["train"] = config.train.model_dump(mode="json", exclude={"steps", "stop", "threads", "log_every"})
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()


def _state(parent: Run, made: Run, saved: Checkpoint, about: Mapping[str, Any]) -> dict[str, Any]:
    """The checkpoint's state with the branch's own segment and horizon; and its first records, which say where it is from."""
    step, config = saved.info.step, made.config
    state = copy.deepcopy(saved.state)
    for item in frozen_items(state):
        item["asked"] = "parent"
    state |= {"horizon": about["horizon"], "config_hash": config.hash()}
    if "attachments" in state:  # one that the overrides set otherwise begins anew: its state holds the old interval
        same = {name for name in state["attachments"] if _section(config, name) == _section(parent.config, name)}
        state["attachments"] = {name: inner for name, inner in state["attachments"].items() if name in same}
    with Records.writer(made.database) as records:
        state["segment"] = records.new_segment(from_step=step, resumed_from=None, config_hash=config.hash())

        def tell(kind: str, text: str) -> None:
            row = Event(kind=kind, text=text, at=time.time(), segment=state["segment"], step=step, data=dict(about))
            records.add_now(row)

        tell("branch", f"branched from {parent.name} at step {step}, to be trained to step {about['stop']}")
        if about["horizon"] > about["parent_horizon"]:
            before, after = (learning_rate(step, about[key], config.optimizer) for key in ("parent_horizon", "horizon"))
            tell(
                "extend",
                f"horizon extended to step {about['horizon']}: the learning rate goes from {before:.2e} to {after:.2e} here",
            )
        records.end_segment(state["segment"], step, "branch")
    return state


def _section(config: RunConfig, name: str) -> object:
    return getattr(config, name, None)


def _copy(parent: Run, made: Run, state: Mapping[str, Any]) -> None:
    """Tokenizer, probe set and concepts; of the frozen lower copies, those that the checkpoint stands on."""
    shutil.copytree(parent.tokenizer_folder, made.tokenizer_folder, dirs_exist_ok=True)
    if (parent.statistics / PROBE_SET).is_file():
        shutil.copyfile(parent.statistics / PROBE_SET, made.statistics / PROBE_SET)
    needed = {Path(item["file"]) for item in _all_items(frozen_items(state))}
    for folder in sorted(parent.concepts.iterdir()) if parent.concepts.is_dir() else []:
        if not folder.is_dir() or folder.is_symlink() or folder.name.startswith("."):
            continue
        (made.concepts / folder.name).mkdir(mode=0o700, exist_ok=True)
        for file in sorted(folder.iterdir()):
            frozen = file.name.startswith("frozen-") and file.relative_to(parent.path) not in needed
            if file.is_file() and not file.is_symlink() and not frozen and not file.name.startswith("."):
                shutil.copyfile(file, made.concepts / folder.name / file.name)


def _all_items(items: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Items and what lies beneath them."""
    return [each for item in items for each in (item, *_all_items(item["beneath"]))]
