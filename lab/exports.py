"""A checkpoint as other programs read it: a Llama folder, or a HookedTransformer 3.9 state dict.

The Llama folder opens in transformers, TransformerBridge 4.x, nnsight and lm-eval; the same numbers, so logits agree to
float noise. Everything is written under a hidden name beside the target and renamed when it is whole. Records go out
through `record_exports`; what the model card says is put together in `model_card`.
"""

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.durable import sync_folder
from lab.errors import LabError
from lab.hf_tokenizer import SETTINGS, load_tokenizer
from lab.hooked_format import hooked_config, to_hooked
from lab.llama import llama_config, to_llama
from lab.model_card import card

if TYPE_CHECKING:
    from torch import Tensor

    from lab.run import Run

FORMATS = ("hf", "hooked", "parquet", "tensorboard")
OF_A_STEP = ("hf", "hooked")


class BadExport(LabError):
    """An unknown format, or a target that is in use."""


def export(run: "Run", to: str, step: int | None = None, out: Path | None = None) -> Path:
    """Write one of `FORMATS` and return its folder.

    Args:
        step: of the checkpoint, for the formats that are one (default: the newest).
        out: the target folder; by default inside the run's `exports/`.

    Raises:
        BadExport: unknown format, or a target that holds something.
        CheckpointMissing: naming the steps there are.
        PinnedExport: a concept is pinned in that checkpoint, and no foreign format holds its frozen lower copy.
    """
    if to not in FORMATS:
        raise BadExport(f"--to {to!r}: is no format. Formats are: {', '.join(FORMATS)}.")
    if to not in OF_A_STEP:
        if step is not None:
            raise BadExport(f"--step {step}: {to} holds the records of all steps. Leave --step out.")
        from lab.record_exports import to_parquet, to_tensorboard

        target = out or run.exports / to
        with _appearing(target) as folder:
            (to_parquet if to == "parquet" else to_tensorboard)(run, folder)
        return target
    from lab.pins import refuse_pinned

    info = run.checkpoint_info(step)
    refuse_pinned(run, info.step, to)
    target = out or run.exports / f"{to}-step-{info.step}"
    with _appearing(target) as folder:
        write: Callable[[Run, int, Path], None] = write_hf if to == "hf" else write_hooked
        write(run, info.step, folder)
    return target


def write_hf(run: "Run", step: int, folder: Path) -> None:
    """config.json, model.safetensors, tokenizer files, generation_config.json and a model card (README.md)."""
    weights, d_mlp = _weights(run, step)
    tokenizer = load_tokenizer(run.tokenizer_folder)
    ids = {"bos_token_id": tokenizer.bos, "eos_token_id": tokenizer.end, "pad_token_id": tokenizer.pad}
    _write_tensors(folder / "model.safetensors", to_llama(weights, run.config.model))
    _write_json(
        folder / "config.json", llama_config(run.config.model, d_mlp, tokenizer.bos, tokenizer.end, tokenizer.pad)
    )
    _write_json(folder / "generation_config.json", ids)
    _copy_tokenizer(run, folder)
    (folder / "README.md").write_text(card(run, step, "hf"), encoding="utf8")


def write_hooked(run: "Run", step: int, folder: Path) -> None:
    """config.json (arguments of HookedTransformerConfig), model.safetensors, the tokenizer, and how to load them."""
    weights, d_mlp = _weights(run, step)
    _write_tensors(folder / "model.safetensors", to_hooked(weights, run.config.model))
    _write_json(folder / "config.json", hooked_config(run.config.model, d_mlp, run.name))
    _copy_tokenizer(run, folder)
    (folder / "README.md").write_text(card(run, step, "hooked"), encoding="utf8")


def _weights(run: "Run", step: int) -> "tuple[dict[str, Tensor], int]":
    from lab.checkpoint import read_weights

    weights = read_weights(run.checkpoint_info(step).path)
    return weights, weights["blocks.0.mlp.W_in"].shape[1]  # the default width is decided where the model is built


def _copy_tokenizer(run: "Run", folder: Path) -> None:
    for file in sorted(run.tokenizer_folder.iterdir()):
        if file.is_file() and file.name != SETTINGS and not file.name.startswith("."):
            shutil.copyfile(file, folder / file.name)


def _write_tensors(path: Path, tensors: "dict[str, Tensor]") -> None:
    from safetensors.torch import save_file

    save_file(tensors, path, metadata={"format": "pt"})  # transformers looks for this key


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf8")


@contextlib.contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A hidden folder that takes the target's name when the block ends well, and is gone when it does not."""
    if target.is_file() or target.is_symlink() or (target.is_dir() and any(target.iterdir())):
        raise BadExport(f"{target}: exists and is not an empty folder. Choose another with --out, or delete it first.")
    folder = target.parent / f".tmp-{target.name}-{secrets.token_hex(4)}"
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise BadExport(f"{target}: cannot be made ({error.strerror}). Choose another with --out.") from error
    try:
        yield folder
        for file in (each for each in folder.rglob("*") if each.is_file()):
            with file.open("rb") as written:
                os.fsync(written.fileno())
        sync_folder(folder)
        try:
            os.rename(folder, target)  # onto an empty folder, or nothing
        except OSError as error:
            raise BadExport(f"{target}: was taken meanwhile ({error.strerror}). Choose another with --out.") from error
        sync_folder(target.parent)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
