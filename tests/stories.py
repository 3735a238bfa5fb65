"""What is done with a hooked model, told as values: every ActivationCache method, and hooks that come and go.

A story takes a model and tokens and returns what happened; two models that keep the contract tell the same. Used with
`contract` in both environments, so nothing here imports HookedTransformer either.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tests.contract import add_noise, attached, difference, finite, gradients

# --- ActivationCache ---------------------------------------------------------------------------------------------------

CacheCall = Callable[[Any, Int[Tensor, "batch pos"]], Any]


def _targets(tokens: Tensor) -> Tensor:
    return tokens[:, -1]


CACHE_METHODS: dict[str, CacheCall] = {
    "accumulated_resid": lambda c, t: c.accumulated_resid(return_labels=True),
    "accumulated_resid of layer 1": lambda c, t: c.accumulated_resid(layer=1, incl_mid=True, return_labels=True),
    "accumulated_resid into the MLP": lambda c, t: c.accumulated_resid(layer=1, incl_mid=True, mlp_input=True),
    "accumulated_resid normalised": lambda c, t: c.accumulated_resid(apply_ln=True, incl_mid=True),
    "accumulated_resid at the last position": lambda c, t: c.accumulated_resid(apply_ln=True, pos_slice=-1),
    "decompose_resid": lambda c, t: c.decompose_resid(return_labels=True),
    "decompose_resid of layer 1 into the MLP": lambda c, t: c.decompose_resid(layer=1, mlp_input=True),
    "decompose_resid attention only": lambda c, t: c.decompose_resid(mode="attn", apply_ln=True),
    "decompose_resid MLPs only": lambda c, t: c.decompose_resid(mode="mlp", incl_embeds=False, pos_slice=(0, 1)),
    "stack_head_results": lambda c, t: c.stack_head_results(return_labels=True),
    "stack_head_results with the rest": lambda c, t: c.stack_head_results(layer=1, incl_remainder=True, apply_ln=True),
    "stack_head_results at a position": lambda c, t: c.stack_head_results(pos_slice=0),
    "compute_head_results": lambda c, t: (c.compute_head_results(), c["result", 0], c["result", 1])[1:],
    "stack_neuron_results": lambda c, t: c.stack_neuron_results(layer=-1, return_labels=True),
    "stack_neuron_results of some": lambda c, t: c.stack_neuron_results(
        layer=1, neuron_slice=(0, 5), incl_remainder=True, apply_ln=True
    ),
    "stack_neuron_results projected": lambda c, t: c.stack_neuron_results(
        layer=-1, project_output_onto=c.model.tokens_to_residual_directions(3), apply_ln=True
    ),
    "get_neuron_results": lambda c, t: c.get_neuron_results(0, neuron_slice=(1, 4), pos_slice=-1),
    "get_full_resid_decomposition": lambda c, t: c.get_full_resid_decomposition(return_labels=True),
    "get_full_resid_decomposition unexpanded": lambda c, t: c.get_full_resid_decomposition(
        expand_neurons=False, apply_ln=True, return_labels=True
    ),
    "get_full_resid_decomposition of layer 1": lambda c, t: c.get_full_resid_decomposition(
        layer=1, mlp_input=True, expand_neurons=False
    ),
    "get_full_resid_decomposition projected": lambda c, t: c.get_full_resid_decomposition(
        project_output_onto=c.model.tokens_to_residual_directions(2), apply_ln=True
    ),
    "logit_attrs of one token": lambda c, t: c.logit_attrs(c.decompose_resid(), tokens=3),
    "logit_attrs of targets": lambda c, t: c.logit_attrs(c.accumulated_resid(pos_slice=-1), _targets(t), pos_slice=-1),
    "logit_attrs of differences": lambda c, t: c.logit_attrs(
        c.stack_head_results(pos_slice=-1), _targets(t), incorrect_tokens=t[:, 0], pos_slice=-1
    ),
    "apply_ln_to_stack": lambda c, t: c.apply_ln_to_stack(c.stack_activation("resid_pre"), layer=-1),
    "apply_ln_to_stack of layer 1": lambda c, t: c.apply_ln_to_stack(c.accumulated_resid(layer=1), layer=1),
    "apply_ln_to_stack of an MLP": lambda c, t: c.apply_ln_to_stack(
        c.accumulated_resid(layer=1, mlp_input=True), layer=1, mlp_input=True
    ),
    "apply_ln_to_stack recomputed": lambda c, t: c.apply_ln_to_stack(
        c.accumulated_resid(pos_slice=-1), pos_slice=-1, recompute_ln=True
    ),
    "stack_activation": lambda c, t: c.stack_activation("resid_post"),
    "stack_activation of one layer": lambda c, t: c.stack_activation("pattern", layer=1),
    "stack_activation of a norm": lambda c, t: c.stack_activation("scale", sublayer_type="ln1"),
    "short names": lambda c, t: [c["q", 0], c["resid_post", -1], c["pattern", 0], c["scale", 1, "ln1"], c["embed"]],
    "short names of the MLP": lambda c, t: [c["pre", 0], c["post", 1], c["attn_scores", 0], c["normalized", 0, "ln2"]],
    "apply_slice_to_batch_dim": lambda c, t: list(c.apply_slice_to_batch_dim(0).values()),
    "to": lambda c, t: list(c.to("cpu").values()),
    "toggle_autodiff": lambda c, t: (c.toggle_autodiff(True), torch.is_grad_enabled(), c.toggle_autodiff(False))[1:2],
    "iteration": lambda c, t: [sorted(c), len(c), sorted(c.keys()), [tuple(v.shape) for _, v in sorted(c.items())]],
}


def same(a: Any, b: Any, tolerance: float = 0.0) -> bool:
    """Equality through lists, tuples and dictionaries; tensors within tolerance × their largest entry."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and difference(a, b) <= tolerance * float(finite(b).abs().max())
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y, tolerance) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key], tolerance) for key in a)
    return bool(a == b)


# --- scenarios: what hooks do over time, told as tensors ----------------------------------------------------------------

Story = Callable[[Any, Int[Tensor, "batch pos"]], list[Any]]


def nested(model: Any, tokens: Tensor) -> list[Any]:
    """Hooks of an inner context leave with it; the outer one's stay until its own end."""
    told = [model(tokens)]
    with model.hooks(fwd_hooks=[("blocks.0.hook_resid_post", add_noise)]):
        told.append(model(tokens))
        with model.hooks(fwd_hooks=[(lambda name: name.endswith("attn.hook_pattern"), add_noise)]):
            told.append(model(tokens))
        told.append(model(tokens))
    return [*told, model(tokens), len(attached(model))]


def permanent(model: Any, tokens: Tensor) -> list[Any]:
    """A permanent hook survives every reset but the one that names it."""
    model.add_perma_hook("blocks.1.attn.hook_z", add_noise)
    told = [model(tokens)]
    model.reset_hooks()
    told.append(model.run_with_hooks(tokens, fwd_hooks=[("blocks.0.mlp.hook_post", add_noise)]))
    told.append(model(tokens))
    model.reset_hooks(including_permanent=True)
    return [*told, model(tokens), len(attached(model))]


def ordered(model: Any, tokens: Tensor) -> list[Any]:
    """Hooks on one point run in the order of adding; `prepend` goes first."""
    double, shift = lambda x, hook: 2 * x, lambda x, hook: x + 1
    model.add_hook("blocks.0.hook_mlp_out", double)
    model.add_hook("blocks.0.hook_mlp_out", shift)
    told = [model(tokens)]
    model.reset_hooks()
    model.add_hook("blocks.0.hook_mlp_out", double)
    model.add_hook("blocks.0.hook_mlp_out", shift, prepend=True)
    told.append(model(tokens))
    model.reset_hooks()
    return [*told, len(attached(model))]


def contexts(model: Any, tokens: Tensor) -> list[Any]:
    """A hook may leave notes in `hook.ctx`, read them later in the pass, and know its own name and layer."""
    seen: list[Any] = []

    def keep(x: Tensor, hook: Any) -> None:
        hook.ctx["mean"] = x.mean()
        seen.append((hook.name, hook.layer()))

    model.run_with_hooks(tokens, fwd_hooks=[("blocks.1.attn.hook_v", keep)])
    kept = model.hook_dict["blocks.1.attn.hook_v"].ctx["mean"]
    model.reset_hooks(clear_contexts=True)
    return [seen, kept, dict(model.hook_dict["blocks.1.attn.hook_v"].ctx)]


def failing(model: Any, tokens: Tensor) -> list[Any]:
    """A hook that raises is cleaned up after like one that does not."""

    def fail(x: Tensor, hook: Any) -> None:
        raise ArithmeticError(hook.name)

    told = []
    try:
        model.run_with_hooks(tokens, fwd_hooks=[("blocks.0.attn.hook_attn_scores", fail)])
    except ArithmeticError as error:
        told.append(str(error))
    return [*told, model(tokens), len(attached(model))]


def stopped(model: Any, tokens: Tensor) -> list[Any]:
    """The stream before any layer, and the rest of the way from it; a hook in what is skipped does not fire."""
    told: list[Any] = []
    layers = model.cfg.n_layers
    for layer in (0, 1, -1, layers):
        stream = model(tokens, stop_at_layer=layer)
        told.append(stream)
        told.append(model(stream.clone(), start_at_layer=layer if layer >= 0 else layers + layer))
    told.append(model(model(tokens, stop_at_layer=1), start_at_layer=1, tokens=tokens, return_type="loss"))
    _, cache = model.run_with_cache(tokens, stop_at_layer=1, names_filter=lambda name: "resid" in name)
    return [*told, sorted(cache.keys())]


def losses(model: Any, tokens: Tensor) -> list[Any]:
    """Every return type, and the loss per token."""
    both = model(tokens, return_type="both")
    return [
        model(tokens, return_type="loss"),
        model(tokens, return_type="loss", loss_per_token=True),
        both.logits,
        both.loss,
        both[0],
        model(tokens, return_type=None),
        model(tokens[0]),  # one sequence without a batch axis
    ]


def padded(model: Any, tokens: Tensor) -> list[Any]:
    """An attention mask hides padding on either side: logits of real tokens, the loss, and the pattern."""
    told: list[Any] = []
    for first, last in ((2, tokens.shape[1]), (0, tokens.shape[1] - 3)):
        mask = torch.zeros_like(tokens)
        mask[0] = 1
        mask[-1, first:last] = 1
        logits, cache = model.run_with_cache(
            tokens, attention_mask=mask, names_filter=lambda n: n.endswith("hook_pattern")
        )
        told += [logits[mask.bool()], model(tokens, attention_mask=mask, return_type="loss"), dict(cache.items())]
    return told


def cached_positions(model: Any, tokens: Tensor) -> list[Any]:
    """`pos_slice` keeps chosen positions of everything, `remove_batch_dim` drops the batch axis, a filter drops names."""
    told: list[Any] = []
    for pos_slice in (0, -1, (1, 3), [0, 2]):
        _, cache = model.run_with_cache(tokens, pos_slice=pos_slice, names_filter=lambda name: "hook_rot" not in name)
        told.append(dict(sorted(cache.items())))
    _, cache = model.run_with_cache(tokens[:1], remove_batch_dim=True)
    told.append(dict(sorted(cache.items())))
    told.append(sorted(model.run_with_cache(tokens, names_filter="blocks.1.mlp.hook_pre")[1].keys()))
    told.append(sorted(model.run_with_cache(tokens, names_filter=["hook_embed", "blocks.0.attn.hook_k"])[1].keys()))
    plain = model.run_with_cache(tokens, return_cache_object=False, device="cpu")[1]
    told += [type(plain) is dict, dict(sorted(plain.items()))]
    return told


def backward(model: Any, tokens: Tensor) -> list[Any]:
    """A backward hook sees the gradient, may change it, and is gone afterwards."""
    seen: dict[str, Tensor] = {}

    def look(gradient: Tensor, hook: Any) -> None:
        seen[hook.name] = gradient.detach().clone()

    def triple(gradient: Tensor, hook: Any) -> tuple[Tensor]:
        return (3 * gradient,)

    names = ("blocks.0.attn.hook_z", "blocks.1.attn.hook_q", "blocks.0.hook_resid_mid", "blocks.1.mlp.hook_pre")
    with model.hooks(bwd_hooks=[(name, look) for name in names]):
        told: list[Any] = [gradients(model, tokens)["blocks.0.mlp.W_out"]]
    told.append(dict(sorted(seen.items())))
    with model.hooks(bwd_hooks=[("blocks.1.attn.hook_v", triple)]):
        changed = gradients(model, tokens)
    told += [changed["blocks.0.mlp.W_in"], changed["blocks.0.ln1.w"], changed["blocks.1.attn.W_Q"]]
    return [*told, len(attached(model))]


STORIES: dict[str, Story] = {
    story.__name__: story
    for story in (
        nested,
        permanent,
        ordered,
        contexts,
        failing,
        stopped,
        losses,
        padded,
        cached_positions,
        backward,
    )
}
