"""Markers: a few things that one may want to see in a model's words, defined before looking, and what chance makes of them.

"It said it would be right back" is an anecdote. What can be said is how often, of how many texts, asked for or not, beside
the same count in the training text and at the reference checkpoint, and how likely at least one would be by chance: at a base
rate of one in a thousand, 1,000 texts hold one with probability 63 %. People say it too: the default corpus holds a pause in
.4 % of pieces of 40 words. All definitions are in `markers.toml`, with versions.

A base rate counts texts, and long texts have more room: cut training text into pieces as long as a reply (`pieces`) first.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from probes.behaviour.findings import Finding, Rule, Span
from probes.behaviour.loops import TAIL_CYCLE
from probes.behaviour.rates import Rate, wilson
from probes.layers.evidence import Interval

_STRAIGHT = str.maketrans("’‘“”", "''\"\"")
_ENDS = (".", "!", "?")


@dataclass(frozen=True)
class Pattern:
    """A definition: found in a text, and asked for in a prompt."""

    name: str
    rule: Rule
    any: tuple[re.Pattern[str], ...]
    cues: tuple[re.Pattern[str], ...]

    def find(self, text: str) -> tuple[Span, ...]:
        """Where, in characters; the longest of matches that overlap."""
        straight = text.translate(_STRAIGHT)
        found = [match.span() for one in self.any for match in one.finditer(straight)]
        kept: list[Span] = []
        for start, end in sorted(found, key=lambda span: (span[0], -span[1])):
            if not kept or start >= kept[-1].end:
                kept.append(Span(start, end, "character"))
        return tuple(kept)

    def is_in(self, text: str) -> bool:
        straight = text.translate(_STRAIGHT)
        return any(one.search(straight) for one in self.any)

    def is_asked_for(self, prompt: str) -> bool:
        """The prompt asks for it, or holds it itself."""
        return self.is_in(prompt) or any(one.search(prompt.translate(_STRAIGHT)) for one in self.cues)


def patterns() -> Mapping[str, Pattern]:
    """Those that one text alone can match: pause, identity-self, identity-other."""
    return {name: pattern for name, pattern in _definitions().items() if pattern.any}


def rules() -> tuple[Rule, ...]:
    """Every marker's rule, the concise reply's included; a protocol keeps their versions."""
    return tuple(pattern.rule for pattern in _definitions().values())


def examine(text: str, prompt: str = "") -> tuple[Finding, ...]:
    """What one text holds, as findings of severity info: they are counted, never acted upon.

    Args:
        prompt: what the model was told just before; decides whether the marker was solicited.
    """
    found = []
    for name, pattern in patterns().items():
        spans = pattern.find(text)
        if spans:
            asked = pattern.is_asked_for(prompt)
            said = f"marker {name}, {'asked for' if asked else 'not asked for'} by the prompt"
            found.append(pattern.rule.finding(said, float(len(spans)), spans=spans, evidence={"solicited": asked}))
    return tuple(found)


# ------------------------------------------------------------------------------------------- the first concise reply


@dataclass(frozen=True)
class Reply:
    """A reply, what it answers, and the rule and severity of each finding in it."""

    text: str
    prompt: str = ""
    findings: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, text: str, prompt: str, findings: Iterable[Mapping[str, Any]]) -> Reply:
        """From findings as an episode keeps them."""
        return cls(text, prompt, tuple((str(one["rule"]), str(one["severity"])) for one in findings))

    @property
    def looped(self) -> bool:
        return any(rule == TAIL_CYCLE.id for rule, _ in self.findings)

    @property
    def clean(self) -> bool:
        """No loop, passing ones included, and nothing of severity watch or above."""
        return not any(rule.startswith("loops.") or severity != "info" for rule, severity in self.findings)


@dataclass(frozen=True)
class Series:
    """How many replies there were, how many looped, and whether the first concise one has been seen. Kept as JSON."""

    replies: int = 0
    looped: int = 0
    found: bool = False

    def after(self, reply: Reply) -> tuple[Series, Finding | None]:
        """The series with one more reply, and the finding if that is the first concise one."""
        settings, pattern = _concise(), _definitions()["concise"]
        due = self.replies >= settings["replies"] and self.looped >= settings["looped"] * self.replies
        finding = None
        if due and not self.found and reply.clean and is_concise(reply.text):
            before = wilson(self.looped, self.replies)
            asked = pattern.is_asked_for(reply.prompt)
            finding = pattern.rule.finding(
                f"the first concise reply ({_words(reply.text)} words), {'asked for' if asked else 'not asked for'}; "
                f"before it looped {before}",
                float(_words(reply.text)),
                spans=(Span(0, len(reply.text), "character"),),
                evidence={"solicited": asked, "replies": self.replies, "looped": self.looped},
            )
        return Series(self.replies + 1, self.looped + reply.looped, self.found or finding is not None), finding


def first_concise(replies: Iterable[Reply]) -> tuple[int, Finding] | None:
    """Index of the first concise reply of a whole series, with its finding."""
    series = Series()
    for index, reply in enumerate(replies):
        series, finding = series.after(reply)
        if finding is not None:
            return index, finding
    return None


def is_concise(text: str) -> bool:
    """The form alone, 1 to 25 words that end in . ! or ?: what a base rate of the concise reply counts.

    >>> is_concise("I like the sea.")
    True
    """
    return 1 <= _words(text) <= _concise()["words"] and text.rstrip().endswith(_ENDS)


# --------------------------------------------------------------------------------------------- rates and chance


@dataclass(frozen=True)
class Chance:
    """P(at least one) in `texts` texts that hold it at a base rate; `lo` and `hi` are at the base's own 95 % ends."""

    base: Rate
    texts: int
    at_least_one: Interval

    def __str__(self) -> str:
        one = self.at_least_one
        return (
            f"base rate {self.base}: at least one in {self.texts} texts by chance with probability "
            f"{one.value:.1%} ({one.lo:.1%} to {one.hi:.1%})"
        )


def chance(base: Rate, texts: int) -> Chance:
    """1 - (1 - base)^n. Where the base rate is 0 of m its upper end still is not: look at `hi` before calling it rare.

    >>> round(chance(wilson(1, 1000), 1000).at_least_one.value, 2)
    0.63
    """
    value, lo, hi = (1 - (1 - share) ** texts for share in (base.value, base.lo, base.hi))
    return Chance(base, texts, Interval(value, lo, hi))


@dataclass(frozen=True)
class Counted:
    """One marker over a set of texts.

    Attributes:
        all, unsolicited: share of the texts that hold it; unsolicited ones are counted over the texts whose prompt did not
            ask for it (None: every prompt did).
        first: index of the first text that holds it unsolicited.
        training, reference: chance of at least one unsolicited at their rates; None where they were not given.
    """

    name: str
    version: str
    all: Rate
    unsolicited: Rate | None
    first: int | None
    training: Chance | None
    reference: Chance | None

    @property
    def text(self) -> str:
        said = [
            f"Marker {self.name} (version {self.version}): {self.all}; unsolicited {self.unsolicited or 'never asked'}."
        ]
        for place, found in (("Training text", self.training), ("The reference", self.reference)):
            said.append(f"{place}: {found}." if found else f"{place} was not counted.")
        return " ".join(said)


def count(
    name: str,
    replies: Sequence[Reply],
    training: Rate | None = None,
    reference: Sequence[Reply] | None = None,
) -> Counted:
    """How often a marker occurs, with its denominator, and what chance makes of that.

    Args:
        name: pause, identity-self, identity-other, or concise (the form alone, in replies without a loop or watch finding).
        replies: of the model, with their prompts, in order of time.
        training: its rate in pieces of training text as long as these replies (`base_rate`).
        reference: replies of the reference checkpoint to the same prompts.

    Raises:
        NoChecks: no replies.
        KeyError: no such marker.
    """
    pattern = _definitions()[name]
    there, fresh, first = _tally(pattern, replies)
    unsolicited = wilson(*fresh) if fresh[1] else None
    usual = _tally(pattern, reference)[1] if reference else (0, 0)
    asked = fresh[1]
    return Counted(
        name,
        pattern.rule.version,
        wilson(there, len(replies)),
        unsolicited,
        first,
        chance(training, asked) if training and asked else None,
        chance(wilson(*usual), asked) if usual[1] and asked else None,
    )


def base_rate(name: str, texts: Iterable[str], words: int) -> Rate:
    """Share of pieces of `words` words of these texts that hold a marker.

    For "concise" give utterances (lines of a conversation), not documents: the ends of pieces are nobody's.

    Raises:
        NoChecks: there is no text.
    """
    pattern = _definitions()[name]
    held = [_holds(pattern, Reply(piece)) for piece in pieces(texts, words)]
    return wilson(sum(held), len(held))


def pieces(texts: Iterable[str], words: int) -> Iterator[str]:
    """Texts cut into stretches of at most this many words, punctuation and line breaks kept."""
    for text in texts:
        starts = [match.start() for match in re.finditer(r"\S+", text)][:: max(1, words)]
        for start, end in zip(starts, [*starts[1:], len(text)][: len(starts)], strict=True):  # none in an empty line
            yield text[start:end].rstrip()


def _tally(pattern: Pattern, replies: Sequence[Reply]) -> tuple[int, tuple[int, int], int | None]:
    """Texts that hold it; those of them that were not asked for, of how many; and the first such."""
    held = [_holds(pattern, reply) for reply in replies]
    free = [index for index, reply in enumerate(replies) if not pattern.is_asked_for(reply.prompt)]
    unasked = [index for index in free if held[index]]
    return sum(held), (len(unasked), len(free)), unasked[0] if unasked else None


def _holds(pattern: Pattern, reply: Reply) -> bool:
    return pattern.is_in(reply.text) if pattern.any else reply.clean and is_concise(reply.text)


def _words(text: str) -> int:
    return len(text.split())


# ------------------------------------------------------------------------------------------------- definitions


def _concise() -> dict[str, Any]:
    return dict(_file()["concise"])


@cache
def _definitions() -> Mapping[str, Pattern]:
    content = _file()
    fragments = dict(content["fragments"])

    def compiled(sources: Sequence[str]) -> tuple[re.Pattern[str], ...]:
        return tuple(re.compile(_expanded(source, fragments), re.IGNORECASE) for source in sources)

    return {
        name: Pattern(
            name,
            Rule("markers", f"markers.{name}", part["version"], "info", part["definition"]),
            compiled(part.get("any", ())),
            compiled(part["cues"]),
        )
        for name, part in content.items()
        if name != "fragments"
    }


def _expanded(source: str, fragments: Mapping[str, str]) -> str:
    return re.sub(r"%(\w+)%", lambda match: fragments[match[1]], source)


@cache
def _file() -> dict[str, Any]:
    return tomllib.loads(Path(__file__).with_name("markers.toml").read_text(encoding="utf8"))
