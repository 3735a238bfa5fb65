"""One index of n-grams: where a text has been seen before, word for word.

Echo (the longest run that a sentence shares with the training text, or with a prompt), surfacing, contamination
(13-grams, as in GPT-3's appendix C, arXiv:2005.14165) and de-duplication all ask the same: which runs of tokens occur
in that stream, and where? The answer is a suffix array per part of the stream, sorted by prefix doubling in numpy
(Manber & Myers 1993, doi:10.1137/0222058; only what is still tied is sorted again, Larsson & Sadakane 2007,
doi:10.1016/j.tcs.2007.07.017). Exact: nothing is hashed. 4 bytes per token kept, about 40 per token of one part while
it is built; tokens stay in their memory maps. A document never crosses a part, so neither does a match that matters.

Tokens are non-negative integers: a tokenizer's ids, or `Words`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Bool, Int, UInt32

from lab.durable import replace_file
from lab.errors import LabError

CONTAMINATION = 13
MOST = 256  # a shared run is counted up to this length unless told otherwise; no sentence is longer
_CELLS = 1 << 21  # tokens compared at once: 16 MB

_UNKNOWN, _QUERY_ENDS, _STREAM_ENDS = -3, -2, -1  # below every token, and never equal to one another

Tokens = Int[np.ndarray, "token"]


class BadIndex(LabError):
    """A stored index that does not belong to these tokens."""


@dataclass(frozen=True)
class Match:
    """A run of `length` tokens, at `start` of what was asked about and at `position` of part `part`."""

    length: int
    start: int
    part: int
    position: int


class NgramIndex:
    """Suffix arrays over the parts of a token stream.

    >>> index = NgramIndex.build([np.array([5, 1, 2, 3, 9])])
    >>> index.longest([1, 2, 3, 4])
    Match(length=3, start=0, part=0, position=1)
    """

    def __init__(self, parts: Sequence[np.ndarray], orders: Sequence[UInt32[np.ndarray, "token"]]) -> None:
        self._parts, self._orders = tuple(parts), tuple(orders)

    @classmethod
    def build(cls, parts: Sequence[np.ndarray]) -> Self:
        """Sort the suffixes of every part; `lab.windows.Stream.tokens` is such a sequence of parts."""
        return cls(parts, [_suffix_order(np.asarray(part)) for part in parts])

    def save(self, folder: Path) -> None:
        """One file a part; the tokens themselves are not copied."""
        folder.mkdir(parents=True, exist_ok=True)
        for number, order in enumerate(self._orders):
            content = io.BytesIO()
            np.save(content, order, allow_pickle=False)
            replace_file(folder / f"part-{number:05d}.order.npy", content.getvalue())

    @classmethod
    def load(cls, folder: Path, parts: Sequence[np.ndarray]) -> Self:
        """Open what `save` wrote, over the same parts.

        Raises:
            BadIndex: a file is missing, damaged or of other tokens.
        """
        orders = []
        for number, part in enumerate(parts):
            file = folder / f"part-{number:05d}.order.npy"
            try:
                order = np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
            except (OSError, ValueError, EOFError) as error:
                raise BadIndex(f"{file} cannot be read ({error}). Delete {folder} and build the index again.") from None
            if order.dtype != np.uint32 or order.shape != part.shape or not _looks_sorted(np.asarray(part), order):
                raise BadIndex(f"{file} is no index of these {len(part)} tokens. Delete {folder} and build it again.")
            orders.append(order)
        return cls(parts, orders)

    def longest(self, query: Sequence[int] | Tokens, most: int = MOST) -> Match | None:
        """The longest run that query and stream share, of equal ones the first in the query; None if they share no token."""
        asked = _asked(query)
        best: Match | None = None
        for part in range(len(self._parts)):
            lengths, positions = self._search(part, asked, most)
            if len(lengths) and lengths.max() > (best.length if best else 0):
                start = int(lengths.argmax())
                best = Match(int(lengths[start]), start, part, int(positions[start]))
        return best

    def lengths(self, query: Sequence[int] | Tokens, most: int = MOST) -> Int[np.ndarray, "token"]:
        """For every position of the query, the length of the longest run from there that the stream holds (≤ `most`)."""
        asked = _asked(query)
        found = np.zeros(len(asked), dtype=np.int64)
        for part in range(len(self._parts)):
            np.maximum(found, self._search(part, asked, most)[0], out=found)
        return found

    def contains(self, query: Sequence[int] | Tokens, n: int) -> Bool[np.ndarray, "ngram"]:
        """Which n-grams of the query the stream holds; empty if the query is shorter than n."""
        _check(n)
        return self.lengths(query, most=n)[: max(0, len(query) - n + 1)] >= n

    def covered(self, query: Sequence[int] | Tokens, n: int = CONTAMINATION) -> float:
        """Share of the query's tokens that lie in an n-gram which the stream holds: 0 = new, 1 = seen throughout."""
        hits = np.flatnonzero(self.contains(query, n))
        if not len(hits):
            return 0.0
        edges = np.zeros(len(query) + 1, dtype=np.int64)
        np.add.at(edges, hits, 1)
        np.add.at(edges, hits + n, -1)
        return float((edges.cumsum()[:-1] > 0).mean())

    def count(self, ngram: Sequence[int] | Tokens) -> int:
        """How often the stream holds these tokens in a row.

        Raises:
            ValueError: it is empty.
        """
        rows = _asked(ngram)[None, :]
        _check(rows.shape[1])
        return sum(
            int(_bound(tokens, order, rows, after=True)[0] - _bound(tokens, order, rows, after=False)[0])
            for tokens, order in zip(self._parts, self._orders, strict=True)
        )

    def _search(self, part: int, query: Tokens, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Longest match of each suffix of the query in a part, and where: the neighbours of its place in the order."""
        tokens, order = self._parts[part], self._orders[part]
        lengths, positions = np.zeros(len(query), np.int64), np.zeros(len(query), np.int64)
        width = min(most, len(query))
        if not len(tokens) or width < 1:
            return lengths, positions
        step = max(1, _CELLS // width)
        for first in range(0, len(query), step):
            rows = _gather(query, np.arange(first, min(first + step, len(query))), width, beyond=_QUERY_ENDS)
            place = _bound(tokens, order, rows, after=False)
            for neighbour in (place - 1, place):
                at = order[np.clip(neighbour, 0, len(order) - 1)].astype(np.int64)
                same = _gather(tokens, at, width, beyond=_STREAM_ENDS) == rows
                length = np.where(same.all(axis=1), width, same.argmin(axis=1))
                here = slice(first, first + len(rows))
                better = length > lengths[here]
                lengths[here] = np.where(better, length, lengths[here])
                positions[here] = np.where(better, at, positions[here])
        return lengths, positions


class Words:
    """Words as tokens, for text that has no tokenizer: case, punctuation and spacing do not count.

    Words met by `add` get ids from 1 on; `encode` gives any other word -1, which no stream holds. 0 parts documents.
    """

    _WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def add(self, texts: Iterable[str]) -> Int[np.ndarray, "token"]:
        """The texts as one stream, with a 0 after each."""
        stream: list[int] = []
        for text in texts:
            stream += [self._ids.setdefault(word, len(self._ids) + 1) for word in self.split(text)]
            stream.append(0)
        return np.array(stream, dtype=np.int64)

    def encode(self, text: str) -> Int[np.ndarray, "token"]:
        """A text to ask about."""
        return np.array([self._ids.get(word, -1) for word in self.split(text)], dtype=np.int64)

    @classmethod
    def split(cls, text: str) -> list[str]:
        return [word.replace("’", "'") for word in cls._WORD.findall(text.casefold())]


def overlap_with_earlier(documents: Sequence[Sequence[int] | Tokens], n: int) -> list[float]:
    """For each document the share of its n-grams that a document before it has: 1 = nothing new, 0 = all new.

    A document shorter than n counts as one n-gram of its own length, so short duplicates are found too.
    """
    _check(n)
    sizes = [len(document) for document in documents]
    if not sum(sizes):
        return [0.0] * len(sizes)
    # each document is followed by n - 1 fillers of its own kind (-1), which make the n-grams at its end shorter ones
    width = np.array([size + n - 1 for size in sizes])
    stream = np.full(int(width.sum()), -1, dtype=np.int64)
    starts = np.concatenate([[0], width.cumsum()[:-1]])
    for start, document in zip(starts, documents, strict=True):
        stream[start : start + len(document)] = document
    grams = _classes(stream, n)
    owner = np.repeat(np.arange(len(sizes)), [max(1, size - n + 1) if size else 0 for size in sizes])
    at = np.concatenate(
        [np.arange(start, start + max(1, size - n + 1)) for start, size in zip(starts, sizes, strict=True) if size]
    )
    of = grams[at]
    first = np.full(int(grams.max()) + 1, len(sizes), dtype=np.int64)
    np.minimum.at(first, of, owner)
    total = np.bincount(owner, minlength=len(sizes))
    seen = np.bincount(owner, weights=first[of] < owner, minlength=len(sizes))
    return [float(s / t) if t else 0.0 for s, t in zip(seen, total, strict=True)]


def _check(n: int) -> None:
    if n < 1:
        raise ValueError(f"an n-gram has at least 1 token, not {n}")


def _asked(query: Sequence[int] | Tokens) -> Tokens:
    """A query as an array; a negative token stands for one that no stream holds."""
    tokens = np.asarray(query, dtype=np.int64)
    return np.where(tokens < 0, _UNKNOWN, tokens)


def _suffix_order(tokens: np.ndarray) -> UInt32[np.ndarray, "token"]:
    """Positions in the order of the text that follows them; a text that ends first comes first."""
    n = len(tokens)
    if n >= 1 << 32:
        raise ValueError(f"a part of {n} tokens is too long for one index; split it below 2^32")
    if n and tokens.min() < 0:
        raise ValueError("tokens must be 0 or more")
    rank = np.unique(tokens, return_inverse=True)[1].astype(np.int64)
    order = np.argsort(rank, kind="stable")
    rank = _ranks_of(order, rank)
    length = 1
    tied = _tied(rank[order])
    while tied.any():
        slots = np.flatnonzero(tied)
        some = order[slots]
        key = rank[some] * (n + 1) + _shifted(rank, some, length)
        turn = np.argsort(key, kind="stable")
        order[slots], key = some[turn], key[turn]
        starts = np.concatenate([[True], key[1:] != key[:-1]])  # the first of each group of equals is its rank
        rank[order[slots]] = slots[np.maximum.accumulate(np.where(starts, np.arange(len(slots)), 0))]
        length *= 2
        tied = _tied(rank[order])
    return order.astype(np.uint32)


def _ranks_of(order: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Each suffix's rank: the slot of the first suffix that is equal to it."""
    ordered = key[order]
    starts = np.concatenate([[True], ordered[1:] != ordered[:-1]]) if len(order) else np.zeros(0, bool)
    rank = np.empty_like(order)
    rank[order] = np.maximum.accumulate(np.where(starts, np.arange(len(order)), 0))
    return rank


def _tied(ordered: np.ndarray) -> np.ndarray:
    same = ordered[1:] == ordered[:-1]
    return np.concatenate([same, [False]]) | np.concatenate([[False], same]) if len(ordered) else np.zeros(0, bool)


def _shifted(rank: np.ndarray, at: np.ndarray, length: int) -> np.ndarray:
    """Rank of what follows `length` tokens later, from 1; 0 = nothing follows."""
    beyond = at + length >= len(rank)
    return np.where(beyond, 0, rank[np.where(beyond, 0, at + length)] + 1)


def _classes(tokens: np.ndarray, n: int) -> np.ndarray:
    """A number for the n-gram at each position; equal numbers = equal n-grams. By doubling, then one overlapping pair."""
    kind = np.unique(tokens, return_inverse=True)[1].astype(np.int64)
    length = 1
    while length < n:
        step = min(length, n - length)
        key = kind * (len(kind) + 1) + _shifted(kind, np.arange(len(kind)), step)
        kind = np.unique(key, return_inverse=True)[1].astype(np.int64)
        length += step
    return kind


def _gather(tokens: np.ndarray, at: np.ndarray, width: int, beyond: int) -> Int[np.ndarray, "row width"]:
    """`width` tokens from each position; past the end stands `beyond`."""
    index = at[:, None] + np.arange(width)[None, :]
    outside = index >= len(tokens)
    found = tokens[np.where(outside, 0, index)].astype(np.int64)
    found[outside] = beyond
    return found


def _bound(tokens: np.ndarray, order: np.ndarray, rows: np.ndarray, after: bool) -> Int[np.ndarray, "row"]:
    """Slot of the first suffix that is not below each row; with `after`, of the first that does not begin with it."""
    low, high = np.zeros(len(rows), np.int64), np.full(len(rows), len(order), np.int64)
    while (low < high).any():
        middle = (low + high) // 2
        at = order[np.minimum(middle, len(order) - 1)].astype(np.int64)
        suffix = _gather(tokens, at, rows.shape[1], beyond=_STREAM_ENDS)
        differs = suffix != rows
        where = differs.argmax(axis=1)
        line = np.arange(len(rows))
        below = np.where(differs.any(axis=1), suffix[line, where] < rows[line, where], after)
        open_ = low < high
        low = np.where(open_ & below, middle + 1, low)
        high = np.where(open_ & ~below, middle, high)
    return low


def _looks_sorted(tokens: np.ndarray, order: np.ndarray, checks: int = 1000) -> bool:
    """Whether neighbours at evenly spread slots are in order, as far as their first 8 tokens tell."""
    if len(order) < 2:
        return len(order) == 0 or int(order[0]) == 0
    if int(order.max()) >= len(order):
        return False
    slots = np.unique(np.linspace(0, len(order) - 2, checks).astype(np.int64))
    one, two = (_gather(tokens, order[slots + k].astype(np.int64), 8, beyond=_STREAM_ENDS) for k in (0, 1))
    differs = one != two
    where = differs.argmax(axis=1)
    line = np.arange(len(slots))
    return bool((one[line, where] <= two[line, where]).all())


__all__ = ["BadIndex", "Match", "NgramIndex", "Words", "overlap_with_earlier"]
