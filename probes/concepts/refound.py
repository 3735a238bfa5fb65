"""Whether the concept, looked for again, is still where it was (M4): principal angles against what noise alone would turn.

A subspace estimated from words is uncertain, so two estimates from the same weights differ too. Documents are split in
halves at random: one half of them finds the concept at the freeze, the other half finds it now, and, as the floor, the
other half finds it at the freeze. Both comparisons carry the same noise; only one of them carries the training between.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.concepts.leak import Words
from probes.concepts.subspace import NoSubspace, degrees, overlap, principal_cosines, span
from probes.layers.problem import RARE_WORDS, Untestable

SPLITS = 40
PENALTY = 1e-2  # of the discriminant, where the concept does not say which one it was found with


@dataclass(frozen=True)
class Refound:
    """How alike two subspaces are: mean cos² of the principal angles, 1 = the same, k/d = unrelated.

    Attributes:
        overlap: of the half at the freeze with the other half now, mean over splits.
        floor: the same with the other half at the freeze; `floor_low` is its lowest 2.5 %.
        angles: principal angles in degrees between the frozen V and what all words find now, ascending.
        chance: k/d, what a random subspace has.
        stale: the overlap is below the floor's lowest 2.5 %.
    """

    overlap: float
    floor: float
    floor_low: float
    angles: tuple[float, ...]
    chance: float
    stale: bool


def refound(
    before: Float[Tensor, "word d_model"],
    after: Float[Tensor, "word d_model"],
    basis: Float[Tensor, "d_model k"],
    words: Words,
    seed: int,
    splits: int = SPLITS,
    penalty: float = PENALTY,
) -> Refound:
    """Look for the concept again at the freeze and now, on the same words.

    Raises:
        Untestable: too few documents or labelled words to halve.
    """
    documents = words.document[words.sentence]
    present = torch.unique(documents[words.label >= 0])
    if len(present) < 4:
        raise Untestable(f"re-finding: labelled words in {len(present)} documents; halves need at least 4.")
    generator = torch.Generator().manual_seed(seed % 2**63)
    moved, floor = [], []
    try:
        for _ in range(splits):
            mine = torch.isin(documents, present[torch.randperm(len(present), generator=generator)[::2]])
            one, other = (_common(words.label.where(side, torch.tensor(-1))) for side in (mine, ~mine))
            start = span(before, one, penalty).basis
            floor.append(overlap(start, span(before, other, penalty).basis))
            moved.append(overlap(start, span(after, other, penalty).basis))
        now = span(after, _common(words.label), penalty).basis
    except NoSubspace as error:
        raise Untestable(f"re-finding: {error}") from None
    low = float(torch.tensor(floor, dtype=torch.float64).quantile(0.025))
    value = sum(moved) / splits
    return Refound(
        overlap=value,
        floor=sum(floor) / splits,
        floor_low=low,
        angles=tuple(degrees(principal_cosines(basis, now)).tolist()),
        chance=now.shape[1] / now.shape[0],
        stale=value < low,
    )


def _common(label: Int[Tensor, "word"]) -> Int[Tensor, "word"]:
    """The labels without those of classes that have too few words here, which would be all noise."""
    counts = torch.bincount(label[label >= 0], minlength=1)
    kept: Tensor = (label >= 0) & (counts[label.clamp(min=0)] >= RARE_WORDS)
    return torch.where(kept, label, torch.full_like(label, -1))
