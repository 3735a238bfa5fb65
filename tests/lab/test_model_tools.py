"""transformer-lens 4.x on the live object: its ActivationCache, activation patching and head detector."""

from functools import partial
from typing import Any

import pytest
import torch
from transformer_lens import head_detector, patching

from tests.contract import CAUSAL, SMALL, SPLIT, Case, attached, bound, difference
from tests.stories import CACHE_METHODS, same


@torch.no_grad()
@pytest.mark.parametrize("case", [SMALL, SPLIT, Case(n_ctx=16, batch=1, tied=True, n_key_value_heads=1)], ids=str)
@pytest.mark.parametrize("method", CACHE_METHODS)
def test_a_cache_method_of_4_runs_and_agrees_with_the_unfused_cache(method: str, case: Case) -> None:
    model, tokens = case.model(), case.tokens()
    told = CACHE_METHODS[method](model.run_with_cache(tokens)[1], tokens)
    with model.unfused():
        reference = CACHE_METHODS[method](model.run_with_cache(tokens)[1], tokens)
    assert same(told, reference)


@torch.no_grad()
@pytest.mark.parametrize("case", [SMALL, SPLIT], ids=str)
def test_parts_of_the_residual_stream_add_up_to_it(case: Case) -> None:
    model, tokens = case.model(), case.tokens()
    _, cache = model.run_with_cache(tokens)
    final = cache["resid_post", -1]
    size = float(final.abs().max())
    sums = {
        "sublayers": cache.decompose_resid().sum(0),
        "heads, MLPs and the rest": cache.stack_head_results(incl_remainder=True).sum(0),
        "neurons and the rest": cache.stack_neuron_results(layer=-1, incl_remainder=True).sum(0),
        "everything": cache.get_full_resid_decomposition().sum(0),
    }
    for name, total in sums.items():
        assert difference(total, final) <= 1e-5 * max(1.0, size), name
    assert torch.equal(cache.accumulated_resid()[-1], final)


@torch.no_grad()
def test_logit_attributions_of_all_parts_add_up_to_the_logit_when_gains_are_one() -> None:
    case = Case(n_ctx=12, random_gains=False)
    model, tokens = case.model(), case.tokens()
    logits, cache = model.run_with_cache(tokens)
    targets = tokens[:, -1]
    parts = cache.logit_attrs(cache.decompose_resid(pos_slice=-1), targets, pos_slice=-1)
    expected = logits[:, -1].gather(1, targets[:, None])[:, 0]
    assert difference(parts.sum(0), expected) <= bound(logits)


@torch.no_grad()
def test_the_logit_lens_of_the_cache_ends_at_the_model_s_logits() -> None:
    model, tokens = SMALL.model(), SMALL.tokens()
    logits, cache = model.run_with_cache(tokens)
    values = cache.logit_lens(positions=None).readout.values
    assert values.shape == (SMALL.n_layers + 1, *logits.shape)
    assert difference(values[-1], logits) <= bound(logits)


PATCHES = {
    "resid_pre": patching.get_act_patch_resid_pre,
    "resid_mid": patching.get_act_patch_resid_mid,
    "attn_out": patching.get_act_patch_attn_out,
    "mlp_out": patching.get_act_patch_mlp_out,
    "head out by position": patching.get_act_patch_attn_head_out_by_pos,
    "head q by position": patching.get_act_patch_attn_head_q_by_pos,
    "head k by position": patching.get_act_patch_attn_head_k_by_pos,
    "head v by position": patching.get_act_patch_attn_head_v_by_pos,
    "head pattern by position": patching.get_act_patch_attn_head_pattern_by_pos,
    "head out": patching.get_act_patch_attn_head_out_all_pos,
    "head q": patching.get_act_patch_attn_head_q_all_pos,
    "head k": patching.get_act_patch_attn_head_k_all_pos,
    "head v": patching.get_act_patch_attn_head_v_all_pos,
    "head pattern": patching.get_act_patch_attn_head_pattern_all_pos,
    "block every": patching.get_act_patch_block_every,
    "head every": patching.get_act_patch_attn_head_all_pos_every,
}


@torch.no_grad()
@pytest.mark.parametrize("patch", PATCHES)
def test_activation_patching_runs_on_the_live_object_with_an_effect(patch: str) -> None:
    case = Case(n_ctx=5, batch=1)
    model, clean, corrupted = case.model(), case.tokens(seed=1), case.tokens(seed=2)
    logits, cache = model.run_with_cache(clean)
    target = int(logits[0, -1].argmax())

    def metric(patched: torch.Tensor) -> torch.Tensor:
        return patched[0, -1, target]

    run = partial(PATCHES[patch], model, corrupted, cache, metric)
    effect = torch.as_tensor(run())
    base = float(metric(model(corrupted)))
    assert bool(torch.isfinite(effect).all())
    assert float((effect - base).abs().max()) > CAUSAL
    with model.unfused():
        assert difference(torch.as_tensor(run()), effect) <= bound(logits)
    assert attached(model) == {}


@torch.no_grad()
def test_patching_the_last_stream_restores_the_clean_logits() -> None:
    case = Case(n_ctx=5, batch=1)
    model, clean, corrupted = case.model(), case.tokens(seed=1), case.tokens(seed=2)
    corrupted[0, 1:] = clean[0, 1:]  # only the first token differs, so patching its embedding is the whole difference
    logits, cache = model.run_with_cache(clean)
    restored = patching.get_act_patch_resid_pre(model, corrupted, cache, lambda patched: patched[0, -1, 3])
    assert abs(float(torch.as_tensor(restored)[0, 0] - logits[0, -1, 3])) <= bound(logits)


@torch.no_grad()
def test_the_head_detector_finds_a_planted_previous_token_head() -> None:
    """A head whose pattern is set to look one back scores 1, the others less."""
    model = Case(n_ctx=8, batch=1).model()

    def look_back(pattern: torch.Tensor, hook: Any) -> torch.Tensor:
        pattern[:, 2] = torch.eye(pattern.shape[-1]).roll(1, dims=0)
        pattern[:, 2, 0] = 0.0
        pattern[:, 2, 0, 0] = 1.0
        return pattern

    model.tokenizer = _Counting()
    with model.hooks(fwd_hooks=[("blocks.1.attn.hook_pattern", look_back)]):
        scores = head_detector.detect_head(model, "a b c d e f", "previous_token_head")
    assert torch.as_tensor(scores).argmax() == 1 * 4 + 2
    assert attached(model) == {}


class _Counting:
    """The smallest tokenizer: words become ids in the order in which they come."""

    bos, pad, end = 0, 60, 59

    def encode(self, text: str) -> list[int]:
        return [1 + index for index, _ in enumerate(text.split())]

    def decode(self, ids: list[int]) -> str:
        return " ".join(str(index) for index in ids)
