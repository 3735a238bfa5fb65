"""The heavier looks of the understanding module: batteries over one fixed set of generations, beside the reference's.

A battery is a function from `Material` to findings and numbers; add one to `BATTERIES` and it is run with the rest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int
from torch import Tensor

from lab.model import GPT
from probes.behaviour import loops, structure
from probes.behaviour.fallback import Association, associate, judge
from probes.behaviour.findings import Finding
from probes.behaviour.rates import wilson
from train.generations import Generated, losses

TOKENS = 128
DEGRADED = 95  # percentile of people's texts; 5 % of those count as degraded too


@dataclass(frozen=True)
class Material:
    """What batteries look at.

    Attributes:
        texts: of the run, now.
        reference: the reference checkpoint's model; None where there is none.
        reference_texts: of that model, with the same prompts.
        people: validation text, cut to the length of prompt and answer.
    """

    prompts: Int[Tensor, "text pos"]
    texts: Generated
    reference: GPT | None
    reference_texts: Generated | None
    people: Int[Tensor, "text pos"]

    @cached_property
    def limit(self) -> float:
        """Nats per token under the reference above which a text counts as degraded."""
        assert self.reference is not None
        start = self.prompts.shape[1]
        answers = self.people[:, start:].tolist()
        as_if = Generated([], [], answers, 0)
        return float(np.percentile(losses(self.reference, self.people[:, :start], as_if), DEGRADED))

    def degraded(self, texts: Generated) -> list[bool]:
        """Texts that end in an exact loop or that the reference finds less likely than 95 % of people's; never by layout."""
        assert self.reference is not None
        nats = losses(self.reference, self.prompts, texts)
        return [
            loops.detect(ids) is not None or (not math.isnan(value) and value > self.limit)
            for ids, value in zip(texts.ids, nats, strict=True)
        ]


Battery = Callable[[Material], tuple[list[Finding], dict[str, float]]]


def layout(material: Material) -> tuple[list[Finding], dict[str, float]]:
    """How many texts are layout, and whether layout is a fallback channel, judged beside the reference checkpoint."""
    laid_out = [structure.read(text).is_structured for text in material.texts.answers]
    numbers = {"understanding/layout_share": wilson(sum(laid_out), len(laid_out)).value}
    if material.reference is None or material.reference_texts is None:
        return [], numbers
    there = [structure.read(text).is_structured for text in material.reference_texts.answers]
    run: Association = associate(laid_out, material.degraded(material.texts))
    answer = judge(run, associate(there, material.degraded(material.reference_texts)))
    finding = answer.finding()
    return [finding] if finding else [], numbers | {"understanding/layout_share_reference": sum(there) / len(there)}


BATTERIES: Mapping[str, Battery] = {"layout": layout}
