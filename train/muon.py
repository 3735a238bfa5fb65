"""Muon: momentum whose singular values are all made one, for the matrices inside the blocks.

Jordan et al. 2024 (kellerjordan.github.io/posts/muon), with the length of updates of Liu et al. 2025 (arXiv:2502.16982):
their root mean square is .2 of the rate, about that of AdamW's, so that a rate and a weight decay mean the same for both.
`torch.optim.Muon` takes parameters with two axes only and one at a time; ours are stored by head. Here a matrix of heads is
seen as one, d_model × (heads · d_head) for the readers of the stream, and matrices of one shape are taken together.

No embedding, no unembedding, no norm: those are AdamW's (`train.optimizer`).
"""

from collections.abc import Callable, Iterable

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

# The quintic of Jordan et al., steepest at zero: five rounds bring singular values from 1e-3..1 to .7..1.2.
A, B, C, ROUNDS = 3.4445, -4.7750, 2.0315, 5
LENGTH = 0.2  # root mean square of an update at rate 1, as AdamW's in Liu et al., section 2.2
TINY = 1e-7


class Muon(torch.optim.Optimizer):
    """
    Args:
        matrices: with two axes, or with three: [head, d_model, d_head], or [head, d_head, d_model] where it is in `writers`.
        writers: those of them whose last axis is the stream.
        lr: root mean square of an update, over .2.
        momentum: of the average of gradients; Nesterov's look ahead is on.
        weight_decay: share of a weight that is lost in a step, over the rate.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        writers: Iterable[nn.Parameter],
        lr: float,
        momentum: float,
        weight_decay: float,
    ) -> None:
        super().__init__(list(matrices), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self._writers = set(writers)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every matrix with a gradient; the others, and their momentum, stay as they are."""
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            by_shape: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
            for parameter in moving:
                ahead = self._ahead(parameter, parameter.grad, group["momentum"])
                by_shape.setdefault(ahead.shape, []).append((parameter, ahead))
            for shape, together in by_shape.items():
                updates = orthogonal(torch.stack([ahead for _, ahead in together]))
                scale = -group["lr"] * LENGTH * max(shape) ** 0.5  # a matrix of ones on the diagonal has 1/√max(shape)
                for (parameter, _), update in zip(together, updates, strict=True):
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.add_(self._stored(update, parameter), alpha=scale)

    def _ahead(self, parameter: nn.Parameter, gradient: Tensor, momentum: float) -> Float[Tensor, "rows columns"]:
        """The average of gradients so far, a look ahead taken, as one matrix."""
        state = self.state[parameter]
        if "exp_avg" not in state:
            state["exp_avg"] = torch.zeros_like(parameter)
        average = state["exp_avg"].lerp_(gradient, 1 - momentum)
        ahead = gradient.lerp(average, momentum)
        if ahead.ndim == 2:
            return ahead
        return ahead.flatten(0, 1) if parameter in self._writers else rearrange(ahead, "head d k -> d (head k)")

    def _stored(self, update: Float[Tensor, "rows columns"], parameter: nn.Parameter) -> Tensor:
        """The update in the shape that the parameter is stored in."""
        if parameter.ndim == 3 and parameter not in self._writers:
            return rearrange(update, "d (head k) -> head d k", head=parameter.shape[0])
        return update.view(parameter.shape)


def orthogonal(matrices: Float[Tensor, "n rows columns"]) -> Float[Tensor, "n rows columns"]:
    """Each matrix with its singular values near one (.7 to 1.2) and its singular vectors kept; a Newton-Schulz iteration.

    In bfloat16 where the machine multiplies in it, which is precise enough: what is wanted is a direction.
    """
    x = matrices.to(torch.bfloat16 if multiplies_bfloat16(matrices.device) else torch.float32)
    tall = x.shape[-2] > x.shape[-1]
    x = x.mT if tall else x
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=TINY)
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return (x.mT if tall else x).to(matrices.dtype)


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether products in bfloat16 are faster than in float32: on graphics cards, and on CPUs with AMX (here 6 times)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return device.type == "cpu" and bool(torch.cpu._is_amx_tile_supported())


class Together(torch.optim.Optimizer):
    """Several optimizers as one: their groups in a row, one state, one step. State goes by parameter name, elsewhere."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts
        for part in parts:
            part.state = self.state  # one mapping: whoever reads or writes a moment need not know whose it is

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        for part in self.parts:
            part.step()
