"""Scorers and tiny models that were made to like one order → what the preference says of them."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.model import GPT, GPTConfig
from lab.tokenizer import Tokenizer
from probes.claims.grammar import Claim, parse
from probes.claims.preference import BadScores, Preference, preference, sentence_scorer
from probes.claims.reversal import WORDINGS, wordings
from probes.layers.problem import Untestable

TEXTS = [
    "Function words at lower layers, semantic concepts at higher layers.",
    "Function words and content words sit at the same depth.",
    "Function words are settled in the lower third.",
    "Function words are settled in the middle layers.",
    "Function words are settled in the upper half.",
    "Function words live in layers 2 to 3.",
    "Function words live from layer 3 upwards.",
    "Function words live in the last 2 layers.",
    "Function words emerged before semantic concepts in training.",
    "Function words emerged by step 500.",
    "Function words emerged after step 500.",
    "Function words emerged around step 1000.",
    "Function words emerged early in training.",
    "Function words emerged late in training.",
    "Function words have not moved since step 4000.",
    "The model relies on function words at the top.",
    "Removing function words hurts content words.",
]


def claim_of(text: str) -> Claim:
    (found,) = parse(text)
    return found


CLAIMS = [claim_of(text) for text in TEXTS]
SEED = CLAIMS[0]


def words_of(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text))


def noise(text: str) -> float:
    return int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32 - 0.5


def believer(claim: Claim, by: float) -> dict[str, float]:
    """Sentences of the claim get `by` nats more than those of its reversal."""
    liked = [text for wording in wordings(claim) for text in wording.claim]
    rest = [text for wording in wordings(claim) for text in wording.reversal]
    return {text: -40 + by + noise(text) / 10 for text in liked} | {text: -40 + noise(text) / 10 for text in rest}


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.text)
def test_claim_and_reversal_are_the_same_words_in_another_order(claim: Claim) -> None:
    found = wordings(claim)
    assert len(found) == WORDINGS >= 6
    for wording in found:
        for one, other in zip(wording.claim, wording.reversal, strict=True):
            assert one != other and words_of(one) == words_of(other)
        assert wording.claim[0] not in wording.reversal and wording.claim[1] not in wording.reversal


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.text)
def test_the_denial_of_a_claim_is_worded_as_its_reversal(claim: Claim) -> None:
    denied = replace(claim, polarity="negative" if claim.polarity == "positive" else "positive")
    for one, other in zip(wordings(claim), wordings(denied), strict=True):
        assert (one.claim, one.reversal) == (other.reversal, other.claim)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.text)
def test_a_believer_is_found_out_and_so_is_one_who_believes_the_reverse(claim: Claim) -> None:
    for by, expected in ((2.0, "claim"), (-2.0, "reversal"), (0.0, "neither")):
        table = believer(claim, by)
        found = preference(claim, lambda texts, table=table: [table[text] for text in texts])
        assert found.prefers == expected
        assert found.difference.value == pytest.approx(by, abs=0.1)
        assert found.claim_nats - found.reversal_nats == pytest.approx(found.difference.value)
        assert found.self_knowledge == (expected == "claim")
        assert ("No self-knowledge" in found.text) == (expected != "claim")


def test_whoever_only_likes_one_subject_first_prefers_neither() -> None:
    def first_named(texts: Sequence[str]) -> list[float]:
        return [-40.0 + 5 * (text.find("function words") < text.find("semantic concepts")) for text in texts]

    found = preference(SEED, first_named)
    assert (found.difference.value, found.prefers) == (0.0, "neither")


@given(st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_word_frequency_and_length_cancel(seed: int) -> None:
    def unigram(texts: Sequence[str]) -> list[float]:
        return [math.fsum(20 * noise(f"{seed} {word}") for word in sorted(re.findall(r"\w+", text))) for text in texts]

    for claim in CLAIMS:
        found = preference(claim, unigram)
        assert found.difference.value == pytest.approx(0.0, abs=1e-9)


def test_a_preference_the_reference_had_already_is_no_self_knowledge() -> None:
    table, weaker = believer(SEED, 2.0), believer(SEED, 0.5)
    same = preference(SEED, lambda texts: [table[t] for t in texts], lambda texts: [table[t] for t in texts])
    assert same.prefers == "claim" and not same.self_knowledge and "reference checkpoint did" in same.text
    more = preference(SEED, lambda texts: [table[t] for t in texts], lambda texts: [weaker[t] for t in texts])
    assert more.self_knowledge and more.reference is not None
    assert more.reference.value == pytest.approx(1.5, abs=1e-6)


def test_the_json_holds_what_the_verdict_file_promises() -> None:
    table = believer(SEED, 2.0)
    found = json.loads(json.dumps(preference(SEED, lambda texts: [table[t] for t in texts]).to_json()))
    assert set(found) == {
        "claim_nats", "reversal_nats", "difference", "reference", "paraphrases", "prefers", "text",
    }  # fmt: skip
    assert found["paraphrases"] == 2 * WORDINGS and set(found["difference"]) == {"value", "lo", "hi"}


# --- with our own models


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    sentences = [t for claim in CLAIMS for wording in wordings(claim) for t in (*wording.claim, *wording.reversal)]
    return Tokenizer.train(sentences, 420)


def tiny(tokenizer: Tokenizer, seed: int = 0) -> GPT:
    return GPT(GPTConfig(n_layers=2, d_model=48, n_heads=2, n_ctx=64, d_vocab=tokenizer.vocab_size), seed=seed)


def asked(model: GPT, tokenizer: Tokenizer, claim: Claim = SEED, reference: GPT | None = None) -> Preference:
    before = None if reference is None else sentence_scorer(reference, tokenizer)
    return preference(claim, sentence_scorer(model, tokenizer), before)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.text)
def test_claim_and_reversal_are_the_same_tokens(tokenizer: Tokenizer, claim: Claim) -> None:
    for wording in wordings(claim):
        for one, other in zip(wording.claim, wording.reversal, strict=True):
            assert Counter(tokenizer.encode(one)) == Counter(tokenizer.encode(other))


def test_the_score_is_the_log_probability_of_the_sentence_and_padding_adds_nothing(tokenizer: Tokenizer) -> None:
    model = tiny(tokenizer)
    sentences = ["At the bottom stood it.", "In this network function words can be read at lower layers than they."]
    for text, score in zip(sentences, sentence_scorer(model, tokenizer)(sentences), strict=True):
        ids = torch.tensor([tokenizer.bos, *tokenizer.encode(text)])
        logs = model(ids[None])[0].detach().log_softmax(-1)
        expected = sum(float(logs[at, ids[at + 1]]) for at in range(len(ids) - 1))
        assert score == pytest.approx(expected, abs=1e-3)


@pytest.fixture(scope="module")
def taught(tokenizer: Tokenizer) -> dict[str, GPT]:
    """Two models from the same weights, taught the claim or its reversal."""
    models = {}
    for name in ("claim", "reversal"):
        model = tiny(tokenizer)
        texts = [text for wording in wordings(SEED) for text in getattr(wording, name)]
        rows = [torch.tensor([[tokenizer.bos, *tokenizer.encode(text)]]) for text in texts]
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        for _ in range(12):
            for row in rows:
                optimizer.zero_grad()
                model(row, return_type="loss").backward()
                optimizer.step()
        models[name] = model
    return models


def test_a_model_taught_the_claim_prefers_it_and_one_taught_the_reverse_prefers_that(
    tokenizer: Tokenizer, taught: dict[str, GPT]
) -> None:
    untaught = tiny(tokenizer)
    for name, model in taught.items():
        found = asked(model, tokenizer, SEED, untaught)
        assert found.prefers == name
        assert found.self_knowledge == (name == "claim")


def test_an_untaught_model_has_no_self_knowledge(tokenizer: Tokenizer) -> None:
    found = [asked(tiny(tokenizer, seed), tokenizer) for seed in range(20)]
    assert sum(one.prefers != "neither" for one in found) <= 4  # nominal 1 of 20


def test_the_model_is_left_as_it_was_and_the_figures_are_the_same_again(tokenizer: Tokenizer) -> None:
    model = tiny(tokenizer)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    one, two = asked(model, tokenizer), asked(model, tokenizer)
    assert one == two and model.training
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


# --- bad inputs


def test_what_has_no_reversal_is_untestable(tokenizer: Tokenizer) -> None:
    everywhere = claim_of("Function words are settled in every layer.")
    whenever = replace(claim_of(TEXTS[9]), when=None)
    unread = replace(SEED, status="UNPARSED", kind=None)
    unknown = replace(SEED, kind="loudness")
    nowhere = replace(claim_of(TEXTS[5]), where=None)
    for claim in (everywhere, whenever, unread, unknown, nowhere):
        with pytest.raises(Untestable):
            wordings(claim)
        with pytest.raises(Untestable):
            asked(tiny(tokenizer), tokenizer, claim)


@pytest.mark.parametrize("scores", [[], [0.0], [math.nan] * 24, [-math.inf] * 24, [0.0] * 25])
def test_a_scorer_that_gives_no_finite_number_a_sentence_is_refused(scores: list[float]) -> None:
    with pytest.raises(BadScores, match="24 sentences"):
        preference(SEED, lambda _: scores)


def test_a_context_too_short_for_the_wordings_is_untestable(tokenizer: Tokenizer) -> None:
    model = GPT(GPTConfig(n_layers=1, d_model=32, n_heads=2, n_ctx=8, d_vocab=tokenizer.vocab_size))
    with pytest.raises(Untestable, match="the model reads 8"):
        asked(model, tokenizer)


def test_weights_that_are_not_finite_are_refused(tokenizer: Tokenizer) -> None:
    model = tiny(tokenizer)
    model.W_E.data.fill_(math.nan)
    with pytest.raises(BadScores, match="finite"):
        asked(model, tokenizer)
