"""The one description of a run: what is trained, on what, and what rides along.

Read from defaults < preset < TOML file < `--set` overrides, checked as a whole, then frozen. Every refusal names the key,
its value and the way out. Nothing here imports torch, so the command line stays quick.
"""

import difflib
import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import tomli_w
from pydantic import BaseModel, ValidationError, model_validator
from pydantic_core import ErrorDetails

from lab.errors import LabError
from lab.sections import (
    CheckInConfig,
    CheckpointConfig,
    DataConfig,
    EvaluationConfig,
    FeedbackConfig,
    FreezeConfig,
    FreezeRequest,
    JournalConfig,
    ModelConfig,
    OptimizerConfig,
    Phase,
    ProbingConfig,
    ReferenceConfig,
    RemedyConfig,
    Section,
    SelfPlayConfig,
    ShimmerConfig,
    Source,
    TrainConfig,
    UnderstandingConfig,
)


class BadConfig(LabError):
    """A key is unknown, has the wrong type, or does not go together with another."""


class RunConfig(Section):
    preset: str = "demo"
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    reference: ReferenceConfig = ReferenceConfig()
    probing: ProbingConfig = ProbingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    understanding: UnderstandingConfig = UnderstandingConfig()
    self_play: SelfPlayConfig = SelfPlayConfig()
    check_ins: CheckInConfig = CheckInConfig()
    journal: JournalConfig = JournalConfig()
    shimmer: ShimmerConfig = ShimmerConfig()
    remedy: RemedyConfig = RemedyConfig()
    feedback: FeedbackConfig = FeedbackConfig()
    freeze: FreezeConfig = FreezeConfig()

    @model_validator(mode="after")
    def sections_fit_each_other(self) -> Self:
        steps, last = self.train.steps, self.data.phases[-1].from_step
        if last >= steps:
            raise ValueError(
                f"data.phases: a phase starts at step {last}, but train.steps = {steps}, so it would never come. "
                "Start it earlier or train longer."
            )
        if self.optimizer.warmup_steps > steps:
            raise ValueError(
                f"optimizer.warmup_steps = {self.optimizer.warmup_steps} is more than train.steps = {steps}. "
                "Warm up for fewer steps."
            )
        if self.reference.step is not None and self.reference.step > steps:
            raise ValueError(
                f"reference.step = {self.reference.step} is after the last step, {steps}. Choose one that is reached."
            )
        if self.check_ins.system_from > steps:
            raise ValueError(
                f"check_ins.system_from = {self.check_ins.system_from} is after the last step, {steps}, so the system "
                "prompt would never be used. Introduce it earlier."
            )
        if self.feedback.every and not self.self_play.every:
            raise ValueError(
                f"feedback.every = {self.feedback.every}, but self_play.every = 0, so there would be nothing to feed back. "
                "Switch self-play on, or feedback off."
            )
        if self.remedy.every and not self.self_play.every and not self.remedy.continuations:
            raise ValueError(
                f"remedy.every = {self.remedy.every}, but self_play.every = 0 and remedy.continuations = 0, so there would "
                "be nothing to go by. Switch one of them on, or the remedy off."
            )
        if self.feedback.every and not self.evaluation.every:
            raise ValueError(
                f"feedback.every = {self.feedback.every}, but evaluation.every = 0, so nobody would see when it does harm. "
                "Switch evaluation on, or feedback off."
            )
        if self.probing.layers != "all":
            wrong = [layer for layer in self.probing.layers if not 0 <= layer <= self.model.n_layers]
            if wrong or not self.probing.layers:
                raise ValueError(
                    f"probing.layers has {wrong[0] if wrong else 'nothing'}, but the model has layers "
                    f'0..{self.model.n_layers}. Use layers in that range, or "all".'
                )
        return self

    def to_toml(self) -> str:
        """The whole configuration as a TOML file that `load_config` reads back to an equal one."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))

    def hash(self) -> str:
        """sha256 over the canonical JSON form; equal configurations have equal hashes, however they were written."""
        canonical = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()


# Step counts aim at a machine: `tiny` at a test, `demo` at four minutes and `laptop` at half an hour on two CPU cores,
# `8gb` at a night on an 8 GB graphics card.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "model": {"n_layers": 2, "d_model": 64, "n_heads": 4, "n_ctx": 64},
        "train": {"steps": 200, "batch": 8},
        "optimizer": {"warmup_steps": 20},
        "checkpoint": {"every": 50},
        "probing": {"every": 100, "sentences": 120},
        "evaluation": {"every": 50, "tokens": 4096},
    },
    "demo": {
        "model": {"n_layers": 6, "d_model": 128, "n_heads": 4, "n_ctx": 128},
        "train": {"steps": 400, "batch": 32},
        # Muon by measurement (tests/benchmarks/race.py): the best of four rates. The larger presets have not been raced.
        "optimizer": {"kind": "muon", "lr": 5e-3, "muon_lr": 6e-3},
    },
    "laptop": {
        "model": {"n_layers": 6, "d_model": 256, "n_heads": 8, "n_ctx": 256},
        "train": {"steps": 1500, "batch": 16},
        "optimizer": {"lr": 3e-3, "warmup_steps": 100},
        "checkpoint": {"every": 250},
        "probing": {"every": 250},
        "evaluation": {"every": 250},
        # 864 tokens a visit: 4 s, against five minutes of training between two (1.5 %).
        "self_play": {"every": 250, "turns": 6},
        "check_ins": {"every": 250, "prompts": 4, "samples": 2},
        "journal": {"every": 250, "max_tokens": 96},
    },
    "8gb": {
        "model": {"n_layers": 12, "d_model": 768, "n_heads": 12, "n_ctx": 512, "d_vocab": 16384},
        # 64 sequences a step, 16 at a time: 6.7 GB by `lab plan`. At 32 it would be 10.6, at 8 a third lies idle.
        "train": {"steps": 20_000, "batch": 16, "accumulation": 4},
        "optimizer": {"lr": 6e-4, "warmup_steps": 500},
        "checkpoint": {"every": 1000},
        "probing": {"every": 1000},
        "evaluation": {"every": 500, "tokens": 262_144},
    },
}


def load_config(preset: str | None = None, file: Path | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """Resolve a configuration: defaults < preset < file < overrides (`section.key=value`, the value read as TOML).

    Raises:
        BadConfig: naming the key, its value and the remedy.
    """
    from_file = _read_toml(file) if file else {}
    name = preset or from_file.get("preset") or "demo"
    if not isinstance(name, str) or name not in PRESETS:
        raise BadConfig(f"preset = {name!r} is none of ours. Presets are: {', '.join(PRESETS)}.")
    values: dict[str, Any] = {}
    _merge(values, PRESETS[name])
    _merge(values, from_file)
    values["preset"] = name
    for override in overrides:
        parsed = _parse_override(override)
        if "preset" in parsed:
            raise BadConfig("--set preset=… would name another shape than is trained. Use --preset.")
        _merge(values, parsed)
    return _checked(values, origin=str(file) if file else "configuration")


def _checked(values: Mapping[str, Any], origin: str) -> RunConfig:
    try:
        return RunConfig.model_validate(_tuples(values))
    except ValidationError as error:
        raise BadConfig("\n".join(f"{origin}: {_explain(detail)}" for detail in error.errors()[:5])) from None


def _explain(detail: ErrorDetails) -> str:
    key = ".".join(
        str(part) for part in detail["loc"] if part != "literal['all']" and not str(part).startswith("tuple[")
    )
    if detail["type"] == "extra_forbidden":
        known = _keys_beside(detail["loc"])
        close = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        hint = f"Did you mean {close[0]}?" if close else f"Keys there are: {', '.join(known)}."
        return f"{key} is no key of the configuration. {hint}"
    if detail["type"] == "value_error":
        message = str(detail["ctx"]["error"])
        return message if "." in message.split(" ")[0] or not key else f"{key}: {message}"
    return (
        f"{key} = {detail['input']!r}: {detail['msg'][0].lower()}{detail['msg'][1:]}. Change the value or take it out."
    )


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    fields = RunConfig.model_fields
    for part in location[:-1]:
        if not isinstance(part, str):
            continue
        annotation = fields[part].annotation if part in fields else None
        annotation = {"sources": Source, "phases": Phase, "concepts": FreezeRequest}.get(part, annotation)
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        fields = annotation.model_fields
    return list(fields)


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise BadConfig(f"{file}: there is no such configuration file. Check the path.") from None
    except (IsADirectoryError, PermissionError, UnicodeDecodeError) as error:
        raise BadConfig(f"{file}: cannot be read as a TOML file ({error}). Give a text file.") from None
    except tomllib.TOMLDecodeError as error:
        raise BadConfig(f"{file}: is not valid TOML: {error}. Mend that line.") from None


def _parse_override(text: str) -> dict[str, Any]:
    key, sign, raw = text.partition("=")
    key = key.strip()
    if not sign or not key or not all(key.split(".")):
        raise BadConfig(f"--set {text!r} is not section.key=value. Write --set train.steps=2000, for example.")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except tomllib.TOMLDecodeError:
        value = raw.strip()  # a bare word is text: --set train.device=cpu
    nested: dict[str, Any] = {}
    inner = nested
    *path, last = key.split(".")
    for part in path:
        inner = inner.setdefault(part, {})
    inner[last] = value
    return nested


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for key, value in more.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict) and key != "weights":
            _merge(into[key], value)
        elif isinstance(value, Mapping):
            into[key] = {}
            _merge(into[key], value)
        else:
            into[key] = value


def _tuples(value: Any) -> Any:
    """TOML has arrays, a frozen configuration has tuples, and strict types do not mix them."""
    if isinstance(value, Mapping):
        return {key: _tuples(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_tuples(inner) for inner in value)
    return value
