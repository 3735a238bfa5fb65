"""AdamW (arXiv:1711.05101), or Muon for the matrices of the blocks with AdamW for the rest, and its state as named tensors.

State is saved by parameter name, not by position, so that a checkpoint outlives a change in the order of parameters.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from lab.errors import LabError
from lab.sections import OptimizerConfig
from train.muon import Muon, Together

ADAMW, MUON = ("exp_avg", "exp_avg_sq", "step"), ("exp_avg",)  # what each keeps of a parameter


class OptimizerStateMissing(LabError):
    """A checkpoint's optimizer state does not belong to this model or this optimizer."""


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Matrices decay, gains do not: shrinking a norm's gain only moves the scale of the stream.

    Each group names its peak rate (`peak`), which the schedule goes by. With `kind = "muon"` embedding, unembedding and gains
    are AdamW's, at `lr`, and the matrices of the blocks Muon's, at `muon_lr`.
    """
    matrices = [name for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim >= 2]
    matrices = matrices if config.kind == "muon" else []
    named = dict(model.named_parameters())
    rest = [parameter for name, parameter in named.items() if name not in matrices]
    groups = [
        {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay, "peak": config.lr},
        {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0, "peak": config.lr},
    ]
    adamw = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps, fused=True)
    if not matrices:
        return adamw
    writers = [named[name] for name in matrices if name.endswith(("W_O", "W_out"))]
    muon = Muon([named[name] for name in matrices], writers, config.muon_lr, config.muon_momentum, config.weight_decay)
    muon.param_groups[0]["peak"] = config.muon_lr
    return Together(adamw, muon)


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """{"exp_avg/blocks.0.attn.W_Q": …, "step/…": …}; empty before the first update."""
    named: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    kept = moments(optimizer)
    return {
        f"{moment}/{named[parameter]}": state[moment].detach()
        for parameter, state in optimizer.state.items()
        for moment in kept[parameter]
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave.

    Raises:
        OptimizerStateMissing: a parameter has no state in `tensors`, one of another shape, or that of another optimizer.
    """
    optimizer.state.clear()
    if not tensors:
        return
    kept = moments(optimizer)
    for name, parameter in model.named_parameters():
        found = {moment for moment in ADAMW if f"{moment}/{name}" in tensors}
        if found != set(kept[parameter]):
            raise OptimizerStateMissing(
                f"the optimizer state has {', '.join(sorted(found)) or 'nothing'} of {name}, not "
                f"{', '.join(kept[parameter])}. It belongs to another model, or to another optimizer.kind: keep both."
            )
        state = {moment: tensors[f"{moment}/{name}"] for moment in kept[parameter]}
        if state["exp_avg"].shape != parameter.shape:
            raise OptimizerStateMissing(
                f"the optimizer state of {name} has shape {list(state['exp_avg'].shape)}, the parameter "
                f"{list(parameter.shape)}. It belongs to another model."
            )
        optimizer.state[parameter] = {
            moment: tensor.to(parameter.device, torch.float32, copy=True) for moment, tensor in state.items()
        }


def moments(optimizer: torch.optim.Optimizer) -> dict[Tensor, tuple[str, ...]]:
    """What is kept of each parameter; Muon's momentum is an average of gradients, as AdamW's first moment, and named so."""
    return {
        parameter: MUON if "momentum" in group else ADAMW
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
