"""Sentences and words of raw text, by deterministic rules for prose and chat. No model, no guess from context."""

from __future__ import annotations

import re
from collections.abc import Iterator

from probes.layers.words import ABBREVIATIONS, CLITICS, FUNCTION_WORDS

WORD = re.compile(r"(?<![\w'’])[^\W\d_]+(?:['’][^\W\d_]+)*(?!\w)")
_SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[^\W_])")
_ROLE_MARK = re.compile(r"^\s*(?:system|user|assistant|[A-Z])\s*:\s+|<\|\w+\|>")


def split_sentences(document: str) -> Iterator[str]:
    """Sentences of prose or chat: a line is a turn or a paragraph, unless the text is wrapped at a fixed width.

    Role marks ("user: ", "A: ") are taken off. Full stops after abbreviations, initials and inside numbers end nothing.
    """
    for paragraph in _paragraphs(document):
        text = _ROLE_MARK.sub(" ", paragraph)
        start = 0
        for match in _SENTENCE_END.finditer(text):
            before = text[start : match.start()].rsplit(None, 1)
            last = before[-1].lstrip("\"'“‘([").lower() if before else ""
            if text[match.start()] == "." and (last in ABBREVIATIONS or (len(last) == 1 and last != "i")):
                continue
            yield " ".join(text[start : match.end()].split())
            start = match.end()
        rest = " ".join(text[start:].split())
        if rest:
            yield rest


def _paragraphs(document: str) -> Iterator[str]:
    lines = [line.strip() for line in document.splitlines()]
    lengths = [len(line) for line in lines if line]
    wrapped = len(lengths) >= 8 and max(lengths) <= 100 and sum(n >= 50 for n in lengths) > len(lengths) / 2
    if not wrapped:
        yield from (line for line in lines if line)
        return
    paragraph: list[str] = []
    for line in [*lines, ""]:
        if line:
            paragraph.append(line)
        elif paragraph:
            yield " ".join(paragraph)
            paragraph = []


def find_words(text: str) -> Iterator[tuple[int, int, bool]]:
    """(start, end, labelled) of every word; a clitic ("'s") is split off and not labelled, a contraction is one word."""
    for match in WORD.finditer(text):
        start, end = match.span()
        form = written_form(match.group())
        clitic = next((c for c in CLITICS if form.endswith(c) and len(form) > len(c)), None)
        if clitic and form not in FUNCTION_WORDS:
            yield start, end - len(clitic), True
            yield end - len(clitic), end, False
        else:
            yield start, end, True


def written_form(word: str) -> str:
    """Lower case, straight apostrophes: how word lists and tables spell it."""
    return word.lower().replace("’", "'")
