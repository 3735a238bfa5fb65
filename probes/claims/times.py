"""When: stretches of training by step, by share of the whole and by checkpoint, and the phrases that name them.

A share is named by a moment ("the middle of training", "two thirds of the way through") or by a part ("the last third of
training"); the preposition before it says which stretch is meant. What only hints at a time ("for a while") makes no
window: its maker returns None, so the statement stays unread instead of losing its time.
"""

from __future__ import annotations

from probes.claims.places import Make, Window

AROUND_STEP = 0.2  # "around step 1000" is 800 to 1200
AROUND_SHARE = 0.1  # "a third of the way through" is 0.23 to 0.43
START = 0.05  # "since the start of training" is since the first twentieth

STEP = "(step|steps|checkpoint|iteration|iterations|update|updates)"
_RUN = "[the|my|this] (training|pretraining|run)"


def _near_step(n: float) -> Window:
    return Window("step", round(n * (1 - AROUND_STEP)), round(n * (1 + AROUND_STEP)))


def _always(found: Window) -> Make:
    return lambda _: found


def _share(first: float, last: float, rank: int | None, how: str = "at") -> Make:
    return _always(Window("share", first, last, how, rank))


def _rank(first: float, last: float) -> int | None:
    """Early, middle or late; what spans most of the training is none of them."""
    return None if last - first > 1 / 2 else -1 if not first else 1 if last == 1 else 0


def _by_share(before: str, name: str, first: float, last: float, how: str = "at") -> tuple[str, Make]:
    return f"{before} {name}", _share(first, last, _rank(first, last), how)


def _percent(how: str) -> Make:
    def make(numbers: tuple[float, ...]) -> Window | None:
        share = numbers[0] / 100
        if not 0 < share < 1:
            return None
        return Window("share", share, 1, how) if how in ("after", "since") else Window("share", 0, share, how)

    return make


WINDOWS: list[tuple[str, Make]] = [
    (f"[at] {STEP} #", lambda n: Window("step", n[0], n[0])),
    (f"(after|past|beyond|later than) [about|around] {STEP} #", lambda n: Window("step", n[0], None, "after")),
    (f"from {STEP} # [on|onward|onwards]", lambda n: Window("step", n[0], None, "after")),
    (f"(after|past|beyond) [about|around|some|the first] # {STEP}", lambda n: Window("step", n[0], None, "after")),
    (
        f"(by|before|no later than|as early as|earlier than|prior to) [about|around] {STEP} #",
        lambda n: Window("step", None, n[0], "by"),
    ),
    (
        f"(by|before|within|in|during|in under) [the] [first|about|around] # {STEP}",
        lambda n: Window("step", None, n[0], "by"),
    ),
    (f"since [about|around] {STEP} #", lambda n: Window("step", n[0], None, "since")),
    (f"(until|till|up to) [about|around] {STEP} #", lambda n: Window("step", None, n[0], "until")),
    (
        f"(between|from) {STEP} # (and|to|until) [step] #",
        lambda n: Window("step", n[0], n[1]) if n[0] <= n[1] else None,
    ),
    (
        f"[in|over|during|across] {STEP} # (-|to|through|until) [step] #",
        lambda n: Window("step", n[0], n[1]) if n[0] <= n[1] else None,
    ),
    (f"(around|near|about|roughly at|at around|at about|circa) {STEP} #", lambda n: _near_step(n[0])),
    (f"[much|far|very|quite] (early|earlier|early on) (in|during|into) {_RUN}", _share(0, 1 / 3, -1)),
    (f"[much|far|very|quite|only] (late|later|late on) (in|during|into) {_RUN}", _share(2 / 3, 1, 1)),
    (f"(during|in) early {_RUN}", _share(0, 1 / 3, -1)),
    (f"(during|in) late {_RUN}", _share(2 / 3, 1, 1)),
    (
        f"[in|during|throughout] the (early|earliest|first|initial|opening) (stages|stage|phase|phases|part) of {_RUN}",
        _share(0, 1 / 3, -1),
    ),
    (
        f"[in|during|throughout] the (late|last|final|closing) (stages|stage|phase|phases|part) of {_RUN}",
        _share(2 / 3, 1, 1),
    ),
    (f"since early (in|into) {_RUN}", _share(1 / 3, 1, None, "since")),
    (f"since late (in|into) {_RUN}", _share(2 / 3, 1, 1, "since")),
    (f"until late (in|into) {_RUN}", _share(0, 2 / 3, None, "until")),
    (f"[right] at the [very] (start|beginning|outset) of {_RUN}", _share(0, START, -1)),
    ("at the [very] (start|beginning|outset)", _share(0, START, -1)),
    (f"[right|ever] (from|since) the [very] (start|beginning|outset) [of {_RUN}]", _share(START, 1, None, "since")),
    (f"(at|near|by|only at|towards|toward) the [very] end of {_RUN}", _share(2 / 3, 1, 1)),
    (
        "(over|across|in|during|for|throughout) the (last|past|latest|recent) # checkpoints",
        lambda n: Window("checkpoint", n[0], 0, "since"),
    ),
    (
        "(over|across|in|during|for|throughout) [the] (last|past|latest|recent) [few|several|couple of] checkpoints",
        _always(Window("checkpoint", None, 0, "since")),
    ),
    ("since the (last|previous) checkpoint", _always(Window("checkpoint", 1, 0, "since"))),
    ("(lately|recently|of late)", _always(Window("checkpoint", None, 0, "since"))),
    (
        """(from checkpoint to checkpoint|between checkpoints|across checkpoints|over checkpoints|over the
        checkpoints|from one checkpoint to the next|across the checkpoints)""",
        _share(0, 1, None),
    ),
    (
        """(during|over|in|throughout|across|over the course of|in the course of|as part of) [the|my|all] [of]
        (training|pretraining|run)""",
        _share(0, 1, None),
    ),
    ("(over time|with time|as training (went|goes) on)", _share(0, 1, None)),
    ("for [quite] (a|some) (while|time|moment|bit) [now]", lambda _: None),
    ("for a (long|short) (while|time)|at (times|some point|one point)|for (ages|now)", lambda _: None),
]
for _how, _words in (
    ("after", "after|past"),
    ("since", "[ever] since"),
    ("by", "by|before"),
    ("until", "until|till|up to"),
):
    WINDOWS.append((f"({_words}) # (%|percent|per cent) [of the way] (of|through|into) {_RUN}", _percent(_how)))
WINDOWS += [
    (f"in the first # (%|percent|per cent) of {_RUN}", _percent("at")),
    (f"since {_RUN} (began|started)", _share(START, 1, None, "since")),
]

_THROUGH = f"(through|into) {_RUN}"
_MOMENTS: list[tuple[str, float]] = [
    (f"[the] (middle|midpoint|half way point|halfway point|midway point|halfway mark|midway mark) of {_RUN}", 1 / 2),
    (f"(halfway|midway|half way) {_THROUGH}", 1 / 2),
    *(
        (f"({words}) of the way {_THROUGH}", share)
        for words, share in (
            ("a quarter|one quarter", 1 / 4),
            ("a third|one third", 1 / 3),
            ("two thirds", 2 / 3),
            ("three quarters", 3 / 4),
        )
    ),
]
for _name, _at in _MOMENTS:
    WINDOWS += [
        _by_share("[ever] since", _name, _at, 1, "since"),
        _by_share("(after|past|beyond|only after)", _name, _at, 1, "after"),
        _by_share("from", f"{_name} [on|onward|onwards]", _at, 1, "after"),
        _by_share("(by|before)", _name, 0, _at, "by"),
        _by_share("(until|till|up to)", _name, 0, _at, "until"),
    ]
    _around = 1 / 6 if _at == 1 / 2 else AROUND_SHARE  # "the middle of training" is its middle third
    WINDOWS.append(_by_share("[in|during|at|around|about|near]", _name, _at - _around, _at + _around))
for _name in ("the (middle|midpoint|halfway point|halfway mark)", "(halfway|midway|half way) (through|in|into)"):
    WINDOWS.append(_by_share("[ever] since", _name, 1 / 2, 1, "since"))

_PARTS: list[tuple[str, float, float]] = [
    *((f"the [very] (first|initial|opening) {name}", 0, size) for name, size in (("half", 1 / 2), ("third", 1 / 3))),
    *(
        (f"the [very] (last|final|closing|latter) {name}", 1 - size, 1)
        for name, size in (("half", 1 / 2), ("third", 1 / 3))
    ),
    *(
        (f"the [very] first {name}", 0, size)
        for name, size in (("quarter", 1 / 4), ("fifth", 1 / 5), ("tenth", 1 / 10))
    ),
    *(
        (f"the [very] (last|final) {name}", 1 - size, 1)
        for name, size in (("quarter", 1 / 4), ("fifth", 1 / 5), ("tenth", 1 / 10))
    ),
    ("the second half", 1 / 2, 1),
    ("the (second|middle) third", 1 / 3, 2 / 3),
    ("the second quarter", 1 / 4, 1 / 2),
    ("the third quarter", 1 / 2, 3 / 4),
]
for _name, _first, _last in _PARTS:
    _of = f"{_name} of {_RUN}"
    WINDOWS.append(_by_share("[in|during|within|over|across|throughout|for]", _of, _first, _last))
    if _last < 1:
        WINDOWS.append(_by_share("[ever] since", _of, _last, 1, "since"))
        WINDOWS.append(_by_share("(after|past|beyond)", _of, _last, 1, "after"))
        WINDOWS.append(_by_share("(until|till|up to)", _of, 0, _last, "until"))
        WINDOWS.append(_by_share("by", _of, 0, _last, "by"))
    else:
        WINDOWS.append(_by_share("[ever] since", _of, _first, 1, "since"))
        WINDOWS.append(_by_share("(until|till|up to)", _of, 0, _first, "until"))
    if _first > 0:
        WINDOWS.append(_by_share("before", _of, 0, _first, "by"))
