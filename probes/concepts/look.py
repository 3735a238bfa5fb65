"""One model, read where a proof needs it: a concept's coordinates and the loss at every held-out token, the stream at words.

Every model of a proof (the parent, the branch, the twins) is read by the same batches of the same text, so that whatever
differs between two looks differs between the models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.concepts import Concept
from probes.concepts.costs import mean_ablation, norm_limit
from probes.concepts.drift import Coordinates
from probes.concepts.leak import neighbours
from probes.layers.ablate import erasure_costs
from probes.layers.collect import BadActivations, collect, residual_names
from probes.layers.lens import Head
from probes.layers.probe_set import ProbeSet

_TOKENS_PER_BATCH = 4096


@dataclass(frozen=True)
class HeldOut:
    """Text that training has not seen.

    Attributes:
        windows: token ids, beginning-of-text first; drift and cost are measured at each token but the first of a window.
        document: per window, the number of its document; names: of the documents.
        words: sentences with words to probe at.
        label: per word of `words` its class, an index into the concept's classes; negative = none.
        used, target: words that carry the concept and the token after each, where its use is measured.
    """

    windows: tuple[tuple[int, ...], ...]
    document: tuple[int, ...]
    names: tuple[str, ...]
    words: ProbeSet
    label: Int[Tensor, "word"]
    used: Int[Tensor, "token"]
    target: Int[Tensor, "token"]

    @property
    def tokens(self) -> int:
        return sum(len(row) - 1 for row in self.windows)


@dataclass(frozen=True)
class Look:
    """What one model shows.

    Attributes:
        coordinates: at every held-out token.
        loss: nats, of predicting each held-out token.
        layers: those that `features` holds: the concept's, its neighbours and the last.
        features: the stream at the words of the probe set.
        rise: nats that mean-ablating V costs each token of `HeldOut.target`; empty where there are none.
    """

    coordinates: Coordinates
    loss: Float[Tensor, "token"]
    layers: tuple[int, ...]
    features: Float[Tensor, "layer word d_model"]
    rise: Float[Tensor, "used"]

    def at(self, layer: int) -> Float[Tensor, "word d_model"]:
        return self.features[self.layers.index(layer)]


def look(model: Any, concept: Concept, text: HeldOut) -> Look:
    """Read a model. It is left as it was.

    Raises:
        BadActivations: no residual hooks, or activations that are not finite.
    """
    names = residual_names(model)
    coordinates, loss = windows(model, names, concept, text)
    found = collect(model, text.words, neighbours(concept.layer, len(names) - 1))
    here = found.values[found.layers.index(concept.layer)]
    rise = torch.zeros(0, dtype=torch.float64)
    if len(text.used):
        # Set to the mean of the model's own stream, so that nothing but the concept is taken away.
        eraser = mean_ablation(concept.basis, here.double().mean(0), 0.0)
        limit = {concept.layer: norm_limit(here)}
        rise = erasure_costs(model, text.words, text.used, text.target, {concept.layer: [eraser]}, limit).rise[
            concept.layer
        ][0]
    return Look(coordinates, loss, found.layers, found.values, rise)


@torch.no_grad()
def windows(
    model: Any, names: Sequence[str], concept: Concept, text: HeldOut
) -> tuple[Coordinates, Float[Tensor, "token"]]:
    """Coordinates at every token but the first of each window, and the loss of predicting it.

    Windows of like length share a batch and are padded on the right, which a causal model cannot see.
    """
    rows, head = text.windows, Head.of(model)
    device, depth = head.weight.device, len(names) - 1
    basis = concept.basis.double()
    order = sorted(range(len(rows)), key=lambda row: (len(rows[row]), row))
    values: dict[int, Tensor] = {}
    rms: dict[int, Tensor] = {}
    loss: dict[int, Tensor] = {}
    training = model.training
    model.eval()
    try:
        for batch in _batches(order, [len(row) for row in rows]):
            width = max(len(rows[row]) for row in batch)
            tokens = torch.tensor([[*rows[row], *[0] * (width - len(rows[row]))] for row in batch], device=device)
            last, cache = model.run_with_cache(tokens, names_filter=[names[concept.layer]], stop_at_layer=depth)
            for at, row in enumerate(batch):
                end = len(rows[row])
                stream = cache[names[concept.layer]][at, 1:end].double().cpu()
                values[row], rms[row] = stream @ basis, stream.square().mean(1).sqrt()
                loss[row] = head.losses(last[at, : end - 1].float(), tokens[at, 1:end]).cpu()
    finally:
        model.train(training)
    every = range(len(rows))
    found = Coordinates(
        values=torch.cat([values[row] for row in every]),
        rms=torch.cat([rms[row] for row in every]),
        document=torch.cat([torch.full((len(values[row]),), text.document[row]) for row in every]),
    )
    nats = torch.cat([loss[row] for row in every])
    if not (bool(found.values.isfinite().all()) and bool(nats.isfinite().all())):
        raise BadActivations(
            f"layer {concept.layer}: activations or losses are not finite, so nothing is proved. Use an earlier checkpoint."
        )
    return found, nats


def _batches(order: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Rows in order of length, as many together as make a product efficient and fit a laptop's memory."""
    found: list[list[int]] = []
    for row in order:
        if not found or (len(found[-1]) + 1) * lengths[row] > _TOKENS_PER_BATCH:
            found.append([])
        found[-1].append(row)
    return found
