"""HookedTransformer 3.9.0 with the weights of one of our models: what every comparison here is made with."""

import warnings
from typing import Any

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from lab.model import GPT

# The only names HookedTransformer keeps in its state dict that are no weights: constants it makes itself.
CONSTANTS = ("attn.mask", "attn.IGNORE", "attn.rotary_sin", "attn.rotary_cos")


def config_of(model: GPT) -> HookedTransformerConfig:
    """The 3.9.0 configuration that means the same model."""
    cfg = model.cfg
    return HookedTransformerConfig(
        n_layers=cfg.n_layers,
        d_model=cfg.d_model,
        n_ctx=cfg.n_ctx,
        d_head=cfg.d_head,
        n_heads=cfg.n_heads,
        n_key_value_heads=cfg.n_key_value_heads,
        d_mlp=cfg.d_mlp,
        d_vocab=cfg.d_vocab,
        act_fn="silu",
        gated_mlp=True,
        normalization_type="RMS",
        final_rms=True,
        eps=cfg.eps,
        positional_embedding_type="rotary",
        rotary_dim=cfg.d_head,
        rotary_base=cfg.rotary_base,
        rotary_adjacent_pairs=False,
        init_weights=False,
        device="cpu",
    )


def state_of(model: GPT) -> dict[str, torch.Tensor]:
    """Our state dict; HookedTransformer knows no tying, so a tied model's unembedding is written out."""
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if model.cfg.tie_embeddings:
        state["unembed.W_U"] = model.W_U.detach().clone()
    return state


def twin(model: GPT) -> Any:
    """HookedTransformer 3.9.0 holding our weights, in eval mode."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        oracle = HookedTransformer(config_of(model))
    missing, unexpected = oracle.load_state_dict(state_of(model), strict=False)
    strangers = [name for name in missing if not name.endswith(CONSTANTS)]
    if strangers or unexpected:
        raise AssertionError(f"missing for HookedTransformer: {strangers}; unknown to it: {unexpected}")
    return oracle.eval()


def tied_gradients(found: dict[str, torch.Tensor], tied: bool) -> dict[str, torch.Tensor]:
    """The oracle's gradients under our names: biases left out, and of tied embeddings the sum of both uses."""
    kept = {
        name: gradient for name, gradient in found.items() if not name.rsplit(".", 1)[1].lstrip("_").startswith("b_")
    }
    if tied:
        kept["embed.W_E"] = kept["embed.W_E"] + kept.pop("unembed.W_U").T
    return kept
