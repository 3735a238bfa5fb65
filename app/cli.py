"""The `lab` command: one verb a job. Data goes to stdout, everything else to stderr.

Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 stopped by a gate, 130 interrupted. Every heavy import sits inside
the verb that needs it, so that `lab --help` answers at once.
"""

import contextlib
import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app import (
    cli_bench,
    cli_concepts,
    cli_control,
    cli_conversations,
    cli_exchange,
    cli_freeze,
    cli_plan,
    cli_report,
    cli_runs,
    cli_serve,
    cli_shimmer,
    cli_verify,
)
from app.cli_parts import BadRequest, find_run
from app.options import JsonOption, RunArgument, SetOption, StepOption

if TYPE_CHECKING:
    from lab.run import Run

app = typer.Typer(
    help="Train a small GPT with its hooks open, and see what its layers hold.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line; errors meant for people are printed as one sentence, without a traceback."""
    from lab.errors import LabError

    try:
        sys.exit(app(standalone_mode=False) or 0)  # an Exit comes back as its code
    except LabError as error:
        _say(f"lab: {error}")
        sys.exit(error.exit_code)
    except typer.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        _say("lab: interrupted")
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):  # a usage error of the command line itself
            _say(f"lab: {error.format_message()}")
            sys.exit(error.exit_code)
        raise


@app.command()
def demo(
    steps: Annotated[int | None, typer.Option(help="Train for fewer or more steps than the preset.", min=1)] = None,
    set_: SetOption = None,
    name: Annotated[str | None, typer.Option(help="The run's name.")] = None,
) -> None:
    """Train a small model on bundled text, about five minutes on two CPU cores, and show what it learned."""
    overrides = list(set_ or [])
    if steps is not None:
        from lab.config import load_config

        warmup = min(
            load_config("demo").optimizer.warmup_steps, steps // 5
        )  # a short demo would end within the preset's
        overrides = [f"optimizer.warmup_steps={warmup}", *overrides, f"train.steps={steps}"]
    run, code = _train("demo", None, overrides, name)
    if code == 0:
        _show_result(run)
    raise typer.Exit(code)


@app.command()
def train(
    preset: Annotated[str | None, typer.Option(help="tiny, demo, laptop or 8gb.")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file over the preset.")] = None,
    set_: SetOption = None,
    name: Annotated[str | None, typer.Option(help="The run's name (default: date, preset and four letters).")] = None,
    print_config: Annotated[
        bool, typer.Option("--print-config", help="Print the resolved configuration and stop.")
    ] = False,
) -> None:
    """Train a new run, its probes attached."""
    if print_config:
        from lab.config import load_config

        typer.echo(load_config(preset, config, set_ or []).to_toml(), nl=False)
        return
    run, code = _train(preset, config, set_ or [], name)
    if code == 0:
        _show_next(run)
    raise typer.Exit(code)


@app.command()
def resume(
    run: RunArgument = "latest",
    from_step: Annotated[
        int | None, typer.Option("--from", help="Rewind to this checkpoint; later history is kept.")
    ] = None,
    extend_to: Annotated[
        int | None, typer.Option(help="Train on to this step; the schedule is stretched to it.")
    ] = None,
    skip_batches: Annotated[int, typer.Option(help="Leave out this many batches first.", min=0)] = 0,
) -> None:
    """Go on with a run, bit for bit as if it had never stopped."""
    from train.__main__ import run_again

    found, outcome = run_again(find_run(run), from_step, extend_to, skip_batches)
    if outcome.exit_code == 0:
        _show_next(found)
    raise typer.Exit(outcome.exit_code)


@app.command()
def generate(
    run: RunArgument = "latest",
    prompt: Annotated[str, typer.Option(help="Text to go on from.")] = "",
    step: StepOption = None,
    max_tokens: Annotated[int, typer.Option(help="At most this many tokens.")] = 100,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.8,
    top_k: Annotated[int, typer.Option(help="Only the k likeliest (0 = all).")] = 0,
    top_p: Annotated[float, typer.Option(help="Only the likeliest that hold this share.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text.")] = 0,
    chat: Annotated[bool, typer.Option("--chat", help="The prompt is a user's message.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Sample text from a checkpoint."""
    from lab.generate import Generation, Sampling, stream

    found = find_run(run)
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    info = found.checkpoint_info(step)  # once: a run in training may have a newer one a moment later
    tokenizer, model = found.tokenizer(), found.model(info.step)
    ids: str | list[int] = prompt
    if chat:
        ids, _ = tokenizer.chat([{"role": "user", "content": prompt}], reply_as="assistant")
    record = Generation()
    for piece in stream(model, tokenizer, ids, sampling, record):
        record.text += piece
        if not as_json:
            typer.echo(_printable(piece), nl=False)
    if as_json:
        values = {"run": found.name, "step": info.step, "prompt": prompt, "seed": seed, "temperature": temperature}
        typer.echo(json.dumps(values | {"text": record.text, "ids": record.ids, "finish_reason": record.finish_reason}))
    else:
        typer.echo("")


@app.command("app")
def app_(
    runs: Annotated[Path | None, typer.Option(help="The folder of runs (default: $LAB_RUNS, else ./runs).")] = None,
    example: Annotated[
        bool, typer.Option("--example", help="A run that comes with the lab: a copy, gone when the app ends.")
    ] = False,
    port: Annotated[int | None, typer.Option(help="On 127.0.0.1 (default: 8501, or a free one).")] = None,
    browser: Annotated[bool, typer.Option(help="Open a browser.")] = True,
) -> None:
    """Open the app: runs, training curves, layer-wise probes."""
    import webbrowser

    from app.example import copied
    from app.interrupts import Interrupts
    from app.launch import start
    from lab.run import default_root

    if example and runs is not None:
        raise BadRequest("--example brings its own folder of runs. Leave --runs out, or --example.")
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(copied()) if example else runs or default_root()
        # SIGTERM too: what runs, and the copy, are gone whichever way it ends, also where a shell ignores Ctrl-C for it
        stack.enter_context(Interrupts(signal.SIGINT, signal.SIGTERM))
        running = start(root, port)
        _say(f"the app is at {running.url} (Ctrl-C stops it)")
        if example:
            _say(f"to talk with the example, in another terminal: lab serve {root / 'example'}")
        try:
            if browser:
                webbrowser.open(running.url)
            code = running.wait()
        finally:
            running.stop()
    raise typer.Exit(code)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Check versions, device, disk, the runs folder and whether a run is whole."""
    from app.doctor import examine

    findings = examine()
    if as_json:
        typer.echo(json.dumps([f.__dict__ for f in findings], indent=1))
    else:
        for finding in findings:
            typer.echo(f"{'ok ' if finding.ok else 'NO '} {finding.name}: {finding.text}")
    raise typer.Exit(0 if all(f.ok for f in findings) else 1)


cli_verify.register(app)
cli_bench.register(app)
cli_concepts.register(app)
cli_control.register(app)
cli_conversations.register(app)
cli_exchange.register(app)
cli_freeze.register(app)
cli_plan.register(app)
cli_report.register(app)
cli_runs.register(app)
cli_shimmer.register(app)
cli_serve.register(app)


def _train(preset: str | None, config: Path | None, overrides: list[str], name: str | None) -> "tuple[Run, int]":
    from lab.config import load_config
    from train.__main__ import run_new

    run, outcome = run_new(load_config(preset, config, overrides), name=name)
    return run, outcome.exit_code


def _show_result(run: "Run") -> None:
    """What the demo ends with: numbers, a sample, the two depth profiles, where it all lies."""
    from lab.bigram import bigram_bits_per_byte
    from lab.generate import Sampling
    from lab.generate import generate as sample
    from train.probing import NoReadings, stored_profiles
    from train.session import corpus_of

    summary = cli_runs.summary(run)
    bigram = bigram_bits_per_byte(run.config, corpus_of(run), summary["step"])
    typer.echo(f"\nloss {summary['loss']} nats per token, validation {summary['bits_per_byte']} bits per byte")
    typer.echo(f"(an interpolated bigram model of the same tokens: {bigram:.4f} bits per byte)\n")
    typer.echo("a sample:")
    typer.echo("  " + _printable(sample(run.model(), run.tokenizer(), "The ", Sampling(max_tokens=60)).text.strip()))
    typer.echo("")
    try:
        typer.echo(stored_profiles(run, ("class.next", "supersense.next")).to_text())
    except NoReadings:  # probing was switched off
        typer.echo("no probes in this run")
    _show_next(run)


def _show_next(run: "Run") -> None:
    typer.echo(f"\nthe run lies in {run.path}. Next:")
    typer.echo("  lab app                          # curves and layers in the browser")
    typer.echo(f"  lab probe {run.name}    # every task, every layer")
    typer.echo(f"  lab generate {run.name} --prompt 'Our country'")


def _printable(text: str) -> str:
    """Model text on a terminal: control characters (escape sequences among them) are shown, not obeyed."""
    return "".join(
        c if c in "\n\t" or (c.isprintable() and c not in "\u202a\u202b\u202d\u202e\u2066\u2067\u2068") else "·"
        for c in text
    )


def _say(text: str) -> None:
    typer.echo(text, err=True)


if __name__ == "__main__":
    main()
