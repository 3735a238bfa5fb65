"""What is fitted at one checkpoint to read its layers by: the ridge lens, and closed-form probes of the run's labels.

On the run's own probe set, which is read and never written. From Python: `fit(run, run.model(step), run.tokenizer())`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lab.errors import LabError
from lab.run import Run
from probes.layers.collect import collect
from probes.layers.discriminant import Alone
from probes.layers.fit import log_prior, read_alone, usable_bits
from probes.layers.groups import ENOUGH_DOCUMENTS
from probes.layers.labels import NO_LABEL, BadProbeSet, ProbeSet
from probes.layers.lens import LOGIT_LENS, Lens, fit_ridge
from probes.layers.problem import Untestable, assign_folds, one_thread, prepare
from train.probing import Bench


@dataclass(frozen=True)
class Probe:
    """The closed-form probes of one label, one a layer.

    Attributes:
        bits: usable bits per word of held-out folds: how much to believe it.
        n: labelled words it was fitted on.
    """

    classes: tuple[str, ...]
    weight: Float[Tensor, "layer d_model class"]
    bias: Float[Tensor, "layer class"]
    bits: tuple[float, ...]
    n: int

    def read(self, values: Float[Tensor, "layer pos d_model"]) -> Float[Tensor, "layer pos class"]:
        """Probability of each class."""
        return torch.softmax(torch.baddbmm(self.bias[:, None], values, self.weight), dim=-1)


@dataclass(frozen=True)
class Fitted:
    """What was fitted at one checkpoint; a label or lens that cannot be, with the reason."""

    lens: Lens
    probes: Mapping[str, Probe] = field(default_factory=dict)
    untestable: Mapping[str, str] = field(default_factory=dict)


def fit_probe(
    values: Float[Tensor, "layer word d_model"],
    label: Tensor,
    sentence: Tensor,
    folds: Tensor,
    classes: tuple[str, ...],
    task: str,
) -> Probe:
    """The probes of `probes.layers.fit` on all words: penalty, temperature and offsets are those of its folds, averaged.

    Raises:
        Untestable: too few words or classes.
    """
    problem = prepare(task, values, label, sentence, folds, classes)
    chosen = values[:, problem.word].float()
    centre = chosen.mean(1)
    spread = (chosen - centre[:, None]).square().mean(1).sqrt()
    scale = torch.where(spread > 1e-6 * centre.abs() + 1e-30, 1 / spread.clamp(min=1e-30), torch.zeros(()))
    weights, biases = [], []
    with one_thread():
        prior = log_prior(problem.counts.sum(0))
        for index, block in enumerate(problem.blocks):
            read = read_alone(problem, index)
            found = Alone(block, problem.counts).solve((), 0, read.penalty.log().mean().exp()[None])
            weight = scale[index][:, None] * found.weight[0][0] * read.slope.mean()
            bias = found.bias[0] * read.slope.mean() + read.offset.mean(0) + prior
            weights.append(weight)
            biases.append(bias - centre[index] @ weight)
    bits = tuple(usable_bits(problem).bits.tolist())
    return Probe(problem.classes, torch.stack(weights), torch.stack(biases), bits, len(problem.word))


def fit(run: Run, model: Any, tokenizer: Any) -> Fitted:
    """Lens and probes at a checkpoint, on the probe set that the run keeps; without one the raw lens, and the reason."""
    config = run.config.probing

    def none_stored() -> list[str]:
        raise BadProbeSet(
            f"{run.name} has no probe set yet, so nothing was fitted. Make one with: lab probe {run.name}"
        )

    try:
        bench = Bench.open(run, config, tokenizer, none_stored, store=False)
        activations = collect(model, bench.probe_set)
        units = _units(bench.probe_set)
        sentence = torch.tensor(bench.probe_set.word_sentence, dtype=torch.long)
        folds = assign_folds(len(bench.probe_set.sentences), config.folds, config.seed, units)
    except (LabError, OSError) as error:
        return Fitted(LOGIT_LENS, {}, {"lens": str(error), "probes": str(error)})
    probes: dict[str, Probe] = {}
    untestable: dict[str, str] = {}
    for name, labels in bench.probe_set.labels.items():
        label = torch.where(activations.kept, torch.tensor(labels, dtype=torch.long), NO_LABEL)
        try:
            probes[name] = fit_probe(
                activations.values, label, sentence, folds, tuple(bench.probe_set.classes[name]), name
            )
        except Untestable as error:
            untestable[name] = str(error)
    lens = LOGIT_LENS
    try:
        unit = (torch.arange(len(folds)) if units is None else units)[sentence]
        lens = fit_ridge(activations.values[:, activations.kept], unit[activations.kept], config.seed)
    except Untestable as error:
        untestable["lens"] = str(error)
    return Fitted(lens, probes, untestable)


def _units(probe_set: ProbeSet) -> Tensor | None:
    """Documents, where there are enough to leave whole ones out; as live probing does."""
    units = probe_set.units
    return torch.tensor(units) if len(set(units)) >= ENOUGH_DOCUMENTS else None
