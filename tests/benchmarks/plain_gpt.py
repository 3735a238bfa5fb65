"""A plain PyTorch GPT of our shape without a single hook: what the cost of open hooks is measured against.

Written the way one would write it for speed alone: one QKV product, one gate-and-up product, scaled-dot-product attention,
`nn.RMSNorm`, rotary tables made once. It computes our model's function, and `copy_weights` lets a benchmark check that.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from lab.model import GPT, GPTConfig


class PlainBlock(nn.Module):
    def __init__(self, cfg: GPTConfig) -> None:
        super().__init__()
        assert cfg.d_mlp is not None
        self.d_head = cfg.d_head
        self.heads, self.kv_heads = cfg.n_heads, cfg.n_key_value_heads or cfg.n_heads
        self.norm1, self.norm2 = nn.RMSNorm(cfg.d_model, cfg.eps), nn.RMSNorm(cfg.d_model, cfg.eps)
        self.qkv = nn.Linear(cfg.d_model, (self.heads + 2 * self.kv_heads) * cfg.d_head, bias=False)
        self.out = nn.Linear(cfg.d_model, cfg.d_model, bias=False)
        self.gate_up = nn.Linear(cfg.d_model, 2 * cfg.d_mlp, bias=False)
        self.down = nn.Linear(cfg.d_mlp, cfg.d_model, bias=False)

    def forward(self, x: Float[Tensor, "b p d"], cos: Tensor, sin: Tensor) -> Float[Tensor, "b p d"]:
        b, p, _ = x.shape
        heads = (
            self.qkv(self.norm1(x)).view(b, p, -1, self.d_head).transpose(1, 2)
        )  # [batch, q, k and v heads, pos, d_head]
        turning, v = heads.split((self.heads + self.kv_heads, self.kv_heads), dim=1)
        first, second = turning.chunk(2, dim=-1)
        turned = turning * cos + torch.cat((-second, first), dim=-1) * sin
        q, k = turned.split((self.heads, self.kv_heads), dim=1)
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.heads != self.kv_heads)
        x = x + self.out(z.transpose(1, 2).reshape(b, p, -1))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, dim=-1)
        residual: Tensor = x + self.down(F.silu(gate) * up)
        return residual


class PlainGPT(nn.Module):
    cos: Tensor
    sin: Tensor

    def __init__(self, cfg: GPTConfig) -> None:
        super().__init__()
        self.embed = nn.Embedding(cfg.d_vocab, cfg.d_model)
        self.blocks = nn.ModuleList(PlainBlock(cfg) for _ in range(cfg.n_layers))
        self.norm = nn.RMSNorm(cfg.d_model, cfg.eps)
        self.head = nn.Linear(cfg.d_model, cfg.d_vocab, bias=False)
        if cfg.tie_embeddings:
            self.head.weight = self.embed.weight
        frequency = cfg.rotary_base ** (-torch.arange(0, cfg.d_head, 2, dtype=torch.float32) / cfg.d_head)
        angles = torch.outer(torch.arange(cfg.n_ctx, dtype=torch.float32), frequency).repeat(1, 2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, tokens: Int[Tensor, "b p"]) -> Float[Tensor, "b p v"]:
        x = self.embed(tokens)
        cos, sin = self.cos[: tokens.shape[1]], self.sin[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x, cos, sin)
        logits: Tensor = self.head(self.norm(x))
        return logits

    def loss(self, tokens: Int[Tensor, "b p"]) -> Float[Tensor, ""]:
        return F.cross_entropy(self(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())

    @torch.no_grad()
    def initialise(self, seed: int) -> None:
        """As GPT-2 and nanoGPT begin: .02 everywhere, over √(2·layers) for what writes to the stream."""
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if weight.ndim < 2:
                continue
            writes = name.endswith(("out.weight", "down.weight"))
            deviation = 0.02 / (2 * len(self.blocks)) ** 0.5 if writes else 0.02
            weight.copy_(torch.randn(weight.shape, generator=generator) * deviation)

    @torch.no_grad()
    def copy_weights(self, model: GPT) -> None:
        """Take over the weights of one of our models, so that both compute the same function."""
        self.embed.weight.copy_(model.W_E)
        self.head.weight.copy_(model.W_U.T)
        self.norm.weight.copy_(model.ln_final.w)
        for mine, theirs in zip(self.blocks, model.blocks, strict=True):
            attn, mlp = theirs.attn, theirs.mlp
            prefix = "" if model.cfg.n_key_value_heads is None else "_"
            stored = (attn.W_Q, getattr(attn, f"{prefix}W_K"), getattr(attn, f"{prefix}W_V"))
            mine.qkv.weight.copy_(torch.cat([w.transpose(1, 2).flatten(0, 1) for w in stored]))
            mine.out.weight.copy_(attn.W_O.flatten(0, 1).T)
            mine.gate_up.weight.copy_(torch.cat((mlp.W_gate.T, mlp.W_in.T)))
            mine.down.weight.copy_(mlp.W_out.T)
            mine.norm1.weight.copy_(theirs.ln1.w)
            mine.norm2.weight.copy_(theirs.ln2.w)
