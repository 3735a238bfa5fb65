"""The verbs that hold a concept: freeze, release, prove. `register` adds them to the `lab` command.

`freeze` trains a frozen branch and its twins and proves what stayed; with --live it asks a run in training instead. Data
goes to stdout, progress to stderr.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli_control import RunArgument, WaitOption, tell
from app.cli_parts import BadRequest, check_writable, find_run, progress, write_file
from app.options import HtmlOption, JsonOption, SetOption, StepOption

if TYPE_CHECKING:
    from lab.run import Run
    from train.experiment import Plan

TWINS = "unfrozen,random,lower"
STEPS = 500


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (freeze, release, prove):
        app.command()(verb)


def freeze(
    run: RunArgument,
    concept: Annotated[
        str | None, typer.Argument(metavar="CONCEPT", help="A concept of the run; with --from-claim, its new name.")
    ] = None,
    mode: Annotated[str, typer.Option(help="anchor, pin, write, write+anchor or lower.")] = "anchor",
    steps: Annotated[int | None, typer.Option(help=f"Steps to train each run for (default: {STEPS}).")] = None,
    target: Annotated[float, typer.Option(help="Of anchor: the drift to steer to, in units of the spread.")] = 0.1,
    twins: Annotated[str | None, typer.Option(help=f"Controls, with commas, or none (default: {TWINS}).")] = None,
    layer: Annotated[
        int | None, typer.Option(help="With --from-claim: find it there. Else: refuse a concept of another.")
    ] = None,
    when: Annotated[str | None, typer.Option(help="stable: only if shimmer says so of its newest checkpoints.")] = None,
    from_claim: Annotated[
        str | None, typer.Option(metavar="ID", help="First find the concept that a claim speaks of.")
    ] = None,
    step: StepOption = None,
    fade_steps: Annotated[int, typer.Option(help="Of a pin: how long it takes to let go, when released.")] = 100,
    name: Annotated[
        str | None, typer.Option(help="The branch's name (default: RUN--CONCEPT-MODE); its twins are named after it.")
    ] = None,
    live: Annotated[bool, typer.Option("--live", help="Freeze in the run itself, while it trains.")] = False,
    set_: SetOption = None,
    html: HtmlOption = None,
    wait: WaitOption = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Hold a concept while training goes on: train a frozen branch and its twins, then prove what stayed frozen."""
    if concept is None and from_claim is None:
        raise BadRequest("no concept is named. Give one of the run's (lab concept ls), or --from-claim ID.")
    for_branches: dict[str, object] = {
        "--steps": steps,
        "--twins": twins,
        "--when": when,
        "--step": step,
        "--name": name,
        "--html": html,
    }
    for_branches |= {"--set": set_ or None}
    if live and (given := [option for option, value in for_branches.items() if value is not None]):
        raise BadRequest(f"{given[0]} is for branches, and --live freezes in the run itself. Leave one of them out.")
    if when not in (None, "stable"):
        raise BadRequest(f"--when {when}: is stable, or left out to freeze now.")
    check_writable(html)
    kinds = _twins(twins)
    found = find_run(run)
    from train.commands import order

    chosen = concept or f"claim-{from_claim}".lower()
    request = {"concept": chosen, "mode": mode, "target": target, "fade_steps": fade_steps}
    order("freeze", request)  # refuses values that no freeze could have, before anything is made
    _check_steps(steps)
    if from_claim is not None:
        _find_concept(found, chosen, from_claim, layer, step)
    elif layer is not None:
        _check_layer(found, chosen, layer)
    if live:
        _freeze_live(found, request, wait, as_json)
        return
    from lab.sections import FreezeRequest
    from train.experiment import plan, train
    from train.proving import prove as prove_run

    asked = FreezeRequest.model_validate(request | {"when": "stable" if when else "step"})
    planned = plan(found, asked, STEPS if steps is None else steps, step, kinds, name, set_ or ())
    typer.echo(_estimate(planned), err=True)
    branch = _train(train, planned)
    with progress() as report:
        proof = prove_run(branch, progress=report)
    _show(proof, html, as_json)


def release(
    run: RunArgument,
    concept: Annotated[str, typer.Argument(metavar="CONCEPT", help="A concept that is frozen there.")],
    fade_steps: Annotated[
        int | None, typer.Option(help="Of a pin: let go over so many steps (default: as the freeze said).", min=0)
    ] = None,
    wait: WaitOption = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Let go of a concept that a run in training holds; a pin fades out, and what that costs is said."""
    arguments = {"concept": concept} | ({} if fade_steps is None else {"fade_steps": fade_steps})
    tell(run, "release", arguments, wait, as_json)


def prove(
    branch: Annotated[str, typer.Argument(metavar="BRANCH", help="A branch of lab freeze, or a run that froze live.")],
    concept: Annotated[str | None, typer.Option(help="Which one, where several are frozen.")] = None,
    step: StepOption = None,
    html: HtmlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what stayed frozen, against the twins that there are: verdict, flags, and every number with its interval."""
    check_writable(html)
    found = find_run(branch)
    from train.proving import prove as prove_run

    with progress() as report:
        proof = prove_run(found, concept, step, report)
    _show(proof, html, as_json)


def _show(proof: dict[str, Any], html: Path | None, as_json: bool) -> None:
    if html is not None:
        from app.proof_html import report

        write_file(html, report(proof))
    if as_json:
        typer.echo(json.dumps(proof, indent=1, sort_keys=True))
        return
    from app.proof_text import missing, to_text

    typer.echo(to_text(proof))
    for text in missing(proof):
        typer.echo(text, err=True)


def _twins(written: str | None) -> tuple[str, ...]:
    parts = tuple(part.strip() for part in (TWINS if written is None else written).split(",") if part.strip())
    if not parts:
        raise BadRequest(f"--twins {written!r}: names none. Twins are: {TWINS}. For none at all: --twins none.")
    return () if parts == ("none",) else parts


def _check_steps(steps: int | None) -> None:
    if steps is not None and steps < 1:
        raise BadRequest(f"--steps {steps}: train at least one step.")


def _check_layer(run: "Run", concept: str, layer: int) -> None:
    from lab.concepts import Concept

    found = Concept.load(run, concept)
    if found.layer != layer:
        raise BadRequest(
            f"--layer {layer}: {concept!r} was found at layer {found.layer}, and its subspace means nothing at another. "
            f"Find it there: lab concept add {run.name} NAME --layer {layer} …"
        )


def _find_concept(run: "Run", name: str, claim: str, layer: int | None, step: int | None) -> None:
    from train.concepts import add, of_claim

    with progress() as report:
        made = add(run, name, of_claim(run, claim), layer=layer, step=step, progress=report)
    typer.echo(f"found {made.name} at layer {made.layer}, rank {made.rank}, from claim {claim}", err=True)


def _freeze_live(run: "Run", request: dict[str, Any], wait: float, as_json: bool) -> None:
    """The trainer holds it from its next step on, and keeps the weights of that step for the proof."""
    from lab.concepts import Concept

    Concept.load(run, request["concept"])
    if not str((run.holder() or {}).get("purpose", "")).startswith(("train", "resume")):
        raise BadRequest(
            f"{run.name} is not training, so there is nothing to freeze live. Leave --live out to train a branch of it."
        )
    tell(str(run.path), "freeze", request, wait, as_json)


def _estimate(plan: "Plan") -> str:
    """What is going to be trained and how long that takes, before it begins."""
    waiting = plan.waiting
    done = len(plan.runs) - len(waiting)
    there = f" ({done} of {len(plan.runs)} are trained already)" if done else ""
    what = f"{len(waiting)} runs of {plan.steps} steps from step {plan.step} of {plan.parent.name}{there}"
    if not waiting:
        return f"all {done} runs are trained already; proving"
    if plan.seconds is None:
        return f"training {what}; the parent's records do not say how long a step takes"
    total = len(waiting) * plan.seconds
    long = f"{total / 60:.0f} minutes" if total >= 120 else f"{total:.0f} seconds"
    return f"training {what}: about {long}, at the parent's {plan.seconds / plan.steps:.2f} s a step"


def _train(train: Any, plan: "Plan") -> "Run":
    from train.__main__ import Reporter

    reporter = Reporter()
    try:
        branch: Run = train(plan, report=reporter.step, say=reporter.say)
    finally:
        reporter.close()
    return branch
