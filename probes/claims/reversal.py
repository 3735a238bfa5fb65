"""A claim and its reversal as sentences of the same words, in a dozen wordings.

What a model finds likely depends on words, their order and their frequency, long before it depends on what they say.
So claim and reversal use the same words, twice swapped: `x` and `y` change places, and every wording has a mirror that names
`y` first ("x below y" and "y above x"). The frequency and the length of words cancel in each difference, a liking for
naming one of them first cancels in the mean of a wording and its mirror. Verbs are modal or past, so that nothing has to
agree in number, and no slot begins a sentence, where a tokenizer would spell it another way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from probes.claims.grammar import PARSED, Claim
from probes.layers.problem import Untestable

_ORDER = (
    (
        "In this network {x} can be read at lower layers than {y}.",
        "In this network {y} can be read at higher layers than {x}.",
    ),
    ("Along the layers {x} came before {y}.", "Along the layers {y} came after {x}."),
    ("The model must settle {x} earlier than {y}.", "The model must settle {y} later than {x}."),
    ("At the bottom stood {x}, at the top stood {y}.", "At the top stood {y}, at the bottom stood {x}."),
    ("Fewer layers had to pass for {x} than for {y}.", "More layers had to pass for {y} than for {x}."),
    ("Early layers hold {x}, late layers hold {y}.", "Late layers hold {y}, early layers hold {x}."),
)
_TRAINING = (
    ("During training {x} came up before {y}.", "During training {y} came up after {x}."),
    ("The model must learn {x} sooner than {y}.", "The model must learn {y} later than {x}."),
    ("First training gave {x}, then it gave {y}.", "Last training gave {y}, before that it gave {x}."),
    ("Fewer steps had to pass for {x} than for {y}.", "More steps had to pass for {y} than for {x}."),
    ("Early checkpoints had {x}, late checkpoints had {y}.", "Late checkpoints had {y}, early checkpoints had {x}."),
    ("We saw {x} emerge ahead of {y}.", "We saw {y} emerge behind {x}."),
)
_CHOICE = (
    ("In this network {s} {did} {x}, not {y}.", "In this network {s} {did} not {y} but {x}."),
    ("It was {x} and not {y} that {s} {did}.", "It was not {y} but {x} that {s} {did}."),
    ("We saw that {s} {did} {x} rather than {y}.", "Rather than {y}, we saw that {s} {did} {x}."),
    ("Mostly {s} {did} {x}, hardly {y}.", "Hardly {y} but mostly {x}, {s} {did}."),
    ("The probes say that {s} {did} {x} and not {y}.", "The probes say that not {y} but {x}, {s} {did}."),
    ("As a rule {s} {did} {x} more than {y}.", "As a rule {s} {did} {y} less than {x}."),
)
# Where the two that change places are always the same, every wording has a pair of its own: with one pair for all, a liking
# for "better" was no independent try, and 19 % of 200 untaught models preferred a side where 5 % should have.
_DEPTHS = (
    ("at the same depth", "at different depths"), ("at one layer", "at separate layers"), ("together", "apart"),
    ("side by side", "far from each other"), ("in equal places", "in unequal places"),
    ("at a common level", "at distinct levels"),
)  # fmt: skip
_KEEPING = (
    ("stay", "move"), ("hold still", "shift"), ("rest", "drift"), ("remain", "change"), ("keep the same place", "wander"),
    ("persist", "vary"),
)  # fmt: skip
_HARM = (
    ("worse", "better"), ("weaker", "stronger"), ("less sure", "more exact"), ("wrong", "right"), ("poor", "good"),
    ("harder", "easier"),
)  # fmt: skip
WORDINGS = 6  # of each kind, each with its mirror


@dataclass(frozen=True)
class Wording:
    """One way to put a claim and its reversal, and the same with the two named in the other order."""

    claim: tuple[str, str]
    reversal: tuple[str, str]


def wordings(claim: Claim) -> tuple[Wording, ...]:
    """Six wordings of the claim and of its reversal.

    The reversal of an order swaps the subjects; of a place or a time, it names the opposite one; "stay" is reversed
    to "move", what gets "worse" without something to "better". A denied claim is what its reversal says.

    Raises:
        Untestable: the claim is not PARSED, or its place is everywhere, so that it has no opposite.
    """
    if claim.status != PARSED or claim.a is None:
        raise Untestable(f"claim {claim.id} is {claim.status}: it has no reversal to compare it with.")
    templates, pairs, rest = _parts(claim)
    if claim.polarity == "negative":
        pairs = [(y, x) for x, y in pairs]
    return tuple(
        Wording(
            (plain.format(x=x, y=y, **rest), mirror.format(x=x, y=y, **rest)),
            (plain.format(x=y, y=x, **rest), mirror.format(x=y, y=x, **rest)),
        )
        for (plain, mirror), (x, y) in zip(templates, pairs, strict=True)
    )


_Parts = tuple[Sequence[tuple[str, str]], Sequence[tuple[str, str]], dict[str, str]]


def _parts(claim: Claim) -> _Parts:
    a, b = claim.a or "", claim.b
    if claim.kind == "depth_order" and b and claim.relation == "same":
        return _CHOICE, _DEPTHS, {"s": f"{a} and {b}", "did": "came"}
    if claim.kind == "depth_order" and b:
        return _ORDER, [(a, b)] * WORDINGS, {}
    if claim.kind == "emergence" and b:
        return _TRAINING, [(a, b)] * WORDINGS, {}
    if claim.kind == "emergence":
        return _CHOICE, [_time(claim.when or {})] * WORDINGS, {"s": a, "did": "came up"}
    if claim.kind == "stability":
        return _CHOICE, _KEEPING, {"s": a, "did": "did"}
    if claim.kind == "causal":
        s = f"predictions of {b} without {a}" if b else f"predictions without {a}"
        return _CHOICE, _HARM, {"s": s, "did": "became"}
    if claim.kind == "band":
        return _CHOICE, [_place(claim.where or {})] * WORDINGS, {"s": a, "did": "could be found"}
    raise Untestable(f"claim {claim.id}: a claim of kind {claim.kind} has no reversal.")


def _place(where: Mapping[str, Any]) -> tuple[str, str]:
    """The region in words, and its opposite."""
    unit, first, last = where.get("unit"), where.get("first"), where.get("last")
    if unit == "depth" and first is not None:
        end = 1.0 if last is None else float(last)
        if first <= 0 and end >= 1:
            raise Untestable(f"{where.get('text')} is every layer, which has no opposite.")
        if first > 0 and end < 1:
            return "in the middle layers", "in the outer layers"
        lower, upper = "in the lower layers", "in the upper layers"
        return (upper, lower) if first > 0 else (lower, upper)
    if unit == "top":
        return "in the last layers", "in the first layers"
    if first is None:
        raise Untestable("the claim names no layers.")
    if last is None:
        return f"from layer {first} upwards", f"from layer {first} downwards"
    span = f"in layer {first}" if first == last else f"in layers {first} to {last}"
    return span, "in other layers"


def _time(when: Mapping[str, Any]) -> tuple[str, str]:
    unit, first, last = when.get("unit"), when.get("first"), when.get("last")
    if unit == "step" and (first is None) != (last is None):
        before, after = (f"{word} step {first if last is None else last}" for word in ("before", "after"))
        return (before, after) if first is None else (after, before)
    if unit == "step" and first is not None and last is not None:
        return f"around step {(first + last) // 2}", "at another time"
    if unit == "share" and first == 0 and last is not None and last < 1:
        return "early in training", "late in training"
    if unit == "share" and first and last == 1:
        return "late in training", "early in training"
    if unit == "share" and first and last is not None:
        return "halfway through training", "at another time"
    raise Untestable("the claim names no time that has an opposite.")
