"""The hook contract in this environment: no hook is a silent no-op, and listening costs no more than float noise.

What the same names and numbers are against HookedTransformer 3.9.0 is proven in `tests/tl39/`, over the same shapes.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from lab.errors import LabError
from lab.model import GPT, KeyValueCache
from tests.contract import (
    CASES,
    CAUSAL,
    EDITS,
    GRADIENT,
    OPT_IN,
    SMALL,
    SPLIT,
    Case,
    add_noise,
    attached,
    bound,
    case_for,
    difference,
    disagreements,
    expected_hooks,
    gradients,
    names_and_options,
    noise,
    relative,
    set_options,
    shadowed,
    weights,
)
from tests.stories import STORIES, same

NAMES = names_and_options()
IDS = ["".join((name, *(f" {option}" for option in options))) for name, options in NAMES]
DEFAULT_NAMES = [name for name, options in NAMES if not options]
REFUSED = (LabError, AssertionError)
STREAM = ("hook_resid_pre", "hook_attn_out", "hook_resid_mid", "hook_mlp_out", "hook_resid_post")

every_name = pytest.mark.parametrize(("name", "options"), NAMES, ids=IDS)
every_default_name = pytest.mark.parametrize("name", DEFAULT_NAMES)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def models() -> dict[tuple[str, ...], GPT]:
    """One model for each set of options; a test that leaves a hook behind fails the next one."""
    made = {}
    for options in {options for _, options in NAMES}:
        made[options] = case_for(options).model()
        set_options(made[options], *options)
    return made


# --- no hook is a silent no-op ------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("edit", EDITS)
@every_name
def test_an_edit_at_every_hook_name_changes_finite_logits(
    models: dict[tuple[str, ...], GPT], name: str, options: tuple[str, ...], edit: str
) -> None:
    if edit == "slice" and name.endswith("hook_scale"):
        return  # a scale of zero divides by zero
    model, tokens = models[options], case_for(options).tokens()
    clean = model(tokens)
    edited = model.run_with_hooks(tokens, fwd_hooks=[(name, EDITS[edit])])
    assert bool(torch.isfinite(edited).all())
    assert difference(edited, clean) > CAUSAL
    assert attached(model) == {}
    assert torch.equal(model(tokens), clean), "something of the hook is left"


@torch.no_grad()
@every_name
def test_an_edit_has_the_same_effect_on_the_fused_and_the_unfused_way(
    models: dict[tuple[str, ...], GPT], name: str, options: tuple[str, ...]
) -> None:
    model, tokens = models[options], case_for(options).tokens()
    edited = model.run_with_hooks(tokens, fwd_hooks=[(name, add_noise)])
    with model.unfused():
        reference = model.run_with_hooks(tokens, fwd_hooks=[(name, add_noise)])
    assert difference(edited, reference) <= bound(reference)


@torch.no_grad()
@every_name
def test_a_raw_torch_hook_is_felt_like_one_of_transformer_lens(
    models: dict[tuple[str, ...], GPT], name: str, options: tuple[str, ...]
) -> None:
    model, tokens = models[options], case_for(options).tokens()
    point = model.hook_dict[name]
    expected = model.run_with_hooks(tokens, fwd_hooks=[(name, add_noise)])
    handles = (
        lambda: point.register_forward_hook(lambda module, arguments, output: output + noise(output)),
        lambda: point.register_forward_pre_hook(lambda module, arguments: (arguments[0] + noise(arguments[0]),)),
    )
    for register in handles:
        handle = register()
        assert difference(model(tokens), expected) <= bound(expected)
        handle.remove()
    assert attached(model) == {}


@torch.no_grad()
@every_name
def test_a_shadowed_forward_as_nnsight_leaves_it_is_felt(
    models: dict[tuple[str, ...], GPT], name: str, options: tuple[str, ...]
) -> None:
    model, tokens = models[options], case_for(options).tokens()
    expected = model.run_with_hooks(tokens, fwd_hooks=[(name, add_noise)])
    with shadowed(model.hook_dict[name], add_noise):
        assert difference(model(tokens), expected) <= bound(expected)
    assert attached(model) == {}


@every_name
def test_a_backward_hook_at_every_name_sees_and_changes_the_gradient(
    models: dict[tuple[str, ...], GPT], name: str, options: tuple[str, ...]
) -> None:
    model, tokens = models[options], case_for(options).tokens()
    clean = gradients(model, tokens)
    seen: list[torch.Tensor] = []

    def triple(gradient: torch.Tensor, hook: Any) -> tuple[torch.Tensor]:
        seen.append(gradient)
        return (3 * gradient,)

    with model.hooks(bwd_hooks=[(name, triple)]):
        changed = gradients(model, tokens)
    assert seen
    assert float(seen[0].abs().max()) > 0
    assert max(relative(changed[weight], clean[weight]) for weight in clean) > CAUSAL
    assert attached(model) == {}


@every_default_name
def test_raw_backward_hooks_see_the_gradient_that_transformer_lens_caches(name: str) -> None:
    model, tokens = SMALL.model(), SMALL.tokens()
    _, cache = model.run_with_cache(tokens, return_type="loss", incl_bwd=True, names_filter=name)
    model.zero_grad()
    point = model.hook_dict[name]
    seen: list[torch.Tensor] = []
    registrations = (
        lambda: point.register_full_backward_hook(lambda module, inputs, outputs: seen.append(outputs[0].clone())),
        lambda: point.register_full_backward_pre_hook(lambda module, outputs: seen.append(outputs[0].clone())),
    )
    for register in registrations:  # one at a time: each alone has to be heard
        handle = register()
        model(tokens, return_type="loss").backward()
        handle.remove()
        assert relative(seen.pop(), cache[f"{name}_grad"]) <= GRADIENT
    assert seen == []


CONTAINERS = (
    "embed",
    "blocks.0",
    "blocks.0.ln1",
    "blocks.0.attn",
    "blocks.0.ln2",
    "blocks.1.mlp",
    "ln_final",
    "unembed",
)


@torch.no_grad()
@pytest.mark.parametrize("container", CONTAINERS)
def test_a_torch_hook_on_a_whole_part_fires(container: str) -> None:
    """A part is a module like any other; HookedTransformer fires these, so code that is moved here relies on it."""
    model, tokens = SMALL.model(), SMALL.tokens()
    clean = model(tokens)
    fired = []

    def edit(module: Any, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        fired.append(module)
        return output + noise(output)

    handle = model.get_submodule(container).register_forward_hook(edit)
    edited = model(tokens)
    handle.remove()
    assert len(fired) == 1
    assert difference(edited, clean) > CAUSAL
    assert torch.equal(model(tokens), clean)


DEAF = [(option, f"blocks.1.{name}") for option, names in OPT_IN.items() for name in names]
DEAF.append(("use_hook_tokens", "hook_tokens"))


@pytest.mark.parametrize(("option", "name"), DEAF)
def test_a_hook_on_a_point_that_is_off_is_refused_in_every_way_it_can_be_added(option: str, name: str) -> None:
    model, tokens = SPLIT.model(), SPLIT.tokens()
    look = lambda x, hook: None  # noqa: E731
    ways = (
        lambda: model.add_hook(name, look),
        lambda: model.add_perma_hook(name, look),
        lambda: model.run_with_hooks(tokens, fwd_hooks=[(name, look)]),
        lambda: model.run_with_hooks(tokens, bwd_hooks=[(name, look)], reset_hooks_end=False),
        lambda: model.run_with_cache(tokens, names_filter=name),
        lambda: model.run_with_cache(tokens, names_filter=["hook_embed", name]),
    )
    for way in ways:
        with pytest.raises(REFUSED, match=option):
            way()
        model.reset_hooks(including_permanent=True)
        assert attached(model) == {}
    point = model.hook_dict[name]
    registrations = (
        lambda: point.register_forward_hook(lambda *_: None),
        lambda: point.register_forward_pre_hook(lambda *_: None),
        lambda: point.register_full_backward_hook(lambda *_: None),
        lambda: point.register_full_backward_pre_hook(lambda *_: None),
    )
    model.add_caching_hooks(name)
    with pytest.raises(REFUSED, match=option):
        model(tokens)
    model.reset_hooks()
    for register in registrations:
        handle = register()
        with pytest.raises(REFUSED, match=option):
            model(tokens)
        handle.remove()
    set_options(model, option)
    assert name in model.run_with_cache(tokens, names_filter=name)[1]


@torch.no_grad()
def test_a_filter_that_merely_matches_points_that_are_off_leaves_them_out() -> None:
    model, tokens = SMALL.model(), SMALL.tokens()
    for names_filter in (None, lambda name: True, lambda name: "hook" in name):
        assert model.run_with_cache(tokens, names_filter=names_filter)[1].keys() == expected_hooks(SMALL).keys()
    fired: list[str] = []
    model.run_with_hooks(tokens, fwd_hooks=[(lambda name: True, lambda x, hook: fired.append(hook.name))])
    assert sorted(fired) == sorted(expected_hooks(SMALL))
    assert attached(model) == {}


# --- what is cached -----------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("case", CASES, ids=str)
def test_names_and_shapes_are_the_contract_s(case: Case) -> None:
    logits, cache = case.model().run_with_cache(case.tokens())
    assert {name: tuple(value.shape) for name, value in cache.items()} == expected_hooks(case)
    assert logits.shape == (case.batch, case.length, case.d_vocab)


@torch.no_grad()
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_whole_cache_is_that_of_the_forced_unfused_way(case: Case) -> None:
    model, tokens = case.model(), case.tokens()
    logits, cache = model.run_with_cache(tokens)
    with model.unfused():
        reference, unfused = model.run_with_cache(tokens)
        assert torch.equal(model(tokens), reference)
    assert disagreements(cache, unfused) == {}
    assert torch.equal(logits, reference)
    assert difference(model(tokens), reference) <= bound(reference)


@torch.no_grad()
@every_name
def test_an_activation_cached_alone_is_the_unfused_one_within_the_bound(
    models: dict[tuple[str, ...], GPT], name: str, options: tuple[str, ...]
) -> None:
    model, tokens = models[options], case_for(options).tokens()
    alone = model.run_with_cache(tokens, names_filter=name)[1]
    with model.unfused():
        reference = model.run_with_cache(tokens, names_filter=name)[1]
    assert disagreements(alone, reference, tolerance=1e-5) == {}


@torch.no_grad()
@pytest.mark.parametrize("case", CASES, ids=str)
def test_listening_to_the_residual_stream_changes_no_bit(case: Case) -> None:
    model, tokens = case.model(), case.tokens()
    before = model(tokens)
    logits, _ = model.run_with_cache(tokens, names_filter=lambda name: name.endswith((*STREAM, "hook_embed")))
    assert torch.equal(logits, before)


@torch.no_grad()
def test_only_the_block_that_is_listened_to_leaves_the_fused_way() -> None:
    """A hook inside block 1 must not change what block 0 computes, bit for bit."""
    model, tokens = SMALL.model(), SMALL.tokens()
    alone = model.run_with_cache(tokens, names_filter="blocks.0.hook_resid_post")[1]["blocks.0.hook_resid_post"]
    names = ["blocks.0.hook_resid_post", "blocks.1.attn.hook_pattern"]
    both = model.run_with_cache(tokens, names_filter=names)[1]["blocks.0.hook_resid_post"]
    assert torch.equal(alone, both)


@pytest.mark.parametrize("case", [case for case in CASES if case.length > 1], ids=str)
def test_fused_and_unfused_gradients_agree(case: Case) -> None:
    model, tokens = case.model(), case.tokens()
    fused = gradients(model, tokens)
    with model.unfused():
        unfused = gradients(model, tokens)
    assert fused.keys() == unfused.keys()
    assert max(relative(fused[name], unfused[name]) for name in fused) <= GRADIENT


def test_observing_every_hook_changes_no_weight() -> None:
    model, tokens = SMALL.model(), SMALL.tokens()
    before = weights(model)
    model.run_with_cache(tokens)
    model.run_with_hooks(tokens, fwd_hooks=[(lambda name: True, lambda x, hook: None)])
    assert disagreements(weights(model), before) == {}
    assert all(weight.grad is None for weight in model.parameters())


@torch.no_grad()
def test_unfused_ends_with_its_block_even_when_that_fails() -> None:
    model, tokens = SMALL.model(), SMALL.tokens()
    fused = model(tokens)
    with pytest.raises(ArithmeticError), model.unfused():
        with model.unfused():
            unfused = model(tokens)
        assert torch.equal(model(tokens), unfused), "the inner block ended the outer one"
        raise ArithmeticError
    assert torch.equal(model(tokens), fused)


# --- hooks over time ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [SMALL, SPLIT, Case(n_ctx=16, batch=1, tied=True)], ids=str)
@pytest.mark.parametrize("story", STORIES)
def test_hooks_over_time_tell_the_unfused_story(story: str, case: Case) -> None:
    model, tokens = case.model(), case.tokens()
    told = STORIES[story](model, tokens)
    with model.unfused():
        reference = STORIES[story](model, tokens)
    assert same(told, reference, tolerance=1e-5)
    assert attached(model) == {}


@torch.no_grad()
def test_a_permanent_hook_stays_until_it_is_named() -> None:
    model, tokens = SMALL.model(), SMALL.tokens()
    clean = model(tokens)
    model.add_perma_hook("blocks.0.attn.hook_pattern", add_noise)
    edited = model(tokens)
    model.reset_hooks()
    assert torch.equal(model(tokens), edited)
    assert list(model.list_hooks()) == ["blocks.0.attn.hook_pattern"]
    model.reset_hooks(including_permanent=True)
    assert torch.equal(model(tokens), clean)


@torch.no_grad()
def test_stopping_and_starting_at_a_layer_compose_to_the_whole_bit_for_bit() -> None:
    case = Case(n_layers=3, n_ctx=16)
    model, tokens = case.model(), case.tokens()
    whole = model(tokens)
    for layer in range(case.n_layers + 1):
        stream = model(tokens, stop_at_layer=layer)
        assert torch.equal(model(stream, start_at_layer=layer), whole)
    cache = model.run_with_cache(
        tokens, names_filter=lambda name: name.endswith(("hook_resid_pre", "hook_resid_post"))
    )[1]
    assert torch.equal(cache["resid_post", 1], model(tokens, stop_at_layer=2))
    assert torch.equal(cache["resid_pre", 0], model(tokens, stop_at_layer=0))


@torch.no_grad()
@every_default_name
def test_a_hook_is_felt_while_decoding_with_a_cache(name: str) -> None:
    model, tokens = SMALL.model(), SMALL.tokens()

    def decode() -> torch.Tensor:
        cache = KeyValueCache(model.cfg, SMALL.batch, tokens.device)
        model(tokens[:, :-1], past_kv_cache=cache)
        last: torch.Tensor = model(tokens[:, -1:], past_kv_cache=cache)
        return last

    clean = decode()
    assert difference(clean, model(tokens)[:, -1:]) <= bound(clean)
    with model.hooks(fwd_hooks=[(name, add_noise)]):
        edited = decode()
    assert bool(torch.isfinite(edited).all())
    assert difference(edited, clean) > CAUSAL


@torch.no_grad()
def test_padding_is_hidden_from_real_tokens_on_either_side() -> None:
    """Logits of a padded row are those of the row alone."""
    model = SMALL.model()
    long, short = SMALL.tokens()[0], SMALL.tokens()[1, :7]
    alone = model(short[None])[0]
    for pad_left in (True, False):
        filler = torch.zeros(len(long) - len(short), dtype=torch.long)
        row = torch.cat((filler, short) if pad_left else (short, filler))
        mask = torch.cat((filler, torch.ones_like(short)) if pad_left else (torch.ones_like(short), filler))
        logits = model(torch.stack((long, row)), attention_mask=torch.stack((torch.ones_like(long), mask)))[1]
        assert difference(logits[mask.bool()], alone) <= bound(alone)
