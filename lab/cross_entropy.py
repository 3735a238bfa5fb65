"""Next-token cross-entropy from the stream before the unembedding, a few rows at a time: never the logits of a whole batch.

The gradients are worked out in the forward pass, where a piece of the logits is at hand: it becomes their gradient in place,
is multiplied out, and the next piece takes its memory (the idea of Liger's fused linear cross-entropy, arXiv:2410.10989).
Plain cross-entropy keeps two to three copies of [batch · pos, d_vocab] alive, 67 MB each at 4,096 tokens and
a vocabulary of 4,096; here it is 2 MB. On one CPU thread the head of the `demo` preset took .148 s instead of .279 s, because
a piece stays in the cache. Whoever wants logits, or listens to the head, gets them from `lab.model` the plain way.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORED = -100  # a target that does not count, as in torch
# Fewest rows and bytes of float32 logits at once. On a CPU 2 MiB stay in a core's cache: at d_model 128, vocabulary 4,096,
# pieces of 64, 128, 256, 512 and 1,024 rows took .172, .148, .153, .162 and .168 s. But every piece reads and writes the sum
# of the weight's gradient, which costs less than the piece itself only from d_model rows on: at d_model 512 pieces of 128,
# 256 and 512 rows took .130, .109 and .103 s. A graphics card wants products large enough to fill it.
_PIECES = {"cpu": (128, 2 << 20)}
_ELSEWHERE = (1024, 64 << 20)


def summed_cross_entropy(
    resid: Float[Tensor, "row d_model"], weight: Float[Tensor, "d_model d_vocab"], targets: Int[Tensor, " row"]
) -> Float[Tensor, ""]:
    """Sum of -log p(target) over the rows that count, in nats, where p = softmax(resid · weight); float32.

    The products run in autocast's type where it is on; softmax, loss and the sum over pieces are float32. It has first
    derivatives only.

    Args:
        targets: `IGNORED` where a row does not count.
    """
    device = resid.device.type
    product = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else resid.dtype
    wanted = torch.is_grad_enabled() and (resid.requires_grad or weight.requires_grad)
    found: Tensor = _Summed.apply(resid, weight, targets, product, wanted)  # type: ignore[no-untyped-call]
    return found


def rows_at_once(d_model: int, d_vocab: int, device: str) -> int:
    """Rows of a piece."""
    fewest, size = _PIECES.get(device, _ELSEWHERE)
    return max(fewest, d_model, size // (4 * d_vocab))


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, resid: Tensor, weight: Tensor, targets: Tensor, product: torch.dtype, wanted: bool) -> Tensor:
        # One opaque node in a compiled graph: unrolled, 32 pieces would be 400 operations to compile.
        through = _opaque if torch.compiler.is_compiling() else _by_pieces
        loss, resid_gradient, weight_gradient = through(resid, weight, targets, product, wanted)
        ctx.save_for_backward(resid_gradient, weight_gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        resid_gradient, weight_gradient = ctx.saved_tensors
        of_resid, of_weight, *_ = ctx.needs_input_grad
        return (
            resid_gradient * gradient.to(resid_gradient.dtype) if of_resid else None,
            weight_gradient * gradient.to(weight_gradient.dtype) if of_weight else None,
            None,
            None,
            None,
        )


def _by_pieces(
    resid: Tensor, weight: Tensor, targets: Tensor, product: torch.dtype, wanted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss and, where wanted, its gradients by `resid` and `weight` (empty otherwise)."""
    narrow = product in (torch.bfloat16, torch.float16)
    with torch.no_grad(), torch.autocast(resid.device.type, enabled=False):
        inputs, matrix = resid.to(product), weight.to(product)
        loss = torch.zeros((), dtype=torch.float32, device=resid.device)
        resid_gradient = torch.empty_like(resid) if wanted else resid.new_empty(0)
        sums = torch.float32 if narrow else product
        weight_gradient = torch.zeros_like(weight, dtype=sums) if wanted else weight.new_empty(0)
        counts = (targets != IGNORED).to(torch.float32)[:, None]
        places = targets.masked_fill(targets == IGNORED, 0)[:, None]
        size = rows_at_once(weight.shape[0], weight.shape[1], resid.device.type)
        room = torch.empty(min(size, len(inputs)), weight.shape[1], dtype=product, device=resid.device)
        for start in range(0, len(inputs), size):
            rows, place, count = (whole[start : start + size] for whole in (inputs, places, counts))
            scores = torch.mm(rows, matrix, out=room[: len(rows)]).to(torch.float32)
            scores.sub_(scores.amax(1, keepdim=True))
            true = scores.gather(1, place)
            total = scores.exp_().sum(1, keepdim=True)
            loss += ((total.log() - true) * count).sum()
            if not wanted:
                continue
            scores.mul_(count / total)  # the softmax, zero in rows that do not count
            scores.scatter_(1, place, scores.gather(1, place) - count)
            upstream = scores.to(product)
            resid_gradient[start : start + size] = upstream @ matrix.T
            if narrow:  # summed over pieces in float32: bfloat16 has 8 bits
                weight_gradient += rows.T @ upstream
            else:
                weight_gradient.addmm_(rows.T, upstream)
        return loss, resid_gradient, weight_gradient.to(weight.dtype)


@torch.library.custom_op("lab::summed_cross_entropy", mutates_args=())
def _opaque(
    resid: Tensor, weight: Tensor, targets: Tensor, product: torch.dtype, wanted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return _by_pieces(resid, weight, targets, product, wanted)


@_opaque.register_fake
def _(
    resid: Tensor, weight: Tensor, targets: Tensor, product: torch.dtype, wanted: bool
) -> tuple[Tensor, Tensor, Tensor]:
    loss = torch.empty((), dtype=torch.float32, device=resid.device)
    if not wanted:
        return loss, resid.new_empty(0), weight.new_empty(0)
    return loss, torch.empty_like(resid), torch.empty_like(weight)
