"""Subspaces from labelled activations, the angles between two of them, and random ones to compare with.

Freezing the difference of means alone lets a probe's direction drift, and freezing the probe's alone lets the causal
coordinate drift (Marks & Tegmark 2023, arXiv:2310.06824, measure the latter by interventions); so a concept spans both.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.errors import LabError
from probes.layers.discriminant import Alone, Block
from probes.layers.erase import Spectrum, random_eraser
from probes.layers.problem import one_thread

NO_DIFFERENCE = 1e-6  # of the largest singular value of the class means: below it a difference is fp32 rounding
SAME_DIRECTION = (
    1e-3  # sine of an angle: a discriminant direction this close to the means' adds only rounding (Σ⁻¹ magnifies it)
)


class NoSubspace(LabError):
    """Activations and labels that span no subspace, or columns that are no basis; the message says what would help."""


@dataclass(frozen=True)
class Span:
    """V, and what became of the columns that were asked for.

    Attributes:
        basis: orthonormal, fp64. First the differences of class means, largest first, then what the discriminants add.
        asked: 2(K − 1) columns.
        differences: how many of the columns are differences of means; the others are discriminant directions.
    """

    basis: Float[Tensor, "d k"]
    asked: int
    differences: int

    @property
    def rank(self) -> int:
        return int(self.basis.shape[1])

    @property
    def dropped(self) -> int:
        """Columns left out because others hold them to `NO_DIFFERENCE` or `SAME_DIRECTION`."""
        return self.asked - self.rank


def span(values: Float[Tensor, "word d"], label: Int[Tensor, "word"], penalty: float) -> Span:
    """V = orth[differences of class means, Σ⁻¹ · differences], Σ the covariance within classes, shrunk towards its diagonal.

    With two classes the first column is the unit difference of means, towards class 1, and the second the part of the
    discriminant that is at right angles to it.

    Args:
        values: activations of one layer.
        label: class per word, 0..K−1; negative = the word is not used. A class without words adds no column.
        penalty: what is added to Σ's diagonal, as a share of each dimension's variance; as `discriminant.PENALTIES`.

    Raises:
        NoSubspace: activations that are not finite, fewer than two classes, class means that are equal, or no dimension
            left outside.

    Example:
        >>> h = torch.randn(500, 8, dtype=torch.float64); y = torch.arange(500) % 2
        >>> V = span(h + 3.0 * y[:, None] * torch.eye(8)[0], y, 1e-3).basis
        >>> bool((V.T @ V - torch.eye(V.shape[1])).abs().max() < 1e-10)
        True
    """
    used = label >= 0
    x = values[used].double()
    present, index = torch.unique(label[used], return_inverse=True)
    if len(present) < 2 or not bool(x.isfinite().all()):
        raise NoSubspace(
            f"{len(present)} classes among {len(x)} words"
            + ("" if bool(x.isfinite().all()) else ", with activations that are not finite")
            + ": a concept is a difference between at least 2 classes of finite activations. Give words of both."
        )
    with one_thread():
        onehot = torch.nn.functional.one_hot(index, len(present)).double()
        count = onehot.sum(0)
        x = x - x.mean(0)
        weigh = (count / count.sum()).sqrt()
        difference = (onehot.T @ x / count[:, None]).T * weigh  # [d, class], of class means from the mean of all words
        means, size, _ = torch.linalg.svd(difference, full_matrices=False)
        spread = float(x.square().mean(0).sum().sqrt())
        kept = int((size > NO_DIFFERENCE * max(float(size[0]), 1e-6 * spread, 1e-300)).sum())
        kept = min(kept, len(present) - 1)
        if not kept:
            raise NoSubspace(
                "all classes have the same mean here, so there is no difference to hold. Choose another layer."
            )
        means = means[:, :kept] * _signs(means[:, :kept], difference / weigh)
        block = Block.of(x, [slice(0, len(x))], onehot)
        found = Alone(block, count[None]).solve((), 0, torch.tensor([penalty], dtype=torch.float64))
        probe, strength, _ = torch.linalg.svd(found.weight[0][0].double() * weigh, full_matrices=False)
        probe = probe[:, : int((strength > NO_DIFFERENCE * strength[0]).sum())][:, : len(present) - 1]
        rest, sine, _ = torch.linalg.svd(probe - means @ (means.T @ probe), full_matrices=False)
        rest = rest[:, sine > SAME_DIRECTION]
        rest = torch.linalg.qr(rest - means @ (means.T @ rest)).Q  # once more: rounding of nearly parallel columns
        rest = rest * _signs(rest, found.weight[0][0].double())
        basis = torch.cat((means, rest), dim=1)
    if basis.shape[1] >= len(basis):
        raise NoSubspace(
            f"{len(present)} classes span all {len(basis)} dimensions of the stream, so nothing would be left outside. "
            "Name fewer classes, or one against the rest."
        )
    return Span(basis, 2 * (len(present) - 1), kept)


def check_orthonormal(basis: Float[Tensor, "d k"], tolerance: float) -> None:
    """
    Raises:
        NoSubspace: not finite, a rank that leaves nothing inside or outside, or columns that are not orthonormal.
    """
    width, rank = basis.shape
    if not bool(basis.isfinite().all()):
        raise NoSubspace("the columns hold NaN or infinity. Write the file anew.")
    if not 0 < rank < width:
        raise NoSubspace(f"{rank} columns of {width} dimensions are no subspace. Give 1..{width - 1}.")
    off = float((basis.double().T @ basis.double() - torch.eye(rank, dtype=torch.float64)).abs().max())
    if off > tolerance:
        raise NoSubspace(
            f"the {rank} columns are not orthonormal (VᵀV is off by {off:.2g}). Orthonormalise them first: "
            "torch.linalg.qr(V).Q"
        )


def principal_cosines(a: Float[Tensor, "d k"], b: Float[Tensor, "d k2"]) -> Float[Tensor, "k"]:
    """Cosines of the principal angles of two subspaces, largest first, as many as the smaller has dimensions."""
    with one_thread():
        found: Tensor = torch.linalg.svdvals(a.double().T @ b.double()).clamp(max=1.0)
    return found


def overlap(a: Float[Tensor, "d k"], b: Float[Tensor, "d k2"]) -> float:
    """Mean squared cosine, over the larger rank: 1 = the same subspace, k/d = what random ones have on average."""
    return float(principal_cosines(a, b).square().sum()) / max(a.shape[1], b.shape[1])


def degrees(cosines: Float[Tensor, "*k"]) -> Float[Tensor, "*k"]:
    """Angles; cosines are only good to 1e-8 of 1, hence to a hundredth of a degree near 0."""
    return torch.rad2deg(torch.acos(cosines.clamp(-1.0, 1.0)))


def random_subspace(width: int, rank: int, generator: torch.Generator) -> Float[Tensor, "d k"]:
    """Orthonormal columns of a subspace drawn evenly from all of this rank."""
    drawn = torch.randn(width, rank, generator=generator, dtype=torch.float64)
    with one_thread():
        basis: Tensor = torch.linalg.qr(drawn).Q
    return basis


def matched_subspace(
    spectrum: Spectrum, rank: int, variance: float, generator: torch.Generator
) -> Float[Tensor, "d k"]:
    """A random subspace of this rank that holds this much variance of the activations: the control of holding or erasing V.

    Drawn as `erase.random_eraser` draws, in the axes of the activations; here the projection is at right angles. Where no
    subspace of the rank holds so much or so little, the nearest.

    Args:
        variance: tr VᵀΣV, as `variance_in`.

    Raises:
        Untestable: more columns than dimensions that move.
    """
    drawn = random_eraser(spectrum, rank, variance, generator)
    inside = (spectrum.axes.T @ drawn.left) / spectrum.variance.sqrt()[:, None]
    with one_thread():
        basis: Tensor = torch.linalg.qr(spectrum.axes @ inside).Q
    return basis


def variance_in(spectrum: Spectrum, basis: Float[Tensor, "d k"]) -> float:
    """tr VᵀΣV."""
    return float((spectrum.variance[:, None] * (spectrum.axes.T @ basis.double()).square()).sum())


def _signs(columns: Float[Tensor, "d k"], classes: Float[Tensor, "d class"]) -> Float[Tensor, "k"]:
    """−1 where a column points away from the class that stands out most along it (of two, the last), else +1."""
    along = columns.T @ classes  # [k, class]
    if along.shape[1] == 2:
        furthest = along[:, 1] - along[:, 0]
    else:
        furthest = along.gather(1, along.abs().argmax(1, keepdim=True))[:, 0]
    return torch.where(furthest < 0, -1.0, 1.0).double()
