"""From discriminant scores to honest probabilities: a temperature and class offsets, fitted on inner test folds.

Small convex problems solved by Newton steps, all penalties of a fold at once. Scores enter as log prior + slope · score
+ offset (Platt 1999, generalised to K classes; temperature as in Guo et al. 2017, arXiv:1706.04599).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

_SLOPE_STEPS, _OFFSET_STEPS = 5, 3
# In words: the evidence that stands against a slope, and against each offset. A perfectly separated fold would make both
# infinite, and free offsets cost (K - 1) / (2 n ln 2) bits, 0.03 for ten classes and 200 inner words. Too little to be
# seen where there are many.
_SLOPE_WEIGHT, _OFFSET_WEIGHT = 1.0, 20.0


def temperature(
    score: Float[Tensor, "penalty class word"], label: Int[Tensor, "word"], prior: Float[Tensor, "class"]
) -> tuple[Float[Tensor, "penalty"], Float[Tensor, "penalty"]]:
    """The slope ≥ 0 that minimises the cross-entropy of each penalty's scores, and that cross-entropy in nats.

    A slope of 0 leaves the prior alone, so useless scores cost nothing. Newton inside a bracket: the derivative rises
    with the slope, so its sign says on which side the minimum lies.
    """
    penalties, _, words = score.shape
    slope = score.new_ones(penalties)  # what a discriminant's scores would have if its model were true
    low, high = torch.zeros_like(slope), torch.full_like(slope, torch.inf)
    at_label = score.gather(1, label.expand(penalties, 1, words))[:, 0]  # [penalty, word]
    known, squared, log_prior = at_label.sum(1), score.square(), prior[:, None]
    alone = (prior.exp() @ score, prior.exp() @ squared)  # score and its square expected at slope 0: [penalty, word]
    stiffness = _SLOPE_WEIGHT * (alone[1] - alone[0].square()).mean(1)
    useless = alone[0].sum(1) >= known  # the derivative at slope 0 is not negative, so 0 is the minimum
    for _ in range(_SLOPE_STEPS):
        share = torch.softmax(log_prior + slope[:, None, None] * score, dim=1)
        expected = (share * score).sum(1)
        variance = (share * squared).sum((1, 2)) - expected.square().sum(1)
        gradient = expected.sum(1) - known + stiffness * slope
        low, high = torch.where(gradient < 0, slope, low), torch.where(gradient < 0, high, slope)
        step = slope - gradient / (variance + stiffness).clamp(min=1e-20)
        slope = torch.where((step >= low) & (step <= high), step, (low + high).clamp(max=4 * slope) / 2)
    slope = torch.where(useless, torch.zeros_like(slope), slope)
    loss = torch.logsumexp(log_prior + slope[:, None, None] * score, dim=1) - prior[label] - slope[:, None] * at_label
    return slope, loss.mean(1)


def calibrate(
    score: Float[Tensor, "class word"], label: Int[Tensor, "word"], prior: Float[Tensor, "class"], slope: Tensor
) -> tuple[float, Float[Tensor, "class"]]:
    """Slope and log offsets (prior included) that minimise the cross-entropy, started from the best slope alone."""
    if not float(slope) > 0:
        return 0.0, prior
    classes, words = score.shape
    wide, start = score.double(), prior.double()[:, None]
    truth = torch.nn.functional.one_hot(label, classes).T.double()
    values = torch.cat((slope.reshape(1), slope.new_zeros(classes))).double()  # slope, then offsets on the prior
    rigid = torch.full((classes + 1,), _OFFSET_WEIGHT, dtype=torch.float64)
    rigid[0] = 0.0

    def shares() -> tuple[Tensor, float]:
        share = torch.softmax(start + values[1:, None] + values[0] * wide, dim=0)
        return share, float(0.5 * (rigid * values.square()).sum() - (share * truth).sum(0).log().sum())

    share, before = shares()
    after = before
    for _ in range(_OFFSET_STEPS):
        wrong = share - truth
        gradient = torch.cat(((wrong * wide).sum().reshape(1), wrong.sum(1))) + rigid * values
        centred = share * (wide - (share * wide).sum(0))
        hessian = torch.diag(rigid)
        hessian[0, 0] += (1 + _SLOPE_WEIGHT / words) * (centred * wide).sum() + 1e-12
        hessian[0, 1:] = hessian[1:, 0] = centred.sum(1)
        hessian[1:, 1:] += torch.diag(share.sum(1)) - share @ share.T
        step = torch.linalg.solve(hessian, gradient)
        values = values - step * min(1.0, 1.0 / float(step[1:].abs().max().clamp(min=1e-12)))
        share, after = shares()
    if not (after <= before and float(values[0]) >= 0):  # also when it is not a number
        return float(slope), prior
    return float(values[0]), (start[:, 0] + values[1:]).float()


def log_loss_bits(
    logit: Float[Tensor, "*batch class word"],
    label: Int[Tensor, "word"],
    prior: Float[Tensor, "*batch class"],
    floor: float,
) -> Float[Tensor, "*batch word"]:
    """Cross-entropy of each word in bits, with `floor` of the probability given to the prior.

    The floor bounds what one confident mistake may cost (log2 of 1/floor and the prior) at a price of floor/ln 2 bits.
    """
    share = (1 - floor) * torch.softmax(logit, dim=-2) + floor * prior.exp()[..., None]
    at_label = share.gather(-2, label.expand(*share.shape[:-2], 1, -1)).squeeze(-2)
    return -at_label.log() / math.log(2)
