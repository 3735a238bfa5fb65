"""`lab shimmer`: how what the layers hold came, went and turned over a run's checkpoints. `register` adds the verb.

Data goes to stdout, progress to stderr. What a checkpoint gave is kept in the run's statistics, so a second look is quick.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from app.cli_parts import check_writable, find_run, progress, write_file
from app.options import HtmlOption, JsonOption, RunArgument

Json = Mapping[str, Any]
HEAD = ("label", "layer", "state", "bits", "flicker", "churn", "cos~", "°/doubling", "born", "died", "levels change at")
LEGEND = (
    "bits: usable per word ± standard error at the newest checkpoint; flicker: movement between checkpoints beyond noise, "
    "in bits, over the newest {window}; churn: decisions changed since the checkpoint before, beyond what half the words "
    "change; cos~: direction against the checkpoint before, noise taken off; °/doubling: its turning per doubling of the "
    "step; levels change at: step (share of bootstrap series)"
)


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command()(shimmer)


def shimmer(
    run: RunArgument = "latest",
    concept: Annotated[list[str] | None, typer.Option(help="A stored concept; repeat for more.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="A label task, class.next say; repeat for more.")] = None,
    layer: Annotated[
        list[int] | None, typer.Option(help="A layer of the tasks; repeat for more (default: all).")
    ] = None,
    html: HtmlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Follow labels and concepts over a run's checkpoints: bits, direction, decisions, births, deaths, flicker."""
    check_writable(html)
    found = find_run(run)
    from train.shimmer import shimmer as follow

    with progress() as report:
        result = follow(found, task or (), concept or (), layer or (), report).to_dict()
    if html is not None:
        write_file(html, _page(result))
    typer.echo(json.dumps(result, indent=1) if as_json else to_text(result))


def to_text(found: Json) -> str:
    """A row per track: its newest state and numbers, and its history in steps.

    Args:
        found: `Shimmering.to_dict()`.
    """
    from app.verdict_text import visible

    steps = found["steps"]
    lines = [f"{len(steps)} checkpoints, steps {steps[0]:,} to {steps[-1]:,}"]
    rows = [list(HEAD), *([visible(cell) for cell in _row(track)] for track in found["tracks"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines += ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"{visible(name)}: untestable: {visible(reason)}" for name, reason in found["untestable"].items()]
    if found["missing"]:
        shown = ", ".join(f"{step:,}" for step in found["missing"])
        lines.append(
            f"left out, not read for this (or under another protocol or history) and no checkpoint there: steps {shown}"
        )
    return "\n".join([*lines, LEGEND.format(window=found["window"])])


def _row(track: Json) -> list[str]:
    newest = track["points"][-1]
    changes = [f"{one['step']:,} ({one['stability']:.0%})" for one in track["change_points"]]
    flicker = None if track["flicker"] is None else math.sqrt(max(0.0, track["flicker"]))
    return [
        track["name"],
        str(track["layer"]),
        track["state"],
        f"{_number(newest['bits'])} ± {_number(newest['se'])}",
        _number(flicker),
        "–" if newest["excess_churn"] is None else f"{newest['excess_churn']:+.1%}",
        _number(newest["cosine"]),
        _number(newest["turning"], 0),
        _steps(track["births"]),
        _steps(track["deaths"]),
        ", ".join(changes) or "–",
    ]


def _page(found: Json) -> str:
    from app.shimmer_figures import caption, describe, heat_map
    from app.verdict_html import document, escaped, figure_block

    *table, legend = to_text(found).split("\n")
    lines = "\n".join(escaped(line) for line in table)  # line by line: a line break is a control character too
    sections = [f'<pre style="overflow-x:auto">{lines}</pre><p>{escaped(legend)}</p>']
    if found["tracks"]:
        figure = figure_block(heat_map(found["tracks"]), "shimmer")
        sections.insert(0, f'<div role="img" aria-label="{escaped(describe(found))}">{figure}</div>')
        sections.insert(1, f"<p>{escaped(caption(found))}</p>")
    return document(f"Shimmer of {found['run']}", sections)


def _number(value: float | None, places: int = 3) -> str:
    return "–" if value is None else f"{value:.{places}f}"


def _steps(steps: Sequence[int]) -> str:
    return ", ".join(f"{step:,}" for step in steps) or "–"
