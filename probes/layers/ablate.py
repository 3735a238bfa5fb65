"""What tokens cost a model when its residual stream is edited at a layer: only the blocks above are run again.

Nothing is chosen and nothing is averaged here; `erase` makes the edits, `use` reads the costs.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.layers.collect import BadActivations, residual_names
from probes.layers.erase import Eraser
from probes.layers.lens import Head
from probes.layers.probe_set import ProbeSet
from probes.layers.problem import one_thread

_TOKENS_PER_BATCH = 512  # enough for an efficient product; small enough that many workers have work


@dataclass(frozen=True)
class Costs:
    """Rise of each token's cross-entropy.

    Attributes:
        rise: nats, by layer: [eraser, token].
        loss: nats, of each token without any edit.
        spared: positions beyond the norm limit, by layer, that were not edited; of all positions.
    """

    rise: Mapping[int, Float[Tensor, "eraser token"]]
    loss: Float[Tensor, "token"]
    spared: Mapping[int, int]


@dataclass(frozen=True)
class _Batch:
    """Sentences of like length, padded on the right, which a causal model cannot see."""

    tokens: Int[Tensor, "sentence pos"]
    residual: Mapping[int, Float[Tensor, "sentence pos d_model"]]
    row: Int[Tensor, "here"]
    column: Int[Tensor, "here"]
    token: Int[Tensor, "here"]  # which of all measured tokens
    lengths: Int[Tensor, "sentence"]


@torch.no_grad()
def erasure_costs(
    model: Any,
    probe_set: ProbeSet,
    words: Int[Tensor, "token"],
    target: Int[Tensor, "token"],
    erasers: Mapping[int, Sequence[Eraser]],
    norm_limit: Mapping[int, float],
) -> Costs:
    """The rise of every measured token's cross-entropy under every eraser, one at a time, at every position.

    The stream of each layer is kept from one whole forward pass, edited, and run through the blocks above alone.

    Args:
        words: of the probe set, where losses are measured; `target` the token that follows each.
        erasers: by layer 0..L, as many for each layer as wished.
        norm_limit: by layer; a position with a larger norm is left as it is, since its projection is that of its norm
            (attention sinks reach 10³ to 10⁴ for a dozen layers) and not of a concept.

    Raises:
        BadActivations: no residual hooks, no head, no way to start at a layer, or a loss that is not finite.
    """
    names = residual_names(model)
    depth = len(names) - 1
    if not {"start_at_layer", "stop_at_layer"} <= set(inspect.signature(model.forward).parameters):
        raise BadActivations(
            f"{type(model).__name__}: its forward has no start_at_layer and stop_at_layer, so the blocks above an erased "
            "layer cannot be run alone. Use our GPT or a HookedTransformer."
        )
    head = Head.of(model)
    device = head.weight.device
    like = head.weight  # the model's own device and type, once
    placed = {layer: [eraser.to(like) for eraser in of_layer] for layer, of_layer in erasers.items()}

    def losses(batch: _Batch, last: Tensor) -> Tensor:
        return head.losses(last[batch.row, batch.column].float(), target[batch.token].to(device)).cpu()

    def run(task: tuple[int, int, _Batch]) -> Tensor:
        layer, index, batch = task
        with torch.no_grad():
            stream = batch.residual[layer]
            edited = torch.where(
                stream.norm(dim=-1, keepdim=True) > norm_limit[layer], stream, placed[layer][index].apply(stream)
            )
            # The tokens are for the frozen lower copy of a pin above the layer; a model without one does not look at them.
            last = model(edited, start_at_layer=layer, stop_at_layer=depth, tokens=batch.tokens)
            return losses(batch, last)

    training, workers = model.training, torch.get_num_threads()
    model.eval()
    try:
        with one_thread(), ThreadPoolExecutor(workers) as pool:
            batches = _batches(model, names, probe_set, words, sorted(erasers))
            loss = torch.empty(len(words), dtype=torch.float64)
            for batch in batches:
                loss[batch.token] = losses(batch, batch.residual[depth])
            tasks = [(layer, i, batch) for layer in erasers for i in range(len(erasers[layer])) for batch in batches]
            rise = {layer: torch.empty(len(erasers[layer]), len(words), dtype=torch.float64) for layer in erasers}
            for (layer, index, batch), found in zip(tasks, pool.map(run, tasks), strict=True):
                rise[layer][index, batch.token] = found - loss[batch.token]
    finally:
        model.train(training)
    if not all(bool(part.isfinite().all()) for part in (loss, *rise.values())):
        raise BadActivations(
            "erasing: a loss is not finite, so no cost is told. Look at the loss of this checkpoint and use an earlier one."
        )
    spared = {layer: sum(_beyond(batch, layer, norm_limit[layer]) for batch in batches) for layer in sorted(erasers)}
    return Costs(rise, loss, spared)


def _beyond(batch: _Batch, layer: int, limit: float) -> int:
    stream = batch.residual[layer]
    real = torch.arange(stream.shape[1], device=stream.device) < batch.lengths[:, None]
    return int(((stream.norm(dim=-1) > limit) & real).sum())


def _batches(
    model: Any, names: Sequence[str], probe_set: ProbeSet, words: Int[Tensor, "token"], layers: Sequence[int]
) -> list[_Batch]:
    """The sentences that hold a measured word, in order of length, with the stream at these layers and at the last."""
    of_sentence: dict[int, list[int]] = {}
    for token, word in enumerate(words.tolist()):
        of_sentence.setdefault(probe_set.word_sentence[word], []).append(token)
    lengths = {sentence: len(probe_set.tokens[sentence]) for sentence in of_sentence}
    together: list[list[int]] = []
    for sentence in sorted(of_sentence, key=lambda s: (lengths[s], s)):
        if not together or (len(together[-1]) + 1) * lengths[sentence] > _TOKENS_PER_BATCH:
            together.append([])
        together[-1].append(sentence)
    device = next(iter(model.parameters())).device
    wanted = {layer: names[layer] for layer in (*layers, len(names) - 1)}
    batches = []
    for sentences in together:
        width = lengths[sentences[-1]]
        rows = [[*probe_set.tokens[s], *[0] * (width - lengths[s])] for s in sentences]
        tokens = torch.tensor(rows, device=device)
        _, cache = model.run_with_cache(tokens, names_filter=list(wanted.values()), stop_at_layer=len(names) - 1)
        here = [token for s in sentences for token in of_sentence[s]]
        batches.append(
            _Batch(
                tokens=tokens,
                residual={layer: cache[name] for layer, name in wanted.items()},
                row=torch.tensor([i for i, s in enumerate(sentences) for _ in of_sentence[s]], device=device),
                column=torch.tensor([probe_set.word_position[int(words[token])] for token in here], device=device),
                token=torch.tensor(here),
                lengths=torch.tensor([lengths[s] for s in sentences], device=device),
            )
        )
    return batches
