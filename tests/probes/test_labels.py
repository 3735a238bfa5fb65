"""What is labelled, where the label sits, and what is refused."""

import gzip
import importlib.util
import json
import random
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.tokenizer import Tokenizer
from probes.layers import labels
from probes.layers.labels import BadProbeSet, build, from_dict, supersense, to_dict, word_class
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


def test_a_label_sits_at_the_last_sub_token_of_its_word() -> None:
    text, tokenizer = "The teachers of Canada don't know it.", Pieces(3)
    ids, spans = tokenizer.encode_with_offsets(text)
    found = list(labels._aligned(text, spans, labels.Counter()))
    assert [word for _, word, _ in found] == ["The", "teachers", "of", "Canada", "don't", "know", "it"]
    for last, word, _ in found:
        assert text[: spans[last][1]].endswith(word[-1]) and text[spans[last][1] :][:1] in " ."
    assert len(ids) > len(found)


def test_the_next_label_is_of_the_word_that_holds_the_next_token() -> None:
    text = "He saw the teacher's house, then 12 of them left"
    _, spans = Pieces(9).encode_with_offsets(text)
    following = {word: target for _, word, target in labels._aligned(text, spans, labels.Counter())}
    assert following["saw"] == "the" and following["the"] == "teacher"
    assert following["teacher"] is None  # a clitic comes next
    assert following["house"] is None  # a comma
    assert following["then"] is None  # a number
    assert following["left"] is None  # the end


def test_words_that_share_their_last_token_with_a_neighbour_are_dropped_and_counted() -> None:
    text = "a an of it is as we"
    dropped: labels.Counter[str] = labels.Counter()
    found = list(labels._aligned(text, Pieces(8, across=True).encode_with_offsets(text)[1], dropped))
    assert dropped["words sharing their last token"] == 6
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
    for last, word, following in labels._aligned(text, spans, labels.Counter()):
        start, end = spans[last]
        assert any(character in text[start:end] for character in word)
        assert following is None or following in text
