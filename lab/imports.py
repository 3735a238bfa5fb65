"""Weights from elsewhere become an ordinary run: probe it, chat with it, train on, freeze in it.

A source is a Llama-shaped Hugging Face folder, the name of one on the hub, a `.gguf` file, the asset `smollm2`, or a folder
with a HookedTransformer 3.9 state dict. No pickle is opened and no code of a source runs. What does not fit is refused by
its field (`llama`, `hooked_format`) before anything is written; the run appears when it is whole.
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.config import PRESETS, RunConfig, load_config
from lab.errors import LabError
from lab.hf_tokenizer import FILES, HFTokenizer
from lab.hooked_format import from_hooked, is_hooked_config, model_of_hooked
from lab.llama import DoesNotFit, from_llama, model_of_llama
from lab.run import Run, RunExists, check_name
from lab.sections import ModelConfig
from lab.tokenizer import BadTokenizer, Tokenizer

if TYPE_CHECKING:
    from torch import Tensor

ASSETS = {"smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf"}  # assets that are models: the weights' file in each
MOST_POSITIONS = 1024  # unless asked for more: the context is also what a training batch is made of
# Fine-tuning wants a small rate and small batches; a preset that is asked for wins over these, and overrides over both.
_DEFAULTS = ("reference.step=0", "optimizer.lr=1e-4", "train.batch=2", "train.accumulation=4", "train.steps=200")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class BadImport(LabError):
    """A source is missing, incomplete, or in a form that is not read."""


@dataclass(frozen=True)
class Found:
    """A model read from a source, in our terms."""

    model: ModelConfig
    weights: "dict[str, Tensor]"
    tokenizer: Tokenizer
    origin: dict[str, Any]


def import_run(
    source: str,
    name: str,
    root: Path,
    n_ctx: int | None = None,
    tokenizer: Path | None = None,
    revision: str | None = None,
    preset: str | None = None,
    overrides: Sequence[str] = (),
) -> Run:
    """Make a run whose checkpoint of step 0 is the source's weights.

    Args:
        source: a folder, a `.gguf` file, `owner/name` on the hub, or `smollm2`.
        n_ctx: positions the run uses; by default what the source declares, at most `MOST_POSITIONS`.
        tokenizer: a folder to take the tokenizer from, where the source brings none.
        revision: of a hub name: branch, tag or commit.
        overrides: `section.key=value` for the run's configuration, its data for instance.

    Raises:
        BadImport, DoesNotFit, BadTokenizer, RunExists, BadName, BadConfig: nothing was made.
    """
    if (root / check_name(name)).exists():
        raise RunExists(f"{root / name}: exists already. Choose another name.")
    if any(override.lstrip().startswith("model.") for override in overrides):
        raise BadImport("--set model.…: the shape comes with the weights. The context alone can be chosen: --n-ctx N")
    settings = [*_defaults(preset), *overrides]
    load_config(preset, None, settings)  # before a download: the configuration is checked as far as it can be
    found = read_source(source, n_ctx, tokenizer, revision)
    shape = [f"model.{key}={_toml(value)}" for key, value in found.model.model_dump(exclude_none=True).items()]
    config = load_config(preset, None, [*settings, *shape])
    return _make(found, name, root, config)


def _defaults(preset: str | None) -> list[str]:
    """What an import sets and the preset that was asked for does not."""
    chosen = PRESETS.get(preset or "", {})

    def is_chosen(default: str) -> bool:
        section, key = default.partition("=")[0].split(".")
        keys = chosen.get(section, {})
        return key in keys or (key == "accumulation" and "batch" in keys)  # the two make one batch

    return [default for default in _DEFAULTS if not is_chosen(default)]


def read_source(
    source: str, n_ctx: int | None = None, tokenizer: Path | None = None, revision: str | None = None
) -> Found:
    """The model and tokenizer behind a source; see `import_run`."""
    path = Path(os.path.expanduser(source))
    if source in ASSETS and not path.exists():
        from lab.assets import asset, installed

        return _read_gguf(
            installed(source) / ASSETS[source], n_ctx, tokenizer, {"asset": source, "licence": asset(source).licence}
        )
    if path.is_file() and path.suffix == ".gguf":
        return _read_gguf(path, n_ctx, tokenizer, {})
    if path.suffix in _PICKLES:
        raise BadImport(f"{source}: is a pickle, which runs code when it is read. Convert it to safetensors first.")
    if path.is_dir():
        return _read_folder(path, n_ctx, tokenizer, {"path": str(path.absolute())})
    if path.exists():
        raise BadImport(f"{source}: is neither a folder nor a .gguf file. Give the folder that holds config.json.")
    if _HUB_NAME.fullmatch(source):
        folder, commit = _from_hub(source, revision)
        return _read_folder(folder, n_ctx, tokenizer, {"hub": source, "commit": commit})
    raise BadImport(
        f"{source}: there is no such folder, .gguf file or asset ({', '.join(ASSETS)}), and it is no hub name "
        "(owner/name). Check the path."
    )


def _read_folder(folder: Path, n_ctx: int | None, tokenizer: Path | None, origin: dict[str, Any]) -> Found:
    config = _json(folder / "config.json")
    hooked = is_hooked_config(config)
    model = _capped(model_of_hooked if hooked else model_of_llama, config, n_ctx)
    tensors = _read_tensors(folder)
    weights = (from_hooked if hooked else from_llama)(tensors, model)
    return Found(
        model,
        weights,
        _tokenizer(tokenizer or folder, model.d_vocab),
        origin | {"format": "hooked" if hooked else "hf"},
    )


def _read_gguf(path: Path, n_ctx: int | None, tokenizer: Path | None, origin: dict[str, Any]) -> Found:
    """Through transformers, which turns quantised blocks into float32 and the file's own tokenizer into tokenizer.json."""
    missing = [package for package in ("accelerate", "gguf") if importlib.util.find_spec(package) is None]
    if missing:  # transformers asks for both, but says so in the middle of loading
        raise BadImport(f"{path}: reading GGUF needs {missing[0]}. Run: pip install 'brightwoven-lab[imports]'")
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    place = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name, "local_files_only": True}
    try:
        config = AutoConfig.from_pretrained(**place).to_dict()
        config.pop("quantization_config", None)
        model = _capped(model_of_llama, config, n_ctx)
        network = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32)
        own = None if tokenizer else AutoTokenizer.from_pretrained(**place)
    except DoesNotFit:
        raise
    except Exception as error:  # transformers and gguf raise many kinds for a file that is damaged or of another sort
        raise BadImport(f"{path}: cannot be read as GGUF ({type(error).__name__}: {error}).") from error
    weights = from_llama(network.state_dict(), model)
    origin = {"path": str(path.absolute()), **origin, "format": "gguf", "sha256": _sha256(path)}
    origin["note"] = "weights were quantised in the file and are their float32 reading"
    if own is None:
        return Found(model, weights, _tokenizer(tokenizer or path.parent, model.d_vocab), origin)
    return Found(model, weights, _saved_tokenizer(own, model.d_vocab), origin)


def _capped(shape_of: Any, config: Mapping[str, Any], n_ctx: int | None) -> ModelConfig:
    model: ModelConfig = shape_of(config, n_ctx)
    return model if n_ctx else model.model_copy(update={"n_ctx": min(model.n_ctx, MOST_POSITIONS)})


def _from_hub(source: str, revision: str | None) -> tuple[Path, str]:
    from huggingface_hub import snapshot_download

    patterns = [
        "config.json",
        "*.safetensors",
        "model.safetensors.index.json",
        *FILES,
        "tokenizer.model",
        "vocab.json",
        "merges.txt",
    ]
    try:
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=patterns))
    except Exception as error:  # no network, no such name, not allowed: the library has a class for each
        raise BadImport(
            f"{source}: is no folder here and could not be fetched from the hub ({type(error).__name__}: "
            f"{(str(error) or 'no reason given').splitlines()[0]}). Check name and network, or give a local folder."
        ) from error
    return folder, folder.name


def _read_tensors(folder: Path) -> "dict[str, Tensor]":
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    files = [folder / "model.safetensors"]
    if not files[0].is_file():
        index = folder / "model.safetensors.index.json"
        names = sorted(set(_json(index)["weight_map"].values())) if index.is_file() else []
        files = [folder / name for name in names if isinstance(name, str) and Path(name).name == name]
    if not files:
        pickled = sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES)
        if pickled:
            raise BadImport(
                f"{folder}: its weights are a pickle ({pickled[0]}), which runs code when it is read. "
                "Convert them to model.safetensors first (transformers: save_pretrained)."
            )
        raise BadImport(f"{folder}: has no model.safetensors. Give the folder that holds the weights.")
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise BadImport(f"{file}: cannot be read ({error}). Take it from its source again.") from error
    return tensors


def _tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    """The lab's own tokenizer, a `tokenizer.json`, or what transformers can turn into one."""
    settings = folder / "tokenizer_config.json"
    if settings.is_file() and "lab_sha256" in _json(settings):
        tokenizer: Tokenizer = Tokenizer.load(folder)
        if tokenizer.vocab_size != vocab_size:
            raise BadTokenizer(
                f"{folder}: has {tokenizer.vocab_size} tokens, but the model's vocab_size is {vocab_size}."
            )
        return tokenizer
    if (folder / "tokenizer.json").is_file():
        return HFTokenizer.adopt(folder, vocab_size)
    if not any((folder / name).is_file() for name in ("tokenizer.model", "vocab.json")):
        raise BadTokenizer(f"{folder}: has no tokenizer.json. Name a folder that has one: --tokenizer FOLDER")
    from transformers import AutoTokenizer

    try:
        return _saved_tokenizer(AutoTokenizer.from_pretrained(str(folder), local_files_only=True), vocab_size)
    except (ValueError, OSError, ImportError) as error:
        raise BadTokenizer(f"{folder}: its tokenizer cannot be converted to tokenizer.json ({error}).") from error


def _saved_tokenizer(tokenizer: Any, vocab_size: int) -> Tokenizer:
    """What transformers writes for a tokenizer it has in memory."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        return HFTokenizer.adopt(Path(folder), vocab_size)


def _make(found: Found, name: str, root: Path, config: RunConfig) -> Run:
    """The run, made whole under a hidden name and renamed: nobody sees one without its weights."""
    from lab import checkpoint
    from lab.records import Event, Records

    hidden = root / f".tmp-import-{os.urandom(4).hex()}"
    try:
        run = Run.create(hidden, name, config)
        found.tokenizer.save(run.tokenizer_folder)
        with Records.writer(run.database) as records:
            segment = records.new_segment(from_step=0, resumed_from=None, config_hash=config.hash())
            text = "weights imported from " + ", ".join(f"{key} {value}" for key, value in found.origin.items())
            records.add_now(Event(kind="import", text=text, at=time.time(), segment=segment, step=0, data=found.origin))
            records.end_segment(segment, 0, "imported")
        state = {
            "imported": True,  # there is no cursor and no generator to go back to: training begins as in a new run
            "step": 0,
            "horizon": config.train.steps,
            "tokens_seen": 0,
            "segment": segment,
            "config_hash": config.hash(),
        }
        checkpoint.save(run.checkpoints_folder, 0, found.weights, {}, state)
        run.update_manifest(imported=found.origin, tokenizer=found.tokenizer.sha256)
        try:
            os.rename(run.path, root / name)
        except OSError as error:
            raise RunExists(f"{root / name}: appeared meanwhile ({error.strerror}). Choose another name.") from None
    finally:
        shutil.rmtree(hidden, ignore_errors=True)
    return Run.open(root / name)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise BadImport(f"{path.parent}: has no {path.name}. Give the folder that holds it.") from None
    except (OSError, ValueError) as error:
        raise BadImport(f"{path}: cannot be read as JSON ({error}).") from None
    if not isinstance(value, dict):
        raise BadImport(f"{path}: is no JSON object.")
    return value


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
