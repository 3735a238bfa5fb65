"""Halves by hash, equal words, halves of n, and no confirmation sentence that the model has read."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.layers.annotated import document_name
from probes.layers.balance import binary, equal_words, halve
from probes.layers.fit import Untestable
from probes.layers.labels import NO_LABEL, BadProbeSet, build, build_gold
from probes.layers.lexicons import supersense, word_class
from probes.layers.splits import IN_TRAINING, in_training, sentence_key, split, unseen
from probes.layers.stories import stories
from tests.probes.test_labels import text_of
from tests.probes.toys import Pieces

# --- splits ---------------------------------------------------------------------------------------------------------------


def test_adding_documents_moves_none_to_the_other_side() -> None:
    documents = [f"document {i}" for i in range(300)]
    few, many = split(documents[:100]), split(documents[::-1])
    assert set(few[0]) <= set(many[0]) and set(few[1]) <= set(many[1])
    assert sorted(many[0] + many[1]) == sorted(documents)
    assert 110 < len(many[0]) < 190  # 150 ± 4.6 standard deviations
    assert set(split(documents, seed=1)[0]) != set(split(documents)[0])


def test_documents_that_all_fall_on_one_side_are_refused() -> None:
    with pytest.raises(BadProbeSet, match="cannot be split"):
        split(["alone"])
    with pytest.raises(BadProbeSet, match="cannot be split"):
        split([])


def test_a_sentence_is_found_across_line_breaks_case_and_punctuation_but_not_in_other_order() -> None:
    sentences = [
        "The old dog slept by the fire.",
        "A cat sat there too, you see.",
        "Nobody wrote this one down.",
        "Oh no!",
    ]
    training = ["Once the OLD dog\nslept -- by the fire and (then) left.", "You see, a cat sat there too. Oh well, no."]
    overlap = in_training(sentences, training)
    assert overlap.sentences == {0} and overlap.read == 2 and not overlap.documents
    assert in_training(sentences, ["oh NO"]).sentences == {3}
    assert in_training(sentences, []).read == 0


def test_part_of_a_word_is_no_match_and_the_end_of_a_document_is_one() -> None:
    assert not in_training(["he sat on the mat"], ["she sat on the mat", "he sat on the mattress"]).sentences
    assert in_training(["he sat on the mat"], ["and he sat on the mat"]).sentences == {0}
    assert not in_training(["he sat on the mat"], ["he sat on", "the mat"]).sentences  # two documents


def test_planted_sentences_and_documents_are_dropped_and_counted() -> None:
    documents = [text_of(30, seed) for seed in range(6)]
    built = build(documents, Pieces(), 60, 64, spread=True)
    rest = [i for i, name in enumerate(built.documents) if name != document_name(documents[2])]
    training = [
        text_of(50, 77),
        documents[2],
        f"He said: {built.sentences[rest[0]].upper()} And {built.sentences[rest[9]]}",
    ]
    clean = unseen(built, iter(training))
    assert len(clean.sentences) == len(rest) - 2 and clean.dropped[IN_TRAINING] == 60 - len(clean.sentences)
    assert document_name(documents[2]) not in clean.documents
    assert not in_training(clean.sentences, training, clean.documents).sentences
    assert unseen(clean, training) == clean
    with pytest.raises(BadProbeSet, match="no training document to compare with"):
        unseen(clean, iter([]))


def test_avoided_sentences_are_not_taken() -> None:
    built = build([text_of(40)], Pieces(), 20, 64)
    keys = {sentence_key(sentence) for sentence in built.sentences}
    other = build([text_of(40)], Pieces(), 20, 64, avoid=keys)
    assert not set(other.sentences) & set(built.sentences) and other.dropped["sentences to be avoided"] == 20
    assert sentence_key("Don’t, she SAID") == sentence_key("don't she said")


def test_a_sentence_without_words_cannot_be_searched_for() -> None:
    with pytest.raises(BadProbeSet, match="no word to look for"):
        in_training(["…"], ["text"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=8), st.lists(st.sampled_from("abcd"), max_size=40))
def test_finding_equals_looking_at_every_place(words: list[str], text: list[str]) -> None:
    everywhere = any(text[i : i + len(words)] == words for i in range(len(text)))
    assert bool(in_training([" ".join(words)], [" ".join(text)]).sentences) == everywhere


# --- equal n --------------------------------------------------------------------------------------------------------------

WORDS = st.lists(st.tuples(st.integers(-1, 3), st.integers(-1, 2), st.integers(0, 6)), min_size=1, max_size=80)


@settings(max_examples=150, deadline=None)
@given(WORDS, st.integers(0, 3))
def test_a_and_b_label_equally_many_words_in_every_sentence(rows: list[tuple[int, int, int]], seed: int) -> None:
    a, b, sentence = (torch.tensor(column) for column in zip(*rows, strict=True))
    both = {s for s in range(7) if ((sentence == s) & (a >= 0)).any() and ((sentence == s) & (b >= 0)).any()}
    if not both:
        with pytest.raises(Untestable, match="no sentence has a labelled word of both"):
            equal_words(a, b, sentence, seed)
        return
    cut_a, cut_b = equal_words(a, b, sentence, seed)
    for s in range(7):
        before = [int(((sentence == s) & (label >= 0)).sum()) for label in (a, b)]
        after = [int(((sentence == s) & (label >= 0)).sum()) for label in (cut_a, cut_b)]
        assert after == [min(before)] * 2
    for cut, label in ((cut_a, a), (cut_b, b)):
        assert torch.equal(cut[cut >= 0], label[cut >= 0])  # labels are taken away, never changed
    again = equal_words(a, b, sentence, seed)
    assert torch.equal(again[0], cut_a) and torch.equal(again[1], cut_b)


def test_the_surplus_is_cut_at_random_and_not_from_one_end() -> None:
    a, b = torch.zeros(4000, dtype=torch.long), torch.full((4000,), NO_LABEL)
    sentence = torch.arange(4000) // 20
    b[::20] = 0
    kept = (equal_words(a, b, sentence, seed=0)[0] >= 0).nonzero()[:, 0] % 20
    assert len(kept) == 200 and 7.5 < float(kept.double().mean()) < 11.5  # 9.5 ± 5 standard errors
    assert not torch.equal(kept, (equal_words(a, b, sentence, seed=1)[0] >= 0).nonzero()[:, 0] % 20)


def test_labels_of_two_sets_are_refused() -> None:
    with pytest.raises(Untestable, match="Take all from one probe set"):
        equal_words(torch.zeros(3), torch.zeros(4), torch.zeros(3, dtype=torch.long), 0)


def test_half_of_the_units_is_half_and_keeps_documents_whole() -> None:
    unit = torch.tensor([random.Random(0).choice(range(31)) for _ in range(1)] + [i % 31 for i in range(200)])
    half = halve(unit, seed=3)
    kept, left = set(unit[half].tolist()), set(unit[~half].tolist())
    assert len(kept) == 16 and not kept & left
    assert torch.equal(half, halve(unit, seed=3)) and not torch.equal(half, halve(unit, seed=4))
    with pytest.raises(Untestable, match="cannot be halved"):
        halve(torch.zeros(5, dtype=torch.long), 0)


def test_one_class_against_the_rest_and_groups_of_classes() -> None:
    labels, classes = torch.tensor([0, 1, 2, 3, NO_LABEL, 1]), ("ADJ", "CCONJ", "NOUN", "SCONJ")
    assert binary(labels, classes, "NOUN")[0].tolist() == [0, 0, 1, 0, NO_LABEL, 0]
    assert binary(labels, classes, "CONJ") == (pytest.approx([0, 1, 0, 1, NO_LABEL, 1]), ("other", "CONJ"))
    for wrong in ("PUNCT", "NOUNS"):
        with pytest.raises(Untestable, match=f"no word is labelled '{wrong}'"):
            binary(labels, classes, wrong)
    with pytest.raises(Untestable, match="anything but 'NOUN'"):
        binary(torch.tensor([2, 2, NO_LABEL]), classes, "NOUN")


# --- stories --------------------------------------------------------------------------------------------------------------


def test_thousands_of_different_sentences_the_same_for_a_seed() -> None:
    gold = stories(400)
    assert len({sentence.text for sentence in gold.sentences}) > 3100 and len(gold.documents) == 400
    assert stories(5).sentences == gold.sentences[:40] and stories(5, seed=1).sentences != gold.sentences[:40]
    with pytest.raises(BadProbeSet, match="count = 0"):
        stories(0)


def test_story_labels_agree_with_the_rules_wherever_a_rule_speaks_of_a_noun_or_a_class() -> None:
    for sentence in stories(120).sentences:
        assert sentence.text[0].isupper() and sentence.text.endswith(".")
        for word in sentence.words:
            form, gold = sentence.form(word), word.labels
            assert word_class(form) == gold["class"]
            if gold["pos"] == "NOUN":
                assert supersense(form) in (None, gold["supersense"])
            assert ("number" in gold) == (gold["pos"] == "NOUN") and ("tense" in gold) == (gold["pos"] == "VERB")


def test_a_probe_set_of_stories_has_every_gold_family_and_knows_its_topics_are_per_document() -> None:
    gold = stories(100)
    built = build_gold(gold, Pieces(), 400, 64)
    assert not built.origin["absent"] and len(set(built.documents)) == 100
    assert built.classes["topic.current"] == ("court", "farm", "school", "sea")
    assert built.origin["constant_within_document"] == ["topic.current"]
    assert all(source.startswith("gold: generated stories") for source in built.origin["labels"].values())
    exploration, confirmation = split(gold.documents)
    one, two = (build_gold(gold.only(side), Pieces(), 100, 64) for side in (exploration, confirmation))
    assert not set(one.documents) & set(two.documents)
