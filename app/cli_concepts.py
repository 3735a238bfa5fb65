"""`lab concept add|ls|show|rm`: find a concept in a checkpoint, look at its card, take it away again."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli_parts import BadRequest, find_run, progress
from app.options import JsonOption, RunArgument, StepOption
from lab.errors import LabError

if TYPE_CHECKING:
    from lab.run import Run
    from train.concepts import FromFile, Source

concept = typer.Typer(
    help="Concepts: subspaces of a layer that hold what tells words apart.", no_args_is_help=True, rich_markup_mode=None
)
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The concept's name: a-z, 0-9, '.', '_' and '-'.")]


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.add_typer(concept, name="concept")


@concept.command("add")
def add(
    run: RunArgument,
    name: NameArgument,
    task: Annotated[
        str | None,
        typer.Option(help="A label, class.next say; supersense.current:noun.animal is one class against the rest."),
    ] = None,
    classes: Annotated[str | None, typer.Option(help="With --task: only these classes, with commas.")] = None,
    words: Annotated[
        tuple[str, str] | None, typer.Option(metavar="A B", help="Two word lists: files, or words with commas.")
    ] = None,
    sentences: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="A B", help="Two files of sentences, a sentence a line.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(metavar="F", help="Contrast prompts: a pair a line, a tab between them.")
    ] = None,
    from_claim: Annotated[
        str | None, typer.Option(metavar="ID", help="The subjects of a claim in the journal.")
    ] = None,
    target: Annotated[str, typer.Option(help="With --from-claim: label the current word, or the next.")] = "next",
    from_file: Annotated[
        Path | None, typer.Option(metavar="F", help="A direction, or orthonormal columns, of a safetensors file.")
    ] = None,
    tensor: Annotated[str | None, typer.Option(help="With --from-file: which tensor.")] = None,
    row: Annotated[int | None, typer.Option(help="With --from-file: this row of it.")] = None,
    layer: Annotated[int | None, typer.Option(help="0..L (default: the one with the most usable bits).")] = None,
    step: StepOption = None,
    take: Annotated[int | None, typer.Option(help="Sentences of held-out text (default: as the probes have).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Find a concept and keep it in the run, with a card that says what it is."""
    given = {"--task": task, "--words": words, "--sentences": sentences, "--prompts": prompts}
    given |= {"--from-claim": from_claim, "--from-file": from_file}
    _check_one(given)
    _check_beside("--classes", classes, "--task", task)
    for option, value in (("--tensor", tensor), ("--row", row)):
        _check_beside(option, value, "--from-file", from_file)
    if target not in ("current", "next"):
        raise BadRequest(f"--target {target}: is current or next.")
    found = find_run(run)
    import train.concepts as concepts

    def source() -> "Source | FromFile":
        if task is not None:
            return concepts.Task(task, None if classes is None else tuple(_parts(classes)))
        if words is not None:
            return concepts.word_lists(*words)
        if sentences is not None:
            return concepts.sentence_files(*sentences)
        if prompts is not None:
            return concepts.prompt_file(prompts)
        if from_claim is not None:
            return concepts.of_claim(found, from_claim, target)
        return concepts.FromFile(from_file or Path(), tensor, row)

    with progress() as report:
        made = concepts.add(found, name, source(), layer=layer, step=step, take=take, progress=report)
    _print(found, made.name, as_json)
    typer.echo(f"kept as {made.name}; freeze it with: lab freeze {found.name} {made.name}", err=True)


@concept.command("ls")
def ls(run: RunArgument = "latest", as_json: JsonOption = False) -> None:
    """The run's concepts; a card that cannot be read is named and the others are listed."""
    from app.concept_text import row
    from app.verdict_text import visible
    from lab.concepts import names, read_card

    found = find_run(run)
    rows: list[dict[str, Any]] = []
    for name in names(found):
        try:
            rows.append(row(read_card(found, name)))
        except (LabError, KeyError, TypeError, AttributeError) as error:
            text = str(error) if isinstance(error, LabError) else f"{name}: its card does not hold together."
            rows.append({"name": name, "error": text})
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    if not rows:
        way = f"lab concept add {found.name} NAME --task class.next"
        typer.echo(f"{found.name} has no concepts yet. Make one: {way}", err=True)
    for one in rows:
        if "error" in one:
            typer.echo(f"{one['name']}  broken: {one['error']}")
            continue
        bits = "-" if one["bits"] is None else f"{one['bits']:.3f} bits"
        where = f"layer {one['layer']}, rank {one['rank']}, step {one['step']}"
        typer.echo(f"{one['name']}  {where}  {bits}  {visible(one['source'])}")


@concept.command("show")
def show(run: RunArgument, name: NameArgument, as_json: JsonOption = False) -> None:
    """A concept's card: examples, tokens it promotes, histogram, layers, noise floor and what erasing it costs."""
    _print(find_run(run), name, as_json)


@concept.command("rm")
def rm(run: RunArgument, name: NameArgument) -> None:
    """Remove a concept from the run. Branches that freeze it keep their own copy."""
    from lab.concepts import remove

    remove(find_run(run), name)
    typer.echo(f"removed {name}", err=True)


def _print(run: "Run", name: str, as_json: bool) -> None:
    from app.concept_text import to_text
    from lab.concepts import BadConcept, Concept, names, read_card

    if name not in names(run):
        Concept.load(run, name)  # which says what there is
    card = read_card(run, name)
    if as_json:
        typer.echo(json.dumps(card, indent=1, sort_keys=True))
        return
    try:
        typer.echo(to_text(card))
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise BadConcept(f"{name}: its card does not hold together ({error!r}). Find the concept again.") from None


def _check_one(given: dict[str, Any]) -> None:
    there = [option for option, value in given.items() if value is not None]
    if len(there) != 1:
        what = "nothing says what to find it from" if not there else f"{' and '.join(there)} are both given"
        raise BadRequest(f"{what}. Give one of {', '.join(given)}.")


def _check_beside(option: str, value: object, other: str, there: object) -> None:
    if value is not None and there is None:
        raise BadRequest(f"{option} goes with {other}. Add that, or leave {option} out.")


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
