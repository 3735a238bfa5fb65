"""Differences between two kinds of tokens that frequency, difficulty and position might explain, with these held fixed.

Two routes: a regression with a smooth term for log frequency, and pairs of equal frequency. Each returns the difference
and its bootstrap replicates, B less A; sums by sentence are made once and every replicate is a weighted sum of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.layers.problem import Untestable

KNOT_QUANTILES = (0.05, 0.275, 0.5, 0.725, 0.95)  # Harrell, Regression Modeling Strategies, 2nd ed., table 2.3
BINS = 10
LEAST_OWN_VARIANCE = 0.01  # of the class, given the controls; below it class and frequency are one thing here


@dataclass(frozen=True)
class Estimate:
    """A number and its bootstrap replicates."""

    value: float
    samples: Float[Tensor, "replicate"]


@dataclass(frozen=True)
class Tokens:
    """Tokens to compare, and how often each replicate draws their sentences.

    Attributes:
        is_b: False = group A.
        sentence: per token, a column of `weights`.
        weights: from `intervals.bootstrap_weights`.
    """

    is_b: Bool[Tensor, "token"]
    sentence: Int[Tensor, "token"]
    weights: Float[Tensor, "replicate sentence"]

    def resampled(self, rows: Float[Tensor, "token *k"]) -> Float[Tensor, "replicate_and_first *k"]:
        """Sums over tokens: of the tokens at hand in row 0, of each replicate below."""
        sums = torch.zeros(self.weights.shape[1], rows[0].numel(), dtype=torch.float64)
        sums.index_add_(0, self.sentence, rows.double().reshape(len(rows), -1))
        once = torch.ones(1, len(sums), dtype=torch.float64)
        return torch.cat((once @ sums, self.weights.double() @ sums)).reshape(-1, *rows.shape[1:])

    def select(self, kept: Bool[Tensor, "token"]) -> Tokens:
        return Tokens(self.is_b[kept], self.sentence[kept], self.weights)


def mean(tokens: Tokens, value: Float[Tensor, "token"], of_b: bool) -> Estimate:
    """Mean over the tokens of one group."""
    chosen = tokens.is_b if of_b else ~tokens.is_b
    sums = tokens.select(chosen).resampled(torch.stack((value[chosen], torch.ones(int(chosen.sum()))), dim=1))
    return _estimate(sums[:, 0] / sums[:, 1])


def raw_difference(tokens: Tokens, value: Float[Tensor, "token"]) -> Estimate:
    """Mean of B less mean of A, nothing held fixed."""
    a, b = mean(tokens, value, of_b=False), mean(tokens, value, of_b=True)
    return Estimate(b.value - a.value, b.samples - a.samples)


def adjusted_difference(
    tokens: Tokens, value: Float[Tensor, "token"], controls: Float[Tensor, "token control"]
) -> Estimate:
    """b1 of value = b0 + b1 · is_b + controls · c + e, by least squares.

    Args:
        controls: columns to hold fixed, any scale; `spline` makes those of a smooth term. Constant ones are left out.

    Raises:
        Untestable: the controls leave less than 1 % of the variance of the class, so that nothing tells them apart.
    """
    centred = controls.double() - controls.double().mean(0)
    spread = centred.square().mean(0).sqrt()
    moving = spread > 1e-9 * (1 + controls.double().abs().amax(0))
    columns = centred[:, moving] / spread[moving]
    # Orthonormal directions of the controls that are there: a spline's terms are nearly dependent.
    left, scale, _ = torch.linalg.svd(columns, full_matrices=False)
    columns = left[:, scale > 1e-6 * scale.max()] * len(left) ** 0.5 if columns.shape[1] else columns
    one = torch.ones(len(value), 1, dtype=torch.float64)
    group = tokens.is_b.double()[:, None]
    held = torch.cat((one, columns), dim=1)
    rest = group - held @ torch.linalg.lstsq(held, group).solution
    own = float(rest.square().sum() / (group - group.mean()).square().sum())
    if not own > LEAST_OWN_VARIANCE:
        raise Untestable(
            f"frequency, surprisal and position leave {own:.1%} of the difference between the two groups (at least "
            f"{LEAST_OWN_VARIANCE:.0%} needed): class and frequency cannot be told apart. Use text with more words of "
            "both groups at the same frequency."
        )
    design = torch.cat((group, held), dim=1)
    outer = tokens.resampled(design[:, :, None] * design[:, None, :])
    product = tokens.resampled(design * value.double()[:, None])
    # A replicate may lack what identifies a column; a millionth of a token on the diagonal then decides for zero.
    outer += 1e-6 * torch.eye(design.shape[1], dtype=torch.float64)
    return _estimate(torch.linalg.solve(outer, product)[:, 0])


@dataclass(frozen=True)
class Matched:
    """A difference between tokens of like frequency.

    Attributes:
        pairs: tokens of the smaller group, summed over the bins that have both.
        bins: how many of `BINS` have both.
    """

    estimate: Estimate
    pairs: int
    bins: int


def matched_difference(
    tokens: Tokens, value: Float[Tensor, "token"], log_frequency: Float[Tensor, "token"], bins: int = BINS
) -> Matched | None:
    """B less A within bins of log frequency, each bin weighted by its smaller group; None where no bin has both.

    Bins are quantiles of the tokens at hand, so that each holds as many; equal values share a bin.
    """
    edges = torch.quantile(log_frequency.double(), torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1])
    cell = torch.bucketize(log_frequency.double(), torch.unique(edges)) * 2 + tokens.is_b.long()
    in_cell = torch.nn.functional.one_hot(cell, 2 * bins).double()
    counts = tokens.resampled(in_cell).reshape(-1, bins, 2)
    sums = tokens.resampled(in_cell * value.double()[:, None]).reshape(-1, bins, 2)
    pairs = counts.amin(dim=2)  # [replicate, bin]
    means = sums / counts.clamp(min=1)
    found = (pairs * (means[..., 1] - means[..., 0])).sum(1) / pairs.sum(1)
    if not float(pairs[0].sum()) > 0:
        return None
    return Matched(_estimate(found), int(pairs[0].sum()), int((pairs[0] > 0).sum()))


def spline(x: Float[Tensor, "token"], quantiles: tuple[float, ...] = KNOT_QUANTILES) -> Float[Tensor, "token term"]:
    """Columns of a restricted cubic spline: a smooth curve, straight beyond its outer knots (Harrell, section 2.4.5).

    Knots at quantiles of x that coincide are one; fewer than three leave the straight line alone.
    """
    x = x.double()
    if not len(x):
        return x[:, None]  # whoever asked has no tokens, and says so by its own counts
    knots = torch.unique(torch.quantile(x, torch.tensor(quantiles, dtype=torch.float64)))
    terms = [x]
    if len(knots) >= 3:
        before_last, last = knots[-2], knots[-1]
        tail, gap = [(x - knot).clamp(min=0) ** 3 for knot in (before_last, last)], last - before_last
        for knot in knots[:-2]:
            bend = (x - knot).clamp(min=0) ** 3
            bend = bend - tail[0] * (last - knot) / gap + tail[1] * (before_last - knot) / gap
            terms.append(bend / (last - knots[0]) ** 2)
    return torch.stack(terms, dim=1)


def _estimate(values: Float[Tensor, "replicate_and_first"]) -> Estimate:
    return Estimate(float(values[0]), values[1:])
