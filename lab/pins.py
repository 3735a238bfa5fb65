"""A pin: one concept's coordinates at one layer, held for every input by a frozen lower copy that is part of the model.

At the layer, h ← h − VVᵀh + VVᵀ·sg(h₀(x)), where h₀ is what the lower copy (`lab.lower_copy`) makes of the same tokens. The
coordinates are therefore what they were at the freeze, exactly and for any text, in training, in reading and in
generation; the layers below are free to change, those above may learn to read the concept otherwise. It is computed in
float32, autocast or not, and comes before anybody who listens at that hook point, so that what is cached there is the pinned
stream. Listening at the residual stream keeps the fused way through the blocks.

A pin sits on the model by hooks of torch's own, which no `reset_hooks` takes off. The lower copy is in no state dict: the
names there stay HookedTransformer's, and a reader gets a pinned model from `Run.model`, or from `attach`.
"""

import inspect
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lab.errors import LabError
from lab.lower_copy import LowerCopy, read_lower
from lab.model import GPT, KeyValueCache
from lab.subspaces import Subspaces

if TYPE_CHECKING:
    from lab.run import Run

ATTRIBUTE = "pins"  # of the model
_SIGNATURE = inspect.signature(GPT.forward)


class TokensNeeded(LabError):
    """A pinned model was run from the middle without the tokens that its frozen lower copy reads."""


class PinnedExport(LabError):
    """A pinned checkpoint was to be written in a format that cannot hold its frozen lower copy."""


@dataclass
class Pin:
    """One concept held at one layer.

    Attributes:
        basis: V, [d_model, k], float32.
        copy: gives h₀.
        strength: 1 holds; between 0 and 1 while the pin fades out: that share of the way to the frozen coordinates.
    """

    concept: str
    layer: int
    basis: Float[Tensor, "d_model k"]
    copy: LowerCopy
    strength: float = 1.0


@dataclass
class _Call:
    """What the copies need to know of one call of the model."""

    attention_mask: Tensor | None
    cache: KeyValueCache | None
    start_at_layer: int | None
    tokens: Tensor | None
    streams: dict[int, Tensor] = field(default_factory=dict)  # by id of the copy: two pins of one freeze share it


class Pins:
    """All pins of one model; made by `set_pins`."""

    def __init__(self, model: GPT, pins: Sequence[Pin]) -> None:
        self.model, self.pins = model, tuple(pins)
        # By thread: some readers run one model from several at once. A stack: a hook may call the model again.
        self._calls: dict[int, list[_Call]] = {}
        self._handles: list[Any] = [model.embed.register_forward_pre_hook(self._saw_tokens)]
        for layer in sorted({pin.layer for pin in pins}):
            place = _Place(self, layer, [pin for pin in pins if pin.layer == layer])
            self._handles.append(residual_point(model, layer).register_forward_hook(place, prepend=True))

        # In place of `forward`, not a hook of the model: run_with_hooks calls `forward` past the model's own hooks.
        setattr(model, "forward", _Entrance(self))  # noqa: B010 (mypy knows `forward` as a method)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        del self.model.forward

    def run(self, *arguments: Any, **named: Any) -> Any:
        """The model's own forward, with the call noted for as long as it lasts."""
        given = _SIGNATURE.bind(self.model, *arguments, **named).arguments
        tokens, mask, start = given.get("tokens"), given.get("attention_mask"), given.get("start_at_layer")
        if isinstance(given["input"], list):  # as the model itself will pad them
            text = self.model.to_tokens(given["input"], given.get("prepend_bos"), given.get("padding_side"))
            mask = self.model.padding_mask(text)
        if start is not None and start < 0:
            start += self.model.cfg.n_layers
        call = _Call(mask, given.get("past_kv_cache"), start, tokens if start is not None else None)
        stack = self._calls.setdefault(threading.get_ident(), [])
        stack.append(call)
        try:
            return type(self.model).forward(self.model, *arguments, **named)
        finally:
            stack.pop()
            if not stack:
                del self._calls[threading.get_ident()]

    def _saw_tokens(self, _: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        stack = self._calls.get(threading.get_ident())
        if stack:  # the embedding was called within the model, after any edit at hook_tokens
            stack[-1].tokens = arguments[0]

    def call(self) -> _Call | None:
        stack = self._calls.get(threading.get_ident())
        return stack[-1] if stack else None


class _Entrance:
    """What stands for `forward` on a pinned model; it can be copied with the model, and shows its signature."""

    __signature__ = _SIGNATURE.replace(parameters=list(_SIGNATURE.parameters.values())[1:])

    def __init__(self, owner: Pins) -> None:
        self._owner = owner

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._owner.run(*arguments, **named)


class _Place:
    """The pins of one layer, as a hook at its point of the residual stream."""

    def __init__(self, owner: Pins, layer: int, pins: Sequence[Pin]) -> None:
        self.owner, self.layer, self.pins = owner, layer, pins
        self._subspaces = Subspaces([pin.basis for pin in pins])

    def __call__(self, _: nn.Module, __: Any, resid: Float[Tensor, "batch pos d_model"]) -> Tensor:
        call = self.owner.call()
        if call is not None and call.start_at_layer is not None and call.start_at_layer >= self.layer:
            return resid  # it was handed in as the stream of this very layer
        tokens = None if call is None else call.tokens
        if call is None or tokens is None:
            raise TokensNeeded(
                f"{self.pins[0].concept} is pinned at layer {self.layer}, so a run from a layer below it needs the tokens "
                "too: model(stream, start_at_layer=…, tokens=tokens). From the pinned layer on none are needed."
            )
        with torch.autocast(resid.device.type, enabled=False):
            wide = resid if resid.dtype == torch.float64 else resid.float()
            held = torch.cat([self._held(pin, call, tokens.to(resid.device)) for pin in self.pins], dim=-1).to(wide)
            strength = torch.cat([torch.full((pin.basis.shape[1],), pin.strength) for pin in self.pins]).to(wide)
            change = (held - self._subspaces.coordinates(wide)) * strength
            return self._subspaces.moved(wide, change).to(resid.dtype)

    def _held(self, pin: Pin, call: _Call, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos k"]:
        """Vᵀh₀."""
        stream = call.streams.get(id(pin.copy))
        if stream is None:
            stream = pin.copy.stream(tokens, call.attention_mask, call.cache)
            call.streams[id(pin.copy)] = stream
        return stream @ pin.basis.to(stream)


def residual_point(model: GPT, layer: int) -> nn.Module:
    """The hook point of the residual stream at a layer: 0 = the embedding sum, l = after block l."""
    point: nn.Module
    if layer:
        point = model.blocks[layer - 1].hook_resid_post
    else:
        point = model.blocks[0].hook_resid_pre if len(model.blocks) else model.hook_embed
    return point


def pins_of(model: nn.Module) -> tuple[Pin, ...]:
    """The pins that a model carries; none for an ordinary one."""
    holder: Pins | None = getattr(model, ATTRIBUTE, None)
    return holder.pins if holder is not None else ()


def set_pins(model: GPT, pins: Sequence[Pin]) -> None:
    """Make these the pins of a model, in place of those it had; none makes it an ordinary model again."""
    before: Pins | None = getattr(model, ATTRIBUTE, None)
    if before is not None:
        before.remove()
        delattr(model, ATTRIBUTE)
    if pins:
        setattr(model, ATTRIBUTE, Pins(model, pins))


# ----------------------------------------------------------------------------------------------------- in checkpoints


def frozen_items(state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What a checkpoint's state says of frozen concepts, oldest first; see `train.freeze` for the fields."""
    items: list[dict[str, Any]] = state.get("interventions", {}).get("freeze", {}).get("frozen", [])
    return items


def is_pinned(item: Mapping[str, Any]) -> bool:
    """Whether an item makes the frozen lower copy part of the model."""
    return item["mode"] == "pin" and item["status"] in ("holding", "fading")


def frozen_of(run: "Run", step: int | None = None) -> list[dict[str, Any]]:
    """`frozen_items` of a checkpoint (the newest by default), weights-only ones included.

    Raises:
        CheckpointMissing, CheckpointCorrupt
    """
    from lab.checkpoint_format import STATE, read_files
    from lab.state_json import decode

    return frozen_items(decode(read_files(run.checkpoint_info(step).path, STATE)[1][STATE]))


def read_copy(
    run: Path, item: Mapping[str, Any], model: GPT, read: dict[str, tuple[Tensor, LowerCopy]] | None = None
) -> tuple[Float[Tensor, "d_model k"], LowerCopy]:
    """V and the lower copy of an item, with the pins that were on the model when it was made.

    Args:
        run: the run's folder.
        model: of the shape they belong to.
        read: what was read before, by sha256; filled. A copy that several items stand on is read once.

    Raises:
        LowerCopyDamaged: a file is missing, or not the one that was written.
    """
    read = {} if read is None else read
    digest = str(item["file_sha256"])
    if digest not in read:
        basis, copy = read_lower(run, item, model.cfg)
        # Concepts frozen at one step and layer have files of their own with the same weights: one copy serves them all.
        for _, other in read.values():
            if other.layer == copy.layer and other.beneath == item["beneath"] and other.equals(copy):
                copy = other
        if copy.beneath != item["beneath"]:
            copy.beneath = item["beneath"]
            set_pins(copy.model, [as_pin(run, beneath, model, read) for beneath in item["beneath"]])
        read[digest] = (basis, copy)
    return read[digest]


def as_pin(
    run: Path, item: Mapping[str, Any], model: GPT, read: dict[str, tuple[Tensor, LowerCopy]] | None = None
) -> Pin:
    """The pin that an item describes."""
    basis, copy = read_copy(run, item, model, read)
    return Pin(str(item["concept"]), int(item["layer"]), basis, copy, float(item["strength"]))


def attach(model: GPT, run: Path, state: Mapping[str, Any]) -> None:
    """Put the pins on a model that a checkpoint's state names; a state without any leaves the model as it is.

    Raises:
        LowerCopyDamaged
    """
    read: dict[str, tuple[Tensor, LowerCopy]] = {}
    pins = [as_pin(run, item, model, read) for item in frozen_items(state) if is_pinned(item)]
    if pins:
        set_pins(model, pins)


def refuse_pinned(run: "Run", step: int, format: str) -> None:
    """
    Raises:
        PinnedExport: naming the pins of the checkpoint and the ways out.
    """
    held = [f"{item['concept']} at layer {item['layer']}" for item in frozen_of(run, step) if is_pinned(item)]
    if held:
        raise PinnedExport(
            f"{run.name}: step {step} is pinned ({', '.join(held)}). A frozen lower copy is part of that model, and the "
            f"{format} format has no place for one, so what it would hold is another model. Release the pin and let it fade "
            f"out (lab release {run.name} {held[0].split(' ')[0]}), export an earlier step, or copy the run's folder: copies "
            "keep it."
        )
