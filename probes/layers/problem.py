"""One label at every layer, made ready to be probed: words of common classes in order of fold, features on one scale.

What cannot carry a reading is refused here, with the reason. Nothing is fitted here (`fit`, `logistic`, `refit` do), and
nothing draws a random number but `assign_folds`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.errors import LabError
from probes.layers.discriminant import Block

RARE_WORDS, RARE_SENTENCES = 20, 10  # a class with fewer is left out and reported
FEWEST_WORDS, FEWEST_SENTENCES = 100, 30

MOST_BESIDE = 4  # calls at once: at 31 layers of 576 a second one took .6 GB more
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]


class Untestable(LabError):
    """The labels at hand cannot carry a reading; the message says why and what would help."""


@dataclass(frozen=True)
class Problem:
    """One label at every layer, ready to be probed. Made by `prepare`, which puts the words in order of fold.

    Attributes:
        features: fp32, centred and scaled over all words (for conditioning only; training folds standardise anew).
        label: class index per word, 0..K-1, no gaps.
        word: each word's place among those given to `prepare`.
        fold: per word, that of its sentence.
        sentence: per word.
        sentences: how many there are, those without a labelled word included.
        classes: names of 0..K-1.
        rare: classes left out, with their word counts.
        memory: probes that `fit` has fitted to it, so that two readings that need one fit it once.
    """

    task: str
    features: Float[Tensor, "layer word d_model"]
    layers: tuple[int, ...]
    label: Int[Tensor, "word"]
    word: Int[Tensor, "word"]
    fold: Int[Tensor, "word"]
    sentence: Int[Tensor, "word"]
    sentences: int
    folds: int
    classes: tuple[str, ...]
    rare: Mapping[str, int]
    memory: dict[tuple[str, int], Any] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def rows(self) -> list[slice]:
        """The words of each fold."""
        ends = torch.bincount(self.fold, minlength=self.folds).cumsum(0).tolist()
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    @cached_property
    def blocks(self) -> list[Block]:
        onehot = torch.nn.functional.one_hot(self.label, len(self.classes)).float()
        return [Block.of(features, self.rows, onehot) for features in self.features]

    @cached_property
    def counts(self) -> Float[Tensor, "fold class"]:
        onehot = torch.nn.functional.one_hot(self.label, len(self.classes)).double()
        return torch.stack([onehot[rows].sum(0) for rows in self.rows])


def assign_folds(
    sentences: int, folds: int, seed: int = 0, groups: Int[Tensor, "sentence"] | None = None
) -> Int[Tensor, "sentence"]:
    """A fold for every sentence; the same for all layers, tasks, checkpoints and the twin.

    Without groups the sizes are equal to one. With them, sentences of one group (duplicates, a document) share a fold:
    groups in random order, each to the fold that has the fewest sentences so far.

    Raises:
        Untestable: fewer than 3 folds (a penalty is chosen on folds inside the training fold) or than 2 sentences, or
            groups, each; or `groups` is not one number per sentence.
    """
    if folds < 3 or sentences < 2 * folds:
        raise Untestable(
            f"probing.folds = {folds} with {sentences} sentences: probes need at least 3 folds of at least 2 sentences. "
            "Use 5 folds and more sentences."
        )
    generator = torch.Generator().manual_seed(seed % 2**63)
    result = torch.empty(sentences, dtype=torch.long)
    if groups is None:
        result[torch.randperm(sentences, generator=generator)] = torch.arange(sentences) % folds
        return result
    if len(groups) != sentences:
        raise Untestable(f"folds: {len(groups)} group numbers for {sentences} sentences. Give one per sentence.")
    _, group, size = torch.unique(groups, return_inverse=True, return_counts=True)
    if len(size) < 2 * folds:
        raise Untestable(
            f"probing.folds = {folds} with {len(size)} groups of sentences that must stay together: probes need at "
            f"least {2 * folds}. Use more documents, or fewer folds (at least 3)."
        )
    fold_of_group, filled = torch.empty_like(size), torch.zeros(folds, dtype=torch.long)
    for one in torch.randperm(len(size), generator=generator).tolist():
        fold_of_group[one] = fold = int(filled.argmin())
        filled[fold] += size[one]
    return fold_of_group[group]


def prepare(
    task: str,
    features: Float[Tensor, "layer word d_model"],
    label: Int[Tensor, "word"],
    sentence: Int[Tensor, "word"],
    fold_of_sentence: Int[Tensor, "sentence"],
    classes: Sequence[str],
    layers: Sequence[int] | None = None,
) -> Problem:
    """Keep the labelled words of common classes, and refuse what no probe should be fitted to.

    Args:
        features: activations, fp32; any scale, it does not matter.
        label: class index per word; negative = no label.
        sentence: per word, an index into `fold_of_sentence`.

    Raises:
        Untestable: labels and words differ in number, activations are not finite, or fewer than two classes,
            100 words or 30 sentences are left.
    """
    words, sentences = features.shape[1], len(fold_of_sentence)
    if len(label) != words or len(sentence) != words:
        raise Untestable(
            f"{task}: {len(label)} labels and {len(sentence)} sentence numbers for {words} words of activations. "
            "Collect the activations of this probe set again."
        )
    if words and (int(sentence.min()) < 0 or int(sentence.max()) >= sentences):
        raise Untestable(f"{task}: a word in sentence {int(sentence.max())} of {sentences}. Build the probe set anew.")
    common, rare = _common_classes(label, sentence, classes)
    number = torch.full((len(classes) + 1,), -1)  # the last entry serves label -1
    number[common] = torch.arange(len(common))
    kept = (number[label.clamp(min=-1)] >= 0).nonzero()[:, 0]
    kept = kept[torch.argsort(fold_of_sentence[sentence[kept]], stable=True)]
    used = int((torch.bincount(sentence[kept]) > 0).sum())
    if len(common) < 2 or len(kept) < FEWEST_WORDS or used < FEWEST_SENTENCES:
        raise Untestable(
            f"{task}: {len(common)} classes with at least {RARE_WORDS} words, {len(kept)} words, {used} sentences; a "
            f"reading needs 2 classes, {FEWEST_WORDS} words and {FEWEST_SENTENCES} sentences. Raise probing.sentences or "
            "add validation text."
        )
    with one_thread():
        chosen = features[:, kept].float()
        centre = chosen.mean(1, keepdim=True)
        chosen -= centre
        spread = torch.linalg.vector_norm(chosen, dim=1, keepdim=True) / len(kept) ** 0.5
        if not spread.isfinite().all():
            raise Untestable(f"{task}: activations are not finite. Look at the loss, and probe an earlier checkpoint.")
        # A dimension that never moves is left at zero: dividing it by its rounding noise would make a feature of it.
        chosen *= torch.where(spread > 1e-6 * centre.abs() + 1e-30, 1 / spread.clamp(min=1e-30), torch.zeros(()))
    return Problem(
        task=task,
        features=chosen,
        layers=tuple(range(len(features)) if layers is None else layers),
        label=number[label[kept]],
        word=kept,
        fold=fold_of_sentence[sentence[kept]],
        sentence=sentence[kept],
        sentences=sentences,
        folds=int(fold_of_sentence.max()) + 1,
        classes=tuple(classes[i] for i in common.tolist()),
        rare=rare,
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Factors of a few hundred rows take longer on two threads than on one, ten times so on a busy machine; and sums
    made by one thread are the same on every number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def side_by_side() -> Iterator[Map]:
    """A `map` that shares its calls out to the threads torch has now, each call on one: the same sums on any number."""
    threads = min(torch.get_num_threads(), MOST_BESIDE)
    with one_thread(), ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        yield pool.map


def _common_classes(label: Tensor, sentence: Tensor, classes: Sequence[str]) -> tuple[Tensor, dict[str, int]]:
    labelled = label >= 0
    words = torch.bincount(label[labelled], minlength=len(classes))
    sentences = int(sentence.max()) + 1 if len(sentence) else 1
    pairs = torch.bincount(label[labelled] * sentences + sentence[labelled], minlength=len(classes) * sentences)
    in_sentences = (pairs.view(len(classes), sentences) > 0).sum(1)
    common = (words >= RARE_WORDS) & (in_sentences >= RARE_SENTENCES)
    rare = {classes[i]: int(words[i]) for i in (~common & (words > 0)).nonzero()[:, 0].tolist()}
    return common.nonzero()[:, 0], rare
