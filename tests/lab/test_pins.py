"""A pin holds the coordinates of a concept for every input and every way of running the model, to float noise."""

import copy
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from lab.benchmark_scoring import Request, likelihoods
from lab.generate import Sampling, sample_tokens
from lab.lower_copy import CacheNotFollowed, LowerCopy, LowerCopyDamaged, lower_weights
from lab.model import GPT, HookOnCompiled, KeyValueCache
from lab.pins import Pin, TokensNeeded, pins_of, set_pins
from tests.contract import Case, randomise

CASE = Case(n_layers=3, batch=3)
EXACT = 1e-5  # NRMSE: what issue 6 asks of a pin


def basis(seed: int, rank: int = 2, width: int = CASE.d_model) -> Float[Tensor, "d_model k"]:
    drawn = torch.randn(width, rank, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    found: Tensor = torch.linalg.qr(drawn).Q.float()
    return found


def frozen(model: GPT, layer: int) -> LowerCopy:
    return LowerCopy(model.cfg, layer, lower_weights(model, layer))


def pinned(case: Case, layers: Sequence[int], rank: int = 2) -> tuple[GPT, GPT]:
    """A model whose weights are others than those it was pinned with, and the model as it was."""
    before, model = case.model(), case.model()
    pins = [Pin(f"c{i}", layer, basis(i, rank), frozen(before, layer)) for i, layer in enumerate(layers)]
    randomise(model, seed=77, gains=True)
    set_pins(model, pins)
    return model, before


def stream(model: GPT, layer: int, tokens: Tensor) -> Tensor:
    name = "blocks.0.hook_resid_pre" if layer == 0 else f"blocks.{layer - 1}.hook_resid_post"
    cached: Tensor = model.run_with_cache(tokens, names_filter=name)[1][name]
    return cached.detach()


def nrmse(found: Tensor, aim: Tensor, v: Tensor) -> float:
    """Root mean square drift of the coordinates over their spread, in fp64."""
    moved, aims = ((x.double() @ v.double()).flatten(0, 1) for x in (found - aim, aim))
    return float((moved.square().sum(-1).mean() / aims.var(0, unbiased=False).sum()).sqrt())


@pytest.mark.parametrize("case", [CASE, Case(n_layers=3, n_key_value_heads=2, tied=True)], ids=str)
@pytest.mark.parametrize("layer", [0, 1, 2, 3])
def test_coordinates_are_those_of_the_freeze_whatever_became_of_the_weights(case: Case, layer: int) -> None:
    model, before = pinned(case, [layer])
    tokens = case.tokens(9)
    assert nrmse(stream(model, layer, tokens), stream(before, layer, tokens), basis(0)) <= EXACT
    set_pins(model, [])
    assert nrmse(stream(model, layer, tokens), stream(before, layer, tokens), basis(0)) > 0.5  # so it can fail


def test_outside_the_subspace_the_stream_is_the_models_own() -> None:
    model, _ = pinned(CASE, [2])
    tokens, v = CASE.tokens(), basis(0).double()
    held = stream(model, 2, tokens).double()
    set_pins(model, [])
    free = stream(model, 2, tokens).double()
    outside = torch.eye(CASE.d_model, dtype=torch.float64) - v @ v.T
    assert float(((held - free) @ outside).abs().max()) < 1e-5 * float(free.abs().max())
    assert float(((held - free) @ v).abs().max()) > 0.1


def test_autocast_to_bfloat16_does_not_touch_the_coordinates() -> None:
    model, before = pinned(CASE, [2])
    tokens = CASE.tokens(3)
    with torch.autocast("cpu", torch.bfloat16):
        held = stream(model, 2, tokens)
    assert nrmse(held, stream(before, 2, tokens), basis(0)) <= EXACT


def test_two_concepts_of_one_layer_that_are_not_orthogonal_are_both_held() -> None:
    before, model = CASE.model(), CASE.model()
    first, second = basis(1), torch.linalg.qr(basis(1) + 0.3 * basis(2)).Q
    assert float((first.T @ second).abs().max()) > 0.8
    lower = frozen(before, 2)
    randomise(model, seed=77, gains=True)
    set_pins(model, [Pin("a", 2, first, lower), Pin("b", 2, second, lower)])
    tokens = CASE.tokens(9)
    for v in (first, second):
        assert nrmse(stream(model, 2, tokens), stream(before, 2, tokens), v) <= EXACT


def test_pins_of_several_layers_hold_together() -> None:
    model, before = pinned(CASE, [1, 3, 0])
    tokens = CASE.tokens(9)
    for index, layer in enumerate([1, 3, 0]):
        assert nrmse(stream(model, layer, tokens), stream(before, layer, tokens), basis(index)) <= EXACT


def test_a_pin_that_was_made_on_a_pinned_model_holds_what_that_model_did() -> None:
    model, before = pinned(CASE, [1])
    tokens = CASE.tokens(9)
    then = stream(model, 2, tokens)
    lower = frozen(model, 2)
    set_pins(lower.model, [Pin("c0", 1, basis(0), frozen(before, 1))])
    first = pins_of(model)[0]
    randomise(model, seed=78, gains=True)
    set_pins(model, [first, Pin("c1", 2, basis(1), lower)])
    assert nrmse(stream(model, 2, tokens), then, basis(1)) <= EXACT
    assert nrmse(stream(model, 1, tokens), stream(before, 1, tokens), basis(0)) <= EXACT


@pytest.mark.parametrize("layer", [0, 2, 3])
def test_a_cache_of_keys_and_values_gives_what_no_cache_gives(layer: int) -> None:
    model, _ = pinned(CASE, [layer])
    tokens = CASE.tokens()
    whole = model(tokens)
    cache = KeyValueCache(model.cfg, CASE.batch, "cpu")
    parts = [model(piece, past_kv_cache=cache) for piece in (tokens[:, :5], tokens[:, 5:6], tokens[:, 6:])]
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-4)
    cache.length = 7  # taken back, as when an answer is tried again
    assert torch.allclose(model(tokens[:, 7:], past_kv_cache=cache), whole[:, 7:], atol=1e-4)


def test_greedy_generation_is_that_of_the_model_without_a_cache() -> None:
    model, _ = pinned(CASE, [2])
    prompt = CASE.tokens()[0, :6].tolist()
    said = list(sample_tokens(model, prompt, Sampling(max_tokens=12, temperature=0)))
    ids = list(prompt)
    for _ in said:
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert said == ids[len(prompt) :]


def test_a_cache_that_was_filled_elsewhere_is_refused() -> None:
    model, before = pinned(CASE, [2])
    cache = KeyValueCache(model.cfg, CASE.batch, "cpu")
    before(CASE.tokens()[:, :4], past_kv_cache=cache)
    with pytest.raises(CacheNotFollowed, match="4 positions"):
        model(CASE.tokens()[:, 4:], past_kv_cache=cache)


def test_padding_on_either_side_is_padding_for_the_frozen_copy_too() -> None:
    model, _ = pinned(CASE, [2])
    tokens = CASE.tokens()[:, :10]
    alone = model(tokens)
    for left in (True, False):
        pads = torch.zeros(CASE.batch, 4, dtype=torch.long)
        padded = torch.cat([pads, tokens] if left else [tokens, pads], 1)
        mask = torch.cat([pads, torch.ones_like(tokens)] if left else [torch.ones_like(tokens), pads], 1)
        logits = model(padded, attention_mask=mask)
        assert torch.allclose(logits[:, 4:] if left else logits[:, :10], alone, atol=1e-4)


def test_who_listens_at_the_layer_sees_the_pinned_stream_and_an_edit_there_is_felt() -> None:
    model, before = pinned(CASE, [2])
    tokens, seen = CASE.tokens(), []
    held = model(tokens)
    name = "blocks.1.hook_resid_post"
    edited = model.run_with_hooks(
        tokens, fwd_hooks=[(name, lambda x, hook: seen.append(x.detach())), (name, lambda x, hook: x * 0)]
    )
    assert nrmse(seen[0], stream(before, 2, tokens), basis(0)) <= EXACT
    assert float((edited - held).abs().max()) > 0.1


def test_no_reset_of_hooks_takes_a_pin_off() -> None:
    model, _ = pinned(CASE, [2])
    held = model(CASE.tokens())
    model.reset_hooks()
    model.reset_hooks(including_permanent=True)
    model.run_with_cache(CASE.tokens())
    assert torch.equal(model(CASE.tokens()), held)


def test_listening_at_the_stream_keeps_the_fused_way_and_every_bit() -> None:
    model, _ = pinned(CASE, [2])
    tokens = CASE.tokens()
    alone = model(tokens)
    logits, cache = model.run_with_cache(tokens, names_filter=lambda name: "resid" in name)
    assert torch.equal(logits, alone) and "blocks.1.attn.hook_pattern" not in cache
    with model.unfused():
        assert float((model(tokens) - alone).abs().max()) < 1e-4 * float(alone.abs().max())


def test_running_from_below_the_pin_needs_the_tokens_and_from_its_layer_on_none() -> None:
    model, _ = pinned(CASE, [2])
    tokens = CASE.tokens()
    logits, cache = model.run_with_cache(tokens, names_filter=lambda name: "resid_post" in name)
    below, here = cache["blocks.0.hook_resid_post"], cache["blocks.1.hook_resid_post"]
    with pytest.raises(TokensNeeded, match="tokens=tokens"):
        model(below, start_at_layer=1)
    assert torch.allclose(model(below, start_at_layer=1, tokens=tokens), logits, atol=1e-5)
    assert torch.allclose(model(below, start_at_layer=-2, tokens=tokens), logits, atol=1e-5)
    assert torch.equal(model(here, start_at_layer=2), logits)
    assert model(tokens, stop_at_layer=1).shape == below.shape
    assert torch.equal(model(tokens, stop_at_layer=2), here)


def test_a_call_that_failed_leaves_nothing_behind_for_the_next() -> None:
    model, _ = pinned(CASE, [2])
    held = model(CASE.tokens())
    with pytest.raises(ValueError, match="n_ctx"):
        model(torch.zeros(1, CASE.n_ctx + 1, dtype=torch.long))
    with pytest.raises(TokensNeeded):
        model(torch.zeros(1, 4, CASE.d_model), start_at_layer=0)
    assert torch.equal(model(CASE.tokens()), held)


def test_several_threads_run_one_pinned_model_without_mixing_their_tokens() -> None:
    model, _ = pinned(CASE, [1, 2])
    batches = [CASE.tokens(seed) for seed in range(12)]
    alone = [model(batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(model, batches))
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


def test_the_frozen_copy_is_in_no_state_dict_and_has_no_gradient() -> None:
    model, before = pinned(CASE, [2])
    assert model.state_dict().keys() == before.state_dict().keys()
    assert len(list(model.parameters())) == len(list(before.parameters()))
    model(CASE.tokens(), return_type="loss").backward()
    lower = pins_of(model)[0].copy
    assert all(weight.grad is None and not weight.requires_grad for weight in lower.model.parameters())
    below = dict(model.named_parameters())["blocks.0.mlp.W_out"].grad
    assert below is not None and float(below.abs().max()) > 0


def test_no_gradient_reaches_the_layers_below_through_the_subspace() -> None:
    model, _ = pinned(CASE, [2], rank=1)
    _, cache = model.run_with_cache(CASE.tokens())
    resid = cache["blocks.0.hook_resid_post"].detach().requires_grad_()
    out = model(resid, start_at_layer=1, tokens=CASE.tokens(), stop_at_layer=2)
    (out @ basis(0, 1)).sum().backward()
    assert resid.grad is not None and float(resid.grad.abs().max()) < 1e-5


def test_a_half_faded_pin_is_half_way() -> None:
    model, _ = pinned(CASE, [2])
    tokens, v = CASE.tokens(), basis(0)
    held = stream(model, 2, tokens) @ v
    pins_of(model)[0].strength = 0.5
    half = stream(model, 2, tokens) @ v
    pins_of(model)[0].strength = 0.0
    free = stream(model, 2, tokens) @ v
    assert torch.allclose(half, (held + free) / 2, atol=1e-4)


def test_a_deep_copy_is_pinned_on_its_own() -> None:
    model, before = pinned(CASE, [2])
    held = model(CASE.tokens())
    twin = copy.deepcopy(model)
    set_pins(model, [])
    assert torch.equal(twin(CASE.tokens()), held)
    randomise(twin, seed=5, gains=True)
    assert nrmse(stream(twin, 2, CASE.tokens()), stream(before, 2, CASE.tokens()), basis(0)) <= EXACT


@pytest.mark.slow  # torch's compiler takes seconds to import
def test_a_compiled_step_refuses_a_pinned_model() -> None:
    model, _ = pinned(CASE, [2])
    with pytest.raises(HookOnCompiled, match="c0 is pinned at layer 2"):
        model.compiled()(CASE.tokens())


def test_a_copy_that_does_not_fit_is_refused() -> None:
    with pytest.raises(LowerCopyDamaged, match="does not fit"):
        LowerCopy(CASE.model().cfg, 2, lower_weights(CASE.model(), 1))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_likelihoods_of_a_pinned_model_are_those_of_plain_forward_passes() -> None:
    """Options that share a long context are scored on a shared cache elsewhere, which no frozen copy could follow."""
    model, _ = pinned(CASE, [1])
    context = tuple(CASE.tokens(5)[0].tolist())[: CASE.n_ctx - 3]
    wanted = [Request(context, (first, 3)) for first in range(1, 13)]
    for found, request in zip(likelihoods(model, wanted), wanted, strict=True):
        logs = model(torch.tensor([[*request.context, *request.continuation]]))[0].log_softmax(-1).detach()
        at = range(len(context) - 1, len(context) + 1)
        expected = sum(float(logs[i, token]) for i, token in zip(at, request.continuation, strict=True))
        assert sum(found.tokens) == pytest.approx(expected, abs=1e-4)
