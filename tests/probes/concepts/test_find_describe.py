"""What a card says of a concept, on coordinates, weights and words that we chose."""

from __future__ import annotations

import pytest
import torch

from lab.model import GPT, GPTConfig
from probes.concepts.describe import histogram, in_context, places_along, token_effects
from probes.concepts.text import characters, unlabelled_set
from probes.layers.annotated import plain
from probes.layers.probe_set import BadProbeSet, check
from tests.probes.toys import Pieces


def test_examples_come_from_both_ends_and_from_around_each_quantile() -> None:
    score = torch.randperm(1000, generator=torch.Generator().manual_seed(0)).double()
    kept = score != 999  # the largest is an outlier
    found = places_along(score, kept)
    assert score[found["top"]].tolist() == [998.0 - i for i in range(12)]
    assert score[found["bottom"]].tolist() == [float(i) for i in range(12)]
    for quantile in ("0.9", "0.75", "0.5", "0.25", "0.1"):
        assert len(found[quantile]) == 4
        assert float(score[found[quantile]].mean()) == pytest.approx(999 * float(quantile), abs=4)


def test_a_dozen_words_are_not_shown_at_both_ends() -> None:
    found = places_along(torch.arange(5).double(), torch.ones(5, dtype=torch.bool))
    assert not set(found["top"]) & set(found["bottom"])


def test_a_histogram_counts_every_word_once_even_beyond_the_axis() -> None:
    generator = torch.Generator().manual_seed(0)
    score = torch.randn(3000, generator=generator).double()
    score[0] = 1e6
    label = torch.randint(-1, 2, (3000,), generator=generator)
    found = histogram(score, label, ("a", "b"))
    assert found["edges"][-1] < 10, "one odd word must not stretch the axis"
    assert [sum(found["counts"][name]) for name in ("a", "b")] == torch.bincount(label[label >= 0]).tolist()
    alone = histogram(score, label, ())
    assert sum(alone["counts"]["all words"]) == 3000
    assert sum(histogram(torch.zeros(9), torch.zeros(9).long(), ("a",))["counts"]["a"]) == 9


def test_promoted_tokens_are_those_that_the_gain_and_the_unembedding_raise() -> None:
    model = GPT(GPTConfig(n_layers=1, d_model=4, n_heads=1, n_ctx=8, d_vocab=9))
    with torch.no_grad():
        model.ln_final.w.copy_(torch.tensor([1.0, 0.0, 2.0, 1.0]))
        model.unembed.W_U.zero_()
        model.unembed.W_U[0, 3], model.unembed.W_U[0, 5] = 1.0, -1.0
        model.unembed.W_U[1, 7] = 9.0  # behind a gain of zero
    [found] = token_effects(model, {"first": torch.tensor([1.0, 1.0, 0.0, 0.0])}, str, top=2)
    assert found["direction"] == "first"
    assert found["promoted"][0] == {"token": "3", "id": 3, "logit": pytest.approx(1.0)}
    assert found["demoted"][0]["id"] == 5 and found["demoted"][0]["logit"] == pytest.approx(-1.0)
    assert all(abs(token["logit"]) < 1.5 for token in found["promoted"])


def test_words_are_found_again_in_their_sentence() -> None:
    texts = ["The old farmer's dog ran home.", "Don't ask, said the soldier; it rained."]
    tokenizer = Pieces()
    found = unlabelled_set([plain(text, "d") for text in texts], tokenizer, 96)
    check(found)
    words = [
        texts[sentence][start:end]
        for sentence, (start, end) in zip(found.word_sentence, characters(found, tokenizer), strict=True)
    ]
    assert words[:5] == ["The", "old", "farmer", "dog", "ran"] and "soldier" in words and "it" in words
    shown = in_context(found, characters(found, tokenizer), 2)
    assert shown == {"before": "The old ", "word": "farmer", "after": "'s dog ran home."}


def test_words_beyond_the_context_are_left_out_and_counted() -> None:
    sentence = plain("one two three four five six seven eight nine ten", "d")
    found = unlabelled_set([sentence], Pieces(), 8)
    check(found)
    assert len(found.tokens[0]) == 8 and found.dropped["words beyond the context"] > 0
    with pytest.raises(BadProbeSet, match="without a word"):
        unlabelled_set([plain("123 !!", "d")], Pieces(), 8)
