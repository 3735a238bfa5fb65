"""One reading of one claim → a verdict: the rules, in the order in which they are tried.

For "A is reached at less depth than B", with Δ = depth of B less depth of A and δ = `margin` (half a layer, at least .05):

1. UNTESTABLE: the evidence says why it cannot decide, or a guard here does (`guards`).
2. FREQUENCY-EXPLAINED: unadjusted for word frequency Δ is above 0 (its 95 % interval), adjusted it is not, and the
   adjusted interval lies wholly below the unadjusted estimate: the adjustment took a real part of it away. Adjusted
   estimates of a mere frequency effect scatter around 0, so their sign alone would catch every second one.
3. SUPPORTED-STRONG: lower 95 % > δ, and the other statistics agree in sign. SUPPORTED-WEAK: lower 95 % > 0, Holm p < .05.
   REFUTED-REVERSED: the mirror image of either, so that claim and reversal can never both be supported.
   REFUTED-EQUIVALENT: the 90 % interval lies inside ±δ (two one-sided tests at 5 %).
4. INCONCLUSIVE otherwise, with the n at which this estimate would be decided: n · (halfwidth / |Δ − target|)², for the
   nearer of two targets, 0 (95 % interval) and ±δ (90 % interval).
5. Methods must agree. A verdict with a direction falls to INCONCLUSIVE, "method-dependent", when the point estimate of
   any variant (lens, statistic, half n, unadjusted) has the other sign, however wide its interval: at the edge of
   significance this costs at most one true finding in twelve (a variant with half the words has √2 the noise, P(z > 1.39)
   = .08), at |z| = 4 one in 400. Without the twin more is asked, the interval must stay on its side: a verdict that only the
   subtraction makes is none. Around 0 signs are noise, so REFUTED-EQUIVALENT falls only to a variant that is sure of a
   difference of δ or more, and FREQUENCY-EXPLAINED only to one that is sure of the claim.

Evidence that was made for the claim with A and B swapped is turned round. A negated claim ("not lower") is judged by the
mirror: what supports the positive refutes it, reversed or equivalent supports it. "At the same depth" is supported by
equivalence (Holm p of the two one-sided tests < .05) and refuted by a difference of either sign.
"""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

from lab.errors import LabError
from probes.claims import outcomes as names
from probes.claims.costs import cost_p_value, judge_cost
from probes.claims.grammar import Claim
from probes.claims.guards import WrongEvidence, guards, oriented
from probes.claims.outcomes import ALPHA, SURE, ReadingVerdict, margin, relative_region, said, units_needed
from probes.layers.evidence import Difference, Evidence
from probes.layers.problem import Untestable

UNADJUSTED = ("unadjusted", "raw")  # names of the variant without the adjustment for frequency (decide)
WITHOUT_TWIN = "without twin"
_NORMAL = NormalDist()


def judge(evidence: Evidence, claim: Claim, n_layers: int, p_holm: float | None = None) -> ReadingVerdict:
    """What one reading says of a claim about order, place or use.

    Args:
        evidence: made for the claim's subjects, in either order.
        claim: PARSED, of kind depth_order, band or causal.
        n_layers: L of the model, whose layers are 0..L.
        p_holm: `p_value` after Holm over the entry's claims; None = the claim stands alone, so `p_value` itself counts.

    Raises:
        WrongEvidence: other subjects than the claim's, or a kind that is judged from a series of checkpoints.
    """
    if claim.status != "PARSED" or claim.kind not in ("depth_order", "band", "causal"):
        raise WrongEvidence(
            f"claim {claim.id}: {claim.kind or claim.status} is not judged from one checkpoint. Use verdict.conclude, "
            "with series.judge_series for emergence and stability."
        )
    if p_holm is not None and not 0 <= p_holm <= 1:
        raise LabError(f"claim {claim.id}: p_holm = {p_holm}. A p-value lies in 0..1.")
    try:
        delta = margin(n_layers)
        evidence = oriented(evidence, claim)
        if reasons := guards(evidence, claim):
            return ReadingVerdict(names.UNTESTABLE, reasons, None, p_holm)
        p = p_value(evidence, claim, n_layers) if p_holm is None else p_holm
        if claim.kind == "causal":
            found = judge_cost(evidence, claim, n_layers, p)
        elif claim.kind == "band":
            found = _band(evidence, claim, n_layers, p)
        elif claim.relation == "same":
            found = _same(evidence, claim, delta, p)
        else:
            found = _order(evidence, claim, delta, p)
    except Untestable as reason:
        return ReadingVerdict(names.UNTESTABLE, (str(reason),), None, p_holm)
    return replace(found, p_holm=p_holm)


def p_value(evidence: Evidence, claim: Claim, n_layers: int) -> float | None:
    """The p-value that goes into Holm; None where the reading cannot decide.

    Order: two-sided, of no difference. "Same": of two one-sided tests, below .05 exactly where the 90 % interval is inside
    ±δ. Band: share of replicates outside the region (inside, if negated). Use: two-sided, of no cost.
    """
    try:
        delta = margin(n_layers)
        evidence = oriented(evidence, claim)
        if guards(evidence, claim):
            return None
        if claim.kind == "causal":
            return cost_p_value(evidence, claim, n_layers)
        if claim.kind == "band":
            inside = float(evidence.p_in_region or 0.0)
            outside = inside if claim.polarity == "negative" else 1 - inside
            return max(round(outside, 12), 1 / (int(evidence.settings.get("replicates", 2000)) + 1))
    except Untestable:
        return None
    found = _delta(evidence)
    if claim.relation != "same" or claim.polarity == "negative":
        return found.p
    return _equivalence_p(found, delta)


def _order(evidence: Evidence, claim: Claim, delta: float, p: float | None) -> ReadingVerdict:
    found, reasons = _delta(evidence), [_told(_delta(evidence), delta)]
    verdict = _table(evidence, delta, p)
    negative = claim.polarity == "negative"
    raw = next((v for v in evidence.variants if v.name in UNADJUSTED), None)
    if not negative and raw and raw.lo > 0 and not found.lo > 0 and found.hi < raw.value:
        verdict = names.FREQUENCY
        reasons.insert(0, f"unadjusted {said(raw.value, raw.lo, raw.hi)}, gone after adjusting for word frequency")
    needed = None
    if verdict == names.INCONCLUSIVE:
        needed, why = _more(found, delta, p)
        reasons.append(why)
    elif verdict == names.WEAK:
        reasons.append(_why_weak(evidence, delta))
    sign = 1 if found.lo > 0 else -1 if found.hi < 0 else 0
    if conflict := _method_dependent(evidence, verdict, delta):
        verdict, needed, sign, reasons = names.INCONCLUSIVE, None, 0, [conflict, *reasons]
    if negative:
        verdict, sign = _negated(evidence, verdict, delta), -sign
        reasons.append("the claim is a denial, so it is judged by the mirror of what it denies")
    return ReadingVerdict(verdict, tuple(reasons), needed, sign=sign)


def _table(evidence: Evidence, delta: float, p: float | None) -> str:
    found = _delta(evidence)
    clear = p is None or p < ALPHA
    if found.lo > delta and _agree(evidence, +1):
        return names.STRONG
    if found.lo > 0 and clear:
        return names.WEAK
    if (found.hi < 0 and clear) or (found.hi < -delta and _agree(evidence, -1)):
        return names.REVERSED
    if -delta < found.lo90 and found.hi90 < delta:
        return names.EQUIVALENT
    return names.INCONCLUSIVE


def _agree(evidence: Evidence, sign: int) -> bool:
    """Half-gain and peak on the same side as Δ (use has a peak only), and in decide the other methods."""
    others = _others(evidence)
    if evidence.reading == "decode" and len(others) < _statistics(evidence):
        return False
    others += [v.value for v in evidence.variants if evidence.reading == "decide" and v.name not in UNADJUSTED]
    return bool(others) and all(sign * other > 0 for other in others)


def _statistics(evidence: Evidence) -> int:
    """How many of half-gain and peak a side has: decode both, decide has no peak and use no half-gain."""
    return 2 if evidence.reading == "decode" else 1


def _others(evidence: Evidence) -> list[float]:
    """B less A by half-gain and by peak, as far as both subjects have them."""
    a, b = evidence.a, evidence.b
    pairs = [(a.half_gain, b.half_gain), (a.peak, b.peak)] if b else []
    return [high - low for low, high in pairs if low is not None and high is not None]


def _method_dependent(evidence: Evidence, verdict: str, delta: float) -> str | None:
    found = _delta(evidence)
    if verdict in (names.STRONG, names.WEAK, names.REVERSED):
        side = 1 if verdict != names.REVERSED else -1
        against = [v for v in evidence.variants if side * v.value < 0]
        lost = [v for v in evidence.variants if v.name == WITHOUT_TWIN and not min(side * v.lo, side * v.hi) > 0]
        if lost and not against:
            told = said(lost[0].value, lost[0].lo, lost[0].hi)
            return f"method-dependent: only subtracting the twin makes the difference, without it {told}"
    elif verdict == names.EQUIVALENT:
        against = [v for v in evidence.variants if (v.lo > 0 or v.hi < 0) and abs(v.value) >= delta]
        against = [v for v in against if v.name not in UNADJUSTED]
    elif verdict == names.FREQUENCY:
        against = [v for v in evidence.variants if v.lo > 0 and v.name not in UNADJUSTED]
    else:
        against = [v for v in evidence.variants if v.value * found.value < 0 and (v.lo > 0 or v.hi < 0)]
    if not against:
        return None
    each = "; ".join(f"{v.name} {said(v.value, v.lo, v.hi)}" for v in evidence.variants)
    return f"method-dependent: the main estimate says {said(found.value, found.lo, found.hi)}; {each}"


def _negated(evidence: Evidence, verdict: str, delta: float) -> str:
    """ "Not lower": reversed or equivalent supports it; only a clear reversal does so strongly."""
    if verdict in (names.STRONG, names.WEAK):
        return names.REVERSED
    if verdict == names.REVERSED:
        return names.STRONG if _delta(evidence).hi < -delta and _agree(evidence, -1) else names.WEAK
    return names.WEAK if verdict == names.EQUIVALENT else verdict


def _same(evidence: Evidence, claim: Claim, delta: float, p: float | None) -> ReadingVerdict:
    """ "At the same depth" (polarity negative: at different ones)."""
    found = _delta(evidence)
    inside, clear = _inside(found, delta), p is None or p < ALPHA
    differs = not inside and (found.lo > 0 or found.hi < 0)
    reasons = [_told(found, delta)]
    verdict = names.EQUIVALENT if inside else names.INCONCLUSIVE
    if differs:
        verdict = names.STRONG if found.lo > 0 else names.REVERSED
    conflict = _method_dependent(evidence, verdict, delta)
    if conflict:
        verdict, reasons = names.INCONCLUSIVE, [conflict, *reasons]
    elif claim.polarity == "negative":
        beyond = found.lo > delta or found.hi < -delta
        if differs:
            verdict = names.STRONG if beyond else names.WEAK if clear else names.INCONCLUSIVE
    elif inside and clear:
        others = _others(evidence)
        close = len(others) >= _statistics(evidence) and all(abs(other) < delta for other in others)
        verdict = names.STRONG if close else names.WEAK
    elif inside:
        verdict = names.INCONCLUSIVE
    elif differs:
        verdict = names.REVERSED
    needed = None
    if verdict == names.INCONCLUSIVE and not conflict:
        needed, why = _more_alike(found, delta, p) if inside else _more(found, delta, p if differs else None)
        reasons.append(why)
    holds = verdict in (names.STRONG, names.WEAK)
    return ReadingVerdict(
        verdict, tuple(reasons), needed, sign=0 if verdict == names.INCONCLUSIVE else 1 if holds else -1
    )


def _inside(found: Difference, delta: float) -> bool:
    return -delta < found.lo90 and found.hi90 < delta


def _equivalence_p(found: Difference, delta: float) -> float:
    """The larger p of the two one-sided tests against ±δ, each by the half of the 90 % interval that faces its bound.

    So it is below .05 exactly where the interval is inside ±δ, also where the bootstrap's interval is skewed.
    """
    sides = ((delta - found.value, found.hi90 - found.value), (delta + found.value, found.value - found.lo90))
    p = max(_NORMAL.cdf(-_NORMAL.inv_cdf(SURE) * away / half) if half > 0 else float(away <= 0) for away, half in sides)
    if _inside(found, delta):
        return min(p, math.nextafter(ALPHA, 0))
    return max(p, math.nextafter(ALPHA, 1))


def _band(evidence: Evidence, claim: Claim, n_layers: int, p: float | None) -> ReadingVerdict:
    """A's depth is in a region: 95 % of replicates in it, or out of it; strongly if its half-gain and peak are there too."""
    if claim.where is None:
        raise Untestable("the claim names no layers")
    low, high = relative_region(claim.where, n_layers)
    inside = float(evidence.p_in_region if evidence.p_in_region is not None else math.nan)
    share = round(1 - inside, 12) if claim.polarity == "negative" else inside
    depth = evidence.a.depth
    reasons = [
        f"{inside:.1%} of replicates put {evidence.a.subject} into depth {low:.2f}..{high:.2f}"
        + (f"; its depth is {depth.value:.3f} [{depth.lo:.3f}, {depth.hi:.3f}]" if depth else "")
    ]
    needed, verdict = None, names.INCONCLUSIVE
    if share >= SURE and (p is None or p <= ALPHA):
        others = [other for other in (evidence.a.half_gain, evidence.a.peak) if other is not None]
        there = all((low <= other <= high) != (claim.polarity == "negative") for other in others)
        verdict = names.STRONG if there and len(others) >= _statistics(evidence) else names.WEAK
    elif share <= ALPHA:
        verdict = names.REVERSED
    elif depth:
        edge = min(abs(depth.value - bound) for bound in (low, high) if 0 < bound < 1)
        needed = units_needed(max(1, evidence.a.sentences), (depth.hi - depth.lo) / 2, edge)
        reasons.append(f"target: the nearer edge of the region, {edge:.3f} away; n counts sentences")
    return ReadingVerdict(verdict, tuple(reasons), needed, sign=1 if share >= SURE else -1 if share <= ALPHA else 0)


def _delta(evidence: Evidence) -> Difference:
    if evidence.delta is None:
        raise Untestable("the evidence holds no difference of depths")
    return evidence.delta


def _told(found: Difference, delta: float) -> str:
    return (
        f"difference of depth {said(found.value, found.lo, found.hi)} over {found.units} {found.unit}s; δ = {delta:.3f}"
    )


def _why_weak(evidence: Evidence, delta: float) -> str:
    found = _delta(evidence)
    if found.hi90 < delta:
        return "the difference is real but smaller than δ, too small to matter"
    if found.lo <= delta:
        return "the lower end of the interval is not above δ"
    return "half-gain, peak or another method does not agree in sign"


def _more(found: Difference, delta: float, p: float | None) -> tuple[int | None, str]:
    """The n at which this estimate would be decided, and the target it was reckoned for."""
    half95, half90, size = (found.hi - found.lo) / 2, (found.hi90 - found.lo90) / 2, abs(found.value)
    if p is not None and p >= ALPHA and 0 < found.p < p:  # Holm multiplied p: the interval has to shrink by more
        half95 *= _NORMAL.inv_cdf(1 - ALPHA * found.p / p / 2) / _NORMAL.inv_cdf(1 - ALPHA / 2)
    options = [
        (units_needed(found.units, half95, size), "0 (95 % interval on one side)"),
        (units_needed(found.units, half90, delta - size), "±δ (90 % interval inside)"),
    ]
    found_any = [(needed, target) for needed, target in options if needed is not None]
    if not found_any:
        return None, "no n can be given: the interval has no width or the estimate sits on its target"
    needed, target = min(found_any)
    return needed, f"{needed} {found.unit}s would decide this estimate; target {target}"


def _more_alike(found: Difference, delta: float, p: float | None) -> tuple[int | None, str]:
    """The n at which an interval that is inside ±δ would be so after Holm as well."""
    alone, share = _equivalence_p(found, delta), 1.0
    if p is not None and 0 < alone < p:
        share = alone / p
    half = max(found.hi90 - found.value, found.value - found.lo90)
    half *= _NORMAL.inv_cdf(1 - ALPHA * share) / _NORMAL.inv_cdf(1 - ALPHA)
    needed = units_needed(found.units, half, delta - abs(found.value))
    why = "the 90 % interval is inside ±δ, but not after Holm over the entry's claims"
    return needed, f"{why}; {needed} {found.unit}s would decide it" if needed is not None else why


__all__ = ["UNADJUSTED", "WITHOUT_TWIN", "judge", "p_value"]
