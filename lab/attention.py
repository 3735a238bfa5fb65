"""Causal self-attention with rotary positions, grouped-query heads and a KV cache, each step at its hook point.

`fused` is one QKV product and scaled-dot-product attention; `forward` spells out every activation, in HookedTransformer
3.9's order of operations, bit for bit. The block decides which of the two runs.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from lab.shape import GPTConfig


class KeyValueCache:
    """Rotated keys and values of the positions seen so far, one pair of buffers a layer, filled in place."""

    def __init__(
        self, cfg: GPTConfig, batch: int, device: torch.device | str, dtype: torch.dtype = torch.float32
    ) -> None:
        shape = (cfg.n_layers, 2, batch, cfg.n_kv, cfg.n_ctx, cfg.d_head)
        self.buffer: Float[Tensor, "layer two batch kv_head ctx d_head"] = torch.empty(
            shape, device=device, dtype=dtype
        )
        self.length = 0

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Add [batch, pos, kv_head, d_head] of one layer and return everything so far in the same order of axes."""
        end = self.length + k.shape[1]
        self.buffer[layer, 0, :, :, self.length : end] = k.transpose(1, 2)
        self.buffer[layer, 1, :, :, self.length : end] = v.transpose(1, 2)
        return self.buffer[layer, 0, :, :, :end].transpose(1, 2), self.buffer[layer, 1, :, :, :end].transpose(1, 2)


class Padding(NamedTuple):
    """What an attention mask means: who may be attended to, and every token's position counted without padding."""

    keys: Bool[Tensor, "batch pos"]
    positions: Int[Tensor, "batch pos"]


class Rotary(nn.Module):
    """Rotate-half rotary positions (arXiv:2104.09864), as Llama and GPT-NeoX pair the dimensions."""

    sin: Tensor
    cos: Tensor

    def __init__(self, cfg: GPTConfig) -> None:
        super().__init__()
        frequency = cfg.rotary_base ** (torch.arange(cfg.d_head // 2, dtype=torch.float32) / (cfg.d_head / 2))
        angles = (
            torch.arange(cfg.n_ctx, dtype=torch.float32)[:, None] / repeat(frequency, "d -> (two d)", two=2)[None, :]
        )
        self.register_buffer("sin", torch.sin(angles), persistent=False)  # [ctx, d_head]
        self.register_buffer("cos", torch.cos(angles), persistent=False)

    def forward(
        self, x: Float[Tensor, "batch pos head d_head"], start: int, positions: Int[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, "batch pos head d_head"]:
        if positions is None:
            cos, sin = (table[None, start : start + x.shape[1], None] for table in (self.cos, self.sin))
        else:
            cos, sin = self.cos[positions][:, :, None], self.sin[positions][:, :, None]
        first, second = x.chunk(2, dim=-1)
        return x * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    kv_prefix = ""  # of the stored key and value tensors' names
    W_K: Tensor
    W_V: Tensor
    b_Q: Tensor
    b_K: Tensor
    b_V: Tensor
    b_O: Tensor

    def __init__(self, cfg: GPTConfig, rotary: Rotary) -> None:
        super().__init__()
        self.cfg, self.groups = cfg, cfg.n_heads // cfg.n_kv
        self._rotary = (rotary,)  # shared by all blocks; in a tuple, so that it is no submodule of each of them
        self.W_Q = nn.Parameter(torch.empty(cfg.n_heads, cfg.d_model, cfg.d_head))
        self.W_O = nn.Parameter(torch.empty(cfg.n_heads, cfg.d_head, cfg.d_model))
        self.register_buffer("b_Q", torch.zeros(cfg.n_heads, cfg.d_head))
        self.register_buffer("b_O", torch.zeros(cfg.d_model))
        for name in ("K", "V"):
            self.register_parameter(
                f"{self.kv_prefix}W_{name}", nn.Parameter(torch.empty(cfg.n_kv, cfg.d_model, cfg.d_head))
            )
            self.register_buffer(f"{self.kv_prefix}b_{name}", torch.zeros(cfg.n_kv, cfg.d_head))
        self.hook_q = HookPoint()  # [batch, pos, head, d_head]
        self.hook_k = HookPoint()  # [batch, pos, kv_head, d_head]
        self.hook_v = HookPoint()  # [batch, pos, kv_head, d_head]
        self.hook_rot_q = HookPoint()  # [batch, pos, head, d_head]
        self.hook_rot_k = HookPoint()  # [batch, pos, kv_head, d_head]
        self.hook_attn_scores = HookPoint()  # [batch, head, query, key], scaled, masked with -inf
        self.hook_pattern = HookPoint()  # [batch, head, query, key]
        self.hook_z = HookPoint()  # [batch, pos, head, d_head]
        self.hook_result = HookPoint()  # [batch, pos, head, d_model]; cfg.use_attn_result

    @property
    def unexpanded(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """W_K, b_K, W_V, b_V as they are stored, with key-value heads."""
        return self.W_K, self.b_K, self.W_V, self.b_V

    @property
    def QK(self) -> Any:
        """The query-key circuit of every head, a FactoredMatrix [head, d_model, d_model] (destination, source)."""
        from transformer_lens import FactoredMatrix

        return FactoredMatrix(self.W_Q, self.W_K.transpose(-2, -1))

    @property
    def OV(self) -> Any:
        """The output-value circuit of every head, a FactoredMatrix [head, d_model, d_model]."""
        from transformer_lens import FactoredMatrix

        return FactoredMatrix(self.W_V, self.W_O)

    def fused(
        self, x: Float[Tensor, "batch pos d_model"], layer: int, cache: KeyValueCache | None
    ) -> Float[Tensor, "batch pos d_model"]:
        W_K, _, W_V, _ = self.unexpanded
        if x.shape[:2] == (
            1,
            1,
        ):  # one new token: laying out the joint weight would cost more than the product (a third)
            products = [torch.matmul(x[0], weight) for weight in (self.W_Q, W_K, W_V)]  # [head, 1, d_head]
            qkv = torch.cat(products).transpose(0, 1)[:, None]
        else:
            # Every d_head numbers stay together: copied the other way round, the joint weight took 2 ms more at d_model 512.
            weight = torch.cat([each.transpose(0, 1) for each in (self.W_Q, W_K, W_V)], dim=1).flatten(1)
            qkv = F.linear(x, weight.T).unflatten(-1, (-1, self.cfg.d_head))  # type: ignore[no-untyped-call]
        turning, v = torch.split(qkv, [self.cfg.n_heads + self.cfg.n_kv, self.cfg.n_kv], dim=2)
        turned = self._rotary[0](turning, cache.length if cache else 0)
        q, k = torch.split(turned, [self.cfg.n_heads, self.cfg.n_kv], dim=2)
        if cache is not None:
            k, v = cache.append(layer, k, v)
        z = F.scaled_dot_product_attention(
            q.transpose(1, 2),
            k.transpose(1, 2),
            v.transpose(1, 2),
            attn_mask=_causal(q, k) if cache is not None and 1 < q.shape[1] < k.shape[1] else None,
            is_causal=q.shape[1] == k.shape[1],
            enable_gqa=self.groups > 1,
        )
        return F.linear(z.transpose(1, 2).flatten(2), self.W_O.flatten(0, 1).T)

    def forward(
        self,
        query_input: Tensor,  # [batch, pos, d_model], or [batch, pos, head, d_model] with split inputs
        key_input: Tensor,
        value_input: Tensor,
        layer: int,
        cache: KeyValueCache | None,
        padding: Padding | None,
    ) -> Float[Tensor, "batch pos d_model"]:
        W_K, b_K, W_V, b_V = self.unexpanded
        q = self.hook_q(_project(query_input, self.W_Q, self.b_Q))
        k = self.hook_k(_project(key_input, W_K, b_K))
        v = self.hook_v(_project(value_input, W_V, b_V))
        start, positions = cache.length if cache else 0, padding.positions if padding else None
        q = self.hook_rot_q(self._rotary[0](q, start, positions))
        k = self.hook_rot_k(self._rotary[0](k, start, positions))
        if cache is not None:
            k, v = cache.append(layer, k, v)
        if self.groups > 1:
            k, v = k.repeat_interleave(self.groups, dim=2), v.repeat_interleave(self.groups, dim=2)
        mask = _causal(q, k) if padding is None else _causal(q, k) & padding.keys[:, None, None, :]
        scores = rearrange(q, "b q h k -> b h q k") @ rearrange(k, "b p h k -> b h k p") / self.cfg.attn_scale
        scores = self.hook_attn_scores(torch.where(mask, scores, float("-inf")))
        pattern = F.softmax(scores, dim=-1)
        # A query that sees no key (padding) has 0/0; HookedTransformer makes it attend to nothing, and so do we.
        pattern = self.hook_pattern(torch.where(torch.isnan(pattern), torch.zeros_like(pattern), pattern)).to(v.dtype)
        z = self.hook_z(rearrange(pattern @ rearrange(v, "b p h k -> b h p k"), "b h q k -> b q h k"))
        if self.cfg.use_attn_result:
            result = self.hook_result((z[..., None] * self.W_O).sum(-2))
            return torch.add(result.sum(2), self.b_O)
        weight = rearrange(self.W_O, "h k d -> d (h k)").contiguous()
        return F.linear(rearrange(z, "b p h k -> b p (h k)"), weight, self.b_O)


class GroupedQueryAttention(Attention):
    """Fewer key-value heads than query heads (arXiv:2305.13245); W_K and its like are then the stored ones, repeated."""

    kv_prefix = "_"
    _W_K: Tensor
    _W_V: Tensor
    _b_K: Tensor
    _b_V: Tensor

    @property
    def unexpanded(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self._W_K, self._b_K, self._W_V, self._b_V

    @property
    def W_K(self) -> Float[Tensor, "head d_model d_head"]:  # type: ignore[override]
        return self._W_K.repeat_interleave(self.groups, dim=0)

    @property
    def W_V(self) -> Float[Tensor, "head d_model d_head"]:  # type: ignore[override]
        return self._W_V.repeat_interleave(self.groups, dim=0)

    @property
    def b_K(self) -> Float[Tensor, "head d_head"]:  # type: ignore[override]
        return self._b_K.repeat_interleave(self.groups, dim=0)

    @property
    def b_V(self) -> Float[Tensor, "head d_head"]:  # type: ignore[override]
        return self._b_V.repeat_interleave(self.groups, dim=0)


def _project(x: Tensor, weight: Float[Tensor, "head d_model d_head"], bias: Float[Tensor, "head d_head"]) -> Tensor:
    """[batch, pos, d_model] or, with split inputs, [batch, pos, head, d_model] to [batch, pos, head, d_head]."""
    if x.ndim == 4:
        return einsum(x, weight, "b p h d, h d k -> b p h k") + bias
    flat = F.linear(x, rearrange(weight, "h d k -> (h k) d"), rearrange(bias, "h k -> (h k)"))
    return rearrange(flat, "b p (h k) -> b p h k", h=weight.shape[0])


def _causal(
    q: Float[Tensor, "batch query head d_head"], k: Float[Tensor, "batch key head d_head"]
) -> Bool[Tensor, "query key"]:
    """True where a query may look: at keys no later than itself, the queries being the last positions of the keys."""
    queries, keys = q.shape[1], k.shape[1]
    return torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)
