"""The weights that a server may speak with: published checkpoints, nothing of the trainer's.

A model is named `lab` (the newest that is whole) or `lab@step-N`; of a folder of runs `RUN` and `RUN@step-N`. Newer
weights are taken up when the next request asks; a request keeps what it began with. Loading checks every sha256.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from app.queries import identity
from lab.checkpoint import CheckpointCorrupt, CheckpointInfo, list_checkpoints, newest_first
from lab.errors import LabError
from lab.model import GPT
from lab.run import CheckpointMissing, Run
from lab.run_folder import run_names
from lab.run_names import BadName, check_name, resolve_inside
from lab.tokenizer import Tokenizer
from train.conversations import Layout, layout_of

ONE_RUN = "lab"
KEPT = 3  # checkpoints in memory: the newest, one that is compared with it, one on its way out
_NAME = re.compile(r"(?P<run>[^@]{1,64})(?:@step-(?P<step>[0-9]{1,9}))?")
_GONE = (CheckpointCorrupt, CheckpointMissing, OSError)


class ModelMissing(LabError):
    """No model of that name."""


class WeightsMissing(LabError):
    """The run has no checkpoint that can be read now."""

    exit_code = 1


@dataclass(frozen=True)
class Loaded:
    """A checkpoint in memory."""

    run: Run
    info: CheckpointInfo
    model: GPT
    tokenizer: Tokenizer
    layout: Layout

    @property
    def step(self) -> int:
        return self.info.step


@dataclass
class Published:
    """The checkpoints of one run, or of every run in a folder.

    Attributes:
        path: of the run, or of the folder of runs.
        single: whether `path` is a run.
    """

    path: Path
    single: bool
    device: str = "cpu"
    kept: int = KEPT
    newest_step: int | None = None  # of the weights that answered last
    _memory: "OrderedDict[tuple[str, int, str], Loaded]" = field(default_factory=OrderedDict)
    _runs: dict[tuple[str, int, int], Run] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def run_names(self) -> list[str]:
        return [self.path.name] if self.single else run_names(self.path)

    def run(self, name: str | None = None) -> Run:
        """The run of that name; None is the only one.

        Raises:
            ModelMissing: no such run, a name that could not be one's, or none named among several.
        """
        if self.single:
            if name not in (None, ONE_RUN, self.path.name):
                raise ModelMissing(f"run {name[:80]!r} is not served here; {self.path.name} is. Leave run out.")
            path = self.path
        elif name is None:
            raise ModelMissing(
                f"several runs are served here. Name one: {', '.join(self.run_names()[:8]) or 'none yet'}."
            )
        else:
            try:
                path = resolve_inside(self.path, check_name(name))
            except BadName as error:
                raise ModelMissing(str(error)) from None
            if name not in run_names(self.path):
                raise ModelMissing(
                    f"run {name!r} is not there. There are: {', '.join(self.run_names()[:8]) or 'none'}."
                )
        key = identity(path)
        with self._lock:
            if key not in self._runs:
                self._runs[key] = Run.open(path)
            return self._runs[key]

    def find(self, model: str) -> tuple[Run, int | None]:
        """The run and step that a model's name means; no step: the newest.

        Raises:
            ModelMissing: naming the form of a name.
        """
        written = _NAME.fullmatch(model)
        if written is None:
            raise ModelMissing(f"model {model[:80]!r} is no name of ours. Use {self._form()} or {self._form()}@step-N.")
        if self.single and written["run"] != ONE_RUN:
            raise ModelMissing(f"model {model[:80]!r} is not served here. Use lab, or lab@step-N.")
        run = self.run(written["run"])
        step = None if written["step"] is None else int(written["step"])
        if step is not None and all(info.step != step for info in list_checkpoints(run.checkpoints_folder)):
            raise ModelMissing(_without_path(run, step))
        return run, step

    def models(self) -> Iterator[tuple[str, Run, CheckpointInfo]]:
        """Every name that can be asked for, and the checkpoint it means now: the newest of a run first."""
        for name in self.run_names():
            try:
                run = self.run(name)
                infos = _best_first(run)
            except LabError:
                continue
            base = ONE_RUN if self.single else name
            if infos:
                yield base, run, infos[0]
            for info in sorted(infos, key=lambda one: -one.step):
                yield f"{base}@step-{info.step}", run, info

    def load(self, model: str) -> Loaded:
        """The weights that a name means at this moment. Not for several threads at once.

        Raises:
            ModelMissing: no such name.
            WeightsMissing: the checkpoints cannot be read.
        """
        run, step = self.find(model)
        for _ in range(2):  # between the listing and the reading, a trainer may have rotated all of them away
            for info in _best_first(run):
                if step is not None and info.step != step:
                    continue
                try:
                    loaded = self._in_memory(run, info)
                except _GONE:
                    continue
                self.newest_step = loaded.step
                return loaded
        what = "its first is written when training starts" if step is None else f"step {step} was damaged or removed"
        raise WeightsMissing(
            f"{run.name}: has no checkpoint that can be read now; {what}. Ask again, or another model."
        )

    def _in_memory(self, run: Run, info: CheckpointInfo) -> Loaded:
        key = (str(run.path), info.step, info.weights_sha256)
        if key not in self._memory:
            model = run.model(info.step)
            tokenizer = run.tokenizer()
            self._memory[key] = Loaded(run, info, model.to(self.device), tokenizer, layout_of(tokenizer))
            while len(self._memory) > self.kept:
                self._memory.popitem(last=False)
        self._memory.move_to_end(key)
        return self._memory[key]

    def _form(self) -> str:
        return ONE_RUN if self.single else "RUN"


def newest(run: Run) -> CheckpointInfo | None:
    """The checkpoint that a request for the newest would get, its hash not yet looked at; no torch is used."""
    found = _best_first(run)
    return found[0] if found else None


def _best_first(run: Run) -> list[CheckpointInfo]:
    """From LATEST downwards, those with weights that are not numbers last."""
    return sorted(newest_first(run.checkpoints_folder), key=lambda info: not info.healthy)


def _without_path(run: Run, step: int) -> str:
    steps = sorted(info.step for info in list_checkpoints(run.checkpoints_folder))
    near = min(steps, key=lambda there: abs(there - step), default=None)
    return f"{run.name}: has no checkpoint of step {step}." + (f" The nearest is {near}." if steps else "")
