"""The same numbers as HookedTransformer 3.9.0: every activation bit for bit, and the fused way within the bound."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings

from lab.model import GPT, KeyValueCache
from tests.contract import (
    CASES,
    GRADIENT,
    OPTIONS,
    SMALL,
    SPLIT,
    Case,
    any_case,
    bias_shapes,
    bound,
    difference,
    disagreements,
    expected_hooks,
    gradients,
    parameter_shapes,
    relative,
    set_options,
)
from tests.tl39.oracle import CONSTANTS, state_of, tied_gradients, twin

OPTION_SETS = [
    ("use_attn_result",),
    ("use_split_qkv_input",),
    ("use_hook_mlp_in",),
    ("use_attn_in",),
    ("use_attn_result", "use_split_qkv_input", "use_hook_mlp_in"),
    OPTIONS,
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_state_dict_has_the_oracles_names_and_shapes(case: Case) -> None:
    model = case.model()
    theirs = {
        name: tuple(tensor.shape) for name, tensor in twin(model).state_dict().items() if not name.endswith(CONSTANTS)
    }
    assert {name: tuple(tensor.shape) for name, tensor in state_of(model).items()} == theirs
    written = (
        parameter_shapes(case)
        | bias_shapes(case)
        | ({"unembed.W_U": (case.d_model, case.d_vocab)} if case.tied else {})
    )
    assert written == theirs, "tests/contract.py no longer says what HookedTransformer has"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_weights_come_back_from_the_oracle_unchanged(case: Case) -> None:
    model, other = case.model(), case.model()
    with torch.no_grad():
        for weight in other.parameters():
            weight.zero_()
    theirs = {name: tensor for name, tensor in twin(model).state_dict().items() if not name.endswith(CONSTANTS)}
    if case.tied:
        del theirs["unembed.W_U"]
    other.load_state_dict(theirs)
    assert disagreements(dict(other.state_dict()), dict(model.state_dict())) == {}


@torch.no_grad()
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_cached_activation_is_bit_exact(case: Case) -> None:
    model, tokens = case.model(), case.tokens()
    logits, cache = model.run_with_cache(tokens)
    expected, reference = twin(model).run_with_cache(tokens)
    assert {name: tuple(value.shape) for name, value in reference.items()} == expected_hooks(case)
    assert disagreements(cache, reference) == {}
    assert torch.equal(logits, expected)


@torch.no_grad()
@pytest.mark.parametrize("case", CASES, ids=str)
def test_activations_are_cached_in_the_order_they_fire(case: Case) -> None:
    model, tokens = case.model(), case.tokens()
    order: dict[str, list[str]] = {"ours": [], "theirs": []}
    for whose, which in (("ours", model), ("theirs", twin(model))):
        which.run_with_hooks(
            tokens, fwd_hooks=[(lambda name: True, lambda x, hook, w=whose: order[w].append(hook.name))]
        )
    # ln1 fires three times in the oracle, once here: the stated difference
    assert order["ours"] == list(dict.fromkeys(order["theirs"]))


@torch.no_grad()
@pytest.mark.parametrize("case", CASES, ids=str)
def test_fused_logits_and_loss_are_within_the_bound(case: Case) -> None:
    model, tokens = case.model(), case.tokens()
    oracle = twin(model)
    reference = oracle(tokens)
    assert difference(model(tokens), reference) <= bound(reference)
    with model.unfused():
        assert torch.equal(model(tokens), reference)
    if case.length > 1:
        loss, expected = model(tokens, return_type="loss"), oracle(tokens, return_type="loss")
        assert difference(loss, expected) <= 1e-5 * max(1.0, float(expected))


@pytest.mark.parametrize("case", [case for case in CASES if case.length > 1], ids=str)
def test_gradients_agree(case: Case) -> None:
    model, tokens = case.model(), case.tokens()
    theirs = tied_gradients(gradients(twin(model), tokens), case.tied)
    for ours in (gradients(model, tokens), _unfused_gradients(model, tokens)):
        assert ours.keys() == theirs.keys() == parameter_shapes(case).keys()
        worst = {name: relative(ours[name], theirs[name]) for name in ours}
        assert max(worst.values()) <= GRADIENT, {name: gap for name, gap in worst.items() if gap > GRADIENT}


def _unfused_gradients(model: GPT, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    with model.unfused():
        return gradients(model, tokens)


@torch.no_grad()
@pytest.mark.parametrize("kv_heads", [None, 2, 1])
@pytest.mark.parametrize("options", OPTION_SETS, ids="+".join)
def test_opt_in_hooks_fire_bit_exactly(options: tuple[str, ...], kv_heads: int | None) -> None:
    if "use_attn_in" in options and kv_heads is not None:
        return  # refused by both, see test_both_refuse_attn_in_with_grouped_queries
    case = Case(n_ctx=12, batch=3, n_key_value_heads=kv_heads)
    model, tokens = case.model(), case.tokens()
    oracle = twin(model)
    set_options(model, *options)
    set_options(oracle, *options)
    logits, cache = model.run_with_cache(tokens)
    expected, reference = oracle.run_with_cache(tokens)
    assert {name: tuple(value.shape) for name, value in reference.items()} == expected_hooks(case, *options)
    assert disagreements(cache, reference) == {}
    assert torch.equal(logits, expected)
    assert difference(model(tokens), expected) <= bound(expected)


def test_both_refuse_attn_in_with_grouped_queries() -> None:
    model = SMALL.model()
    for refuser in (model, twin(model)):
        with pytest.raises((ValueError, AssertionError)):
            refuser.set_use_attn_in(True)


@torch.no_grad()
@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(any_case())
def test_any_shape_is_bit_exact_and_its_fused_way_within_the_bound(case: Case) -> None:
    model, tokens = case.model(), case.tokens()
    logits, cache = model.run_with_cache(tokens)
    expected, reference = twin(model).run_with_cache(tokens)
    assert disagreements(cache, reference) == {}
    assert torch.equal(logits, expected)
    assert difference(model(tokens), expected) <= bound(expected)


@torch.no_grad()
def test_weight_views_and_circuits_agree() -> None:
    for case in (SMALL, SPLIT, Case(tied=True)):
        model = case.model()
        oracle = twin(model)
        names = ["W_E", "W_U", "b_U", "W_Q", "W_K", "W_V", "W_O", "W_in", "W_gate", "W_out"]
        for name in [*names, "b_Q", "b_K", "b_V", "b_O", "b_in", "b_out"]:
            assert torch.equal(getattr(model, name), getattr(oracle, name)), name
        for name in ("QK", "OV"):
            assert torch.equal(getattr(model, name).AB, getattr(oracle, name).AB), name
            assert torch.equal(getattr(model.blocks[1].attn, name).AB, getattr(oracle.blocks[1].attn, name).AB), name
        for layer, into_mlp, mlps in ((0, False, True), (1, True, True), (2, False, False)):
            ours, theirs = (m.accumulated_bias(layer, into_mlp, include_mlp_biases=mlps) for m in (model, oracle))
            assert torch.equal(ours, theirs)
        assert model.all_head_labels() == oracle.all_head_labels()
        for mode in ("Q", "K", "V"):
            assert torch.equal(model.all_composition_scores(mode), oracle.all_composition_scores(mode)), mode


@torch.no_grad()
def test_residual_directions_of_tokens_agree() -> None:
    model = SMALL.model()
    oracle = twin(model)
    for tokens in (3, torch.tensor(3), torch.tensor([3]), torch.tensor([1, 2, 3]), torch.tensor([[1, 2], [3, 4]])):
        ours, theirs = (m.tokens_to_residual_directions(tokens) for m in (model, oracle))
        assert torch.equal(ours, theirs), tokens


@torch.no_grad()
def test_decoding_with_a_cache_gives_the_oracles_logits() -> None:
    for case in (SMALL, SPLIT, Case(n_ctx=12, n_key_value_heads=1)):
        model, tokens = case.model(), case.tokens()
        reference = twin(model)(tokens)
        for chunks in ([1] * case.length, [5, 1, 6], [case.length]):
            cache = KeyValueCache(model.cfg, case.batch, tokens.device)
            parts = [model(part, past_kv_cache=cache) for part in tokens.split(chunks, dim=1)]
            assert difference(torch.cat(parts, dim=1), reference) <= bound(reference), chunks
