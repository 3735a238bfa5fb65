"""The verbs that say how runs do: ls and status. `register` adds them to the `lab` command.

One broken run does not hide the others: it is listed with what is wrong. Data goes to stdout, everything else to stderr.
"""

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from app.cli_parts import find_run
from app.options import JsonOption, RunArgument

if TYPE_CHECKING:
    from lab.run import Run


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.command()(ls)
    app.command()(status)


def ls(as_json: JsonOption = False) -> None:
    """List the runs, the last active first; one that cannot be read is listed as broken, with what is wrong."""
    from app.run_queries import folders
    from app.verdict_text import visible
    from lab.run import Run, default_root

    root = default_root()
    rows = [_summary_or_error(run) for run in Run.ls(root)]
    listed = {row["name"] for row in rows}
    rows += [_broken(root / name) for name in folders(root) if name not in listed]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    elif not rows:
        typer.echo(f"no runs in {root}. Begin with: lab demo", err=True)
    else:
        _print_table(rows, ("name", "state", "step", "loss", "bits_per_byte"))
        for row in rows:
            if "error" in row:
                typer.echo(visible(f"{row['name']}: {row['error']}"), err=True)


def status(run: RunArgument = "latest", as_json: JsonOption = False) -> None:
    """How a run is doing: state, newest numbers, segments, latches, and what its attachments cost."""
    found = find_run(run)
    values = summary(found) | _details(found)
    if as_json:
        typer.echo(json.dumps(values, indent=1))
        return
    for key, value in values.items():
        if isinstance(value, list):
            typer.echo(f"{key}:")
            for row in value:
                typer.echo("  " + "  ".join(f"{k}={_short(v)}" for k, v in row.items()))
        elif isinstance(value, dict):
            typer.echo(f"{key}: " + ", ".join(f"{k} {_short(v)}" for k, v in value.items()))
        else:
            typer.echo(f"{key}: {_short(value)}")


def summary(run: "Run") -> dict[str, Any]:
    """Name, state, path, the newest numbers (None where nothing is recorded) and the unix seconds of the last record."""
    values: dict[str, Any] = {"name": run.name, "state": run.state(), "path": str(run.path), "step": None}
    with run.records() as records:
        for key, metric in (("loss", "train/loss"), ("bits_per_byte", "validation/bits_per_byte")):
            newest = records.newest(metric)
            values[key] = round(newest[1], 4) if newest else None
            if newest and key == "loss":
                values["step"] = newest[0]
        values["last_write"] = records.last_write_at()
    return values


def _summary_or_error(run: "Run") -> dict[str, Any]:
    """One broken run does not hide the others."""
    from lab.errors import LabError

    try:
        return summary(run)
    except LabError as error:
        return _not_read(run.path, str(error))


def _broken(path: Path) -> dict[str, Any]:
    """A folder that holds parts of a run and cannot be opened as one."""
    from lab.errors import LabError
    from lab.run import Run

    try:
        return _summary_or_error(Run.open(path))  # it was half copied, and is whole now
    except LabError as error:
        return _not_read(path, str(error))


def _not_read(path: Path, problem: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("step", "loss", "bits_per_byte", "last_write"))
    return {"name": path.name, "state": "broken", "path": str(path), **nothing, "error": problem}


def _horizon(run: "Run") -> int:
    """The step that training goes to: the newest checkpoint knows of an extension, the configuration does not."""
    from lab.checkpoint import newest_first
    from lab.checkpoint_format import STATE, read_files
    from lab.errors import LabError

    for info in newest_first(run.checkpoints_folder):
        with contextlib.suppress(LabError, ValueError):
            state = json.loads(read_files(info.path, STATE)[1][STATE])  # state_json would import torch for its tensors
            if isinstance(state, dict) and type(state.get("horizon")) is int:
                return int(state["horizon"])
    return run.config.train.steps


def _details(run: "Run") -> dict[str, Any]:
    with run.records() as records:
        costs = {
            name.removeprefix("cost/").removesuffix("_seconds"): records.newest(name)
            for name in records.metric_names()
            if name.startswith("cost/")
        }
        seconds = {name: round(newest[1], 2) for name, newest in costs.items() if newest}
        trained = seconds.get("train", 0.0)
        shares = {
            name: f"{value / trained:.1%} of training" for name, value in seconds.items() if trained and name != "train"
        }
        return {
            "horizon": _horizon(run),
            "preset": run.config.preset,
            "seconds": seconds,
            "cost": shares,
            "segments": [{"segment": segment, "from": first, "to": last} for segment, first, last in records.lineage()],
            "latches": [{"owner": latch.owner, "reason": latch.reason} for latch in records.latches()],
            "events": [
                {"step": event.step, "kind": event.kind, "text": event.text} for event in records.events(limit=5)
            ],
        }


def _print_table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    cells = [list(columns), *([_short(row[column]) for column in columns] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for row in cells:
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _short(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) and abs(value) < 1e6 else str(value)
