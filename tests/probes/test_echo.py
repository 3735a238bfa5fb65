"""Texts with a planted source → the run of words that is found in them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.ngrams import Words
from lab.sections import Source
from lab.sources import documents, position
from probes.claims.echo import MOSTLY, RUN, WHOLE, NothingToEcho, Sources, find_echo, is_echo
from probes.layers.text import split_sentences

BOOK = [
    "A paper of that year says: function words are handled at the lower layers of the network, and it shows a plot.",
    "The dog ran after the carriage. Nobody saw it again until the spring.",
]
CLAIM = "Function words are handled at the lower layers, I think."


def test_the_longest_shared_run_is_found_whatever_the_case_and_punctuation() -> None:
    found = find_echo("FUNCTION words, are handled -- at the lower layers!", Sources.of(BOOK))
    assert found.training is not None and found.echo
    assert (found.training.words, found.training.of) == (8, 8)
    assert found.training.text == "function words are handled at the lower layers"


def test_a_sentence_of_its_own_is_no_echo() -> None:
    found = find_echo("Semantic concepts sharpen near the top of my stack.", Sources.of(BOOK))
    assert not found.echo and found.training is not None and found.training.words == 1  # "the"
    assert find_echo("Xylophones zigzag.", Sources.of(BOOK)).training is None


def test_a_run_never_crosses_from_one_document_to_the_next() -> None:
    found = Sources.of(["one two three four", "five six seven eight"]).longest("three four five six")
    assert found is not None and found.words == 2


def test_the_prompt_is_a_source_too() -> None:
    found = find_echo(CLAIM, None, prompt="Do you agree that function words are handled at the lower layers?")
    assert found.echo and found.training is None
    assert found.prompt is not None and found.prompt.words == 8
    assert "in the prompt" in found.text and "training" not in found.text
    assert find_echo(CLAIM, None, prompt="...").prompt is None


def test_the_json_holds_what_the_verdict_file_promises() -> None:
    found = find_echo(CLAIM, Sources.of(BOOK)).to_json()
    assert found["training"] == {"words": 8, "of": 10, "text": "function words are handled at the lower layers"}
    assert (found["prompt"], found["echo"]) == (None, True)
    assert found["text"] == "ECHO: 8 of its 10 words stand in a row in the training text."


@pytest.mark.parametrize(
    ("words", "of", "expected"),
    [
        (3, 3, False),
        (4, 4, True),
        (4, 5, False),
        (5, 6, False),
        (6, 10, True),
        (6, 11, False),
        (7, 12, False),
        (8, 99, True),
    ],
)
def test_the_rule_by_length(words: int, of: int, expected: bool) -> None:
    assert is_echo(words, of) is expected


@given(st.integers(0, 40), st.integers(1, 40))
def test_a_longer_run_of_the_same_claim_is_never_less_of_an_echo(words: int, of: int) -> None:
    if words < of:
        assert is_echo(words, of) <= is_echo(words + 1, of)
    assert not is_echo(words, of + words) or words >= min(WHOLE, MOSTLY, RUN)


WORD = st.sampled_from(["layer", "word", "early", "late", "top", "meaning", "a", "of"])
TEXT = st.lists(WORD, min_size=1, max_size=12).map(" ".join)


@given(st.lists(TEXT, min_size=1, max_size=4), TEXT)
@settings(max_examples=150, deadline=None)
def test_it_finds_what_a_search_for_every_run_finds(texts: list[str], claim: str) -> None:
    words = claim.split()
    runs = [words[i:j] for i in range(len(words)) for j in range(i + 1, len(words) + 1)]
    spaced = [f" {text} " for text in texts]
    longest = max((len(run) for run in runs if any(f" {' '.join(run)} " in text for text in spaced)), default=0)
    found = Sources.of(texts).longest(claim)
    assert (found.words if found else 0) == longest
    assert found is None or any(f" {found.text} " in text for text in spaced)


@pytest.mark.parametrize("claim", ["", "   ", "?!…", "__"])
def test_a_claim_without_a_word_is_refused(claim: str) -> None:
    with pytest.raises(NothingToEcho, match="no word"):
        Sources.of(BOOK).longest(claim)


@pytest.mark.parametrize("texts", [[], [""], ["...", "—"]])
def test_training_text_without_a_word_is_refused(texts: list[str]) -> None:
    with pytest.raises(NothingToEcho, match="hold no word"):
        Sources.of(texts)


@pytest.mark.slow
def test_few_ordinary_held_out_sentences_of_the_bundled_chats_are_called_an_echo() -> None:
    chats = [document for document, _ in documents(Source(name="chitchat", kind="chitchat"))]
    sources = Sources.of(chat.text for chat in chats if position(chat.digest) >= 0.02)
    found = [
        sources.longest(sentence)
        for chat in chats
        if position(chat.digest) < 0.02
        for sentence in split_sentences(chat.text)
        if len(Words.split(sentence)) >= 10
    ]
    assert len(found) > 1000
    assert sum(one is not None and one.is_echo for one in found) / len(found) < 0.06  # measured: 3 % of 1,512
