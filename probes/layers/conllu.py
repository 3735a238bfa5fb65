"""CoNLL-U files that a user names: gold part of speech, number and tense, word by word, refused where they are malformed.

Format: universaldependencies.org/format.html. A sentence's text is put together from its surface tokens and SpaceAfter=No,
and must be what its `# text` says: character offsets into it are what labels hang on. Multiword tokens ("don't" = do + n't)
are parted where their words spell them out, else left unlabelled and counted; empty nodes are no text and are left out.
"""

from __future__ import annotations

import gzip
import hashlib
import lzma
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from probes.layers.annotated import GoldText, Sentence, Word, document_name
from probes.layers.lexicons import UNIVERSAL_POS, UNPLACED_POS, class_of_pos, grammatical
from probes.layers.probe_set import BadProbeSet

COLUMNS = 10
FAMILIES = frozenset({"class", "pos", "number", "tense"})
UNPARTED = "words inside a multiword token that they do not spell"
_OPEN = {".xz": lzma.decompress, ".gz": gzip.decompress}


class BadGold(BadProbeSet):
    """A gold file that is not in its format; the message names file and line."""


@dataclass(frozen=True)
class Token:
    """One syntactic word, with its line in the file and the columns after the tenth, if there are any."""

    line: int
    form: str
    lemma: str
    pos: str
    features: dict[str, str]
    space_after: bool
    more: tuple[str, ...] = ()


@dataclass
class Block:
    """One sentence as it stands in the file. `ranges`: first and last word, surface form, whether a space follows."""

    line: int
    document: str
    id: str | None = None
    text: tuple[int, str] | None = None
    tokens: list[Token] = field(default_factory=list)
    ranges: list[tuple[int, int, str, bool]] = field(default_factory=list)


def read_conllu(file: Path) -> GoldText:
    """Sentences of a CoNLL-U file (plain, .xz or .gz), by document.

    A document begins at `# newdoc`; a file without any is parted by what its sentence ids share ("weblog-17" of
    "weblog-17-0003"), and without ids it is one document.

    Raises:
        BadGold: naming the line, what is wrong with it, and what it should be.
    """
    content = read_text(file)
    sentences: list[tuple[str, Sentence]] = []
    dropped: Counter[str] = Counter()
    for block in blocks(content.split("\n"), file.name, COLUMNS):
        text, spans = laid_out(block, file.name)
        sentences.append((block.document, Sentence(text, "", tuple(_words(block, spans, dropped)))))
    return gold_text(file.name, content, FAMILIES, sentences, dropped)


def read_text(file: Path) -> str:
    """The file's text, unpacked. Raises BadGold for one that is missing, damaged or not UTF-8."""
    try:
        content = file.read_bytes()
        return _OPEN.get(file.suffix, bytes)(content).decode("utf8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise BadGold(f"{file.name}: byte {error.start} is not UTF-8. Save the file as UTF-8.") from None
    except (OSError, EOFError, lzma.LZMAError) as error:
        raise BadGold(f"{file}: cannot be read ({error}). Check the path, or fetch the file again.") from None


def gold_text(
    name: str, content: str, families: frozenset[str], sentences: list[tuple[str, Sentence]], dropped: Counter[str]
) -> GoldText:
    """Sentences under their documents' hashes. Raises BadGold if there are none."""
    if not sentences:
        raise BadGold(f"{name}: holds no sentence. Name a file with annotated text.")
    texts: dict[str, list[str]] = {}
    for document, sentence in sentences:
        texts.setdefault(document, []).append(sentence.text)
    names = {document: document_name("\n".join(lines)) for document, lines in texts.items()}
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    return GoldText(
        name=f"{name} (sha256 {digest})",
        families=families,
        sentences=tuple(Sentence(one.text, names[document], one.words, one.topic) for document, one in sentences),
        dropped=dict(dropped),
    )


def blocks(lines: Iterable[str], name: str, columns: int) -> Iterator[Block]:
    """The sentences of a file, every line checked.

    Raises:
        BadGold: naming the line.
    """
    document, newdoc, seen = "", False, set[str]()
    block: Block | None = None
    for number, line in enumerate([*lines, ""], 1):
        if not line.strip():
            if block is not None and block.tokens:
                _check_whole(block, name)
                yield block
            elif block is not None and block.id is not None:
                raise bad(name, block.line, f"sentence {block.id} has no words", "give its token lines, or delete it")
            block = None
            continue
        block = block or Block(number, document)
        if line.startswith("#"):
            if block.tokens:
                raise bad(name, number, "a comment between token lines", "put comments above the sentence")
            key, _, value = line[1:].partition("=")
            if re.fullmatch(r"\s*newdoc(\s+id)?\s*", key) or line[1:].strip() == "newdoc":
                newdoc, document = True, value.strip() or f"document at line {number}"
                block.document = document
            elif key.strip() == "sent_id":
                block.id = value.strip()
                if block.id in seen:
                    raise bad(name, number, f"sent_id {block.id} a second time", "give every sentence its own")
                seen.add(block.id)
                if not newdoc and (match := re.fullmatch(r"(.+)-\d+", block.id)):
                    block.document = match[1]
            elif key.strip() == "text":
                block.text = (number, value.strip())
        else:
            _add(block, line.split("\t"), name, number, columns)


def laid_out(block: Block, name: str) -> tuple[str, list[tuple[int, int] | None]]:
    """The sentence's text, and the characters of each word; None for words that a multiword token does not spell out.

    Raises:
        BadGold: the text is not what `# text` says.
    """
    ranges = {first: (last, form, space) for first, last, form, space in block.ranges}
    text, spans = "", list[tuple[int, int] | None]()
    while len(spans) < len(block.tokens):
        start, token = len(text), block.tokens[len(spans)]
        last, form, space = ranges.get(len(spans) + 1, (len(spans) + 1, token.form, token.space_after))
        forms = [one.form for one in block.tokens[len(spans) : last]]
        if "".join(forms) == form:
            for one in forms:
                spans.append((start, start + len(one)))
                start += len(one)
        else:
            spans += [None] * len(forms)
        text += form + (" " if space else "")
    text = text.rstrip(" ")
    if block.text is not None and block.text[1] != text:
        at = next((i for i, (a, b) in enumerate(zip(block.text[1], text, strict=False)) if a != b), len(text))
        raise bad(
            name,
            block.text[0],
            f"# text has {block.text[1][at : at + 12]!r} where the words give {text[at : at + 12]!r}",
            "correct the text, or SpaceAfter=No in the words' MISC",
        )
    return text, spans


def bad(name: str, line: int, wrong: str, remedy: str) -> BadGold:
    return BadGold(f"{name}, line {line}: {wrong}. To mend it, {remedy}.")


def is_word(token: Token) -> bool:
    """Whether it can carry labels: letters in it, and a part of speech that the treebank could place or none at all."""
    return token.pos not in UNPLACED_POS and any(character.isalpha() for character in token.form)


def _words(block: Block, spans: list[tuple[int, int] | None], dropped: Counter[str]) -> Iterator[Word]:
    for token, span in zip(block.tokens, spans, strict=True):
        if span is None:
            dropped[UNPARTED] += 1
            continue
        yield Word(*span, labels_of(token), is_word(token), token.lemma)


def labels_of(token: Token) -> dict[str, str]:
    """What a gold word says of class, part of speech, number and tense."""
    found = grammatical(token.pos, token.features)
    kind = class_of_pos(token.pos, token.form)
    return found if kind is None else found | {"class": kind}


def _add(block: Block, cells: list[str], name: str, line: int, columns: int) -> None:
    if len(cells) != columns:
        spaces = " (are its columns parted by spaces?)" if len(cells) == 1 else ""
        raise bad(name, line, f"{len(cells)} columns{spaces}", f"give {columns} parted by tabs, _ where one is empty")
    number, form, lemma, pos, _, features, *_ = cells
    space = "SpaceAfter=No" not in cells[9].split("|")
    if not form.strip() or form != form.strip():
        raise bad(name, line, f"FORM is {form!r}", "write the word as it stands in the text")
    if re.fullmatch(r"\d+\.\d+", number):
        return  # an empty node: understood, not written
    if match := re.fullmatch(r"(\d+)-(\d+)", number):
        first, last = int(match[1]), int(match[2])
        if first != len(block.tokens) + 1 or last <= first or (block.ranges and first <= block.ranges[-1][1]):
            raise bad(name, line, f"multiword token {number} out of place", "put it before its first word, each once")
        block.ranges.append((first, last, form, space))
        return
    if number != str(len(block.tokens) + 1):
        raise bad(name, line, f"ID {number!r} where {len(block.tokens) + 1} is due", "number the words 1, 2, 3, …")
    if pos not in UNIVERSAL_POS:
        raise bad(name, line, f"UPOS {pos!r}", f"use a universal tag: {', '.join(sorted(UNIVERSAL_POS))}")
    block.tokens.append(
        Token(line, form, lemma, pos, read_features(features, name, line), space, tuple(cells[COLUMNS:]))
    )


def read_features(cell: str, name: str, line: int) -> dict[str, str]:
    """ "Number=Sing|Person=3" as a mapping."""
    if cell in ("_", ""):
        return {}
    pairs = [pair.partition("=") for pair in cell.split("|")]
    if any(not key or not value for key, _, value in pairs):
        raise bad(name, line, f"FEATS {cell!r}", "write Name=Value, parted by |, or _")
    return {key: value for key, _, value in pairs}


def _check_whole(block: Block, name: str) -> None:
    if block.ranges and block.ranges[-1][1] > len(block.tokens):
        first, last, form, _ = block.ranges[-1]
        raise bad(
            name, block.line, f"multiword token {first}-{last} ({form}) of {len(block.tokens)} words", "end it there"
        )
