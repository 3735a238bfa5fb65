"""Blocks that run again in the backward pass: the same gradients and the same hooks, less memory."""

from typing import Any

import pytest
import torch
from torch import Tensor

from lab.model import GPT, GPTConfig
from tests.contract import Case, gradients
from tests.live_bytes import LiveBytes

CASE = Case(n_layers=3, n_ctx=12, batch=2, n_key_value_heads=2, tied=True)
TOKENS = CASE.tokens()
STREAM = [f"blocks.{layer}.hook_resid_{end}" for layer in range(3) for end in ("pre", "post")]


@pytest.mark.parametrize(
    "name", [None, "blocks.1.hook_resid_post", "blocks.1.hook_attn_out", "blocks.1.attn.hook_pattern"]
)
def test_gradients_are_the_same_bits_with_and_without_an_edit(name: str | None) -> None:
    def edited(x: Tensor, hook: Any) -> Tensor:
        return x * 1.5

    model = CASE.model().train()
    with model.hooks([(name, edited)] if name else []):
        expected = gradients(model, TOKENS)
        model.checkpoint_blocks(True)
        found = gradients(model, TOKENS)
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    "names", [STREAM, ["blocks.0.hook_mlp_out"], ["blocks.2.mlp.hook_post", "blocks.0.hook_resid_mid"]]
)
def test_every_hook_fires_once_a_step_forwards_and_backwards(names: list[str]) -> None:
    model = CASE.model().train()
    model.checkpoint_blocks(True)
    seen: list[str] = []

    def note(x: Tensor, hook: Any) -> None:
        seen.append(f"{hook.name}")

    with model.hooks([(name, note) for name in names], [(name, note) for name in names]):
        model(TOKENS, return_type="loss").backward()
    assert sorted(seen) == sorted(names * 2)


def test_a_block_that_nobody_listens_to_is_run_again_and_one_that_is_listened_to_is_not() -> None:
    model = CASE.model().train()
    model.checkpoint_blocks(True)
    again = [count(model, index) for index in range(3)]
    assert again == [2, 2, 2]
    with model.hooks([("blocks.1.attn.hook_z", lambda x, hook: None)]):
        assert [count(model, index) for index in range(3)] == [2, 1, 2]
    with torch.no_grad():
        assert count(model, 0, backward=False) == 1


def count(model: GPT, index: int, backward: bool = True) -> int:
    """How often a block's MLP runs in a step; counted beside the module, where no hook is."""
    calls, mlp = [0], model.blocks[index].mlp
    original = type(mlp).forward

    def counted(self: Any, *args: Any) -> Tensor:
        calls[0] += self is mlp
        return original(self, *args)

    type(mlp).forward = counted
    try:
        loss = model(TOKENS, return_type="loss")
        if backward:
            loss.backward()
    finally:
        type(mlp).forward = original
    return calls[0]


def test_live_bytes_fall_to_one_blocks_worth_and_the_stream_before_each() -> None:
    peaks = {}
    for layers in (2, 8):
        model = GPT(GPTConfig(n_layers=layers, d_model=32, n_heads=2, n_ctx=128, d_vocab=64)).train()
        tokens = torch.randint(64, (8, 128))
        for again in (False, True):
            model.checkpoint_blocks(again)
            model.zero_grad(set_to_none=True)
            with LiveBytes() as live:
                model(tokens, return_type="loss").backward()
            peaks[layers, again] = live.peak
    assert peaks[8, True] < 0.4 * peaks[8, False]
    stream = 8 * 128 * 32 * 4
    weights = sum(p.nbytes for p in model.blocks.parameters()) * 6 // 8  # gradients of six more blocks
    assert peaks[8, True] - peaks[2, True] < 6 * stream * 1.5 + weights


def test_it_has_no_graph_breaks() -> None:
    torch._dynamo.reset()
    model = CASE.model().train()
    expected = gradients(model, TOKENS)
    model.checkpoint_blocks(True)
    model.zero_grad(set_to_none=True)
    model.compiled(backend="aot_eager", fullgraph=True)(TOKENS, return_type="loss").backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None and torch.allclose(weight.grad, expected[name], atol=1e-6, rtol=1e-5)
