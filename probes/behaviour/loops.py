"""Does a text repeat itself? One exact definition of a loop, and three softer rules that only say "look".

The exact rule is a tail cycle: the last c·p tokens are c copies of the same p. With p ≤ 64, c ≥ 3 and at least 24 tokens
covered it is nearly free of false alarms; without a floor on cover it fires on 4 % of people's texts (separators, "...").
The floor needs the *primitive* period, or twelve equal tokens would count as four tokens three times over.

It is about how a text *ends*: a cycle that the text got out of is another rule, of severity info. People's conversations hold
one in .3 to .5 % of 4,017 cases ("????…", a song's refrain), and passages of their Markdown in 17 %: rulers of tables and
aligned blanks. So a look in mid-stream (`Tail`) says that a cycle is under way, not that the text is lost, and Markdown that
is cut off at an arbitrary token ends inside such a ruler in 5 % of cases.

seq-rep-4 (Welleck et al. 2019, arXiv:1908.04319) and the zlib ratio (Whisper's limit of 2.4, arXiv:2212.04356) see loops
with variations, but Markdown as well: 85 and 43 % of people's passages of 4,000 characters. Both depend on length. Texts
under 100 tokens are not asked, and zlib's limit, made for half a minute of speech, is passed by 2.5 % of ordinary passages of
up to 4,000 characters but by under .1 % of stretches of 128 or 256 tokens. Turns are compared as sets of 4-grams.

No rule here is more than a "watch": models that have learned little loop as a matter of course, so one looping text says
nothing. What may alert is a rate, beside the reference checkpoint's (`rates`).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from probes.behaviour.findings import Finding, Rule, Span, merged

MAX_PERIOD = 64
MIN_COPIES = 3
MIN_COVER = 24
EVERY = 16  # tokens between two looks at a stream

LONG_ENOUGH = 100  # tokens; below it, the two soft rules have no anchor values
SEQ_REP_4 = 0.20
ZLIB_RATIO = 2.4

JACCARD = 0.8
# Tokens: a turn and its copy then cover the 24 of the exact rule. People say "me too" again all the time.
SHORTEST_TURN = 12

TAIL_CYCLE = Rule(
    "loops",
    "loops.tail-cycle",
    "1",
    "watch",
    f"the text ends in {MIN_COPIES} or more exact copies of the same 1 to {MAX_PERIOD} tokens that cover {MIN_COVER} or more",
)
PASSING_CYCLE = Rule(
    "loops",
    "loops.passing-cycle",
    "1",
    "info",
    f"such a cycle was under way at one of the looks, one every {EVERY} tokens, but the text went on otherwise",
)
REPEATED_4_GRAMS = Rule(
    "loops",
    "loops.seq-rep-4",
    "1",
    "watch",
    f"more than {SEQ_REP_4:.0%} of the 4-grams of tokens occurred before, in a text of {LONG_ENOUGH} tokens or more",
)
COMPRESSION = Rule(
    "loops",
    "loops.zlib",
    "1",
    "watch",
    f"zlib makes the text more than {ZLIB_RATIO} times smaller, in a text of {LONG_ENOUGH} tokens or more",
)
NEAR_COPY = Rule(
    "loops",
    "loops.turn-near-copy",
    "1",
    "watch",
    f"a turn of {SHORTEST_TURN} tokens or more shares {JACCARD:.0%} of its 4-grams (Jaccard) with an earlier turn",
)
RULES = (TAIL_CYCLE, PASSING_CYCLE, REPEATED_4_GRAMS, COMPRESSION, NEAR_COPY)


@dataclass(frozen=True)
class LoopEvent:
    """A cycle that reached the end of the tokens seen so far.

    Attributes:
        period: tokens of one copy, primitive: no shorter cycle makes it up.
        copies: whole copies.
        cover: tokens from `start` to the end, a cut first copy included; `copies · period` of them are whole copies.
        start: index of the first token that belongs to it.
    """

    period: int
    copies: int
    cover: int
    start: int


def detect(
    tokens: Sequence[int], max_period: int = MAX_PERIOD, min_copies: int = MIN_COPIES, min_cover: int = MIN_COVER
) -> LoopEvent | None:
    """The cycle that the tokens end in, or None. The smallest period that qualifies, hence a primitive one.

    Out of scope by definition: longer periods, cycles that ended before the last token (see `scan`), and near copies.

    >>> detect([7, 8, 9] + [1, 2] * 12)
    LoopEvent(period=2, copies=12, cover=24, start=3)
    """
    length = len(tokens)
    tail = list(tokens[-max(max_period * min_copies, max_period + min_cover) :])
    for period in range(1, min(max_period, length - 1) + 1):
        if tail[-1] != tail[-1 - period]:  # settles nearly every period of an ordinary text
            continue
        needed = period * max(min_copies, -(-min_cover // period))
        if needed > length or tail[-needed:-period] != tail[len(tail) - needed + period :]:
            continue
        start = length - needed
        while start > 0 and tokens[start - 1] == tokens[start - 1 + period]:
            start -= 1
        return LoopEvent(period, (length - start) // period, length - start, start)
    return None


class Tail:
    """The exact rule over a stream: `push` every token as it is generated, look every 16.

    After every push that looks, the answer is `detect` of all tokens so far.
    """

    def __init__(self, every: int = EVERY) -> None:
        self.every = every
        self.tokens: list[int] = []

    def push(self, token: int) -> LoopEvent | None:
        self.tokens.append(token)
        return detect(self.tokens) if len(self.tokens) % self.every == 0 else None


def scan(tokens: Sequence[int]) -> tuple[LoopEvent, ...]:
    """The loops that a stream over a finished text meets, and the one it ends in, each as long as it was last seen.

    `start` is of the whole text; `cover` reaches to where it was last seen, so that a loop which stopped between two looks
    is up to 15 tokens longer.
    """
    tail = Tail()
    seen = [tail.push(token) for token in tokens]
    longest = {(event.period, event.start): event for event in [*seen, detect(tokens)] if event}
    return tuple(longest.values())


def seq_rep_4(tokens: Sequence[int]) -> float:
    """1 - distinct 4-grams / 4-grams: Welleck's seq-rep-4; 0 for fewer than four tokens (the original divides by zero).

    GPT-2 on WikiText-103: .44 with greedy decoding, .02 with top-p .9. State the decoding beside it.
    """
    grams = _four_grams(tokens)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def zlib_ratio(text: str) -> float:
    """UTF-8 bytes over bytes after zlib (level 6); 0 for an empty text. Compare at equal length only."""
    data = text.encode(errors="replace")
    return len(data) / len(zlib.compress(data, 6)) if data else 0.0


def examine(tokens: Sequence[int], text: str) -> tuple[Finding, ...]:
    """Findings of one text, the model's own part alone: all loops first, then the soft rules.

    Args:
        tokens: ids of the run's tokenizer; spans count these.
        text: the same, decoded.
    """
    found = []
    for event in scan(tokens):
        at_end = event.start + event.cover == len(tokens)
        text_of_rule = f"{event.copies} exact copies of the same {_tokens(event.period)} from token {event.start}"
        found.append(
            (TAIL_CYCLE if at_end else PASSING_CYCLE).finding(
                f"{text_of_rule} to the end" if at_end else f"{text_of_rule}, then other text",
                value=float(event.copies),
                spans=(Span(event.start, event.start + event.cover, "token"),),
                evidence=asdict(event),
            )
        )
    if len(tokens) < LONG_ENOUGH:
        return tuple(found)
    repeated = seq_rep_4(tokens)
    if repeated > SEQ_REP_4:
        found.append(
            REPEATED_4_GRAMS.finding(
                f"{repeated:.0%} of the 4-grams occurred before ({len(tokens)} tokens; watched above {SEQ_REP_4:.0%})",
                value=repeated,
                spans=_seen_before(tokens),
                evidence={"tokens": len(tokens)},
            )
        )
    ratio = zlib_ratio(text)
    if ratio > ZLIB_RATIO:
        found.append(
            COMPRESSION.finding(
                f"zlib makes the text {ratio:.1f} times smaller ({len(tokens)} tokens; watched above {ZLIB_RATIO})",
                value=ratio,
                spans=(Span(0, len(text), "character"),),
                evidence={"tokens": len(tokens)},
            )
        )
    return tuple(found)


@dataclass(frozen=True)
class NearCopy:
    """Turn `turn` nearly repeats turn `of`. Jaccard: shared 4-grams over all of both; containment: over those of `turn`."""

    turn: int
    of: int
    jaccard: float
    containment: float


def near_copies(turns: Sequence[Sequence[int]]) -> tuple[NearCopy, ...]:
    """For every turn that nearly repeats an earlier one, by either voice: the most similar, the latest among equals."""
    sets = [frozenset(_four_grams(turn)) if len(turn) >= SHORTEST_TURN else frozenset() for turn in turns]
    found = []
    for turn, grams in enumerate(sets):
        candidates = []
        for of, other in enumerate(sets[:turn]):
            if grams and other and not grams.isdisjoint(other):  # most pairs of turns share nothing
                shared = len(grams & other)
                jaccard = shared / (len(grams) + len(other) - shared)
                candidates.append(NearCopy(turn, of, jaccard, shared / len(grams)))
        best = max(candidates, key=lambda one: (one.jaccard, one.of), default=None)
        if best is not None and best.jaccard >= JACCARD:
            found.append(best)
    return tuple(found)


def examine_turns(turns: Sequence[Sequence[int]]) -> tuple[Finding, ...]:
    """Findings of a conversation as a whole; spans name the turn and the one that it repeats, counted from 0."""
    return tuple(
        NEAR_COPY.finding(
            f"turn {copy.turn} nearly repeats turn {copy.of} ({copy.jaccard:.0%} of their 4-grams are shared)",
            value=copy.jaccard,
            spans=(Span(copy.of, copy.of + 1, "turn"), Span(copy.turn, copy.turn + 1, "turn")),
            evidence={**asdict(copy), "turns": len(turns)},
        )
        for copy in near_copies(turns)
    )


def _four_grams(tokens: Sequence[int]) -> list[tuple[int, ...]]:
    return list(zip(tokens, tokens[1:], tokens[2:], tokens[3:], strict=False))


def _seen_before(tokens: Sequence[int]) -> tuple[Span, ...]:
    seen: set[tuple[int, ...]] = set()
    again = []
    for start, gram in enumerate(_four_grams(tokens)):
        if gram in seen:
            again.append(Span(start, start + 4, "token"))
        seen.add(gram)
    return merged(again)


def _tokens(count: int) -> str:
    return "1 token" if count == 1 else f"{count} tokens"
