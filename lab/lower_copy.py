"""The lower part of a model as it was at one step: the embedding and the blocks below a layer, in float32, never trained.

A freeze needs no more than this and the subspace: what the concept's coordinates were on any text, and what the weights
that write it were. It is one file in the run, `concepts/<name>/frozen-<step>.safetensors`, written once; checkpoints name
it with its sha256.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.durable import replace_file
from lab.errors import LabError
from lab.model import GPT, KeyValueCache
from lab.run_names import resolve_inside
from lab.shape import GPTConfig

if TYPE_CHECKING:
    from lab.concepts import Concept

_LOWER = "lower."


class LowerCopyDamaged(LabError):
    """A frozen lower copy is missing, or is not the one that a checkpoint names."""


class LowerCopyNotWritten(LabError):
    """The disk refused a frozen lower copy; nothing of it is left behind."""


class CacheNotFollowed(LabError):
    """A KV cache holds positions that the frozen lower copy has not seen."""


class LowerCopy:
    """h₀: the residual stream at a layer as an earlier state of the model gives it, on any tokens.

    It is a GPT of `layer` blocks whose head is never used, held apart from the model it was taken of: it is in no state
    dict, follows no `.to()`, has no gradient. Pins that held at the time (`beneath`) are put on it by `lab.pins`.

    Args:
        cfg: the shape of the whole model.
        layer: 0..L.
        weights: `embed.W_E` and the parameters of the blocks below the layer, by their names in the model.

    Raises:
        LowerCopyDamaged: a parameter is missing, or has another shape.
    """

    def __init__(self, cfg: GPTConfig, layer: int, weights: Mapping[str, Tensor]) -> None:
        self.layer = layer
        options: dict[str, Any] = {name: False for name in vars(cfg) if name.startswith("use_")}
        options |= {
            "n_layers": layer,
            "tie_embeddings": True,
            "device": "cpu",
        }  # tied: no second matrix of the vocabulary
        self.model = GPT(replace(cfg, **options)).requires_grad_(False).eval()
        own = dict(self.model.named_parameters())
        del own["ln_final.w"]
        wrong = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
        if wrong or len(own) != len(weights):
            raise LowerCopyDamaged(
                f"a frozen lower copy for layer {layer} does not fit this model: {wrong[:3]} differ."
            )
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(weights[name])
        self.weights: dict[str, Tensor] = {name: parameter.detach() for name, parameter in own.items()}
        self.beneath: list[dict[str, Any]] = []  # the pins that were on the model, as items of a checkpoint's state
        self._caches: WeakKeyDictionary[KeyValueCache, KeyValueCache] = WeakKeyDictionary()

    @property
    def bytes(self) -> int:
        """Of memory that its weights take."""
        return sum(weight.nbytes for weight in self.weights.values())

    def equals(self, other: "LowerCopy") -> bool:
        """Whether the weights are the same, bit for bit."""
        same = self.weights.keys() == other.weights.keys()
        return same and all(
            torch.equal(weight, other.weights[name].to(weight)) for name, weight in self.weights.items()
        )

    def stream(
        self,
        tokens: Int[Tensor, "batch pos"],
        attention_mask: Int[Tensor, "batch pos"] | None = None,
        cache: KeyValueCache | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """The stream at the layer, float32 whatever autocast says, without gradient.

        Args:
            cache: the cache of the whole model's call, before it is filled; a cache of this copy's own goes along with it.

        Raises:
            CacheNotFollowed: that cache has positions which this copy never saw.
        """
        if self.model.W_E.device != tokens.device:
            with torch.inference_mode(False):  # moved while generating, it is used in training too
                self.model.to(tokens.device)
            self.weights = {name: p.detach() for name, p in self.model.named_parameters() if name in self.weights}
        with torch.no_grad(), torch.autocast(tokens.device.type, enabled=False):
            found: Tensor = self.model(
                tokens,
                attention_mask=attention_mask,
                past_kv_cache=None if cache is None else self._own(cache, tokens),
                stop_at_layer=self.layer,
            )
        return found

    def _own(self, cache: KeyValueCache, tokens: Tensor) -> KeyValueCache:
        own = self._caches.get(cache)
        if own is None:
            own = KeyValueCache(self.model.cfg, tokens.shape[0], tokens.device)
            self._caches[cache] = own
        if cache.length > own.length:
            raise CacheNotFollowed(
                f"the KV cache holds {cache.length} positions, but the frozen lower copy of a pin has seen {own.length} of "
                "them. Fill the cache by calling this model, from an empty one on; a copy of a cache is not followed."
            )
        own.length = cache.length  # a cache that was taken back to an earlier length takes its companion back
        return own


@dataclass(frozen=True)
class FrozenFile:
    """Where a frozen lower copy lies: a path relative to the run's folder, its sha256 and its size."""

    file: str
    sha256: str
    bytes: int


def lower_weights(model: GPT, layer: int) -> dict[str, Tensor]:
    """The parameters that decide the stream at a layer: the embedding and the blocks below, by name, not copied."""
    below = tuple(f"blocks.{index}." for index in range(layer))
    return {name: p.detach() for name, p in model.named_parameters() if name == "embed.W_E" or name.startswith(below)}


def write_lower(run: Path, concept: "Concept", model: GPT, step: int) -> FrozenFile:
    """Write the lower part of a model, and the subspace beside it, whole or not at all.

    A file of the same step with other content (of a history that was rewound) stays: checkpoints may name it.

    Raises:
        LowerCopyNotWritten: no room, or a folder that cannot be written to.
    """
    from safetensors.torch import save

    tensors = {_LOWER + name: p.float().cpu().contiguous() for name, p in lower_weights(model, concept.layer).items()}
    about = {"concept": concept.name, "sha256": concept.sha256, "layer": concept.layer, "step": step}
    basis = concept.basis.detach().cpu().float().contiguous()
    # One key: safetensors writes several in an order of chance, and the same freeze is to give the same file.
    content = save(tensors | {"basis": basis}, {"lab": json.dumps(about, sort_keys=True)})
    digest = hashlib.sha256(content).hexdigest()
    folder = resolve_inside(run / "concepts", concept.name)
    file = folder / f"frozen-{step}.safetensors"
    if file.exists() and _digest(file) != digest:
        file = folder / f"frozen-{step}-{digest[:8]}.safetensors"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if not file.exists():
            replace_file(file, content)
    except OSError as error:
        full = error.errno in (ENOSPC, EDQUOT)
        raise LowerCopyNotWritten(
            f"{file}: the frozen lower copy ({len(content) / 1e6:,.1f} MB) could not be written ({error.strerror}). Nothing "
            f"is frozen. {'Free some space' if full else 'Make the folder writable'}, then freeze again."
        ) from error
    return FrozenFile(f"concepts/{concept.name}/{file.name}", digest, len(content))


def read_lower(run: Path, item: Mapping[str, Any], cfg: GPTConfig) -> tuple[Float[Tensor, "d_model k"], LowerCopy]:
    """The subspace and the lower copy that an item of a checkpoint's state names, sha256 checked.

    Raises:
        LowerCopyDamaged: the file is missing, is another one, or does not fit the model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    file = resolve_inside(run, str(item["file"]))
    way = "Copy it back from where the run is whole; without it this checkpoint is another model."
    try:
        content = file.read_bytes()
    except OSError as error:
        raise LowerCopyDamaged(f"{file}: the frozen lower copy cannot be read ({error.strerror}). {way}") from None
    if hashlib.sha256(content).hexdigest() != item["file_sha256"]:
        raise LowerCopyDamaged(f"{file}: is not the frozen lower copy that the checkpoint names. {way}")
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise LowerCopyDamaged(f"{file}: is no safetensors file ({error}). {way}") from None
    weights = {name.removeprefix(_LOWER): tensor for name, tensor in tensors.items() if name.startswith(_LOWER)}
    return tensors["basis"], LowerCopy(cfg, int(item["layer"]), weights)


def _digest(file: Path) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
