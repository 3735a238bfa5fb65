"""Bits per byte on the validation slice: how well the model predicts text it never trained on, whatever the tokenizer."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lab.corpus import Batch
from lab.cross_entropy import IGNORED
from lab.model import GPT
from lab.sections import EvaluationConfig
from train.attachments import Moment


def batch_loss(
    model: GPT, batch: Batch, dtype: torch.dtype = torch.float32, forward: Callable[..., Any] | None = None
) -> tuple[Float[Tensor, ""], int]:
    """Summed next-token cross-entropy of a batch in nats, and how many targets count.

    The products run in `dtype` under autocast where that is not float32; the loss itself is always in float32. The logits of
    the whole batch are never made (`lab.cross_entropy`), unless a hook sits on the head.

    Args:
        forward: called in place of the model, with the same arguments: its compiled twin, say.
    """
    device = model.W_E.device
    targets = batch.tokens[:, 1:].masked_fill(~batch.mask, IGNORED).to(device)
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        loss = (forward or model)(batch.tokens[:, :-1].to(device), targets=targets, return_type="loss")
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
