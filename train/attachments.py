"""What rides along with training: attachments watch, interventions act. The two protocols, and when a visit is due.

An attachment sees the model without gradients, draws from a generator of its own and can only ask for a stop. Switching
every attachment off leaves the weights bit for bit the same; a test holds that.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from lab.checkpoint import is_log_milestone
from lab.corpus import Batch, Corpus
from lab.model import GPT
from lab.records import Records
from lab.run import Run
from train.generators import derived_generator


@dataclass(frozen=True)
class Moment:
    """What an attachment sees on a visit: everything to read, nothing to change."""

    step: int
    segment: int
    tokens_seen: int
    model: GPT
    corpus: Corpus
    metrics: Mapping[str, float]
    records: Records
    run: Run
    ask_to_hold: Callable[[str, str], object]
    spent: Mapping[str, float] = field(default_factory=dict)  # seconds in this process: "train", and by attachment

    def generator(self, name: str) -> torch.Generator:
        """A CPU generator that depends on (seed, name, step) alone, never the training's own."""
        return derived_generator(self.run.config.train.seed, name, self.step)

    def hold(self, owner: str, reason: str) -> None:
        """Ask training to stand still at this step boundary until the owner's latch is lifted."""
        self.ask_to_hold(owner, reason)


class Attachment(Protocol):
    """Watches; never changes a weight.

    Three more methods are used where an attachment has them: `follow(step, loss, norm)` is given the numbers of every step,
    `due(step)` replaces "every `every` steps", and `set_every(step, every)` is told of a new interval.
    """

    name: str
    every: int  # steps; 0 = off
    log_spaced: bool  # also at steps 0, 1, 2, 4, …, 512

    def visit(self, moment: Moment) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Intervention(Protocol):
    """Acts on training, and says so.

    Four more methods are used where one has them: `between_steps(step)` begins and ends what is due and tells of it,
    `numbers()` are metrics of the newest step, and `at(step, micro)` is told, after every boundary and on every one of
    several processes, the step that comes next and the number of the process's first micro-batch in it. Only rank 0's is
    asked to begin or end anything; the others are given its state where that changed (`parallel`). `again()` forgets the
    micro-batches of this step so far: memory ran out, and it is made once more (`room`).
    """

    name: str

    def loss(self, model: GPT, batch: Batch) -> Tensor | None:
        """A term added to the loss of a micro-batch, in nats per token; None for none."""
        ...

    def before_step(self) -> None:
        """Gradients are final; they are clipped afterwards."""
        ...

    def after_step(self) -> None:
        """Weights have moved."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def is_due(attachment: Attachment, step: int, horizon: int) -> bool:
    """Every `every` steps from 0, at the horizon, and at log-spaced steps where the attachment wants them.

    An attachment with a schedule of its own (`due`) is asked instead; the horizon is always due.
    """
    if attachment.every <= 0:
        return False
    own: Callable[[int], bool] | None = getattr(attachment, "due", None)
    if own is not None:
        return own(step) or step == horizon
    return step % attachment.every == 0 or step == horizon or (attachment.log_spaced and is_log_milestone(step))
