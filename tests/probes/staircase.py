"""P2: a GPT whose weights are set by hand so that block k makes z_k = z_{k-1} XOR s_k, and nothing else happens.

The real class, exactly: bits are ±1, where XOR is a product, and the gated MLP multiplies, because silu(g) - silu(-g) = g.
Whatever the token, as many dimensions are ±1 and as many 0 at a given layer, so each RMSNorm divides by a known number.
Attention is switched off by zero weights. An XOR of fair bits has no linear trace before it is made: z_k is not readable
below layer k and plain from layer k on. The next token's bits are the z of this one, each read by the unembedding.
"""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from lab.model import GPT, GPTConfig
from probes.layers.labels import ProbeSet

BLOCKS = 4
BITS = BLOCKS + 1  # s_0 .. s_4; z_0 is s_0
TOKENS = 2**BITS
BEGIN = TOKENS
_WIDTH = 10  # s in dimensions 0..4, z_1..z_4 in 5..8
_GATE, _SHARPNESS = 4.0, 1.5


def bits_of(tokens: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch bit"]:
    """s_0 .. s_4 as ±1."""
    return 2 * (tokens[..., None] >> torch.arange(BITS) & 1) - 1


def staircase() -> GPT:
    model = GPT(GPTConfig(BLOCKS, _WIDTH, 1, n_ctx=32, d_vocab=TOKENS + 1, d_mlp=2))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not name.endswith(".w"):
                weight.zero_()
        model.embed.W_E[:TOKENS, :BITS] = bits_of(torch.arange(TOKENS)).float()
        for index, block in enumerate(model.blocks):
            previous = 0 if index == 0 else BITS + index - 1
            block.mlp.W_gate[previous] = torch.tensor([_GATE, -_GATE])
            block.mlp.W_in[index + 1] = torch.tensor([1.0, -1.0])
            block.mlp.W_out[:, BITS + index] = _norm(model, index) ** 2 / _GATE
        targets = bits_of(torch.arange(TOKENS)).float().T
        z = [0, *range(BITS, BITS + BLOCKS)]
        model.unembed.W_U[z, :TOKENS] = _SHARPNESS * _norm(model, BLOCKS) * targets
        model.unembed.W_U[:, BEGIN] = 0.0
    return model


def _norm(model: GPT, blocks: int) -> float:
    """What an RMSNorm divides by once this many blocks have written."""
    return float(((BITS + blocks) / _WIDTH + model.cfg.eps) ** 0.5)


def stairs_of(tokens: Int[Tensor, "*batch"]) -> Int[Tensor, "*batch bit"]:
    """z_0 .. z_4 as ±1: running products of the bits."""
    return bits_of(tokens).cumprod(-1)


def text(
    sentences: int = 150, length: int = 16, noise: float = 0.3, seed: int = 0, tokens: Tensor | None = None
) -> ProbeSet:
    """Sequences whose next token has this one's z for its bits, but for some drawn at random; labels z_1 .. z_4 of each.

    With noise 1 they are the tokens given, or random ones.
    """
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(TOKENS, (sentences, length), generator=generator) if tokens is None else tokens
    jump = torch.rand(sentences, length, generator=generator) < noise
    for place in range(1, length):
        follows = ((stairs_of(tokens[:, place - 1]) + 1) // 2 << torch.arange(BITS)).sum(-1)
        tokens[:, place] = torch.where(jump[:, place], tokens[:, place], follows)
    z = (stairs_of(tokens) + 1) // 2
    return ProbeSet(
        sentences=tuple(f"{seed}.{number}" for number in range(sentences)),
        documents=tuple(f"{seed:08x}{number:08x}" for number in range(sentences)),
        tokens=tuple((BEGIN, *row) for row in tokens.tolist()),
        word_sentence=tuple(s for s in range(sentences) for _ in range(length)),
        word_position=tuple(p for _ in range(sentences) for p in range(1, length + 1)),
        labels={f"z{k}": tuple(z[:, :, k].flatten().tolist()) for k in range(1, BITS)},
        classes={f"z{k}": ("no", "yes") for k in range(1, BITS)},
    )
