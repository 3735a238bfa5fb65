"""From journal text to sentences of tokens: Markdown blocks, quotation, sentence ends, contractions.

A small tokenizer written for the grammar, not for a model. Every token knows where it stands in the text, so a claim can
be marked in place. One pass, linear in the text, and nothing in it can raise: whatever is no word or number is a mark.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

SHORT_QUOTE = 3  # words: up to here quotation marks name a term, beyond they hold somebody's words
LONGEST_SENTENCE = 200  # tokens; a longer run without a full stop is no sentence that a grammar could read

_BLOCK_MARK = re.compile(r"[ \t]*(?:(?:[-*+•–]|\d{1,3}[.)]|#{1,6}|\[[ xX]\])[ \t]+)+")
_TOKEN = re.compile(
    r"(?P<number>\d{1,3}(?:[,\u00a0\u2009\u202f]\d{3})+(?!\d)|\d+(?:\.\d+)?)(?P<thousand>\s?[kK](?![^\W_]))?(?P<nth>(?:st|nd|rd|th)\b)?"
    r"|(?P<word>[^\W\d_]+(?:['’ʼ][^\W\d_]+)*)"
    r"|(?P<blank>[\s*_`~]+)"
    r"|(?P<dots>\.{2,}|…)"
    r"|(?P<mark>.)",
    re.DOTALL,
)
_DASHES = "-‐‑‒–—―−"
_OPENING, _CLOSING, _STRAIGHT = "“„«", "”»", '"'
_ABBREVIATIONS = (
    "al",
    "eg",
    "ie",
    "etc",
    "cf",
    "vs",
    "fig",
    "approx",
    "dr",
    "mr",
    "mrs",
    "ms",
    "prof",
    "eq",
    "sec",
    "ca",
    "pp",
)
_NUMBER_WORDS = "zero one two three four five six seven eight nine ten eleven twelve"
_ORDINAL_WORDS = "zeroth first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
NUMBERS = {word: float(value) for value, word in enumerate(_NUMBER_WORDS.split())}
ORDINALS = {word: float(value) for value, word in enumerate(_ORDINAL_WORDS.split())}
_SHORTENED = {"n't": "not", "'re": "are", "'ve": "have", "'ll": "will", "'m": "am", "'d": "would"}
_WHOLE = {
    "cannot": ("can", "not"),
    "can't": ("can", "not"),
    "won't": ("will", "not"),
    "shan't": ("shall", "not"),
    "ain't": ("is", "not"),
    "let's": ("let", "us"),
    "gonna": ("going", "to"),
    "wanna": ("want", "to"),
}
_IS_SHORTENED = frozenset(["it", "that", "there", "here", "he", "she", "what", "where", "who", "how", "why", "this"])


@dataclass(frozen=True)
class Token:
    """A word in lower case, a number ("#", "#th") or a mark, and where it stands in the text."""

    text: str
    start: int
    end: int
    number: float | None = None
    kind: str = "word"  # word, number, nth, mark


@dataclass
class Sentence:
    """Tokens without their full stop.

    Attributes:
        asks: it ends in a question mark.
        quotes: it holds more than a few words between quotation marks, or stands in a quoted block.
    """

    tokens: list[Token] = field(default_factory=list)
    asks: bool = False
    quotes: bool = False

    @property
    def start(self) -> int:
        return self.tokens[0].start

    @property
    def end(self) -> int:
        return self.tokens[-1].end


def sentences(text: str) -> Iterator[Sentence]:
    """The sentences of a journal entry, in order; code is skipped, block quotes are marked as quotation."""
    for start, end, quoted in _blocks(text):
        for sentence in _sentences_of_block(list(_tokens(text, start, end))):
            sentence.quotes = sentence.quotes or quoted
            yield sentence


def _blocks(text: str) -> Iterator[tuple[int, int, bool]]:
    """Paragraphs, list items and headings as (start, end, is a block quote)."""
    position, opened, fenced = 0, -1, False
    for line in text.splitlines(keepends=True):
        start, bare = position, line.strip()
        position += len(line)
        fence = bare.startswith(("```", "~~~"))
        mark = _BLOCK_MARK.match(line)
        breaks = not bare or fence or fenced or mark is not None or bare[0] in ">|"
        if breaks and opened >= 0:
            yield opened, start, False
            opened = -1
        if fence:
            fenced = not fenced
        elif bare and not fenced:
            if bare[0] == ">":
                yield start, position, True
            elif mark is not None and bare[0] == "#":
                yield start + mark.end(), position, False
            elif bare[0] != "|" and opened < 0:
                opened = start + (mark.end() if mark else 0)
    if opened >= 0:
        yield opened, len(text), False


def _tokens(text: str, start: int, end: int) -> Iterator[Token]:
    for found in _TOKEN.finditer(text, start, end):
        at, to = found.span()
        if found["blank"]:
            continue
        if found["number"]:
            value = float(re.sub(r"[,\s]", "", found["number"])[:15]) * (1000 if found["thousand"] else 1)
            yield Token("#th" if found["nth"] else "#", at, to, value, "nth" if found["nth"] else "number")
        elif found["word"]:
            yield from _words(found["word"].lower().replace("’", "'").replace("ʼ", "'"), at, to)
        elif found["dots"]:
            yield Token("…", at, to, kind="mark")
        elif found["mark"] in _DASHES:
            near = text[at - 1 : at] + text[to : to + 1] if at > start else ""
            if len(near) == 2 and near.isdigit():
                yield Token("-", at, to, kind="mark")
            elif len(near) < 2 or not near.isalnum() or found["mark"] in "—―":  # in closed-class it only joins
                yield Token("—", at, to, kind="mark")
        else:
            yield Token(found["mark"], at, to, kind="mark")


def _words(word: str, start: int, end: int) -> Iterator[Token]:
    """One written word as the words it stands for: "isn't" is "is not", "model's" is "model"."""
    parts: tuple[str, ...]
    if word in _WHOLE:
        parts = _WHOLE[word]
    elif "'" not in word:
        parts = (word,)
    else:
        head, tail = word.rsplit("'", 1)
        if word.endswith("n't"):
            parts = (word[:-3], "not")
        elif tail == "s":
            parts = (head, "is") if head in _IS_SHORTENED else (head,)
        else:
            parts = (head, _SHORTENED["'" + tail]) if "'" + tail in _SHORTENED else (word,)
    for part in parts:
        yield Token(part, start, end)


def _sentences_of_block(tokens: list[Token]) -> Iterator[Sentence]:
    """Cut at full stops outside quotation; short quotations lose their marks, long ones mark their sentence."""
    closes = _quotations(tokens)
    sentence, quoted_until = Sentence(), -1
    for at, token in enumerate(tokens):
        if at in closes:
            quoted_until = max(quoted_until, closes[at])
            words = sum(other.kind != "mark" for other in tokens[at : closes[at]])
            sentence.quotes = sentence.quotes or words > SHORT_QUOTE
        if token.text in (*_OPENING, *_CLOSING, _STRAIGHT):
            continue
        ends = token.text in (".", "!", "?", "…") and token.kind == "mark"
        if not ends:
            sentence.tokens.append(token)
        elif token.text == "." and _is_abbreviation(tokens, at):
            continue
        else:
            sentence.asks = sentence.asks or token.text == "?"
            if at >= quoted_until and sentence.tokens and not _goes_on(tokens, at):
                yield sentence
                sentence = Sentence()
    if sentence.tokens:
        yield sentence


def _goes_on(tokens: list[Token], at: int) -> bool:
    """An ellipsis, or the "?!" of a run of marks, does not end the sentence twice."""
    return tokens[at].text == "…" and at + 1 < len(tokens)


def _is_abbreviation(tokens: list[Token], at: int) -> bool:
    before = tokens[at - 1] if at else None
    after = tokens[at + 1] if at + 1 < len(tokens) else None
    if before is None or before.end != tokens[at].start:
        return before is None
    glued = after is not None and after.start == tokens[at].end and after.kind == "word"
    return before.text in _ABBREVIATIONS or glued or (len(before.text) == 1 and before.text not in "i#")


def _quotations(tokens: list[Token]) -> dict[int, int]:
    """Index of each opening quotation mark → index of its close; one left open holds the rest of the block."""
    pairs: dict[int, int] = {}
    opened = -1
    for at, token in enumerate(tokens):
        if token.kind != "mark":
            continue
        if opened < 0 and token.text in (*_OPENING, _STRAIGHT):
            opened = at
        elif opened >= 0 and token.text in (*_CLOSING, _STRAIGHT):
            pairs[opened] = at
            opened = -1
    if opened >= 0:
        pairs[opened] = len(tokens)
    return pairs
