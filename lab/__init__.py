"""Train a small GPT with its hooks open. `from lab import load; run = load("latest"); model = run.model(step=1200)`."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.run import Run

__all__ = ["load"]


def load(reference: str = "latest", root: Path | str | None = None) -> "Run":
    """The run that `reference` names: a path, a name, the beginning of one, or "latest".

    Args:
        root: where runs lie; by default $LAB_RUNS, else ./runs.

    Raises:
        RunMissing, NotARun: saying which runs there are.
    """
    from lab.run import Run, default_root

    return Run.find(reference, default_root() if root is None else Path(root))
