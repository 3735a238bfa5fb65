"""Hooks and `torch.compile`: a compiled step that refuses hooks, and guards so that no other graph outlives one.

torch leaves hooks out of what a compiled graph checks before it runs (`skip_nnmodule_hook_guards`, pytorch #117758): a
hook added after the first compiled call is passed over in silence. `Compiled` raises instead. Whoever calls
`torch.compile(model)` directly gets `guard_hooks` traced into the model, which makes torch compile anew.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lab.blocks import listened
from lab.errors import LabError


class HookOnCompiled(LabError):
    """A compiled step was called while something listens to the model."""


class Compiled:
    """The model as one compiled function, called as the model is; made by `GPT.compiled`.

    Weights and gradients are the model's own, and the model itself stays eager: hooks, `run_with_cache` and
    `run_with_hooks` go on working there between two compiled calls.

    Args:
        options: for torch.compile, as they are.
    """

    def __init__(self, model: nn.Module, **options: Any) -> None:
        self._named = tuple(model.named_modules())
        self._modules = tuple(module for _, module in self._named)
        self._step: Callable[..., Any] = torch.compile(model, **options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the model returns.

        Raises:
            HookOnCompiled: naming what is listened to. Asking costs 33 µs at 6 layers.
        """
        pins = getattr(self._modules[0], "pins", None)
        if pins is not None:
            raise HookOnCompiled(
                f"{pins.pins[0].concept} is pinned at layer {pins.pins[0].layer}: a pin is a hook that stays, and a compiled "
                "step runs none. Call the model itself, which is eager; train with train.compile=false."
            )
        if listened(*self._modules):
            names = [name or "the model" for name, module in self._named if listened(module)]
            more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
            raise HookOnCompiled(
                f"{names[0]}{more} has a hook, and a compiled step runs none. Call the model itself, which is eager: "
                "model(...), run_with_cache or run_with_hooks. Or take the hook off: model.reset_hooks(), with "
                "including_permanent=True for a permanent one; one of torch's by its handle. Train with train.compile=false."
            )
        return self._step(*args, **kwargs)


def guard_hooks(model: nn.Module) -> bool:
    """True; traced into a forward pass, it makes the compiled graph invalid once a hook of the model comes or goes.

    Asked in the only ways that torch turns into guards: it drops those on `module._forward_hooks`, on the truth of a
    dictionary and on `"forward" in module.__dict__`, and keeps those on a length and on an attribute. Costs 250 µs a call
    and .8 s a compilation at 6 layers; an eager pass never calls it.
    """
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return all(
        module.forward is not None and all(len(module.__dict__[kind]) >= 0 for kind in kinds)
        for module in model.modules()
    )
