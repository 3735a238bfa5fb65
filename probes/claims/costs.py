"""What erasing a subject costs → a verdict on a claim of use ("the model relies on A at the top", "erasing A hurts B").

The cost is the excess of erasing A over erasing random subspaces of equal rank and removed variance, in nats per word.
Where a region is named, its layers count together: the mean of the costs there, with the mean of the interval ends, which
is never narrower than the interval of the mean (costs of neighbouring layers rise and fall together at most).
"""

from __future__ import annotations

from statistics import NormalDist

from probes.claims import outcomes as names
from probes.claims.grammar import Claim
from probes.claims.outcomes import ALPHA, LEAST_COST, ReadingVerdict, relative_region, said, units_needed
from probes.layers.evidence import Evidence, Interval
from probes.layers.problem import Untestable

_NORMAL = NormalDist()


def region_cost(evidence: Evidence, claim: Claim, n_layers: int) -> tuple[Interval, tuple[int, ...]]:
    """Mean cost in the claim's region and the layers that were erased there; without a region, over all that were.

    Raises:
        Untestable: nothing was erased there, or what was measured is not what the claim says is hurt.
    """
    if evidence.reading != "use":
        raise Untestable(f"a claim of use needs the cost of erasure, and this is the {evidence.reading} reading")
    measured = evidence.settings.get("cost_on", claim.a)
    if measured != (claim.b or claim.a):
        raise Untestable(f"the cost was measured on {measured}, the claim is about the cost for {claim.b or claim.a}")
    if evidence.a.curve is None:
        raise Untestable("the evidence holds no cost by layer")
    low, high = 0.0, 1.0
    if claim.where is not None and not _whole(claim):
        low, high = relative_region(claim.where, n_layers)
    curve = evidence.a.curve
    at = [i for i, layer in enumerate(curve.layers) if low <= layer / n_layers <= high]
    if not at:
        raise Untestable(f"no layer of depth {low:.2f}..{high:.2f} was erased; {list(curve.layers)} were")
    value, lo, hi = (sum(float(part[i]) for i in at) / len(at) for part in (curve.value, curve.lo, curve.hi))
    if not lo <= value <= hi:  # also where one is NaN
        raise Untestable("the cost of erasure is not a finite interval")
    return Interval(value, lo, hi), tuple(curve.layers[i] for i in at)


def judge_cost(evidence: Evidence, claim: Claim, n_layers: int, p: float | None) -> ReadingVerdict:
    """STRONG: every layer of the region costs. WEAK: their mean does. EQUIVALENT: the mean is within ±.01 nats."""
    cost, layers = region_cost(evidence, claim, n_layers)
    curve = evidence.a.curve
    assert curve is not None  # region_cost refused it
    every = all(curve.lo[curve.layers.index(layer)] > 0 for layer in layers)
    clear = p is None or p < ALPHA
    reasons = [f"erasing {claim.a} at {len(layers)} layers costs {said(cost.value, cost.lo, cost.hi)} nats a word"]
    needed = None
    if cost.lo > 0 and clear:
        verdict = names.STRONG if every and cost.lo > LEAST_COST else names.WEAK
    elif cost.hi < 0 and clear:
        verdict = names.REVERSED
        reasons.append("without it the model predicts better")
    elif cost.lo > -LEAST_COST and cost.hi < LEAST_COST:
        verdict = names.EQUIVALENT
        reasons.append(f"a cost below {LEAST_COST} nats counts as none")
    else:
        verdict = names.INCONCLUSIVE
        needed = units_needed(max(1, evidence.a.sentences), (cost.hi - cost.lo) / 2, abs(cost.value))
        reasons.append("target: a cost of 0; n counts sentences")
    sign = 1 if cost.lo > 0 else -1 if cost.hi < 0 or verdict == names.EQUIVALENT else 0
    if claim.polarity == "negative":
        mirrored = {names.STRONG: names.REVERSED, names.WEAK: names.REVERSED, names.REVERSED: names.WEAK}
        verdict = {**mirrored, names.EQUIVALENT: names.STRONG}.get(verdict, verdict)
        sign = -sign
    return ReadingVerdict(verdict, tuple(reasons), needed, sign=sign)


def cost_p_value(evidence: Evidence, claim: Claim, n_layers: int) -> float:
    """Two-sided, of no cost, by the normal that the 95 % interval stands for."""
    cost, _ = region_cost(evidence, claim, n_layers)
    error = (cost.hi - cost.lo) / (2 * _NORMAL.inv_cdf(1 - ALPHA / 2))
    return 2 * _NORMAL.cdf(-abs(cost.value) / error) if error > 0 else float(cost.value == 0)


def _whole(claim: Claim) -> bool:
    """ "At every layer" is a place where erasure costs or does not, unlike a place where a depth could lie."""
    where = claim.where or {}
    return where.get("unit") == "depth" and where.get("first") == 0 and where.get("last") == 1
