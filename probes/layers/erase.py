"""Take a concept out of activations so that no linear probe finds it, and random subspaces to compare with.

LEACE (Belrose et al. 2023, arXiv:2306.03819): of all affine maps after which every class has the same mean, the one that
moves the activations least. The published implementation cuts singular values below an absolute 0.01 and so erases nothing
of a rare concept given as one 0/1 column (1 % of words, one deviation apart); here every tolerance is relative and the class
indicators are standardised. `use` measures what a model loses.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.layers.problem import Untestable, one_thread

# Of the largest eigenvalue of the standardised covariance: below it a direction is the rounding of fp32 activations.
_NO_VARIANCE = 1e-12
# Of the largest singular value, or of 1: indicators of K classes sum to 1, and that direction comes out at 1e-16.
_NO_CONCEPT = 1e-9
_TILTS = (-32.0, 32.0)  # exponent of the variance that a random subspace is drawn with; the ends are its extremes
_BISECTIONS = 60


@dataclass(frozen=True)
class Eraser:
    """h ↦ h - left @ right @ (h - mean): a projection, oblique in general, of rank at most K - 1.

    Attributes:
        removed: variance that it takes away from the activations it was fitted on, summed over dimensions.
    """

    mean: Float[Tensor, "d"]
    left: Float[Tensor, "d rank"]
    right: Float[Tensor, "rank d"]
    removed: float

    @property
    def rank(self) -> int:
        return self.left.shape[1]

    def apply(self, h: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        """In the type of h; the factors are kept in fp64."""
        mean, left, right = (part.to(h) for part in (self.mean, self.left, self.right))
        return h - (h - mean) @ right.T @ left.T

    def to(self, place: torch.device | Tensor) -> Eraser:
        """The factors on a device, or on the device and in the type of a tensor."""
        return Eraser(self.mean.to(place), self.left.to(place), self.right.to(place), self.removed)


@dataclass(frozen=True)
class Spectrum:
    """Mean and covariance of activations, in the basis where dimensions are independent; still ones are left out."""

    mean: Float[Tensor, "d"]
    variance: Float[Tensor, "axis"]
    axes: Float[Tensor, "d axis"]

    @classmethod
    def of(cls, features: Float[Tensor, "word d"]) -> Spectrum:
        """
        Raises:
            Untestable: fewer than 2 words, activations that are not finite, or all of them equal.
        """
        if len(features) < 2 or not bool(features.isfinite().all()):
            raise Untestable(
                f"erasing: {len(features)} words, or activations that are not finite. Look at the loss of this "
                "checkpoint, and give more exploration text."
            )
        with one_thread():
            x = features.double()
            mean = x.mean(0)
            x = x - mean
            variance, axes = torch.linalg.eigh(x.T @ x / len(x))
        kept = variance > _NO_VARIANCE * variance[-1].clamp(min=1e-300)
        if not bool(kept.any()):
            raise Untestable("erasing: all activations are equal, so there is nothing to erase. Choose another layer.")
        return cls(mean, variance[kept], axes[:, kept])


def fit_leace(features: Float[Tensor, "word d"], labels: Int[Tensor, "word"]) -> Eraser:
    """The least-squares eraser of a label (arXiv:2306.03819, theorem 4.3), from one pass over the words; fp64.

    Dimensions are standardised first, which changes nothing of the result (it is equivariant) but keeps one large
    dimension from deciding what counts as rounding. A dimension that never moves is left as it is. Outlier positions
    (`collect.outliers`) are for the caller to leave out: they own every covariance they are in.

    Args:
        labels: class per word; negative = the word is not used.

    Returns:
        An eraser of rank ≤ classes - 1, after which all class means are equal on these words.

    Raises:
        Untestable: labels and words differ in number, fewer than 2 classes, or activations that are not finite.

    Example:
        >>> h = torch.randn(1000, 8, dtype=torch.float64)
        >>> label = (h[:, 0] > 0).long()
        >>> after = fit_leace(h, label).apply(h)
        >>> bool((after[label == 1].mean(0) - after[label == 0].mean(0)).abs().max() < 1e-12)
        True
    """
    if len(labels) != len(features):
        raise Untestable(f"erasing: {len(labels)} labels for {len(features)} words of activations. Collect them again.")
    used = labels >= 0
    present, label = torch.unique(labels[used], return_inverse=True)
    if len(present) < 2 or not bool(features[used].isfinite().all()):
        raise Untestable(
            f"erasing: {len(present)} classes among {int(used.sum())} words of finite activations; a concept is a "
            "difference between at least 2. Give exploration text that has both."
        )
    with one_thread():
        x = features[used].double()
        mean = x.mean(0)
        spread = x.std(0, unbiased=False)
        spread = torch.where(spread > 1e-6 * mean.abs(), spread, torch.zeros(()).double())
        inverse = torch.where(spread > 0, 1 / spread, torch.zeros(()).double())
        x = (x - mean) * inverse
        indicator = torch.nn.functional.one_hot(label, len(present)).double()
        share = indicator.mean(0)
        cross = x.T @ ((indicator - share) / (share * (1 - share)).sqrt()) / len(x)  # correlations, [d, class]
        spectrum = Spectrum.of(x)
        deviation = spectrum.variance.sqrt()
        whitened = (spectrum.axes / deviation).T @ cross
        directions, strength, _ = torch.linalg.svd(whitened, full_matrices=False)
        # Correlations are at most 1, so an absolute floor far below any real one keeps rounding from passing as a concept.
        rank = min(len(present) - 1, int((strength > _NO_CONCEPT * max(1.0, float(strength[0]))).sum()))
        chosen = directions[:, :rank]
        left = spread[:, None] * (spectrum.axes * deviation @ chosen)
        right = ((spectrum.axes / deviation) @ chosen).T * inverse
    # right @ covariance @ right.T is the identity, so the variance of what is taken away is the size of `left`.
    return Eraser(mean, left, right, float(left.square().sum()))


def random_eraser(spectrum: Spectrum, rank: int, removed: float, generator: torch.Generator) -> Eraser:
    """An eraser of a random subspace, of this rank, that takes away this much variance: the control of an erasure.

    Oblique as LEACE is: random directions where the activations are white. Uniform ones take away rank times the mean
    variance, whatever the concept's; so they are drawn with weights variance^t, and t is what makes the variance equal.

    Args:
        removed: `Eraser.removed` of the eraser to compare with, on activations of this spectrum.

    Raises:
        Untestable: rank is not in 1..axes.
    """
    if not 1 <= rank <= len(spectrum.variance):
        raise Untestable(
            f"erasing: rank {rank} of {len(spectrum.variance)} dimensions that move. Nothing to compare with."
        )
    with one_thread():
        drawn = torch.randn(len(spectrum.variance), rank, generator=generator, dtype=torch.float64)
        log_variance = spectrum.variance.log()
        log_variance = log_variance - log_variance.max()

        def directions(tilt: float) -> Tensor:
            weight = tilt * log_variance
            basis: Tensor = torch.linalg.qr((weight - weight.max()).exp()[:, None] * drawn).Q
            return basis

        low, high = _TILTS
        for _ in range(_BISECTIONS):  # the variance taken away rises with the tilt
            middle = (low + high) / 2
            taken = float((spectrum.variance[:, None] * directions(middle).square()).sum())
            low, high = (middle, high) if taken < removed else (low, middle)
        chosen = directions((low + high) / 2)
        deviation = spectrum.variance.sqrt()
        left = spectrum.axes * deviation @ chosen
        right = ((spectrum.axes / deviation) @ chosen).T
    return Eraser(spectrum.mean, left, right, float(left.square().sum()))
