"""The residual stream at labelled words, every layer from one forward pass.

Works on any `HookedRootModule` that fires HookedTransformer's residual hooks. Layers are 0..L: layer 0 is
`blocks.0.hook_resid_pre` (the embedding sum), layer l is `blocks.{l-1}.hook_resid_post`, always before the final norm
(the last hidden state of `transformers` is after it).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lab.errors import LabError
from probes.layers.labels import ProbeSet

OUTLIER_NORM = 10.0  # times the layer's median norm
_TOKENS_PER_BATCH = 4096  # large enough to be one efficient product, small enough for a laptop's memory


class BadActivations(LabError):
    """The model gave no activations, or none that a probe could use."""


@dataclass(frozen=True)
class Activations:
    """Residual stream at the words of a probe set.

    Attributes:
        values: on the CPU, fp32 unless asked otherwise; rows are the probe set's words, in its order.
        layers: the layer number of each slice.
        kept: False where a position was an outlier at any layer; the same words are left out at every layer.
        outliers_by_layer: how many positions were outliers at each layer; `outliers` counts each position once.
    """

    values: Float[Tensor, "layer word d_model"]
    layers: tuple[int, ...]
    kept: Bool[Tensor, "word"]
    outliers_by_layer: tuple[int, ...] = ()

    @property
    def outliers(self) -> int:
        return int((~self.kept).sum())


def residual_names(model: Any) -> tuple[str, ...]:
    """Hook names of layers 0..L, in order.

    Raises:
        BadActivations: the model has no such hooks.
    """
    present = set(getattr(model, "hook_dict", {}))
    depth = 0
    while f"blocks.{depth}.hook_resid_post" in present:
        depth += 1
    if not depth or "blocks.0.hook_resid_pre" not in present:
        raise BadActivations(
            f"{type(model).__name__}: no hooks named blocks.0.hook_resid_pre and blocks.*.hook_resid_post, so there are "
            "no layers to probe. Use a HookedRootModule with HookedTransformer's names."
        )
    return ("blocks.0.hook_resid_pre", *(f"blocks.{layer}.hook_resid_post" for layer in range(depth)))


def check_layers(layers: Sequence[int] | None, depth: int) -> tuple[int, ...]:
    """The layers asked for, ascending and once each; None means all of 0..depth.

    Raises:
        BadActivations: a layer is outside 0..depth.
    """
    if layers is None:
        return tuple(range(depth + 1))
    wrong = [layer for layer in layers if not 0 <= layer <= depth]
    if wrong or not layers:
        raise BadActivations(
            f"probing.layers has {wrong[0] if wrong else 'nothing'}, but the model has layers 0..{depth}. "
            'Use a layer in that range, or "all".'
        )
    return tuple(sorted(set(layers)))


@dataclass(frozen=True)
class Harvest:
    """One batch of the stream: `words` are rows of the probe set, `values` their residual stream, fp32 on the CPU."""

    words: Int[Tensor, "word"]
    values: Float[Tensor, "layer word d_model"]


def stream(model: Any, probe_set: ProbeSet, layers: Sequence[int] | None = None) -> Iterator[Harvest]:
    """Run the probe set through a model batch by batch, one forward pass for all layers; nothing is held back.

    Sentences of similar length share a batch and are padded on the right, which a causal model cannot see. The model is
    left as it was: its mode is restored, no hook stays, no random number is drawn from the global generators by us.

    Args:
        model: any `HookedRootModule` with HookedTransformer's residual hook names; runs on the device it is on.
        layers: which of 0..L to keep; None keeps all. Layer 0 is cheap and wanted by every conditional reading.

    Raises:
        BadActivations: no residual hooks, a layer outside the model, no labelled words, or activations that are not
            finite.
    """
    names = residual_names(model)
    wanted = check_layers(layers, len(names) - 1)
    if not probe_set.words:
        raise BadActivations("probe set: it has no labelled words, so there is nothing to probe. Build it anew.")
    kept = {names[layer] for layer in wanted}
    device = next(iter(model.parameters()), torch.zeros(())).device
    options: dict[str, Any] = {"names_filter": lambda name: name in kept}
    if "stop_at_layer" in inspect.signature(model.forward).parameters:
        options["stop_at_layer"] = max(wanted) or 1  # the unembedding is a fifth of a small model's work
    words_of: list[list[int]] = [[] for _ in probe_set.sentences]
    for word, sentence in enumerate(probe_set.word_sentence):
        words_of[sentence].append(word)
    positions = torch.tensor(probe_set.word_position, dtype=torch.long)
    training = model.training
    model.eval()
    try:
        for sentences in _batches(probe_set, words_of):
            length = max(len(probe_set.tokens[sentence]) for sentence in sentences)
            rows = [[*probe_set.tokens[s], *[0] * (length - len(probe_set.tokens[s]))] for s in sentences]
            with torch.no_grad():
                _, cache = model.run_with_cache(torch.tensor(rows, device=device), **options)
            words = torch.tensor([word for s in sentences for word in words_of[s]])
            row = torch.tensor([i for i, s in enumerate(sentences) for _ in words_of[s]], device=device)
            column = positions[words].to(device)
            values = torch.stack([cache[names[layer]][row, column].float().cpu() for layer in wanted])
            del cache  # every position of every layer: not to be held while the caller works
            _refuse_infinite(values, wanted)
            yield Harvest(words, values)
    finally:
        model.train(training)


def collect(
    model: Any, probe_set: ProbeSet, layers: Sequence[int] | None = None, dtype: torch.dtype = torch.float32
) -> Activations:
    """Run the probe set through a model and keep the residual stream at its labelled words.

    Args:
        model, layers: as for `stream`, which also says what is left as it was.
        dtype: to keep the values in; bfloat16 halves the memory and keeps three digits. Outliers are found before.

    Returns:
        Activations with values [layer, word, d_model]. Positions whose norm is more than `OUTLIER_NORM` times the
        layer's median norm, at any kept layer, are marked in `kept` (single tokens of real models reach norms of 10³ to
        10⁴ for a dozen layers, and would own every standard deviation).

    Raises:
        BadActivations: as `stream`; also activations too large for `dtype`.
    """
    values, norms = torch.empty(0), torch.empty(0)
    wanted: tuple[int, ...] = ()
    for batch in stream(model, probe_set, layers):
        if not wanted:
            wanted = check_layers(layers, len(residual_names(model)) - 1)
            values = torch.empty(len(wanted), probe_set.words, batch.values.shape[-1], dtype=dtype)
            norms = torch.empty(len(wanted), probe_set.words)
        values[:, batch.words] = batch.values.to(dtype)
        norms[:, batch.words] = batch.values.norm(dim=-1)
    if dtype != torch.float32:
        _refuse_infinite(values, wanted)
    beyond = _beyond(norms, OUTLIER_NORM)
    return Activations(values, wanted, ~beyond.any(dim=0), tuple(beyond.sum(1).tolist()))


def outliers(values: Float[Tensor, "layer word d_model"], times: float = OUTLIER_NORM) -> Bool[Tensor, "word"]:
    """Words whose activation norm exceeds `times` the median norm of its layer, at any layer."""
    return _beyond(values.float().norm(dim=-1), times).any(dim=0)


def _beyond(norms: Float[Tensor, "layer word"], times: float) -> Bool[Tensor, "layer word"]:
    found: Tensor = norms > times * norms.median(dim=1, keepdim=True).values
    return found


def _refuse_infinite(values: Float[Tensor, "layer word d_model"], layers: Sequence[int]) -> None:
    finite = values.isfinite().all(dim=-1).all(dim=-1)
    if not finite.all():
        layer = layers[int(finite.logical_not().nonzero()[0])]
        raise BadActivations(
            f"layer {layer}: activations are not finite, so no probe was fitted. "
            "Look at the loss of this checkpoint and probe an earlier one."
        )


def _batches(probe_set: ProbeSet, words_of: Sequence[Sequence[int]]) -> list[list[int]]:
    """Sentences with labelled words, in order of length, so that little is padded; deterministic."""
    lengths = [len(ids) for ids in probe_set.tokens]
    batches: list[list[int]] = []
    for sentence in sorted((s for s, words in enumerate(words_of) if words), key=lambda s: (lengths[s], s)):
        if not batches or (len(batches[-1]) + 1) * lengths[sentence] > _TOKENS_PER_BATCH:
            batches.append([])
        batches[-1].append(sentence)
    return batches
