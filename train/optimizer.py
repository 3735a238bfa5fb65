"""AdamW (arXiv:1711.05101) over the model's parameters, and its state as named tensors.

State is saved by parameter name, not by position, so that a checkpoint outlives a change in the order of parameters.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lab.errors import LabError
from lab.sections import OptimizerConfig

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


class OptimizerStateMissing(LabError):
    """A checkpoint's optimizer state does not belong to this model."""


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Matrices decay, gains do not: shrinking a norm's gain only moves the scale of the stream."""
    decaying = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decaying, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """{"exp_avg/blocks.0.attn.W_Q": …, "step/…": …}; empty before the first update."""
    named: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{moment}/{named[parameter]}": state[moment].detach()
        for parameter, state in optimizer.state.items()
        for moment in MOMENTS
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave.

    Raises:
        OptimizerStateMissing: a parameter has no state in `tensors`, or one of another shape.
    """
    optimizer.state.clear()
    if not tensors:
        return
    for name, parameter in model.named_parameters():
        try:
            state = {moment: tensors[f"{moment}/{name}"] for moment in MOMENTS}
        except KeyError as missing:
            raise OptimizerStateMissing(f"the optimizer state has no {missing}. It belongs to another model.") from None
        if state["exp_avg"].shape != parameter.shape:
            raise OptimizerStateMissing(
                f"the optimizer state of {name} has shape {list(state['exp_avg'].shape)}, the parameter "
                f"{list(parameter.shape)}. It belongs to another model."
            )
        optimizer.state[parameter] = {
            moment: tensor.to(parameter.device, torch.float32, copy=True) for moment, tensor in state.items()
        }
