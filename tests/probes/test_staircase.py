"""P2: what a transformer wired by hand makes in block k is read from layer k on, and its erasure hurts from layer k on."""

import pytest
import torch
from torch import Tensor

from lab.model import GPT
from probes.layers.collect import Activations, collect, residual_names
from probes.layers.depth import expected_depth, half_gain
from probes.layers.erase import fit_leace
from probes.layers.fit import assign_folds, prepare, usable_bits
from tests.probes.staircase import BITS, BLOCKS, TOKENS, staircase, stairs_of, text

STEPS = range(1, BLOCKS + 1)


@pytest.fixture(scope="module")
def model() -> GPT:
    return staircase()


@pytest.fixture(scope="module")
def every_token(model: GPT) -> Activations:
    """All 32 tokens 16 times each: no bit correlates with another, not even by chance."""
    return collect(model, text(sentences=64, length=8, noise=1.0, tokens=torch.arange(TOKENS).repeat(16).view(64, 8)))


def test_each_block_writes_its_xor_to_the_last_bit_of_single_precision(model: GPT, every_token: Activations) -> None:
    z = stairs_of(torch.arange(TOKENS).repeat(16)).float()
    for step in STEPS:
        written = every_token.values[:, :, BITS + step - 1]
        assert not written[:step].any()
        torch.testing.assert_close(written[step:], z[:, step].expand(BLOCKS + 1 - step, -1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("step", STEPS)
def test_depth_and_half_gain_of_an_xor_are_the_block_that_makes_it(model: GPT, step: int) -> None:
    probes = text()
    label = torch.tensor(probes.labels[f"z{step}"])
    folds = assign_folds(len(probes.sentences), 5)
    values = collect(model, probes).values
    found = usable_bits(prepare(f"z{step}", values, label, torch.tensor(probes.word_sentence), folds, ("no", "yes")))
    assert float(found.bits[:step].max()) < 0.02 and float(found.bits[step:].min()) > 0.98
    assert BLOCKS * float(expected_depth(found.bits)) == pytest.approx(step, abs=0.1)
    assert BLOCKS * float(half_gain(found.bits)) == pytest.approx(step, abs=0.1)


def cost(model: GPT, layer: int, erase: Tensor, mean: Tensor) -> float:
    """Rise of the next-token loss in nats when the stream at `layer` loses this projection."""

    def edit(stream: Tensor, hook: object) -> Tensor:
        return stream - (stream - mean) @ erase

    tokens = torch.tensor(text(seed=2).tokens)
    with torch.no_grad():
        plain = float(model(tokens, return_type="loss"))
        name = residual_names(model)[layer]
        return float(model.run_with_hooks(tokens, return_type="loss", fwd_hooks=[(name, edit)])) - plain


@pytest.mark.parametrize("step", STEPS)
def test_erasing_an_xor_hurts_from_the_block_that_makes_it_and_not_before(
    model: GPT, every_token: Activations, step: int
) -> None:
    label = torch.tensor([int(bit > 0) for bit in stairs_of(torch.arange(TOKENS).repeat(16))[:, step]])
    its_own = torch.zeros(model.cfg.d_model, model.cfg.d_model)
    its_own[BITS + step - 1, BITS + step - 1] = 1.0
    costs = [cost(model, layer, its_own, torch.zeros(())) for layer in range(BLOCKS + 1)]
    assert max(map(abs, costs[:step])) < 1e-5  # nothing there yet; the block writes it afterwards
    assert min(costs[step:]) > 0.1
    assert costs[step] == max(costs)  # later steps are made of it, so the earliest erasure costs the most
    for layer, values in enumerate(every_token.values):
        gap = values[label == 1].mean(0) - values[label == 0].mean(0)
        if layer < step:
            assert float(gap.abs().max()) < 1e-5  # no linear trace for any eraser to take
            continue
        eraser = fit_leace(values, label)
        found = cost(model, layer, (eraser.left @ eraser.right).T.float(), eraser.mean.float())
        assert eraser.rank == 1 and found == pytest.approx(costs[layer], rel=0.02)
