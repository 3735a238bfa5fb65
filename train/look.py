"""One forward pass over a probe text: what the rules of `health` about entropy and dead units are judged by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.model import GPT


@dataclass(frozen=True)
class Look:
    """What one forward pass over the probe text gives.

    Attributes:
        entropy: of the next token, nats, mean over positions.
        loss: nats per token on the same positions.
        deviations: per layer, of each MLP unit over all positions.
    """

    entropy: float
    loss: float
    deviations: list[Float[Tensor, "d_mlp"]]


@torch.no_grad()
def look(model: GPT, batches: Iterable[Int[Tensor, "batch pos_plus_1"]]) -> Look:
    """One forward pass over windows of text, in float32; deviations in float64, as they are differences of sums."""
    layers = model.cfg.n_layers
    sums: list[Any] = [0.0] * layers
    squares: list[Any] = [0.0] * layers
    entropy, loss, count = 0.0, 0.0, 0

    def add(layer: int) -> Any:
        def hook(post: Float[Tensor, "batch pos d_mlp"], hook: Any) -> None:
            flat = post.flatten(0, 1).double()
            sums[layer] = sums[layer] + flat.sum(0)
            squares[layer] = squares[layer] + flat.square().sum(0)

        return hook

    hooks = [(f"blocks.{layer}.mlp.hook_post", add(layer)) for layer in range(layers)]
    for batch in batches:
        tokens = batch.to(model.W_E.device)
        logs = torch.log_softmax(model.run_with_hooks(tokens[:, :-1], fwd_hooks=hooks).float(), dim=-1)
        entropy -= float((logs.exp() * logs).sum())
        loss -= float(logs.gather(-1, tokens[:, 1:, None]).sum())
        count += tokens[:, 1:].numel()
    variances = [(q / count - (s / count).square()).clamp(min=0) for s, q in zip(sums, squares, strict=True)]
    return Look(entropy / count, loss / count, [variance.sqrt().cpu() for variance in variances])
