"""The verbs that act on a run: pause, unpause, checkpoint, stop, set-interval. `register` adds them.

Each sends one typed command and waits until the run says what became of it; nothing that a model or a chat wrote gets
here. Exit 0: done, or things were so already; 1: refused, no trainer, or no answer in time; 2: usage.
"""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.options import JsonOption

if TYPE_CHECKING:
    from train.control import Acknowledgement

RunArgument = Annotated[  # no default: what acts on a run names it
    str, typer.Argument(metavar="RUN", help="A run: its path, a unique beginning of its name, or latest.")
]
OwnerOption = Annotated[str, typer.Option(help="Whose latch: user, understanding or check-in.")]
WaitOption = Annotated[float, typer.Option("--wait", help="Wait so many seconds for the acknowledgement.", min=0)]


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (pause, unpause, checkpoint, stop):
        app.command()(verb)
    app.command("set-interval")(set_interval)
    app.command("command")(command)


def pause(
    run: RunArgument,
    reason: Annotated[str, typer.Option(help="Why; shown wherever the run is.")] = "",
    owner: OwnerOption = "user",
    wait: WaitOption = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Let a run stand still at the next step: saved, its weights in memory, until unpaused."""
    tell(run, "pause", {"owner": owner, "reason": reason}, wait, as_json)


def unpause(
    run: RunArgument,
    owner: OwnerOption = "user",
    reason: Annotated[str, typer.Option(help="Why it may go on; a critical latch needs one.")] = "",
    wait: WaitOption = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Lift one owner's latch; the run goes on when no other is held."""
    tell(run, "unpause", {"owner": owner, "reason": reason}, wait, as_json)


def checkpoint(run: RunArgument, wait: WaitOption = 30.0, as_json: JsonOption = False) -> None:
    """Save a checkpoint at the next step."""
    tell(run, "checkpoint", {}, wait, as_json)


def stop(run: RunArgument, wait: WaitOption = 30.0, as_json: JsonOption = False) -> None:
    """Save and end the training process; `lab resume` goes on from there."""
    tell(run, "stop", {}, wait, as_json)


def set_interval(
    run: RunArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="An attachment: probing, evaluation, check_ins, …")],
    every: Annotated[int, typer.Argument(metavar="EVERY", help="Steps from one visit to the next; 0 = off.", min=0)],
    wait: WaitOption = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Let an attachment look more or less often while the run trains; its series gets a new regime."""
    tell(run, "set-interval", {"name": name, "every": every}, wait, as_json)


def command(
    run: RunArgument,
    verb: Annotated[str, typer.Argument(metavar="VERB", help="journal, checkin, selfplay, checkpoint or stop.")],
    wait: WaitOption = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Send a verb that takes no arguments: `lab command RUN journal` lets the model write an entry now."""
    tell(run, verb, {}, wait, as_json)


def tell(run: str, verb: str, arguments: dict[str, Any], seconds: float, as_json: bool) -> None:
    """Send a command, wait for its acknowledgement and print it; ends the process with 1 when it was refused."""
    from lab.run import Run, default_root
    from train import control

    found = Run.find(run, default_root())
    answer = control.wait(found, control.send(found, verb, arguments), seconds)
    if as_json:
        typer.echo(json.dumps(_as_dict(found.name, verb, arguments, answer), indent=1))
    else:
        words = "".join(letter if letter.isprintable() else "·" for letter in answer.result)  # may quote a reason
        typer.echo(f"{found.name}: {words}", err=answer.refused)
    if answer.refused:
        raise typer.Exit(1)


def _as_dict(run: str, verb: str, arguments: dict[str, Any], answer: "Acknowledgement") -> dict[str, Any]:
    return {
        "id": answer.id,
        "run": run,
        "verb": verb,
        "arguments": arguments,
        "step": answer.step,
        "changed": answer.changed,
        "refused": answer.refused,
        "result": answer.result,
    }
