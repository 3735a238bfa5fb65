"""The n-gram index against an oracle that compares token by token."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.ngrams import BadIndex, NgramIndex, Words, overlap_with_earlier

few = st.integers(0, 3)  # few kinds of token, so that long runs repeat
streams = st.lists(st.lists(few, max_size=30), min_size=1, max_size=4)
queries = st.lists(st.integers(-3, 4), max_size=14)


def occurrences(stream: list[int], run: list[int]) -> int:
    return sum(stream[at : at + len(run)] == run for at in range(len(stream) - len(run) + 1))


def longest_from(parts: list[list[int]], query: list[int], start: int) -> int:
    lengths = range(len(query) - start, 0, -1)
    return next((n for n in lengths if any(occurrences(part, query[start : start + n]) for part in parts)), 0)


def index_of(parts: list[list[int]]) -> NgramIndex:
    return NgramIndex.build([np.array(part, dtype=np.uint16) for part in parts])


@given(streams, queries)
@settings(max_examples=150, deadline=None)
def test_every_length_is_the_longest_run_that_a_part_holds(parts: list[list[int]], query: list[int]) -> None:
    expected = [longest_from(parts, query, start) for start in range(len(query))]
    assert index_of(parts).lengths(query).tolist() == expected


@given(streams, queries)
@settings(max_examples=150, deadline=None)
def test_the_longest_match_is_there_and_none_is_longer(parts: list[list[int]], query: list[int]) -> None:
    match = index_of(parts).longest(query)
    expected = max((longest_from(parts, query, start) for start in range(len(query))), default=0)
    assert (match.length if match else 0) == expected
    if match:
        run = query[match.start : match.start + match.length]
        assert parts[match.part][match.position : match.position + match.length] == run


@given(streams, st.lists(few, min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_counts_are_exact(parts: list[list[int]], run: list[int]) -> None:
    assert index_of(parts).count(run) == sum(occurrences(part, run) for part in parts)


@given(streams, queries, st.integers(1, 6))
@settings(max_examples=150, deadline=None)
def test_covered_is_the_share_of_tokens_inside_a_known_ngram(parts: list[list[int]], query: list[int], n: int) -> None:
    starts = [s for s in range(len(query) - n + 1) if any(occurrences(p, query[s : s + n]) for p in parts)]
    inside = {at for start in starts for at in range(start, start + n)}
    assert index_of(parts).covered(query, n) == pytest.approx(len(inside) / len(query) if query else 0.0)


@given(st.lists(st.lists(few, max_size=12), max_size=6), st.integers(1, 5))
@settings(max_examples=200, deadline=None)
def test_overlap_counts_the_ngrams_that_an_earlier_document_has(documents: list[list[int]], n: int) -> None:
    def grams(document: list[int]) -> list[tuple[int, ...]]:
        if len(document) < n:
            return [tuple(document)] if document else []
        return [tuple(document[at : at + n]) for at in range(len(document) - n + 1)]

    expected = []
    for at, document in enumerate(documents):
        earlier = {gram for other in documents[:at] for gram in grams(other)}
        own = grams(document)
        expected.append(sum(gram in earlier for gram in own) / len(own) if own else 0.0)
    assert overlap_with_earlier(documents, n) == pytest.approx(expected)


def test_a_stored_index_answers_like_the_built_one(tmp_path: Path) -> None:
    parts = [
        np.array([1, 2, 3, 1, 2, 4], dtype=np.uint16),
        np.array([], dtype=np.uint16),
        np.array([9], dtype=np.uint16),
    ]
    NgramIndex.build(parts).save(tmp_path)
    stored = NgramIndex.load(tmp_path, parts)
    assert stored.longest([0, 1, 2, 4]) == NgramIndex.build(parts).longest([0, 1, 2, 4])
    assert stored.count([1, 2]) == 2


def test_an_index_of_other_tokens_is_refused(tmp_path: Path) -> None:
    parts = [np.arange(100, dtype=np.uint16)]
    NgramIndex.build(parts).save(tmp_path)
    with pytest.raises(BadIndex, match="no index of these"):
        NgramIndex.load(tmp_path, [parts[0][::-1].copy()])
    with pytest.raises(BadIndex, match="no index of these"):
        NgramIndex.load(tmp_path, [parts[0][:50]])
    with pytest.raises(BadIndex, match="cannot be read"):
        NgramIndex.load(tmp_path, [*parts, *parts])
    (tmp_path / "part-00000.order.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(BadIndex, match="cannot be read"):
        NgramIndex.load(tmp_path, parts)


def test_one_token_without_end_is_indexed_and_found() -> None:
    index = NgramIndex.build([np.zeros(20_000, dtype=np.uint16)])
    assert index.count([0] * 50) == 19_951
    match = index.longest([0] * 300, most=300)
    assert match is not None and match.length == 300


def test_words_ignore_case_marks_and_spacing_and_never_match_across_documents() -> None:
    words = Words()
    index = NgramIndex.build([words.add(["The old king’s HORSE, ran.", "Away it ran!"])])
    match = index.longest(words.encode("the  old king's horse — ran away"))
    assert match is not None and match.length == 5
    assert index.longest(words.encode("nobody knows")) is None


def test_an_empty_ngram_is_refused() -> None:
    index = index_of([[1, 2]])
    for ask in (lambda: index.count([]), lambda: index.contains([1], 0), lambda: overlap_with_earlier([[1]], 0)):
        with pytest.raises(ValueError, match="at least 1 token"):
            ask()
    with pytest.raises(ValueError, match="0 or more"):
        NgramIndex.build([np.array([-1, 2])])
