"""What a probe that was frozen with its concept still says (M3): accuracy, AUROC and how many decisions changed.

Accuracy alone is no proof that a concept held: on one run an unfrozen model's rose from .77 to .80 while its coordinates
moved by a third of their spread. Hence the churn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.concepts import Concept
from probes.behaviour.rates import Rate, wilson


@dataclass(frozen=True)
class Decisions:
    """The frozen probe on one model, beside what it said at the freeze.

    Attributes:
        accuracy: of labelled words; None without labels.
        auroc: of two classes, else the mean of one against the rest; None without labels of two classes.
        churn: words whose decision is not that of the freeze.
    """

    accuracy: Rate | None
    auroc: float | None
    churn: Rate


def scores(concept: Concept, coordinates: Float[Tensor, "word k"]) -> Float[Tensor, "word class"]:
    """The concept's own probe on coordinates Vᵀh.

    A concept without classes (a direction from a file) has no probe; then the side of the mean that a word lies on along
    each column decides, which is what a threshold at the mean would say.
    """
    centred = coordinates.double() - concept.mean.double() @ concept.basis.double()
    if not concept.classes:
        return centred
    return centred @ concept.weight.double().T + concept.bias.double()


def decided(concept: Concept, coordinates: Float[Tensor, "word k"]) -> Int[Tensor, "word"]:
    """The class of each word by the frozen probe; without classes, the pattern of sides, as one number."""
    found = scores(concept, coordinates)
    if concept.classes:
        return found.argmax(1)
    power = 2 ** torch.arange(min(found.shape[1], 62))  # more sides than bits of an integer never come
    return ((found[:, : len(power)] > 0) * power).sum(1)


def decisions(
    concept: Concept,
    before: Float[Tensor, "word k"],
    after: Float[Tensor, "word k"],
    label: Int[Tensor, "word"] | None,
) -> Decisions:
    """M3.

    Args:
        before, after: Vᵀh of the same words at the freeze and now.
        label: class per word, an index into `concept.classes`; negative = none.
    """
    first, now = decided(concept, before), decided(concept, after)
    churn = wilson(int((first != now).sum()), len(now))
    known = torch.zeros(0, dtype=torch.bool) if label is None else label >= 0
    if label is None or not concept.classes or not bool(known.any()):
        return Decisions(None, None, churn)
    right = int((now[known] == label[known]).sum())
    area = auroc(scores(concept, after)[known], label[known])
    return Decisions(wilson(right, int(known.sum())), area, churn)


def auroc(score: Float[Tensor, "word class"], label: Int[Tensor, "word"]) -> float | None:
    """Probability that a word of the class scores above one of another; the mean over classes where there are more than two.

    >>> auroc(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 0]))
    1.0
    """
    classes: Sequence[int] = [1] if score.shape[1] == 2 else range(score.shape[1])
    found = []
    for one in classes:
        own = label == one
        positive, negative = int(own.sum()), int((~own).sum())
        if positive and negative:
            column = score[:, 1] - score[:, 0] if score.shape[1] == 2 else score[:, one]
            _, place, count = torch.unique(column, return_inverse=True, return_counts=True)
            rank = (count.cumsum(0) - (count - 1) / 2)[place]  # equal scores share their mean rank
            found.append((float(rank[own].sum()) - positive * (positive + 1) / 2) / (positive * negative))
    return sum(found) / len(found) if found else None
