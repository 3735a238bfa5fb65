"""The verdict on a freeze: thresholds and names, applied to measured numbers. Nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from probes.layers.evidence import Interval

EXACT, FUNCTIONAL, WEIGHTS_ONLY, NOT_FROZEN, UNDECIDED = (
    "FROZEN-EXACT",
    "FROZEN-FUNCTIONAL",
    "FROZEN-WEIGHTS-ONLY",
    "NOT FROZEN",
    "UNDECIDED",
)
LEAK, UNUSED, COSTLY, STALE = "LEAK", "UNUSED", "COSTLY", "STALE-DIRECTION"

EXACT_NRMSE = 1e-4  # on every document
HELD_NRMSE = 0.10  # of the coordinates' spread; upper 95 % bound
HELD_CHURN = 0.02
HELD_RATIO = 0.3  # of the unfrozen twin's drift
WEIGHTS_DRIFT = 1e-6  # largest ‖Vᵀ(W − W₀)‖ / ‖VᵀW₀‖
LEAK_ACCURACY = 0.02  # above the unfrozen twin, lower 95 % bound
UNUSED_DROP = 0.5
COSTLY_NATS = 0.01  # above the random-V twin, lower 95 % bound

HOLDS = {
    "none": "Nothing is held: the parent's weights trained on as they were, which is what every freeze is compared with.",
    "anchor": (
        "Anchor pulls the concept's coordinates back on training text: approximate, on text like the training text, with "
        "no promise for other input. The weights are free, and what is beside the subspace may learn the concept as well."
    ),
    "pin": (
        "Pin replaces the concept's coordinates by those of a frozen copy of the layers below: exact for every input, in "
        "training and afterwards, for as long as the copy is part of the model. It holds neither what the layers above "
        "make of the coordinates nor what other directions learn to carry."
    ),
    "write": (
        "Write holds the dictionary, not the function: each weight writes into the subspace what it wrote before, but "
        "what comes into these weights has changed, so above layer 0 the concept's value on a given text drifts "
        "nevertheless (at layer 0 the embedding alone writes, and a word's value is held)."
    ),
    "write+anchor": (
        "Write+anchor holds what the weights write into the subspace exactly, and pulls the concept's coordinates back on "
        "training text: approximate, on text like the training text, with no promise for other input."
    ),
    "lower": (
        "Lower freezes every parameter up to the concept's layer: exact for every input, and with the concept everything "
        "else down there stands still too, so it costs the most. It does not hold what the layers above make of it."
    ),
}
"""What each mode does and does not hold, by mode."""


@dataclass(frozen=True)
class Facts:
    """What the rules look at; None where it could not be measured.

    Attributes:
        weights: M1. nrmse, worst: M2 over all documents and of the worst one. ratio: M2 over the unfrozen twin's.
        churn: M3, the share of decisions that changed.
        leak: M5 by layer, accuracy with V out less the unfrozen twin's.
        drop: M6, the share of its use that is gone.
        cost: M7 over the random-V twin, nats. stale: M4.
    """

    weights: float
    nrmse: Interval
    worst: float
    churn: float | None
    ratio: Interval | None
    leak: Mapping[int, Interval] | None
    drop: Interval | None
    cost: Interval | None
    stale: bool | None


@dataclass(frozen=True)
class Verdict:
    """
    Attributes:
        name: one of the four, or UNDECIDED where a twin is missing that they need.
        reasons: why, in words and numbers.
        undecided: flags or the verdict, each with what is missing.
    """

    name: str
    flags: tuple[str, ...]
    reasons: tuple[str, ...]
    undecided: Mapping[str, str]


def judge(facts: Facts, missing: Mapping[str, str]) -> Verdict:
    """The verdict and its flags.

    Args:
        missing: why a number is not there, by flag name ("LEAK") or "ratio", "churn".
    """
    undecided: dict[str, str] = {}
    name, reasons = _name(facts, missing, undecided)
    flags = []
    if facts.leak is None:
        undecided[LEAK] = missing.get(LEAK, "not measured")
    elif leaks := [layer for layer, found in facts.leak.items() if found.lo > LEAK_ACCURACY]:
        flags.append(LEAK)
        worst = max(leaks, key=lambda layer: facts.leak[layer].lo if facts.leak else 0.0)
        reasons.append(
            f"LEAK: with V out, layer {worst} tells the concept {_signed(facts.leak[worst])} better than the unfrozen twin's"
        )
    if facts.drop is None:
        undecided[UNUSED] = missing.get(UNUSED, "not measured")
    elif facts.drop.value > UNUSED_DROP:
        flags.append(UNUSED)
        reasons.append(f"UNUSED: {facts.drop.value:.0%} of what ablating V cost its tokens is gone")
    if facts.cost is None:
        undecided[COSTLY] = missing.get(COSTLY, "not measured")
    elif facts.cost.lo > COSTLY_NATS:
        flags.append(COSTLY)
        reasons.append(f"COSTLY: {_signed(facts.cost)} nats per token above the random-V twin")
    if facts.stale is None:
        undecided[STALE] = missing.get(STALE, "not measured")
    elif facts.stale:
        flags.append(STALE)
        reasons.append("STALE-DIRECTION: found again, the concept lies further from V than noise alone would turn it")
    return Verdict(name, tuple(flags), tuple(reasons), undecided)


def _name(facts: Facts, missing: Mapping[str, str], undecided: dict[str, str]) -> tuple[str, list[str]]:
    if facts.worst <= EXACT_NRMSE:
        return EXACT, [f"NRMSE at most {facts.worst:.1e} on every document"]
    moved = f"NRMSE {facts.nrmse.value:.3f} [{facts.nrmse.lo:.3f}, {facts.nrmse.hi:.3f}]"
    failed = []
    if facts.nrmse.hi > HELD_NRMSE:
        failed.append(f"{moved} is not surely within {HELD_NRMSE:g}")
    if facts.churn is not None and facts.churn > HELD_CHURN:
        failed.append(f"{facts.churn:.1%} of the probe's decisions changed")
    if facts.ratio is not None and facts.ratio.value > HELD_RATIO:
        failed.append(f"it moved {facts.ratio.value:.2f} times as far as the unfrozen twin")
    if not failed:
        unknown = [what for what, found in (("churn", facts.churn), ("ratio", facts.ratio)) if found is None]
        if not unknown:
            held = f"{facts.churn:.1%} of decisions changed" if facts.churn is not None else ""
            ratio = f"{facts.ratio.value:.2f} times the unfrozen twin's drift" if facts.ratio is not None else ""
            return FUNCTIONAL, [f"{moved}, {held}, {ratio}"]
        undecided["verdict"] = "; ".join(missing.get(what, f"no {what}") for what in unknown)
        return UNDECIDED, [f"{moved}, but whether that is the freeze's doing cannot be told"]
    if facts.weights <= WEIGHTS_DRIFT and facts.nrmse.value > HELD_NRMSE:
        return WEIGHTS_ONLY, [f"the weights write what they wrote (drift {facts.weights:.1e}), yet {moved}"]
    return NOT_FROZEN, failed


def _signed(found: Interval) -> str:
    return f"{found.value:+.3f} [{found.lo:+.3f}, {found.hi:+.3f}]"
