"""The learning rate as a pure function of the step and the horizon, so that a resume needs nothing but both numbers."""

import math

from lab.sections import OptimizerConfig


def learning_rate(step: int, horizon: int, config: OptimizerConfig, peak: float | None = None) -> float:
    """The rate for the update that takes `step` to `step + 1`: linear warm-up, then decay to `final_lr_share` at the horizon.

    Args:
        peak: of a group of parameters that has its own; `config.lr` by default.

    >>> learning_rate(0, 100, OptimizerConfig(lr=1.0, warmup_steps=10, decay="linear", final_lr_share=0.0))
    0.1
    """
    peak = config.lr if peak is None else peak
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    if config.decay == "none":
        return peak
    progress = min(1.0, (step - config.warmup_steps) / max(1, horizon - config.warmup_steps))
    share = 0.5 * (1 + math.cos(math.pi * progress)) if config.decay == "cosine" else 1 - progress
    return peak * (config.final_lr_share + (1 - config.final_lr_share) * share)
