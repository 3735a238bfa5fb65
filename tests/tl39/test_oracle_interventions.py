"""Edits, gradients and hooks over time: what they do to HookedTransformer 3.9.0 they do to our model."""

from typing import Any

import pytest
import torch

from tests.contract import (
    CAUSAL,
    EDITS,
    GRADIENT,
    SMALL,
    SPLIT,
    Case,
    attached,
    bound,
    case_for,
    difference,
    expected_hooks,
    gradients,
    names_and_options,
    relative,
    set_options,
)
from tests.stories import STORIES, same
from tests.tl39.oracle import tied_gradients, twin

NAMES = names_and_options()
IDS = ["".join((name, *(f" {option}" for option in options))) for name, options in NAMES]


@pytest.fixture(scope="module")
def pairs() -> dict[tuple[str, ...], tuple[Any, Any]]:
    """Our model and the oracle, by the options that are on."""
    made = {}
    for options in {options for _, options in NAMES}:
        model = case_for(options).model()
        oracle = twin(model)
        set_options(model, *options)
        set_options(oracle, *options)
        made[options] = (model, oracle)
    return made


@torch.no_grad()
@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize(("name", "options"), NAMES, ids=IDS)
def test_an_edit_at_every_hook_name_has_the_oracles_effect(
    pairs: dict[tuple[str, ...], tuple[Any, Any]], name: str, options: tuple[str, ...], edit: str
) -> None:
    model, oracle = pairs[options]
    tokens = case_for(options).tokens()
    if edit == "slice" and name.endswith("hook_scale"):
        return  # a scale of zero divides by zero, in both
    clean = model(tokens)
    ours, theirs = (m.run_with_hooks(tokens, fwd_hooks=[(name, EDITS[edit])]) for m in (model, oracle))
    assert bool(torch.isfinite(theirs).all())
    assert difference(ours, theirs) <= bound(theirs)
    assert difference(ours, clean) > CAUSAL
    assert attached(model) == {}
    assert torch.equal(model(tokens), clean)


@pytest.mark.parametrize(("name", "options"), NAMES, ids=IDS)
def test_gradients_under_an_edit_at_every_hook_name_agree(
    pairs: dict[tuple[str, ...], tuple[Any, Any]], name: str, options: tuple[str, ...]
) -> None:
    case = case_for(options)
    found = []
    for which in pairs[options]:
        with which.hooks(fwd_hooks=[(name, EDITS["returned"])]):
            found.append(gradients(which, case.tokens()))
    ours, theirs = found[0], tied_gradients(found[1], case.tied)
    worst = max(relative(ours[weight], theirs[weight]) for weight in ours)
    assert worst <= 3 * GRADIENT  # the edit itself is of the size of the activation, and so is its rounding


@pytest.mark.parametrize("kv_heads", [None, 2])
@pytest.mark.parametrize("tied", [False, True])
def test_cached_gradients_of_every_activation_agree(kv_heads: int | None, tied: bool) -> None:
    case = Case(n_ctx=16, batch=3, n_key_value_heads=kv_heads, tied=tied)
    model, tokens = case.model(), case.tokens()
    oracle = twin(model)
    ours = dict(model.run_with_cache(tokens, return_type="loss", incl_bwd=True)[1].items())
    theirs = dict(oracle.run_with_cache(tokens, return_type="loss", incl_bwd=True)[1].items())
    assert ours.keys() == theirs.keys() == {n + end for n in expected_hooks(case) for end in ("", "_grad")}
    # The oracle runs ln1 three times and keeps one of three gradients; ours runs once and has their sum.
    theirs |= _summed(oracle, tokens, [name for name in oracle.hook_dict if ".ln1." in name])
    worst = {name: relative(ours[name], theirs[name]) for name in ours if name.endswith("_grad")}
    assert max(worst.values()) <= GRADIENT, {name: gap for name, gap in worst.items() if gap > GRADIENT}
    assert attached(model) == {}


def _summed(oracle: Any, tokens: torch.Tensor, names: list[str]) -> dict[str, torch.Tensor]:
    """Gradients added over all the times that a hook point fires."""
    sums: dict[str, torch.Tensor] = {}

    def add(gradient: torch.Tensor, hook: Any) -> None:
        key = f"{hook.name}_grad"
        sums[key] = sums[key] + gradient if key in sums else gradient.clone()

    with oracle.hooks(bwd_hooks=[(name, add) for name in names]):
        oracle(tokens, return_type="loss").backward()
    return sums


@pytest.mark.parametrize("name", list(expected_hooks(SMALL)))
def test_a_backward_hook_at_every_name_has_the_oracles_effect(name: str) -> None:
    """Tripling the gradient that passes a point changes the weights' gradients as it does there."""
    model, tokens = SMALL.model(), SMALL.tokens()
    oracle = twin(model)
    clean = gradients(model, tokens)
    found = []
    for which in (model, oracle):
        with which.hooks(bwd_hooks=[(name, lambda gradient, hook: (3 * gradient,))]):
            found.append(gradients(which, tokens))
    ours, theirs = found[0], tied_gradients(found[1], SMALL.tied)
    assert max(relative(ours[weight], theirs[weight]) for weight in ours) <= GRADIENT
    assert max(relative(ours[weight], clean[weight]) for weight in ours) > CAUSAL


@pytest.mark.parametrize("case", [SMALL, SPLIT, Case(n_ctx=16, batch=1, tied=True)], ids=str)
@pytest.mark.parametrize("story", STORIES)
def test_hooks_over_time_tell_the_oracles_story(story: str, case: Case) -> None:
    model, tokens = case.model(), case.tokens()
    oracle = twin(model)
    ours, theirs = (STORIES[story](m, tokens) for m in (model, oracle))
    assert len(ours) == len(theirs)
    for step, (mine, reference) in enumerate(zip(ours, theirs, strict=True)):
        assert same(mine, reference, tolerance=1e-5), f"step {step} of the story"
    assert attached(model) == {}


@torch.no_grad()
def test_hooks_that_come_and_go_leave_the_fused_way_bit_for_bit() -> None:
    model, tokens = SMALL.model(), SMALL.tokens()
    before = model(tokens)
    oracle = twin(model)
    for which in (model, oracle):
        which.add_hook(lambda name: name.endswith("hook_pattern"), lambda x, hook: x * 0)
        which.add_hook("blocks.1.hook_mlp_out", lambda x, hook: x * 0, dir="fwd")
    assert difference(model(tokens), oracle(tokens)) <= bound(before)
    assert difference(model(tokens), before) > CAUSAL
    model.reset_hooks()
    assert attached(model) == {}
    assert torch.equal(model(tokens), before)
