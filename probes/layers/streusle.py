"""STREUSLE files that a user names: gold supersenses of nouns and verbs beside gold part of speech, number and tense.

Both forms of the corpus are read: `.conllulex` (CoNLL-U and nine more columns) and the JSON made of it
(github.com/nert-nlp/streusle, CONLLULEX.md; Schneider & Smith 2015, aclweb N15-1177). Names become WordNet's ("n.PERSON"
→ "noun.person"), so that gold and rule-made labels are the same task. Left unlabelled and counted: words of multiword
expressions, whose sense no single word has; and auxiliaries and copulas, which are function words. Supersenses of
adpositions and possessives (p.*) are another inventory and are not taken.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from probes.layers.annotated import GoldText, Sentence, Word
from probes.layers.conllu import FAMILIES as GRAMMATICAL
from probes.layers.conllu import (
    UNPARTED,
    BadGold,
    Token,
    bad,
    blocks,
    gold_text,
    is_word,
    labels_of,
    laid_out,
    read_features,
    read_text,
)
from probes.layers.lexicons import UNIVERSAL_POS

COLUMNS = 19
FAMILIES = GRAMMATICAL | {"supersense"}
EXPRESSIONS, COPULAS = "words of multiword expressions (no supersense)", "auxiliaries with a supersense"
_RENAMED = {"noun.naturalobject": "noun.object"}
_UNPLACED = frozenset({"_", "??", "`$"})  # none, not to be decided, slot of an idiom


@dataclass(frozen=True)
class _Sense:
    name: str | None
    in_expression: bool


def read_streusle(file: Path) -> GoldText:
    """Sentences of a STREUSLE file: JSON if it is named so, `.conllulex` otherwise (either may end in .xz or .gz).

    Raises:
        BadGold: naming the line (JSON: the sentence), what is wrong with it, and what it should be.
    """
    content = read_text(file)
    dropped: Counter[str] = Counter()
    read = _read_json if ".json" in file.suffixes else _read_lines
    return gold_text(file.name, content, FAMILIES, list(read(content, file.name, dropped)), dropped)


def wordnet_name(supersense: str) -> str | None:
    """WordNet's name of a noun or verb supersense, None for the other inventories.

    >>> wordnet_name("n.NATURALOBJECT"), wordnet_name("v.cognition"), wordnet_name("p.Locus")
    ('noun.object', 'verb.cognition', None)
    """
    kind, _, rest = supersense.partition(".")
    part = {"n": "noun", "v": "verb"}.get(kind)
    if part is None or not rest:
        return None
    name = f"{part}.{rest.lower()}"
    return _RENAMED.get(name, name)


def _read_lines(content: str, name: str, dropped: Counter[str]) -> Iterator[tuple[str, Sentence]]:
    for block in blocks(content.split("\n"), name, COLUMNS):
        text, spans = laid_out(block, name)
        senses = []
        for token in block.tokens:
            expression, _, _, supersense = token.more[:4]
            if not (supersense in _UNPLACED or re.fullmatch(r"[nvp]\.[A-Za-z/]+", supersense)):
                raise bad(name, token.line, f"supersense {supersense!r}", "write n.NAME, v.name, p.Name or _")
            if not re.fullmatch(r"_|\d+:\d+", expression):
                raise bad(name, token.line, f"SMWE {expression!r}", "write group:position, or _")
            senses.append(_Sense(None if supersense in _UNPLACED else wordnet_name(supersense), expression != "_"))
        yield block.document, Sentence(text, "", tuple(_words(block.tokens, spans, senses, dropped)))


def _read_json(content: str, name: str, dropped: Counter[str]) -> Iterator[tuple[str, Sentence]]:
    try:
        data = json.loads(content)
    except ValueError as error:
        raise BadGold(f"{name}: is not JSON ({error}). Make it again with conllulex2json.py.") from None
    if not isinstance(data, list):
        raise BadGold(f"{name}: is JSON, but no list of sentences. Make it again with conllulex2json.py.")
    for number, entry in enumerate(data, 1):
        try:
            yield _json_sentence(entry, name, number, dropped)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise BadGold(
                f"{name}, sentence {number}: not in STREUSLE's JSON form ({type(error).__name__}: {error}). "
                "Make the file again with conllulex2json.py."
            ) from None


def _json_sentence(entry: dict[str, Any], name: str, number: int, dropped: Counter[str]) -> tuple[str, Sentence]:
    """One sentence. Words are found in `text` one after another: multiword tokens are not marked in this form."""
    text, identity = str(entry["text"]), str(entry["sent_id"])
    tokens, spans, at = list[Token](), list[tuple[int, int] | None](), 0
    for row in entry["toks"]:
        form, pos = str(row["word"]), str(row["upos"])
        if pos not in UNIVERSAL_POS:
            raise BadGold(f"{name}, sentence {number}: upos {pos!r}. Use a universal part of speech.")
        start = text.find(form, at)
        if not form or start < 0 or text[at:start].strip():
            raise BadGold(
                f"{name}, sentence {number} ({identity}): the word {form!r} does not come next in its text at character "
                f"{at}. Correct text or word."
            )
        at = start + len(form)
        features = read_features(row.get("feats") or "_", name, number)
        tokens.append(Token(number, form, str(row.get("lemma", "_")), pos, features, True))
        spans.append((start, at))
    if text[at:].strip():
        raise BadGold(f"{name}, sentence {number} ({identity}): no word for {text[at : at + 12]!r}. Add its words.")
    senses = [_Sense(None, False)] * len(tokens)
    for group, joined in (("swes", False), ("smwes", True)):
        for expression in entry[group].values():
            for place in expression["toknums"]:
                if not 1 <= place <= len(tokens):
                    raise BadGold(f"{name}, sentence {number}: token {place} of {len(tokens)}. Correct toknums.")
                senses[place - 1] = _Sense(wordnet_name(expression["ss"] or "_"), joined)
    match = re.fullmatch(r"(.+)-\d+", identity)
    return (match[1] if match else identity), Sentence(text, "", tuple(_words(tokens, spans, senses, dropped)))


def _words(
    tokens: list[Token], spans: list[tuple[int, int] | None], senses: list[_Sense], dropped: Counter[str]
) -> Iterator[Word]:
    for token, span, sense in zip(tokens, spans, senses, strict=True):
        if span is None:
            dropped[UNPARTED] += 1
            continue
        word = Word(*span, labels_of(token), is_word(token), token.lemma)
        if not word.labelled:
            pass
        elif sense.in_expression:
            dropped[EXPRESSIONS] += 1
        elif sense.name is not None and token.pos == "AUX":
            dropped[COPULAS] += 1
        elif sense.name is not None:
            word = replace(word, labels={**word.labels, "supersense": sense.name})
        yield word
