"""Control tasks: could the probe have learned the words instead of what they have in common?

Hewitt & Liang 2019 (arXiv:1909.03368): every word type gets a label drawn at random from the labels' own distribution,
and keeps it. A control label can only be read by remembering types, so what the task gives beyond it (selectivity) was
not memory. Needs many types per class; how many there were is part of the result.

A type is a token id, the model's own unit: for labels of the current word its last sub-token, where the label sits, and
for labels of the next word (`*.next`) the next token, which is what the model has to predict there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.layers.fit import Decoding, Problem, conditional_bits, usable_bits
from probes.layers.labels import ProbeSet
from probes.layers.problem import side_by_side


@dataclass(frozen=True)
class Selectivity:
    """Bits of a task beyond those of its control tasks, by layer.

    Attributes:
        gain: task less the mean control, summed over the words of a sentence: bootstrap it like `Decoding.gain`.
        words: per sentence.
        task, controls: the readings it was made of, on the same words and folds.
        types: distinct word types in each class of the task.
    """

    gain: Float[Tensor, "layer sentence"]
    words: Int[Tensor, "sentence"]
    task: Decoding
    controls: tuple[Decoding, ...]
    types: Mapping[str, int]

    @property
    def bits(self) -> Float[Tensor, "layer"]:
        """Bits per word."""
        return self.gain.sum(1) / self.words.sum()


def word_types(probe_set: ProbeSet, label: str) -> Int[Tensor, "word"]:
    """The type that a control label of `label` goes by, per word of the probe set; -1 where the text was cut there."""
    ahead = 1 if label.endswith(".next") else 0
    places = zip(probe_set.word_sentence, probe_set.word_position, strict=True)
    found = [probe_set.tokens[s][p + ahead] if p + ahead < len(probe_set.tokens[s]) else -1 for s, p in places]
    return torch.tensor(found, dtype=torch.long)


def control_problem(problem: Problem, types: Int[Tensor, "word"], seed: int = 0) -> Problem:
    """The same words, features and folds with a random label for each type; the same (seed, type), the same draw.

    Args:
        types: per word of those given to `prepare`. Words without one (-1) are taken as of one type.
    """
    kind, index = torch.unique(types[problem.word], return_inverse=True)
    upper = (problem.counts.sum(0) / len(problem.label)).cumsum(0)
    drawn = torch.tensor([_uniform(seed, one) for one in kind.tolist()], dtype=torch.float64)
    label = torch.searchsorted(upper, drawn, right=True).clamp(max=len(problem.classes) - 1)
    return replace(problem, task=f"{problem.task}.control", label=label[index], memory={})


def selectivity(
    problem: Problem, types: Int[Tensor, "word"], seeds: Sequence[int] = (0, 1, 2), given_layer_0: bool = False
) -> Selectivity:
    """Bits of the task less those of its control, the mean over control tasks of several seeds.

    One control of a Zipfian text rests on the labels of a few types ("the" alone is a word in twenty), so several are
    drawn.

    Args:
        types: as for `control_problem`.
        given_layer_0: both given layer 0. A type is at layer 0, so there the control is 0 but for the word to come.
    """
    read = conditional_bits if given_layer_0 else usable_bits
    task = read(problem)
    with side_by_side() as each:
        controls = tuple(each(lambda seed: read(control_problem(problem, types, seed)), seeds))
    kinds = types[problem.word]
    counted = {name: int(torch.unique(kinds[problem.label == i]).numel()) for i, name in enumerate(problem.classes)}
    gain = task.gain - torch.stack([one.gain for one in controls]).mean(0)
    return Selectivity(gain, task.words, task, controls, counted)


def _uniform(seed: int, kind: int) -> float:
    digest = hashlib.sha256(f"{seed}:{kind}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
