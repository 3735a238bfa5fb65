"""The verbs that let the model talk, and what came of it: selfplay, checkin, journal write, timeline. `register` adds them.

A run that trains is sent a command, and talks at its next step as its configuration says; of any other run a stored
checkpoint talks now. What a model wrote is printed inert. Data goes to stdout.
"""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from app.cli_control import WaitOption, tell
from app.cli_parts import BadRequest, find_run
from app.cli_verify import journal
from app.options import JsonOption, RunArgument, StepOption

if TYPE_CHECKING:
    from lab.run import Run

NamedRun = Annotated[
    str, typer.Argument(metavar="RUN", help="A run: its path, a unique beginning of its name, or latest.")
]
SeedOption = Annotated[int | None, typer.Option(help="Another seed gives other words (default: the run's).", min=0)]


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (selfplay, checkin, timeline):
        app.command()(verb)
    journal.command("write")(write)


def selfplay(
    run: NamedRun,
    step: StepOption = None,
    turns: Annotated[int | None, typer.Option(help="So many turns after the topic.", min=1, max=1000)] = None,
    topic: Annotated[str | None, typer.Option(help="Begin with this, not with one of the lab's topics.")] = None,
    seed: SeedOption = None,
    wait: WaitOption = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Let two voices of the model converse: at the next step of a live run, else at a stored checkpoint, now."""
    if topic is not None and not topic.strip():
        raise BadRequest("--topic is empty. Give a sentence, or leave it out.")
    found = find_run(run)
    if _sent(found, "selfplay", {"--step": step, "--turns": turns, "--topic": topic, "--seed": seed}, wait, as_json):
        return
    from train.self_play import self_play_now

    said = self_play_now(found, step, turns, topic, seed)
    if as_json:
        typer.echo(json.dumps({"run": found.name, **said}, indent=1))
        return
    typer.echo(f"step {said['step']}: {len(said['turns']) - 1} turns")
    for turn in said["turns"]:
        typer.echo(f"{turn['voice']}: {_shown(turn['text']).strip() or '(nothing)'}")
        _findings(turn["findings"])
    _findings(said["findings"])
    for name, rate in said["rates"].items():
        typer.echo(f"{name}: {_rate(rate)} turns")


def checkin(
    run: NamedRun,
    step: StepOption = None,
    system: Annotated[
        str | None, typer.Option(help='A system prompt (default: the configured one; "" for none).')
    ] = None,
    samples: Annotated[int | None, typer.Option(help="So many answers to each prompt.", min=1, max=1000)] = None,
    wait: WaitOption = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Ask the model the fixed questions: at the next step of a live run, else of a stored checkpoint, now."""
    found = find_run(run)
    if _sent(found, "checkin", {"--step": step, "--system": system, "--samples": samples}, wait, as_json):
        return
    from train.check_ins import check_in_now

    said = check_in_now(found, step, system, samples)
    if as_json:
        typer.echo(json.dumps({"run": found.name, **said}, indent=1))
        return
    typer.echo(f"step {said['step']}, battery {said['battery']['version']}: {len(said['samples'])} answers")
    for sample in said["samples"]:
        if sample["sample"] == 0:
            typer.echo(f"\n{sample['prompt']}")
        typer.echo(f"  - {' '.join(_shown(sample['text']).split()) or '(nothing)'}")
        _findings(sample["findings"], "    ")
    typer.echo("")
    for name, rate in said["rates"].items():
        typer.echo(f"{name}: {_rate(rate)} answers")
    for name in ("last", "reference"):
        typer.echo(f"against the {name + ' check-in' if name == 'last' else name}: {_comparison(said[name])}")


def write(
    run: RunArgument = "latest",
    blind: Annotated[bool, typer.Option("--blind", help="An entry whose prompt shows no readings.")] = False,
    informed: Annotated[bool, typer.Option("--informed", help="An entry whose prompt shows the newest ones.")] = False,
    step: StepOption = None,
    seed: SeedOption = None,
    wait: WaitOption = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Let the model write an entry: at the next step of a live run, else by a stored checkpoint, now. Default: both kinds."""
    found = find_run(run)
    chosen: dict[str, Any] = {"--blind": blind or None, "--informed": informed or None, "--step": step, "--seed": seed}
    if _sent(found, "journal", chosen, wait, as_json):
        return
    from train.journal import write_now

    kinds: list[Literal["blind", "informed"]] = []
    kinds += ["blind"] if blind else []
    kinds += ["informed"] if informed else []
    entries = write_now(found, step, kinds or None, seed)
    if as_json:
        typer.echo(json.dumps(entries, indent=1))
        return
    for entry in entries:
        typer.echo(entry["said"])
        typer.echo("".join(f"  | {line}\n" for line in _shown(entry["text"]).splitlines()), nl=False)
    testable = [entry for entry in entries if entry["parsable"]]
    if testable:
        typer.echo(f"test with: lab verify {found.name} --entry {testable[-1]['entry']}", err=True)


def timeline(run: RunArgument = "latest", as_json: JsonOption = False) -> None:
    """What happened to a run: regimes, first findings, pauses, snapshots, each with its denominator."""
    from app.timeline import timeline as rows_of

    found = find_run(run)
    rows = rows_of(found)
    if as_json:
        typer.echo(json.dumps({"run": found.name, "moments": [row.to_json() for row in rows]}, indent=1))
        return
    if not rows:
        typer.echo("nothing is recorded yet", err=True)
    width = len(str(max((row.step for row in rows), default=0)))
    for row in rows:
        counted = "" if row.count is None else f" [{row.count:,}{_of(row.of)} {row.unit}]"
        typer.echo(f"{row.step:>{width}}  {row.kind:<13}  {_shown(row.text)}{counted}")


def _sent(run: "Run", verb: str, options: dict[str, Any], seconds: float, as_json: bool) -> bool:
    """Whether the run trains, and was therefore asked to do it itself."""
    if run.state() not in ("training", "held"):
        return False
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise BadRequest(
            f"{run.name} trains, so it talks at its present step as its configuration says. Leave {given[0]} out, or stop "
            f"it first: lab stop {run.name}"
        )
    tell(str(run.path), verb, {}, seconds, as_json)
    return True


def _findings(findings: Sequence[dict[str, Any]], indent: str = "   ") -> None:
    for finding in findings:
        typer.echo(f"{indent}<- {finding['severity']}, {finding['rule']}: {finding['text']}")


def _comparison(found: dict[str, Any] | None) -> str:
    if found is None:
        return "there is none before this"
    if "reason" in found:
        return str(found["reason"])
    if found["changed"] is None:
        return "no answer in common"
    said = [f"step {found['step']}", f"{_rate(found['changed'])} answers have other words"]
    for name, change in found["rates"].items():
        said.append(f"{name} {change['value']:+.0%} ({change['lo']:+.0%} to {change['hi']:+.0%})")
    return "; ".join(said)


def _rate(rate: dict[str, Any]) -> str:
    return f"{rate['value']:.0%} ({rate['lo']:.0%} to {rate['hi']:.0%}) of {rate['checks']}"


def _of(of: int | None) -> str:
    return "" if of is None else f" of {of:,}"


def _shown(text: str) -> str:
    """Model text on a terminal: control characters are shown, not obeyed."""
    from app.verdict_text import visible

    return visible(text)
