"""Sums from which closed-form probes are fitted, gathered while the activations pass by and without keeping them.

Per layer and block of whole units (documents, or sentences): words per class, sums of activations per class, and second
moments. Sums are in double precision, so those of all blocks but some may be had by subtraction. What a block is decides
what they can do: blocks inside folds serve folds and a bootstrap over blocks; pooled, they are small enough to store at
every checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lab.errors import LabError
from probes.layers.collect import Harvest, check_layers, residual_names, stream
from probes.layers.discriminant import Block
from probes.layers.labels import ProbeSet
from probes.layers.problem import one_thread

BLOCKS = 20


class BadStatistics(LabError):
    """Sums that cannot be made from these labels and blocks, or stored ones that do not hold together."""


@dataclass(frozen=True)
class Statistics:
    """Sums over the labelled words of one label.

    Attributes:
        layers: the layer number of each slice.
        count: labelled words.
        class_sum: of activations.
        second_moment: Σ x xᵀ, not centred; one block only once pooled.
    """

    layers: tuple[int, ...]
    count: Float[Tensor, "block class"]
    class_sum: Float[Tensor, "layer block class d"]
    second_moment: Float[Tensor, "layer block_or_1 d d"]

    @property
    def n(self) -> int:
        return int(self.count.sum())

    def mean(self) -> Float[Tensor, "layer d"]:
        return self.class_sum.sum((1, 2)) / self.count.sum()

    def moments_block(
        self, index: int, fold_of_block: Int[Tensor, "block"]
    ) -> tuple[Block, Float[Tensor, "fold class"]]:
        """Fold sums of one layer (by its place in `layers`) and the words per fold and class, ready for `discriminant.Alone`.

        The block has no features: a discriminant can be fitted from it, not scored.

        Raises:
            BadStatistics: pooled statistics, or not one fold per block.
        """
        if self.second_moment.shape[1] != len(self.count) or len(fold_of_block) != len(self.count):
            raise BadStatistics(
                f"statistics: {len(fold_of_block)} folds for {len(self.count)} blocks and second moments of "
                f"{self.second_moment.shape[1]}. Folds need one number per block and statistics that were not pooled."
            )
        folds = int(fold_of_block.max()) + 1

        def by_fold(sums: Tensor) -> Tensor:
            return sums.new_zeros(folds, *sums.shape[1:]).index_add_(0, fold_of_block, sums)

        second_moment = by_fold(self.second_moment[index])
        block = Block(
            second_moment.new_empty(0, len(second_moment[0])), [], by_fold(self.class_sum[index]), second_moment
        )
        return block, by_fold(self.count)

    def pooled(self) -> Statistics:
        """Class sums per block, but one second moment, centred sums recoverable: what is stored at every checkpoint."""
        return replace(self, second_moment=self.second_moment.sum(1, keepdim=True))

    def to_tensors(self) -> dict[str, Tensor]:
        """Plain tensors, for a safetensors file; second moments in single precision about the mean, to lose no digits.

        A pooled layer 256 wide with two classes takes 0.3 MB.
        """
        n, mean = self._centre()
        centred = self.second_moment - n[None, :, None, None] * mean[..., :, None] * mean[..., None, :]
        return {
            "layers": torch.tensor(self.layers),
            "count": self.count,
            "class_sum": self.class_sum,
            "centred_moment": centred.float(),
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Statistics:
        """The inverse of `to_tensors`, to single precision.

        Raises:
            BadStatistics: a tensor is missing or the shapes do not belong together.
        """
        missing = {"layers", "count", "class_sum", "centred_moment"} - set(tensors)
        if missing:
            raise BadStatistics(
                f"statistics: the file has no {', '.join(sorted(missing))}. Probe the checkpoint again."
            )
        layers, count, class_sum, centred = (tensors[k] for k in ("layers", "count", "class_sum", "centred_moment"))
        width = class_sum.shape[-1]
        blocks = centred.shape[1] if centred.ndim == 4 else 0
        expected = (len(layers), *count.shape, width), (len(layers), blocks, width, width)
        if (tuple(class_sum.shape), tuple(centred.shape)) != expected or blocks not in (1, len(count)):
            raise BadStatistics(
                f"statistics: sums of shape {tuple(class_sum.shape)} and moments of {tuple(centred.shape)} for "
                f"{len(layers)} layers and counts of {tuple(count.shape)}. Probe the checkpoint again."
            )
        bare = cls(tuple(layers.tolist()), count, class_sum, centred.double())
        n, mean = bare._centre()
        raw = bare.second_moment + n[None, :, None, None] * mean[..., :, None] * mean[..., None, :]
        return replace(bare, second_moment=raw)

    def _centre(self) -> tuple[Float[Tensor, "block_or_1"], Float[Tensor, "layer block_or_1 d"]]:
        """Words and mean of each second moment."""
        n, sums = self.count.sum(1), self.class_sum.sum(2)
        if self.second_moment.shape[1] == 1:
            n, sums = n.sum(0, keepdim=True), sums.sum(1, keepdim=True)
        return n, sums / n.clamp(min=1)[None, :, None]


def assign_blocks(
    fold: Int[Tensor, "sentence"], units: Int[Tensor, "sentence"] | None = None, blocks: int = BLOCKS
) -> tuple[Int[Tensor, "sentence"], Int[Tensor, "block"]]:
    """Blocks of whole units inside folds: the block of each sentence, and the fold of each block.

    Units go in order, each to the block of its fold that has the fewest sentences so far.

    Args:
        units: per sentence, what must stay whole (`ProbeSet.units`); None = each sentence by itself.

    Raises:
        BadStatistics: `blocks` is no multiple of the number of folds, or a unit lies in two folds.
    """
    folds = int(fold.max()) + 1
    names = torch.arange(len(fold)) if units is None else units
    _, unit, size = torch.unique(names, return_inverse=True, return_counts=True)
    fold_of_unit = torch.zeros_like(size)
    fold_of_unit[unit] = fold
    if blocks < folds or blocks % folds or not torch.equal(fold_of_unit[unit], fold):
        raise BadStatistics(
            f"statistics: {blocks} blocks for {folds} folds of {len(size)} units. Take a multiple of the folds, and folds "
            "that keep each unit whole (assign_folds with groups)."
        )
    per_fold = blocks // folds
    filled, block_of_unit = torch.zeros(folds, per_fold, dtype=torch.long), torch.empty_like(size)
    for index, own in enumerate(fold_of_unit.tolist()):
        emptiest = int(filled[own].argmin())
        block_of_unit[index] = own * per_fold + emptiest
        filled[own, emptiest] += size[index]
    return block_of_unit[unit], torch.arange(blocks) // per_fold


def accumulate(
    batches: Iterable[Harvest],
    layers: tuple[int, ...],
    label: Int[Tensor, "word"],
    classes: int,
    block_of_word: Int[Tensor, "word"],
    kept: Bool[Tensor, "word"] | None = None,
) -> Statistics:
    """Sums over a stream of activations; what has been summed is let go.

    Args:
        batches: from `stream`, or one `Harvest` of activations at hand.
        label: class index per word, negative = the word counts nowhere.
        kept: False for words to leave out (`Activations.kept` of an earlier pass: outliers need all norms first).

    Raises:
        BadStatistics: no word has a label.
    """
    blocks = int(block_of_word.max()) + 1 if len(block_of_word) else 0
    use = label >= 0 if kept is None else (label >= 0) & kept
    if not use.any():
        raise BadStatistics("statistics: no word has a label, so there is nothing to sum. Build the probe set anew.")
    count = torch.zeros(blocks * classes, dtype=torch.float64)
    count.index_add_(0, (block_of_word * classes + label)[use], torch.ones(int(use.sum()), dtype=torch.float64))
    class_sum, moment = torch.empty(0), torch.empty(0)
    with one_thread():
        for batch in batches:
            if not moment.numel():
                width = batch.values.shape[-1]
                class_sum = torch.zeros(len(layers), blocks * classes, width, dtype=torch.float64)
                moment = torch.zeros(len(layers), blocks, width, width, dtype=torch.float64)
            chosen = use[batch.words]
            block, cell = block_of_word[batch.words][chosen], (block_of_word * classes + label)[batch.words][chosen]
            groups = [(one, block == one) for one in torch.unique(block).tolist()]
            for index, values in enumerate(batch.values):
                wide = values[chosen].double()
                class_sum[index].index_add_(0, cell, wide)
                for one, rows in groups:
                    part = wide[rows]
                    moment[index, one].addmm_(part.T, part)
    shape = (len(layers), blocks, classes, class_sum.shape[-1])
    return Statistics(layers, count.view(blocks, classes), class_sum.view(shape), moment)


def stream_statistics(
    model: Any,
    probe_set: ProbeSet,
    label: str,
    block_of_sentence: Int[Tensor, "sentence"],
    layers: tuple[int, ...] | None = None,
    kept: Bool[Tensor, "word"] | None = None,
) -> Statistics:
    """Statistics of one label of a probe set from one pass of the model, residual stream only.

    Memory: one batch of activations, and (blocks · d² + blocks · classes · d) doubles a layer; never all activations.

    Raises:
        BadActivations: as `collect.stream`.
        BadStatistics: as `accumulate`.
    """
    wanted = check_layers(layers, len(residual_names(model)) - 1)
    block = block_of_sentence[torch.tensor(probe_set.word_sentence, dtype=torch.long)]
    found = torch.tensor(probe_set.labels[label], dtype=torch.long)
    batches = stream(model, probe_set, wanted)
    return accumulate(batches, wanted, found, len(probe_set.classes[label]), block, kept)
