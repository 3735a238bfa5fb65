"""The verbs about benchmarks: bench and review. `register` adds them to the command line. Data goes to stdout."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli_parts import BadRequest, find_run, progress
from app.options import JsonOption, RunArgument

if TYPE_CHECKING:
    from lab.run import Run

LIMIT, SAMPLE = 200, 40
HARNESSES = ("lm-eval",)


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (bench, review):
        app.command()(verb)


def bench(
    run: RunArgument = "latest",
    tasks: Annotated[
        str | None, typer.Option(help="Benchmarks, with commas; `list` prints them (default: lab).")
    ] = None,
    files: Annotated[  # not named `items`: what a server's job may set never names a file
        list[Path] | None,
        typer.Option("--items", help="A JSONL file of items, or a folder of them; may be given again."),
    ] = None,
    limit: Annotated[
        int, typer.Option(help="So many items of each, the same ones every time (0 = all).", min=0)
    ] = LIMIT,
    step: Annotated[
        list[int] | None, typer.Option(help="A checkpoint's step; may be given again (default: the newest).", min=0)
    ] = None,
    every_checkpoint: Annotated[
        bool, typer.Option("--every-checkpoint", help="All checkpoints that there are.")
    ] = False,
    with_reasons: Annotated[
        bool, typer.Option("--with-reasons", help="Also reasons for the answers, with their controls.")
    ] = False,
    harness: Annotated[str | None, typer.Option(help="lm-eval: its answers to the same items beside ours.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Print what was found earlier; ask nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Answer benchmark items by likelihood, item by item, and say how much the numbers can mean."""
    from lab.benchmark_items import tasks as known_tasks

    if tasks == "list":
        for known in known_tasks().values():
            typer.echo(f"{known.name:<14} {known.about} [{known.licence}]")
        return
    if harness is not None and harness not in HARNESSES:
        raise BadRequest(f"--harness {harness!r} is none. Use {HARNESSES[0]}, or leave it out.")
    if step and every_checkpoint:
        raise BadRequest("--step and --every-checkpoint are both given. Leave one of them out.")
    found = find_run(run)
    if show:
        _show(found, _names(tasks), as_json)
        return
    from train.benchmarking import asked
    from train.benchmarking import bench as ask

    wanted = asked(_names(tasks) or ([] if files else ["lab"]), files or (), limit or None)
    steps: Sequence[int | None] = step or [None]
    if every_checkpoint:
        from lab.checkpoint import list_checkpoints

        steps = sorted(info.step for info in list_checkpoints(found.checkpoints_folder))
    with progress() as report:
        results = ask(found, wanted, steps, with_reasons, report=report)
        sides = _beside(found, results, report) if harness else []
    from app.bench_report import everything
    from app.bench_report import report as report_of
    from app.bench_text import harness_lines, moved, to_text
    from app.bench_trend import trends

    reports: list[dict[str, Any]] = []
    with found.records() as records:
        reports = [report_of(records, one.task, one.step, one.answers) for one in results if one.answers]
        kept = everything(records, list(dict.fromkeys(one.task for one in results)))
    for one in results:
        if one.skipped:
            typer.echo(
                f"{one.task}: {one.skipped} items have an option longer than the model reads; left out", err=True
            )
        if not one.fresh and one.answers:
            typer.echo(f"{one.task} at step {one.step}: was answered earlier; nothing was asked again", err=True)
    if as_json:
        both = {"run": found.name, "benchmarks": reports, "trends": trends(kept)}
        if harness:
            both[harness] = [_side_json(side) for side in sides]
        typer.echo(json.dumps(both, indent=1))
        return
    if reports:
        typer.echo(to_text(reports))
    if with_reasons and (said := moved(kept)):
        typer.echo("\n" + "\n\n".join(said))
    if sides:
        typer.echo("\n" + harness_lines(sides))


def review(
    run: RunArgument = "latest",
    task: Annotated[str | None, typer.Option(help="Whose answers (default: the first that has reasons).")] = None,
    step: Annotated[
        int | None, typer.Option(help="A step that was benched with reasons (default: the newest).", min=0)
    ] = None,
    sample: Annotated[
        int, typer.Option(help="So many items, as many wrong as right ones, good as bad.", min=1)
    ] = SAMPLE,
    seed: Annotated[int, typer.Option(help="Another seed draws another sample.", min=0)] = 0,
    rater: Annotated[str | None, typer.Option(help="Your name: rate here and now, and write your file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write the blind sheet as CSV, to be filled in elsewhere.")] = None,
    ratings: Annotated[
        list[Path] | None, typer.Option(help="A filled-in CSV; given again for a second rater, their agreement.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Rate rationales blind: is the option defensible, does the rationale support it, is the gold one best?"""
    from app.review import agree, ask, draw, file_of, keep, read_ratings, sheet, summarise, write_csv

    found = find_run(run)
    with found.records() as records:
        drawn = draw(records, task, step, sample, seed)
    if ratings:
        rated = [read_ratings(file, drawn) for file in ratings]
        outcome = {"raters": [summarise(one, drawn) for one in rated], "agreement": agree(rated)}
        typer.echo(json.dumps(outcome, indent=1) if as_json else _outcome(outcome))
        return
    if out is not None:
        write_csv(out, sheet(drawn))
        typer.echo(f"wrote {out}: {len(drawn)} items. Fill in the last three columns with yes or no, then: ", err=True)
        typer.echo(f"  lab review {found.name} --task {drawn[0].task} --step {drawn[0].step} --ratings {out}", err=True)
        return
    if rater is None:
        raise BadRequest("say who rates (--rater NAME), or where the sheet is written (--out FILE).")
    file_of(found.evidence, drawn[0], rater)  # a bad name is refused before the first question
    answers = ask(drawn, typer.prompt, typer.echo)
    file = keep(found.evidence, drawn[0], rater, answers)
    typer.echo(f"wrote {file}", err=True)


def _show(run: "Run", names: Sequence[str], as_json: bool) -> None:
    from app.bench_report import everything
    from app.bench_text import to_text
    from app.bench_trend import trends

    with run.records() as records:
        reports = everything(records, names or None)
    if as_json:
        typer.echo(json.dumps({"run": run.name, "benchmarks": reports, "trends": trends(reports)}, indent=1))
    elif reports:
        typer.echo(to_text(reports))
    else:
        typer.echo(f"nothing was asked yet. Begin with: lab bench {run.name}", err=True)


def _beside(run: "Run", results: Sequence[Any], report: Any) -> list[Any]:
    from train.harness import Harness, beside

    sides = []
    for step in dict.fromkeys(one.step for one in results):
        asked = Harness(run, step)
        sides += [beside(asked, one.task, one.answers, report) for one in results if one.step == step and one.answers]
    return sides


def _side_json(side: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(side)


def _outcome(outcome: dict[str, Any]) -> str:
    from app.bench_text import rate

    lines = []
    for one in outcome["raters"]:
        lines.append(f"{one['rater']}: {one['items']} items")
        lines += [f"  {kind}: {rate(found)}" for kind, found in one["kinds"].items()]
    for question, alpha in outcome["agreement"].items():
        lines.append(f"Krippendorff's alpha, {question}: " + ("–" if alpha is None else f"{alpha:.2f}"))
    return "\n".join(lines)


def _names(written: str | None) -> list[str]:
    return [part.strip() for part in (written or "").split(",") if part.strip()]
