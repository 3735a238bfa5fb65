"""Activations of chosen hooks over a text, to disk: safetensors shards and a manifest that says what they are.

The forward pass stops at the last layer that is asked for, keeps no graph and holds one shard at a time. A collection that
was interrupted goes on behind its last whole shard; `manifest.json` is written last, so a folder that has one is complete.
"""

import difflib
import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Int
from safetensors.torch import save
from torch import Tensor

from lab.durable import replace_file
from lab.errors import LabError
from lab.model import GPT

if TYPE_CHECKING:
    from lab.run import Run
    from lab.tokenizer import Tokenizer

FORMAT = 1
MANIFEST, PLAN = "manifest.json", "collecting.json"
LAYERS = (
    "0 = blocks.0.hook_resid_pre (the embedding sum), l = blocks.{l-1}.hook_resid_post (after block l, before ln_final)"
)
SHARD_BYTES = 256_000_000
_DTYPES = {"float16": torch.float16, "float32": torch.float32}
Dtype = Literal["float16", "float32"]


class BadCollection(LabError):
    """A hook, a setting or a folder that cannot be collected into."""


@dataclass(frozen=True)
class Collection:
    """What `collect` wrote."""

    folder: Path
    manifest: dict[str, Any]


def hook_of_layer(layer: int, n_layers: int) -> str:
    """The residual stream at a layer 0..n_layers, by the name of its hook. Raises BadCollection outside."""
    if not 0 <= layer <= n_layers:
        raise BadCollection(f"--layer {layer}: the model has layers 0..{n_layers}.")
    return "blocks.0.hook_resid_pre" if layer == 0 else f"blocks.{layer - 1}.hook_resid_post"


def stop_layer(hooks: Iterable[str]) -> int | None:
    """The first block that no hook needs; None when something after the last block is asked for."""
    stop = 0
    for name in hooks:
        block = re.match(r"blocks\.(\d+)\.", name)
        if block is None and name not in ("hook_embed", "hook_tokens"):
            return None
        stop = max(stop, int(block[1]) + 1 if block else 0)
    return stop


def windows(
    documents: Iterable[str], tokenizer: "Tokenizer", context: int, tokens: int | None = None
) -> Iterator[list[int]]:
    """The text as windows of `context` ids, documents one after another, each behind `bos`; the last one may be shorter.

    Args:
        tokens: stop after this many.
    """
    buffer: list[int] = []
    left = tokens
    for document in documents:
        buffer += [tokenizer.bos, *tokenizer.encode(document)]
        while len(buffer) >= context and (left is None or left >= context):
            yield buffer[:context]
            buffer = buffer[context:]
            left = None if left is None else left - context
        if left is not None and left < context <= len(buffer):
            break
    rest = buffer[: context if left is None else min(left, context)]
    if rest:
        yield rest


def collect(
    model: GPT,
    tokenizer: "Tokenizer",
    documents: Iterable[str],
    hooks: Sequence[str],
    out: Path,
    *,
    context: int | None = None,
    batch: int = 16,
    tokens: int | None = None,
    dtype: Dtype = "float16",
    source: dict[str, Any] | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> Collection:
    """Run the model over a text and keep what fires at `hooks`.

    Args:
        documents: raw texts, in a fixed order; an interrupted collection is continued by calling again with the same.
        hooks: names; opt-in points (attn.hook_result, …) are switched on for the time.
        context: ids per window (default: all that the model reads).
        batch: windows per forward pass.
        source: what the manifest repeats and continuing compares: run, step, sha256 of weights and text.

    Returns:
        The folder: `shard-00000.safetensors` … each with `tokens` [window, pos] (int32) and one tensor
        [window, pos, …] per hook, and the manifest.

    Raises:
        BadCollection: an unknown hook, a folder in use, or a value that float16 cannot hold.
    """
    context = context or model.cfg.n_ctx
    if not 1 <= context <= model.cfg.n_ctx or batch < 1 or (tokens is not None and tokens < 1):
        raise BadCollection(
            f"context = {context}, batch = {batch}, tokens = {tokens}: use a context of 1..{model.cfg.n_ctx}, and 1 or more."
        )
    names = _checked(model, hooks)
    per_window = context * _bytes_per_token(model, names, context, dtype)
    per_shard = max(batch, shard_bytes // max(1, per_window) // batch * batch)
    plan = {
        "format": FORMAT, "hooks": names, "dtype": dtype, "context": context, "windows_per_shard": per_shard,
        "tokens_wanted": tokens, "tokenizer_sha256": tokenizer.sha256, "source": source or {},
    }  # fmt: skip
    shards = _open(out, plan)
    if (out / MANIFEST).is_file():
        return Collection(out, json.loads((out / MANIFEST).read_text(encoding="utf8")))
    stop = stop_layer(names)
    rows = windows(documents, tokenizer, context, tokens)
    done = sum(shard["windows"] for shard in shards)
    next(itertools.islice(rows, done, done), None)
    with _switched_on(model, names):
        while chunk := list(itertools.islice(rows, per_shard)):
            whole = [row for row in chunk if len(row) == context]
            for part in (whole, chunk[len(whole) :]):  # the shorter last window is a shard of its own
                if part:
                    tensors = _run(model, part, names, stop, batch, _DTYPES[dtype])
                    shards.append(_write_shard(out, len(shards), tensors))
    if not shards:
        (out / PLAN).unlink()
        raise BadCollection("the text holds no token. Give one with --text, or another one.")
    shapes = shards[0]["shapes"]
    manifest = plan | {
        "layers": LAYERS,
        "stop_at_layer": stop,
        "hooks": {name: {"shape": ["window", "pos", *shapes[name][2:]], "dtype": dtype} for name in names},
        "tokens_key": "tokens",
        "windows": sum(shard["windows"] for shard in shards),
        "tokens": sum(shard["tokens"] for shard in shards),
        "shards": [{key: value for key, value in shard.items() if key != "shapes"} for shard in shards],
    }
    replace_file(out / MANIFEST, json.dumps(manifest, indent=1).encode())
    (out / PLAN).unlink()
    return Collection(out, manifest)


def collect_run(
    run: "Run",
    hooks: Sequence[str],
    out: Path,
    *,
    text: Path | None = None,
    step: int | None = None,
    device: str = "cpu",
    **options: Any,
) -> Collection:
    """`collect` with a run's checkpoint, over a text file or folder, by default over the run's own validation documents.

    Raises:
        BadCollection: as `collect`, or a device that is not there.
    """
    from lab.hf_tokenizer import load_tokenizer
    from lab.sections import Source
    from lab.sources import documents, fingerprint, position

    place = _device(device)
    info = run.checkpoint_info(step)
    model, tokenizer = run.model(info.step).to(place), load_tokenizer(run.tokenizer_folder)
    share = 1.0 if text else run.config.data.validation_share
    if text:
        kind: Literal["folder", "jsonl", "text"] = (
            "folder" if text.is_dir() else "jsonl" if text.suffix == ".jsonl" else "text"
        )
        sources: tuple[Source, ...] = (Source(name="text", kind=kind, path=str(text)),)
    else:
        sources = run.config.data.sources
    chosen = (each.text for source in sources for each, _ in documents(source) if position(each.digest) < share)
    source = {
        "run": run.name,
        "step": info.step,
        "weights_sha256": info.weights_sha256,
        "text_sha256": hashlib.sha256("".join(map(fingerprint, sources)).encode()).hexdigest(),
        "text": str(text) if text else "validation documents of the run",
    }
    return collect(model, tokenizer, chosen, hooks, out, source=source, **options)


@torch.inference_mode()
def _run(
    model: GPT, rows: Sequence[list[int]], names: Sequence[str], stop: int | None, batch: int, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Tensors of one shard, on the CPU: ids and, per hook, what fired, row by row."""
    ids: Int[Tensor, "window pos"] = torch.tensor(rows, dtype=torch.long)
    out: dict[str, Tensor] = {"tokens": ids.to(torch.int32)}
    start = 0

    def keep(activation: Tensor, hook: Any) -> None:
        if hook.name not in out:
            out[hook.name] = torch.empty((len(rows), *activation.shape[1:]), dtype=dtype)
        out[hook.name][start : start + activation.shape[0]].copy_(activation)

    with model.hooks(fwd_hooks=[(name, keep) for name in names]):
        for start in range(0, len(rows), batch):
            model(ids[start : start + batch].to(model.W_E.device), return_type="logits", stop_at_layer=stop)
    if dtype == torch.float16:
        for name in names:
            if bool(out[name].isinf().any()) and "scores" not in name:  # masked scores are -inf on purpose
                raise BadCollection(f"{name}: a value is beyond float16's 65504. Use --dtype float32.")
    return out


def _write_shard(out: Path, index: int, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """One shard and, in the plan, the fact that it is whole; the shard first."""
    file = f"shard-{index:05d}.safetensors"
    content = save(tensors)
    replace_file(out / file, content)
    shard = {
        "file": file,
        "sha256": hashlib.sha256(content).hexdigest(),
        "windows": tensors["tokens"].shape[0],
        "tokens": tensors["tokens"].numel(),
        "shapes": {name: list(tensor.shape) for name, tensor in tensors.items()},
    }
    plan = json.loads((out / PLAN).read_text(encoding="utf8"))
    plan["shards"].append(shard)
    replace_file(out / PLAN, json.dumps(plan, indent=1).encode())
    return shard


def _open(out: Path, plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Shards of an interrupted collection of the very same plan; a new folder otherwise."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadCollection(f"{out}: cannot be made ({error.strerror}). Choose another --out.") from error
    complete = out / MANIFEST
    if complete.is_file() or (out / PLAN).is_file():
        before = _read_plan(complete if complete.is_file() else out / PLAN)
        found = before | {"hooks": list(before["hooks"])}  # names in a plan, names and shapes in a manifest
        differing = [key for key, value in plan.items() if found.get(key) != value]
        if differing:
            raise BadCollection(f"{out}: holds another collection (its {differing[0]} differs). Choose another --out.")
        return list(before["shards"])
    if any(out.iterdir()):
        raise BadCollection(f"{out}: is not empty, and no collection of this tool. Choose another --out.")
    replace_file(out / PLAN, json.dumps(plan | {"shards": []}, indent=1).encode())
    return []


def _read_plan(file: Path) -> dict[str, Any]:
    """A plan or manifest of ours: other tools call their files manifest.json too."""
    try:
        before = json.loads(file.read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        raise BadCollection(f"{file}: cannot be read as JSON ({error}). Choose another --out.") from None
    ours = (
        isinstance(before, dict)
        and isinstance(before.get("format"), int)
        and isinstance(before.get("hooks"), list | dict)
        and isinstance(before.get("shards"), list)
    )
    if not ours:
        raise BadCollection(f"{file}: is of something else, no collection of this tool. Choose another --out.")
    return dict(before)


def _device(name: str) -> torch.device:
    """The device, if this machine has it."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BadCollection(f"--device {name}: is no device. Use cpu, cuda or mps.") from None
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if device.type not in there:
        raise BadCollection(f"--device {name}: is none that collecting runs on. Use cpu, cuda or mps.")
    if not there[device.type]:
        raise BadCollection(f"--device {name}: this machine has none, as far as torch can tell. Use cpu.")
    return device


def _checked(model: GPT, hooks: Sequence[str]) -> list[str]:
    if not hooks:
        raise BadCollection("--hook: name at least one, blocks.0.hook_resid_post for example.")
    for name in hooks:
        if name not in model.hook_dict:
            near = difflib.get_close_matches(name, model.hook_dict, n=3, cutoff=0.4)
            raise BadCollection(f"--hook {name}: the model has no such hook. Near it: {', '.join(near) or 'none'}.")
    return list(dict.fromkeys(hooks))


class _switched_on:
    """The options that make opt-in points fire, set within and put back after."""

    def __init__(self, model: GPT, names: Sequence[str]) -> None:
        deaf = model.deaf_points()
        self.model, self.options = model, sorted({deaf[name] for name in names if name in deaf})

    def __enter__(self) -> None:
        for option in self.options:
            getattr(self.model, f"set_{option}")(True)

    def __exit__(self, *_: object) -> None:
        for option in self.options:
            getattr(self.model, f"set_{option}")(False)


def _bytes_per_token(model: GPT, names: Sequence[str], context: int, dtype: Dtype) -> int:
    """Measured on two tokens; rows of attention are as long as the context."""
    with _switched_on(model, names):
        found = _run(model, [[0, 0]], names, stop_layer(names), 1, torch.float32)
    size: int = 2 if dtype == "float16" else 4
    attention = [name for name in names if name.endswith(("hook_attn_scores", "hook_pattern"))]
    plain: int = sum(found[name].numel() // 2 for name in names if name not in attention)
    return int(size * (plain + len(attention) * model.cfg.n_heads * context))
