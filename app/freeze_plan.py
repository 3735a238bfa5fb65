"""A freeze that a person is about to ask for: what to hold, how it is typed, and about what it takes. No torch.

Times are the run's own seconds per step; sizes are read off the checkpoint that the branches begin with. Both are estimates
and are called so.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from app import concepts
from app.concept_card import DAMAGED
from app.doctor import free_bytes
from app.server_job_progress import branch_of
from lab.checkpoint import is_log_milestone, list_checkpoints
from lab.checkpoint_format import WEIGHTS, CheckpointInfo
from lab.errors import LabError
from lab.records import Records
from lab.run import Run

UNFROZEN, RANDOM, LOWER = TWINS = ("unfrozen", "random", "lower")
STEPS = 500  # of a branch, unless somebody says otherwise; `lab freeze` has the same
TARGET = 0.1
TIMES_UNFROZEN = {"write": 1.00, "anchor": 1.14, "pin": 1.13, "write+anchor": 1.14, "lower": 1.00}
"""Time of a step over an unfrozen one: medians of 15 alternating pairs at `demo` shape (README). Lower was
not measured so; it leaves work out, so its time is put at an unfrozen step's."""
_HEADER = 8  # bytes: how long a safetensors header is
_LARGEST_HEADER = 16_000_000


@dataclass(frozen=True)
class Choice:
    """What is asked for.

    Attributes:
        step: the checkpoint to branch from; steps: to train from there, each run.
        target: of anchor: the drift to steer to, in units of the concept's spread.
        name: of the branch; None for the usual one.
    """

    concept: str
    mode: str
    step: int
    steps: int = STEPS
    twins: tuple[str, ...] = TWINS
    target: float = TARGET
    name: str | None = None

    @property
    def runs(self) -> tuple[str, ...]:
        """Modes of what is trained, the branch first; "none" for an unfrozen twin."""
        held = {UNFROZEN: "none", RANDOM: self.mode, LOWER: LOWER}
        return (self.mode, *(held[twin] for twin in self.twins if not twin == self.mode == LOWER))

    def options(self) -> dict[str, bool | int | float | str]:
        """As the server's job takes them."""
        told: dict[str, bool | int | float | str] = {"concept": self.concept, "mode": self.mode}
        told |= {"step": self.step, "steps": self.steps, "twins": ",".join(self.twins) or "none"}
        told |= {"target": self.target} if "anchor" in self.mode else {}
        return told | ({"name": self.name} if self.name else {})

    def command(self, run: str) -> str:
        """As a person types it."""
        told = {name: value for name, value in self.options().items() if name != "concept"}
        if told.get("target") == TARGET:
            del told["target"]
        words = [word for name, value in told.items() for word in (f"--{name}", shlex.quote(str(value)))]
        return " ".join(["lab freeze", shlex.quote(run), self.concept, *words])


@dataclass(frozen=True)
class Cost:
    """About what a choice takes.

    Attributes:
        seconds: of training, all runs; None where the run's records do not say how long a step takes.
        disk: bytes that the new runs will keep; free: bytes there are (None: cannot be asked).
        copy: bytes of the frozen lower copy, in memory and on disk, of each run that holds something.
    """

    runs: int
    seconds: float | None
    disk: int
    copy: int
    free: int | None

    @property
    def fits(self) -> bool:
        return self.free is None or self.disk < self.free


def named(run: Run, choice: Choice, sha256: str) -> Choice:
    """The choice with a name of its own where the usual one is another experiment's, whose proof it would be taken for.

    Args:
        sha256: of the concept's subspace.
    """
    usual, root = str(branch_of("freeze", run.name, choice.options())), run.path.parent
    names = (usual if number == 1 else f"{usual}-{number}" for number in itertools.count(1))
    name = next(one for one in names if not (root / one).exists() or _same(root / one, run.name, choice, sha256))
    return choice if name == usual else dataclasses.replace(choice, name=name)


def _same(folder: Path, parent: str, choice: Choice, sha256: str) -> bool:
    """Whether a run is the branch that this choice asks for, begun or done: asked for again, it goes on there."""
    about = concepts.branch_record(folder)
    with contextlib.suppress(*DAMAGED):
        frozen = about["frozen"][0]
        found = (about["parent"], about["step"], about["steps"], about["concept_sha256"][choice.concept])
        held = (frozen["concept"], frozen["mode"], frozen["target"] if "anchor" in choice.mode else choice.target)
        return (*found, *held) == (
            parent, choice.step, choice.steps, sha256, choice.concept, choice.mode, choice.target,
        )  # fmt: skip
    return False


def starts(run: Run) -> list[CheckpointInfo]:
    """Checkpoints that training can go on from, ascending."""
    with contextlib.suppress(LabError, OSError):
        return sorted(
            (one for one in list_checkpoints(run.checkpoints_folder) if one.has_optimizer), key=lambda i: i.step
        )
    return []


def cost(run: Run, records: Records, choice: Choice, layer: int, start: CheckpointInfo) -> Cost:
    """What a choice takes, before anything is made.

    Args:
        layer: of the concept; the copy is of the embedding and the blocks below it.
        start: the checkpoint of `choice.step`.
    """
    pace = seconds_per_step(records)
    seconds = None if pace is None else pace * choice.steps * sum(TIMES_UNFROZEN.get(mode, 1.0) for mode in choice.runs)
    copy = below(start.path / WEIGHTS, layer)
    whole, weights_only = _kept(run, choice.step, choice.step + choice.steps)
    with contextlib.suppress(OSError):
        weights = (start.path / WEIGHTS).stat().st_size
        each = whole * start.bytes + weights_only * weights
        holding = sum(mode != "none" for mode in choice.runs)
        return Cost(
            len(choice.runs), seconds, each * len(choice.runs) + copy * holding, copy, free_bytes(run.path.parent)
        )
    return Cost(len(choice.runs), seconds, 0, copy, free_bytes(run.path.parent))


def seconds_per_step(records: Records) -> float | None:
    """Wall seconds that a step of the newest segment took, without attachments; as `train.proving` has it."""
    newest, segments = records.newest("cost/train_seconds"), records.segments()
    if newest is None or not segments or newest[0] <= segments[-1].from_step:
        return None
    return newest[1] / (newest[0] - segments[-1].from_step)


def below(weights: Path, layer: int) -> int:
    """Bytes of the embedding and of the blocks below a layer, read off a safetensors header; 0 where there is none.

    Biases are left out: they are zero in every model of ours, and no parameters.
    """
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        with weights.open("rb") as file:
            size = int.from_bytes(file.read(_HEADER), "little")
            tensors = json.loads(file.read(min(size, _LARGEST_HEADER)))
        return sum(
            int(about["data_offsets"][1]) - int(about["data_offsets"][0])
            for name, about in tensors.items()
            if name == "embed.W_E"
            or (name.startswith("blocks.") and int(name.split(".")[1]) < layer and ".b_" not in name)
        )
    return 0


def _kept(run: Run, first: int, last: int) -> tuple[int, int]:
    """How many checkpoints a branch will hold at its end: whole ones, and milestones of weights alone."""
    asked = run.config.checkpoint
    saved = {step for step in range(first, last + 1) if step % asked.every == 0}
    milestones = {step for step in range(first, min(last, 512) + 1) if asked.log_spaced and is_log_milestone(step)}
    saved |= milestones | {first, last}
    newest = sorted(saved)[-asked.keep :]
    return len(newest), len(milestones - set(newest))


def in_time(seconds: float) -> str:
    """A span for people.

    >>> in_time(45), in_time(600), in_time(9000)
    ('45 seconds', '10 minutes', '2.5 hours')
    """
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def in_bytes(size: float) -> str:
    """A size for people.

    >>> in_bytes(0), in_bytes(4_700_000), in_bytes(2_340_000_000)
    ('0 MB', '4.7 MB', '2.3 GB')
    """
    if size >= 1e9:
        return f"{size / 1e9:.1f} GB"
    return f"{size / 1e6:.1f} MB" if 0 < size < 1e8 else f"{size / 1e6:.0f} MB"
