"""Uncertainty of readings: bootstrap over sentences or documents, equivalence, many claims at once, many seeds.

Words of one sentence are not independent, nor are sentences of one document, so whole units are drawn, with replacement.
One matrix of how often each sentence was drawn serves every layer, every task and the twin: their differences are paired.

Two kinds of replicates. "fixed": the out-of-fold losses are weighed anew and the probes stay (`replicate_means`); their
percentiles are the interval. "refit": the probes are fitted again in every replicate (`refit.refit_bits`), which a few
hundred sentences need, since other sentences would have fitted other probes. A refit draw holds 63 % of the sentences,
so its probes are worse than the real ones by about as much as these are worse than perfect: such replicates tell a
standard error, not a level, and the interval is the value plus or minus that. 200 are enough for it (Efron & Tibshirani
1993, ch. 6), where percentiles would need thousands. `unbiased` moves a curve and its replicates back by that loss first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.errors import LabError
from probes.layers.evidence import Difference, Interval

REPLICATES = 2000
REFIT_REPLICATES = 200
ENOUGH_UNITS = 400  # below this, refit
FEWEST_SEEDS = 5  # a claim about a recipe, not about one run (Sellam et al. 2021 used 25)
_UNDEFINED = 0.05  # share of replicates that may have no depth (no gain) before an interval would be of something else

Method = Literal["fixed", "refit"]
_NORMAL = NormalDist()


class NoInterval(LabError):
    """The replicates do not define an interval; the message says why."""


@dataclass(frozen=True)
class Intervals:
    """Bits per word with an interval, by layer."""

    value: Float[Tensor, "layer"]
    low: Float[Tensor, "layer"]
    high: Float[Tensor, "layer"]


def bootstrap_weights(
    sentences: int, replicates: int = REPLICATES, seed: int = 0, units: Int[Tensor, "sentence"] | None = None
) -> Float[Tensor, "replicate sentence"]:
    """How often each sentence is drawn in each replicate. The same seed, the same draw.

    Args:
        units: per sentence, any number that names its unit (its document): units are drawn whole, so sentences of one unit
            have equal columns. None = every sentence is a unit, and every row sums to `sentences`.

    Raises:
        LabError: fewer than 2 units or 1 replicate, or not one unit per sentence.
    """
    if units is not None and len(units) != sentences:
        raise LabError(f"bootstrap: {len(units)} unit numbers for {sentences} sentences. Give one for each sentence.")
    unit = torch.arange(sentences) if units is None else torch.unique(units, return_inverse=True)[1]
    count = int(unit.max()) + 1 if sentences else 0
    if count < 2 or replicates < 1:
        of = "sentences" if units is None else "documents"
        raise LabError(f"bootstrap: {count} {of} and {replicates} replicates. Use at least 2 and 1.")
    generator = torch.Generator().manual_seed(seed % 2**63)
    drawn = torch.randint(count, (replicates, count), generator=generator)
    weights = torch.zeros(replicates, count)
    return weights.scatter_add_(1, drawn, torch.ones_like(drawn, dtype=torch.float32))[:, unit]


def replicate_means(
    gain: Float[Tensor, "*layer sentence"],
    words: Int[Tensor, "sentence"],
    weights: Float[Tensor, "replicate sentence"],
) -> Float[Tensor, "replicate *layer"]:
    """Bits per word in each replicate: a ratio of sums, since sentences differ in length. NaN where no word was drawn."""
    wide = weights.double()
    total = wide @ words.double()
    return (wide @ gain.double().reshape(-1, gain.shape[-1]).T / total[:, None]).reshape(len(weights), *gain.shape[:-1])


def sentence_intervals(
    gain: Float[Tensor, "layer sentence"],
    words: Int[Tensor, "sentence"],
    weights: Float[Tensor, "replicate sentence"],
    level: float = 0.95,
) -> Intervals:
    """Percentile intervals of the bits per word at each layer, the probes fixed.

    Args:
        gain: bits summed over the words of each sentence (`Decoding.gain`).
        words: words per sentence; 0 is allowed.
        weights: from `bootstrap_weights`, shared by all that is to be compared.

    Raises:
        LabError: gain, words and weights speak of different numbers of sentences, or there is no word.
    """
    if not gain.shape[-1] == len(words) == weights.shape[1] or int(words.sum()) == 0:
        raise LabError(
            f"bootstrap: gains of {gain.shape[-1]} sentences, word counts of {len(words)}, weights of "
            f"{weights.shape[1]}, {int(words.sum())} words. All three must come from one probe set with labelled words."
        )
    means = replicate_means(gain, words, weights)
    means = means[means.isfinite().all(dim=1)]
    tail = (1 - level) / 2
    low, high = torch.quantile(means, torch.tensor([tail, 1 - tail], dtype=means.dtype), dim=0)
    return Intervals(gain.double().sum(-1) / words.sum(), low, high)


def unbiased(
    value: Float[Tensor, "layer"], refit: Float[Tensor, "replicate layer"]
) -> tuple[Float[Tensor, "layer"], Float[Tensor, "replicate layer"]]:
    """A curve and its refit replicates with what the probes lost to a finite training set given back, to first order.

    A draw of sentences doubles the variance of whatever is fitted, so replicates lose once more what the real probes lost:
    the value less the replicates' mean estimates either. Depth depends on n through this loss (weak layers lose the
    larger share of their bits). A depth of the curve is then the depth of both results.

    Example:
        >>> unbiased(torch.tensor([0.5]), torch.tensor([[0.40], [0.50]]))  # lost .05 twice
        (tensor([0.5500], dtype=torch.float64), tensor([[0.5000],
                [0.6000]], dtype=torch.float64))
    """
    loss = value.double() - refit.double().nanmean(dim=0)
    return value.double() + loss, refit.double() + 2 * loss


def interval(
    value: float, samples: Float[Tensor, "replicate"], level: float = 0.95, method: Method = "fixed"
) -> Interval:
    """Interval of one number (a depth, a gain, a selectivity) from its bootstrap replicates.

    Args:
        value: the number on all the data.
        samples: the number in each replicate; their percentiles count if "fixed", their spread if "refit".

    Raises:
        NoInterval: the value or more than 5 % of the replicates are undefined (a depth where nothing was gained).
    """
    low, high = _bounds(float(value), _usable(value, samples), level, method)
    return Interval(float(value), low, high)


def difference(value: float, samples: Float[Tensor, "replicate"], unit: str, units: int, method: Method) -> Difference:
    """A paired difference with 95 % and 90 % intervals and its two-sided p-value, all from the same replicates.

    p < .05 says what the 95 % interval says. "fixed": twice the smaller share of replicates on one side of 0, one added
    above and below the line, so that it is never 0. "refit": of a normal with the replicates' standard error.

    Args:
        value: depth of B less depth of A on all the data.
        samples: the same in each replicate, both depths from one draw.
        unit: what was drawn ("document", "sentence"); units: how many there were.

    Raises:
        NoInterval: as in `interval`.
    """
    usable = _usable(value, samples)
    low, high = _bounds(float(value), usable, 0.95, method)
    low90, high90 = _bounds(float(value), usable, 0.90, method)
    return Difference(
        value=float(value),
        lo=low,
        hi=high,
        lo90=low90,
        hi90=high90,
        p=_two_sided(float(value), usable, method),
        unit=unit,
        units=units,
        replicates=len(usable),
        method=method,
    )


def tost(found: Difference, margin: float) -> bool:
    """Whether the difference is surely smaller than the margin either way: two one-sided tests at 5 %.

    Raises:
        LabError: the margin is not positive.
    """
    if not margin > 0:
        raise LabError(f"equivalence margin {margin:g}: it must be positive. Use max(0.05, 0.5 / layers).")
    return -margin < found.lo90 and found.hi90 < margin


def holm(p: Sequence[float]) -> tuple[float, ...]:
    """p-values adjusted for the family they are (the claims of one entry), in their order; any dependence (Holm 1979).

    >>> holm([0.01, 0.04, 0.03])
    (0.03, 0.06, 0.06)

    Raises:
        LabError: a p-value is not in 0..1.
    """
    order = _ascending(p)
    adjusted, most = [0.0] * len(p), 0.0
    for rank, index in enumerate(order):
        most = max(most, min(1.0, (len(p) - rank) * p[index]))
        adjusted[index] = most
    return tuple(adjusted)


def benjamini_hochberg(p: Sequence[float]) -> tuple[float, ...]:
    """p-values adjusted to bound the share of false discoveries (all claims of a run), in their order.

    >>> benjamini_hochberg([0.01, 0.04, 0.03, 0.5])
    (0.04, 0.05333333333333334, 0.05333333333333334, 0.5)

    Raises:
        LabError: a p-value is not in 0..1.
    """
    order = _ascending(p)
    adjusted, least = [0.0] * len(p), 1.0
    for rank, index in reversed(list(enumerate(order, start=1))):
        least = min(least, p[index] * (len(p) / rank))  # the ratio first: it is 1 exactly for the largest
        adjusted[index] = least
    return tuple(adjusted)


def multi_bootstrap(samples: Float[Tensor, "run replicate"], seed: int = 0) -> Float[Tensor, "replicate"]:
    """Replicates of the mean over runs of one recipe: runs drawn anew and sentences drawn anew in each (the
    Multi-Bootstrap of Sellam et al. 2021, arXiv:2106.16163). Intervals then speak of the recipe, not of these runs.

    A draw of R runs from R understates their spread by (R - 1) / R, a fifth at 5 runs; deviations of the drawn runs' mean
    are widened by the root of its inverse.

    Args:
        samples: the statistic of each run in each replicate, every run on the same draw of the same sentences.

    Raises:
        NoInterval: fewer than 5 runs.
    """
    runs, replicates = samples.shape
    if runs < FEWEST_SEEDS:
        raise NoInterval(
            f"{runs} runs: a claim about the recipe needs at least {FEWEST_SEEDS}, trained with other seeds."
        )
    generator = torch.Generator().manual_seed(seed % 2**63)
    drawn = torch.randint(runs, (runs, replicates), generator=generator)
    every = samples.double().mean(0)
    return every + math.sqrt(runs / (runs - 1)) * (samples.double().gather(0, drawn).mean(0) - every)


def _usable(value: float, samples: Tensor) -> Float[Tensor, "replicate"]:
    finite: Tensor = samples.double()[samples.isfinite()]
    lost = (len(samples) - len(finite)) / len(samples) if len(samples) else 1.0
    if not math.isfinite(value) or lost > _UNDEFINED or len(finite) < 2:
        raise NoInterval(
            f"undefined in {lost:.0%} of {len(samples)} replicates{'' if math.isfinite(value) else ' and on all the data'}: "
            "where nothing is gained there is no depth. Look at the gain first."
        )
    return finite


def _bounds(value: float, samples: Float[Tensor, "replicate"], level: float, method: Method) -> tuple[float, float]:
    tail = (1 - level) / 2
    if method == "refit":
        half = _NORMAL.inv_cdf(1 - tail) * _standard_error(samples)
        return value - half, value + half
    low, high = torch.quantile(samples, torch.tensor([tail, 1 - tail], dtype=samples.dtype)).tolist()
    return low, high


def _two_sided(value: float, samples: Float[Tensor, "replicate"], method: Method) -> float:
    least = 1 / (len(samples) + 1)
    if method == "refit":
        error = _standard_error(samples)
        return max(least, 2 * _NORMAL.cdf(-abs(value) / error)) if error > 0 else (1.0 if value == 0 else least)
    below, above = int((samples <= 0).sum()), int((samples >= 0).sum())
    return min(1.0, 2 * (min(below, above) + 1) / (len(samples) + 1))


def _standard_error(samples: Float[Tensor, "replicate"]) -> float:
    """Their standard deviation, widened for being estimated: Student's 97.5 % point over the normal's, to first order."""
    return float(samples.std()) * (1 + (1.96**2 + 1) / (4 * (len(samples) - 1)))


def _ascending(p: Sequence[float]) -> list[int]:
    wrong = [one for one in p if not 0 <= one <= 1]
    if wrong:
        raise LabError(f"p-value {wrong[0]}: it must lie in 0..1.")
    return sorted(range(len(p)), key=lambda index: p[index])
