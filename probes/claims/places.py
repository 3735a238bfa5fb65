"""Where: regions of layers and the phrases that name them; the windows of training that `times` names.

Layers are 0..L (0 = embedding sum, l = after block l). "The first layer" is layer 1, "the last" is L. Words without a
number are thirds of the relative depth ("lower", "middle", "upper"), as `methods/probing.md` B.7 tests bands; a
half or a quarter is what it says. A number is kept exactly: whether the model has that layer is for the verdict.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any


def _plain(number: float | None) -> float | None:
    """A whole number as an int, for JSON."""
    return int(number) if number is not None and number == int(number) else number


@dataclass(frozen=True)
class Region:
    """Layers `first` to `last`, both included.

    Attributes:
        unit: "layer" counts from 0, "top" counts down from the last layer (0 = L), "depth" is relative, 0..1.
        last: None = up to the last layer.
        rank: -1, 0 or 1 for a region named by low, middle or high alone: what a contrast of two may be read from.
        never: the phrase itself denies ("nowhere", "in no layer").
    """

    unit: str
    first: float
    last: float | None
    rank: int | None = None
    never: bool = False
    until: bool = False

    def __str__(self) -> str:
        if self.unit == "depth":
            return f"depth {self.first:.2f}..{self.last:.2f}"
        if self.unit == "top":
            return "layer " + "..".join("top" if not n else f"top-{n:.0f}" for n in (self.first, self.last or 0))
        return f"layer {self.first:.0f}..{'top' if self.last is None else f'{self.last:.0f}'}"

    def layers(self, n_layers: int) -> tuple[float, float]:
        """First and last layer in a model with layers 0..n_layers; a relative depth may fall between two."""
        if self.unit == "depth":
            return self.first * n_layers, (1.0 if self.last is None else self.last) * n_layers
        if self.unit == "top":
            return n_layers - self.first, n_layers - (self.last or 0)
        return self.first, n_layers if self.last is None else self.last

    def to_json(self) -> dict[str, Any]:
        return {"unit": self.unit, "first": _plain(self.first), "last": _plain(self.last), "text": str(self)}


@dataclass(frozen=True)
class Window:
    """A stretch of training.

    Attributes:
        unit: "step", "share" of the whole training (0..1), or "checkpoint" (counted back from the newest).
        first, last: None = open.
        how: the preposition that decides what is claimed: after, by, since, until, at.
        rank: -1, 0, 1 for early, middle, late in training.
    """

    unit: str
    first: float | None
    last: float | None
    how: str = "at"
    rank: int | None = None

    def __str__(self) -> str:
        def show(value: float | None) -> str:
            return "" if value is None else f"{value:.2f}" if self.unit == "share" else f"{value:.0f}"

        return f"{self.unit} {show(self.first)}..{show(self.last)}"

    def to_json(self) -> dict[str, Any]:
        return {
            "unit": self.unit,
            "first": _plain(self.first),
            "last": _plain(self.last),
            "how": self.how,
            "text": str(self),
        }


CLASSES = {
    "layers": "layers levels blocks",
    "layer": "layer l level block",
    "net": "network stack model layers hierarchy transformer depth net me myself",
    "lowfirst": "first initial beginning opening earliest",
    "low": "lower low early earlier shallow shallower bottom lowest lowermost bottommost shallowest",
    "mid": "middle mid intermediate central middling",
    "highlast": "last final closing latest",
    "high": "upper high higher late later deep deeper top highest deepest uppermost topmost",
    "near": "around about near circa roughly approximately",
    "before": "before below under beneath",
    "after": "after above beyond past over",
    "whole": "all every each any",
    "det": "the my its our this",
}

LOW = Region("depth", 0.0, 1 / 3, -1)
MIDDLE = Region("depth", 1 / 3, 2 / 3, 0)
HIGH = Region("depth", 2 / 3, 1.0, 1)
_PARTS = {"half": 1 / 2, "third": 1 / 3, "quarter": 1 / 4, "fifth": 1 / 5}
_SIDES = "[of the|of my|of this|of our|of its|of] [@net]"
Numbers = tuple[float, ...]
Make = Callable[[Numbers], "Region | Window | None"]


def _span(first: float, last: float) -> Region | None:
    return Region("layer", first, last) if first <= last else None


def _both(numbers: Numbers) -> Region | None:
    """ "Layers 2 and 3" is a range; "layers 2 and 5" is not, and no range is guessed from it."""
    return _span(*numbers) if numbers[1] - numbers[0] == 1 else None


def _row(numbers: Numbers) -> Region | None:
    """ "Layers 3, 4 and 5" is a range, with a gap it is none."""
    steady = all(after - before == 1 for before, after in itertools.pairwise(numbers))
    return _span(numbers[0], numbers[-1]) if steady else None


def _always(found: Region) -> Make:
    return lambda _: found


LAYER = "(@layer|@layers) [number|numbers]"
TO = "(-|to|through|until|till|up to|—) [@det] [@layer|@layers]"
REGIONS: list[tuple[str, Make]] = [
    (f"{LAYER} #", lambda n: Region("layer", n[0], n[0])),
    ("[@det] [very] #th @layer", lambda n: Region("layer", n[0], n[0])),
    (f"[from|in|at] [@near] {LAYER} # {TO} [@near] #", lambda n: _span(n[0], n[1])),
    (f"[from] [@det] #th {TO} #th [@layer|@layers]", lambda n: _span(n[0], n[1])),
    (f"[in] between [@near] [the] {LAYER} # and [@layer] #", lambda n: _span(n[0], n[1])),
    (f"[in] between [the] #th and [the] #th {LAYER}", lambda n: _span(n[0], n[1])),
    (f"[@near] {LAYER} # (and|&) [@layer] #", _both),
    (f"@near {LAYER} # or [@layer] #", _both),
    (f"[the] #th and [the] #th {LAYER}", _both),
    (f"{LAYER} # , # [,] (and|or|,) #", _row),
    (f"{LAYER} # , # , # [,] (and|or|,) #", _row),
    ("[a] (@low|@lowfirst) @layer (affair|phenomenon|thing|business|matter|story|feature)", _always(LOW)),
    ("[a] (@high|@highlast) @layer (affair|phenomenon|thing|business|matter|story|feature)", _always(HIGH)),
    ("[a] @mid @layer (affair|phenomenon|thing|business|matter|story|feature)", _always(MIDDLE)),
    ("(at|near|from|towards|toward|around|by) the [very] (start|beginning) of [@det] @net", _always(LOW)),
    ("(at|near|towards|toward|around|by) (the|its|my) [very] end [of [@det] @net]", _always(HIGH)),
    (f"@near {LAYER} #", lambda n: Region("layer", max(0, n[0] - 1), n[0] + 1)),
    ("@near the #th @layer", lambda n: Region("layer", max(0, n[0] - 1), n[0] + 1)),
    (f"(by|through|up to|as early as|no later than|at the latest by) {LAYER} #", lambda n: Region("layer", 0, n[0])),
    ("(by|through|up to|no later than) the #th @layer", lambda n: Region("layer", 0, n[0])),
    (f"(until|till) {LAYER} #", lambda n: Region("layer", 0, n[0], until=True)),
    ("(until|till) the #th @layer", lambda n: Region("layer", 0, n[0], until=True)),
    (f"(@before|earlier than|shallower than|lower than) {LAYER} #", lambda n: _span(0, n[0] - 1)),
    ("(@before|earlier than) the #th @layer", lambda n: _span(0, n[0] - 1)),
    (f"(@after|deeper than|later than|higher than) {LAYER} #", lambda n: Region("layer", n[0] + 1, None)),
    ("(@after|deeper than|later than) the #th @layer", lambda n: Region("layer", n[0] + 1, None)),
    (f"[from|at] {LAYER} # (on|onward|onwards|up|upward|upwards)", lambda n: Region("layer", n[0], None)),
    (
        f"[from] {LAYER} # (and|or) (up|above|beyond|higher|later|deeper|upward|upwards|onwards)",
        lambda n: Region("layer", n[0], None),
    ),
    ("from the #th @layer (on|onward|onwards|up|upward|upwards)", lambda n: Region("layer", n[0], None)),
    (f"[from] {LAYER} # (and|or) (down|below|lower|earlier)", lambda n: Region("layer", 0, n[0])),
    ("(first|bottom|lowest|lower|initial) # @layers", lambda n: Region("layer", 0, n[0])),
    ("(last|final|top|upper|highest) # @layers", lambda n: Region("top", n[0] - 1, 0)),
    ("first couple of @layers", _always(Region("layer", 0, 2))),
    ("last couple of @layers", _always(Region("top", 1, 0))),
    (
        "(last|final|top|topmost|highest|output|deepest|uppermost|very last|very top) @layer",
        _always(Region("top", 0, 0)),
    ),
    ("(penultimate|second to last|last but one) @layer", _always(Region("top", 1, 1))),
    ("(bottom|lowest|bottommost|very first|very bottom) @layer", _always(Region("layer", 1, 1))),
    ("(embedding|embeddings|input) [@layer]", _always(Region("layer", 0, 0))),
    ("(straight|right) (from|at) the (embedding|embeddings|input)", _always(Region("layer", 0, 0))),
    ("[the] (@low|@lowfirst) [few|several|most|two or three] (@layers|ones)", _always(LOW)),
    ("[the] (@high|@highlast) [few|several|most] (@layers|ones)", _always(HIGH)),
    ("[the] @mid [few|several|most] (@layers|ones|@layer)", _always(MIDDLE)),
    ("(halfway|midway|half way) [up|through|in|down|along] " + _SIDES, _always(MIDDLE)),
    ("@det [very|exact] @mid [part|section|region|portion|of] [@det] [@net]", _always(MIDDLE)),
    ("(@low|@lowfirst) [part|end|section|region|portion|stages|stage] of [@det] @net", _always(LOW)),
    ("(@high|@highlast) [part|end|section|region|portion|stages|stage] of [@det] @net", _always(HIGH)),
    ("(early|low|shallow|low down|early on|earlier|lower|shallower) in [@det] @net", _always(LOW)),
    (
        "(late|high|deep|high up|deep down|later|late on|higher|deeper|further up) (in|inside|into) [@det] @net",
        _always(HIGH),
    ),
    ("@det [very] (bottom|base|floor|start) " + _SIDES, _always(LOW)),
    ("@det [very] (top|head|roof|end) " + _SIDES, _always(HIGH)),
    ("(until|till) [the] [very] (top|end) " + _SIDES, _always(replace(HIGH, until=True))),
    ("(until|till) [the] (@high|@highlast) [few|several] (@layers|ones)", _always(replace(HIGH, until=True))),
    ("(until|till) [the] @mid [@layers]", _always(Region("depth", 1 / 3, 1.0, 1, until=True))),
    ("(until|till) [the] (last|final|top) # @layers", lambda n: Region("top", n[0] - 1, 0, until=True)),
    ("(until|till) [the] [very] (last|final|top) @layer", _always(Region("top", 0, 0, until=True))),
    ("(on|up|at|toward|towards|near|nearer|closer to|close to) [the] [very] top " + _SIDES, _always(HIGH)),
    (
        """(at|near|close to|toward|towards|nearer|closer to|nearer to) [the|my] (output|outputs|output end|
        unembedding|logits)""",
        _always(HIGH),
    ),
    (
        """(at|near|close to|toward|towards|nearer|closer to|nearer to) [the|my] (input|inputs|input end|
        embedding|embeddings)""",
        _always(LOW),
    ),
    ("(near|at|on|towards|toward|down|nearer|closer to|close to) [the] [very] bottom " + _SIDES, _always(LOW)),
    ("the lower", _always(LOW)),
    ("the upper", _always(HIGH)),
    ("(early|very early|quite early|low down|down low) [on]", _always(LOW)),
    ("(late|very late|quite late|high up|up high|deep down|deep inside|later on|deeply) [on]", _always(HIGH)),
    ("(everywhere|throughout) [in|across] [@det] [@net]", _always(Region("depth", 0.0, 1.0))),
    ("(across|throughout|in|at|over) @whole [of] [the|my] (@layers|@layer|depths)", _always(Region("depth", 0.0, 1.0))),
    ("@whole [of] [the|my] (@layers|@layer|depths|depth)", _always(Region("depth", 0.0, 1.0))),
    (
        "(in between|inbetween|between) (them|the two|these|those|both)|in between|elsewhere|somewhere else|nearby|next door",
        lambda _: None,  # a place that only the sentence before would tell
    ),
    (
        "(nowhere|no layer|none of the layers|no layers) " + "[in] [@det] [@net]",
        _always(Region("depth", 0.0, 1.0, never=True)),
    ),
]
for _side, _words in (
    ("low", "(first|lower|bottom|early|initial)"),
    ("high", "(last|upper|top|final|second|late|higher)"),
):
    for _name, _size in _PARTS.items():
        _found = Region("depth", 0.0, _size, -1) if _side == "low" else Region("depth", 1 - _size, 1.0, 1)
        REGIONS.append((f"[the|my] [very] {_words} {_name} {_SIDES} [@net]", _always(_found)))
REGIONS.append((f"[the|my] (middle|central) (third|half) {_SIDES}", _always(MIDDLE)))
