"""Words with classes from what a person brings: two word lists, two files of sentences, or pairs of contrast prompts.

Words of lists are looked up in held-out text of the run; sentences and prompts are read as they stand.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile, zip_longest
from pathlib import Path
from typing import Any

import torch

from probes.concepts.text import characters, unlabelled_set
from probes.layers import labels
from probes.layers.annotated import Sentence, document_name, labelled_forms, plain
from probes.layers.selection import WORDS_PER_SENTENCE, digest, document_order
from probes.layers.splits import sentence_key
from probes.layers.text import find_words, split_sentences, written_form
from train.concept_sources import BadSource, Labelled, Text

LARGEST_FILE = 1_000_000  # bytes of a text file that a person names; its lines go into the card, which listings read
_SIDES = ("first", "second")


@dataclass(frozen=True)
class WordLists:
    """Words of one list against words of another, wherever held-out text has them."""

    names: tuple[str, str]
    lists: tuple[tuple[str, ...], tuple[str, ...]]
    origin: Mapping[str, Any] = field(default_factory=dict)

    def label(self, text: Text) -> Labelled:
        """
        Raises:
            BadSource: held-out text has none of the words.
        """
        chosen = _sentences_with(text, [set(words) for words in self.lists])
        if not chosen:
            raise BadSource(
                f"--words: no sentence of the run's held-out text has a word of {' or '.join(self.names)}. Use words it has."
            )
        tokenizer = text.run.tokenizer()
        probe_set = unlabelled_set(chosen, tokenizer, text.run.config.model.n_ctx)
        number = {word: index for index, words in enumerate(self.lists) for word in words}
        spans = zip(probe_set.word_sentence, characters(probe_set, tokenizer), strict=True)
        forms = (written_form(probe_set.sentences[sentence][start:end]) for sentence, (start, end) in spans)
        label = torch.tensor([number.get(form, labels.NO_LABEL) for form in forms])
        return Labelled(probe_set, label, self.names, self.names, self.names)

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": "words",
            "names": list(self.names),
            "lists": [list(one) for one in self.lists],
            "origin": self.origin,
        }


@dataclass(frozen=True)
class Sentences:
    """Every word of one group of sentences against every word of another."""

    names: tuple[str, str]
    lists: tuple[tuple[str, ...], tuple[str, ...]]
    origin: Mapping[str, Any] = field(default_factory=dict)

    def label(self, text: Text) -> Labelled:
        """
        Raises:
            BadProbeSet: no sentence has a word.
        """
        sentences = [plain(line, document_name(line)) for own in self.lists for line in own]
        probe_set = unlabelled_set(sentences, text.run.tokenizer(), text.run.config.model.n_ctx)
        label = (torch.tensor(probe_set.word_sentence) >= len(self.lists[0])).long()
        return Labelled(probe_set, label, self.names, self.names, self.names, held_out=False)

    def to_dict(self) -> dict[str, Any]:
        lists = [list(one) for one in self.lists]
        return {"kind": "sentences", "names": list(self.names), "lists": lists, "origin": self.origin}


@dataclass(frozen=True)
class Prompts:
    """Pairs of prompts. Labelled are the words from where two part on; of one that is the other's beginning, its last."""

    pairs: tuple[tuple[str, str], ...]
    origin: Mapping[str, Any] = field(default_factory=dict)

    def label(self, text: Text) -> Labelled:
        """
        Raises:
            BadProbeSet: no prompt has a word.
        """
        sentences = [plain(one, document_name("\t".join(pair))) for pair in self.pairs for one in pair]
        tokenizer = text.run.tokenizer()
        probe_set = unlabelled_set(sentences, tokenizer, text.run.config.model.n_ctx)
        parting = [_alike(*pair) for pair in self.pairs for _ in pair]
        last = {sentence: word for word, sentence in enumerate(probe_set.word_sentence)}
        label = torch.full((probe_set.words,), labels.NO_LABEL)
        spans = zip(probe_set.word_sentence, characters(probe_set, tokenizer), strict=True)
        for word, (sentence, (_, end)) in enumerate(spans):
            if end > parting[sentence] or last[sentence] == word:
                label[word] = sentence % 2
        return Labelled(probe_set, label, _SIDES, _SIDES, _SIDES, held_out=False, grouped=True)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "prompts", "pairs": [list(pair) for pair in self.pairs], "origin": self.origin}


def word_lists(a: str, b: str) -> WordLists:
    """From two files, or the words themselves with commas.

    Raises:
        BadSource: a file that cannot be read, no word, what is no single word, or a word of both lists.
    """
    (name_a, words_a), (name_b, words_b) = _word_list(a), _word_list(b)
    shared = sorted(set(words_a) & set(words_b))
    if shared:
        raise BadSource(f"--words: {shared[0]!r} is in both lists, so it tells nothing apart. Take it out of one.")
    return WordLists(_apart(name_a, name_b), (words_a, words_b))


def sentence_files(a: Path, b: Path) -> Sentences:
    """From two files, a sentence a line.

    Raises:
        BadSource: a file that cannot be read, or a sentence in both.
    """
    first, second = (tuple(dict.fromkeys(_lines(file, "--sentences"))) for file in (a, b))
    shared = set(first) & set(second)
    if shared:
        raise BadSource(f"--sentences: {min(shared)[:60]!r} is in both files. Take it out of one.")
    return Sentences(_apart(a.stem, b.stem), (first, second), {"files": _hashes(a, b)})


def prompt_file(file: Path) -> Prompts:
    """From a file with a pair a line: two texts with a tab between them, or a JSON list of two strings.

    Raises:
        BadSource: a file that cannot be read, or a line that is no pair of different prompts.
    """
    pairs = [_pair(line, number, file) for number, line in enumerate(_lines(file, "--prompts"), 1)]
    return Prompts(tuple(dict.fromkeys(pairs)), {"files": _hashes(file)})


def _word_list(given: str) -> tuple[str, tuple[str, ...]]:
    """Name and words, in lower case, of a file or of a text with commas."""
    path = Path(given)
    try:
        is_file = path.is_file()
    except (OSError, ValueError):  # words too long for a name
        is_file = False
    if is_file:
        name, parts = path.stem, " ".join(_lines(path, "--words")).replace(",", " ").split()
    elif path.suffix or len(path.parts) > 1:
        raise BadSource(f"--words {given[:80]}: there is no such file. Give a file, or words with commas: king,queen")
    else:
        parts = [part.strip() for part in given.split(",") if part.strip()]
        name = "/".join(parts[:3]) + ("/…" if len(parts) > 3 else "")
    words = tuple(dict.fromkeys(written_form(part) for part in parts))
    if not words:
        raise BadSource(f"--words {given[:80]!r}: has no word. Give a file, or words with commas: king,queen")
    for word in words:
        if list(find_words(word))[:1] != [(0, len(word), True)]:
            raise BadSource(f"--words: {word[:40]!r} is not one word. Write single words, without signs or spaces.")
    return name, words


def _sentences_with(text: Text, lists: Sequence[set[str]]) -> list[Sentence]:
    """Held-out sentences that have a word of a list, of each list the same number where there are enough; hash order."""
    seed = text.run.config.probing.seed
    low, high = WORDS_PER_SENTENCE
    seen: set[str] = set()
    having: list[list[tuple[str, Sentence]]] = [[] for _ in lists]
    for document in document_order(text.documents(), seed):
        for line in split_sentences(document):
            sentence = plain(line, document_name(document))
            forms = {written_form(form) for form in labelled_forms(sentence)}
            own = [index for index, words in enumerate(lists) if forms & words]
            if not own or not low <= len(list(labelled_forms(sentence))) <= high:
                continue
            key = sentence_key(line)
            if key in seen:
                continue
            seen.add(key)
            for index in own:
                having[index].append((digest(seed, line), sentence))
    ranked = [[sentence for _, sentence in sorted(own, key=lambda one: one[0])] for own in having]
    in_turn = (one for turn in zip_longest(*ranked) for one in turn if one is not None)
    return list({one.text: one for one in in_turn}.values())[: text.sentences]


def _lines(file: Path, option: str) -> Iterator[str]:
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise BadSource(f"{option} {file.name}: larger than {LARGEST_FILE // 1000} kB. Give fewer lines.")
        content = file.read_text(encoding="utf8")
    except OSError as error:
        raise BadSource(f"{option} {file}: cannot be read ({error.strerror or error}).") from None
    except UnicodeDecodeError as error:
        raise BadSource(f"{option} {file}: is not UTF-8 text (byte {error.start}). Convert it first.") from None
    lines = [line.strip(" \r") for line in content.split("\n") if line.strip()]
    if not lines:
        raise BadSource(f"{option} {file}: is empty. Write one to a line.")
    return iter(lines)


def _pair(line: str, number: int, file: Path) -> tuple[str, str]:
    parts: Any = line.split("\t")
    if line.startswith("["):
        try:
            parts = json.loads(line)
        except json.JSONDecodeError:
            parts = []
    if len(parts) != 2 or not all(isinstance(one, str) and one.strip() for one in parts) or parts[0] == parts[1]:
        raise BadSource(
            f"--prompts {file.name}, line {number}: is no pair of different prompts. Write two with a tab between them, "
            'or a JSON list: ["I love it", "I hate it"]'
        )
    return parts[0].strip(), parts[1].strip()


def _alike(a: str, b: str) -> int:
    """Characters that both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _apart(a: str, b: str) -> tuple[str, str]:
    return (a, b) if a != b else (f"{a} (first)", f"{b} (second)")


def _hashes(*files: Path) -> dict[str, str]:
    """Names without their folders: a card must not name a place on somebody's machine."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
