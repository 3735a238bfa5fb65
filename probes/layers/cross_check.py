"""The same labels by other instruments: is a profile the probe's doing, or memory, or too few examples?

Beside the closed-form bits of a label at each layer: logistic regression on the same folds, the control task (random labels
of word types; what the task gives beyond it is selectivity), and the online code length, which rewards needing few examples.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from probes.layers.code_length import code_length
from probes.layers.collect import Activations
from probes.layers.control_task import selectivity, word_types
from probes.layers.fit import prepare, usable_bits
from probes.layers.logistic import logistic_bits
from probes.layers.probe_set import NO_LABEL, ProbeSet


@dataclass(frozen=True)
class CrossCheck:
    """One label at every layer, all in bits per word but `compression`.

    Attributes:
        bits, logistic: usable bits by the closed-form probe and by logistic regression.
        selectivity: usable bits beyond those of the mean of three control tasks.
        code_length: bits a word to send the labels; compression is log2 of the classes over it.
        types: distinct word types in each class: a control task needs many.
    """

    label: str
    layers: tuple[int, ...]
    words: int
    bits: tuple[float, ...]
    logistic: tuple[float, ...]
    selectivity: tuple[float, ...]
    code_length: tuple[float, ...]
    compression: tuple[float, ...]
    types: dict[str, int]

    def to_lines(self) -> list[str]:
        """A table over layers."""
        types = ", ".join(f"{name} {count}" for name, count in self.types.items())
        lines = [f"{self.label} by other instruments, {self.words} words; word types: {types}"]
        lines += ["layer     bits  logistic  selectivity  code length  compression"]
        columns = zip(self.bits, self.logistic, self.selectivity, self.code_length, self.compression, strict=True)
        for layer, values in zip(self.layers, columns, strict=True):
            cells = [f"{value:{width}.3f}" for value, width in zip(values, (8, 8, 11, 11, 11), strict=True)]
            lines.append(f"{layer:5d} " + "  ".join(cells))
        return lines

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def cross_check(
    activations: Activations, probe_set: ProbeSet, label: str, fold_of_sentence: Int[Tensor, "sentence"], seed: int = 0
) -> CrossCheck:
    """Read one label of the probe set in four ways, on the same words and folds.

    Raises:
        Untestable: as `prepare`, or too few sentences for a code.
    """
    values = torch.where(activations.kept, torch.tensor(probe_set.labels[label], dtype=torch.long), NO_LABEL)
    sentence = torch.tensor(probe_set.word_sentence, dtype=torch.long)
    classes, layers = probe_set.classes[label], activations.layers
    problem = prepare(label, activations.values, values, sentence, fold_of_sentence, classes, layers)
    beyond = selectivity(problem, word_types(probe_set, label))
    code = code_length(problem, seed)
    return CrossCheck(
        label=label,
        layers=layers,
        words=beyond.task.n,
        bits=_numbers(usable_bits(problem).bits),
        logistic=_numbers(logistic_bits(problem).bits),
        selectivity=_numbers(beyond.bits),
        code_length=_numbers(code.per_word),
        compression=_numbers(code.compression),
        types=dict(beyond.types),
    )


def _numbers(values: Tensor) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
