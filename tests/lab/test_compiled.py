"""Hooks and torch.compile: a compiled step refuses hooks, and no graph compiled by hand passes over one in silence.

`eager` is torch.compile without code generation: it traces and guards as always, and runs the graph as it was traced.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lab.compiled import Compiled, HookOnCompiled
from lab.errors import LabError
from lab.model import GPT
from tests.contract import Case, attached, bound, difference, gradients, relative, shadowed

CASE = Case(n_layers=1, n_ctx=12, batch=2, n_key_value_heads=2, tied=True)
TOKENS = CASE.tokens()
POST, PATTERN, HEAD = "blocks.0.hook_resid_post", "blocks.0.attn.hook_pattern", "unembed.hook_out"


def nothing(tensor: Tensor, hook: Any) -> Tensor:
    return torch.zeros_like(tensor)


def rolled(tensor: Tensor, hook: Any = None) -> Tensor:
    return tensor.roll(1, -1)


@pytest.fixture
def model() -> GPT:
    """Of a dynamo that has compiled nothing yet: it keeps graphs by code, not by model, and gives up after eight."""
    torch._dynamo.reset()
    return CASE.model()


class Graphs:
    """A backend that counts how often torch compiled, and runs the graph as it is."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: Any, _: Any) -> Any:
        self.count += 1
        return graph


@pytest.fixture(scope="module")
def warm() -> tuple[GPT, Compiled, Graphs]:
    """A compiled step that all tests of refusals share, because compiling takes a second."""
    model, graphs = CASE.model(), Graphs()
    return model, model.compiled(backend=graphs), graphs


# --- ways to listen, each with what it names -----------------------------------------------------------------------------


@contextmanager
def lens_hook(model: GPT, name: str, dir: str = "fwd", **kwargs: Any) -> Iterator[None]:
    model.add_hook(name, nothing, dir=dir, **kwargs)
    yield
    model.reset_hooks(including_permanent=True)


@contextmanager
def torch_hook(module: nn.Module, register: str) -> Iterator[None]:
    handle = getattr(module, register)(lambda *_: None)
    yield
    handle.remove()


WAYS: dict[str, Callable[[GPT], Any]] = {
    POST: lambda m: lens_hook(m, POST),
    PATTERN: lambda m: lens_hook(m, PATTERN),
    HEAD: lambda m: lens_hook(m, HEAD, is_permanent=True),
    "hook_embed": lambda m: lens_hook(m, "hook_embed", dir="bwd"),
    "blocks.0.mlp": lambda m: torch_hook(m.blocks[0].mlp, "register_forward_hook"),
    "blocks.0": lambda m: torch_hook(m.blocks[0], "register_forward_pre_hook"),
    "blocks.0.attn": lambda m: torch_hook(m.blocks[0].attn, "register_full_backward_hook"),
    "the model": lambda m: torch_hook(m, "register_full_backward_pre_hook"),
    "blocks.0.mlp.hook_post": lambda m: shadowed(m.blocks[0].mlp.hook_post, nothing),
}


# --- the compiled step ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WAYS)
def test_a_hook_attached_before_the_first_compiled_call_raises(name: str) -> None:
    model, graphs = CASE.model(), Graphs()
    step = model.compiled(backend=graphs)
    with WAYS[name](model), pytest.raises(HookOnCompiled, match=f"^{name} has a hook") as refusal:
        step(TOKENS)
    assert isinstance(refusal.value, LabError)
    assert graphs.count == 0


@torch.no_grad()
@pytest.mark.parametrize("name", WAYS)
def test_a_hook_attached_after_the_first_compiled_call_raises_until_it_is_gone(
    warm: tuple[GPT, Compiled, Graphs], name: str
) -> None:
    model, step, graphs = warm
    clean = step(TOKENS)
    compilations = graphs.count
    with WAYS[name](model), pytest.raises(HookOnCompiled, match=f"^{name} has a hook"):
        step(TOKENS)
    assert difference(step(TOKENS), clean) == 0.0
    assert difference(model(TOKENS), clean) <= bound(clean)
    assert graphs.count == compilations, "the first graph is still the one"


@torch.no_grad()
def test_several_hooks_are_counted_in_the_refusal(warm: tuple[GPT, Compiled, Graphs]) -> None:
    model, step, _ = warm
    with model.hooks([(POST, nothing), (PATTERN, nothing)]), pytest.raises(HookOnCompiled, match=r"\(and 1 more\)"):
        step(TOKENS)
    assert step(TOKENS).shape == (*TOKENS.shape, CASE.d_vocab)


@torch.no_grad()
def test_the_model_itself_stays_eager_beside_its_compiled_step(warm: tuple[GPT, Compiled, Graphs]) -> None:
    model, step, _ = warm
    clean = step(TOKENS)
    _, cache = model.run_with_cache(TOKENS)
    assert difference(cache[HEAD], clean) <= bound(clean)
    edited = model.run_with_hooks(TOKENS, fwd_hooks=[(PATTERN, nothing)])
    assert difference(edited, clean) > 1e-3
    assert not attached(model)
    assert difference(step(TOKENS), clean) == 0.0


@pytest.mark.parametrize(("kv", "tied"), [(None, False), (2, True)])
def test_the_model_has_no_graph_breaks_and_its_gradients_are_the_eager_ones(kv: int | None, tied: bool) -> None:
    torch._dynamo.reset()
    model = Case(n_layers=1, n_ctx=12, batch=2, n_key_value_heads=kv, tied=tied).model()
    expected = gradients(model, TOKENS)
    model.compiled(backend="aot_eager", fullgraph=True)(TOKENS, return_type="loss").backward()
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert set(found) == set(expected)
    assert max(relative(found[name], expected[name]) for name in expected) <= 1e-6


def test_spelling_out_every_activation_has_no_graph_breaks_either(model: GPT) -> None:
    with model.unfused():
        explained = torch._dynamo.explain(model)(TOKENS, return_type="loss")
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)


def test_a_compiled_step_trains_the_models_own_weights(model: GPT) -> None:
    twin = CASE.model()
    for each, step in ((model, model.compiled(backend="aot_eager")), (twin, twin)):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            step(TOKENS, return_type="loss").backward()
            optimizer.step()
    assert difference(model(TOKENS), twin(TOKENS)) <= bound(twin(TOKENS))
    assert difference(model(TOKENS), CASE.model()(TOKENS)) > 1e-3


# --- torch.compile by hand -----------------------------------------------------------------------------------------------


@contextmanager
def edited(model: GPT, name: str, how: str) -> Iterator[None]:
    """`rolled` at a place, by TransformerLens, by torch, or by a shadowed forward."""
    if how == "lens":
        with model.hooks([(name, rolled)]):
            yield
    elif how == "torch":
        handle = model.mod_dict[name].register_forward_hook(lambda _, __, output: rolled(output))
        yield
        handle.remove()
    else:
        with shadowed(model.mod_dict[name], rolled):
            yield


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "how"),
    [(PATTERN, "lens"), ("blocks.0.mlp", "torch"), ("blocks.0.mlp.hook_post", "shadow")],
)
def test_a_hook_is_no_silent_no_op_in_a_model_compiled_by_hand(model: GPT, name: str, how: str) -> None:
    compiled: Any = torch.compile(model, backend="eager")
    clean = compiled(TOKENS)
    with edited(model, name, how):
        assert difference(compiled(TOKENS), model(TOKENS)) <= bound(clean)
        assert difference(compiled(TOKENS), clean) > 1e-3
    assert difference(compiled(TOKENS), clean) == 0.0


@torch.no_grad()
def test_more_sets_of_hooks_than_torch_compiles_for_still_fire(model: GPT) -> None:
    compiled: Any = torch.compile(model, backend="eager")
    with torch._dynamo.config.patch(recompile_limit=2):
        clean = compiled(TOKENS)
        for places in range(1, 5):
            with model.hooks([(POST, lambda x, hook, places=places: x.roll(places, -1))]):
                assert difference(compiled(TOKENS), model(TOKENS)) <= bound(clean)
                assert difference(compiled(TOKENS), clean) > 1e-3
        assert difference(compiled(TOKENS), clean) == 0.0


def test_a_backward_hook_fires_in_a_model_compiled_by_hand(model: GPT) -> None:
    compiled: Any = torch.compile(model, backend="eager")
    compiled(TOKENS, return_type="loss").backward()
    seen: list[Tensor] = []
    with model.hooks(bwd_hooks=[(POST, lambda gradient, hook: seen.append(gradient.clone()))]):
        compiled(TOKENS, return_type="loss").backward()
        model(TOKENS, return_type="loss").backward()
    assert len(seen) == 2
    assert difference(seen[0], seen[1]) <= 1e-6


@torch.no_grad()
def test_a_model_compiled_in_place_still_fills_its_cache(model: GPT) -> None:
    logits, expected = model.run_with_cache(TOKENS)
    model.compile(backend="eager")
    model(TOKENS)  # a graph without hooks is there
    again, cache = model.run_with_cache(TOKENS)
    assert set(cache) == set(expected)
    assert max(difference(cache[name], expected[name]) for name in expected) <= bound(logits)
    assert difference(again, logits) <= bound(logits)


# --- with code generation ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_gives_the_same_gradients_and_refuses_hooks(model: GPT) -> None:
    expected, clean = gradients(model, TOKENS), model(TOKENS)
    step: Compiled = model.compiled(fullgraph=True)
    step(TOKENS, return_type="loss").backward()
    found = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert max(relative(found[name], expected[name]) for name in expected) <= 1e-5
    with model.hooks([(POST, nothing)]), pytest.raises(HookOnCompiled):
        step(TOKENS)
    by_hand: Any = torch.compile(model)
    assert difference(by_hand(TOKENS), clean) <= bound(clean)
    with model.hooks([(POST, nothing)]):
        assert difference(by_hand(TOKENS), model(TOKENS)) <= bound(clean)
    assert difference(step(TOKENS), clean) <= bound(clean)
