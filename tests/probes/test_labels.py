"""What is labelled, where the label sits, and what is refused."""

import gzip
import importlib.util
import json
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.tokenizer import Tokenizer
from probes.claims.vocabulary import SUBJECTS
from probes.layers import labels
from probes.layers.alignment import SHARED, align
from probes.layers.annotated import Sentence, plain
from probes.layers.balance import GROUPS
from probes.layers.labels import BadProbeSet, ProbeSet, build, from_dict, restrict, supersense, to_dict, word_class
from probes.layers.lexicons import FREQUENCY, UNIVERSAL_POS, Concreteness, read_concreteness
from probes.layers.text import find_words, split_sentences
from probes.layers.words import FUNCTION_WORDS
from tests.probes.toys import Pieces

ROOT = Path(__file__).parents[2]
PEOPLE = ["farmer", "children", "citizen", "lawyer", "nephew", "senator"]
PLACES = ["canada", "utah", "mexico", "russia", "spain", "cuba"]


def text_of(sentences: int, seed: int = 0) -> str:
    draw = random.Random(seed)
    lines = []
    for number in range(sentences):
        who, where = draw.choice(PEOPLE), draw.choice(PLACES)
        name = "".join(draw.choice("bcdfghklmn") + draw.choice("aeiou") for _ in range(4))
        lines.append(f"The {who} of {name} went to {where}, and she doesn't know why number {number} was there.")
    return "\n".join(lines)


@pytest.mark.parametrize("word", ["the", "Of", "don’t", "whose", "they'll", "unless", "was"])
def test_closed_classes_are_function_words(word: str) -> None:
    assert word_class(word) == "function"


def test_open_classes_are_content_and_interjections_neither() -> None:
    assert {word_class(word) for word in ("teacher", "quickly", "Lincoln", "ran", "green")} == {"content"}
    assert {word_class(word) for word in ("wow", "lol", "seven", "yes")} == {None}
    assert 250 <= len(FUNCTION_WORDS) <= 400


def test_a_word_has_a_supersense_only_if_all_its_readings_agree() -> None:
    assert supersense("farmer") == supersense("Farmers") == "noun.person"
    assert supersense("children") == "noun.person"
    assert supersense("canada") == "noun.location"
    assert supersense("believes") == "verb.cognition"
    assert [supersense(word) for word in ("table", "dog", "walk", "in", "he", "xqzt")] == [None] * 6


def test_the_stored_table_has_nouns_and_verbs_only_and_no_function_word() -> None:
    data = gzip.decompress((ROOT / "probes/layers/supersenses.tsv.gz").read_bytes()).decode()
    rows = {name: words.split(" ") for name, words in (line.split("\t") for line in data.splitlines())}
    words = [word for group in rows.values() for word in group]
    assert len(rows) == 41 and {name.split(".")[0] for name in rows} == {"noun", "verb"}
    assert len(words) == len(set(words)) > 90_000
    assert not FUNCTION_WORDS & set(words)
    notice = (ROOT / "probes/layers/NOTICE").read_text()
    assert "WordNet 3.1 Copyright 2011 by Princeton University" in notice


def derivation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("derive_supersenses", ROOT / "scripts/derive_supersenses.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_is_derived_from_wordnet_files_the_same_bytes_each_time(tmp_path: Path) -> None:
    lines = {
        "noun": ["  1 licence text", "1 18 n 01 baker 0 000 | g", "2 15 n 01 he 0 000 | g", "3 04 n 01 race 0 000 | g"],
        "verb": ["4 38 v 01 race 0 000 | g", "5 38 v 02 stroll 0 hop_on 0 000 | g", "6 36 v 01 bake 0 000 | g"],
        "adj": ["7 00 a 01 baked(a) 0 000 | g"],
        "adv": [],
    }
    for part, content in lines.items():
        (tmp_path / f"data.{part}").write_text("".join(f"{line}\n" for line in content))
    module = derivation()
    table = module.derive(tmp_path)
    assert table["bakers"] == "noun.person" and table["strolled"] == table["strolling"] == "verb.motion"
    assert "race" not in table and "races" not in table  # a noun and a verb
    assert "baked" not in table and table["bakes"] == "verb.creation"  # "baked" is an adjective too
    assert "he" not in table
    for name in ("one.gz", "two.gz"):
        module.write(table, tmp_path / name)
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()


def placed(text: str, spans: list[tuple[int, int]], dropped: Counter[str]) -> list[tuple[int, str, str | None]]:
    """(last token, word, word that holds the next token) of every word that `align` places."""
    sentence = plain(text, "")
    forms = [sentence.form(word) for word in sentence.words]
    return [
        (place.last, forms[place.word], None if place.following is None else forms[place.following])
        for place in align(sentence, spans, dropped).places
    ]


def test_a_label_sits_at_the_last_sub_token_of_its_word() -> None:
    text, tokenizer = "The teachers of Canada don't know it.", Pieces(3)
    ids, spans = tokenizer.encode_with_offsets(text)
    found = placed(text, spans, Counter())
    assert [word for _, word, _ in found] == ["The", "teachers", "of", "Canada", "don't", "know", "it"]
    for last, word, _ in found:
        assert text[: spans[last][1]].endswith(word[-1]) and text[spans[last][1] :][:1] in " ."
    assert len(ids) > len(found)


def test_the_next_label_is_of_the_word_that_holds_the_next_token() -> None:
    text = "He saw the teacher's house, then 12 of them left"
    _, spans = Pieces(9).encode_with_offsets(text)
    following = {word: target for _, word, target in placed(text, spans, Counter())}
    assert following["saw"] == "the" and following["the"] == "teacher"
    assert following["teacher"] is None  # a clitic comes next
    assert following["house"] is None  # a comma
    assert following["then"] is None  # a number
    assert following["left"] is None  # the end


def test_words_that_share_their_last_token_with_a_neighbour_are_dropped_and_counted() -> None:
    text = "a an of it is as we"
    dropped: Counter[str] = Counter()
    found = placed(text, Pieces(8, across=True).encode_with_offsets(text)[1], dropped)
    assert dropped[SHARED] == 6
    assert [word for _, word, _ in found] == ["we"]


def test_a_contraction_is_one_word_and_a_clitic_is_split_off() -> None:
    text = "Don’t take Mary's or the boss'll see; it's over"
    words = [(text[a:b], labelled) for a, b, labelled in find_words(text)]
    assert ("Don’t", True) in words and ("it's", True) in words
    assert ("Mary", True) in words and ("'s", False) in words and ("'ll", False) in words


def test_sentences_end_at_full_stops_but_not_after_abbreviations_or_initials() -> None:
    text = 'Mr. J. Smith met Dr. Who at 3.15 p.m. on Monday. "Was it late?" he said. It was!'
    assert list(split_sentences(text)) == [
        "Mr. J. Smith met Dr. Who at 3.15 p.m. on Monday.",
        '"Was it late?"',
        "he said.",
        "It was!",
    ]


def test_a_chat_line_is_a_sentence_and_its_role_mark_is_taken_off() -> None:
    assert list(split_sentences("user: hey how are you\nB: im fine")) == ["hey how are you", "im fine"]


def test_text_wrapped_at_a_fixed_width_is_joined_before_it_is_split() -> None:
    words = " ".join(f"word{i}" for i in range(200)) + "."
    lines = [words[i : i + 70] for i in range(0, len(words), 70)]
    assert len(list(split_sentences("\n".join(lines)))) == 1


def test_the_same_text_in_any_order_gives_the_same_set_and_another_seed_another() -> None:
    documents = [text_of(60, seed) for seed in range(3)]
    one = build(documents, Pieces(), 50, 64)
    assert build(documents[::-1], Pieces(), 50, 64) == one
    assert build(documents, Pieces(), 50, 64, seed=1).sha256 != one.sha256
    assert len(one.sentences) == 50 and one.labels["supersense.current"].count(labels.NO_LABEL) < one.words


def test_equal_sentences_are_taken_once() -> None:
    text = text_of(30)
    built = build([text, text.upper() + "\n" + text.replace(",", " ,")], Pieces(), 200, 64)
    assert len(built.sentences) == 30
    assert built.dropped["duplicate sentences"] == 60


def test_sentences_are_cut_to_the_context_and_the_lost_words_counted() -> None:
    built = build([text_of(30)], Pieces(), 30, 12)
    assert max(len(ids) for ids in built.tokens) == 12
    assert max(built.word_position) <= 11 and min(built.word_position) >= 1
    assert built.dropped["words beyond the context"] > 0
    assert all(ids[0] == Pieces.bos for ids in built.tokens)


def test_too_little_text_is_refused_with_a_remedy() -> None:
    with pytest.raises(BadProbeSet, match=r"probing.every = 0"):
        build(["Hello there.", ""], Pieces(), 400, 64)


def test_a_set_survives_json() -> None:
    built = build([text_of(40)], Pieces(), 30, 64)
    again = from_dict(json.loads(json.dumps(to_dict(built))))
    assert again == built and again.sha256 == built.sha256


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d["labels"]["class.next"].append(0), "labels for"),
        (lambda d: d["word_position"].__setitem__(0, 999), "outside its tokens"),
        (lambda d: d["word_position"].__setitem__(0, 0), "outside its tokens"),
        (lambda d: d["labels"]["class.next"].__setitem__(0, 7), "without a name"),
        (lambda d: d["sentences"].pop(), "token rows"),
        (lambda d: d["tokens"][0].__setitem__(2, 77), "edited"),
        (lambda d: d.pop("classes"), "stored form"),
        (lambda d: d["classes"].pop("class.next"), "different tasks"),
    ],
)
def test_a_stored_set_that_does_not_hold_together_is_refused(change: object, says: str) -> None:
    data = json.loads(json.dumps(to_dict(build([text_of(40)], Pieces(), 30, 64))))
    change(data)  # type: ignore[operator]
    with pytest.raises(BadProbeSet, match=says):
        from_dict(data)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([text_of(50), "ünïcode 漢字 🙂 don’t"], 330)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_any_text_is_aligned_with_a_real_tokenizer(tokenizer: Tokenizer, text: str) -> None:
    _, spans = tokenizer.encode_with_offsets(text)
    last_before = -1
    for last, word, following in placed(text, spans, Counter()):
        start, end = spans[last]
        assert any(character in text[start:end] for character in word)
        assert following is None or following in text
        assert last > last_before
        last_before = last


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.integers(1, 9), st.booleans())
def test_every_word_is_placed_or_counted_and_its_tokens_cover_it(text: str, size: int, across: bool) -> None:
    sentence: Sentence = plain(text, "")
    _, spans = Pieces(size, across).encode_with_offsets(text)
    dropped: Counter[str] = Counter()
    alignment = align(sentence, spans, dropped)
    assert len(alignment.places) + dropped.total() == sum(word.labelled for word in sentence.words)
    for word, tokens in zip(sentence.words, alignment.tokens, strict=True):
        held = {place for token in tokens for place in range(*spans[token])}
        assert {place for place in range(word.start, word.end) if not text[place].isspace()} <= held
    for place in alignment.places:
        assert spans[place.last][1] >= sentence.words[place.word].end  # the word is complete there
        if place.following is not None:
            assert place.last + 1 in alignment.tokens[place.following]


# --- families -------------------------------------------------------------------------------------------------------------


def ratings(tmp_path: Path, *rows: str) -> Concreteness:
    file = tmp_path / "concreteness.csv"
    file.write_text("Word,Concreteness,Brysbaert,Muraki,Glasgow,MRC\n" + "\n".join(rows) + "\n")
    return read_concreteness(file)


def values(built: ProbeSet, label: str) -> list[str | None]:
    return [None if value < 0 else built.classes[label][value] for value in built.labels[label]]


def words_of(built: ProbeSet) -> list[str]:
    """The word that ends at each place, read off a tokenizer that gives one token a word."""
    result = []
    for sentence, position in zip(built.word_sentence, built.word_position, strict=True):
        _, spans = Pieces(30).encode_with_offsets(built.sentences[sentence])
        start, end = spans[position - 1]
        result.append(built.sentences[sentence][start:end].strip())
    return result


def test_the_default_families_are_the_two_that_ride_along_with_training() -> None:
    assert labels.LABELS == ("class.current", "class.next", "supersense.current", "supersense.next")
    assert set(labels.LABELS) < set(labels.ALL_LABELS) and "topic.next" not in labels.ALL_LABELS
    assert set(build([text_of(30)], Pieces(), 20, 64).labels) == set(labels.LABELS)


def test_the_classes_that_claims_name_are_classes_of_our_families() -> None:
    table = gzip.decompress((ROOT / "probes/layers/supersenses.tsv.gz").read_bytes()).decode()
    known = {
        "class": {"function", "content"},
        "pos": {*UNIVERSAL_POS, *GROUPS},
        "supersense": {line.split("\t")[0] for line in table.splitlines()},
        "concreteness": {"abstract", "middle", "concrete"},
        "frequency": set(FREQUENCY),
    }
    named = [(subject.family, subject.value) for subject in SUBJECTS.values() if subject.value is not None]
    assert len(named) > 20 and {family for family, _ in named} <= set(labels.FAMILIES)
    assert [pair for pair in named if pair[1] not in known[pair[0]]] == []


def test_families_without_a_source_are_absent_with_a_reason_and_never_guessed() -> None:
    built = build([text_of(30)], Pieces(), 20, 64, families=labels.FAMILIES)
    assert set(built.labels) == {*labels.LABELS, "position.current"}
    assert set(built.origin["absent"]) == {"pos", "number", "tense", "concreteness", "frequency", "topic"}
    assert "lab data get concreteness" in built.origin["absent"]["concreteness"]


def test_position_is_the_third_of_the_sentence_that_the_word_stands_in() -> None:
    built = build([text_of(30)], Pieces(30), 20, 64, families=["position"])
    for sentence in range(20):
        thirds = [
            value
            for value, owner in zip(values(built, "position.current"), built.word_sentence, strict=True)
            if owner == sentence
        ]
        order = ["first", "middle", "last"]
        assert thirds == sorted(thirds, key=lambda third: order.index(str(third)))
        assert set(thirds) == set(order)


def test_frequency_bins_hold_a_quarter_of_the_training_tokens_each_and_a_word_is_as_rare_as_its_rarest_piece() -> None:
    documents = [text_of(40)]
    counts: Counter[int] = Counter(Pieces(30).encode_with_offsets(documents[0])[0])
    built = build(documents, Pieces(30), 30, 64, families=["frequency"], frequencies=counts)
    of = dict(zip(words_of(built), values(built, "frequency.current"), strict=True))
    assert of["of"] == "frequent" and of["number"] != "rare"
    rare = [word for word, bin_ in of.items() if bin_ == "rare"]
    assert rare and all(counts[Pieces(30).encode_with_offsets(f" {word}")[0][0]] <= 40 for word in rare)
    as_list = [counts.get(token, 0) for token in range(600)]
    again = build(documents, Pieces(30), 30, 64, families=["frequency"], frequencies=as_list)
    assert again.sha256 == built.sha256
    unseen = build(documents, Pieces(3), 30, 64, families=["frequency"], frequencies={1: 5, 2: 4, 3: 1, 4: 1})
    assert set(values(unseen, "frequency.current")) <= {"rare", "uncommon", "common", "frequent"}


def test_concreteness_is_of_rated_content_words_in_equal_shares_of_the_ratings(tmp_path: Path) -> None:
    rated = ratings(
        tmp_path, "the,1.4,1.4,,,", "farmer,4.6,4.6,,,", "number,3,3.0,,,", "went,1.5,1.5,,,", "spain,2,,2,,"
    )
    assert rated.of("The", None) is None  # rated, but a function word
    assert rated.of("Spain", None) is None  # predicted, not rated by people
    built = build([text_of(40)], Pieces(30), 30, 64, families=["concreteness"], concreteness=rated)
    of = set(zip(words_of(built), values(built, "concreteness.current"), strict=True))
    assert {("farmer", "concrete"), ("number", "middle"), ("went", "abstract"), ("The", None), ("and", None)} <= of
    assert rated.of("farmers", "farmer") == "concrete" and rated.of("farmers", None) is None
    assert rated.sha256[:16] in built.origin["labels"]["concreteness"]


def test_topics_belong_to_documents_and_the_set_says_that_only_document_folds_are_valid() -> None:
    documents = [text_of(20, seed) for seed in range(4)]
    topics = ["law", "farm", None, "law"]
    built = build(documents, Pieces(), 60, 64, families=["topic", "class"], topics=topics)
    assert built.origin["constant_within_document"] == ["topic.current"]
    by_unit = {
        (unit, value)
        for sentence, value in zip(built.word_sentence, values(built, "topic.current"), strict=True)
        for unit in [built.documents[sentence]]
    }
    assert len(by_unit) == 4 and {value for _, value in by_unit} == {"law", "farm", None}


def test_a_spread_set_takes_one_sentence_of_every_document_before_the_second_of_any() -> None:
    documents = [text_of(30, seed) for seed in range(20)] + [text_of(400, 99)]
    built = build(documents, Pieces(), 63, 64, spread=True)
    assert set(Counter(built.documents).values()) == {3}
    assert len(set(built.documents[:21])) == 21
    assert build(documents[::-1], Pieces(), 63, 64, spread=True) == built
    assert built.units[:3] == (0, 1, 2) and max(built.units) == 20
    plain_draw = build(documents, Pieces(), 63, 64)
    assert max(Counter(plain_draw.documents).values()) > 3
    few = build(documents, Pieces(), 1000, 64, spread=True, per_document=2)
    assert len(few.sentences) == 42


def test_restricting_a_set_keeps_each_word_with_its_sentence_and_counts_what_went() -> None:
    built = build([text_of(40)], Pieces(30), 30, 64)
    some = restrict(built, [7, 2], "for the test")
    assert some.sentences == (built.sentences[7], built.sentences[2]) and some.dropped["for the test"] == 28
    labels.check(some)
    for place, sentence in enumerate([7, 2]):
        ours = [i for i, owner in enumerate(some.word_sentence) if owner == place]
        theirs = [i for i, owner in enumerate(built.word_sentence) if owner == sentence]
        assert [some.word_position[i] for i in ours] == [built.word_position[i] for i in theirs]
        assert [some.labels["class.next"][i] for i in ours] == [built.labels["class.next"][i] for i in theirs]


def test_importing_labels_loads_neither_the_tagger_nor_torch() -> None:
    code = (
        "import sys, probes.layers.labels; sys.exit(any(name in sys.modules for name in ('spacy', 'thinc', 'torch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"families": ["class", "gender"]}, "'gender' is not one of ours"),
        ({"families": []}, "is not one of ours"),
        ({"topics": ["one", "two"]}, "2 for 1 documents"),
        ({"frequencies": {1: 2, 2: 1}, "families": ["frequency"]}, "too few for four bins"),
        ({"frequencies": [5, -1, 3, 2, 9], "families": ["frequency"]}, "negative"),
        ({"per_document": 0}, "must be 1 or more"),
    ],
)
def test_arguments_that_cannot_be_are_refused(options: dict[str, object], says: str) -> None:
    with pytest.raises(BadProbeSet, match=says):
        build([text_of(30)], Pieces(), 20, 64, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["dog,4.9,4.9,,,", "idea,1.6,high,,,"], "cannot be read as ratings"),
        (["dog,4.9,9.5,,,"], "line 2: rating 9.5 is outside 1 to 5"),
        (["dog,4.9,4.9,,,"], "rates 1 content words"),
    ],
)
def test_a_damaged_table_of_ratings_is_refused(tmp_path: Path, rows: list[str], says: str) -> None:
    with pytest.raises(BadProbeSet, match=says):
        ratings(tmp_path, *rows)


@pytest.mark.parametrize("keep", [[0, 0], [30], [-1]])
def test_sentences_that_are_not_there_cannot_be_kept(keep: list[int]) -> None:
    with pytest.raises(BadProbeSet, match="cannot keep sentences"):
        restrict(build([text_of(40)], Pieces(), 30, 64), keep, "")
