"""One uninterrupted stretch of training: what it stands on, what a checkpoint holds of it, what is recorded of its steps.

`session` builds one. The state of a checkpoint is listed in `Session.state`: leave any piece out and a resumed run is another
run. Of several processes each has a session; only rank 0's saves and records (`parallel`).
"""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import save_file

from lab import checkpoint
from lab.config import RunConfig
from lab.corpus import Batch, Corpus
from lab.model import GPT
from lab.records import Event, Finding, Records
from lab.run import Run
from train.attachments import Attachment, Intervention
from train.control import Control
from train.freeze import Change, Freeze
from train.freeze_record import rows_of
from train.generators import generators_state, load_generators_state
from train.health import NON_FINITE
from train.optimizer import load_optimizer_tensors, optimizer_tensors
from train.parallel import Ranks


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
    forward: Callable[
        ..., Any
    ]  # what a training step calls: the model, its compiled twin, or either connected to other ranks
    ranks: Ranks = field(default_factory=Ranks)
    stop: str | None = None  # why training is to end; decided between two steps, for all ranks
    micro_batch: int | None = None  # sequences at a time, where memory ran out with `train.batch` of them (`room`)
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
            "micro_batch": self.micro_batch,
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
            self.micro_batch = state.get("micro_batch")  # checkpoints from before `room` have none

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
