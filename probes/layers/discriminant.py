"""Shrinkage discriminants of a layer, alone or beside layer 0, for any training set made of whole folds.

A training set is "all folds but some": its moments are totals minus those folds' sums, so the activations are read once.
`fit` decides which discriminant is used and turns its scores into bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

# Shares of n (the penalty is n times this, on features of unit variance). At a fixed share small samples gave negative
# bits, hence the wide grid and the choice inside each training fold.
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Block:
    """A layer's features and their per-fold sums; `rows` are the words of each fold."""

    features: Float[Tensor, "word d"]
    rows: Sequence[slice]
    class_sum: Float[Tensor, "fold class d"]
    second_moment: Float[Tensor, "fold d d"]

    @classmethod
    def of(cls, features: Tensor, rows: Sequence[slice], onehot: Tensor) -> Block:
        parts = [features[r] for r in rows]
        class_sum = torch.stack([onehot[r].T @ part for r, part in zip(rows, parts, strict=True)]).double()
        return cls(features, rows, class_sum, torch.stack([part.T @ part for part in parts]))

    @cached_property
    def total(self) -> Float[Tensor, "d d"]:
        return self.second_moment.double().sum(0)

    def cross(self, other: Block) -> Float[Tensor, "fold d d2"]:
        if other is self:
            return self.second_moment
        return torch.stack([self.features[r].T @ other.features[r] for r in self.rows])


@dataclass(frozen=True)
class Moments:
    """Of one training set, in its own standardised units."""

    n: float
    mean: Float[Tensor, "d"]
    deviation: Float[Tensor, "d"]
    class_mean: Float[Tensor, "d class"]
    class_share: Float[Tensor, "class"]
    within: Float[Tensor, "d d"]

    @classmethod
    def of(cls, block: Block, counts: Float[Tensor, "fold class"], left_out: Sequence[int]) -> Moments:
        out = list(left_out)
        n_class = counts.sum(0) - counts[out].sum(0)
        n = float(n_class.sum())
        class_sum = block.class_sum.sum(0) - block.class_sum[out].sum(0)
        mean = class_sum.sum(0) / n
        # A class with no word in this training set stands at the overall mean: its share alone speaks for it.
        class_mean = torch.where(n_class[:, None] > 0, class_sum / n_class.clamp(min=1)[:, None], mean) - mean
        total = block.total.clone()
        for fold in out:
            total -= block.second_moment[fold]
        deviation = (total.diagonal() / n - mean.square()).clamp(min=0).sqrt()
        deviation = torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))
        share = n_class / n
        # Sums of squares less the means', all at once: means and class means are rows of one low-rank term.
        low_rank = torch.cat((mean[None], class_mean * share.sqrt()[:, None]))
        within = torch.addmm(total, low_rank.T, low_rank, beta=1 / n, alpha=-1)
        within /= deviation
        within /= deviation[:, None]
        class_mean = (class_mean / deviation).T.contiguous()
        return cls(n, mean, deviation, class_mean, share, within)


@dataclass(frozen=True)
class Discriminant:
    """score_k(x) = x · weight_k + bias_k for every penalty, the blocks of x side by side."""

    weight: tuple[Float[Tensor, "penalty d class"], ...]
    bias: Float[Tensor, "penalty class"]

    @classmethod
    def of(cls, moments: Sequence[Moments], solved: Sequence[Tensor], scale: Float[Tensor, "penalty"]) -> Discriminant:
        """From Σ⁻¹μ in standardised units [penalty, d, class]; `scale` keeps scores near 1 at any penalty."""
        weight, bias = [], torch.zeros(())
        for one, found in zip(moments, solved, strict=True):
            scaled = found * scale[:, None, None]
            weight.append(scaled / one.deviation[:, None])
            bias = bias - one.mean @ weight[-1] - 0.5 * (one.class_mean * scaled).sum(1)
        return cls(tuple(w.float() for w in weight), bias.float())

    def scores(self, features: Sequence[Float[Tensor, "word d"]]) -> Float[Tensor, "penalty class word"]:
        total = self.bias[:, :, None]
        for weight, block in zip(self.weight, features, strict=True):
            flat = weight.transpose(0, 1).flatten(1).T @ block.T  # [penalty · class, word]
            total = total + flat.view(*self.bias.shape, -1)
        return total

    def only(self, penalty: int) -> Discriminant:
        return Discriminant(tuple(w[penalty : penalty + 1] for w in self.weight), self.bias[penalty : penalty + 1])


class Alone:
    """Discriminants of one layer by itself."""

    grid = torch.tensor(PENALTIES, dtype=torch.float64)

    def __init__(self, block: Block, counts: Float[Tensor, "fold class"]) -> None:
        self.blocks, self.counts = (block,), counts

    def key(self, fold: int) -> float:
        """What else than the training set a discriminant depends on."""
        return 0.0

    def solve(self, left_out: tuple[int, ...], fold: int, penalties: Float[Tensor, "penalty"]) -> Discriminant:
        moments = Moments.of(self.blocks[0], self.counts, left_out)
        solved = _ridge(moments.within, penalties, moments.class_mean)
        return Discriminant.of([moments], [solved], 1 + penalties)


class Given:
    """Discriminants of [h_0; h_l], the penalty of h_0 held at what is best for h_0 alone; by the Schur complement.

    Keeps what depends on h_0 only, so one object serves all layers in turn (`beside`).
    """

    grid = torch.tensor((*PENALTIES, torch.inf), dtype=torch.float64)

    def __init__(self, first: Block, counts: Float[Tensor, "fold class"], held: Float[Tensor, "fold"]) -> None:
        self.first, self.counts, self.held = first, counts, held
        self.memory: dict[tuple[tuple[int, ...], float], tuple[Moments, Tensor, Tensor]] = {}

    def beside(self, second: Block) -> Given:
        self.blocks, self.cross = (self.first, second), self.first.cross(second)
        self.cross_total = self.cross.double().sum(0)
        return self

    def key(self, fold: int) -> float:
        return float(self.held[fold])

    def solve(self, left_out: tuple[int, ...], fold: int, penalties: Float[Tensor, "penalty"]) -> Discriminant:
        first, inverse, alone = self._of_first(left_out, self.key(fold))
        second = Moments.of(self.blocks[1], self.counts, left_out)
        cross = self.cross_total.clone()
        for out in left_out:
            cross -= self.cross[out]
        cross = torch.addmm(cross, first.mean[:, None], second.mean[None], beta=1 / first.n, alpha=-1)
        cross /= first.deviation[:, None]
        cross /= second.deviation
        cross = torch.addmm(cross, first.class_mean * first.class_share, second.class_mean.T, alpha=-1)
        explained = inverse @ cross
        rest = torch.addmm(second.within, cross.T, explained, alpha=-1)
        finite = penalties[penalties.isfinite()]
        solved = _ridge(rest, finite, second.class_mean - cross.T @ alone)
        # An infinite penalty leaves h_l out: what remains is the discriminant of h_0 alone.
        solved = torch.cat((solved, solved.new_zeros(len(penalties) - len(finite), *second.class_mean.shape)))
        scale = torch.full((len(penalties),), 1 + self.key(fold), dtype=torch.float64)
        return Discriminant.of([first, second], [alone - explained @ solved, solved], scale)

    def _of_first(self, left_out: tuple[int, ...], held: float) -> tuple[Moments, Tensor, Tensor]:
        if (left_out, held) not in self.memory:
            moments = Moments.of(self.first, self.counts, left_out)
            inverse = torch.cholesky_inverse(_factor(moments.within, held))
            self.memory[left_out, held] = moments, inverse, inverse @ moments.class_mean
        return self.memory[left_out, held]


def _ridge(
    matrix: Float[Tensor, "d d"], penalties: Float[Tensor, "penalty"], target: Float[Tensor, "d class"]
) -> Float[Tensor, "penalty d class"]:
    """(matrix + penalty · I)⁻¹ target for every penalty.

    A grid, which only serves to choose from, takes one eigendecomposition in single precision (2.9 ms at 256 wide, where
    six factors and their solves take 6). The one penalty that is then used gets its Cholesky factor in double precision.
    """
    if len(penalties) <= 1:
        solved = [torch.cholesky_solve(target, _factor(matrix, float(penalty))) for penalty in penalties]
        return torch.stack(solved) if solved else target.new_zeros(0, *target.shape)
    values, vectors = torch.linalg.eigh(matrix.float())
    rotated = (vectors.T @ target.float()) / (values.clamp(min=0)[:, None] + penalties.float()[:, None, None])
    found: Tensor = (vectors @ rotated).double()
    return found


def _factor(matrix: Float[Tensor, "d d"], penalty: float) -> Float[Tensor, "d d"]:
    penalised = matrix.clone()
    penalised.diagonal().add_(penalty)
    factor: Tensor = torch.linalg.cholesky(penalised)
    return factor
