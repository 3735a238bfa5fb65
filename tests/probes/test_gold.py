"""Gold files as people write them: what is read, where labels sit in the text, and what is refused with its line."""

import json
import lzma
import os
from collections import Counter
from pathlib import Path

import pytest

from probes.layers.annotated import GoldText, Sentence, Word
from probes.layers.conllu import UNPARTED, BadGold, read_conllu
from probes.layers.labels import BadProbeSet, ProbeSet, build_gold, word_class
from probes.layers.lexicons import class_of_pos, grammatical
from probes.layers.splits import split
from probes.layers.streusle import COPULAS, EXPRESSIONS, read_streusle, wordnet_name
from tests.probes.toys import Pieces

CONLLU = """\
# newdoc id = tale-1
# sent_id = tale-1-0001
# text = They didn't see Dr. Day's old dogs (twice).
1	They	they	PRON	_	Number=Plur	0	root	_	_
2-3	didn't	_	_	_	_	_	_	_	_
2	did	do	AUX	_	Tense=Past|VerbForm=Fin	0	root	_	_
3	n't	not	PART	_	_	0	root	_	_
4	see	see	VERB	_	VerbForm=Inf	0	root	_	_
4.1	see	see	VERB	_	_	_	_	_	_
5	Dr.	Dr.	PROPN	_	Number=Sing	0	root	_	_
6-7	Day's	_	_	_	_	_	_	_	_
6	Day	Day	PROPN	_	Number=Sing	0	root	_	_
7	's	's	PART	_	_	0	root	_	_
8	old	old	ADJ	_	Degree=Pos	0	root	_	_
9	dogs	dog	NOUN	_	Number=Plur	0	root	_	_
10	(	(	PUNCT	_	_	0	root	_	SpaceAfter=No
11	twice	twice	ADV	_	_	0	root	_	SpaceAfter=No
12	)	)	PUNCT	_	_	0	root	_	SpaceAfter=No
13	.	.	PUNCT	_	_	0	root	_	_

# newdoc id = tale-2
# sent_id = tale-2-0001
1	She	she	PRON	_	_	0	root	_	_
2	finds	find	VERB	_	Tense=Pres|VerbForm=Fin	0	root	_	_
3-4	du	_	_	_	_	_	_	_	_
3	de	of	ADP	_	_	0	root	_	_
4	le	the	DET	_	_	0	root	_	_
5	broken	break	VERB	_	Tense=Past|VerbForm=Part	0	root	_	_
6	cup	cup	NOUN	_	Number=Sing	0	root	_	SpaceAfter=No
"""


def write(folder: Path, text: str, name: str = "tale.conllu") -> Path:
    file = folder / name
    file.write_text(text, encoding="utf8")
    return file


def found(sentence: Sentence, family: str) -> dict[str, str]:
    return {sentence.form(w): w.labels[family] for w in sentence.words if w.labelled and family in w.labels}


def named(built: ProbeSet, label: str) -> Counter[str]:
    return Counter(built.classes[label][value] for value in built.labels[label] if value >= 0)


# --- CoNLL-U ---------------------------------------------------------------------------------------------------------------


def test_text_is_put_together_from_surface_tokens_and_every_label_lies_on_its_characters(tmp_path: Path) -> None:
    gold = read_conllu(write(tmp_path, CONLLU))
    one, two = gold.sentences
    assert one.text == "They didn't see Dr. Day's old dogs (twice)." and two.text == "She finds du broken cup"
    assert found(one, "pos") == {
        "They": "PRON",
        "did": "AUX",
        "n't": "PART",
        "see": "VERB",
        "Dr.": "PROPN",
        "Day": "PROPN",
        "'s": "PART",
        "old": "ADJ",
        "dogs": "NOUN",
        "twice": "ADV",
    }
    assert found(one, "number") == {"dogs": "Plur"} and found(two, "number") == {"cup": "Sing"}
    assert found(one, "tense") == {} and found(two, "tense") == {"finds": "Pres"}  # no auxiliary, no participle
    assert found(one, "class")["They"] == "function" and found(one, "class")["old"] == "content"


def test_words_that_a_multiword_token_does_not_spell_are_left_out_and_counted(tmp_path: Path) -> None:
    gold = read_conllu(write(tmp_path, CONLLU))
    assert gold.dropped == {UNPARTED: 2}
    assert [gold.sentences[1].form(word) for word in gold.sentences[1].words] == ["She", "finds", "broken", "cup"]


def test_documents_come_from_newdoc_else_from_sentence_ids_else_the_file_is_one(tmp_path: Path) -> None:
    word = "1\tYes\tyes\tINTJ\t_\t_\t0\troot\t_\t_\n\n"
    by_newdoc = read_conllu(write(tmp_path, CONLLU))
    by_id = read_conllu(write(tmp_path, "".join(f"# sent_id = blog-{i // 3}-000{i}\n{word}" for i in range(9))))
    none = read_conllu(write(tmp_path, word * 3))
    assert [len(gold.documents) for gold in (by_newdoc, by_id, none)] == [2, 1, 1]  # by_id: three equal texts are one
    texts = [f"# sent_id = blog-{i // 3}-000{i}\n{word.replace('Yes', 'Yes' * (i + 1))}" for i in range(9)]
    assert len(read_conllu(write(tmp_path, "".join(texts))).documents) == 3


def test_a_packed_file_and_windows_line_ends_read_the_same(tmp_path: Path) -> None:
    plain = read_conllu(write(tmp_path, CONLLU))
    (tmp_path / "tale.conllu.xz").write_bytes(lzma.compress(CONLLU.replace("\n", "\r\n").encode()))
    assert read_conllu(tmp_path / "tale.conllu.xz").sentences == plain.sentences


TOKEN = "1\tYes\tyes\tINTJ\t_\t_\t0\troot\t_\t_\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no sentence"),
        ("1 Yes yes INTJ _ _ 0 root _ _\n", "line 1: 1 columns .are its columns parted by spaces"),
        (f"\n{TOKEN[:-3]}\n", "line 2: 9 columns.*10 parted by tabs"),
        (f"{TOKEN}{TOKEN.replace('1', '3', 1)}", "line 2: ID '3' where 2 is due"),
        (TOKEN.replace("1", "one", 1), "line 1: ID 'one'"),
        (TOKEN.replace("INTJ", "UH"), "line 1: UPOS 'UH'.*universal tag"),
        (TOKEN.replace("Yes", " ", 1), "line 1: FORM is"),
        (TOKEN.replace("_\t_\t0", "_\tNumber\t0"), "line 1: FEATS 'Number'"),
        (f"# text = No\n{TOKEN}", "line 1: # text has 'No' where the words give 'Yes'.*SpaceAfter"),
        (f"# text = Yes.\n{TOKEN}", "line 1: # text has '.' where the words give ''"),
        (f"{TOKEN}# text = Yes\n", "line 2: a comment between token lines"),
        (f"# sent_id = a\n{TOKEN}\n# sent_id = a\n{TOKEN}", "line 4: sent_id a a second time"),
        ("# sent_id = a\n\n", "line 1: sentence a has no words"),
        (f"{TOKEN}1-2\tYes\t_\t_\t_\t_\t_\t_\t_\t_\n", "line 2: multiword token 1-2 out of place"),
        (f"1-2\tYes\t_\t_\t_\t_\t_\t_\t_\t_\n{TOKEN}", "line 1: multiword token 1-2 .Yes. of 1 words"),
        (f"2-1\tYes\t_\t_\t_\t_\t_\t_\t_\t_\n{TOKEN}", "line 1: multiword token 2-1 out of place"),
    ],
)
def test_a_malformed_file_is_refused_with_the_line_and_the_remedy(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(BadGold, match=f"tale.conllu.*{says}"):
        read_conllu(write(tmp_path, text))


def test_a_file_that_is_missing_damaged_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadGold, match="cannot be read"):
        read_conllu(tmp_path / "nowhere.conllu")
    (tmp_path / "cut.conllu.xz").write_bytes(lzma.compress(CONLLU.encode())[:50])
    with pytest.raises(BadGold, match="cannot be read"):
        read_conllu(tmp_path / "cut.conllu.xz")
    (tmp_path / "latin.conllu").write_bytes(TOKEN.replace("Yes", "Café").encode("latin1"))
    with pytest.raises(BadGold, match="byte 5 is not UTF-8"):
        read_conllu(tmp_path / "latin.conllu")


# --- probe sets of gold text -----------------------------------------------------------------------------------------------


def test_gold_labels_sit_at_the_last_sub_token_and_the_set_says_whose_they_are(tmp_path: Path) -> None:
    gold = read_conllu(write(tmp_path, CONLLU))
    built = build_gold(gold, Pieces(4), 1, 64, families=["pos", "number", "tense", "class", "supersense"])
    assert built.sentences == (gold.sentences[0].text,)  # the other one is too short
    assert named(built, "number.current") == {"Plur": 1}
    assert named(built, "tense.current") == {} and named(built, "pos.current")["PROPN"] == 2
    assert built.origin["labels"]["pos"].startswith("gold: tale.conllu (sha256 ")
    assert built.origin["labels"]["supersense"].startswith("rule: WordNet")
    assert built.dropped["words sharing their last token"] >= 1  # "did" ends inside "didn't"


def test_words_outside_their_text_are_refused() -> None:
    for words in ((Word(0, 4), Word(3, 6)), (Word(0, 99),), (Word(3, 3),), (Word(4, 6), Word(0, 3))):
        gold = GoldText("by hand", frozenset({"pos"}), (Sentence("Too few.", "d", words),))
        with pytest.raises(BadProbeSet, match="overlaps its neighbour or lies outside"):
            build_gold(gold, Pieces(), 10, 64)


def test_too_few_gold_sentences_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadProbeSet, match=r"tale.conllu.*has 1 usable sentences"):
        build_gold(read_conllu(write(tmp_path, CONLLU)), Pieces(), 10, 64)


def test_adverbs_are_classed_by_the_closed_list_and_participles_have_no_tense() -> None:
    assert class_of_pos("ADV", "then") == "function" and class_of_pos("ADV", "slowly") == "content"
    assert class_of_pos("NUM", "seven") is None and class_of_pos("AUX", "was") == "function"
    assert grammatical("VERB", {"Tense": "Past", "VerbForm": "Part"}) == {"pos": "VERB"}
    assert grammatical("PROPN", {"Number": "Plur"}) == {"pos": "PROPN"} and grammatical("X", {}) == {}


# --- STREUSLE --------------------------------------------------------------------------------------------------------------


def lex(number: int, form: str, pos: str, smwe: str = "_", sense: str = "_", misc: str = "_") -> str:
    return "\t".join([str(number), form, form, pos, *"____", "_", misc, smwe, "N", form, sense, *"_____"]) + "\n"


SENTENCE = (
    "# newdoc id = reviews-1\n# sent_id = reviews-1-0001\n# text = Staff was friends at ice cream shops.\n"
    + "".join(
        [
            lex(1, "Staff", "NOUN", sense="n.GROUP"),
            lex(2, "was", "AUX", sense="v.stative"),
            lex(3, "friends", "NOUN", sense="n.PERSON"),
            lex(4, "at", "ADP", sense="p.Locus"),
            lex(5, "ice", "NOUN", "1:1", "n.FOOD"),
            lex(6, "cream", "NOUN", "1:2"),
            lex(7, "shops", "NOUN", sense="n.NATURALOBJECT", misc="SpaceAfter=No"),
            lex(8, ".", "PUNCT"),
        ]
    )
)


def as_json() -> list[dict[str, object]]:
    forms = ["Staff", "was", "friends", "at", "ice", "cream", "shops", "."]
    tags = ["NOUN", "AUX", "NOUN", "ADP", "NOUN", "NOUN", "NOUN", "PUNCT"]
    senses = ["n.GROUP", "v.stative", "n.PERSON", "p.Locus", None, None, "n.NATURALOBJECT", None]
    rows = [{"#": i, "word": w, "lemma": w, "upos": t} for i, (w, t) in enumerate(zip(forms, tags, strict=True), 1)]
    single = {str(i): {"ss": s, "toknums": [i]} for i, s in enumerate(senses, 1) if i not in (5, 6)}
    return [
        {
            "sent_id": "reviews-1-0001",
            "text": "Staff was friends at ice cream shops.",
            "toks": rows,
            "swes": single,
            "smwes": {"1": {"ss": "n.FOOD", "toknums": [5, 6]}},
        }
    ]


def test_supersenses_get_wordnets_names_and_expressions_and_copulas_none(tmp_path: Path) -> None:
    gold = read_streusle(write(tmp_path, SENTENCE, "s.conllulex"))
    expected = {"Staff": "noun.group", "friends": "noun.person", "shops": "noun.object"}
    assert found(gold.sentences[0], "supersense") == expected
    assert gold.dropped == {EXPRESSIONS: 2, COPULAS: 1}
    assert wordnet_name("v.social") == "verb.social" and wordnet_name("p.Locus") is None


def test_both_forms_of_streusle_read_the_same(tmp_path: Path) -> None:
    lines = read_streusle(write(tmp_path, SENTENCE, "s.conllulex"))
    parsed = read_streusle(write(tmp_path, json.dumps(as_json()), "s.json"))
    assert parsed.sentences == lines.sentences and parsed.dropped == lines.dropped


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (CONLLU, "s.conllulex, line 4: 10 columns.*give 19"),
        (SENTENCE.replace("n.GROUP", "noun.group"), "line 4: supersense 'noun.group'"),
        (SENTENCE.replace("1:2", "one"), "line 9: SMWE 'one'"),
    ],
)
def test_a_malformed_conllulex_file_is_refused_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(BadGold, match=says):
        read_streusle(write(tmp_path, text, "s.conllulex"))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[", "", "is not JSON"),
        ('"toks"', '"tokens"', "sentence 1: not in STREUSLE's JSON form .KeyError: 'toks'."),
        ('"word": "at"', '"word": "on"', "the word 'on' does not come next"),
        ("shops.", "shops. Now", "no word for ' Now'"),
        ("[5, 6]", "[5, 60]", "token 60 of 8"),
        ('"AUX"', '"MD"', "upos 'MD'"),
    ],
)
def test_malformed_json_is_refused_with_its_sentence(tmp_path: Path, old: str, new: str, says: str) -> None:
    with pytest.raises(BadGold, match=says):
        read_streusle(write(tmp_path, json.dumps(as_json()).replace(old, new, 1), "s.json"))
    with pytest.raises(BadGold, match="no list of sentences"):
        read_streusle(write(tmp_path, "{}", "s.json"))


# --- development data ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data() -> Path:
    folder = os.environ.get("LAB_DEV_DATA")
    if not folder or not (Path(folder) / "ewt").exists():
        pytest.skip("needs LAB_DEV_DATA with ewt and streusle")
    return Path(folder)


def test_the_english_web_treebank_reads_whole_and_agrees_with_the_closed_list(data: Path) -> None:
    gold = read_conllu(data / "ewt" / "en_ewt-ud-dev.conllu.xz")
    assert len(gold.sentences) == 2001 and len(gold.documents) == 318
    assert not gold.dropped
    pairs = Counter(
        (word.labels["class"], word_class(sentence.form(word)))
        for sentence in gold.sentences
        for word in sentence.words
        if word.labelled and word.labels.get("class") and word.labels.get("pos") != "ADV"
    )
    agreeing = sum(count for (gold_class, rule), count in pairs.items() if gold_class == rule)
    assert pairs.total() > 20_000 and agreeing / pairs.total() > 0.9  # measured: .95; a broken list would be far off
    exploration, confirmation = split(gold.documents)
    assert not set(exploration) & set(confirmation)
    built = build_gold(gold.only(confirmation), Pieces(4), 400, 128)
    assert len(built.sentences) == 400 and len(set(built.documents)) > 100
    assert set(named(built, "number.next")) == {"Sing", "Plur"} and set(named(built, "tense.next")) == {"Past", "Pres"}


def test_streusle_reads_whole_with_wordnets_inventory(data: Path) -> None:
    gold = read_streusle(data / "streusle" / "streusle.ud_dev.conllulex.xz")
    assert len(gold.sentences) == 554 and len(gold.documents) == 192
    built = build_gold(gold, Pieces(4), 500, 128)
    senses = named(built, "supersense.current")
    assert senses.total() > 700 and senses["noun.food"] > 50
    assert {name.split(".")[0] for name in senses} == {"noun", "verb"}
