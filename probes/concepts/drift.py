"""How far a concept has moved: in the weights that write it (M1) and in the stream that carries it (M2).

Two different things: with Vᵀ W held in every writer, the coordinates still move, through the writers' inputs. So weight
invariance is no proof that a concept held, and both are measured. Pure functions from tensors to numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.layers.evidence import Interval
from probes.layers.intervals import interval
from probes.layers.problem import Untestable, one_thread

_WRITER = re.compile(r"embed\.W_E|blocks\.(\d+)\.(?:attn\.W_O|mlp\.W_out)")


@dataclass(frozen=True)
class Coordinates:
    """Where held-out tokens lie in a concept's subspace, for one model.

    Attributes:
        values: Vᵀh at the concept's layer, fp64.
        rms: root mean square of h, what a following RMSNorm divides by.
        document: per token, the number of its document, from 0.
    """

    values: Float[Tensor, "token k"]
    rms: Float[Tensor, "token"]
    document: Int[Tensor, "token"]


@dataclass(frozen=True)
class Drift:
    """How far the coordinates moved from where they were at the freeze.

    Attributes:
        raw: NRMSE = √(E‖Vᵀ(h_t − h_0)‖² / tr Cov(Vᵀh_0)), 0 = held, about 1.4 = unrelated; bootstrap over documents.
        normed: the same of Vᵀh / rms(h), as a layer behind an RMSNorm reads it.
        worst, worst_document: the largest NRMSE of one document.
        parts: raw² as a sum: what one shift explains (`bias`), one factor beyond it (`scale`), any linear map beyond both
            (`rotation`), and what no affine map explains (`rest`).
        rms_ratio: mean rms(h_t) over mean rms(h_0).
    """

    raw: Interval
    normed: Interval
    worst: float
    worst_document: int
    parts: Mapping[str, float]
    rms_ratio: float


def writers(weights: Mapping[str, Tensor], layer: int) -> list[str]:
    """Names of the matrices that write into the stream up to a layer: embedding, attention and MLP outputs below it."""
    found = [(name, _WRITER.fullmatch(name)) for name in weights]
    return sorted(name for name, match in found if match and (match[1] is None or int(match[1]) < layer))


def weight_drift(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    basis: Float[Tensor, "d_model k"],
    layer: int,
) -> dict[str, float]:
    """‖Vᵀ(W − W₀)‖_F / ‖VᵀW₀‖_F of each writer up to the layer; the largest of them is M1.

    Raises:
        Untestable: no writer is there, or its shape has changed.
    """
    names = writers(before, layer)
    if not names or any(name not in after or after[name].shape != before[name].shape for name in names):
        raise Untestable("weight drift: the two models have not the same writers. Compare checkpoints of one run.")
    found = {}
    with one_thread():
        v = basis.double()
        for name in names:
            start = before[name].double() @ v  # writers end in d_model, so W V is (VᵀW)ᵀ
            size = float(start.norm())
            moved = float((after[name].double() @ v - start).norm())
            found[name] = moved / size if size > 0 else moved
    return found


def drift(before: Coordinates, after: Coordinates, weights: Float[Tensor, "replicate document"]) -> Drift:
    """M2: how far the same tokens have moved.

    Args:
        weights: how often each document is drawn in each replicate (`intervals.bootstrap_weights`).

    Raises:
        Untestable: other tokens than before, or coordinates that never vary, so that there is no unit to measure in.
    """
    _check(before, after, weights)
    with one_thread():
        raw = _Sums.of(before.values, after.values, before.document, weights.shape[1])
        scale0, scale1 = before.rms[:, None], after.rms[:, None]
        normed = _Sums.of(before.values / scale0, after.values / scale1, before.document, weights.shape[1])
        variance = raw.variance(torch.ones(1, weights.shape[1], dtype=torch.float64))[0]
        by_document = (raw.error / raw.count.clamp(min=1) / variance).sqrt()
        return Drift(
            raw=raw.nrmse(weights),
            normed=normed.nrmse(weights),
            worst=float(by_document.max()),
            worst_document=int(by_document.argmax()),
            parts=affine_parts(before.values, after.values),
            rms_ratio=float(after.rms.mean() / before.rms.mean()),
        )


def drift_ratio(
    before: Coordinates, after: Coordinates, twin: Coordinates, weights: Float[Tensor, "replicate document"]
) -> Interval | None:
    """NRMSE of a model over that of its twin, documents drawn for both at once; None where the twin has not moved at all."""
    _check(before, after, weights)
    _check(before, twin, weights)
    with one_thread():
        own = _Sums.of(before.values, after.values, before.document, weights.shape[1]).error
        other = _Sums.of(before.values, twin.values, before.document, weights.shape[1]).error
        if not float(other.sum()) > 0:
            return None
        wide = weights.double()
        return interval(float((own.sum() / other.sum()).sqrt()), ((wide @ own) / (wide @ other)).sqrt())


def affine_parts(before: Float[Tensor, "token k"], after: Float[Tensor, "token k"]) -> dict[str, float]:
    """E‖c_t − c_0‖² / tr Cov(c_0) as bias + scale + rotation + rest, by the least-squares map c_t ≈ A c_0 + b.

    The parts are orthogonal: s = tr(AΣ)/tr Σ makes (s − 1)·1 and A − s·1 so under Σ, and a residual of least squares is
    uncorrelated with c_0. So they add up exactly.
    """
    x, y = before.double(), after.double()
    shift = y.mean(0) - x.mean(0)
    x, y = x - x.mean(0), y - y.mean(0)
    covariance = x.T @ x / len(x)
    total = covariance.trace()
    linear = torch.linalg.pinv(covariance, hermitian=True) @ (x.T @ y / len(x))  # y ≈ x @ linear
    factor = (covariance @ linear).trace() / total
    turned = linear - factor * torch.eye(len(linear), dtype=x.dtype)
    rest = (y - x @ linear).square().sum(1).mean()
    return {
        "bias": float(shift.square().sum() / total),
        "scale": float((factor - 1).square()),
        "rotation": float((turned.T @ covariance @ turned).trace() / total),
        "rest": float(rest / total),
    }


@dataclass(frozen=True)
class _Sums:
    """Per document: tokens, squared error, coordinates and their squares at the freeze."""

    count: Float[Tensor, "document"]
    error: Float[Tensor, "document"]
    first: Float[Tensor, "document k"]
    square: Float[Tensor, "document"]

    @classmethod
    def of(cls, before: Tensor, after: Tensor, document: Tensor, documents: int) -> _Sums:
        x = before.double() - before.double().mean(0)  # a shift changes nothing but the rounding
        moved = after.double() - before.double()

        def total(values: Tensor) -> Tensor:
            out = torch.zeros(documents, *values.shape[1:], dtype=torch.float64)
            return out.index_add_(0, document, values)

        ones = torch.ones(len(x), dtype=torch.float64)
        return cls(total(ones), total(moved.square().sum(1)), total(x), total(x.square().sum(1)))

    def variance(self, weights: Float[Tensor, "replicate document"]) -> Float[Tensor, "replicate"]:
        """tr Cov of the coordinates at the freeze, in each replicate."""
        n = weights @ self.count
        found: Tensor = weights @ self.square / n - (weights @ self.first / n[:, None]).square().sum(1)
        return found

    def nrmse(self, weights: Float[Tensor, "replicate document"]) -> Interval:
        ones, wide = torch.ones(1, len(self.count), dtype=torch.float64), weights.double()
        value, samples = (
            (w @ self.error / (w @ self.count) / self.variance(w).clamp(min=1e-300)).sqrt() for w in (ones, wide)
        )
        return interval(float(value), samples)


def _check(before: Coordinates, after: Coordinates, weights: Tensor) -> None:
    same: Sequence[bool] = (
        before.values.shape == after.values.shape,
        torch.equal(before.document, after.document),
        len(before.document) > 0 and int(before.document.max()) < weights.shape[1],
    )
    if not all(same):
        raise Untestable("drift: the two models were not read at the same tokens. Measure both on one text.")
    if not (bool(before.values.isfinite().all()) and bool(after.values.isfinite().all())):
        raise Untestable("drift: coordinates are not finite. Look at the loss of these checkpoints.")
    if not float(before.values.double().var(0).sum()) > 0:
        raise Untestable("drift: the concept's coordinates never vary, so there is no unit to measure drift in.")
