"""What is told of a concept: its subspace and probe, and the plain data of its card, from labelled words or a direction.

One dictionary each: the fields of `lab.concepts.Concept`, and beside them what its `details` hold. Nothing is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lab.model import GPT
from lab.run import Run
from probes.concepts.costs import SENTENCES, SUBSPACES, ablation_cost, ablations, norm_limit
from probes.concepts.describe import histogram, in_context, layer_profile, places_along, token_effects
from probes.concepts.find import Found, find
from probes.concepts.subspace import variance_in
from probes.concepts.text import characters
from probes.layers.collect import Activations, collect
from probes.layers.erase import Spectrum
from probes.layers.fit import assign_folds, prepare, usable_bits
from probes.layers.groups import ENOUGH_DOCUMENTS
from probes.layers.intervals import NoInterval, bootstrap_weights
from probes.layers.labels import NO_LABEL, ProbeSet
from probes.layers.problem import Untestable
from train.concept_sources import Labelled, check_classes
from train.generators import derived_generator

Progress = Callable[[str, float], None]
STRONGEST = 0.1  # of a direction without labels, the words that count as the concept's: this share, by coordinate
_CLASSES_SHOWN = 8  # directions of classes whose promoted tokens are on the card
_BITS = "usable bits per word of the labels inside the subspace, out of fold, the subspace found anew without each fold"
_LEXICAL = "layer 0 is the embedding sum: what is found there depends on the word alone, not on its context"


@dataclass(frozen=True)
class Measured:
    """A model at the words of a probe set; every layer from one pass."""

    run: Run
    model: GPT
    probe_set: ProbeSet

    @cached_property
    def activations(self) -> Activations:
        return collect(self.model, self.probe_set)

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        return characters(self.probe_set, self.run.tokenizer())

    @cached_property
    def sentence(self) -> Int[Tensor, "word"]:
        return torch.tensor(self.probe_set.word_sentence, dtype=torch.long)

    @cached_property
    def unit(self) -> Int[Tensor, "sentence"]:
        return torch.tensor(self.probe_set.units, dtype=torch.long)

    @property
    def kept(self) -> Bool[Tensor, "word"]:
        return self.activations.kept

    def at(self, layer: int) -> Float[Tensor, "word d"]:
        return self.activations.values[layer]

    def summary(self) -> dict[str, Any]:
        found = self.probe_set
        return {
            "sha256": found.sha256,
            "documents": len(set(found.documents)),
            "sentences": len(found.sentences),
            "words": found.words,
            "outliers": self.activations.outliers,
        }


def of_labels(
    name: str, layer: int | None, labelled: Labelled, bench: Measured, held_out: Measured, report: Progress
) -> dict[str, Any]:
    """Everything of a concept that is found from words with classes."""
    config, task = bench.run.config.probing, f"concept {name}"
    report("reading the activations", 0.1)
    label = torch.where(bench.kept, labelled.label, NO_LABEL)
    check_classes(labelled, label)
    whole = labelled.grouped or len(torch.unique(bench.unit)) >= ENOUGH_DOCUMENTS
    units = bench.unit if whole else None  # as the run's probes have it: few documents are too few to draw
    folds = assign_folds(len(bench.unit), config.folds, config.seed, units)
    weights = bootstrap_weights(len(bench.unit), seed=config.seed, units=units)
    report("probing every layer", 0.3)
    problem = prepare(task, bench.activations.values, label, bench.sentence, folds, labelled.classes)
    profile = layer_profile(usable_bits(problem), weights)
    at = max(profile["layers"], key=lambda l: (profile["value"][l], -l)) if layer is None else layer
    report("finding the subspace", 0.5)
    found = find(
        bench.at(at), label, bench.sentence, folds, labelled.classes, unit=bench.unit, task=task, seed=config.seed
    )
    bits = layer_profile(found.probe.decoding, weights)
    classes = [labelled.classes.index(one) for one in found.classes]
    own = torch.isin(label, torch.tensor([labelled.classes.index(one) for one in labelled.of]))
    rank, width = found.span.rank, len(found.mean)
    notes = [
        *([f"layer {at} has the most usable bits about these labels"] if layer is None else []),
        *([_LEXICAL] if at == 0 else []),
        *(
            [f"left out, with too few words: {', '.join(f'{one} {n}' for one, n in found.rare.items())}"]
            if found.rare
            else []
        ),
        *(
            [f"{found.span.dropped} of {found.span.asked} columns repeat others and were dropped"]
            if found.span.dropped
            else []
        ),
        *(
            [f"the subspace has {rank} of {width} dimensions: little is left to compare with"]
            if 2 * rank > width
            else []
        ),
    ]
    return {
        "layer": at,
        "basis": found.basis.float(),
        "mean": found.mean.float(),
        "weight": found.probe.weight.float(),
        "bias": found.probe.bias.float(),
        "classes": found.classes,
        "text": bench.summary() | {"held_out": labelled.held_out},
        "counts": dict(zip(found.classes, found.counts, strict=True)),
        "rare": dict(found.rare),
        "columns": {"asked": found.span.asked, "kept": rank, "differences": found.span.differences},
        "penalty": found.penalty,
        "layer_chosen": "given" if layer is not None else "most usable bits",
        "bits": {"value": bits["value"][0], "low": bits["low"][0], "high": bits["high"][0]}
        | {"n": bits["n"], "of": bits["base_bits"], "means": _BITS},
        "profile": profile,
        "noise_floor": found.floor.to_dict(),
        "tokens": token_effects(bench.model, _directions(found), _names(bench)),
        "histogram": histogram(
            _first(bench.at(at), found.mean, found.basis), _renumbered(label, classes), found.classes
        ),
        "examples": _examples(
            held_out, at, found.mean, found.basis, label if held_out is bench else None, labelled.classes
        ),
        **_costs(bench, held_out, at, own, found.basis, report),
        "notes": notes,
    }


def of_direction(layer: int, basis: Float[Tensor, "d k"], bench: Measured, report: Progress) -> dict[str, Any]:
    """A direction has no classes: its words are those with the largest coordinate."""
    report("reading the activations", 0.2)
    mean = bench.at(layer)[bench.kept].double().mean(0)
    score = _first(bench.at(layer), mean, basis)
    strongest = bench.kept & (score >= torch.quantile(score[bench.kept], 1 - STRONGEST))
    columns = {f"column {index + 1}": basis[:, index] for index in range(min(basis.shape[1], _CLASSES_SHOWN))}
    unlabelled = torch.full((len(score),), NO_LABEL)
    return {
        "layer": layer,
        "basis": basis.float(),
        "mean": mean.float(),
        "weight": torch.zeros(0, basis.shape[1]),
        "bias": torch.zeros(0),
        "classes": (),
        "text": bench.summary() | {"held_out": True},
        "columns": {"asked": basis.shape[1], "kept": basis.shape[1], "differences": 0},
        "layer_chosen": "given",
        "tokens": token_effects(bench.model, columns, _names(bench)),
        "histogram": histogram(score[bench.kept], unlabelled[bench.kept], ()),
        "examples": _examples(bench, layer, mean, basis, None, ()),
        **_costs(bench, bench, layer, strongest, basis, report),
    }


def _costs(
    bench: Measured,
    held_out: Measured,
    layer: int,
    own: Bool[Tensor, "word"],
    basis: Float[Tensor, "d k"],
    report: Progress,
) -> dict[str, Any]:
    """`use` and `variance`: what setting the subspace to its mean costs on the concept's tokens and on all."""
    values = held_out.at(layer)[held_out.kept]
    spectrum = Spectrum.of(values)
    total, inside = float(spectrum.variance.sum()), variance_in(spectrum, basis)
    variance = {"inside": inside, "total": total, "share": inside / total}
    use: dict[str, Any] = {
        "unit": "nats per token",
        "set_to": "the mean of held-out words",
        "subspaces": SUBSPACES,
    }
    seed = bench.run.config.train.seed
    try:
        erasers = ablations(values, basis, SUBSPACES, derived_generator(seed, "concept", layer))
        use["removed_variance"] = inside
        use["removed_variance_random"] = sum(one.removed for one in erasers[1:]) / SUBSPACES
        limit = norm_limit(values)
        every = torch.ones(held_out.probe_set.words, dtype=torch.bool)
        for share, (which, where, words) in zip(
            (0.6, 0.8), (("concept", bench, own), ("all", held_out, every)), strict=True
        ):
            report(f"erasing it: {which} tokens", share)
            cost = ablation_cost(
                where.model, where.probe_set, words, layer, erasers, limit, sentences=SENTENCES, seed=seed
            )
            use[which] = cost.to_dict()
    except (Untestable, NoInterval) as error:
        use["untestable"] = str(error)
    return {"use": use, "variance": variance}


def _examples(
    bench: Measured,
    layer: int,
    mean: Float[Tensor, "d"],
    basis: Float[Tensor, "d k"],
    label: Int[Tensor, "word"] | None,
    classes: Sequence[str],
) -> dict[str, list[dict[str, Any]]]:
    """Held-out words by their place along the first column, in context."""
    score = _first(bench.at(layer), mean, basis)

    def example(word: int) -> dict[str, Any]:
        known = None if label is None or label[word] < 0 else classes[int(label[word])]
        return {**in_context(bench.probe_set, bench.spans, word), "at": float(score[word]), "class": known}

    places = places_along(score, bench.kept)
    return {where: [example(word) for word in words] for where, words in places.items()}


def _first(
    values: Float[Tensor, "word d"], mean: Float[Tensor, "d"], basis: Float[Tensor, "d k"]
) -> Float[Tensor, "word"]:
    return (values.double() - mean) @ basis[:, 0].double()


def _directions(found: Found) -> Mapping[str, Float[Tensor, "d"]]:
    """The first column, towards the last of two classes; with more classes, the probe's direction of each as well."""
    if len(found.classes) == 2:
        return {f"{found.classes[0]} → {found.classes[1]}": found.basis[:, 0]}
    largest = sorted(range(len(found.classes)), key=lambda k: -found.counts[k])[:_CLASSES_SHOWN]
    probe = {found.classes[k]: found.basis @ found.probe.weight[k] for k in sorted(largest)}
    return {"first column": found.basis[:, 0]} | {one: w / w.norm().clamp(min=1e-30) for one, w in probe.items()}


def _names(bench: Measured) -> Callable[[int], str]:
    tokenizer = bench.run.tokenizer()
    return lambda token: tokenizer.decode([token])


def _renumbered(label: Int[Tensor, "word"], classes: Sequence[int]) -> Int[Tensor, "word"]:
    """Class numbers among the classes that were kept."""
    result = torch.full_like(label, NO_LABEL)
    for number, old in enumerate(classes):
        result[label == old] = number
    return result
