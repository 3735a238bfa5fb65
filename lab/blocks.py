"""The parts of the GPT other than attention: norms, gated MLP, the block, both embeddings, each with its hook points.

Every block has two ways through the same numbers, a fused one and an unfused one that spells out every activation. It
takes the unfused way as soon as one of the points inside it has a listener. `model` puts the parts together.
"""

import torch
import torch.nn.functional as F
from einops import repeat
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformer_lens.hook_points import HookPoint

from lab.attention import Attention, GroupedQueryAttention, KeyValueCache, Padding, Rotary
from lab.errors import LabError
from lab.fused import gated, rms_norm
from lab.shape import GPTConfig


class HookNotEnabled(LabError):
    """A listener sits on an opt-in hook point that the model is not set to fire."""


def listened(*points: nn.Module) -> bool:
    """True if any of these has a listener: a TransformerLens or torch hook, or a `forward` shadowed by nnsight.

    Reads the dictionaries alone, 0.24 µs a point, so that asking costs nothing beside a block.
    """
    return any(
        p._forward_hooks
        or p._backward_hooks
        or p._forward_pre_hooks
        or p._backward_pre_hooks
        or "forward" in p.__dict__
        for p in points
    )


def hooked(point: nn.Module) -> bool:
    """True if this has a hook of its own, by TransformerLens or torch; nnsight shadows every module, meant or not."""
    hooks = (point._forward_hooks, point._backward_hooks, point._forward_pre_hooks, point._backward_pre_hooks)
    return any(hooks)


class RMSNorm(nn.Module):
    def __init__(self, cfg: GPTConfig) -> None:
        super().__init__()
        self.eps = cfg.eps
        self.w = nn.Parameter(torch.ones(cfg.d_model))
        self.hook_scale = HookPoint()  # [batch, pos, 1]
        self.hook_normalized = HookPoint()  # [batch, pos, d_model], before the gain w

    def forward(self, x: Float[Tensor, "... d_model"], fused: bool = False) -> Float[Tensor, "... d_model"]:
        if fused:
            return rms_norm(x, self.w, self.eps)
        dtype = x.dtype
        x = x.float() if dtype not in (torch.float32, torch.float64) else x
        scale = self.hook_scale((x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt())
        normalized: Tensor = self.hook_normalized(x / scale)
        return normalized.to(dtype) * self.w


class MLP(nn.Module):
    b_in: Tensor
    b_out: Tensor

    def __init__(self, cfg: GPTConfig) -> None:
        super().__init__()
        assert cfg.d_mlp is not None
        self.W_in = nn.Parameter(torch.empty(cfg.d_model, cfg.d_mlp))
        self.W_gate = nn.Parameter(torch.empty(cfg.d_model, cfg.d_mlp))
        self.W_out = nn.Parameter(torch.empty(cfg.d_mlp, cfg.d_model))
        self.register_buffer("b_in", torch.zeros(cfg.d_mlp))
        self.register_buffer("b_out", torch.zeros(cfg.d_model))
        self.hook_pre = HookPoint()  # [batch, pos, d_mlp], the gate before its activation
        self.hook_pre_linear = HookPoint()  # [batch, pos, d_mlp], the other factor
        self.hook_post = HookPoint()  # [batch, pos, d_mlp]

    def forward(self, x: Float[Tensor, "batch pos d_model"], fused: bool = False) -> Float[Tensor, "batch pos d_model"]:
        if fused:
            return F.linear(gated(F.linear(x, self.W_gate.T), F.linear(x, self.W_in.T)), self.W_out.T)
        pre = self.hook_pre(F.linear(x, self.W_gate.T.contiguous()))
        pre_linear = self.hook_pre_linear(F.linear(x, self.W_in.T.contiguous()))
        post = self.hook_post(F.silu(pre) * pre_linear + self.b_in)
        return F.linear(post, self.W_out.T.contiguous(), self.b_out)


class Block(nn.Module):
    hook_out_is_single_residual_stream = True  # asked by the logit lens of transformer-lens 4.x

    def __init__(self, cfg: GPTConfig, rotary: Rotary, index: int) -> None:
        super().__init__()
        self.cfg, self.index, self.force_unfused = cfg, index, False
        self.checkpointed = False  # what is inside runs again in the backward pass instead of being kept
        self.ln1, self.ln2 = RMSNorm(cfg), RMSNorm(cfg)
        self.attn = (GroupedQueryAttention if cfg.n_key_value_heads else Attention)(cfg, rotary)
        self.mlp = MLP(cfg)
        self.hook_resid_pre = HookPoint()  # [batch, pos, d_model]
        self.hook_attn_in = HookPoint()  # [batch, pos, head, d_model]; cfg.use_attn_in
        self.hook_q_input = HookPoint()  # [batch, pos, head, d_model]; cfg.use_split_qkv_input
        self.hook_k_input = HookPoint()  # [batch, pos, kv_head, d_model]; cfg.use_split_qkv_input
        self.hook_v_input = HookPoint()  # [batch, pos, kv_head, d_model]; cfg.use_split_qkv_input
        self.hook_attn_out = HookPoint()  # [batch, pos, d_model]
        self.hook_resid_mid = HookPoint()  # [batch, pos, d_model]
        self.hook_mlp_in = HookPoint()  # [batch, pos, d_model]; cfg.use_hook_mlp_in
        self.hook_mlp_out = HookPoint()  # [batch, pos, d_model]
        self.hook_resid_post = HookPoint()  # [batch, pos, d_model]
        inner = (m for part in (self.ln1, self.attn, self.ln2, self.mlp) for m in part.modules())
        # In a tuple, so that they are no submodules twice. Parts count too: nnsight and torch hooks may sit on them.
        self._inner = (
            *inner,
            self.hook_attn_in,
            self.hook_q_input,
            self.hook_k_input,
            self.hook_v_input,
            self.hook_mlp_in,
        )
        self._between = (self.hook_attn_out, self.hook_resid_mid, self.hook_mlp_out)

    def forward(
        self,
        resid_pre: Float[Tensor, "batch pos d_model"],
        cache: KeyValueCache | None = None,
        padding: Padding | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        opted = (
            self.cfg.use_attn_result or self.cfg.use_attn_in or self.cfg.use_split_qkv_input or self.cfg.use_hook_mlp_in
        )
        fused = not (opted or self.force_unfused or padding is not None or listened(*self._inner))
        resid_pre = self.hook_resid_pre(resid_pre)
        if self.checkpointed and fused and cache is None and torch.is_grad_enabled() and not listened(*self._between):
            # Both ends of the block lie outside, so that who listens to the stream is told once, and a pin acts once.
            resid = checkpoint(
                self._through, resid_pre, True, None, None, use_reentrant=False, preserve_rng_state=False
            )
        else:
            resid = self._through(resid_pre, fused, cache, padding)
        resid_post: Tensor = self.hook_resid_post(resid)
        return resid_post

    def _through(
        self, resid_pre: Tensor, fused: bool, cache: KeyValueCache | None, padding: Padding | None
    ) -> Float[Tensor, "batch pos d_model"]:
        """The block without its two ends."""
        attended = (
            self.attn.fused(self.ln1(resid_pre, True), self.index, cache)
            if fused
            else self._attend_unfused(resid_pre, cache, padding)
        )
        resid_mid: Tensor = self.hook_resid_mid(resid_pre + self.hook_attn_out(attended))
        mlp_in = self.hook_mlp_in(resid_mid.clone()) if self.cfg.use_hook_mlp_in else resid_mid
        out: Tensor = self.hook_mlp_out(self.mlp(self.ln2(mlp_in, fused), fused))
        return resid_mid + out

    def _attend_unfused(self, resid_pre: Tensor, cache: KeyValueCache | None, padding: Padding | None) -> Tensor:
        self._refuse_deaf_hooks()
        heads, kv_heads = self.cfg.n_heads, self.cfg.n_kv
        shared = resid_pre
        if self.cfg.use_attn_in:
            shared = self.hook_attn_in(repeat(resid_pre, "b p d -> b p h d", h=heads).clone())
        if not self.cfg.use_split_qkv_input:
            normalized = self.ln1(shared, False)
            return self._attend(normalized, normalized, normalized, cache, padding)
        inputs = (
            hook(repeat(resid_pre, "b p d -> b p h d", h=n).clone())
            for hook, n in ((self.hook_q_input, heads), (self.hook_k_input, kv_heads), (self.hook_v_input, kv_heads))
        )
        q, k, v = (self.ln1(x, False) for x in inputs)  # three times: each may have been edited differently
        return self._attend(q, k, v, cache, padding)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, cache: KeyValueCache | None, padding: Padding | None) -> Tensor:
        # A call of the module, not of its forward: a torch hook on the whole of `attn` fires too.
        attended: Tensor = self.attn(q, k, v, self.index, cache, padding)
        return attended

    def _refuse_deaf_hooks(self) -> None:
        for option, points in self.opt_in().items():
            for point in points:
                if not getattr(self.cfg, option) and hooked(point):
                    raise HookNotEnabled(
                        f"{point.name} does not fire unless the model is set to: model.set_{option}(True)."
                    )

    def opt_in(self) -> dict[str, tuple[HookPoint, ...]]:
        """The points that fire only when an option of cfg is set, by option."""
        return {
            "use_attn_result": (self.attn.hook_result,),
            "use_attn_in": (self.hook_attn_in,),
            "use_split_qkv_input": (self.hook_q_input, self.hook_k_input, self.hook_v_input),
            "use_hook_mlp_in": (self.hook_mlp_in,),
        }


class Embed(nn.Module):
    def __init__(self, cfg: GPTConfig) -> None:
        super().__init__()
        self.W_E = nn.Parameter(torch.empty(cfg.d_vocab, cfg.d_model))

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        return F.embedding(tokens, self.W_E)


class Unembed(nn.Module):
    b_U: Tensor

    def __init__(self, cfg: GPTConfig, embed: Embed) -> None:
        super().__init__()
        self._tied = (embed,) if cfg.tie_embeddings else None
        if not cfg.tie_embeddings:
            self._parameters["W_U"] = nn.Parameter(torch.empty(cfg.d_model, cfg.d_vocab))
        self.register_buffer("b_U", torch.zeros(cfg.d_vocab))
        self.hook_in = HookPoint()  # [batch, pos, d_model]
        self.hook_out = HookPoint()  # [batch, pos, d_vocab]

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        if self._tied:
            return self._tied[0].W_E.T
        weight = self._parameters["W_U"]
        assert weight is not None
        return weight

    def forward(self, x: Float[Tensor, "batch pos d_model"], fused: bool = False) -> Float[Tensor, "batch pos d_vocab"]:
        if fused:
            return F.linear(x, self.W_U.T)
        logits: Tensor = self.hook_out(F.linear(self.hook_in(x), self.W_U.T.contiguous(), self.b_U))
        return logits
