"""Our weights under Llama's names, and back: the same numbers in another order, so both ways are exact.

Pure functions over dictionaries; files are read and written by `imports` and `exports`. Whatever our arithmetic has no
place for (a bias that is not zero, a norm of queries, a scaled rotation, a window) is refused by the name of its field.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from einops import rearrange

from lab.errors import LabError
from lab.sections import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

MODEL_TYPES = ("llama", "mistral")  # one arithmetic, once Mistral's window is off
# What the field must be, and why nothing else fits. A field that is absent has this value.
_NEUTRAL: dict[str, tuple[tuple[Any, ...], str]] = {
    "hidden_act": (("silu", "swish"), "the lab's MLP is SwiGLU, gated by silu"),
    "sliding_window": ((None,), "the lab's attention sees the whole context"),
    "rope_scaling": ((None,), "the lab turns positions by plain rotary angles"),
    "partial_rotary_factor": ((None, 1, 1.0), "the lab turns every dimension of a head"),
    "attn_logit_softcapping": ((None,), "the lab does not cap attention scores"),
    "final_logit_softcapping": ((None,), "the lab does not cap logits"),
    "use_qk_norm": ((None, False), "the lab does not normalise queries and keys"),
    "qk_norm": ((None, False), "the lab does not normalise queries and keys"),
    "num_local_experts": ((None, 1), "the lab has one MLP a block"),
    "embedding_multiplier": ((None, 1, 1.0), "the lab does not scale embeddings"),
    "residual_multiplier": ((None, 1, 1.0), "the lab does not scale what blocks write"),
    "attention_multiplier": ((None,), "the lab scales attention by 1/√d_head"),
    "logits_scaling": ((None, 1, 1.0), "the lab does not scale logits"),
    "quantization_config": ((None,), "the lab reads float32, float16 and bfloat16 weights"),
}
_REQUIRED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
_FLOATS = ("torch.float32", "torch.float16", "torch.bfloat16")


class DoesNotFit(LabError):
    """A model from elsewhere has something that this arithmetic has no place for."""


def llama_config(model: ModelConfig, d_mlp: int, bos: int, end: int, pad: int) -> dict[str, Any]:
    """`config.json` of the LlamaForCausalLM that computes what our model computes."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": model.d_model,
        "num_hidden_layers": model.n_layers,
        "num_attention_heads": model.n_heads,
        "num_key_value_heads": model.n_key_value_heads or model.n_heads,
        "head_dim": model.d_model // model.n_heads,
        "intermediate_size": d_mlp,
        "vocab_size": model.d_vocab,
        "max_position_embeddings": model.n_ctx,
        "hidden_act": "silu",
        "rms_norm_eps": model.eps,
        "rope_theta": model.rotary_base,  # read by transformers before 5
        "rope_parameters": {"rope_type": "default", "rope_theta": model.rotary_base},
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": model.tie_embeddings,
        "initializer_range": 0.02,
        "use_cache": True,
        "dtype": "float32",
        "torch_dtype": "float32",  # the older spelling of the same
        "bos_token_id": bos,
        "eos_token_id": end,
        "pad_token_id": pad,
    }


def model_of_llama(config: Mapping[str, Any], n_ctx: int | None = None) -> ModelConfig:
    """Our shape of a Llama's `config.json`.

    Args:
        n_ctx: positions to use, at most what the file declares; rotary angles do not depend on it.

    Raises:
        DoesNotFit: naming the field and its value.
    """
    _check_fields(config)
    declared = config.get("max_position_embeddings") or 2048
    if n_ctx is not None and not 2 <= n_ctx <= declared:
        raise DoesNotFit(f"n_ctx = {n_ctx}, but the model was made for max_position_embeddings = {declared}. Use less.")
    rope = config.get("rope_parameters") or {}
    heads = config["num_attention_heads"]
    key_value_heads = config.get("num_key_value_heads") or heads
    try:
        return ModelConfig(
            n_layers=config["num_hidden_layers"],
            d_model=config["hidden_size"],
            n_heads=heads,
            n_key_value_heads=None if key_value_heads == heads else key_value_heads,
            d_mlp=config["intermediate_size"],
            n_ctx=n_ctx or declared,
            d_vocab=config["vocab_size"],
            rotary_base=float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
            eps=float(config.get("rms_norm_eps", 1e-6)),
            tie_embeddings=bool(config.get("tie_word_embeddings", False)),
        )
    except ValueError as error:
        raise DoesNotFit(f"config.json: its shape is not one the lab can build ({error}).") from error


def _check_fields(config: Mapping[str, Any]) -> None:
    kind = config.get("model_type")
    if kind == "nanochat":
        raise DoesNotFit(
            "config.json: model_type = 'nanochat': its queries and keys are normalised, its MLP is relu² without a gate "
            "and its norms have no gains. None of the three fits; read it with transformers."
        )
    if kind not in MODEL_TYPES:
        raise DoesNotFit(
            f"config.json: model_type = {kind!r}: only {' and '.join(MODEL_TYPES)} fit the lab's arithmetic."
        )
    for field in _REQUIRED:
        if type(config.get(field)) is not int or config[field] < 1:
            raise DoesNotFit(f"config.json: {field} = {config.get(field)!r}: a whole number above 0 is needed.")
    for field, (allowed, reason) in _NEUTRAL.items():
        value = config.get(field, 4096 if (kind, field) == ("mistral", "sliding_window") else allowed[0])
        if not any(value is one or value == one for one in allowed):
            raise DoesNotFit(f"config.json: {field} = {value!r}, but {reason}.")
    rope = config.get("rope_parameters") or {}
    if rope.get("rope_type", "default") != "default":
        raise DoesNotFit(
            f"config.json: rope_parameters.rope_type = {rope['rope_type']!r}, but {_NEUTRAL['rope_scaling'][1]}."
        )
    if any("sliding" in str(kind) for kind in config.get("layer_types") or ()):
        raise DoesNotFit(f"config.json: layer_types has sliding_attention, but {_NEUTRAL['sliding_window'][1]}.")
    head = config.get("head_dim")
    if head is not None and head * config["num_attention_heads"] != config["hidden_size"]:
        raise DoesNotFit(
            f"config.json: head_dim = {head}, but the lab's heads share the width: hidden_size / num_attention_heads "
            f"= {config['hidden_size']} / {config['num_attention_heads']}."
        )


def llama_shapes(model: ModelConfig, d_mlp: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of such a Llama, with its shape."""
    d, heads = model.d_model, model.n_heads
    narrow = d // heads * (model.n_key_value_heads or heads)
    block: dict[str, tuple[int, ...]] = {
        "input_layernorm": (d,),
        "self_attn.q_proj": (d, d),
        "self_attn.k_proj": (narrow, d),
        "self_attn.v_proj": (narrow, d),
        "self_attn.o_proj": (d, d),
        "post_attention_layernorm": (d,),
        "mlp.gate_proj": (d_mlp, d),
        "mlp.up_proj": (d_mlp, d),
        "mlp.down_proj": (d, d_mlp),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (model.d_vocab, d)}
    for layer in range(model.n_layers):
        shapes |= {f"model.layers.{layer}.{name}.weight": shape for name, shape in block.items()}
    shapes["model.norm.weight"] = (d,)
    return shapes if model.tie_embeddings else shapes | {"lm_head.weight": (model.d_vocab, d)}


def to_llama(weights: "Mapping[str, Tensor]", model: ModelConfig) -> "dict[str, Tensor]":
    """Our state dict under Llama's names; tied embeddings are written once.

    Raises:
        DoesNotFit: a bias is not zero, which a Llama folder cannot hold.
    """
    require_zero_biases(weights)
    kv = "_" if model.n_key_value_heads else ""
    out = {"model.embed_tokens.weight": weights["embed.W_E"]}
    for layer in range(model.n_layers):
        ours, theirs = f"blocks.{layer}.", f"model.layers.{layer}."
        out[theirs + "input_layernorm.weight"] = weights[ours + "ln1.w"]
        for name, stored in (("q", "W_Q"), ("k", f"{kv}W_K"), ("v", f"{kv}W_V")):
            heads = weights[f"{ours}attn.{stored}"]
            out[f"{theirs}self_attn.{name}_proj.weight"] = rearrange(heads, "head d k -> (head k) d")
        out[theirs + "self_attn.o_proj.weight"] = rearrange(weights[ours + "attn.W_O"], "head k d -> d (head k)")
        out[theirs + "post_attention_layernorm.weight"] = weights[ours + "ln2.w"]
        for name, stored in (("gate", "W_gate"), ("up", "W_in"), ("down", "W_out")):
            out[f"{theirs}mlp.{name}_proj.weight"] = weights[f"{ours}mlp.{stored}"].T
    out["model.norm.weight"] = weights["ln_final.w"]
    if not model.tie_embeddings:
        out["lm_head.weight"] = weights["unembed.W_U"].T
    return {name: tensor.contiguous() for name, tensor in out.items()}


def from_llama(tensors: "Mapping[str, Tensor]", model: ModelConfig) -> "dict[str, Tensor]":
    """Our state dict of a Llama's tensors, in float32; every tensor is used or refused.

    Raises:
        DoesNotFit: naming the tensor that is missing, of another shape, or has no place here.
    """
    assert model.d_mlp is not None
    given = _without_leftovers(tensors, model)
    shapes = llama_shapes(model, model.d_mlp)
    require_shapes(given, shapes)
    given = {name: given[name].float() for name in shapes}
    kv = "_" if model.n_key_value_heads else ""
    d_head = model.d_model // model.n_heads
    out = {"embed.W_E": given["model.embed_tokens.weight"], "ln_final.w": given["model.norm.weight"]}
    for layer in range(model.n_layers):
        ours, theirs = f"blocks.{layer}.", f"model.layers.{layer}."
        out[ours + "ln1.w"] = given[theirs + "input_layernorm.weight"]
        out[ours + "ln2.w"] = given[theirs + "post_attention_layernorm.weight"]
        for name, stored in (("q", "W_Q"), ("k", f"{kv}W_K"), ("v", f"{kv}W_V")):
            flat = given[f"{theirs}self_attn.{name}_proj.weight"]
            out[f"{ours}attn.{stored}"] = rearrange(flat, "(head k) d -> head d k", k=d_head)
        flat = given[theirs + "self_attn.o_proj.weight"]
        out[ours + "attn.W_O"] = rearrange(flat, "d (head k) -> head k d", k=d_head)
        for name, stored in (("gate", "W_gate"), ("up", "W_in"), ("down", "W_out")):
            out[f"{ours}mlp.{stored}"] = given[f"{theirs}mlp.{name}_proj.weight"].T
    if not model.tie_embeddings:
        out["unembed.W_U"] = given["lm_head.weight"].T
    return {name: tensor.contiguous() for name, tensor in (out | zero_biases(model)).items()}


def _without_leftovers(tensors: "Mapping[str, Tensor]", model: ModelConfig) -> "dict[str, Tensor]":
    """The tensors less those that carry nothing: zero biases, frequencies of old files, a second copy of tied embeddings."""
    kept = {}
    for name, tensor in tensors.items():
        if name.endswith("rotary_emb.inv_freq"):
            continue
        if name.endswith(".bias"):
            if bool(tensor.any()):
                field = "mlp_bias" if ".mlp." in name else "attention_bias"
                raise DoesNotFit(f"{name} is not zero ({field} = true), but the lab's layers have no biases.")
            continue
        if name == "lm_head.weight" and model.tie_embeddings:
            if not bool((tensor == tensors["model.embed_tokens.weight"]).all()):
                raise DoesNotFit(
                    "config.json: tie_word_embeddings = true, but lm_head.weight differs from model.embed_tokens.weight. "
                    "Set the field to false if both are meant."
                )
            continue
        kept[name] = tensor
    return kept


def require_shapes(tensors: "Mapping[str, Tensor]", shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raises DoesNotFit unless these are exactly the tensors of these shapes, in a floating type that float32 holds."""
    missing = [name for name in shapes if name not in tensors]
    if missing:
        raise DoesNotFit(f"the weights have no {missing[0]} (and {len(missing) - 1} more that the shape needs).")
    for name, tensor in tensors.items():
        if name not in shapes:
            raise DoesNotFit(f"the weights have {name} {list(tensor.shape)}, which the lab's model has no place for.")
        if tuple(tensor.shape) != shapes[name]:
            raise DoesNotFit(f"{name} has shape {list(tensor.shape)}, but the shape needs {list(shapes[name])}.")
        if str(tensor.dtype) not in _FLOATS:
            raise DoesNotFit(f"{name} is {tensor.dtype}; convert it to float32, float16 or bfloat16.")


def zero_biases(model: ModelConfig) -> "dict[str, Tensor]":
    """The zero buffers that our state dict carries for HookedTransformer's sake."""
    import torch

    assert model.d_mlp is not None
    kv, heads, d_head = "_" if model.n_key_value_heads else "", model.n_heads, model.d_model // model.n_heads
    narrow = model.n_key_value_heads or heads
    out = {"unembed.b_U": torch.zeros(model.d_vocab)}
    for block in (f"blocks.{layer}." for layer in range(model.n_layers)):
        out |= {block + "attn.b_Q": torch.zeros(heads, d_head), block + "attn.b_O": torch.zeros(model.d_model)}
        out |= {f"{block}attn.{kv}b_{name}": torch.zeros(narrow, d_head) for name in "KV"}
        out |= {block + "mlp.b_in": torch.zeros(model.d_mlp), block + "mlp.b_out": torch.zeros(model.d_model)}
    return out


def require_zero_biases(weights: "Mapping[str, Tensor]") -> None:
    """Raises DoesNotFit for a bias that is not zero, by name."""
    for name, tensor in weights.items():
        if name.rpartition(".")[2].lstrip("_").startswith("b_") and bool(tensor.any()):
            raise DoesNotFit(f"{name} is not zero, but the lab's layers (and a Llama folder) have no biases.")
