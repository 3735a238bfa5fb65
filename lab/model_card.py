"""The README.md of an exported folder: what the model is, what was measured on it, and what it cannot be trusted with.

Numbers come from the run's records, each with its step, interval and n. Nothing that the model wrote is quoted.
"""

from typing import TYPE_CHECKING

from lab.errors import LabError

if TYPE_CHECKING:
    from lab.records import Reading, Records
    from lab.run import Run

_HF_USE = """\
```python
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained("{folder}")
tokenizer = AutoTokenizer.from_pretrained("{folder}")

from transformer_lens.model_bridge import TransformerBridge      # transformer-lens 4.x, hooks by their usual names
bridge = TransformerBridge.boot_transformers("{folder}", device="cpu")
```
"""
_HOOKED_USE = """\
```python
import json                                                      # transformer-lens 3.x
from safetensors.torch import load_file
from transformer_lens import HookedTransformer, HookedTransformerConfig
model = HookedTransformer(HookedTransformerConfig(**json.load(open("{folder}/config.json"))))
model.load_state_dict(load_file("{folder}/model.safetensors"), strict=False)   # its masks and rotary tables it makes itself
```
"""


def card(run: "Run", step: int, kind: str) -> str:
    """The card of a checkpoint exported as `kind` ("hf" or "hooked"), as Markdown with the hub's front matter."""
    config, model = run.config, run.config.model
    imported = run.manifest.get("imported") or {}
    origin = imported.get("hub") or imported.get("asset")
    front = ["library_name: transformers", "pipeline_tag: text-generation", "tags: [brightwoven-lab, interpretability]"]
    front += [f"license: {'apache-2.0' if imported.get('licence') == 'Apache-2.0' and step == 0 else 'other'}"]
    heads = f"{model.n_heads} heads" + (
        f" ({model.n_key_value_heads} of keys and values)" if model.n_key_value_heads else ""
    )
    lines = ["---", *front, "---", "", f"# {run.name}, step {step}", ""]
    lines += [
        f"A Llama-shaped decoder: {model.n_layers} layers, {model.d_model} wide, {heads}, context {model.n_ctx}, "
        f"vocabulary {model.d_vocab}, {'tied' if model.tie_embeddings else 'untied'} embeddings. "
        f"Made with Brightwoven Lab (configuration {config.hash()[:12]}, seed {config.train.seed}).",
        "",
    ]
    if imported:
        lines += [
            f"Its weights at step 0 were imported{f' from {origin}' if origin else ''}"
            f"{'; ' + imported['note'] if 'note' in imported else ''}.",
            "",
        ]
    lines += ["## Use", "", (_HF_USE if kind == "hf" else _HOOKED_USE).format(folder="path/to/this/folder")]
    lines += ["## Training", "", *_training(run, step), ""]
    try:
        with run.records() as records:
            lines += ["## Measured", "", *_numbers(records, step), "", *_probes(records, step)]
    except LabError as error:  # an old or damaged database must not keep the weights from being exported
        lines += ["## Measured", "", f"The run's records could not be read: {error}", ""]
    return "\n".join([*lines, *_limits(step, bool(imported))]) + "\n"


def _training(run: "Run", step: int) -> list[str]:
    data = run.config.data
    if step == 0:
        return ["None in this lab: these are the weights it began with."]
    train = run.config.train
    lines = [f"{step} steps of {train.batch * train.accumulation} sequences of {run.config.model.n_ctx} tokens."]
    for phase in data.phases:
        if phase.from_step < step:
            shares = ", ".join(f"{name} {weight:g}" for name, weight in phase.weights.items())
            lines.append(f"- from step {phase.from_step}: {shares}")
    kinds = ", ".join(f"{source.name} ({source.kind})" for source in data.sources)
    return [*lines, "", f"Sources: {kinds}. Their licences apply; the lab states none for the weights."]


def _numbers(records: "Records", step: int) -> list[str]:
    lines = []
    for name, unit in (("validation/bits_per_byte", "bits per byte"), ("validation/loss", "nats per token")):
        points = [(at, value) for _, at, value in records.series(name, max_points=100_000) if at <= step]
        if points:
            lines.append(f"- validation: {points[-1][1]:.4f} {unit} (step {points[-1][0]})")
    return lines or ["No validation was recorded up to this step."]


def _probes(records: "Records", step: int) -> list[str]:
    steps = [at for at in records.reading_steps() if at <= step]
    if not steps:
        return ["No probe was read up to this step.", ""]
    by_task: dict[str, list[Reading]] = {}
    for reading in records.readings(step=steps[-1]):
        by_task.setdefault(reading.task, []).append(reading)
    lines = [
        f"Layer-wise probes at step {steps[-1]}: linearly usable bits per word, out of fold, with 95 % intervals over "
        "sentences. Layer 0 is the embedding sum, layer l is after block l, before the final norm; the last column is the "
        "same reading on a randomly initialised twin.",
        "",
    ]
    for task, readings in sorted(by_task.items()):
        lines += [f"### {task}", "", "| layer | bits | interval | n | random twin |", "|---|---|---|---|---|"]
        for one in sorted(readings, key=lambda one: one.layer):
            twin = "" if one.baseline is None else f"{one.baseline:.3f}"
            lines.append(f"| {one.layer} | {one.value:.3f} | {one.lo:.3f} to {one.hi:.3f} | {one.n} | {twin} |")
        lines.append("")
    return lines


def _limits(step: int, imported: bool) -> list[str]:
    lines = [
        "## Limits",
        "",
        "- A research model for looking inside, not for use: it states falsehoods fluently and repeats what its text holds, "
        "stereotypes included. Nothing here was tuned or tested for safety.",
        "- Probes show what is linearly readable at a layer, not what the model uses; a reading that layer 0 has already is "
        "lexical.",
        "- Logits agree with the lab's own to float noise (1e-5 of the largest logit); attention that is observed is "
        "computed by another kernel and differs as much.",
    ]
    if imported:
        lines.append("- The imported weights keep their own authors' licence and limits.")
    return lines
