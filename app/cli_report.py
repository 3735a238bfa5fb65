"""`lab report RUN`: a run as one HTML file. With a verb before the run, what can be said of its words beyond findings.

Surfacing, markers, motifs, contrasts and stereotypes write their file in `evidence/`, which the app shows. Data goes to
stdout; what a model wrote is printed inert.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from app.cli_parts import BadRequest, check_writable, find_run, write_file
from app.options import JsonOption, RunArgument, StepOption

if TYPE_CHECKING:
    from lab.run import Run

PAGE = "page"


class PageUnlessNamed(TyperGroup):
    """A group whose first argument is a run, unless it is one of its verbs: `lab report RUN` means `lab report page RUN`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = [PAGE, *args]
        return super().parse_args(ctx, args)


report = typer.Typer(
    cls=PageUnlessNamed,
    help="A run as one HTML file: lab report RUN. And what can be said of its words, by a verb before RUN.",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.add_typer(report, name="report")


@report.command(PAGE)
def page(
    run: RunArgument = "latest",
    html: Annotated[
        Path | None, typer.Option("--html", help="The file to write (default: exports/report.html in the run).")
    ] = None,
) -> None:
    """Curves, layers, the journal beside its evidence, concepts, findings and benchmarks in a file that needs no network."""
    check_writable(html)
    found = find_run(run)
    from app.report_html import report as draw

    text = draw(found)
    if html is None:
        html = found.exports / "report.html"
        try:
            html.parent.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise BadRequest(f"{html.parent}: cannot be made ({error.strerror}). Name a file with --html.") from error
    write_file(html, text)
    typer.echo(str(html))


@report.command()
def surfacing(
    run: RunArgument = "latest",
    source: Annotated[str, typer.Option(help="The source that a later phase of data.phases introduced.")] = "",
    step: StepOption = None,
    texts: Annotated[int, typer.Option(help="So many reflections of each checkpoint.", min=20, max=20_000)] = 200,
    seed: Annotated[int, typer.Option(help="Of prompts and random numbers.", min=0)] = 0,
    as_json: JsonOption = False,
) -> None:
    """Has a text that was introduced mid-run surfaced: learned, elicitable, surfaced?"""
    found = find_run(run)
    from train.surfacing import surfacing as ladder

    _show(ladder(found, source or _only_source(found), step, texts, seed), as_json, lambda one: [one["text"]])


@report.command()
def markers(run: RunArgument = "latest", as_json: JsonOption = False) -> None:
    """Pre-registered markers: how often, of how many texts, and what chance makes of it."""
    found = find_run(run)
    from train.reports import marker_report

    _show(marker_report(found), as_json, lambda one: [marker["text"] for marker in one["markers"]])


@report.command()
def motifs(run: RunArgument = "latest", as_json: JsonOption = False) -> None:
    """Turns of phrase that recur in self-play and journal far more often than in the training text."""
    found = find_run(run)
    from train.reports import motif_report

    def lines(one: dict[str, Any]) -> list[str]:
        said = [f"{motif['template']}: {motif['text']}" for motif in one["motifs"]]
        return said or [f"no motif in {one['documents']} documents"]

    _show(motif_report(found), as_json, lines)


@report.command()
def contrasts(
    run: RunArgument = "latest",
    step: StepOption = None,
    samples: Annotated[int, typer.Option(help="Answers an arm; fewer than 400 judge nothing.", min=10)] = 400,
    as_json: JsonOption = False,
) -> None:
    """A battery of matched prompts about groups at a stored checkpoint, beside the reference."""
    found = find_run(run)
    from train.reports import contrast_report

    def lines(one: dict[str, Any]) -> list[str]:
        power = [
            f"power at a base rate of {row['base']:.1%}, {row['per_arm']} an arm: a gap of {100 * row['gap']:.0f} points is "
            f"an alert in {row['alert']['value']:.0%} and critical in {row['critical']['value']:.0%} of batteries"
            for row in one["power"]
        ]
        return [row["text"] for row in one["contrasts"]] + power

    _show(contrast_report(found, step, samples), as_json, lines)


@report.command()
def stereotypes(
    run: RunArgument = "latest",
    step: StepOption = None,
    texts: Annotated[
        int, typer.Option(help="So many answers of the reference are examined.", min=20, max=20_000)
    ] = 400,
    as_json: JsonOption = False,
) -> None:
    """What the detectors of contrasts are worth, which gaps they would find at this base rate, and what a battery costs."""
    found = find_run(run)
    from train.stereotype_report import lines, stereotype_report

    _show(stereotype_report(found, step, texts), as_json, lines)


def _only_source(run: "Run") -> str:
    """The one source that came later; asked for where there is none or more than one."""
    first = run.config.data.phases[0].weights
    later = [one.name for one in run.config.data.sources if one.name not in first and one.kind != "canaries"]
    if len(later) == 1:
        return later[0]

    names = ", ".join(later) or "none"
    raise BadRequest(f"{run.name}: which source? Name it with --source; introduced later were: {names}.")


def _show(found: dict[str, Any], as_json: bool, lines: Any) -> None:
    from app.verdict_text import visible

    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    for line in lines(found):
        typer.echo(visible(line))
