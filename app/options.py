"""Arguments and options that several verbs of the `lab` command take, each said once."""

from pathlib import Path
from typing import Annotated

import typer

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A run: its path, a unique beginning of its name, or latest.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
StepOption = Annotated[int | None, typer.Option("--step", help="A checkpoint's step (default: the newest).")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override, as --set train.steps=2000.")
]
HtmlOption = Annotated[Path | None, typer.Option("--html", help="Write one file with the figures inside, too.")]
