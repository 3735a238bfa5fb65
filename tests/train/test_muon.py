"""Muon: what it makes of a gradient, by heads as by whole matrices, and that runs hold, stop and go on under it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from einops import rearrange
from torch import nn

import train.muon
from lab.concepts import Concept
from lab.config import RunConfig
from lab.model import GPT, GPTConfig
from lab.run import Run
from lab.sections import OptimizerConfig
from tests.contract import relative
from tests.train.freezing import (
    PARENT_STEP,
    SETTINGS,
    documents,
    drift,
    drifts,
    parent_run,
    request,
    resume_to,
    written_drift,
)
from train.branch import branch, go_on
from train.muon import LENGTH, Muon, orthogonal
from train.optimizer import OptimizerStateMissing, build_optimizer, load_optimizer_tensors, moments, optimizer_tensors

SHAPE = GPTConfig(n_layers=2, d_model=32, n_heads=4, n_ctx=16, d_vocab=64, n_key_value_heads=2)
CONFIG = OptimizerConfig(kind="muon", lr=4e-3, muon_lr=2e-2, weight_decay=0.1)


def stepped(model: GPT, optimizer: torch.optim.Optimizer) -> None:
    torch.autograd.backward(model(torch.arange(16)[None], return_type="loss"))
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 16, 48), (2, 48, 16)])
def test_singular_values_become_about_one_and_singular_vectors_stay(
    shape: tuple[int, ...], bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.muon, "multiplies_bfloat16", lambda device: bfloat16)
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    u, values, vh = torch.linalg.svd(matrices, full_matrices=False)
    found = u.mT @ orthogonal(matrices) @ vh.mT
    diagonal = found.diagonal(dim1=-2, dim2=-1)
    large = values > 0.05 * values[:, :1]
    assert float(diagonal[large].min()) > 0.6 and float(diagonal.max()) < 1.25
    assert float((found - torch.diag_embed(diagonal)).abs().max()) < (0.05 if bfloat16 else 1e-3)


def test_on_a_matrix_it_is_torchs_own_with_updates_as_long_as_adamws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.muon, "multiplies_bfloat16", lambda device: True)  # as torch's does everywhere
    ours, theirs = (nn.Parameter(torch.randn(24, 40, generator=torch.Generator().manual_seed(0))) for _ in range(2))
    options: dict[str, Any] = {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.3}
    one = Muon([ours], [], **options)
    other = torch.optim.Muon([theirs], adjust_lr_fn="match_rms_adamw", **options)
    for seed in range(4):
        gradient = torch.randn(24, 40, generator=torch.Generator().manual_seed(seed))
        for parameter, optimizer in ((ours, one), (theirs, other)):
            parameter.grad = gradient.clone()
            optimizer.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "view"),
    [
        ("attn.W_Q", "head d_model k -> d_model (head k)"),
        ("attn._W_K", "head d_model k -> d_model (head k)"),
        ("attn.W_O", "head k d_model -> (head k) d_model"),
        ("mlp.W_out", "d_mlp d_model -> d_mlp d_model"),
    ],
)
def test_heads_are_seen_as_one_matrix_between_the_stream_and_all_of_them(
    name: str, view: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One short text: half of the directions are empty, and in bfloat16 they would be filled with noise.
    monkeypatch.setattr(train.muon, "multiplies_bfloat16", lambda device: False)
    model = GPT(SHAPE)
    optimizer = build_optimizer(model, CONFIG.model_copy(update={"weight_decay": 0.0}))
    weight = dict(model.named_parameters())[f"blocks.0.{name}"]
    before = rearrange(weight.detach().clone(), view)
    torch.autograd.backward(model(torch.arange(16)[None], return_type="loss"))
    assert weight.grad is not None
    direction = orthogonal(rearrange(weight.grad, view)[None])[0]
    optimizer.step()
    moved = rearrange(weight.detach(), view) - before
    assert relative(moved, -0.02 * LENGTH * max(moved.shape) ** 0.5 * direction) < 1e-3


def test_muon_has_the_matrices_of_the_blocks_and_adamw_all_else_each_with_its_peak() -> None:
    model = GPT(SHAPE)
    optimizer = build_optimizer(model, CONFIG)
    names = {parameter: name for name, parameter in model.named_parameters()}
    decaying, gains, matrices = ([names[p] for p in group["params"]] for group in optimizer.param_groups)
    assert set(decaying) == {"embed.W_E", "unembed.W_U"}
    assert all(name.endswith(".w") for name in gains) and len(gains) == 5
    assert all(name.startswith("blocks.") for name in matrices) and len(matrices) == 2 * 7
    assert [group["peak"] for group in optimizer.param_groups] == [4e-3, 4e-3, 2e-2]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.1, 0.0, 0.1]


def test_state_survives_by_name_and_that_of_the_other_kind_is_refused() -> None:
    one, two = GPT(SHAPE), GPT(SHAPE)
    first, second = build_optimizer(one, CONFIG), build_optimizer(two, CONFIG)
    assert not optimizer_tensors(first, one)
    stepped(one, first)
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(first, one).items()}
    assert set(moments(first).values()) == {("exp_avg",), ("exp_avg", "exp_avg_sq", "step")}
    assert "exp_avg_sq/blocks.0.mlp.W_in" not in saved and "exp_avg_sq/embed.W_E" in saved
    two.load_state_dict(one.state_dict())
    load_optimizer_tensors(second, two, saved)
    stepped(one, first)
    stepped(two, second)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    adamw = build_optimizer(two, OptimizerConfig())
    with pytest.raises(OptimizerStateMissing, match=r"blocks\.0.*optimizer\.kind"):
        load_optimizer_tensors(adamw, two, saved)
    two.load_state_dict(GPT(SHAPE).state_dict())
    stepped(two, adamw)
    with pytest.raises(OptimizerStateMissing, match=r"exp_avg_sq.*blocks\.0.*optimizer\.kind"):
        load_optimizer_tensors(second, two, optimizer_tensors(adamw, two))


def test_a_matrix_without_a_gradient_stays_as_it_is() -> None:
    model = GPT(SHAPE)
    optimizer = build_optimizer(model, CONFIG)
    stepped(model, optimizer)
    still = model.blocks[0].mlp.W_in
    before, momentum = still.detach().clone(), optimizer.state[still]["exp_avg"].clone()
    torch.autograd.backward(model(torch.arange(16)[None], return_type="loss"))
    still.grad = None
    optimizer.step()
    assert torch.equal(still, before) and torch.equal(optimizer.state[still]["exp_avg"], momentum)


# --- in runs -------------------------------------------------------------------------------------------------------------

STEPS = 16


@pytest.fixture(scope="module")
def parent(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return parent_run(tiny_config(*SETTINGS, "optimizer.kind=muon"), tmp_path_factory.mktemp("runs"))


@pytest.mark.parametrize("steps", [STEPS, pytest.param(520, marks=pytest.mark.slow)])
def test_write_holds_in_the_weights_though_muon_mixes_directions_also_after_a_stop(parent: Run, steps: int) -> None:
    run = branch(parent, f"written-{steps}", steps=steps, freeze=request("top-2", "write"))
    resume_to(run, PARENT_STEP + 7)
    assert resume_to(run).reason == "finished"
    concept = Concept.load(parent, "top-2")
    assert written_drift(parent.model(), run.model(), 2, concept.basis) <= 1e-6
    other = torch.linalg.qr(torch.cat([concept.basis, torch.randn(64, 2)], 1)).Q[:, 2:]
    assert written_drift(parent.model(), run.model(), 2, other) > 1e-2  # the rest of the stream is free


def test_a_pin_holds_exactly_and_an_anchor_near(parent: Run) -> None:
    concept, rows = Concept.load(parent, "top-1"), documents(parent)
    found = {}
    for mode in ("pin", "anchor", "unfrozen"):
        frozen = () if mode == "unfrozen" else request("top-1", mode, **({"target": 0.05} if mode == "anchor" else {}))
        run = branch(parent, mode, steps=STEPS, freeze=frozen)
        assert go_on(run).reason == "finished"
        found[mode] = run
    assert max(drifts(parent.model(), found["pin"].model(), concept, rows)) <= 1e-5
    held, free = (drift(parent.model(), found[mode].model(), concept, rows) for mode in ("anchor", "unfrozen"))
    assert held < free / 1.5, f"NRMSE {held:.3f} anchored, {free:.3f} free"


def test_lower_keeps_everything_below_as_it_was_its_momentum_too_and_can_be_resumed(
    parent: Run, tmp_path: Path
) -> None:
    from lab.checkpoint import load

    run = branch(parent, "lowered", steps=STEPS, freeze=request("top-1", "lower"))
    resume_to(run, PARENT_STEP + 5)
    assert resume_to(run).reason == "finished"
    before, after = (load(each.checkpoint_info().path) for each in (parent, run))
    below = [name for name in before.weights if name == "embed.W_E" or name.startswith("blocks.0.")]
    assert all(torch.equal(before.weights[name], after.weights[name]) for name in below)
    kept = [name for name in before.optimizer if name.split("/")[1] in below]
    assert kept and all(torch.equal(before.optimizer[name], after.optimizer[name]) for name in kept)
    assert not torch.equal(before.weights["blocks.1.mlp.W_out"], after.weights["blocks.1.mlp.W_out"])
