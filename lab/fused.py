"""RMSNorm and the gate of SwiGLU with backward passes of their own: fewer passes over memory, fewer tensors kept.

On a CPU torch has no kernel for either and goes over memory once for each operation of the formula. At the `demo` preset,
4,096 tokens on one thread, forwards and backwards, a norm took 3.0 ms instead of 5.9 and a gate 9.2 instead of 9.9; a gate
keeps two tensors instead of three. What is compiled, runs elsewhere or in another type is left to torch. First derivatives
only, as of torch's own fused attention.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable


def rms_norm(
    x: Float[Tensor, "*any d_model"], gain: Float[Tensor, " d_model"], eps: float
) -> Float[Tensor, "*any d_model"]:
    """x / √(mean x² + eps) · gain, over the last axis (arXiv:1910.07467)."""
    if not _ours(x) or gain.dtype != x.dtype:
        return F.rms_norm(x, x.shape[-1:], gain, eps)
    found: Tensor = _RMSNorm.apply(x, gain, eps)  # type: ignore[no-untyped-call]
    return found


def gated(gate: Float[Tensor, "*any d_mlp"], up: Float[Tensor, "*any d_mlp"]) -> Float[Tensor, "*any d_mlp"]:
    """silu(gate) · up (arXiv:2002.05202)."""
    if not _ours(gate):
        return F.silu(gate) * up
    found: Tensor = _Gated.apply(gate, up)  # type: ignore[no-untyped-call]
    return found


def _ours(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and not torch.compiler.is_compiling()


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        mean = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        scale = mean.add_(eps).rsqrt_()  # [..., 1]
        ctx.save_for_backward(x, scale, gain)
        normalized: Tensor = x * scale
        return normalized.mul_(gain)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        x, scale, gain = ctx.saved_tensors
        width = x.shape[-1]
        product = (gradient * x).reshape(-1, width)
        # y = s·g·x with s = (mean x² + eps)^-½, so dx = s·g·dy − x·s³·mean(g·dy·x).
        along = product.mv(gain).view(scale.shape).mul_(scale.pow(3)).div_(-width)
        by_gain = scale.reshape(1, -1).mm(product)[0]
        return (gradient * gain).mul_(scale).addcmul_(x, along), by_gain, None


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        # Bit for bit what autograd does, silu(gate) made again instead of kept.
        return torch.ops.aten.silu_backward(gradient * up, gate), F.silu(gate).mul_(gradient)
