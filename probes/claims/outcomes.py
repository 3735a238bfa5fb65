"""Names of verdicts, the thresholds behind them, and what one reading came to.

The names are those of the verdict table in every artefact, a closed set. Thresholds are reasoned, not tuned: each has
its reason beside it, and none depends on what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from probes.layers.problem import Untestable

STRONG, WEAK = "SUPPORTED-STRONG", "SUPPORTED-WEAK"
REVERSED, EQUIVALENT = "REFUTED-REVERSED", "REFUTED-EQUIVALENT"
FREQUENCY, INCONCLUSIVE = "FREQUENCY-EXPLAINED", "INCONCLUSIVE"
UNTESTABLE, UNPARSED = "UNTESTABLE", "UNPARSED"
VERDICTS = (STRONG, WEAK, REVERSED, EQUIVALENT, FREQUENCY, INCONCLUSIVE, UNTESTABLE, UNPARSED)

CORROBORATED, NOT_SHOWN, CONTRADICTED, NOT_TESTED = "CORROBORATED", "NOT SHOWN", "CONTRADICTED", "NOT TESTED"
CAUSAL = (CORROBORATED, NOT_SHOWN, CONTRADICTED, NOT_TESTED)

ALPHA = 0.05
SURE = 1 - ALPHA  # share of replicates that puts a depth inside a region, or (ALPHA) outside it
LEAST_COST = 0.01  # nats per word; what pinning a whole concept cost a small model was .012


def margin(n_layers: int) -> float:
    """The smallest difference in relative depth that matters: half a layer, and never below .05."""
    if n_layers < 1:
        raise Untestable(f"a model of {n_layers} blocks has no depth to compare. Use one with at least 1.")
    return max(0.05, 0.5 / n_layers)


@dataclass(frozen=True)
class ReadingVerdict:
    """What one reading says of one claim.

    Attributes:
        verdict: one of `VERDICTS`.
        reasons: plain sentences with the figures that decided; "method-dependent: …" first where methods disagree.
        n_needed: of the resampled unit, at which the present estimate would be decided; None where more would not help.
        p_holm: p-value after Holm over the claims of the entry, as it was given.
        sign: +1 if the 95 % interval lies on the claim's side and no other method contradicts, -1 on the other, else 0.
    """

    verdict: str
    reasons: tuple[str, ...]
    n_needed: int | None = None
    p_holm: float | None = None
    sign: int = 0

    @property
    def supports(self) -> bool:
        return self.verdict in (STRONG, WEAK)

    @property
    def refutes(self) -> bool:
        return self.verdict in (REVERSED, EQUIVALENT, FREQUENCY)


def relative_region(where: Mapping[str, Any], n_layers: int) -> tuple[float, float]:
    """A claim's region (`Region.to_json`) as relative depths, both ends included.

    A layer given by number reaches half a layer to either side: an expected depth of 3.4 layers is "at layer 3".

    Raises:
        Untestable: the model lacks such a layer, or the region is all of it, so that no measurement could refute it.
    """
    unit, first, last = where["unit"], float(where["first"]), where["last"]
    if unit == "depth":
        low, high = first, 1.0 if last is None else float(last)
    else:
        if unit == "top":
            begin, end = n_layers - first, n_layers - float(last or 0)
        else:
            begin, end = first, float(n_layers if last is None else last)
        if begin < 0 or end > n_layers or begin > end:
            raise Untestable(f"{where['text']}: this model has layers 0..{n_layers}. Name a layer in that range.")
        low, high = (begin - 0.5) / n_layers, (end + 0.5) / n_layers
    if low <= 0 and high >= 1:
        raise Untestable(f"{where['text']} is every layer of this model: no measurement could lie elsewhere.")
    return max(0.0, low), min(1.0, high)


def units_needed(units: int, halfwidth: float, distance: float) -> int | None:
    """n · (halfwidth / distance)², rounded up and above n: an interval shrinks with √n until it clears the target.

    None where no n that could be had would do: the estimate sits on its target, to a thousandth of its interval.
    """
    if halfwidth <= 0 or distance <= halfwidth / 1000:
        return None
    return max(units + 1, math.ceil(units * (halfwidth / distance) ** 2))


def said(value: float, low: float, high: float) -> str:
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"
