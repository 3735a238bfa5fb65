"""The verbs of the exploration server: serve, chat, up. `register` adds them to the `lab` command.

Data (answers) goes to stdout, everything else to stderr. What a model wrote is printed inert.
"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from app.cli_parts import BadRequest, find_run
from app.options import RunArgument, StepOption

SystemOption = Annotated[
    str | None,
    typer.Option("--system-prompt", help="Put before conversations that bring none; each record says whether it was."),
]


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    for verb in (serve, chat, up):
        app.command()(verb)


def serve(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, or a folder of runs (runs/).")] = "latest",
    host: Annotated[str, typer.Option(help="Another address is open to others, who need the token.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(help="(default: 8123, or a free one)", min=0, max=65535)] = None,
    name: Annotated[
        list[str] | None, typer.Option("--host-name", help="With --host: a name it may be called by, too.")
    ] = None,
    system_prompt: SystemOption = None,
    device: Annotated[str, typer.Option(help="cpu leaves the card to the trainer.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Of the model's arithmetic.", min=1)] = 1,
    nice: Annotated[int, typer.Option(help="How far to stand back for others (0 to 19).", min=0, max=19)] = 10,
    queue: Annotated[int, typer.Option(help="So many requests may wait; the next is told to come again.", min=0)] = 32,
) -> None:
    """Serve a run's weights over OpenAI's API, newest or any checkpoint, while it trains or not; Ctrl-C stops."""
    from app import server_process

    if name and host == "127.0.0.1":
        raise BadRequest("--host-name says what another --host is called. Add --host, or leave it out.")
    path = _path(run)

    def ready(url: str, token: Path) -> None:
        _say(f"{path.name} answers at {url}/v1 (the token lies in {token}; Ctrl-C stops it)")
        if host not in ("127.0.0.1", "localhost", "::1"):
            _say(f"it listens on {host}: whoever reaches that and has the token may use it, unencrypted")

    named = tuple(name or ())
    server_process.leave(
        server_process.serve(path, host, port, named, system_prompt, device, threads, nice, queue, ready)
    )


def chat(
    run: RunArgument = "latest",
    step: StepOption = None,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.", min=0, max=2)] = 0.8,
    top_p: Annotated[float, typer.Option(help="Only the likeliest that hold this share.", max=1)] = 1.0,
    max_tokens: Annotated[int | None, typer.Option(help="At most so many a turn.", min=1)] = None,
    seed: Annotated[int | None, typer.Option(help="Of every answer (default: drawn, and recorded).", min=0)] = None,
    system: Annotated[str | None, typer.Option(help="Begin the conversation with this system prompt.")] = None,
) -> None:
    """Talk with a run: Ctrl-C stops an answer, Ctrl-D ends. Recorded in chats.db; trained on only with data.chats = true."""
    from app import chat_terminal
    from lab import chats

    found = find_run(run)
    partner, base = chat_terminal.partner_for(found, None)
    model = base if step is None else f"{base}@step-{step}"
    _say(f"{found.name} ({found.state()}), answered by {partner.where}; recorded, {chats.use(found.config.data.chats)}")
    wish = chat_terminal.Wish(model, temperature, top_p, max_tokens, seed)
    try:
        chat_terminal.converse(partner, wish, _read, _write, _say, system)
    finally:
        partner.close()
    if sys.stdin.isatty():
        typer.echo("")


def up(
    run: RunArgument = "latest",
    train: Annotated[bool, typer.Option("--train", help="Go on training it, too.")] = False,
    port: Annotated[int | None, typer.Option(help="Of the server (default: 8123, or a free one).", min=1)] = None,
    app_port: Annotated[int | None, typer.Option(help="Of the app (default: 8501, or a free one).", min=1)] = None,
    system_prompt: SystemOption = None,
) -> None:
    """Server and app together, and the trainer if wanted; one Ctrl-C stops all, the trainer saving first."""
    from app.together import bring_up

    raise typer.Exit(bring_up(find_run(run), train, port, app_port, system_prompt, _say))


def _read(prompt: str) -> str:
    """A typed line; the prompt goes to stderr, so that a pipe holds answers alone."""
    if sys.stdin.isatty():
        import readline

        readline.set_auto_history(True)
    typer.echo(prompt, nl=False, err=True)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


def _write(text: str) -> None:
    from app.verdict_text import visible

    typer.echo("\n".join(visible(line) for line in text.split("\n")), nl=False)


def _path(reference: str) -> Path:
    """A run's folder, or a folder of runs."""
    from lab.run_folder import MANIFEST, run_names

    folder = Path(reference).expanduser()
    if folder.is_dir() and not (folder / MANIFEST).is_file() and run_names(folder):
        return folder.resolve()
    return find_run(reference).path.resolve()


def _say(text: str) -> None:
    from app.verdict_text import visible

    typer.echo(visible(text), err=True)
