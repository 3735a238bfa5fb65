"""Our weights as HookedTransformer 3.9 keeps them, and back. Pure functions over dictionaries, like `llama`.

Its parameters have our names and shapes already; what differs is that it knows no tying and stores its masks and rotary
tables, and that its configuration names many options of which one setting each is ours.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lab.llama import DoesNotFit, require_shapes, require_zero_biases, zero_biases
from lab.sections import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

CONSTANTS = ("attn.mask", "attn.IGNORE", "attn.rotary_sin", "attn.rotary_cos")  # HookedTransformer makes them itself
_UNSET = (None, -1, -1.0)
# The settings that mean our arithmetic; an absent field has the first of them unless HookedTransformer's default differs.
_OURS: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu",),
    "normalization_type": ("RMS", "RMSPre"),
    "positional_embedding_type": ("rotary",),
    "gated_mlp": (True,),
    "rotary_adjacent_pairs": (False, None),
    "attention_dir": ("causal", None),
    "attn_only": (False, None),
    "parallel_attn_mlp": (False, None),
    "use_qk_norm": (False, None),
    "use_local_attn": (False, None),
    "use_attn_scale": (True, None),
    "scale_attn_by_inverse_layer_idx": (False, None),
    "use_normalization_before_and_after": (False, None),
    "use_NTK_by_parts_rope": (False, None),
    "use_yarn_rope": (False, None),
    "num_experts": (None,),
    "attn_scores_soft_cap": _UNSET,
    "output_logits_soft_cap": _UNSET,
}
_NO_DEFAULT = ("act_fn", "normalization_type", "positional_embedding_type", "gated_mlp")  # absent means something else
_REQUIRED = ("n_layers", "d_model", "n_ctx", "d_head", "d_mlp", "d_vocab")


def is_hooked_config(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is a HookedTransformerConfig's."""
    return "d_model" in config and "n_ctx" in config and "model_type" not in config


def hooked_config(model: ModelConfig, d_mlp: int, name: str) -> dict[str, Any]:
    """Keyword arguments of the HookedTransformerConfig that means the same model."""
    d_head = model.d_model // model.n_heads
    return {
        "n_layers": model.n_layers,
        "d_model": model.d_model,
        "n_ctx": model.n_ctx,
        "d_head": d_head,
        "n_heads": model.n_heads,
        "n_key_value_heads": model.n_key_value_heads,
        "d_mlp": d_mlp,
        "d_vocab": model.d_vocab,
        "act_fn": "silu",
        "gated_mlp": True,
        "normalization_type": "RMS",
        "final_rms": True,
        "eps": model.eps,
        "positional_embedding_type": "rotary",
        "rotary_dim": d_head,
        "rotary_base": model.rotary_base,
        "rotary_adjacent_pairs": False,
        "attention_dir": "causal",
        "tie_word_embeddings": model.tie_embeddings,  # ignored there; tells us to tie again on the way back
        "model_name": name,
        "init_weights": False,
    }


def to_hooked(weights: "Mapping[str, Tensor]", model: ModelConfig) -> "dict[str, Tensor]":
    """Our state dict with an unembedding of its own; `load_state_dict(…, strict=False)` lacks only `CONSTANTS`."""
    out = {name: tensor.contiguous() for name, tensor in weights.items()}
    if model.tie_embeddings:
        out["unembed.W_U"] = weights["embed.W_E"].T.contiguous().clone()
    return out


def model_of_hooked(config: Mapping[str, Any], n_ctx: int | None = None) -> ModelConfig:
    """Our shape of a HookedTransformerConfig.

    Raises:
        DoesNotFit: naming the field and its value.
    """
    for field in _REQUIRED:
        if type(config.get(field)) is not int or config[field] < 1:
            raise DoesNotFit(f"config.json: {field} = {config.get(field)!r}: a whole number above 0 is needed.")
    for field, allowed in _OURS.items():
        value = config.get(field, None if field in _NO_DEFAULT else allowed[0])
        if not any(value is one or value == one for one in allowed):
            raise DoesNotFit(f"config.json: {field} = {value!r}, but the lab's models have {field} = {allowed[0]!r}.")
    d_head, width = config["d_head"], config["d_model"]
    heads = config.get("n_heads", -1)
    heads = width // d_head if heads == -1 else heads
    if heads * d_head != width:
        raise DoesNotFit(f"config.json: d_head = {d_head}, but d_model / n_heads = {width} / {heads}.")
    for field, same in (("rotary_dim", d_head), ("d_vocab_out", config["d_vocab"]), ("attn_scale", d_head**0.5)):
        if config.get(field) not in (*_UNSET, same):
            raise DoesNotFit(f"config.json: {field} = {config[field]!r}, but the lab's models have {same!r} there.")
    if n_ctx is not None and not 2 <= n_ctx <= config["n_ctx"]:
        raise DoesNotFit(f"n_ctx = {n_ctx}, but the model was made for n_ctx = {config['n_ctx']}. Use less.")
    try:
        return ModelConfig(
            n_layers=config["n_layers"],
            d_model=width,
            n_heads=heads,
            n_key_value_heads=config.get("n_key_value_heads"),
            d_mlp=config["d_mlp"],
            n_ctx=n_ctx or config["n_ctx"],
            d_vocab=config["d_vocab"],
            rotary_base=float(config.get("rotary_base", 10000)),
            eps=float(config.get("eps", 1e-5)),
            tie_embeddings=bool(config.get("tie_word_embeddings", False)),
        )
    except ValueError as error:
        raise DoesNotFit(f"config.json: its shape is not one the lab can build ({error}).") from error


def from_hooked(tensors: "Mapping[str, Tensor]", model: ModelConfig) -> "dict[str, Tensor]":
    """Our state dict of a HookedTransformer's, in float32. Folded norms (RMSPre) get gains of one.

    Raises:
        DoesNotFit: naming the tensor: missing, of another shape, a bias that is not zero, tied embeddings that differ.
    """
    import torch

    given = {name: tensor for name, tensor in tensors.items() if not name.endswith(CONSTANTS)}
    require_zero_biases(given)
    biases = zero_biases(model)
    shapes = _shapes(model)
    gains = {name: torch.ones(shape) for name, shape in shapes.items() if name.endswith(".w")}
    if not any(name in given for name in gains):
        given |= gains
    if model.tie_embeddings:
        copy = given.pop("unembed.W_U", None)
        if copy is not None and not bool((copy == given["embed.W_E"].T).all()):
            raise DoesNotFit(
                "config.json: tie_word_embeddings = true, but unembed.W_U differs from embed.W_E. Set the field to false."
            )
    given = {name: tensor for name, tensor in given.items() if name not in biases}
    require_shapes(given, shapes)
    return {name: tensor.float().contiguous() for name, tensor in (given | biases).items()}


def _shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    assert model.d_mlp is not None
    d, heads, d_head = model.d_model, model.n_heads, model.d_model // model.n_heads
    kv, narrow = ("_", model.n_key_value_heads) if model.n_key_value_heads else ("", heads)
    shapes: dict[str, tuple[int, ...]] = {"embed.W_E": (model.d_vocab, d), "ln_final.w": (d,)}
    for block in (f"blocks.{layer}." for layer in range(model.n_layers)):
        shapes |= {block + "ln1.w": (d,), block + "ln2.w": (d,)}
        shapes |= {block + "attn.W_Q": (heads, d, d_head), block + "attn.W_O": (heads, d_head, d)}
        shapes |= {f"{block}attn.{kv}W_{name}": (narrow, d, d_head) for name in "KV"}
        shapes |= {f"{block}mlp.{name}": (d, model.d_mlp) for name in ("W_in", "W_gate")}
        shapes[block + "mlp.W_out"] = (model.d_mlp, d)
    return shapes if model.tie_embeddings else shapes | {"unembed.W_U": (d, model.d_vocab)}
