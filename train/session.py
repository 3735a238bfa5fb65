"""Everything one uninterrupted stretch of training stands on: built from the configuration, or from a checkpoint.

`start` makes a new run, `resume` goes on with an old one in a new segment; both give a `Session` inside the run's lock.
The state of a checkpoint is listed in `Session.state`: leave any piece out and a resumed run is another run.
"""

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lab import checkpoint
from lab.allocator import keep_freed_memory
from lab.config import RunConfig
from lab.corpus import Batch, Corpus
from lab.errors import LabError
from lab.model import GPT, GPTConfig
from lab.records import Event, Finding, Records
from lab.run import Run, RunExists, default_root
from lab.run_names import check_name, resolve_inside
from train.attachments import Attachment, Intervention
from train.control import Control
from train.equipment import Riders, build_attachments, build_interventions, choose_device
from train.freeze import Change, Freeze
from train.freeze_record import rows_of
from train.generators import generators_state, load_generators_state, seed_generators
from train.health import NON_FINITE
from train.optimizer import build_optimizer, load_optimizer_tensors, optimizer_tensors
from train.schedule import learning_rate

__all__ = ["CannotResume", "Progress", "Riders", "Session", "corpus_of", "prepare_corpus", "resume", "start"]
Progress = Callable[[str, float], None]


class CannotResume(LabError):
    """There is nothing to go on with, or what is asked for contradicts the run."""


@dataclass
class Session:
    run: Run
    config: RunConfig
    corpus: Corpus
    model: GPT
    optimizer: torch.optim.Optimizer
    records: Records
    control: Control
    attachments: Sequence[Attachment]
    interventions: Sequence[Intervention]
    freeze: Freeze  # one of the interventions, always there
    dtype: torch.dtype
    segment: int
    step: int
    horizon: int
    fresh: bool
    forward: Callable[..., Any]  # what a training step calls: the model, or its compiled twin
    tokens_seen: int = 0
    newest: dict[str, float] = field(default_factory=dict)
    spent: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))
    visited: dict[str, int] = field(default_factory=dict)  # attachment -> the step of its newest visit in this segment
    report: Callable[["Session"], None] = lambda _: None
    say: Callable[[str], None] = lambda _: None
    saved_step: int | None = None
    _segment_from: int = 0
    _costs_at: int | None = None
    _clock: tuple[float, int] = field(default_factory=lambda: (time.perf_counter(), 0))

    @property
    def end(self) -> int:
        """The last step to train to: the schedule's horizon, or before it where the run is to stop earlier."""
        stop = self.config.train.stop
        return self.horizon if stop is None else min(stop, self.horizon)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds besides weights and optimizer tensors; JSON-able."""
        return {
            "step": self.step,
            "horizon": self.horizon,
            "tokens_seen": self.tokens_seen,
            "corpus": self.corpus.state_dict(),
            "generators": generators_state(),
            "attachments": {a.name: a.state_dict() for a in self.attachments},
            "interventions": {i.name: i.state_dict() for i in self.interventions},
            "segment": self.segment,
            "config_hash": self.config.hash(),
        }

    def load(self, saved: checkpoint.Checkpoint) -> None:
        """Take over a checkpoint, piece by piece."""
        for restore in self.pieces(saved).values():
            restore()

    def pieces(self, saved: checkpoint.Checkpoint) -> dict[str, Callable[[], object]]:
        """What each piece of a checkpoint's state is put back by. A test leaves out one at a time and must see it."""
        state = saved.state

        def counters() -> None:
            self.step, self.horizon, self.tokens_seen = state["step"], state["horizon"], state["tokens_seen"]

        def riders(kind: str, parts: Sequence[Attachment | Intervention]) -> None:
            for part in parts:
                if part.name in state[kind]:
                    part.load_state_dict(state[kind][part.name])

        if state.get("imported"):  # weights from elsewhere: everything else begins as in a new run
            return {"weights": lambda: self.model.load_state_dict(saved.weights)}
        return {
            "counters": counters,
            "weights": lambda: self.model.load_state_dict(saved.weights),
            "optimizer": lambda: load_optimizer_tensors(self.optimizer, self.model, saved.optimizer),
            "corpus": lambda: self.corpus.load_state_dict(state["corpus"]),
            "generators": lambda: load_generators_state(state["generators"]),
            "attachments": lambda: riders("attachments", self.attachments),
            "interventions": lambda: riders("interventions", self.interventions),
        }

    def save(self) -> None:
        """A checkpoint of this step, unless it is there already; every record up to here is durable before it."""
        if self.saved_step == self.step:
            return
        self.records.flush()
        folder = self.run.checkpoints_folder
        checkpoint.save(
            folder, self.step, self.model.state_dict(), optimizer_tensors(self.optimizer, self.model), self.state()
        )
        checkpoint.rotate(folder, self.config.checkpoint.keep, self.is_milestone)
        self.saved_step = self.step

    def is_milestone(self, step: int) -> bool:
        """Whether a checkpoint of this step is kept for good: log-spaced ones, the reference, and where a freeze began.

        The weights that a concept was frozen in are what its proof compares with.
        """
        log_spaced = self.config.checkpoint.log_spaced and checkpoint.is_log_milestone(step)
        frozen = any(item["from_step"] == step for item in self.freeze.items)
        return log_spaced or step == self.config.reference.step or frozen

    def record_step(self, loss: float, norm: float, rate: float) -> None:
        """Queue this step's numbers; speed and rate every `log_every` steps."""
        values = {"train/loss": loss, "train/gradient_norm": norm}
        self.newest |= values
        if self.step % self.config.train.log_every == 0 or self.step == self.end:
            now, (then, tokens) = time.perf_counter(), self._clock
            speed = (self.tokens_seen - tokens) / max(1e-9, now - then) if then and tokens else 0.0
            self._clock = (now, self.tokens_seen)
            values |= {"train/lr": rate, "train/tokens": float(self.tokens_seen)}
            for intervention in self.interventions:
                numbers: Callable[[], dict[str, float]] | None = getattr(intervention, "numbers", None)
                values |= numbers() if numbers is not None else {}
            if speed:
                values["train/tokens_per_second"] = speed
            self.newest |= values
        self.records.metrics(self.segment, self.step, values)
        for attachment in self.attachments:
            follow: Callable[[int, float, float], None] | None = getattr(attachment, "follow", None)
            if follow is not None:
                follow(self.step, loss, norm)
        self.report(self)

    def record_costs(self) -> None:
        """Queue the seconds that training and each attachment have taken in this segment so far, once a step."""
        if self._costs_at == self.step:
            return
        self._costs_at = self.step
        seconds = {f"cost/{name}_seconds": value for name, value in self.spent.items()}
        self.records.metrics(self.segment, self.step, seconds)

    def turn(self) -> bool:
        """Let interventions begin and end what is due at this step boundary; whether anything changed."""
        changes: list[Change] = []
        for intervention in self.interventions:
            between_steps: Callable[[int], list[Change]] | None = getattr(intervention, "between_steps", None)
            changes += between_steps(self.step) if between_steps is not None else []
        for change in changes:
            self.note(change)
        return bool(changes)

    def note(self, change: Change) -> None:
        """Record a change of what is held: training goes on by another protocol, in a segment and a regime of its own."""
        if self.step > self._segment_from:
            self.records.end_segment(self.segment, self.step, change.kind)
            self.segment = self.records.new_segment(self.step, self.segment, self.config.hash())
            self._segment_from = self.step
        self.saved_step = None  # a checkpoint of this step, if there is one, does not know of it yet
        self.records.add_now(*rows_of(change, self.freeze.protocol(), self.segment, self.step))
        self.say(change.text)

    def keep_bad_batch(self, batches: Sequence[Batch], loss: float, norm: float) -> None:
        """Keep the batch that gave a non-finite loss or gradient beside the evidence, and say so in the records."""
        file = self.run.path / "evidence" / f"non-finite-step-{self.step:09d}.safetensors"
        file.parent.mkdir(exist_ok=True)
        save_file(
            {"tokens": torch.cat([b.tokens for b in batches]), "mask": torch.cat([b.mask for b in batches])}, file
        )
        text = f"loss {loss}, gradient norm {norm} at step {self.step}: not applied; the batch is in {file.name}"
        finding = NON_FINITE.finding(text, loss, evidence={"batch": file.name}).to_row()
        self.records.add_now(
            Event(kind="non-finite", text=text, at=time.time(), segment=self.segment, step=self.step, data={}),
            Finding(segment=self.segment, step=self.step, **finding),
        )


def prepare_corpus(config: RunConfig, root: Path, progress: Progress | None = None) -> Corpus:
    """Token shards of every source under `root`/.data, shared by all runs there; made when missing."""
    return Corpus.prepare(config, root / ".data", progress)


def corpus_of(run: Run, progress: Progress | None = None) -> Corpus:
    """The corpus of a run that exists, in the tokens of its own tokenizer (imported weights brought theirs along)."""
    return Corpus.prepare(run.config, run.path.parent / ".data", progress, run.tokenizer())


@contextmanager
def start(
    config: RunConfig,
    root: Path | None = None,
    name: str | None = None,
    progress: Progress | None = None,
    riders: Riders | None = None,
) -> Iterator[Session]:
    """A session of a new run. The corpus comes first: a bad text leaves no run behind.

    Args:
        riders: attachments and interventions to bring along besides those of the configuration.
    """
    root = root or default_root()
    if name is not None and resolve_inside(root, check_name(name)).exists():
        raise RunExists(f"{root / name}: exists already. Choose another name, or go on with it: lab resume {name}")
    choose_device(config)  # refused before anything is made
    corpus = prepare_corpus(config, root, progress)
    run = Run.create(root, name, config)
    corpus.tokenizer.save(run.tokenizer_folder)
    run.update_manifest(data=corpus.manifest)
    with run.lock("training"), _session(run, corpus, None, riders or Riders()) as session:
        yield session


@contextmanager
def resume(
    run: Run,
    from_step: int | None = None,
    extend_to: int | None = None,
    skip_batches: int = 0,
    progress: Progress | None = None,
    riders: Riders | None = None,
) -> Iterator[Session]:
    """A session that goes on where a run stopped: from its newest valid checkpoint, or from `from_step` (a rewind).

    Args:
        extend_to: a later last step; the schedule is stretched to it, so the learning rate jumps, which is recorded.
        skip_batches: leave out this many batches first (one that gave a non-finite loss, say).

    Raises:
        CannotResume: already finished, the text changed, no such checkpoint, or a horizon that is not later.
        RunLocked: somebody trains it now.
    """
    with run.lock("training"):
        corpus = corpus_of(run, progress)
        if not run.manifest.get("data"):  # imported weights, trained for the first time
            run.update_manifest(data=corpus.manifest)
        if run.manifest["data"] != corpus.manifest:
            raise CannotResume(
                f"{run.path}: the text has changed since this run began, so it would go on with other data. "
                "Put the old text back, or start a new run."
            )
        saved = _checkpoint_to_resume(run, from_step)
        horizon = _horizon(run, saved, extend_to)
        if extend_to is not None and run.config.train.stop is not None:
            train = run.config.train.model_copy(update={"stop": extend_to})
            run.update_config(run.config.model_copy(update={"train": train}))
        with _session(run, corpus, saved, riders or Riders(), rewound=from_step is not None) as session:
            if horizon > session.horizon:
                _tell_extension(session, horizon)
            session.horizon = horizon
            if skip_batches:
                session.corpus.skip_batches(skip_batches * run.config.train.accumulation, session.step)
                session.records.add_now(_event(session, "skip", f"{skip_batches} batches left out on request"))
            yield session


def _checkpoint_to_resume(run: Run, from_step: int | None) -> checkpoint.Checkpoint | None:
    if from_step is not None:
        return checkpoint.load(run.checkpoint_info(from_step).path)
    folder = run.checkpoints_folder
    had = run.manifest.get("imported") or any(path.name.startswith("step-") for path in folder.iterdir())
    info = checkpoint.newest_valid(folder, repair=True)
    if info is None and (had or (folder / "quarantine").exists()):
        raise CannotResume(
            f"{run.path}: no checkpoint is whole any more; the damaged ones are in {folder / 'quarantine'}. Copy the run's "
            "checkpoints back from where they are whole; it will not begin again from nothing under this name."
        )
    return checkpoint.load(info.path) if info else None


def _horizon(run: Run, saved: checkpoint.Checkpoint | None, extend_to: int | None) -> int:
    """The schedule's last step. Refused before anything of a new segment is written."""
    step = saved.state["step"] if saved else 0
    horizon = run.config.train.steps if saved is None or saved.state.get("imported") else int(saved.state["horizon"])
    stop = run.config.train.stop
    end = horizon if stop is None else min(stop, horizon)
    if extend_to is None and step >= end:
        raise CannotResume(
            f"{run.name} finished at step {step}. To train on: lab resume {run.name} --extend-to {end * 2}"
        )
    if extend_to is not None and extend_to <= end:
        raise CannotResume(f"--extend-to {extend_to} is not after this run's horizon, step {end}.")
    return max(extend_to or 0, horizon)


def _tell_extension(session: Session, horizon: int) -> None:
    settings = session.config.optimizer
    before, after = (learning_rate(session.step, end, settings) for end in (session.horizon, horizon))
    text = f"horizon extended to step {horizon}: the learning rate goes from {before:.2e} to {after:.2e} here"
    session.records.add_now(_event(session, "extend", text))


@contextmanager
def _session(
    run: Run, corpus: Corpus, saved: checkpoint.Checkpoint | None, riders: Riders, rewound: bool = False
) -> Iterator[Session]:
    config = run.config
    device, dtype = choose_device(config)
    if device.type == "cpu":
        keep_freed_memory()
    if config.train.threads or device.type == "cpu":
        torch.set_num_threads(config.train.threads or os.cpu_count() or 1)
    seed_generators(config.train.seed)
    model = GPT(GPTConfig.from_config(config.model), seed=config.train.seed, tokenizer=corpus.tokenizer).to(device)
    records = Records.writer(run.database)
    try:
        imported = saved is not None and bool(saved.state.get("imported"))
        segment = records.new_segment(
            from_step=saved.state["step"] if saved else 0,
            # Imported weights begin a history of their own: step 0 is measured now, and is the reference.
            resumed_from=saved.state["segment"] if saved and not imported else None,
            config_hash=config.hash(),
        )
        model.checkpoint_blocks(config.train.checkpoint_blocks)
        optimizer = build_optimizer(model, config.optimizer)
        freeze = Freeze(config.freeze, model, optimizer, run, corpus, dtype)
        attachments = build_attachments(config, dtype)
        interventions = build_interventions(config, run.path, dtype, corpus.tokenizer, attachments)
        session = Session(
            run=run,
            config=config,
            corpus=corpus,
            model=model,
            optimizer=optimizer,
            records=records,
            control=Control(records, run.inbox),
            attachments=(*attachments, *riders.attachments),
            interventions=(freeze, *interventions, *riders.interventions),
            freeze=freeze,
            dtype=dtype,
            segment=segment,
            step=0,
            horizon=config.train.steps,
            fresh=saved is None or imported,
            forward=model.compiled(fullgraph=True, dynamic=False) if config.train.compile else model,
        )
        if saved is not None:
            session.load(saved)
            session.saved_step = session._segment_from = session.step
            if rewound:  # so that a kill before the next checkpoint does not undo the rewind
                checkpoint.point_latest(run.checkpoints_folder, session.step)
            records.add_now(_event(session, "rewind" if rewound else "resume", f"from step {session.step}"))
        # What was sent before this trainer came was not meant for it: latches still move, a stop is refused in words.
        session.control.obey(session.step, None, sent_before=(run.holder() or {}).get("started"))
        try:
            yield session
        except BaseException as error:  # a refusal or a crash ends the segment too, and says how
            records.end_segment(session.segment, session.step, f"failed: {type(error).__name__}: {error}")
            raise
        finally:
            records.flush()
    finally:
        records.close()


def _event(session: Session, kind: str, text: str) -> Event:
    return Event(kind=kind, text=text, at=time.time(), segment=session.segment, step=session.step, data={})
