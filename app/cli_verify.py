"""The verbs that ask what the layers hold: probe, verify, journal. `register` adds them to the `lab` command.

Data goes to stdout, progress to stderr: a bar on a terminal, plain lines elsewhere.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli_parts import BadRequest, check_writable, find_run, progress, write_file
from app.options import HtmlOption, JsonOption, RunArgument, StepOption

if TYPE_CHECKING:
    pass

Report = Callable[[str, float], None]
READINGS = ("decode", "decide", "use")
MOST_BYTES = 100_000  # of an entry's text
LONGEST_AUTHOR = 80

journal = typer.Typer(
    help="What is written about the model: read it, add to it.", no_args_is_help=True, rich_markup_mode=None
)


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.command()(probe)
    app.command()(verify)
    app.add_typer(journal, name="journal")


def probe(
    run: RunArgument = "latest",
    step: StepOption = None,
    every: Annotated[bool, typer.Option("--all", help="Every checkpoint, not one.")] = False,
    task: Annotated[
        list[str] | None, typer.Option(help="A task, class.next say; repeat for more (default: all).")
    ] = None,
    jobs: Annotated[int, typer.Option(help="With --all: so many checkpoints at a time.", min=1)] = 1,
    thorough: Annotated[
        bool, typer.Option("--thorough", help="Logistic regression, control task and code length beside it.")
    ] = False,
    html: HtmlOption = None,
    as_json: JsonOption = False,
) -> None:
    """What each layer of a checkpoint holds of word class and meaning, as usable bits per word with intervals."""
    if every and step is not None:
        raise BadRequest("--all probes every checkpoint and --step names one. Leave one of them out.")
    if jobs > 1 and not every:
        raise BadRequest(f"--jobs {jobs} shares out checkpoints, and there is one. Add --all, or leave --jobs out.")
    if thorough and every:
        raise BadRequest("--thorough looks closely at one checkpoint. Leave --all out, or --thorough.")
    check_writable(html)
    found = find_run(run)
    if every:
        from train.verifying import probe_all

        with progress() as report:
            probed = list(probe_all(found, task or None, jobs, report))
    else:
        from train.probing import probe_run

        probed = [probe_run(found, step, task or None, thorough)]
    if html is not None:
        from app.verdict_html import probe_report

        write_file(html, probe_report(found.name, probed))
    if as_json:
        values = [readings.to_dict() for readings in probed]
        typer.echo(json.dumps(values if every else values[0], indent=1))
    else:
        typer.echo("\n\n".join(readings.to_text() for readings in probed))


def verify(
    run: RunArgument = "latest",
    entry: Annotated[int | None, typer.Option(help="A journal entry's number (default: every entry).")] = None,
    text: Annotated[str | None, typer.Option(help="A sentence of yours; it becomes an entry.")] = None,
    author: Annotated[str | None, typer.Option(help="With --text: who says so.")] = None,
    step: StepOption = None,
    readings: Annotated[str, typer.Option(help="Which to make, with commas.")] = ",".join(READINGS),
    sentences: Annotated[int | None, typer.Option(help="At most this many sentences.", min=1)] = None,
    conllu: Annotated[list[Path] | None, typer.Option(help="A CoNLL-U file with gold labels; repeat for more.")] = None,
    streusle: Annotated[
        list[Path] | None, typer.Option(help="A STREUSLE file with gold supersenses; repeat for more.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller samples, wider intervals.")] = False,
    html: HtmlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Test what an entry claims about the layers against the model's activations; a verdict for each claim."""
    if entry is not None and text is not None:
        raise BadRequest("--entry tests what is in the journal and --text a sentence of yours. Leave one of them out.")
    if author is not None and text is None:
        raise BadRequest("--author says whose --text it is. Add --text, or leave --author out.")
    if text is not None:
        _check_text(text, "--text")
    wanted = _readings(readings)
    for option, files in (("--conllu", conllu), ("--streusle", streusle)):
        for file in files or ():
            if not file.is_file():
                raise BadRequest(f"{option} {file}: there is no such file.")
    check_writable(html)
    found = find_run(run)
    from train.verifying import verify as test

    with progress() as report:
        verdicts = test(
            found,
            entry=entry,
            text=text,
            author=_author(author) if author is not None else "person",
            step=step,
            readings=wanted,
            sentences=sentences,
            conllu=conllu or (),
            streusle=streusle or (),
            quick=quick,
            progress=report,
        )
    if html is not None:
        from app.verdict_html import report as html_report

        write_file(html, html_report(verdicts, f"Verdicts on claims about {found.name}"))
    if as_json:
        typer.echo(json.dumps(verdicts, indent=1, sort_keys=True))
    elif not verdicts:
        typer.echo("no claim about the layers was found; nothing to test")
    else:
        from app.verdict_terminal import to_text

        typer.echo("\n\n".join(to_text(verdict) for verdict in verdicts))


@journal.command("add")
def journal_add(
    author: Annotated[str, typer.Option(help="Who wrote it; `model` marks it as model-written.")],
    run: RunArgument = "latest",
    text: Annotated[str | None, typer.Option(help="The entry.")] = None,
    file: Annotated[Path | None, typer.Option(help="A UTF-8 file to take it from (default: standard input).")] = None,
    step: Annotated[
        int | None, typer.Option(help="The checkpoint's step it is about (default: the newest).", min=0)
    ] = None,
) -> None:
    """Add an entry of a person's, or one from elsewhere; its claims are read at once."""
    from app.verdict_text import claim_in_words

    who, words = _author(author), _text_given(text, file)
    found = find_run(run)
    from train.verifying import add_entry

    number, claims = add_entry(found, words, who, step)
    typer.echo(f"entry {number}: {len(claims)} claim{'' if len(claims) == 1 else 's'}")
    for claim in claims:
        typer.echo(f"  {claim.status}: {claim_in_words(claim.to_json())}")
    if claims:
        typer.echo(
            f"test {'it' if len(claims) == 1 else 'them'} with: lab verify {found.name} --entry {number}", err=True
        )


@journal.command("ls")
def journal_ls(run: RunArgument = "latest", as_json: JsonOption = False) -> None:
    """The entries, each with its claims and what testing them said. What the model wrote is marked so."""
    from app.verdict_terminal import journal_to_text

    found = find_run(run)
    from train.verifying import entries

    rows = entries(found)
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    elif rows:
        typer.echo(journal_to_text(rows))
    else:
        way = f'lab journal add {found.name} --author you --text "…"'
        typer.echo(f"nothing is written yet. Add something: {way}", err=True)


def _readings(written: str) -> tuple[str, ...]:
    wanted = [part.strip() for part in written.split(",") if part.strip()]
    unknown = [part for part in wanted if part not in READINGS]
    if unknown or not wanted:
        what = f"{unknown[0]!r} is no reading" if unknown else "names no reading"
        raise BadRequest(f"--readings {written!r}: {what}. Readings are: {', '.join(READINGS)}.")
    return tuple(reading for reading in READINGS if reading in wanted)


def _author(name: str) -> str:
    name = name.strip()
    if not name or len(name) > LONGEST_AUTHOR or not name.isprintable():
        raise BadRequest(
            f"--author {name[:LONGEST_AUTHOR]!r}: give a name of 1 to {LONGEST_AUTHOR} printable characters."
        )
    return name


def _text_given(text: str | None, file: Path | None) -> str:
    """The entry from --text, --file or standard input."""
    if text is not None and file is not None:
        raise BadRequest("--text and --file are both given. Leave one of them out.")
    if text is not None:
        return _check_text(text, "--text")
    if file is None and sys.stdin.isatty():
        raise BadRequest('there is no text. Give it with --text "…", --file FILE, or through a pipe.')
    try:
        # one byte more than is allowed tells that there is too much, however endless the source is
        if file is None:
            raw = sys.stdin.buffer.read(MOST_BYTES + 1)
        else:
            with file.open("rb") as opened:
                raw = opened.read(MOST_BYTES + 1)
        return _check_text(raw.decode("utf8"), str(file or "standard input"))
    except OSError as error:
        raise BadRequest(f"{file}: cannot be read ({error.strerror or error}).") from error
    except UnicodeDecodeError as error:
        if len(raw) > MOST_BYTES:
            raise BadRequest(_too_long(str(file or "standard input"))) from error
        raise BadRequest(
            f"{file or 'standard input'}: is not UTF-8 text (byte {error.start}). Convert it first."
        ) from error


def _check_text(text: str, source: str) -> str:
    if not text.strip():
        raise BadRequest(f"{source}: the text is empty. Write what is claimed about the model's layers.")
    try:
        size = len(text.encode("utf8"))
    except UnicodeEncodeError as error:
        raise BadRequest(f"{source}: is not UTF-8 text (character {error.start}). Convert it first.") from error
    if size > MOST_BYTES:
        raise BadRequest(_too_long(source))
    return text


def _too_long(source: str) -> str:
    return f"{source}: longer than {MOST_BYTES // 1000} kB. Cut it into several entries."
