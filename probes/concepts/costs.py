"""What taking a concept out costs the model: the rise of the next token's cross-entropy, beside random subspaces.

What can be read need not be used (Elazar et al. 2021, arXiv:2006.00995). The subspace is set to its mean at its layer, at
every position, h ↦ h − V Vᵀ(h − mean); the control are random subspaces of equal rank and equal removed variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from probes.concepts.subspace import matched_subspace, variance_in
from probes.layers.ablate import erasure_costs
from probes.layers.collect import OUTLIER_NORM
from probes.layers.erase import Eraser, Spectrum
from probes.layers.evidence import Interval
from probes.layers.groups import resampling
from probes.layers.intervals import REPLICATES, interval, replicate_means
from probes.layers.probe_set import ProbeSet
from probes.layers.problem import Untestable, one_thread

SENTENCES, SUBSPACES = 100, 5  # samples, and part of the result: erasing is the slow part on a large model
FEWEST_TOKENS = 20


@dataclass(frozen=True)
class Cost:
    """ΔCE in nats per token when a subspace is set to its mean.

    Attributes:
        erased, random: under V, and the mean over random subspaces.
        net: erased less random, with a 95 % interval over units and subspaces.
        loss: cross-entropy of these tokens with nothing taken out.
    """

    tokens: int
    sentences: int
    unit: str
    loss: float
    erased: float
    random: float
    net: Interval

    @property
    def used(self) -> bool:
        """Whether taking V out surely costs, and more than any subspace like it would."""
        return self.erased > 0 and self.net.lo > 0

    def to_dict(self) -> dict[str, Any]:
        net = {"value": self.net.value, "low": self.net.lo, "high": self.net.hi}
        counts = {"tokens": self.tokens, "sentences": self.sentences, "unit": self.unit}
        return {
            **counts,
            "loss": self.loss,
            "erased": self.erased,
            "random": self.random,
            "net": net,
            "used": self.used,
        }


def mean_ablation(basis: Float[Tensor, "d k"], mean: Float[Tensor, "d"], removed: float) -> Eraser:
    """h ↦ h − V Vᵀ(h − mean), at right angles."""
    wide = basis.double()
    return Eraser(mean.double(), wide, wide.T.contiguous(), removed)


def ablations(
    values: Float[Tensor, "word d"],
    basis: Float[Tensor, "d k"],
    subspaces: int,
    generator: torch.Generator,
) -> list[Eraser]:
    """The ablation of V, then those of random subspaces that hold as much variance of these activations.

    Args:
        values: of the layer, outliers left out; what is erased is set to their mean, so that nothing else is moved.

    Raises:
        Untestable: no random subspace of this rank exists, or activations that are not finite.
    """
    spectrum = Spectrum.of(values)
    removed = variance_in(spectrum, basis)
    found = [mean_ablation(basis, spectrum.mean, removed)]
    for _ in range(subspaces):
        drawn = matched_subspace(spectrum, int(basis.shape[1]), removed, generator)
        found.append(mean_ablation(drawn, spectrum.mean, variance_in(spectrum, drawn)))
    return found


def ablation_cost(
    model: Any,
    probe_set: ProbeSet,
    words: Bool[Tensor, "word"],
    layer: int,
    erasers: Sequence[Eraser],
    norm_limit: float,
    *,
    sentences: int = SENTENCES,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Cost:
    """The cost on the tokens that follow these words, in at most so many sentences drawn at random.

    Args:
        erasers: V's first, then at least two random ones (`ablations`).
        norm_limit: positions with a larger norm are left as they are (`erasure_costs`).

    Raises:
        Untestable: fewer than 20 tokens follow such words.
        BadActivations: as `erasure_costs`.
    """
    generator = torch.Generator().manual_seed(seed % 2**63)
    sentence = torch.tensor(probe_set.word_sentence, dtype=torch.long)
    position = torch.tensor(probe_set.word_position, dtype=torch.long)
    lengths = torch.tensor([len(ids) for ids in probe_set.tokens])
    allowed = words & (position + 1 < lengths[sentence])
    candidates = torch.unique(sentence[allowed])
    drawn = candidates[torch.randperm(len(candidates), generator=generator)[:sentences]]
    chosen = (allowed & torch.isin(sentence, drawn)).nonzero()[:, 0]
    if len(chosen) < FEWEST_TOKENS or len(drawn) < 2:
        raise Untestable(
            f"use: {len(chosen)} tokens in {len(drawn)} sentences follow such a word; at least {FEWEST_TOKENS} in 2 are "
            "needed to tell a cost. Use more held-out text."
        )
    target = torch.tensor([probe_set.tokens[int(sentence[w])][int(position[w]) + 1] for w in chosen.tolist()])
    found = erasure_costs(model, probe_set, chosen, target, {layer: list(erasers)}, {layer: norm_limit})
    draw = resampling(probe_set, sentence[chosen], replicates, seed)
    with one_thread():
        per_sentence = torch.zeros(len(erasers), len(probe_set.sentences), dtype=torch.float64)
        per_sentence.index_add_(1, sentence[chosen], found.rise[layer])
        count = torch.bincount(sentence[chosen], minlength=len(probe_set.sentences))
        means = replicate_means(per_sentence, count, draw.weights)
        value = per_sentence.sum(1) / len(chosen)
        others = torch.randint(1, len(erasers), (replicates, len(erasers) - 1), generator=generator)
        samples = means[:, 0] - means.gather(1, others).mean(1)
        net = interval(float(value[0] - value[1:].mean()), samples)
    return Cost(
        tokens=len(chosen),
        sentences=len(drawn),
        unit=draw.unit,
        loss=float(found.loss.mean()),
        erased=float(value[0]),
        random=float(value[1:].mean()),
        net=net,
    )


def norm_limit(values: Float[Tensor, "word d"]) -> float:
    """Beyond it a position is an attention sink or the like, and its projection is that of its norm."""
    return OUTLIER_NORM * float(values.float().norm(dim=-1).median())
