"""One step of training: the schedule, the optimizer's state, and gradients that do not depend on how a batch is cut."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lab.config import RunConfig
from lab.corpus import Batch
from lab.model import GPT, GPTConfig
from lab.sections import OptimizerConfig
from train.attachments import is_due
from train.generators import derived_generator, generators_state, load_generators_state, untouched_generators
from train.loop import accumulate
from train.optimizer import OptimizerStateMissing, build_optimizer, load_optimizer_tensors, optimizer_tensors
from train.schedule import learning_rate
from train.session import Session, start

Config = Callable[..., RunConfig]
SHAPE = GPTConfig(n_layers=2, d_model=32, n_heads=4, n_ctx=16, d_vocab=64)


@given(
    step=st.integers(0, 500),
    horizon=st.integers(1, 400),
    warmup=st.integers(0, 100),
    decay=st.sampled_from(["cosine", "linear", "none"]),
)
def test_the_rate_stays_between_its_bounds_and_rises_only_while_warming_up(
    step: int, horizon: int, warmup: int, decay: Any
) -> None:
    config = OptimizerConfig(lr=1.0, warmup_steps=min(warmup, horizon), decay=decay, final_lr_share=0.1)
    here, there = learning_rate(step, horizon, config), learning_rate(step + 1, horizon, config)
    assert 0 < here <= 1
    assert learning_rate(step, horizon, config, peak=3e-2) == pytest.approx(3e-2 * here)  # the same shape from any peak
    if step >= config.warmup_steps:
        assert there <= here and here >= 0.1 - 1e-12
    if decay != "none" and config.warmup_steps < horizon:
        assert learning_rate(horizon, horizon, config) == pytest.approx(0.1)


def test_matrices_decay_and_gains_do_not() -> None:
    model = GPT(SHAPE)
    decay, none = build_optimizer(model, OptimizerConfig(weight_decay=0.3)).param_groups
    assert (decay["weight_decay"], none["weight_decay"]) == (0.3, 0.0)
    assert {p.ndim for p in none["params"]} == {1}
    assert len(decay["params"]) + len(none["params"]) == len(list(model.parameters()))


def test_optimizer_state_survives_by_name_and_a_foreign_one_is_refused() -> None:
    def stepped(model: GPT, optimizer: torch.optim.Optimizer) -> None:
        torch.autograd.backward(model(torch.arange(16)[None], return_type="loss"))
        optimizer.step()
        optimizer.zero_grad()

    one, two = GPT(SHAPE), GPT(SHAPE)
    first, second = (build_optimizer(model, OptimizerConfig()) for model in (one, two))
    stepped(one, first)
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(first, one).items()}
    two.load_state_dict(one.state_dict())
    load_optimizer_tensors(second, two, saved)
    stepped(one, first)
    stepped(two, second)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    other = GPT(GPTConfig(n_layers=3, d_model=32, n_heads=4, n_ctx=16, d_vocab=64))
    with pytest.raises(OptimizerStateMissing, match=r"blocks\.2"):
        load_optimizer_tensors(build_optimizer(other, OptimizerConfig()), other, saved)


@pytest.fixture
def session(tiny_config: Config, tmp_path: Path) -> Any:
    with start(tiny_config("probing.every=0", "evaluation.every=0"), tmp_path, "step") as session:
        yield session


def gradients(session: Session, batches: list[Batch]) -> tuple[float, list[torch.Tensor]]:
    session.model.zero_grad(set_to_none=True)
    loss, _ = accumulate(session, batches)
    return loss, [p.grad.clone() for p in session.model.parameters() if p.grad is not None]


def test_gradients_do_not_depend_on_how_a_batch_is_cut_into_micro_batches(session: Session) -> None:
    whole = session.corpus.next_batch(0)
    mask = whole.mask.clone()
    mask[:2] = False  # a chat whose masked turns fill two rows
    mask[2, 5:] = False
    whole = Batch(whole.tokens, mask, whole.bytes)
    loss, expected = gradients(session, [whole])
    parts = [Batch(whole.tokens[i : i + 2], mask[i : i + 2], 0) for i in range(0, len(mask), 2)]
    assert not parts[0].mask.any()  # one micro-batch has nothing to learn from: 0/0 if it were averaged by itself
    cut_loss, found = gradients(session, parts)
    assert cut_loss == pytest.approx(loss, rel=1e-5)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_a_batch_without_any_target_gives_zero_and_no_nan(session: Session) -> None:
    batch = session.corpus.next_batch(0)
    loss, grads = gradients(session, [Batch(batch.tokens, torch.zeros_like(batch.mask), 0)])
    assert loss == 0 and all(torch.equal(g, torch.zeros_like(g)) for g in grads)


def test_visits_are_due_at_regular_and_at_log_spaced_steps() -> None:
    class Rider:
        name, every, log_spaced = "rider", 50, True

    rider: Any = Rider()
    assert [s for s in range(201) if is_due(rider, s, 190)] == [0, 1, 2, 4, 8, 16, 32, 50, 64, 100, 128, 150, 190, 200]
    rider.log_spaced = False
    assert [s for s in range(201) if is_due(rider, s, 190)] == [0, 50, 100, 150, 190, 200]
    rider.every = 0
    assert not any(is_due(rider, s, 190) for s in range(201))


def test_generators_survive_json_and_nothing_drawn_inside_is_noticed() -> None:
    import json
    import random

    import numpy as np

    def draw() -> list[float]:
        return [random.random(), float(np.random.rand()), float(torch.rand(1))]

    state = json.loads(json.dumps(generators_state()))
    first = draw()
    load_generators_state(state)
    assert draw() == first
    load_generators_state(state)
    with untouched_generators():
        draw()
    assert draw() == first


def test_a_derived_generator_depends_on_seed_name_and_step_alone() -> None:
    def drawn(seed: int, name: str, step: int) -> float:
        return float(torch.rand(1, generator=derived_generator(seed, name, step)))

    assert drawn(1, "a", 2) == drawn(1, "a", 2)
    assert len({drawn(*key) for key in ((1, "a", 2), (2, "a", 2), (1, "b", 2), (1, "a", 3))}) == 4
