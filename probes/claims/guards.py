"""Whether evidence fits a claim at all: the same subjects, in the claim's order, and able to decide.

What the instruments found wrong is in `Evidence.untestable`. Here they are checked again where the figures are at hand, so
that no verdict can rest on an instrument that forgot a guard.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from lab.errors import LabError
from probes.claims.grammar import Claim
from probes.layers import depth
from probes.layers.evidence import Difference, Evidence, Variant


class WrongEvidence(LabError):
    """Evidence that was made for another claim."""


def oriented(evidence: Evidence, claim: Claim) -> Evidence:
    """The evidence with A and B as the claim has them."""
    a, b = evidence.a.subject, evidence.b.subject if evidence.b else None
    if claim.kind != "depth_order":
        if a != claim.a:
            raise WrongEvidence(
                f"claim {claim.id} is about {claim.a!r}, the evidence about {a!r}. Measure {claim.a!r}."
            )
        return evidence
    if (a, b) == (claim.a, claim.b):
        return evidence
    if (b, a) != (claim.a, claim.b) or evidence.b is None:
        raise WrongEvidence(
            f"claim {claim.id} compares {claim.a!r} with {claim.b!r}, the evidence {a!r} with {b!r}. Measure the former."
        )
    delta = evidence.delta and replace(
        evidence.delta, value=-evidence.delta.value, lo=-evidence.delta.hi, hi=-evidence.delta.lo,
        lo90=-evidence.delta.hi90, hi90=-evidence.delta.lo90,
    )  # fmt: skip
    variants = tuple(replace(v, value=-v.value, lo=-v.hi, hi=-v.lo) for v in evidence.variants)
    return replace(evidence, a=evidence.b, b=evidence.a, delta=delta, variants=variants)


def guards(evidence: Evidence, claim: Claim) -> tuple[str, ...]:
    """Why this reading cannot decide; empty if it can. What the evidence says itself comes first."""
    # A claim of use asks what erasure costs, which a curve shows; "no depth, for it costs nothing" is then an answer.
    costs_known = claim.kind == "causal" and evidence.a.curve is not None
    reasons = [] if costs_known else list(evidence.untestable)
    sides = [evidence.a] + ([evidence.b] if evidence.b else [])
    targets = {side.label.rsplit(".", 1)[-1] for side in sides} & {"current", "next"}
    if len(targets) > 1:
        reasons.append("one subject is read of the current word and the other of the next: predicting is deeper anyway")
    for side in sides:
        if side.label.endswith(".raw"):
            reasons.append(f"{side.subject}: lexical, the word itself tells its label, so layer 0 already has it")
        if evidence.reading == "decode" and not evidence.untestable:
            if side.gain is not None and not side.gain.lo > depth.LEAST_GAIN_BITS:
                reasons.append(f"{side.subject}: the gain may be as small as {side.gain.lo:.3f} bit, .02 is the least")
            if side.selectivity is not None and not side.selectivity.lo > 0:
                reasons.append(f"{side.subject}: a probe learns arbitrary labels as well (selectivity not above 0)")
            if side.twin_share is not None and not side.twin_share < depth.TWIN_SHARE:
                reasons.append(f"{side.subject}: a never-trained twin has {side.twin_share:.0%} of the gain")
    if not reasons and claim.kind == "depth_order":
        reasons += _unusable(evidence.delta, evidence.variants)
    if not reasons and claim.kind == "band":
        inside = evidence.p_in_region
        if inside is None or not 0 <= inside <= 1:
            reasons.append("the evidence does not say how often the depth lies in the region claimed")
    return tuple(reasons)


def _unusable(delta: Difference | None, variants: Sequence[Variant]) -> list[str]:
    if delta is None:
        return ["the evidence holds no difference of depths"]
    figures = (delta.value, delta.lo, delta.hi, delta.lo90, delta.hi90, delta.p)
    if not all(map(math.isfinite, figures)):
        return ["the difference of depths is not a finite number"]
    if not (delta.lo <= delta.lo90 <= delta.hi90 <= delta.hi and 0 <= delta.p <= 1 and delta.units > 1):
        return ["the interval of the difference is not in order"]
    broken = [v.name for v in variants if not all(map(math.isfinite, (v.value, v.lo, v.hi))) or v.lo > v.hi]
    return [f"the variant {name!r} is not a finite interval" for name in broken]
