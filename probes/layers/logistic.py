"""L2-regularised logistic regression by Newton's method, for many training sets and penalties at once.

The estimator of scikit-learn's `LogisticRegression(C=1/λ)` on features standardised over the training set: minimise
Σ −log p(label) + λ/2 · ‖w‖², the intercept free; one weight vector for two classes, one for each class from three on.

Each Newton (iteratively reweighted least squares) system is solved by conjugate gradients, so no weighted Gram is ever
formed: a product with the Hessian is two passes over the features, and one matrix product makes it for all training sets
and penalties together. The preconditioner is the training set's plain Gram, known from the fold sums, times the mean
curvature; it is exact at the start, where every word has the same probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.layers.calibrate import log_loss_bits
from probes.layers.discriminant import PENALTIES, Block
from probes.layers.fit import Decoding, Problem, Read, base_loss, decoding, inner_folds, log_prior, one_thread

TOLERANCE = 1e-5  # largest gradient per word; scikit-learn stops at 1e-4
_NEWTON_STEPS, _CONJUGATE_STEPS, _HALVINGS = 40, 60, 30
_EXACTNESS = 0.1  # residual of a Newton system over its right side


@dataclass(frozen=True)
class Logistic:
    """Fitted weights by training set and penalty, the intercept last.

    Attributes:
        weight: in units of the features given; `column` is 1 for two classes (log odds of the second), else one a class.
        gradient: largest absolute entry of the objective's gradient, per word, where the fit stopped.
        losses: objective per word, in nats, before each step and at the end; never rises.
    """

    weight: Float[Tensor, "set penalty column d_plus_1"]
    gradient: Float[Tensor, "set penalty"]
    losses: Float[Tensor, "step set penalty"]

    @property
    def converged(self) -> bool:
        return bool((self.gradient <= TOLERANCE).all())

    def log_odds(self, features: Float[Tensor, "word d"], index: int) -> Float[Tensor, "penalty class word"]:
        """Scores of one training set's fits; their softmax over classes is the probability."""
        weight = self.weight[index]
        flat = weight[..., :-1].flatten(0, 1) @ features.T
        score = flat.view(*weight.shape[:2], -1) + weight[..., -1:]
        return torch.cat((torch.zeros_like(score), score), dim=1) if weight.shape[1] == 1 else score


def fit_logistic(
    block: Block,
    label: Int[Tensor, "word"],
    classes: int,
    left_out: Sequence[tuple[int, ...]],
    penalty: Float[Tensor, "set penalty"],
    start: Float[Tensor, "set penalty column d_plus_1"] | None = None,
) -> Logistic:
    """Fit every penalty on every training set made of all folds but some; single precision, losses summed in double.

    Stops where the gradient per word is at most `TOLERANCE`, or where rounding leaves nothing to gain. A step that would
    raise the loss is halved until it does not.

    Args:
        block: a layer's features with their sums per fold (`Problem.blocks`).
        left_out: the folds that each training set lacks.
        penalty: λ = 1/C > 0, in words.
        start: `Logistic.weight` to begin from; without it every weight is zero.
    """
    system = _System(block, label, classes, left_out, penalty)
    weight = system.standardised(start) if start is not None else torch.zeros(system.shape)
    score = system.to_words(weight)
    loss = system.loss(score, weight)
    losses = [loss]
    for _ in range(_NEWTON_STEPS):
        share = _shares(score)
        slope = system.to_weights((share - system.truth) * system.mask) + system.ridge * weight
        gradient = slope.abs().amax((2, 3)) / system.n[..., 0, 0]
        moving = gradient > TOLERANCE
        if not moving.any():
            break
        step = system.newton_step(share, slope, moving)
        along, size = system.to_words(step), moving.float()
        for _ in range(_HALVINGS):
            after = system.loss(score - size[..., None, None] * along, weight - size[..., None, None] * step)
            rises = ~(after <= loss)  # also where it is not a number
            if not rises.any():
                break
            size = torch.where(rises, size / 2, size)
        size = torch.where(rises, torch.zeros_like(size), size)
        if not size.any():
            break
        weight = weight - size[..., None, None] * step
        score = score - size[..., None, None] * along
        loss = torch.where(rises, loss, after)
        losses.append(loss)
    return Logistic(system.in_given_units(weight), gradient, torch.stack(losses))


def logistic_bits(problem: Problem) -> Decoding:
    """Bits per word that logistic regression reads from each layer alone; `usable_bits` by another probe.

    Folds, inner folds and the penalties tried (shares of n: λ = share · training words) are those of `usable_bits`;
    the penalty is chosen inside each training fold. About ten times the work, for the last per cent of the bits where
    classes are not Gaussian.
    """
    with one_thread():
        read = [_read(problem, block) for block in problem.blocks]
    return decoding(problem, base_loss(problem), read)


def _read(problem: Problem, block: Block) -> Read:
    folds, classes = range(problem.folds), len(problem.classes)
    n_fold = problem.counts.sum(1)
    partners = {fold: inner_folds(problem, fold) for fold in folds}
    pairs = sorted({(min(fold, other), max(fold, other)) for fold in folds for other in partners[fold]})
    shares = torch.tensor(PENALTIES, dtype=torch.float64)
    n_inner = torch.stack([n_fold.sum() - n_fold[list(pair)].sum() for pair in pairs])
    inner = fit_logistic(block, problem.label, classes, pairs, n_inner[:, None] * shares)
    flat, chosen, begin = torch.zeros(classes), [], []
    for fold in folds:
        total = torch.zeros(len(shares), dtype=torch.float64)
        for other in partners[fold]:
            rows = problem.rows[other]
            at = pairs.index((min(fold, other), max(fold, other)))
            score = inner.log_odds(block.features[rows], at)
            total += log_loss_bits(score, problem.label[rows], flat.expand(len(shares), classes), 0.0).double().sum(1)
        chosen.append(int(total.argmin()))
        begin.append(inner.weight[at, chosen[-1]])
    penalty = shares[chosen]
    train = (n_fold.sum() - n_fold) * penalty
    fitted = fit_logistic(
        block, problem.label, classes, [(fold,) for fold in folds], train[:, None], torch.stack(begin)[:, None]
    )
    loss = torch.empty(len(problem.label))
    for fold, rows in zip(folds, problem.rows, strict=True):
        prior = log_prior(problem.counts.sum(0) - problem.counts[fold])
        score = fitted.log_odds(block.features[rows], fold)[0]
        loss[rows] = log_loss_bits(score, problem.label[rows], prior, 1 / len(loss))
    return Read(loss, penalty, torch.ones(len(folds)), torch.zeros(len(folds), classes))


class _System:
    """The objective of every (training set, penalty), in the set's standardised units; the intercept is the last weight."""

    def __init__(
        self, block: Block, label: Tensor, classes: int, left_out: Sequence[tuple[int, ...]], penalty: Tensor
    ) -> None:
        sets, penalties = penalty.shape
        columns, words = 1 if classes == 2 else classes, len(label)
        self.x, self.shape = block.features, (sets, penalties, columns, block.features.shape[1] + 1)
        self.mask = torch.ones(sets, 1, 1, words)
        for index, out in enumerate(left_out):
            for fold in out:
                self.mask[index, ..., block.rows[fold]] = 0
        self.n = self.mask.sum(-1, keepdim=True)
        self.label = label
        self.truth = torch.nn.functional.one_hot(label, classes).T[-columns:].float()
        self.ridge = torch.nn.functional.pad(
            penalty.float()[..., None, None].expand(*self.shape[:3], self.shape[3] - 1), (0, 1)
        )
        moments = [_moments(block, out, float(n)) for out, n in zip(left_out, self.n, strict=True)]
        self.mean, self.deviation, self.values, self.vectors = (
            torch.stack(part) for part in zip(*moments, strict=True)
        )

    def to_words(
        self, weight: Float[Tensor, "set penalty column d_plus_1"]
    ) -> Float[Tensor, "set penalty column word"]:
        given = self.in_given_units(weight)
        return (given[..., :-1].flatten(0, 2) @ self.x.T).view(*given.shape[:3], -1).add_(given[..., -1:])

    def to_weights(
        self, value: Float[Tensor, "set penalty column word"]
    ) -> Float[Tensor, "set penalty column d_plus_1"]:
        """Transpose of `to_words`: sums over words of the value times the standardised features, and times 1."""
        total = value.sum(-1, keepdim=True)
        raw = (value.flatten(0, 2) @ self.x).view(*value.shape[:3], -1)
        raw.sub_(total * self.mean[:, None, None]).div_(self.deviation[:, None, None])
        return torch.cat((raw, total), dim=-1)

    def in_given_units(self, weight: Tensor) -> Tensor:
        raw = weight[..., :-1] / self.deviation[:, None, None]
        return torch.cat((raw, weight[..., -1:] - (raw * self.mean[:, None, None]).sum(-1, keepdim=True)), dim=-1)

    def standardised(self, given: Tensor) -> Tensor:
        shift = (given[..., :-1] * self.mean[:, None, None]).sum(-1, keepdim=True)
        return torch.cat((given[..., :-1] * self.deviation[:, None, None], given[..., -1:] + shift), dim=-1)

    def loss(self, score: Tensor, weight: Tensor) -> Float[Tensor, "set penalty"]:
        """Objective per word, in nats."""
        if score.shape[2] == 1:
            each = torch.nn.functional.softplus(score) - self.truth * score
        else:
            at_label = score.gather(2, self.label.expand(*score.shape[:2], 1, -1))
            each = torch.logsumexp(score, dim=2, keepdim=True) - at_label
        total = (each * self.mask).sum((2, 3), dtype=torch.float64)
        return (total + 0.5 * (self.ridge * weight.square()).sum((2, 3), dtype=torch.float64)) / self.n[..., 0, 0]

    def newton_step(self, share: Tensor, slope: Tensor, moving: Tensor) -> Tensor:
        """Hessian⁻¹ slope to `_EXACTNESS`, by preconditioned conjugate gradients, each problem in its own measure."""
        share = share * self.mask
        curve = share * (1 - share) if share.shape[2] == 1 else share
        mean_curve = (share * (1 - share)).sum(-1, keepdim=True).clamp(min=1e-6)  # [set, penalty, column, 1]

        def hessian(v: Tensor) -> Tensor:
            z = self.to_words(v)
            if share.shape[2] > 1:
                z = z - (share * z).sum(2, keepdim=True)
            return self.to_weights(curve * z) + self.ridge * v

        def precondition(r: Tensor) -> Tensor:
            rotated = (r[..., :-1].flatten(1, 2) @ self.vectors).view(*r.shape[:3], -1)
            rotated = rotated / (mean_curve * self.values[:, None, None] + self.ridge[..., :-1])
            back = (rotated.flatten(1, 2) @ self.vectors.mT).view(*r.shape[:3], -1)
            return torch.cat((back, r[..., -1:] / mean_curve), dim=-1)

        residual = slope * moving[..., None, None]
        step = torch.zeros_like(slope)
        direction = precondition(residual)
        measure = (residual * direction).sum((2, 3), keepdim=True)
        goal = _EXACTNESS**2 * measure
        for _ in range(_CONJUGATE_STEPS):
            going = measure > goal
            if not going.any():
                break
            image = hessian(direction)
            bend = (direction * image).sum((2, 3), keepdim=True)
            # A problem that has arrived stands still while others go on: past rounding it would divide noise by noise.
            length = torch.where(going & (bend > 0), measure / bend, torch.zeros_like(bend))
            step = step + length * direction
            residual = residual - length * image
            toward = precondition(residual)
            before, measure = measure, (residual * toward).sum((2, 3), keepdim=True)
            direction = toward + torch.where(going, measure / before, torch.zeros_like(before)) * direction
        return step


def _shares(score: Float[Tensor, "set penalty column word"]) -> Float[Tensor, "set penalty column word"]:
    return torch.sigmoid(score) if score.shape[2] == 1 else torch.softmax(score, dim=2)


def _moments(block: Block, left_out: tuple[int, ...], n: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and deviation of a training set, and the eigenvalues and -vectors of its correlations."""
    out = list(left_out)
    mean = (block.class_sum.sum((0, 1)) - block.class_sum[out].sum((0, 1))) / n
    covariance = (block.total - block.second_moment[out].double().sum(0)) / n - mean[:, None] * mean
    deviation = covariance.diagonal().clamp(min=0).sqrt()
    deviation = torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))
    values, vectors = torch.linalg.eigh((covariance / deviation / deviation[:, None]).float())
    return mean.float(), deviation.float(), values.clamp(min=0), vectors
