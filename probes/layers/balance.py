"""Two labels made comparable: equal numbers of words in the same sentences, half of the units, one class against the rest.

How deep a label seems to sit depends on how many words it was read from (its depth moved from .05 at 21,000 words to .64
at 900 on one real model), so A and B are compared at equal n, and again at half of it. Deterministic given the seed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from probes.layers.fit import Untestable
from probes.layers.probe_set import NO_LABEL

REST = "other"
# Names that a class of the vocabulary may have, where a source cuts finer: UD parts conjunctions in two.
GROUPS: dict[str, tuple[str, ...]] = {"CONJ": ("CCONJ", "SCONJ")}


def equal_words(
    label_a: Int[Tensor, "word"], label_b: Int[Tensor, "word"], sentence: Int[Tensor, "word"], seed: int
) -> tuple[Int[Tensor, "word"], Int[Tensor, "word"]]:
    """Labels taken away at random until A and B label equally many words in every sentence, hence the same sentences.

    Args:
        label_a, label_b: class per word, `NO_LABEL` where there is none.
        sentence: the sentence of each word, from 0.

    Returns:
        Copies in which the surplus is `NO_LABEL`; the longer one of each sentence is cut, uniformly at random.

    Raises:
        Untestable: the three differ in length, or no sentence has a word of each.
    """
    if not len(label_a) == len(label_b) == len(sentence):
        raise Untestable(
            f"equal words: {len(label_a)} and {len(label_b)} labels for {len(sentence)} words. Take all from one probe set."
        )
    sentences = int(sentence.max()) + 1 if len(sentence) else 0
    counts = [torch.bincount(sentence[label != NO_LABEL], minlength=sentences) for label in (label_a, label_b)]
    shared = torch.minimum(*counts)
    if not shared.any():
        raise Untestable("equal words: no sentence has a labelled word of both labels. Use more or longer sentences.")
    generator = torch.Generator().manual_seed(seed % 2**63)
    cut_a, cut_b = (_first_of_each(label, sentence, shared, generator) for label in (label_a, label_b))
    return cut_a, cut_b


def halve(unit: Int[Tensor, "sentence"], seed: int) -> Bool[Tensor, "sentence"]:
    """True for the sentences of half of the units (rounded up), drawn at random: documents stay whole.

    Args:
        unit: of each sentence: its own number, or its document's (`ProbeSet.units`).

    Raises:
        Untestable: fewer than 2 units.
    """
    units = torch.tensor(sorted(set(unit.tolist())))
    if len(units) < 2:
        raise Untestable(f"half n: {len(units)} unit cannot be halved. Use sentences of more than one document.")
    generator = torch.Generator().manual_seed(seed % 2**63)
    drawn = units[torch.randperm(len(units), generator=generator)[: (len(units) + 1) // 2]]
    return torch.isin(unit, drawn)


def binary(
    labels: Int[Tensor, "word"], classes: Sequence[str], value: str
) -> tuple[Int[Tensor, "word"], tuple[str, str]]:
    """One class of a family against all others: 1 where the label is `value`, 0 where it is another, `NO_LABEL` where none.

    `value` may be a name of `GROUPS`, which stands for the classes that it holds.

    Returns:
        The labels and their class names, ("other", value).

    Raises:
        Untestable: no class of that name, or no other class beside it.
    """
    members = [index for index, name in enumerate(classes) if name == value or name in GROUPS.get(value, ())]
    if not members:
        raise Untestable(
            f"no word is labelled {value!r}: there are {', '.join(classes) or 'no classes'}. Use text that has such words."
        )
    result = torch.full_like(labels, NO_LABEL)
    labelled = labels != NO_LABEL
    result[labelled] = torch.isin(labels[labelled], torch.tensor(members)).to(labels.dtype)
    for side, name in enumerate((f"anything but {value!r}", f"{value!r}")):
        if not (result == side).any():
            raise Untestable(f"no word is labelled as {name}, so there is nothing to tell apart. Use more text.")
    return result, (REST, value)


def _first_of_each(
    label: Int[Tensor, "word"], sentence: Int[Tensor, "word"], many: Int[Tensor, "sentence"], generator: torch.Generator
) -> Int[Tensor, "word"]:
    """`many` labelled words of each sentence, chosen by a random order of its labelled words."""
    words = (label != NO_LABEL).nonzero()[:, 0]
    words = words[torch.randperm(len(words), generator=generator)]
    words = words[sentence[words].argsort(stable=True)]
    owner = sentence[words]
    starts = torch.searchsorted(owner, torch.arange(len(many)))
    rank = torch.arange(len(words)) - starts[owner]
    kept = words[rank < many[owner]]
    result = torch.full_like(label, NO_LABEL)
    result[kept] = label[kept]
    return result
