"""What a layer would predict if the model stopped there: two lenses, and how early each token's prediction is settled.

The *logit lens* (nostalgebraist 2020) reads a layer with the model's own final norm and unembedding, raw. Early layers do
not speak that language, so the *ridge lens* first maps a layer to the last one by least squares (Din et al. 2023,
arXiv:2303.09435), in closed form and fitted on other text. Neither is the model; both say how good they are, layer by
layer. `decide` turns depths of tokens into a difference between two kinds of words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.layers.collect import BadActivations
from probes.layers.problem import Untestable, one_thread

LEAST_KL_BITS = 0.1  # between layer 0 and the end; what was settled at the embedding has no depth to measure
PENALTIES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # shares of n, on features of unit variance
_HELD_OUT = 5  # one unit in so many chooses the penalty
_CHUNK_ENTRIES = 4_000_000  # logits that a worker holds at once, 16 MB: 80 tokens of a vocabulary of 49,152


@dataclass(frozen=True)
class Head:
    """From the residual stream after the last block to logits: the final norm and the unembedding of a model."""

    norm: Any
    weight: Float[Tensor, "d_vocab d_model"]
    bias: Float[Tensor, "d_vocab"] | None

    @classmethod
    def of(cls, model: Any) -> Head:
        """The head of any model with `ln_final` and `unembed.W_U`, tied or not.

        Raises:
            BadActivations: the model has no such parts.
        """
        norm, unembed = getattr(model, "ln_final", None), getattr(model, "unembed", None)
        weight = getattr(unembed, "W_U", None)
        if norm is None or weight is None:
            raise BadActivations(
                f"{type(model).__name__}: a lens needs the model's ln_final and unembed.W_U, and one of them is missing. "
                "Use a HookedRootModule with HookedTransformer's names."
            )
        bias = getattr(unembed, "b_U", None)
        # A bias of zeros, which our models have, would cost a pass over the vocabulary for every token and layer.
        bias = None if bias is None or not bool(bias.any()) else bias.detach().float()
        return cls(norm, weight.detach().T.float(), bias)

    def logits(self, residual: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_vocab"]:
        return F.linear(self.norm(residual), self.weight, self.bias)

    @property
    def chunk(self) -> int:
        """Tokens whose logits are made at once."""
        return max(1, _CHUNK_ENTRIES // len(self.weight))

    @torch.no_grad()
    def losses(self, residual: Float[Tensor, "token d_model"], target: Int[Tensor, "token"]) -> Float[Tensor, "token"]:
        """Cross-entropy of each target in nats, fp64, a chunk of tokens at a time."""
        pieces = zip(torch.split(residual, self.chunk), torch.split(target, self.chunk), strict=True)
        parts = [F.cross_entropy(self.logits(rows), truth, reduction="none").double() for rows, truth in pieces]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.float64)


@dataclass(frozen=True)
class Lens:
    """How a layer's residual stream is brought before the head: (h - mean_l) @ weight_l + mean_L, or as it is.

    Attributes:
        weight, mean: None for the logit lens. mean has one row more, that of the last layer.
        penalty: the share of n that was chosen at each layer below the last.
    """

    name: str
    weight: Float[Tensor, "layer d_model d_model"] | None = None
    mean: Float[Tensor, "layer_and_last d_model"] | None = None
    penalty: tuple[float, ...] = ()

    def read(self, layer: int, residual: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """The stream as the head would see it; the last layer is itself under every lens."""
        if self.weight is None or self.mean is None or layer == len(self.weight):
            return residual
        return torch.addmm(self.mean[-1], residual - self.mean[layer], self.weight[layer])


LOGIT_LENS = Lens("logit lens (raw)")


@torch.no_grad()
def fit_ridge(values: Float[Tensor, "layer word d_model"], unit: Int[Tensor, "word"], seed: int = 0) -> Lens:
    """The affine map from each layer to the last with the least squared error, ridge-penalised (arXiv:2303.09435).

    Features and targets are standardised, so that growing norms do not change what the penalty means. Every layer has its
    own penalty, the one that predicts the words of a held-out fifth of the units best; the map is then fitted on all.

    Args:
        values: residual stream of layers 0..L at words of exploration text, outlier positions left out.
        unit: per word, its sentence or document.

    Raises:
        Untestable: fewer than 5 units or fewer words than dimensions.
    """
    depth, (words, width) = len(values) - 1, values.shape[1:]
    units = torch.unique(unit)
    if len(units) < _HELD_OUT or words <= width:
        raise Untestable(
            f"ridge lens: {words} words in {len(units)} sentences for a stream {width} wide; it needs more words than "
            f"dimensions, from at least {_HELD_OUT} sentences. Give it more exploration text."
        )
    generator = torch.Generator().manual_seed(seed % 2**63)
    held_units = units[torch.randperm(len(units), generator=generator)[: len(units) // _HELD_OUT]]
    held = torch.isin(unit, held_units)

    def fit_layer(layer: int) -> tuple[Tensor, float]:
        with torch.no_grad():
            train = _Ridge.of(values[layer][~held], values[depth][~held])
            error = train.errors(values[layer][held], values[depth][held])
            share = PENALTIES[int(error.argmin())]
            return _Ridge.of(values[layer], values[depth]).weight(share), share

    workers = torch.get_num_threads()
    with one_thread(), ThreadPoolExecutor(workers) as pool:
        fitted = list(pool.map(fit_layer, range(depth)))
        mean = values.mean(dim=1)
    return Lens("ridge lens", torch.stack([weight for weight, _ in fitted]), mean, tuple(share for _, share in fitted))


@dataclass(frozen=True)
class _Ridge:
    """One layer's regression in the eigenbasis of its standardised features, where any penalty is a division."""

    x_mean: Float[Tensor, "d"]
    x_scale: Float[Tensor, "d"]
    y_mean: Float[Tensor, "d"]
    y_spread: Float[Tensor, "d"]
    eigenvalue: Float[Tensor, "d"]
    basis: Float[Tensor, "d d"]
    cross: Float[Tensor, "d d"]
    n: int

    @classmethod
    def of(cls, x: Float[Tensor, "word d"], y: Float[Tensor, "word d"]) -> _Ridge:
        x_mean, y_mean = x.mean(0), y.mean(0)
        x, y = x - x_mean, y - y_mean
        x_scale, y_spread = _inverse_spread(x, x_mean), y.square().mean(0).sqrt()
        x, y = x * x_scale, y * _inverse_spread(y, y_mean)
        eigenvalue, basis = torch.linalg.eigh((x.T @ x).double())
        cross = basis.T @ (x.T @ y).double()
        return cls(x_mean, x_scale, y_mean, y_spread, eigenvalue.clamp(min=0), basis, cross, len(x))

    def errors(self, x: Float[Tensor, "word d"], y: Float[Tensor, "word d"]) -> Float[Tensor, "penalty"]:
        """Squared error on other words, in units of the target's variance, for every penalty of the grid."""
        rotated = ((x - self.x_mean) * self.x_scale).double() @ self.basis
        inverse = torch.where(self.y_spread > 0, 1 / self.y_spread, torch.zeros(()))
        truth = ((y - self.y_mean) * inverse).double()
        return torch.stack(
            [(truth - (rotated / self._stiff(share)) @ self.cross).square().mean() for share in PENALTIES]
        )

    def weight(self, share: float) -> Float[Tensor, "d d"]:
        """The map in the stream's own units, fp32."""
        standardised = self.basis @ (self.cross / self._stiff(share)[:, None])
        return (self.x_scale.double()[:, None] * standardised * self.y_spread.double()).float()

    def _stiff(self, share: float) -> Float[Tensor, "d"]:
        return self.eigenvalue + share * self.n


def _inverse_spread(centred: Tensor, mean: Tensor) -> Tensor:
    """One over the deviation; 0 for a dimension that does not move beyond its own rounding."""
    spread = centred.square().mean(0).sqrt()
    return torch.where(spread > 1e-6 * mean.abs() + 1e-30, 1 / spread.clamp(min=1e-30), torch.zeros(()))


@dataclass(frozen=True)
class Reading:
    """What one lens says about each token at each layer 0..L; the last layer is the model's own prediction.

    Attributes:
        divergence: KL from the final prediction p_L to the layer's p_l, in nats.
        cross_entropy: of the true next token under the layer, in nats.
        agrees: whether the layer's first choice is the final one.
    """

    lens: str
    divergence: Float[Tensor, "layer token"]
    cross_entropy: Float[Tensor, "layer token"]
    agrees: Bool[Tensor, "layer token"]

    @property
    def measurable(self) -> Bool[Tensor, "token"]:
        """Tokens that move by more than `LEAST_KL_BITS` on the way; the others have no depth."""
        return self.divergence[0] > LEAST_KL_BITS * math.log(2)

    @property
    def unclipped(self) -> Float[Tensor, "token"]:
        """Sum over l < L of KL(p_L‖p_l), over L · KL(p_L‖p_0): beyond 1 where layers lead away before they lead on."""
        depth = len(self.divergence) - 1
        return self.divergence[:-1].sum(0) / (depth * self.divergence[0].clamp(min=1e-12))

    @property
    def soft_depth(self) -> Float[Tensor, "token"]:
        """How long the prediction stays open, 0..1: the normalised area under the divergence, clipped."""
        return self.unclipped.clamp(0, 1)

    @property
    def hard_depth(self) -> Float[Tensor, "token"]:
        """First layer from which on the first choice is the final one for good, over L."""
        stable = self.agrees.flip(0).int().cumprod(0).sum(0)  # layers at the end that agree, the last included
        return (len(self.agrees) - stable).double() / (len(self.agrees) - 1)

    def select(self, kept: Bool[Tensor, "token"]) -> Reading:
        return Reading(self.lens, self.divergence[:, kept], self.cross_entropy[:, kept], self.agrees[:, kept])

    def quality(self) -> dict[str, list[float]]:
        """Per layer: mean cross-entropy in nats, and share of tokens with the final first choice."""
        return {"cross_entropy": self.cross_entropy.mean(1).tolist(), "top1": self.agrees.double().mean(1).tolist()}


def read_tokens(
    head: Head, lenses: Sequence[Lens], values: Float[Tensor, "layer token d_model"], target: Int[Tensor, "token"]
) -> tuple[Reading, ...]:
    """Every lens at every layer, a chunk of tokens at a time: the vocabulary is never held for more than a chunk.

    A chunk's arithmetic stays on one thread and chunks share the cores, so the numbers do not depend on how many there are.

    Args:
        values: residual stream of layers 0..L at each token's position.
        target: the token that follows.
    """
    depth, tokens = len(values) - 1, values.shape[1]
    shape = (len(lenses), depth + 1, tokens)
    divergence, cross_entropy = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.float64)
    agrees = torch.ones(shape, dtype=torch.bool)

    def read(start: int) -> None:
        rows = slice(start, start + head.chunk)
        with torch.no_grad():
            truth = target[rows, None]
            final = head.logits(values[depth, rows])
            log_final = final.log_softmax(dim=1)
            probability, first = log_final.exp(), final.argmax(dim=1)
            certainty = (probability * log_final).sum(1)  # minus the entropy
            cross_entropy[:, depth, rows] = -log_final.gather(1, truth)[:, 0].double()
            for index, lens in enumerate(lenses):
                for layer in range(depth):
                    logits = head.logits(lens.read(layer, values[layer, rows]))
                    highest, choice = logits.max(dim=1)
                    logits -= highest[:, None]  # so that nothing overflows, and sums of products stay small
                    expected, known = (probability * logits).sum(1), logits.gather(1, truth)[:, 0]
                    normaliser = logits.exp_().sum(1).log()
                    divergence[index, layer, rows] = (certainty - expected + normaliser).clamp(min=0).double()
                    cross_entropy[index, layer, rows] = (normaliser - known).double()
                    agrees[index, layer, rows] = choice == first

    workers = torch.get_num_threads()
    with one_thread(), ThreadPoolExecutor(workers) as pool:
        list(pool.map(read, range(0, tokens, head.chunk)))
    return tuple(
        Reading(lens.name, *parts) for lens, *parts in zip(lenses, divergence, cross_entropy, agrees, strict=True)
    )


@torch.no_grad()
def check_head(model: Any, head: Head, tokens: Sequence[int], last: str) -> None:
    """Refuse a model whose logits are not its head applied to its last residual stream (a soft cap, a multiplier).

    Args:
        last: hook name of the stream after the last block.

    Raises:
        BadActivations: they differ by more than 1e-3 of the largest logit.
    """
    training = model.training
    model.eval()
    try:
        device = next(iter(model.parameters())).device
        logits, cache = model.run_with_cache(torch.tensor([list(tokens)], device=device), names_filter=last)
    finally:
        model.train(training)
    found = head.logits(cache[last][0].float())
    if not torch.allclose(found, logits[0].float(), rtol=0, atol=1e-3 * max(1.0, float(logits.abs().max()))):
        raise BadActivations(
            f"{type(model).__name__}: its logits are not unembed(ln_final(stream)), so a lens would read something else. "
            "Fold what comes between into the unembedding."
        )
