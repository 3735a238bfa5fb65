"""Whether a concept is used (M6), and what holding it costs (M7): cross-entropies, paired by document."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.layers.evidence import Interval
from probes.layers.intervals import NoInterval, interval
from probes.layers.problem import Untestable


@dataclass(frozen=True)
class Use:
    """What mean-ablating V costs the concept's tokens, in nats, at the freeze and now.

    Attributes:
        drop: 1 − now/before: the share of its use that is gone; None where it was not surely used at the freeze.
    """

    before: Interval
    now: Interval
    drop: Interval | None


def mean_by_document(
    values: Float[Tensor, "token"], document: Int[Tensor, "token"], weights: Float[Tensor, "replicate document"]
) -> tuple[float, Float[Tensor, "replicate"]]:
    """The mean over tokens, and over the tokens of the documents drawn in each replicate."""
    if not len(values):
        raise Untestable("no held-out token to measure on. Give more validation text.")
    count, total = (
        torch.zeros(weights.shape[1], dtype=torch.float64).index_add_(0, document, part.double())
        for part in (torch.ones_like(values), values)
    )
    wide = weights.double()
    return float(values.double().mean()), (wide @ total) / (wide @ count)


def use(
    before: Float[Tensor, "token"],
    now: Float[Tensor, "token"],
    document: Int[Tensor, "token"],
    weights: Float[Tensor, "replicate document"],
) -> Use:
    """M6, from the rises of the same tokens at the freeze and now."""
    first, firsts = mean_by_document(before, document, weights)
    last, lasts = mean_by_document(now, document, weights)
    start = interval(first, firsts)
    drop = None
    if start.lo > 0:
        try:
            drop = interval(1 - last / first, 1 - lasts / firsts)
        except NoInterval:
            drop = None
    return Use(start, interval(last, lasts), drop)


def cost(
    branch: Float[Tensor, "token"],
    twin: Float[Tensor, "token"],
    document: Int[Tensor, "token"],
    weights: Float[Tensor, "replicate document"],
) -> Interval:
    """M7: cross-entropy of the branch less the twin's, nats per token; positive = the freeze costs."""
    return interval(*mean_by_document(branch.double() - twin.double(), document, weights))
