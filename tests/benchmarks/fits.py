"""How a cost grows with a size: power laws with their intervals. Numbers in, numbers out; nothing is measured here.

`power_law` is the straight line through the logarithms. Where a constant share of the cost would bend that line,
`beside_constant` takes it out first: cost = a + b·nᵏ. `drift` is for what should not grow at all.
"""

from collections.abc import Sequence
from typing import Any

import torch
from scipy import optimize, stats  # type: ignore[import-untyped]
from torch import Tensor

RESAMPLES = 200
LEAST_GROWTH = 0.1  # of the cost at the largest size; what grows by less has no exponent that could be told from noise


def power_law(sizes: Sequence[float], costs: Sequence[float]) -> dict[str, Any]:
    """The exponent of cost ~ sizeᵏ, by least squares on logarithms, with Student's 95 % interval of its residuals.

    Args:
        sizes, costs: positive, three or more of each.

    Example:
        `power_law([1, 10, 100], [2, 20, 200])["exponent"]` is 1.
    """
    x, y = (torch.tensor(values, dtype=torch.float64).log() for values in (sizes, costs))
    slope, half = _line(x, y)
    return {"exponent": round(slope, 3), "interval": [round(slope - half, 3), round(slope + half, 3)]}


def beside_constant(sizes: Sequence[float], repeats: Sequence[Sequence[float]]) -> dict[str, Any]:
    """cost = a + b·nᵏ with a, b ≥ 0, by least squares of relative errors, on the median of each size's repeats.

    Args:
        repeats: [size][repeat], costs. The interval of k is a bootstrap over repeats.

    Returns:
        `exponent` k with its `interval`, both None where the largest size costs about what the smallest does, and
        `constant_share`: a as a share of the cost at the smallest size.
    """
    n = torch.tensor(sizes, dtype=torch.float64)
    costs = torch.tensor(repeats, dtype=torch.float64)
    medians = costs.median(1).values
    if float(medians[0]) > (1 - LEAST_GROWTH) * float(medians[-1]):
        return {"exponent": None, "interval": None, "constant_share": 1.0}
    constant, exponent = _separated(n, medians)
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(RESAMPLES):
        picks = torch.randint(costs.shape[1], costs.shape, generator=generator)
        found.append(_separated(n, costs.gather(1, picks).median(1).values)[1])
    low, high = torch.tensor(found, dtype=torch.float64).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    return {
        "exponent": round(exponent, 3),
        "interval": [round(float(low), 3), round(float(high), 3)],
        "constant_share": round(constant / float(medians[0]), 3),
    }


def drift(steps: Sequence[float], values: Sequence[float]) -> dict[str, Any]:
    """How much a level moves from the first step to the last, by a straight line, as a share of its mean; with the spread.

    The interval is Student's, as if samples were independent; neighbours are not quite.
    """
    x, y = (torch.tensor(each, dtype=torch.float64) for each in (steps, values))
    slope, half = _line(x, y)
    scale = float(x[-1] - x[0]) / float(y.mean())
    return {
        "growth": round(slope * scale, 4),
        "interval": [round((slope - half) * scale, 4), round((slope + half) * scale, 4)],
        "spread": round(float((y.max() - y.min()) / y.mean()), 4),
        "n": len(values),
    }


def _line(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Slope of the least-squares line, and half of its 95 % interval."""
    found = stats.linregress(x.numpy(), y.numpy())
    return float(found.slope), float(stats.t.ppf(0.975, len(x) - 2) * found.stderr)


def _separated(n: Tensor, cost: Tensor) -> tuple[float, float]:
    """a and k of cost = a + b·nᵏ; for each k the best a and b are found in closed form."""
    scaled = n / n[-1]

    def parts(exponent: float) -> tuple[float, float]:
        design = torch.stack((torch.ones_like(n), scaled**exponent), dim=1) / cost[:, None]
        (a, _), error = optimize.nnls(design.numpy(), torch.ones_like(n).numpy())
        return float(a), float(error)

    best = optimize.minimize_scalar(lambda k: parts(k)[1], bounds=(0.05, 3.5), method="bounded")
    return parts(float(best.x))[0], float(best.x)
