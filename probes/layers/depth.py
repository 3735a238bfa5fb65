"""Where along the layers a quantity is gained: expected depth, half gain, peak, and the reasons for having no depth.

Pure functions from curves to numbers, batched over bootstrap replicates. Depths are relative: 0 = the embedding sum (layer
0), 1 = after the last block, before the final norm. Gains that are no larger than noise have no depth: a ratio of two
noises reads as "somewhere in the middle", or as layer 24 of a 12-layer model (task DPR in Tenney et al.'s own notebook).

Some layers may be missing. A curve is then held at its last known value until the next known layer, which is the formula
itself where none is missing: the depth is the latest that the known layers allow, at most one gap too late, and the same
for two curves on the same layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from lab.errors import LabError
from probes.layers.evidence import Interval

LEAST_GAIN_BITS = 0.02  # a curve that rises by less has no depth; its lower 95 % bound is what counts
TWIN_SHARE = 0.95  # of the gain: what a never-trained model has to that extent is no work of training
LABEL_CORRELATION = 0.5  # |phi| of two labels beyond which their two curves are mostly one


class WrongLayers(LabError):
    """Layers and curve do not fit each other, or layer 0 is missing."""


def envelope(gain: Float[Tensor, "*batch layer"]) -> Float[Tensor, "*batch layer"]:
    """The running maximum over layers: what has been readable so far.

    Curves of real models fall before the last layer, and a ratio to the last value is then nonsense (expected layers of
    32 and -25 were seen in a model of 30).
    """
    highest: Tensor = gain.cummax(dim=-1).values
    return highest


def total_gain(gain: Float[Tensor, "*batch layer"]) -> Float[Tensor, "*batch"]:
    """M(L) - M(0) of the envelope M, in the curve's unit; never negative."""
    rise: Tensor = gain.amax(dim=-1) - gain[..., 0]
    return rise


def net_gain(gain: Float[Tensor, "*batch layer"]) -> Float[Tensor, "*batch"]:
    """Last layer less layer 0, in the curve's unit; negative where what was gained on the way is lost again."""
    return gain[..., -1] - gain[..., 0]


def expected_depth(gain: Float[Tensor, "*batch layer"], layers: Sequence[int] | None = None) -> Float[Tensor, "*batch"]:
    """Relative depth at which the gain arrives on average: 0 = already at the embedding, 1 = only at the last layer.

    The normalised area above the envelope M, E / L with E = sum over l < L of [M(L) - M(l)] / [M(L) - M(0)]: the expected
    layer of Tenney et al. 2019 (arXiv:1905.05950) summed by parts, equal to it where the curve rises, in 0..1 always.

    Args:
        gain: any curve along the layers; adding a constant or scaling it changes nothing.
        layers: the layer of each entry, ascending from 0, the last one taken for L; None means 0, 1, …, L.

    Returns:
        NaN where the curve does not rise, or is not finite.

    Raises:
        WrongLayers: layers do not ascend from 0, or differ in number from the curve's.

    Example:
        >>> expected_depth(torch.tensor([0.0, 0.5, 1.0, 0.9, 1.0]))  # half at layer 1, half at layer 2, of 4
        tensor(0.3750, dtype=torch.float64)
    """
    return _area_above(envelope(gain.double()), _positions(gain, layers), guarded=True)


def published_expected_layer(score: Float[Tensor, "*batch layer"]) -> Float[Tensor, "*batch"]:
    """Tenney et al.'s expected layer as they computed it: in layers, no envelope, no guard. To compare with their table.

    Negative and beyond-the-model values come out where a score falls; `expected_depth` is what a verdict may use.
    """
    return _area_above(score.double(), _positions(score, None), guarded=False) * (score.shape[-1] - 1)


def half_gain(gain: Float[Tensor, "*batch layer"], layers: Sequence[int] | None = None) -> Float[Tensor, "*batch"]:
    """Relative depth by which half of the gain has arrived: the median to `expected_depth`'s mean, interpolated.

    What a layer adds is spread evenly over half a layer before and after it, as for the median of grouped data. So a curve
    that jumps at layer k has its half gain at k, as it has its expected depth; plain interpolation would say k - 1/2.

    Returns:
        NaN where the curve does not rise, or is not finite; at most 1.

    Raises:
        WrongLayers: as in `expected_depth`.
    """
    positions = _positions(gain, layers)
    top = envelope(gain.double())
    first, last = top[..., :1], top[..., -1:]
    half = (first + last) / 2
    after = (top >= half).double().argmax(dim=-1, keepdim=True).clamp(min=1)  # the first layer that has half of it
    low, high = top.gather(-1, after - 1), top.gather(-1, after)
    gap = positions[after] - positions[after - 1]
    share = (half - low) / (high - low)
    crossing = positions[after - 1] + gap * (share + 0.5)
    depth = (crossing / positions[-1]).clamp(max=1.0)
    return torch.where(last > first, depth, torch.nan)[..., 0]


def peak(curve: Float[Tensor, "*batch layer"], layers: Sequence[int] | None = None) -> Float[Tensor, "*batch"]:
    """Relative depth of the first layer at which the curve (selectivity, cost of erasure) is largest; NaN if not finite.

    Raises:
        WrongLayers: as in `expected_depth`.
    """
    positions = _positions(curve, layers)
    found = positions[curve.argmax(dim=-1)] / positions[-1]
    return torch.where(curve.isfinite().all(dim=-1), found, torch.nan)


def twin_share(gain: Float[Tensor, "*batch layer"], twin: Float[Tensor, "*batch layer"]) -> Float[Tensor, "*batch"]:
    """Share of the curve's rise that the random-initialisation twin's curve has too; a twin that only falls has none."""
    return total_gain(twin.double()) / total_gain(gain.double())


def too_little_gain(gain: Interval, least: float = LEAST_GAIN_BITS) -> str | None:
    """Why a curve with this total gain has no depth, or None. Read it on the curve as measured, the twin not taken off:
    a twin that decays with depth would lift a flat curve over the guard."""
    if gain.lo > least:  # False for NaN too
        return None
    return f"the curve rises by {_spelled(gain)} bits, not surely more than {least:g}: too little to say where"


def ends_lower(net: Interval) -> str | None:
    """Why a curve that surely ends no higher than it began has no depth, or None (task DPR of BERT-base: -0.9 F1)."""
    if net.hi > 0:
        return None
    return f"the last layer has no more than layer 0 ({_spelled(net)}): what was gained on the way is lost again"


def too_unselective(selectivity: Interval) -> str | None:
    """Why this probe may have memorised words (Hewitt & Liang 2019, arXiv:1909.03368), or None."""
    if selectivity.lo > 0:
        return None
    return (
        f"selectivity {_spelled(selectivity)} bits is not surely above 0: random labels of the same words fit as well"
    )


def twin_has_it(share: float, most: float = TWIN_SHARE) -> str | None:
    """Why the gain is not training's work, or None; a share that is no number is a reason too."""
    if share < most:
        return None
    return f"a never-trained twin has {share:.0%} of the gain (limit {most:.0%}): it comes with the architecture"


def labels_overlap(phi: float, most: float = LABEL_CORRELATION) -> str | None:
    """Why two labels are too much alike to be ordered, or None. phi: their correlation over the same words."""
    if abs(phi) <= most:
        return None
    return f"the labels of A and B correlate by {phi:.2f} (limit {most:g}): their curves are mostly one"


def _spelled(value: Interval) -> str:
    return f"{value.value:.3f} [{value.lo:.3f}, {value.hi:.3f}]"


def _positions(curve: Tensor, layers: Sequence[int] | None) -> Float[Tensor, "layer"]:
    numbers = list(range(curve.shape[-1])) if layers is None else list(layers)
    ascending = all(a < b for a, b in pairwise(numbers))
    if len(numbers) != curve.shape[-1] or len(numbers) < 2 or numbers[0] != 0 or not ascending:
        raise WrongLayers(
            f"layers {numbers} for a curve of {curve.shape[-1]} values: a depth needs one value for each layer, ascending "
            "from layer 0. Collect layer 0 and the last layer too."
        )
    return torch.tensor(numbers, dtype=torch.float64)


def _area_above(
    curve: Float[Tensor, "*batch layer"], positions: Float[Tensor, "layer"], guarded: bool
) -> Float[Tensor, "*batch"]:
    """Area between the curve's last value and the curve held until the next layer, in 0..1 of the way and of the rise."""
    rise = curve[..., -1] - curve[..., 0]
    area = (curve[..., -1:] - curve[..., :-1]) @ positions.diff() / positions[-1]
    return torch.where(rise > 0, area / rise, torch.nan) if guarded else area / rise
