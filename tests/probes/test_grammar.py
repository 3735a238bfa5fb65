"""The grammar of claims: 120 sentences with their readings, and what must hold for any text."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from probes.claims.grammar import PARSED, UNPARSED, UNTESTABLE, Claim, parse, set_aside
from probes.claims.places import Region
from probes.claims.vocabulary import SUBJECTS
from probes.layers.labels import ALL_LABELS

LABELS = ("class.current", "class.next", "supersense.current", "supersense.next")
SENTENCES: dict[str, list[dict[str, Any]]] = tomllib.loads(
    Path(__file__).with_name("claim_sentences.toml").read_text(encoding="utf8")
)
CLAIMS, OTHERS, LATER = SENTENCES["claim"], SENTENCES["other"], SENTENCES["later"]


def read(text: str) -> list[Claim]:
    return parse(text, entry="e1", labels=LABELS)


def one(text: str) -> Claim:
    claims = read(text)
    assert len(claims) == 1, claims
    return claims[0]


def summary(claim: Claim) -> list[str]:
    place = claim.where or claim.when or {"text": ""}
    sign = "+" if claim.polarity == "positive" else "-"
    return [claim.kind or "", claim.a or "", claim.b or "", sign, place["text"]]


def is_read(sentence: dict[str, Any]) -> bool:
    claims = read(sentence["text"])
    expected = [[part.strip() for part in reading.split("|")] for reading in sentence["reads"]]
    if len(claims) != len(expected) or any(claim.status != PARSED for claim in claims):
        return False
    also = {key: value for key, value in sentence.get("also", {}).items() if key != "hedged"}
    return all(
        summary(claim)[: len(reading)] == reading
        and all(getattr(claim, key) == value for key, value in also.items())
        and ("hedged" not in sentence.get("also", {}) or bool(claim.hedges))
        for claim, reading in zip(claims, expected, strict=True)
    )


def is_left(sentence: dict[str, Any]) -> bool:
    claims = read(sentence["text"])
    if "missing" in sentence:
        missing = {task for claim in claims for task in claim.missing}
        return missing == set(sentence["missing"]) and all(claim.status == UNTESTABLE for claim in claims)
    return all(claim.status == UNPARSED for claim in claims)


def test_there_are_sixty_of_each() -> None:
    assert len(CLAIMS) == len(OTHERS) == 60
    assert len({sentence["text"] for sentence in CLAIMS + OTHERS}) == 120


def test_nineteen_of_twenty_sentences_are_read_as_they_are_meant() -> None:
    wrong = [s["text"] for s in CLAIMS if not is_read(s)] + [s["text"] for s in OTHERS if not is_left(s)]
    assert len(wrong) <= 6, wrong


@pytest.mark.parametrize("sentence", OTHERS, ids=lambda sentence: sentence["text"][:40])
def test_what_is_no_claim_is_never_testable(sentence: dict[str, Any]) -> None:
    assert all(claim.status != PARSED for claim in read(sentence["text"]))


@pytest.mark.parametrize("sentence", LATER, ids=lambda sentence: sentence["text"][:40])
def test_a_sentence_of_a_known_defect_loses_no_part_and_gains_none(sentence: dict[str, Any]) -> None:
    claims = parse(sentence["text"], entry="e1", labels=ALL_LABELS)
    if "none" in sentence:
        assert all(claim.status == UNPARSED for claim in claims)
        return
    expected = [[part.strip() for part in reading.split("|")] for reading in sentence["reads"]]
    asides = [reading[1] for reading in expected if reading[0] == "aside"]
    readings = [reading for reading in expected if reading[0] != "aside"]
    found = [summary(claim) if claim.status == PARSED else [claim.status] for claim in claims]
    assert [row[: len(reading)] for row, reading in zip(found, readings, strict=True)] == readings
    assert not asides or [aside.why for aside in set_aside(sentence["text"])] == asides


def test_the_later_sentences_are_six_or_more_of_each_defect_and_half_of_them_are_near_it() -> None:
    for defect in ("window", "trace", "words", "metaphor"):
        rows = [sentence for sentence in LATER if sentence["defect"] == defect]
        parsed = [row for row in rows if any(" | " in reading for reading in row.get("reads", []))]
        assert len(rows) >= 12 and len(rows) / 4 <= len(parsed) <= len(rows) * 3 / 4


def test_the_seed_sentence_reads_as_its_order() -> None:
    claim = one("function words at lower layers, semantic concepts at higher layers")
    assert (claim.kind, claim.a, claim.b, claim.polarity) == (
        "depth_order",
        "function words",
        "semantic concepts",
        "positive",
    )
    assert SUBJECTS[claim.a].tasks(LABELS) == ("class.current", "class.next")
    assert SUBJECTS[claim.b or ""].tasks(LABELS) == ("supersense.current", "supersense.next")
    assert (claim.reading, claim.scope, claim.status) == (None, "artefact", PARSED)


@pytest.mark.parametrize(
    ("positive", "negative"),
    [
        ("Function words come before content words.", "Function words do not come before content words."),
        ("Meaning sits at the top.", "Meaning never sits at the top."),
        ("Meaning sits at the top.", "Meaning no longer sits at the top."),
        ("Meaning is readable in layer 4.", "It is not true that meaning is readable in layer 4."),
        ("Meaning emerged before step 900.", "Meaning didn’t emerge before step 900."),
        ("Content words are stable.", "Content words aren't stable."),
        (
            "Removing function words at layer 2 hurts meaning.",
            "Removing function words at layer 2 does not hurt meaning.",
        ),
        ("I rely on meaning at the top.", "I hardly rely on meaning at the top."),
    ],
)
def test_a_negation_flips_the_polarity_and_nothing_else(positive: str, negative: str) -> None:
    claim, denied = one(positive), one(negative)
    assert (claim.polarity, denied.polarity) == ("positive", "negative")
    assert (claim.kind, claim.a, claim.b, claim.where, claim.when) == (
        denied.kind,
        denied.a,
        denied.b,
        denied.where,
        denied.when,
    )


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("in layer 2", "layer 2..2"),
        ("in L3", "layer 3..3"),
        ("in the first layer", "layer 1..1"),
        ("at layer zero", "layer 0..0"),
        ("in the embedding layer", "layer 0..0"),
        ("in layers 2–4", "layer 2..4"),
        ("from layer 2 to layer 4", "layer 2..4"),
        ("in layers two and three", "layer 2..3"),
        ("in layers 3, 4 and 5", "layer 3..5"),
        ("by layer 3", "layer 0..3"),
        ("below layer 3", "layer 0..2"),
        ("after layer 3", "layer 4..top"),
        ("from layer 3 on", "layer 3..top"),
        ("in the last layer", "layer top..top"),
        ("in the last two layers", "layer top-1..top"),
        ("in the first quarter of the network", "depth 0.00..0.25"),
        ("in the middle", "depth 0.33..0.67"),
        ("near the top", "depth 0.67..1.00"),
        ("everywhere", "depth 0.00..1.00"),
    ],
)
def test_a_place_is_read_exactly(place: str, expected: str) -> None:
    claim = one(f"Meaning is readable {place}.")
    assert claim.kind == "band" and claim.where is not None and claim.where["text"] == expected


def test_regions_become_layers_of_a_model() -> None:
    assert Region("layer", 3, None).layers(6) == (3, 6)
    assert Region("top", 1, 0).layers(6) == (5, 6)
    assert Region("depth", 0.5, 1.0).layers(6) == (3, 6)


def test_a_range_is_not_guessed_from_two_distant_layers() -> None:
    assert one("Meaning is readable in layers 2 and 5.").status == UNPARSED
    assert one("Meaning is readable in layers 2, 3 and 5.").status == UNPARSED
    assert one("Meaning is readable in layers 5-2.").status == UNPARSED
    assert one("Meaning is readable in layer 2.5.").status == UNPARSED
    assert one("Meaning is readable in the last 0 layers.").status == UNPARSED


@pytest.mark.parametrize(
    "text",
    [
        "Erasing function words at layer 2 hurts the model more than erasing meaning.",
        "Removing function words costs less than removing meaning.",
    ],
)
def test_which_of_two_removals_costs_more_is_not_read_as_one_hurting_the_other(text: str) -> None:
    claim = one(text)
    assert (claim.status, claim.reason) == (UNPARSED, "compares two removals, which is not measured")


def test_later_in_training_than_compares_and_names_no_window() -> None:
    for text in (
        "Semantic concepts emerged later in training than function words.",
        "Function words emerged much earlier in training than semantic concepts.",
    ):
        claim = one(text)
        assert (claim.kind, claim.a, claim.b, claim.when) == ("emergence", "function words", "semantic concepts", None)
    alone = one("Semantic concepts emerged later in training.")
    assert alone.when is not None and alone.when["text"] == "share 0.67..1.00"


def test_neither_and_nor_deny_both_places() -> None:
    claims = read("Function words are found in neither the middle nor the top layers.")
    assert [claim.polarity for claim in claims] == ["negative", "negative"]


def test_a_word_that_may_restrict_the_claim_is_not_read_past() -> None:
    claim = one("Function words in Spanish poems settle in the lower layers.")
    assert claim.status == UNPARSED and "spanish" in (claim.reason or "")


def test_a_subject_without_labels_names_the_missing_task_until_there_are_labels() -> None:
    text = "Nouns are settled in the upper layers."
    claim = one(text)
    assert claim.status == UNTESTABLE and claim.missing == ("pos",) and "'pos' for 'nouns'" in (claim.reason or "")
    assert parse(text, labels=("pos.current",))[0].status == PARSED


def test_what_is_set_aside_says_why() -> None:
    text = "Does meaning sit at the top? The paper says function words come first."
    assert [aside.why for aside in set_aside(text)] == ["question", "report"]
    assert read(text) == []


def test_markdown_code_and_quotations_are_not_the_writers_claims() -> None:
    claim = "Meaning sits at the top"
    text = f"# {claim}\n\n```\n{claim}.\n```\n> {claim}.\n\n* {claim}"
    assert [claim.start for claim in read(text)] == [2, text.rindex("Meaning")]


def test_a_repeated_claim_has_an_id_of_its_own() -> None:
    first, second = read("Meaning sits at the top. Meaning sits at the top.")
    assert first.id != second.id
    assert first == parse("Meaning sits at the top. Meaning sits at the top.", entry="e1", labels=LABELS)[0]


_PIECES = """function words|meaning|it|nouns|not|no longer|neither|nor|and|but|,|;|.|?|!|:|—|"|“|”|(|)|before|than|deeper|
    layer|layers|3|2-4|L5|step|12k|the top|early|late|if|would|I think|the paper says|removing|hurts|relies on|is|are|settle|
    since|until|LAYER#|#|@low|first 0 layers|\n|\n\n|- |> |```|#|…|’|\u200b|\x00|🙂|first|then|stable|flicker|of|sarcasm"""
pieces = st.sampled_from(_PIECES.split("|"))
wild = st.one_of(st.text(max_size=300), st.lists(pieces, max_size=40).map(" ".join))


@given(wild)
@settings(max_examples=400, deadline=None)
def test_no_text_raises_and_every_span_is_the_text(text: str) -> None:
    for claim in read(text):
        assert text[claim.start : claim.end] == claim.text and claim.text
        assert claim.status in (PARSED, UNPARSED, UNTESTABLE)
        assert (claim.kind is None) == (claim.status == UNPARSED)
        assert bool(claim.missing) == (claim.status == UNTESTABLE) and (claim.reason is None) == (
            claim.status == PARSED
        )
    for aside in set_aside(text):
        assert text[aside.start : aside.end] == aside.text


@given(st.sampled_from(CLAIMS + OTHERS), st.data())
@settings(max_examples=300, deadline=None)
def test_spacing_changes_no_reading(sentence: dict[str, Any], data: st.DataObject) -> None:
    text = sentence["text"]
    assume(not re.search(r"\s[-+*>#]|\d \d|^[->]", text))  # there a line break would be Markdown
    spaced = re.sub(" ", lambda _: data.draw(st.sampled_from([" ", "  ", "\n", "\t", " \n  "])), text)
    before, after = read(text), read(spaced)
    assert [(claim.id, claim.status) for claim in before] == [(claim.id, claim.status) for claim in after]


@given(st.sampled_from(CLAIMS), st.sampled_from([str.upper, str.lower, str.title]))
@settings(max_examples=100, deadline=None)
def test_capitals_change_no_reading(sentence: dict[str, Any], change: Any) -> None:
    assume("step 8k" not in sentence["text"])
    assert [summary(claim) for claim in read(change(sentence["text"]))] == [
        summary(claim) for claim in read(sentence["text"])
    ]


@pytest.mark.parametrize(
    "hostile",
    [
        "(" * 100_000,
        "layer " * 20_000,
        "not " * 20_000,
        "before meaning " * 8_000,
        "“" * 50_000,
        "a" * 200_000,
        "- " * 50_000,
        "1,000" * 20_000,
    ],
    ids=lambda text: text[:7],
)
def test_hostile_text_is_read_to_its_end(hostile: str) -> None:
    claims = read(hostile + "\n\nMeaning sits at the top.")
    assert [claim.text for claim in claims][-1:] == ["Meaning sits at the top"] or "“" in hostile
