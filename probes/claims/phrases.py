"""Phrases as a trie: tables of templates in, the longest phrase at a place out.

A template is words with `(a|b)` alternatives and `[a]` options. `#` stands for a number, `#th` for an ordinal, and
`@name` for any word of a class. Matching looks at most as many tokens ahead as the longest template has, so a text is
read in linear time, whatever it holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from probes.claims.sentences import NUMBERS, ORDINALS, Token

Item = TypeVar("Item")
_PIECE = re.compile(r"[()\[\]|]|[^\s()\[\]|]+")


@dataclass
class _Node(Generic[Item]):
    items: list[Item] = field(default_factory=list)
    children: dict[str, _Node[Item]] = field(default_factory=dict)


@dataclass(frozen=True)
class Match(Generic[Item]):
    item: Item
    end: int  # index after the phrase's last token
    numbers: tuple[float, ...]


def expand(template: str) -> list[tuple[str, ...]]:
    """Every sequence of words that a template stands for.

    >>> sorted(" ".join(words) for words in expand("(early|late) [on]"))
    ['early', 'early on', 'late', 'late on']
    """
    return _alternatives(_PIECE.findall(template), 0)[0]


def _alternatives(pieces: list[str], at: int) -> tuple[list[tuple[str, ...]], int]:
    done: list[tuple[str, ...]] = []
    current: list[tuple[str, ...]] = [()]
    while at < len(pieces) and pieces[at] not in (")", "]"):
        piece = pieces[at]
        if piece == "|":
            done, current = done + current, [()]
        elif piece in ("(", "["):
            inner, at = _alternatives(pieces, at + 1)
            inner = [*inner, ()] if piece == "[" else inner
            current = [head + tail for head in current for tail in inner]
        else:
            current = [(*head, piece) for head in current]
        at += 1
    return done + current, at


class Phrasebook(Generic[Item]):
    """Templates with what they mean. Where two meanings have the same words, the first that was added counts."""

    def __init__(self, classes: Mapping[str, str]) -> None:
        self._classes: dict[str, list[str]] = {}
        for name, words in classes.items():
            for word in words.split():
                self._classes.setdefault(word, []).append("@" + name)
        self._root: _Node[Item] = _Node()

    def add(self, template: str, item: Item) -> None:
        for words in expand(template):
            node = self._root
            for word in words:
                node = node.children.setdefault(word, _Node())
            node.items.append(item)

    def longest(self, tokens: Sequence[Token], at: int) -> Match[Item] | None:
        """The longest phrase that begins at a token."""
        best: Match[Item] | None = None
        stack: list[tuple[_Node[Item], int, tuple[float, ...]]] = [(self._root, at, ())]
        while stack:
            node, here, numbers = stack.pop()
            if node.items and here > at and (best is None or here > best.end):
                best = Match(node.items[0], here, numbers)
            if here == len(tokens):
                continue
            for key, value in self._keys(tokens[here]):
                if key in node.children:
                    stack.append((node.children[key], here + 1, (*numbers, value) if value is not None else numbers))
        return best

    def _keys(self, token: Token) -> Iterable[tuple[str, float | None]]:
        """Least specific first: the stack turns them round, so a literal word wins over its class at equal length."""
        if token.kind == "number" or token.text in NUMBERS:
            yield "#", token.number if token.number is not None else NUMBERS[token.text]
        if token.kind == "nth" or token.text in ORDINALS:
            yield "#th", token.number if token.number is not None else ORDINALS[token.text]
        for name in self._classes.get(token.text, ()):
            yield name, None
        if token.kind in ("word", "mark") and token.text != "#":  # a written "#" is no number
            yield token.text, None
