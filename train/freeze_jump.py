"""What letting go of a pin at once would change: held-out loss and coordinates, with the pin and without it."""

import torch
from torch import Tensor

from lab.corpus import Batch, Corpus
from lab.model import GPT
from lab.pins import Pin
from train.evaluation import evaluate

TOKENS, BATCH = 4096, 8


@torch.no_grad()
def measure_jump(model: GPT, pin: Pin, corpus: Corpus, dtype: torch.dtype) -> dict[str, float]:
    """
    Returns:
        loss_held, loss_free: nats per held-out token with the pin as it is and without it, all else equal.
        nrmse: root mean square by which the coordinates would move, over the spread that they were frozen with; position
            0 is left out.
        tokens: that this was measured on.
    """
    batches = list(corpus.validation_batches(TOKENS, BATCH))
    training, strength = model.training, pin.strength
    model.eval()
    try:
        held, _ = evaluate(model, batches, dtype)
        pin.strength = 0.0
        free, _ = evaluate(model, batches, dtype)
        moved, aims = zip(*(_coordinates(model, pin, batch) for batch in batches), strict=True)
    finally:
        pin.strength = strength
        model.train(training)
    change, aim = torch.cat(moved), torch.cat(aims)
    spread = float(aim.var(0, unbiased=False).sum())
    nrmse = (float(change.square().sum(-1).mean()) / max(spread, 1e-12)) ** 0.5
    return {"loss_held": held, "loss_free": free, "nrmse": nrmse, "tokens": float(len(aim))}


def _coordinates(model: GPT, pin: Pin, batch: Batch) -> tuple[Tensor, Tensor]:
    """How far the free coordinates are from the frozen ones, and the frozen ones; [token, k] on the CPU."""
    tokens = batch.tokens[:, :-1].to(model.W_E.device)
    aim = pin.copy.stream(tokens)[:, 1:] @ pin.basis.to(tokens.device)
    free = model(tokens, stop_at_layer=pin.layer)[:, 1:].float() @ pin.basis.to(tokens.device)
    return (free - aim).flatten(0, 1).cpu(), aim.flatten(0, 1).cpu()
