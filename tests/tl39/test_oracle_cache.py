"""Every method of 3.9.0's ActivationCache gives the same on our model's cache as on HookedTransformer's."""

import pytest
import torch

from tests.contract import (
    SMALL,
    SPLIT,
    Case,
    disagreements,
)
from tests.stories import CACHE_METHODS, same
from tests.tl39.oracle import twin

CASES = [SMALL, SPLIT, Case(n_ctx=16, batch=1, tied=True, n_key_value_heads=1), Case(n_ctx=9, random_gains=False)]


@torch.no_grad()
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("method", CACHE_METHODS)
def test_a_cache_method_agrees_bit_for_bit(method: str, case: Case) -> None:
    model, tokens = case.model(), case.tokens()
    ours = CACHE_METHODS[method](model.run_with_cache(tokens)[1], tokens)
    theirs = CACHE_METHODS[method](twin(model).run_with_cache(tokens)[1], tokens)
    assert same(ours, theirs)


def test_every_public_method_of_the_cache_is_called_here() -> None:
    """A method that a later 3.9 adds, or that is forgotten here, shows up as a name."""
    cache_class = type(SMALL.model().run_with_cache(SMALL.tokens())[1])
    public = {name for name in vars(cache_class) if not name.startswith("_") and callable(getattr(cache_class, name))}
    called = {method.split()[0] for method in CACHE_METHODS}
    # keys, values and items are in "iteration"; removing the batch axis has the test below
    state_spaces = {"compute_ssm_effective_attention", "compute_ssm_state", "ssm_layers"}  # of Mamba, not of attention
    assert public - called <= {"keys", "values", "items", "remove_batch_dim"} | state_spaces


@torch.no_grad()
def test_a_cache_without_batch_axis_agrees() -> None:
    case = Case(n_ctx=12, batch=1, n_key_value_heads=2)
    model, tokens = case.model(), case.tokens()
    caches = [m.run_with_cache(tokens)[1].remove_batch_dim() for m in (model, twin(model))]
    assert disagreements(caches[0], caches[1]) == {}
    for method in ("accumulated_resid", "decompose_resid", "stack_head_results", "stack_neuron_results"):
        assert same(*(getattr(cache, method)(layer=-1, apply_ln=True) for cache in caches)), method
    direct = [m.run_with_cache(tokens, remove_batch_dim=True)[1] for m in (model, twin(model))]
    assert same(*(cache.accumulated_resid(apply_ln=True, incl_mid=True) for cache in direct))


@torch.no_grad()
def test_head_results_computed_in_the_pass_and_afterwards_agree() -> None:
    model, tokens = SMALL.model(), SMALL.tokens()
    oracle = twin(model)
    for which in (model, oracle):
        which.set_use_attn_result(True)
    caches = [m.run_with_cache(tokens)[1] for m in (model, oracle)]
    assert same(*(cache.stack_head_results(incl_remainder=True) for cache in caches))
    assert same(*(cache["result", 1] for cache in caches))
