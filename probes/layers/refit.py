"""The refit bootstrap: what the bits would have been, had the sentences fallen otherwise.

A bootstrap over test losses alone leaves out that other sentences would have fitted another probe, and covers too little
on a few hundred sentences. Here every replicate weighs training sums and test losses by one draw of sentences, and fits
the closed-form probes anew at the penalties, temperatures and offsets chosen on the full data. Folds stay as they are,
so a sentence drawn twice never stands on both sides.

A replicate's covariance is never formed. Its probe solves a linear system by conjugate gradients in the coordinates in
which the covariance of the full data is the identity; there a replicate's has its eigenvalues near 1, so that a handful
of products with the features do, each made for all replicates at once: a third to a fifth of the work of Cholesky factors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.errors import LabError
from probes.layers.calibrate import log_loss_bits
from probes.layers.fit import Problem, Read, log_prior, read_alone, read_given
from probes.layers.problem import side_by_side

_BYTES = 64 * 2**20  # of one array [replicate, column, word]
_LEFT_OUT = 1e8  # stands for an infinite penalty: the weights of h_l shrink to 1e-8 of what they would be
_STEPS, _EXACTNESS = 50, 1e-3  # of conjugate gradients: residual over its right side


def refit_bits(
    problem: Problem, weights: Float[Tensor, "replicate sentence"], given_layer_0: bool = False
) -> Float[Tensor, "replicate layer"]:
    """Out-of-fold usable bits per word in each replicate, the probes fitted anew; float64.

    With all weights 1 these are the bits of `usable_bits` (`conditional_bits` with `given_layer_0`), up to rounding.

    A draw holds only 63 % of the sentences, so its probes are a little worse than those on the full data, the more so
    the fewer words there are per dimension: use the replicates' spread or a centred interval, not their mean.

    Args:
        weights: how often each sentence is drawn (`intervals.bootstrap_weights`), or any non-negative numbers.
        given_layer_0: what [h_0; h_l] adds to h_0, in place of what h_l says alone.

    Returns:
        Not a number for a replicate that has no word to train on in some fold, or none at all.

    Raises:
        LabError: the weights are not one finite, non-negative number per replicate and sentence.
        Untestable: `given_layer_0` where layer 0 was not collected.
    """
    matches = weights.ndim == 2 and weights.shape[1] == problem.sentences
    if not matches or not bool((weights.isfinite() & (weights >= 0)).all()):
        raise LabError(
            f"{problem.task}: bootstrap weights of shape {tuple(weights.shape)} for {problem.sentences} sentences. Draw "
            "them with bootstrap_weights for this probe set: finite and not negative."
        )
    with side_by_side() as each:
        drawn = weights.float()[:, problem.sentence]
        onehot = torch.nn.functional.one_hot(problem.label, len(problem.classes)).float()
        counts = torch.stack([drawn[:, rows] @ onehot[rows] for rows in problem.rows], dim=1).double()
        draw = _Draw(drawn, counts.sum(1, keepdim=True) - counts)
        probe = _given if given_layer_0 else _alone
        if given_layer_0:
            base = _losses(problem, draw, *_alone(problem, 0))
            read_given(problem)  # here, that no two threads fit them
        else:
            base = -log_prior(draw.counts)[:, problem.fold, problem.label] / math.log(2)
        losses = list(each(lambda index: _losses(problem, draw, *probe(problem, index)), range(len(problem.layers))))
        gains = [
            (drawn * (base - loss)).sum(1, dtype=torch.float64) / drawn.sum(1, dtype=torch.float64) for loss in losses
        ]
    return torch.stack(gains, dim=1)


@dataclass(frozen=True)
class _Draw:
    """How often each word was drawn, and the words per class in the training set of each fold, drawn ones as often."""

    weights: Float[Tensor, "replicate word"]
    counts: Float[Tensor, "replicate fold class"]


_Probe = tuple[Tensor, Read, Tensor]  # features [word, d], the fit on the full data, penalties [fold, block]


def _alone(problem: Problem, index: int) -> _Probe:
    """Of one layer, by its place."""
    read = read_alone(problem, index)
    return problem.features[index], read, read.penalty[:, None]


def _given(problem: Problem, index: int) -> _Probe:
    """Of [h_0; h_l]."""
    first, read = read_alone(problem, 0), read_given(problem)[index]
    both = torch.cat((problem.features[0], problem.features[index]), dim=1)
    return both, read, torch.stack((first.penalty, read.penalty), dim=1)


def _losses(
    problem: Problem, draw: _Draw, features: Float[Tensor, "word d"], read: Read, penalty: Float[Tensor, "fold block"]
) -> Float[Tensor, "replicate word"]:
    """Bits of each word under the probe of its fold; each penalty holds for a block of dimensions, blocks of one size."""
    ridge = penalty.clamp(max=_LEFT_OUT).repeat_interleave(features.shape[1] // penalty.shape[1], dim=1)
    slope = read.slope * (1 + penalty[:, 0])  # scores are scaled as `Discriminant` scales them
    size = max(1, _BYTES // (4 * len(features) * (len(problem.classes) - 1)))
    loss = torch.empty_like(draw.weights)
    for fold, rows in enumerate(problem.rows):
        training = _Training.of(problem, features, fold, ridge[fold])
        for start in range(0, len(loss), size):
            part = slice(start, start + size)
            counts = draw.counts[part, fold]
            weight, bias = training.discriminants(draw.weights[part][:, training.words], counts.float())
            score = (weight.flatten(0, 1) @ training.held_out.T).view(*bias.shape, -1) + bias[..., None]
            prior = log_prior(counts)
            logit = slope[fold] * score + (prior + read.offset[fold])[..., None]
            loss[part, rows] = log_loss_bits(logit, problem.label[rows], prior, 1 / len(features))
    return loss


@dataclass(frozen=True)
class _Training:
    """The training words of one fold, whitened by their own shrunken covariance within classes on the full data.

    Attributes:
        words: their places in the problem.
        members: the training words of each class.
        given: in the units of the problem, for variances.
        white: `given` times `whiten`.
        held_out: the words of the fold itself, whitened.
        ridge: penalty of each dimension as given, times its variance in a replicate.
    """

    words: Int[Tensor, "train"]
    members: tuple[Int[Tensor, "member"], ...]
    given: Float[Tensor, "train d"]
    white: Float[Tensor, "train d"]
    held_out: Float[Tensor, "word d"]
    whiten: Float[Tensor, "d d"]
    ridge: Float[Tensor, "d"]

    @classmethod
    def of(cls, problem: Problem, features: Tensor, fold: int, ridge: Float[Tensor, "d"]) -> _Training:
        rows = problem.rows[fold]
        words = torch.cat((torch.arange(rows.start), torch.arange(rows.stop, len(features))))
        given, label = features[words], problem.label[words]
        wide = given.double()
        count = torch.bincount(label, minlength=len(problem.classes)).double()
        class_sum = wide.new_zeros(len(count), wide.shape[1]).index_add_(0, label, wide)
        class_mean = class_sum / count.clamp(min=1)[:, None]
        within = (wide.T @ wide - (class_mean * count[:, None]).T @ class_mean) / len(wide)
        within.diagonal().add_(ridge * _variance(wide.square().mean(0), wide.mean(0)))
        # Columns of the inverse of the upper factor: x ↦ x · whiten has covariance 1.
        factor = torch.linalg.cholesky(within)
        identity = torch.eye(len(factor), dtype=torch.float64)
        whiten = torch.linalg.solve_triangular(factor, identity, upper=False).T.float().contiguous()
        members = tuple((label == k).nonzero()[:, 0] for k in range(len(count)))
        return cls(words, members, given, given @ whiten, features[rows] @ whiten, whiten, ridge.float())

    def discriminants(
        self, weights: Float[Tensor, "replicate train"], counts: Float[Tensor, "replicate class"]
    ) -> tuple[Float[Tensor, "replicate class d"], Float[Tensor, "replicate class"]]:
        """Weights and biases of each replicate, for whitened features; as `discriminant` has them for one draw."""
        n = counts.sum(1)[:, None, None]
        weights = weights / n[:, 0]
        share = counts[..., None] / n  # [replicate, class, 1]
        sums = torch.stack([weights[:, own] @ self.white[own] for own in self.members], dim=1)
        mean = sums.sum(1, keepdim=True)
        class_mean = torch.where(share > 0, sums / share - mean, torch.zeros_like(sums))
        given_mean = weights @ self.given
        ridge = (self.ridge * _variance(weights @ self.given.square(), given_mean))[:, None]
        low_rank = torch.cat((mean, class_mean * share.sqrt()), dim=1)

        def covariance(v: Float[Tensor, "replicate column d"]) -> Float[Tensor, "replicate column d"]:
            score = (v.flatten(0, 1) @ self.white.T).view(*v.shape[:2], -1) * weights[:, None]
            moved = (score.flatten(0, 1) @ self.white).view(v.shape)
            penalised = (ridge * (v @ self.whiten.T)) @ self.whiten
            return moved - (v @ low_rank.mT) @ low_rank + penalised

        # The class means, weighed by share, add to zero, and so do the solutions: the largest class's is what is left.
        last = int(counts.sum(0).argmax())
        others = [k for k in range(counts.shape[1]) if k != last]
        found = torch.empty_like(class_mean)
        found[:, others] = _conjugate_gradients(covariance, class_mean[:, others])
        rest = -(share[:, others] * found[:, others]).sum(1) / share[:, last]
        found[:, last] = torch.where(share[:, last] > 0, rest, torch.zeros_like(rest))
        bias = -(mean * found).sum(2) - 0.5 * (class_mean * found).sum(2)
        return found, bias


def _conjugate_gradients(
    matrix: Callable[[Tensor], Tensor], target: Float[Tensor, "replicate column d"]
) -> Float[Tensor, "replicate column d"]:
    """matrix⁻¹ target for every replicate and column, to `_EXACTNESS`."""
    found, residual, direction = torch.zeros_like(target), target, target
    measure = residual.square().sum(2, keepdim=True)
    goal = _EXACTNESS**2 * measure
    for _ in range(_STEPS):
        going = measure > goal
        if not going.any():
            break
        image = matrix(direction)
        length = torch.where(going, measure / (direction * image).sum(2, keepdim=True), 0.0)
        found = found + length * direction
        residual = residual - length * image
        before, measure = measure, residual.square().sum(2, keepdim=True)
        direction = residual + torch.where(going, measure / before, 0.0) * direction
    return found


def _variance(
    square: Float[Tensor, "*replicate d"], mean: Float[Tensor, "*replicate d"]
) -> Float[Tensor, "*replicate d"]:
    """Of each dimension; 1 where it never moves, as in `discriminant`."""
    found = square - mean.square()
    return torch.where(found > 1e-12, found, torch.ones_like(found))
