"""The erasers of one or two concepts at several layers, each with random ones of equal rank and equal removed variance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from probes.layers.collect import OUTLIER_NORM, collect
from probes.layers.erase import Eraser, Spectrum, fit_leace, random_eraser
from probes.layers.groups import Group, draw_words, only_words
from probes.layers.probe_set import ProbeSet
from probes.layers.problem import RARE_WORDS, Untestable


@dataclass(frozen=True)
class Concept:
    """What is erased, and on which tokens the cost is counted.

    Attributes:
        group: words of the confirmation set whose next token belongs to the subject.
        labels: per word of the exploration set, its class; negative = none. What tells the classes apart is erased.
    """

    group: Group
    labels: Int[Tensor, "word"]


@dataclass(frozen=True)
class Plan:
    """The erasers of every layer: for each concept its own, then its random ones. Concepts with one label share them."""

    layers: tuple[int, ...]
    depth: int
    subspaces: int
    first: tuple[int, ...]  # per concept, where its erasers begin
    erasers: dict[int, list[Eraser]]
    norm_limit: dict[int, float]


def fit_erasers(
    model: Any,
    exploration: ProbeSet,
    concepts: Sequence[Concept],
    layers: tuple[int, ...],
    depth: int,
    subspaces: int,
    fit_words: int,
    seed: int,
) -> Plan:
    """Fit the erasers of every layer on labelled exploration words, and draw their random counterparts.

    Args:
        depth: L of the model; `fit_words`: at most this many words fit one concept's erasers.

    Raises:
        Untestable: no labelled words of common classes, or a single class.
        BadActivations: no residual hooks, or activations that are not finite.
    """
    labels = [_sample(exploration, concept.labels, fit_words, seed) for concept in concepts]
    shared = len(labels) == 2 and torch.equal(labels[0], labels[1])
    words = torch.stack([label >= 0 for label in labels]).any(dim=0).nonzero()[:, 0]
    if len(words) == 0:
        raise Untestable("erasing: no exploration word has a label of a class with enough words. Give it more text.")
    found = collect(model, only_words(exploration, words), layers)
    values, words = found.values[:, found.kept], words[found.kept]
    generator = torch.Generator().manual_seed(seed % 2**63)
    erasers: dict[int, list[Eraser]] = {}
    for index, layer in enumerate(layers):
        erasers[layer] = []
        for label in labels[:1] if shared else labels:
            own = label[words]
            eraser, spectrum = fit_leace(values[index], own), Spectrum.of(values[index][own >= 0])
            erasers[layer].append(eraser)
            erasers[layer] += [
                random_eraser(spectrum, eraser.rank, eraser.removed, generator) for _ in range(subspaces)
            ]
    medians = values.norm(dim=-1).median(dim=1).values
    limit = {layer: OUTLIER_NORM * float(medians[index]) for index, layer in enumerate(layers)}
    first = tuple(0 if shared else index * (subspaces + 1) for index in range(len(concepts)))
    return Plan(layers, depth, subspaces, first, erasers, limit)


def _sample(exploration: ProbeSet, labels: Int[Tensor, "word"], most: int, seed: int) -> Int[Tensor, "word"]:
    """The labels of at most so many words, and none for classes with fewer than `RARE_WORDS` of them."""
    drawn = draw_words(exploration, labels >= 0, most, seed)
    counts = torch.bincount(labels[drawn], minlength=1)
    drawn = drawn[counts[labels[drawn]] >= RARE_WORDS]
    result = torch.full_like(labels, -1)
    result[drawn] = labels[drawn]
    return result
