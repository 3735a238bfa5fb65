"""The run folder: create it, find it, lock it, and reach what lies in it. One run is one folder.

A run appears under its name when it is whole or not at all. Whoever holds `run.lock` is the only writer; the lock is the
operating system's, so a killed holder frees it. Importing this imports neither torch nor the database library.
"""

import contextlib
import os
import shutil
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lab import run_lock
from lab.checkpoint import CheckpointInfo, list_checkpoints, newest_first
from lab.durable import replace_file, sync_folder, write_file
from lab.errors import LabError
from lab.run_folder import (
    CONFIG,
    DATABASE,
    FOLDERS,
    MANIFEST,
    NotARun,
    RunBroken,
    RunExists,
    RunMissing,
    as_json,
    new_manifest,
    read_manifest,
    run_names,
    sweep,
    written_at,
)
from lab.run_lock import RunLocked
from lab.run_names import BadName, check_name, default_root, resolve_inside, suggestion

if TYPE_CHECKING:
    from lab.config import RunConfig
    from lab.model import GPT
    from lab.records import Records
    from lab.tokenizer import Tokenizer

__all__ = [
    "BadName",
    "CheckpointMissing",
    "NotARun",
    "Run",
    "RunBroken",
    "RunExists",
    "RunLocked",
    "RunMissing",
    "check_name",
    "default_root",
    "resolve_inside",
]


class CheckpointMissing(LabError):
    """The run has no checkpoint of that step."""


class Run:
    """One run folder. Make one with `create`, `open` or `find`."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    # ------------------------------------------------------------------------------------------ create, open, find

    @classmethod
    def create(cls, root: Path, name: str | None, config: "RunConfig") -> Self:
        """Make a run folder (mode 0700) with configuration, manifest and an empty database.

        Args:
            name: by default YYYYMMDD-HHMM-<preset>-<4 hex>.

        Raises:
            BadName, RunExists: nothing was made.
        """
        if name is None:
            name = f"{time.strftime('%Y%m%d-%H%M')}-{config.preset}-{os.urandom(2).hex()}"
        check_name(name)
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = resolve_inside(root, name)
        if path.exists():
            raise RunExists(f"{path}: exists already. Choose another name, or go on with it: lab resume {name}")
        sweep(root)
        made = root / f".tmp-{name}-{os.urandom(4).hex()}"
        try:
            for folder in (made, *(made / each for each in FOLDERS)):
                folder.mkdir(mode=0o700)
            write_file(made / CONFIG, config.to_toml().encode())
            write_file(made / MANIFEST, as_json(new_manifest(config)))
            from lab.records import Records

            Records.writer(made / DATABASE).close()
            sync_folder(made)
            os.rename(made, path)  # fails where another run took the name meanwhile
            sync_folder(root)
        except OSError as error:
            if path.exists():
                raise RunExists(f"{path}: exists already. Choose another name.") from error
            raise RunBroken(f"{path}: could not be made ({error}). Make {root} writable, or set LAB_RUNS.") from error
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The run at `path`.

        Raises:
            RunMissing, NotARun, RunBroken
        """
        if not os.path.isdir(path):  # pathlib's raises for names that are too long
            raise RunMissing(f"{path}: there is no such folder.{suggestion(path.name, run_names(path.parent))}")
        missing = [file for file in (CONFIG, MANIFEST) if not os.path.isfile(path / file)]
        if missing:
            raise NotARun(
                f"{path}: has no {' and no '.join(missing)}, so no run made it or it was copied halfway. "
                "Copy the whole folder, or start one: lab train"
            )
        return cls(path, read_manifest(path))

    @classmethod
    def find(cls, reference: str, root: Path) -> Self:
        """The run that a person means: "latest" (most recent activity), a name, a path, or the beginning of a name.

        Raises:
            RunMissing: naming the candidates when the beginning fits several, else the runs there are.
        """
        if "\0" in reference:
            raise RunMissing(f"{reference!r}: no run and no path has a null character in it. Leave it out.")
        if reference == "latest":
            runs = cls.ls(root)
            if not runs:
                raise RunMissing(f"{root}: holds no runs yet. Start one: lab demo")
            return runs[0]
        if reference in run_names(root):
            return cls.open(root / reference)
        written_as_path = os.sep in reference or reference.startswith((".", "~"))
        path = Path(os.path.expanduser(reference))
        if written_as_path or (reference and os.path.isfile(path / MANIFEST)):
            return cls.open(Path(os.path.abspath(path)))
        names = run_names(root)
        fitting = [name for name in names if reference and name.startswith(reference)]
        if len(fitting) == 1:
            return cls.open(root / fitting[0])
        if fitting:
            shown = ", ".join(fitting[:8]) + (", …" if len(fitting) > 8 else "")
            raise RunMissing(
                f"{root}: {reference!r} is the beginning of {len(fitting)} runs: {shown}. Write more of it."
            )
        if reference and os.path.isdir(root / reference):
            return cls.open(root / reference)  # says what it lacks
        raise RunMissing(f"{root}: no run is called {reference!r}.{suggestion(reference, names)}")

    @classmethod
    def ls(cls, root: Path) -> list[Self]:
        """Every run under `root` that can be opened, the most recently active first."""
        runs = []
        for name in run_names(root):
            with contextlib.suppress(LabError):
                runs.append(cls.open(root / name))
        return sorted(runs, key=lambda run: (-run.active_at(), run.name))

    # --------------------------------------------------------------------------------------------------- its places

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def checkpoints_folder(self) -> Path:
        return self.path / "checkpoints"

    @property
    def tokenizer_folder(self) -> Path:
        return self.path / "tokenizer"

    @property
    def database(self) -> Path:
        return self.path / DATABASE

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def statistics(self) -> Path:
        return self.path / "statistics"

    @property
    def evidence(self) -> Path:
        return self.path / "evidence"

    @property
    def concepts(self) -> Path:
        return self.path / "concepts"

    @property
    def inbox(self) -> Path:
        return self.path / "inbox"

    @property
    def journal(self) -> Path:
        return self.path / "journal"

    @property
    def exports(self) -> Path:
        return self.path / "exports"

    # ---------------------------------------------------------------------------------------------------- its state

    @cached_property
    def config(self) -> "RunConfig":
        """The configuration as resolved. Raises RunBroken when `config.toml` cannot be read as one."""
        from lab.config import load_config

        try:
            return load_config(file=self.path / CONFIG)
        except LabError as error:
            raise RunBroken(f"{self.path / CONFIG}: is no configuration that this version reads. {error}") from error

    def update_config(self, config: "RunConfig") -> None:
        """Replace the configuration (an extended horizon, say); segments in the database keep the hash each ran with."""
        replace_file(self.path / CONFIG, config.to_toml().encode())
        self.__dict__.pop("config", None)
        self.update_manifest(config_hash=config.hash())

    def update_manifest(self, **fields: Any) -> None:
        """Set fields of the manifest, atomically. For the holder of the lock."""
        self.manifest = read_manifest(self.path) | fields
        replace_file(self.path / MANIFEST, as_json(self.manifest))

    def active_at(self) -> float:
        """Unix seconds of the last sign of life: a record, a checkpoint, or the creation."""
        times = [written_at(self.path / DATABASE) or 0.0]
        for name in ("checkpoints/LATEST", MANIFEST):
            with contextlib.suppress(OSError):
                times.append((self.path / name).stat().st_mtime)
        return max(times)

    def lock(self, purpose: str) -> contextlib.AbstractContextManager[None]:
        """Be the only writer while inside. Freed by the operating system when the holder dies, however it dies.

        Args:
            purpose: what for, in a word or two; under one that begins with "train" or "resume" the run is "training".

        Raises:
            RunLocked: naming the holder: process, host, since when, what for.
        """
        return run_lock.lock(self.path, purpose)

    def holder(self) -> dict[str, Any] | None:
        """Who holds the lock now: pid, host, started (unix seconds) and purpose; None when nobody does."""
        return run_lock.holder(self.path)

    def state(self) -> str:
        """training, held (in memory but standing still on a latch), finished, stopped, dead (killed), or new."""
        from lab.records import RecordsMissing

        holder = self.holder()
        try:
            with self.records() as records:
                segments, latches = records.segments(), records.latches()
        except RecordsMissing:
            segments, latches = [], []
        if holder is not None and str(holder.get("purpose", "")).startswith(run_lock.TRAINING):
            return "held" if latches else "training"
        if not segments:
            return "dead" if list_checkpoints(self.checkpoints_folder) else "new"
        if segments[-1].ended_at is None:
            return "dead"
        return "finished" if segments[-1].reason == "finished" else "stopped"

    # -------------------------------------------------------------------------------------------------- its content

    def checkpoint_info(self, step: int | None = None) -> CheckpointInfo:
        """The checkpoint of `step`, or the newest. Raises CheckpointMissing, naming the steps there are."""
        infos = newest_first(self.checkpoints_folder)
        for info in infos:
            if step is None or info.step == step:
                return info
        if not infos:
            raise CheckpointMissing(f"{self.path}: has no checkpoint yet. The first is written when training starts.")
        steps = sorted(info.step for info in infos)
        near = min(steps, key=lambda there: abs(there - (step or 0)))
        shown = ", ".join(map(str, steps if len(steps) <= 24 else [*steps[:12], "…", *steps[-11:]]))
        raise CheckpointMissing(f"{self.path}: has no checkpoint of step {step}. Use {near}, or one of {shown}.")

    def model(self, step: int | None = None) -> "GPT":
        """The model as it was at `step` (the newest by default), on the CPU, for reading: `eval` mode.

        Concepts that were pinned then are pinned in it (`lab.pins`).

        Raises:
            CheckpointMissing, CheckpointCorrupt, LowerCopyDamaged
        """
        from lab.checkpoint import load
        from lab.model import GPT, GPTConfig
        from lab.pins import attach

        saved = load(self.checkpoint_info(step).path, optimizer=False)
        tokenizer = self.tokenizer() if (self.tokenizer_folder / "tokenizer.json").exists() else None
        model = GPT(GPTConfig.from_config(self.config.model), tokenizer=tokenizer)
        model.load_state_dict(saved.weights)
        attach(model, self.path, saved.state)
        model.eval()
        return model

    def tokenizer(self) -> "Tokenizer":
        """The tokenizer the run was made with: ours, or the one that imported weights came with."""
        from lab.hf_tokenizer import load_tokenizer

        return load_tokenizer(self.tokenizer_folder)

    def records(self) -> "Records":
        """The database, for reading; close it, or use it in a `with`."""
        from lab.records import Records

        return Records.reader(self.database)
