"""A session of training, built from the configuration, or from a checkpoint; what it then is, is in `segment`.

`start` makes a new run, `resume` goes on with an old one in a new segment; both give a `Session` inside the run's lock. Of
several processes rank 0 does so; the others are told which run it is, and build the same session without writing anything.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from lab import checkpoint
from lab.allocator import keep_freed_memory
from lab.config import RunConfig
from lab.corpus import Corpus
from lab.errors import LabError
from lab.model import GPT, GPTConfig
from lab.records import Event, Records
from lab.run import Run, RunExists, default_root
from lab.run_names import check_name, resolve_inside
from train.control import Control
from train.equipment import Riders, build_attachments, build_interventions, choose_device
from train.freeze import Freeze
from train.generators import seed_generators
from train.optimizer import build_optimizer
from train.parallel import Ranks
from train.schedule import learning_rate
from train.segment import Session

__all__ = ["CannotResume", "Progress", "Riders", "Session", "corpus_of", "prepare_corpus", "resume", "start"]
Progress = Callable[[str, float], None]


class CannotResume(LabError):
    """There is nothing to go on with, or what is asked for contradicts the run."""


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
    ranks: Ranks | None = None,
) -> Iterator[Session]:
    """A session of a new run. The corpus comes first: a bad text leaves no run behind.

    Args:
        riders: attachments and interventions to bring along besides those of the configuration.
        ranks: the processes that train together (`parallel.joined`); this one alone by default.
    """
    ranks, riders = ranks or Ranks(), riders or Riders()
    with ExitStack() as stack:
        if ranks.leads:
            with ranks.telling():
                run, corpus = _new_run(config, root or default_root(), name, progress, ranks)
                stack.enter_context(run.lock("training"))
                ranks.tell(_beginning(run, None, config.train.steps))
            session = stack.enter_context(_session(run, corpus, None, riders, ranks))
        else:
            session = stack.enter_context(_follow(progress, riders, ranks))
        yield session


def _new_run(
    config: RunConfig, root: Path, name: str | None, progress: Progress | None, ranks: Ranks
) -> tuple[Run, Corpus]:
    if name is not None and resolve_inside(root, check_name(name)).exists():
        raise RunExists(f"{root / name}: exists already. Choose another name, or go on with it: lab resume {name}")
    ranks.check(config)
    ranks.place(choose_device(config)[0])  # refused before anything is made
    corpus = prepare_corpus(config, root, progress)
    run = Run.create(root, name, config)
    corpus.tokenizer.save(run.tokenizer_folder)
    run.update_manifest(data=corpus.manifest)
    return run, corpus


@contextmanager
def resume(
    run: Run,
    from_step: int | None = None,
    extend_to: int | None = None,
    skip_batches: int = 0,
    progress: Progress | None = None,
    riders: Riders | None = None,
    ranks: Ranks | None = None,
) -> Iterator[Session]:
    """A session that goes on where a run stopped: from its newest valid checkpoint, or from `from_step` (a rewind).

    Args:
        extend_to: a later last step; the schedule is stretched to it, so the learning rate jumps, which is recorded.
        skip_batches: leave out this many batches first (one that gave a non-finite loss, say).
        ranks: the processes that train together, as many as you like; this one alone by default.

    Raises:
        CannotResume: already finished, the text changed, no such checkpoint, or a horizon that is not later.
        RunLocked: somebody trains it now.
        NotShareable: a step's rows cannot be shared out to so many processes.
    """
    ranks, riders = ranks or Ranks(), riders or Riders()
    with ExitStack() as stack:
        if not ranks.leads:
            yield stack.enter_context(_follow(progress, riders, ranks))
            return
        with ranks.telling():
            stack.enter_context(run.lock("training"))
            ranks.check(run.config)
            corpus = _same_corpus(run, progress)
            saved = _checkpoint_to_resume(run, from_step)
            horizon = _horizon(run, saved, extend_to)
            if extend_to is not None and run.config.train.stop is not None:
                train = run.config.train.model_copy(update={"stop": extend_to})
                run.update_config(run.config.model_copy(update={"train": train}))
            skipped = skip_batches * run.config.train.accumulation
            ranks.tell(_beginning(run, saved, horizon, skipped))
        session = stack.enter_context(_session(run, corpus, saved, riders, ranks, rewound=from_step is not None))
        if horizon > session.horizon:
            _tell_extension(session, horizon)
        session.horizon = horizon
        if skip_batches:
            session.corpus.skip_batches(skipped, session.step)
            session.records.add_now(_event(session, "skip", f"{skip_batches} batches left out on request"))
        yield session


def _same_corpus(run: Run, progress: Progress | None) -> Corpus:
    """The run's text, which must be what it was."""
    corpus = corpus_of(run, progress)
    if not run.manifest.get("data"):  # imported weights, trained for the first time
        run.update_manifest(data=corpus.manifest)
    if run.manifest["data"] != corpus.manifest:
        raise CannotResume(
            f"{run.path}: the text has changed since this run began, so it would go on with other data. "
            "Put the old text back, or start a new run."
        )
    return corpus


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
    run: Run,
    corpus: Corpus,
    saved: checkpoint.Checkpoint | None,
    riders: Riders,
    ranks: Ranks,
    rewound: bool = False,
) -> Iterator[Session]:
    """The session of who holds the run's lock, in a segment of its own."""
    records = Records.writer(run.database)
    try:
        segment = records.new_segment(
            from_step=saved.state["step"] if saved else 0,
            # Imported weights begin a history of their own: step 0 is measured now, and is the reference.
            resumed_from=None if _is_fresh(saved) else saved.state["segment"],  # type: ignore[union-attr]
            config_hash=run.config.hash(),
        )
        session = _equipped(run, corpus, saved, riders, ranks, records, segment)
        if saved is not None:
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


def _beginning(
    run: Run, saved: checkpoint.Checkpoint | None, horizon: int, skipped: int = 0
) -> dict[str, str | int | None]:
    """What the other ranks are told of the run."""
    path = str(saved.info.path.resolve()) if saved else None
    return {"run": str(run.path.resolve()), "checkpoint": path, "horizon": horizon, "skipped": skipped}


@contextmanager
def _follow(progress: Progress | None, riders: Riders, ranks: Ranks) -> Iterator[Session]:
    """The session of a rank that follows: the same model, optimizer and batches; records to read, and no attachments."""
    told = ranks.hear()
    run = Run.open(Path(told["run"]))
    saved = checkpoint.load(Path(told["checkpoint"])) if told["checkpoint"] else None
    corpus = corpus_of(run, progress)
    with Records.reader(run.database) as records:
        session = _equipped(run, corpus, saved, riders, ranks, records, segment=0)
        session.horizon = told["horizon"]
        session.corpus.skip_batches(told["skipped"], session.step)
        yield session


def _equipped(
    run: Run,
    corpus: Corpus,
    saved: checkpoint.Checkpoint | None,
    riders: Riders,
    ranks: Ranks,
    records: Records,
    segment: int,
) -> Session:
    """All that a session stands on, as it was in the checkpoint; every rank gives its own, and they are connected."""
    config = run.config
    device, dtype = choose_device(config)
    device = ranks.place(device)
    if device.type == "cpu":
        keep_freed_memory()
    if config.train.threads or device.type == "cpu":
        torch.set_num_threads(config.train.threads or ranks.threads)
    seed_generators(config.train.seed)
    model = GPT(GPTConfig.from_config(config.model), seed=config.train.seed, tokenizer=corpus.tokenizer).to(device)
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
        fresh=_is_fresh(saved),
        forward=model.compiled(fullgraph=True, dynamic=False) if config.train.compile else model,
        ranks=ranks,
    )
    if saved is not None:
        session.load(saved)
        session.saved_step = session._segment_from = session.step
    session.forward = ranks.connect(model, session.forward)
    return session


def _is_fresh(saved: checkpoint.Checkpoint | None) -> bool:
    """Whether a history of its own begins: a new run, or the first training of imported weights."""
    return saved is None or bool(saved.state.get("imported"))


def _event(session: Session, kind: str, text: str) -> Event:
    return Event(kind=kind, text=text, at=time.time(), segment=session.segment, step=session.step, data={})
