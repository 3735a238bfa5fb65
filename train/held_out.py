"""Text for the proof of a freeze: validation documents, which no step has trained on, and words of them labelled anew.

Labels come the way they came when the concept was found (the same task, word lists or claim). Concepts are found in
validation text too, so the accuracy of the frozen probe at the freeze is a little flattered; what a proof compares with it
(the same words later, the same words in a twin) is flattered alike, and every probe fitted here is read out of fold.
Sentences and prompts that a person gave are used as they are. A direction from a file has no labels of words, and what needs
them stays undecided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lab.concepts import Concept
from lab.errors import LabError
from lab.run import Run
from probes.concepts.look import HeldOut
from probes.layers.annotated import document_name
from probes.layers.collect import collect
from probes.layers.labels import NO_LABEL, ProbeSet
from train.concept_sources import Labelled, Text
from train.concepts import source_of

SENTENCES = 1000  # labelled; fewer where the text has fewer
TOKENS = 30_000  # of drift and cost
SHORTEST = 8  # tokens of a window; shorter ones have no context to speak of
STRONGEST = 0.1  # of a concept without labels, the words that count as its own: this share, by its first coordinate


class NoHeldOutText(LabError):
    """The run's validation text cannot carry a proof."""


@dataclass(frozen=True)
class ProofText(Text):
    """Held-out text as concept sources ask for it, of given documents alone."""

    texts: tuple[str, ...] = field(default=())

    def documents(self) -> list[str]:
        return list(self.texts)


def gather(run: Run, concept: Concept, model: Any) -> tuple[HeldOut, dict[str, Any]]:
    """Windows and labelled words; and what is to be told of where they come from.

    Args:
        run: whose validation text, records and tokenizer are used.
        model: at the freeze; where the concept has no labels, its strongest words are the concept's own.

    Raises:
        NoHeldOutText: too little validation text.
    """
    from train.session import corpus_of

    texts = sorted(set(corpus_of(run).validation_documents()), key=document_name)
    rows, document, names = _windows(run, texts)
    if len(names) < 2:
        raise NoHeldOutText(
            f"{run.name}: {len(names)} validation documents of at least {SHORTEST} tokens; a proof needs 2, better 50. "
            "Add text, or raise data.validation_share."
        )
    labelled, why = _labelled(run, concept, ProofText(run, SENTENCES, tuple(texts)))
    words = labelled.probe_set
    label = _of_concept(labelled, concept)
    if bool((label >= 0).any()):
        own = torch.isin(
            label, torch.tensor([concept.classes.index(one) for one in labelled.of if one in concept.classes])
        )
    else:
        own = _strongest(model, words, concept)
    used, target = _with_next(words, own)
    told = {
        "source": "validation text of " + ", ".join(one.name for one in run.config.data.sources),
        "labels": why,
        "probe_set": words.sha256,
    }
    return HeldOut(rows, document, names, words, label, used, target), told


def _windows(run: Run, texts: Sequence[str]) -> tuple[tuple[tuple[int, ...], ...], tuple[int, ...], tuple[str, ...]]:
    """The first window of every document, then the second of every document that has one, until there are enough tokens."""
    tokenizer, room = run.tokenizer(), run.config.model.n_ctx - 1
    cut: list[tuple[str, list[list[int]]]] = []
    for text in texts:
        ids, _ = tokenizer.encode_with_offsets(text)
        parts = [ids[at : at + room] for at in range(0, len(ids), room)]
        parts = [part for part in parts if len(part) >= min(SHORTEST, room)]
        if parts:
            cut.append((document_name(text), parts))
    rows: list[tuple[int, ...]] = []
    document: list[int] = []
    names: dict[str, int] = {}
    total = 0
    for turn in range(max((len(parts) for _, parts in cut), default=0)):
        for name, parts in cut:
            if turn < len(parts) and total < TOKENS:
                rows.append((tokenizer.bos, *parts[turn]))
                document.append(names.setdefault(name, len(names)))
                total += len(parts[turn])
    return tuple(rows), tuple(document), tuple(names)


def _labelled(run: Run, concept: Concept, text: ProofText) -> tuple[Labelled, str]:
    """Words labelled as they were when the concept was found; without labels, and why, where that cannot be."""
    try:
        found = source_of(concept.details).label(text)
        kind = str(concept.details["source"]["kind"])
        return found, kind if found.held_out else f"{kind}: the very text that the concept was found on"
    except LabError as error:
        why = str(error)
    probe_set = text.probe_set()
    nothing = torch.full((probe_set.words,), NO_LABEL)
    return Labelled(probe_set, nothing, (), (), ()), f"none: {why}"


def _of_concept(found: Labelled, concept: Concept) -> Int[Tensor, "word"]:
    """Class numbers of the concept's probe, by name; classes that it does not have are no label."""
    result = torch.full_like(found.label, NO_LABEL)
    for number, name in enumerate(concept.classes):
        if name in found.classes:
            result[found.label == found.classes.index(name)] = number
    return result


def _strongest(model: Any, words: ProbeSet, concept: Concept) -> Bool[Tensor, "word"]:
    here = collect(model, words, [concept.layer])
    score = concept.coordinates(here.values[0])[:, 0]
    strongest: Tensor = (score >= torch.quantile(score, 1 - STRONGEST)) & here.kept
    return strongest


def _with_next(words: ProbeSet, own: Bool[Tensor, "word"]) -> tuple[Int[Tensor, "token"], Int[Tensor, "token"]]:
    """The concept's words that do not end their sentence, and the tokens that follow them."""
    chosen, target = [], []
    for word in own.nonzero()[:, 0].tolist():
        ids, position = words.tokens[words.word_sentence[word]], words.word_position[word]
        if position + 1 < len(ids):
            chosen.append(word)
            target.append(ids[position + 1])
    return torch.tensor(chosen, dtype=torch.long), torch.tensor(target, dtype=torch.long)
