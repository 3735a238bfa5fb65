"""Sums taken while the activations pass by are the sums of activations kept."""

import weakref
from collections.abc import Iterator

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from lab.model import GPT, GPTConfig
from probes.layers.collect import Harvest, collect, stream
from probes.layers.discriminant import Alone, Block
from probes.layers.fit import assign_folds
from probes.layers.statistics import BadStatistics, Statistics, accumulate, assign_blocks, stream_statistics
from tests.probes.toys import Toy, probe_set

SET = probe_set(80)
FOLDS = assign_folds(80, 5)
BLOCKS, FOLD_OF_BLOCK = assign_blocks(FOLDS)
SENTENCE = torch.tensor(SET.word_sentence)
LABEL = torch.tensor(SET.labels["class.next"])


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("model", [Toy(), GPT(GPTConfig(n_layers=2, d_model=32, n_heads=2, n_ctx=16, d_vocab=600))])
def test_streamed_sums_equal_those_of_stored_activations(model: torch.nn.Module) -> None:
    found = stream_statistics(model, SET, "class.next", BLOCKS)
    kept = collect(model, SET).values.double()
    assert found.n == int((LABEL >= 0).sum()) and found.layers == (0, 1, 2)
    for block in range(20):
        own = (BLOCKS[SENTENCE] == block) & (LABEL >= 0)
        for index in range(3):
            x = kept[index, own]
            assert relative(found.second_moment[index, block], x.T @ x) < 1e-9
            for k in range(2):
                expected = kept[index, own & (k == LABEL)].sum(0)
                assert relative(found.class_sum[index, block, k], expected) < 1e-9
                assert int(found.count[block, k]) == int((own & (k == LABEL)).sum())


def test_a_discriminant_fitted_from_sums_is_the_one_fitted_from_activations() -> None:
    found = stream_statistics(Toy(), SET, "class.next", BLOCKS)
    kept = collect(Toy(), SET).values.double()
    order = torch.argsort(FOLDS[SENTENCE], stable=True)
    order = order[LABEL[order] >= 0]
    ends = torch.bincount(FOLDS[SENTENCE[order]], minlength=5).cumsum(0).tolist()
    rows = [slice(a, b) for a, b in zip([0, *ends], ends, strict=False)]
    onehot = torch.nn.functional.one_hot(LABEL[order], 2).double()
    counts = torch.stack([onehot[r].sum(0) for r in rows])
    for index in range(3):
        x = kept[index, order]
        expected = Alone(Block.of(x, rows, onehot), counts).solve((1,), 1, Alone.grid[3:4])
        block, words = found.moments_block(index, FOLD_OF_BLOCK)
        fitted = Alone(block, words).solve((1,), 1, Alone.grid[3:4])
        torch.testing.assert_close(words, counts)
        torch.testing.assert_close(fitted.scores([x.float()]), expected.scores([x.float()]), atol=1e-5, rtol=1e-5)


def test_no_batch_outlives_its_turn() -> None:
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def watched() -> Iterator[Harvest]:
        nonlocal most
        for batch in (Harvest(torch.arange(i * 40, (i + 1) * 40), torch.randn(2, 40, 8)) for i in range(10)):
            alive.append(weakref.ref(batch.values))
            most = max(most, sum(one() is not None for one in alive))
            yield batch

    label, block = torch.zeros(400, dtype=torch.long), torch.zeros(400, dtype=torch.long)
    found = accumulate(watched(), (0, 1), label, 1, block)
    assert found.n == 400 and len(alive) == 10
    assert most <= 2  # the one being summed and the one being made; [layer, word, d] is never whole


def test_the_stream_gives_each_word_once_and_batch_by_batch() -> None:
    batches = list(stream(Toy(), probe_set(1000), layers=(1,)))
    words = torch.cat([batch.words for batch in batches])
    assert len(batches) > 1 and words.sort().values.tolist() == list(range(probe_set(1000).words))
    assert all(batch.values.shape[:2] == (1, len(batch.words)) for batch in batches)


def test_stored_and_read_again_the_sums_are_the_same_to_single_precision() -> None:
    found = stream_statistics(Toy(), SET, "class.next", BLOCKS)
    shifted = Statistics(found.layers, found.count, found.class_sum, found.second_moment)
    for one in (shifted, shifted.pooled()):
        again = Statistics.from_tensors(load(save(one.to_tensors())))
        assert again.layers == one.layers and torch.equal(again.class_sum, one.class_sum)
        assert relative(again.second_moment, one.second_moment) < 1e-6
    assert shifted.pooled().second_moment.shape[1] == 1
    torch.testing.assert_close(shifted.pooled().mean(), found.class_sum.sum((1, 2)) / found.n)


def test_words_left_out_count_nowhere() -> None:
    kept = torch.ones(SET.words, dtype=torch.bool)
    kept[::3] = False
    found = stream_statistics(Toy(), SET, "class.next", BLOCKS, layers=(2,), kept=kept)
    assert found.n == int((kept & (LABEL >= 0)).sum())
    expected = collect(Toy(), SET).values[2, kept & (LABEL >= 0)].double().sum(0)
    assert relative(found.class_sum.sum((0, 1, 2)), expected) < 1e-9


def test_blocks_lie_inside_folds_and_keep_units_whole() -> None:
    units = torch.arange(80) // 3
    folds = assign_folds(80, 5, groups=units)
    block, fold_of_block = assign_blocks(folds, units)
    assert torch.equal(fold_of_block[block], folds)
    assert all(len(block[units == unit].unique()) == 1 for unit in range(27))
    with pytest.raises(BadStatistics, match="keep each unit whole"):
        assign_blocks(FOLDS, units)
    with pytest.raises(BadStatistics, match="multiple of the folds"):
        assign_blocks(FOLDS, blocks=12)


def test_sums_without_labels_and_pooled_sums_for_folds_are_refused() -> None:
    with pytest.raises(BadStatistics, match="no word has a label"):
        accumulate([], (0,), torch.full((5,), -1), 2, torch.zeros(5, dtype=torch.long))
    pooled = stream_statistics(Toy(), SET, "class.next", BLOCKS).pooled()
    with pytest.raises(BadStatistics, match="not pooled"):
        pooled.moments_block(0, FOLD_OF_BLOCK)
    with pytest.raises(BadStatistics, match="has no count"):
        Statistics.from_tensors({k: v for k, v in pooled.to_tensors().items() if k != "count"})
    with pytest.raises(BadStatistics, match="Probe the checkpoint again"):
        Statistics.from_tensors(pooled.to_tensors() | {"count": torch.zeros(20, 3)})
