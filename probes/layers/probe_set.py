"""The probe set as data: sentences, tokens and labelled words, and what keeps a stored one honest.

Building one is for `labels`; nothing here reads text or knows where a label came from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lab.errors import LabError

NO_LABEL = -1


class BadProbeSet(LabError):
    """A probe set that cannot be built from the text at hand, or a stored one that does not hold together."""


@dataclass(frozen=True)
class ProbeSet:
    """Sentences, their tokens, and labelled words in order of (sentence, position).

    Attributes:
        sentences: raw text; the unit of folds and, where documents are few, of the bootstrap.
        documents: per sentence, the sha256 (16 hex digits) of the document it was taken from.
        tokens: per sentence, token ids, beginning-of-text first.
        word_sentence, word_position: per word, its sentence and the position of its last sub-token (≥ 1).
        labels: per label name ("class.next"), a class index per word, `NO_LABEL` where there is none.
        classes: per label name, the class names that the indices mean.
        dropped: how many words or sentences were left out, by reason.
        origin: what it was made with: tokenizer sha256, seed, n_ctx; where each family's labels come from (`labels`),
            families that were asked for and could not be given (`absent`, with the reason), and
            `constant_within_document`: labels that are only valid under folds of whole documents.
    """

    sentences: tuple[str, ...]
    documents: tuple[str, ...]
    tokens: tuple[tuple[int, ...], ...]
    word_sentence: tuple[int, ...]
    word_position: tuple[int, ...]
    labels: Mapping[str, tuple[int, ...]]
    classes: Mapping[str, tuple[str, ...]]
    dropped: Mapping[str, int] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> int:
        return len(self.word_sentence)

    @property
    def units(self) -> tuple[int, ...]:
        """Per sentence, the number of its document, from 0 in order of first appearance: the unit of resampling."""
        number: dict[str, int] = {}
        return tuple(number.setdefault(document, len(number)) for document in self.documents)

    @property
    def silver(self) -> tuple[str, ...]:
        """Families whose labels are a tagger's opinion; whoever shows a number read from them says so."""
        return tuple(family for family, source in self.origin.get("labels", {}).items() if source.startswith("silver"))

    @property
    def sha256(self) -> str:
        """Over everything that a probe sees (text, tokens, positions, labels), not over the counts of what was dropped."""
        content: list[Any] = [self.sentences, self.tokens, self.word_sentence, self.word_position]
        content += [[name, self.classes[name], self.labels[name]] for name in sorted(self.labels)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def restrict(probe_set: ProbeSet, keep: Sequence[int], reason: str) -> ProbeSet:
    """The set with these sentences alone, in this order; what was left out is counted under `reason`.

    Raises:
        BadProbeSet: a sentence number that the set does not have, or one given twice.
    """
    number = {sentence: place for place, sentence in enumerate(keep)}
    if len(number) != len(keep) or not set(number) <= set(range(len(probe_set.sentences))):
        raise BadProbeSet(
            f"probe set: cannot keep sentences {list(keep)[:5]}… of {len(probe_set.sentences)}: name each at most once, "
            "from 0 on."
        )
    places = [place for place, sentence in enumerate(probe_set.word_sentence) if sentence in number]
    places.sort(key=lambda place: (number[probe_set.word_sentence[place]], probe_set.word_position[place]))
    left_out = len(probe_set.sentences) - len(keep)
    counts = dict(probe_set.dropped) | ({reason: probe_set.dropped.get(reason, 0) + left_out} if left_out else {})
    return replace(
        probe_set,
        sentences=tuple(probe_set.sentences[i] for i in keep),
        documents=tuple(probe_set.documents[i] for i in keep),
        tokens=tuple(probe_set.tokens[i] for i in keep),
        word_sentence=tuple(number[probe_set.word_sentence[place]] for place in places),
        word_position=tuple(probe_set.word_position[place] for place in places),
        labels={name: tuple(values[place] for place in places) for name, values in probe_set.labels.items()},
        dropped=dict(sorted(counts.items())),
    )


def to_dict(probe_set: ProbeSet) -> dict[str, Any]:
    """The set as JSON-able data, with its hash."""
    return {
        "version": 1,
        "sha256": probe_set.sha256,
        "origin": dict(probe_set.origin),
        "dropped": dict(probe_set.dropped),
        "sentences": list(probe_set.sentences),
        "documents": list(probe_set.documents),
        "tokens": [list(ids) for ids in probe_set.tokens],
        "word_sentence": list(probe_set.word_sentence),
        "word_position": list(probe_set.word_position),
        "classes": {name: list(values) for name, values in probe_set.classes.items()},
        "labels": {name: list(values) for name, values in probe_set.labels.items()},
    }


def from_dict(data: Mapping[str, Any]) -> ProbeSet:
    """Read a stored set back, refusing one that does not hold together.

    Raises:
        BadProbeSet: a field is missing, a position lies outside its sentence, labels and words differ in number, a class
            index has no name, or the content is not what its hash says.
    """
    try:
        result = ProbeSet(
            sentences=tuple(str(text) for text in data["sentences"]),
            documents=tuple(str(name) for name in data["documents"]),
            tokens=tuple(tuple(int(i) for i in ids) for ids in data["tokens"]),
            word_sentence=tuple(int(i) for i in data["word_sentence"]),
            word_position=tuple(int(i) for i in data["word_position"]),
            labels={str(name): tuple(int(i) for i in values) for name, values in data["labels"].items()},
            classes={str(name): tuple(str(v) for v in values) for name, values in data["classes"].items()},
            dropped=dict(data.get("dropped", {})),
            origin=dict(data.get("origin", {})),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadProbeSet(
            f"probe set: not in the stored form ({type(error).__name__}: {error}). Delete it to build it anew."
        ) from None
    check(result)
    if "sha256" in data and data["sha256"] != result.sha256:
        raise BadProbeSet(
            "probe set: its content is not what its sha256 says, so it was edited. Delete it to build it anew; "
            "readings before and after are then not comparable."
        )
    return result


def check(probe_set: ProbeSet) -> None:
    """Refuse a set whose parts do not fit each other.

    Raises:
        BadProbeSet: naming the part.
    """
    remedy = "Delete it to build it anew."
    sentences = len(probe_set.sentences)
    if len(probe_set.tokens) != sentences:
        raise BadProbeSet(f"probe set: {sentences} sentences but {len(probe_set.tokens)} token rows. {remedy}")
    if len(probe_set.documents) != sentences:
        raise BadProbeSet(f"probe set: {sentences} sentences but {len(probe_set.documents)} documents. {remedy}")
    if len(probe_set.word_position) != probe_set.words:
        raise BadProbeSet(f"probe set: {probe_set.words} words but {len(probe_set.word_position)} positions. {remedy}")
    for sentence, position in zip(probe_set.word_sentence, probe_set.word_position, strict=True):
        if not 0 <= sentence < sentences or not 1 <= position < len(probe_set.tokens[sentence]):
            raise BadProbeSet(
                f"probe set: a word at position {position} of sentence {sentence}, which is outside its tokens "
                f"(position 0 is the beginning-of-text token). {remedy}"
            )
    if set(probe_set.labels) != set(probe_set.classes):
        raise BadProbeSet(f"probe set: labels and classes name different tasks. {remedy}")
    for name, values in probe_set.labels.items():
        if len(values) != probe_set.words:
            raise BadProbeSet(f"probe set: {name} has {len(values)} labels for {probe_set.words} words. {remedy}")
        if any(not NO_LABEL <= value < len(probe_set.classes[name]) for value in values):
            raise BadProbeSet(f"probe set: {name} has a class index without a name. {remedy}")
