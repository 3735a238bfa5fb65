"""Which words two subjects are measured on: chosen in equal number, with the next token that each must predict.

The caller says which words belong to A and which to B; what is dropped is counted here, by reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lab.errors import LabError
from probes.layers.evidence import Side
from probes.layers.intervals import bootstrap_weights
from probes.layers.probe_set import ProbeSet
from probes.layers.problem import FEWEST_SENTENCES, FEWEST_WORDS

ENOUGH_DOCUMENTS = 50  # to resample; with fewer, whole documents give intervals that are too narrow

Unit = Literal["document", "sentence"]


@dataclass(frozen=True)
class Group:
    """The words of the confirmation set whose *next token* a subject speaks of.

    Attributes:
        subject: canonical name of the claim's subject ("function words").
        label: what the next token was told by ("class.next: function").
        words: one entry for each word of the set.
    """

    subject: str
    label: str
    words: Bool[Tensor, "word"]


@dataclass(frozen=True)
class Chosen:
    """Words taken for A and B, in the set's order.

    Attributes:
        words, sentence: per chosen word, its number in the set and its sentence.
        target: the token that follows it.
        dropped: how many were left out, by reason.
    """

    words: Int[Tensor, "token"]
    sentence: Int[Tensor, "token"]
    is_b: Bool[Tensor, "token"]
    target: Int[Tensor, "token"]
    dropped: Counter[str]

    def notes(self) -> tuple[str, ...]:
        return tuple(f"left out: {count} {reason}" for reason, count in sorted(self.dropped.items()) if count)


def choose(probe_set: ProbeSet, a: Group, b: Group | None, most: int, seed: int) -> Chosen:
    """At most `most` words, the same number of each group, drawn at random; the same seed, the same words.

    A word that ends its text is in neither group. One of both groups counts for the smaller, as the more special
    ("animals" against "content words"); where both are equally large they are the same, and it is in neither.

    Raises:
        LabError: a group has not one entry for each word.
    """
    for group in (a,) if b is None else (a, b):
        if len(group.words) != probe_set.words:
            raise LabError(
                f"{group.subject}: a group of {len(group.words)} entries for {probe_set.words} words. "
                "Make it from the labels of this probe set."
            )
    sentence = torch.tensor(probe_set.word_sentence, dtype=torch.long)
    position = torch.tensor(probe_set.word_position, dtype=torch.long)
    allowed = position + 1 < torch.tensor([len(ids) for ids in probe_set.tokens])[sentence]
    of_a, of_b = a.words, torch.zeros_like(a.words) if b is None else b.words
    dropped = Counter({"words at the end of their text": int(((of_a | of_b) & ~allowed).sum())})
    both, more = of_a & of_b, int(of_a.sum()) - int(of_b.sum())
    dropped["words of both groups, counted for the smaller" if more else "words of both groups"] = int(both.sum())
    own = ((of_a & ~both) | (both if more < 0 else False), (of_b & ~both) | (both if more > 0 else False))
    sides = [(side & allowed).nonzero()[:, 0] for side in own]
    count = min(most, len(sides[0])) if b is None else min(most // 2, len(sides[0]), len(sides[1]))
    generator = torch.Generator().manual_seed(seed % 2**63)
    kept = [side[torch.randperm(len(side), generator=generator)[:count]] for side in sides]
    words, order = torch.cat(kept).sort()
    is_b = (torch.arange(len(words)) >= len(kept[0]))[order]
    target = [probe_set.tokens[probe_set.word_sentence[w]][probe_set.word_position[w] + 1] for w in words.tolist()]
    return Chosen(words, sentence[words], is_b, torch.tensor(target, dtype=torch.long), +dropped)


def equal_numbers(is_b: Bool[Tensor, "token"], kept: Bool[Tensor, "token"], seed: int) -> Bool[Tensor, "token"]:
    """The kept tokens without as many of the larger group as it has more, drawn at random."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    sides = [(kept & side).nonzero()[:, 0] for side in (~is_b, is_b)]
    count = min(len(side) for side in sides)
    result = torch.zeros_like(kept)
    for side in sides:
        result[side[torch.randperm(len(side), generator=generator)[:count]]] = True
    return result


def only_words(probe_set: ProbeSet, words: Int[Tensor, "token"]) -> ProbeSet:
    """The set with these words alone and no labels: what activations are collected at."""
    return replace(
        probe_set,
        word_sentence=tuple(probe_set.word_sentence[w] for w in words.tolist()),
        word_position=tuple(probe_set.word_position[w] for w in words.tolist()),
        labels={},
        classes={},
    )


def draw_words(probe_set: ProbeSet, allowed: Bool[Tensor, "word"], most: int, seed: int) -> Int[Tensor, "drawn"]:
    """At most so many of the allowed words, ascending: those of sentences drawn at random until there are enough.

    Whole sentences, because a sentence costs the model the same for one word as for all of them.
    """
    generator = torch.Generator().manual_seed(seed % 2**63)
    order = torch.randperm(len(probe_set.sentences), generator=generator)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    words = allowed.nonzero()[:, 0]
    sentence = torch.tensor(probe_set.word_sentence, dtype=torch.long)[words]
    drawn: Tensor = words[torch.argsort(rank[sentence], stable=True)[:most]].sort().values
    return drawn


@dataclass(frozen=True)
class Resampling:
    """Whole documents, or sentences where documents are few.

    Attributes:
        weights: how often each sentence of the set is drawn; those without a chosen word never are.
        units: how many were drawn from.
    """

    unit: Unit
    units: int
    weights: Tensor


def resampling(
    probe_set: ProbeSet, sentences: Int[Tensor, "token"], replicates: int, seed: int, unit: Unit | None = None
) -> Resampling:
    """Bootstrap weights over the units that hold these tokens.

    Args:
        sentences: per token.
        unit: what to draw; None = documents if at least `ENOUGH_DOCUMENTS` hold a token.
    """
    used = torch.unique(sentences)
    documents = torch.tensor(probe_set.units)[used]
    distinct = len(torch.unique(documents))
    chosen: Unit = unit or ("document" if distinct >= ENOUGH_DOCUMENTS else "sentence")
    by_document = chosen == "document"
    weights = torch.zeros(replicates, len(probe_set.sentences))
    weights[:, used] = bootstrap_weights(len(used), replicates, seed, documents if by_document else None)
    return Resampling(chosen, distinct if by_document else len(used), weights)


def too_few(subject: str, tokens: int, sentences: int) -> str | None:
    """Why a mean over these tokens is not to be trusted, or None; the limits are those of the probes."""
    if tokens >= FEWEST_WORDS and sentences >= FEWEST_SENTENCES:
        return None
    return (
        f"{subject}: {tokens} tokens in {sentences} sentences; at least {FEWEST_WORDS} in {FEWEST_SENTENCES} are needed "
        "for an interval over sentences to mean anything"
    )


def bare_sides(
    probe_set: ProbeSet, groups: Sequence[Group], is_b: Bool[Tensor, "token"], sentence: Int[Tensor, "token"]
) -> tuple[Side, ...]:
    """For each group its counts, and nothing measured yet."""
    sides = []
    for index, group in enumerate(groups):
        rows = is_b == bool(index)
        sentences = torch.unique(sentence[rows])
        documents = len({probe_set.documents[s] for s in sentences.tolist()})
        sides.append(Side(group.subject, group.label, int(rows.sum()), len(sentences), documents))
    return tuple(sides)


def half(sentence: Int[Tensor, "token"], seed: int) -> Int[Tensor, "half"]:
    """Half of the sentences that are there, drawn at random."""
    present = torch.unique(sentence)
    generator = torch.Generator().manual_seed((seed + 1) % 2**63)
    drawn: Tensor = present[torch.randperm(len(present), generator=generator)[: (len(present) + 1) // 2]]
    return drawn
