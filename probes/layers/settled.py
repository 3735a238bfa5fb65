"""From depths of tokens to what is told of two groups: curves and depths of each, and their difference by every route.

Pure functions of one or more lens readings; `decide` makes these and puts the results together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.layers.adjust import (
    BINS,
    Estimate,
    Tokens,
    adjusted_difference,
    matched_difference,
    mean,
    raw_difference,
    spline,
)
from probes.layers.depth import half_gain
from probes.layers.evidence import Curve, Side
from probes.layers.groups import equal_numbers
from probes.layers.intervals import interval
from probes.layers.lens import Reading
from probes.layers.problem import Untestable

FEWEST_PAIRS = 50  # of like frequency, for the matched difference to be told


@dataclass(frozen=True)
class Settled:
    """Tokens of both groups under one lens, as many of each, those that cannot be measured left out.

    Attributes:
        controls: spline of log frequency, surprisal in nats under the model itself, position in tokens.
        log_frequency: of the next token, in bits.
    """

    tokens: Tokens
    reading: Reading
    controls: Float[Tensor, "token control"]
    log_frequency: Float[Tensor, "token"]

    @property
    def clipped(self) -> int:
        return int((self.reading.unclipped > 1).sum())


def settle(
    reading: Reading,
    tokens: Tokens,
    usable: Bool[Tensor, "token"],
    log_frequency: Float[Tensor, "token"],
    position: Int[Tensor, "token"],
    two_groups: bool,
    seed: int,
) -> Settled:
    """Keep the tokens that are usable and move at all, equally many of each group if there are two."""
    kept = usable & reading.measurable
    if two_groups:
        kept = equal_numbers(tokens.is_b, kept, seed)
    part = reading.select(kept)
    columns = (spline(log_frequency[kept]), part.cross_entropy[-1][:, None], position[kept, None].double())
    return Settled(tokens.select(kept), part, torch.cat(columns, dim=1), log_frequency[kept])


def differences(
    ridge: Settled, others: Mapping[str, tuple[Settled, bool]]
) -> tuple[dict[str, Estimate], dict[str, Any], tuple[str, ...]]:
    """B less A in relative depth by every route, by name; what the matching could use; and remarks.

    Args:
        ridge: the primary reading: "adjusted", "raw", "matched" and "hard depth" are made of it.
        others: further readings by name, and whether their hard depth is meant; all adjusted.

    Raises:
        Untestable: the controls explain the class, so that the primary difference cannot be adjusted.
    """
    soft, notes = ridge.reading.soft_depth, []
    found = {
        "adjusted": adjusted_difference(ridge.tokens, soft, ridge.controls),
        "raw": raw_difference(ridge.tokens, soft),
    }
    matched = matched_difference(ridge.tokens, soft, ridge.log_frequency)
    pairs, bins = (matched.pairs, matched.bins) if matched else (0, 0)
    notes.append(f"frequency-matched: {pairs} pairs, in {bins} of {BINS} bins of frequency")
    if matched is not None and pairs >= FEWEST_PAIRS:
        found["matched"] = matched.estimate
    else:
        notes.append(f"matched difference not told: fewer than {FEWEST_PAIRS} pairs")
    for name, (settled, hard) in {"hard depth": (ridge, True), **others}.items():
        if min(int(settled.tokens.is_b.sum()), int((~settled.tokens.is_b).sum())) < FEWEST_PAIRS:
            notes.append(f"{name} not told: fewer than {FEWEST_PAIRS} tokens a side move under it")
            continue
        depth = settled.reading.hard_depth if hard else settled.reading.soft_depth
        try:
            found[name] = adjusted_difference(settled.tokens, depth, settled.controls)
        except Untestable as error:
            notes.append(f"{name} not told: {error}")
    matching = {"bins": BINS, "bins_with_both": bins, "pairs": pairs}
    correlation = _correlation(ridge.tokens.is_b.double(), ridge.log_frequency.double())
    return found, {"matched": matching, "class_and_frequency": correlation}, tuple(notes)


def with_curve(side: Side, settled: Settled, of_b: bool) -> Side:
    """The side with how much of the prediction is open at each layer, and with the mean soft depth.

    The curve is a ratio of sums over tokens: a token's own ratio is wild where it moves by little. Its area is the soft
    depth weighted by how far tokens move; the depth told is the plain mean.
    """
    rows = settled.tokens.is_b == of_b
    divergence = settled.reading.divergence[:, rows]
    columns = torch.cat((divergence.T, torch.ones(divergence.shape[1], 1)), dim=1)
    sums = settled.tokens.select(rows).resampled(columns)
    share, gain = sums[:, :-1] / sums[:, :1], sums[:, 0] / sums[:, -1]
    bands = [interval(float(layer[0]), layer[1:]) for layer in share.T]
    depth = mean(settled.tokens, settled.reading.soft_depth, of_b)
    middle = float(half_gain(-share[0]))
    return replace(
        side,
        curve=Curve(
            unit="share of KL to the final prediction",
            layers=tuple(range(len(divergence))),
            value=tuple(band.value for band in bands),
            lo=tuple(band.lo for band in bands),
            hi=tuple(band.hi for band in bands),
        ),
        depth=interval(depth.value, depth.samples),
        half_gain=middle if math.isfinite(middle) else None,
        gain=interval(float(gain[0]), gain[1:]),
    )


def _correlation(a: Float[Tensor, "token"], b: Float[Tensor, "token"]) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 0 else 0.0
