"""Bits per byte on the validation slice: how well the model predicts text it never trained on, whatever the tokenizer."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lab.corpus import Batch
from lab.model import GPT
from lab.sections import EvaluationConfig
from train.attachments import Moment


def batch_loss(model: GPT, batch: Batch, dtype: torch.dtype = torch.float32) -> tuple[Float[Tensor, ""], int]:
    """Summed next-token cross-entropy of a batch in nats, and how many targets count.

    The products run in `dtype` under autocast where that is not float32; the loss itself is always in float32.
    """
    device = model.W_E.device
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        logits = model(batch.tokens[:, :-1].to(device))
    targets = batch.tokens[:, 1:].masked_fill(~batch.mask, -100).to(device)
    loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-100, reduction="sum")
    return loss, int(batch.mask.sum())


@torch.no_grad()
def evaluate(model: GPT, batches: Iterable[Batch], dtype: torch.dtype = torch.float32) -> tuple[float, float]:
    """Mean loss in nats per token, and bits per byte, over all targets that count."""
    nats, tokens, size = 0.0, 0, 0
    for batch in batches:
        loss, count = batch_loss(model, batch, dtype)
        nats, tokens, size = nats + float(loss), tokens + count, size + batch.bytes
    return nats / max(1, tokens), nats / math.log(2) / max(1, size)


class Evaluation:
    name = "evaluation"
    log_spaced = False

    def __init__(self, config: EvaluationConfig, batch: int, dtype: torch.dtype) -> None:
        self.every, self.tokens, self.batch, self.dtype = config.every, config.tokens, batch, dtype
        self.listeners: list[Callable[[int, float], object]] = []  # are told step and bits per byte

    def visit(self, moment: Moment) -> None:
        batches = moment.corpus.validation_batches(self.tokens, self.batch)
        loss, bits = evaluate(moment.model, batches, self.dtype)
        values = {"validation/loss": loss, "validation/bits_per_byte": bits}
        moment.records.metrics(moment.segment, moment.step, values)
        for listener in self.listeners:
            listener(moment.step, bits)

    def state_dict(self) -> dict[str, Any]:
        return {"every": self.every}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.every = int(state["every"])
