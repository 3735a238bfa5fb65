"""Things to take along in tests: an attachment that remembers its visits, and interventions that act on a step."""

from typing import Any

import torch
from torch import Tensor

from lab.corpus import Batch
from lab.model import GPT
from train.attachments import Moment


class Diary:
    """Counts its visits and draws from every generator within reach, as a careless attachment might."""

    name = "diary"
    log_spaced = True

    def __init__(self, every: int = 2) -> None:
        self.every, self.visits, self.draws = every, 0, 0.0

    def visit(self, moment: Moment) -> None:
        self.visits += 1
        torch.rand(3)  # the training generators must not notice
        self.draws += float(torch.rand(1, generator=moment.generator(self.name)))
        moment.model(torch.zeros(1, 4, dtype=torch.long))

    def state_dict(self) -> dict[str, Any]:
        return {"every": self.every, "visits": self.visits, "draws": self.draws}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.every, self.visits, self.draws = state["every"], state["visits"], state["draws"]


class Nudge:
    """Adds a noisy pull on the embeddings that grows with the steps it has seen; NaN at one of them."""

    name = "nudge"

    def __init__(self, nan_at: int = -1) -> None:
        self.seen, self.nan_at = 0, nan_at

    def loss(self, model: GPT, batch: Batch) -> Tensor | None:
        factor = float("nan") if self.seen == self.nan_at else 1e-4 * self.seen * (1 + float(torch.rand(())))
        return model.W_E.square().mean() * factor

    def before_step(self) -> None:
        pass

    def after_step(self) -> None:
        self.seen += 1

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen = state["seen"]
