"""Sixty sentences by someone who had not seen the grammar: it must not do worse on them than at first sight."""

import tomllib
from pathlib import Path
from typing import Any

from probes.claims.grammar import PARSED, UNTESTABLE, Claim, parse
from probes.layers.labels import ALL_LABELS

UNSEEN: dict[str, Any] = tomllib.loads(
    Path(__file__).with_name("unseen_claim_sentences.toml").read_text(encoding="utf8")
)
SENTENCES: list[dict[str, Any]] = UNSEEN["sentence"]

# The author's plain words for subjects, where the grammar calls them by other names.
SUBJECTS = {
    "meaning": {"semantic concepts"},
    "concepts": {"semantic concepts"},
    "part of speech": {"parts of speech"},
    "nouns and verbs (part of speech)": {"nouns", "verbs", "parts of speech"},
    "animals and places": {"animals", "places"},
    "position in the sentence": {"position"},
}
# … and for places and times: unit, least and greatest value of the first end, and of the last.
REGIONS = {
    "early": ("depth", (0, 0), (0.1, 0.5)),
    "middle": ("depth", (0.1, 0.5), (0.5, 0.9)),
    "late": ("depth", (0.5, 0.9), (1, 1)),
    "layer 2 or below": ("layer", (0, 0), (2, 2)),
    "layers 5 to 7": ("layer", (5, 5), (7, 7)),
    "late in training": ("share", (0.5, 0.9), (1, 1)),
    "first half of training": ("share", (0, 0), (0.5, 0.5)),
    "by step 1000": ("step", (0, 0), (1000, 1000)),
}


def read(sentence: dict[str, Any]) -> list[Claim]:
    return parse(sentence["text"], entry="e1", labels=ALL_LABELS)


def is_named(name: str | None, words: str) -> bool:
    return name in SUBJECTS.get(words, {words})


def is_within(place: dict[str, Any] | None, words: str) -> bool:
    unit, first, last = REGIONS[words]
    if place is None or place["unit"] != unit:
        return False
    start, end = place["first"] or 0, place["last"]
    return end is not None and first[0] <= start <= first[1] and last[0] <= end <= last[1]


def says(claim: Claim, wanted: dict[str, Any]) -> bool:
    """The claim has the kind, subjects, order, polarity and place that the author wrote down."""
    if claim.status != PARSED or claim.kind != wanted["kind"]:
        return False
    affirmed = (wanted["polarity"] == "yes") != (wanted["b"] == "moves")
    if claim.polarity != ("positive" if affirmed else "negative"):
        return False
    if wanted["kind"] == "depth_order" and "order" in wanted:
        pair = [(claim.a, claim.b), (claim.b, claim.a)]
        return claim.relation == wanted["order"] and any(
            is_named(one, wanted["a"]) and is_named(other, wanted["b"]) for one, other in pair
        )
    if not is_named(claim.a, wanted["a"]):
        return False
    if wanted["b"] in REGIONS:
        return claim.b is None and is_within(claim.when if wanted["kind"] == "emergence" else claim.where, wanted["b"])
    if wanted["kind"] in ("stability", "causal"):
        return claim.b is None
    return claim.relation is None and is_named(claim.b, wanted["b"])


def is_right(sentence: dict[str, Any]) -> bool:
    claims = read(sentence)
    if sentence["expect"] == "claim":
        return any(says(claim, sentence) for claim in claims)
    wrong = {PARSED, UNTESTABLE} if sentence["expect"] == "none" else {PARSED}
    return not any(claim.status in wrong for claim in claims)


def test_half_of_the_unseen_sentences_are_claims_of_all_kinds_and_half_are_not():
    expected = [sentence["expect"] for sentence in SENTENCES]
    assert len({sentence["text"] for sentence in SENTENCES}) == UNSEEN["first_score"]["of"] == len(SENTENCES)
    assert (expected.count("claim"), expected.count("none"), expected.count("untestable")) == (30, 20, 10)
    kinds = {sentence["kind"] for sentence in SENTENCES if sentence["expect"] == "claim"}
    assert kinds == {"band", "depth_order", "emergence", "stability", "causal"}


def test_no_unseen_sentence_that_is_no_claim_is_read_as_a_testable_one():
    misread = [
        sentence["text"]
        for sentence in SENTENCES
        if sentence["expect"] != "claim" and any(claim.status == PARSED for claim in read(sentence))
    ]
    assert set(misread) <= set(UNSEEN["misread_at_first_sight"])
    assert len(UNSEEN["misread_at_first_sight"]) == UNSEEN["first_score"]["misread"]


def test_as_many_unseen_sentences_are_read_right_as_at_first_sight():
    missed = [sentence["text"] for sentence in SENTENCES if not is_right(sentence)]
    assert len(SENTENCES) - len(missed) >= UNSEEN["first_score"]["right"], missed
