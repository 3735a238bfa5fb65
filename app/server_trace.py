"""A text as one checkpoint reads it: tokens, what each layer would say next, what the probes read, how concepts score.

Per layer 0..L (0 = embedding sum, l = after block l, before the final norm) and position. The ridge lens and the
closed-form probes are fitted on the run's probe set at that checkpoint, once, and kept. Pure but for reading the run.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from app.server_answers import TooLong
from app.server_weights import Loaded
from lab import concepts
from lab.errors import LabError
from lab.run import Run
from probes.layers.collect import collect, residual_names
from probes.layers.discriminant import Alone
from probes.layers.fit import log_prior, read_alone, usable_bits
from probes.layers.groups import ENOUGH_DOCUMENTS
from probes.layers.labels import NO_LABEL, BadProbeSet, ProbeSet
from probes.layers.lens import LOGIT_LENS, Head, Lens, fit_ridge
from probes.layers.problem import Untestable, assign_folds, one_thread, prepare
from train.probing import Bench
from train.profiles import LAYERS

MOST_POSITIONS = 256  # an answer of some megabytes for a dozen layers
KEPT = 4  # checkpoints whose fits are remembered
DIGITS = 5


class AttentionHead(BaseModel):
    """An attention head: block 0..L-1, head 0..H-1."""

    model_config = ConfigDict(extra="forbid")

    block: int = Field(ge=0, le=1000)
    head: int = Field(ge=0, le=1000)


class TraceRequest(BaseModel):
    """What to look at, and how closely."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, max_length=128)
    text: str = Field(min_length=1, max_length=32 * 1024)
    top_k: int = Field(5, ge=1, le=20)
    lens: Literal["ridge", "logit"] = "ridge"
    probes: bool = True
    concepts: bool = True
    attention: AttentionHead | None = None


@dataclass(frozen=True)
class Probe:
    """The closed-form probes of one label, one a layer.

    Attributes:
        bits: usable bits per word of held-out folds: how much to believe it.
        n: labelled words it was fitted on.
    """

    classes: tuple[str, ...]
    weight: Float[Tensor, "layer d_model class"]
    bias: Float[Tensor, "layer class"]
    bits: tuple[float, ...]
    n: int

    def read(self, values: Float[Tensor, "layer pos d_model"]) -> Float[Tensor, "layer pos class"]:
        """Probability of each class."""
        return torch.softmax(torch.baddbmm(self.bias[:, None], values, self.weight), dim=-1)


@dataclass(frozen=True)
class Fitted:
    """What was fitted at one checkpoint; a label or lens that cannot be, with the reason."""

    lens: Lens
    probes: Mapping[str, Probe] = field(default_factory=dict)
    untestable: Mapping[str, str] = field(default_factory=dict)


def fit_probe(
    values: Float[Tensor, "layer word d_model"],
    label: Tensor,
    sentence: Tensor,
    folds: Tensor,
    classes: tuple[str, ...],
    task: str,
) -> Probe:
    """The probes of `probes.layers.fit` on all words: penalty, temperature and offsets are those of its folds, averaged.

    Raises:
        Untestable: too few words or classes.
    """
    problem = prepare(task, values, label, sentence, folds, classes)
    chosen = values[:, problem.word].float()
    centre = chosen.mean(1)
    spread = (chosen - centre[:, None]).square().mean(1).sqrt()
    scale = torch.where(spread > 1e-6 * centre.abs() + 1e-30, 1 / spread.clamp(min=1e-30), torch.zeros(()))
    weights, biases = [], []
    with one_thread():
        prior = log_prior(problem.counts.sum(0))
        for index, block in enumerate(problem.blocks):
            read = read_alone(problem, index)
            found = Alone(block, problem.counts).solve((), 0, read.penalty.log().mean().exp()[None])
            weight = scale[index][:, None] * found.weight[0][0] * read.slope.mean()
            bias = found.bias[0] * read.slope.mean() + read.offset.mean(0) + prior
            weights.append(weight)
            biases.append(bias - centre[index] @ weight)
    bits = tuple(usable_bits(problem).bits.tolist())
    return Probe(problem.classes, torch.stack(weights), torch.stack(biases), bits, len(problem.word))


def fit(run: Run, model: Any, tokenizer: Any) -> Fitted:
    """Lens and probes at a checkpoint, on the probe set that the run keeps; without one the raw lens, and the reason."""
    config = run.config.probing

    def none_stored() -> list[str]:
        raise BadProbeSet(
            f"{run.name} has no probe set yet, so nothing was fitted. Make one with: lab probe {run.name}"
        )

    try:
        bench = Bench.open(run, config, tokenizer, none_stored, store=False)
        activations = collect(model, bench.probe_set)
        units = _units(bench.probe_set)
        sentence = torch.tensor(bench.probe_set.word_sentence, dtype=torch.long)
        folds = assign_folds(len(bench.probe_set.sentences), config.folds, config.seed, units)
    except (LabError, OSError) as error:
        return Fitted(LOGIT_LENS, {}, {"lens": str(error), "probes": str(error)})
    probes: dict[str, Probe] = {}
    untestable: dict[str, str] = {}
    for name, labels in bench.probe_set.labels.items():
        label = torch.where(activations.kept, torch.tensor(labels, dtype=torch.long), NO_LABEL)
        try:
            probes[name] = fit_probe(
                activations.values, label, sentence, folds, tuple(bench.probe_set.classes[name]), name
            )
        except Untestable as error:
            untestable[name] = str(error)
    lens = LOGIT_LENS
    try:
        unit = (torch.arange(len(folds)) if units is None else units)[sentence]
        lens = fit_ridge(activations.values[:, activations.kept], unit[activations.kept], config.seed)
    except Untestable as error:
        untestable["lens"] = str(error)
    return Fitted(lens, probes, untestable)


@dataclass
class Tracer:
    """Traces texts, and remembers what it fitted. For one thread."""

    _fitted: "OrderedDict[tuple[str, str], Fitted]" = field(default_factory=OrderedDict)

    def trace(self, loaded: Loaded, asked: TraceRequest) -> dict[str, Any]:
        """
        Raises:
            TooLong: more positions than the model reads, or than are shown at once.
            LabError: a head that the model lacks.
        """
        ids = [loaded.tokenizer.bos, *loaded.tokenizer.encode(asked.text)]
        most = min(MOST_POSITIONS, int(loaded.model.cfg.n_ctx))
        if len(ids) > most:
            raise TooLong(f"the text has {len(ids)} tokens, and {most} are shown at once. Shorten it.")
        values, attention = _run(loaded.model, ids, asked.attention)
        fitted = self._at(loaded) if asked.probes or asked.lens == "ridge" else Fitted(LOGIT_LENS)
        lens = fitted.lens if asked.lens == "ridge" else LOGIT_LENS
        answer: dict[str, Any] = {
            "run": loaded.run.name,
            "step": loaded.step,
            "checkpoint": loaded.info.weights_sha256,
            "layers": LAYERS,
            "tokens": [_token(loaded.tokenizer, id) for id in ids],
            "lens": {"name": lens.name, "top": _top(loaded, lens, values, asked.top_k)},
            "untestable": dict(fitted.untestable),
        }
        if asked.probes:
            answer["probes"] = {
                name: {
                    "classes": list(probe.classes),
                    "usable_bits": _rounded(probe.bits),
                    "n": probe.n,
                    "probability": _rounded(probe.read(values).tolist()),
                }
                for name, probe in fitted.probes.items()
            }
        if asked.concepts:
            answer["concepts"] = _concepts(loaded, values)
        if attention is not None:
            answer["attention"] = _rounded(attention.tolist())
        return answer

    def _at(self, loaded: Loaded) -> Fitted:
        key = (str(loaded.run.path), loaded.info.weights_sha256)
        if key not in self._fitted:
            self._fitted[key] = fit(loaded.run, loaded.model, loaded.tokenizer)
            while len(self._fitted) > KEPT:
                self._fitted.popitem(last=False)
        self._fitted.move_to_end(key)
        return self._fitted[key]


@torch.no_grad()
def _run(model: Any, ids: list[int], head: AttentionHead | None) -> tuple[Tensor, Tensor | None]:
    """The residual stream [layer, pos, d_model], and one head's pattern [query, key] where asked for."""
    names = residual_names(model)
    wanted = set(names)
    pattern = ""
    if head is not None:
        if head.block >= model.cfg.n_layers or head.head >= model.cfg.n_heads:
            raise LabError(
                f"attention: the model has blocks 0..{model.cfg.n_layers - 1} and heads 0..{model.cfg.n_heads - 1}, "
                f"not block {head.block}, head {head.head}."
            )
        pattern = f"blocks.{head.block}.attn.hook_pattern"
        wanted.add(pattern)
    tokens = torch.tensor([ids], device=model.W_E.device)
    _, cache = model.run_with_cache(tokens, names_filter=lambda name: name in wanted)
    values = torch.stack([cache[name][0].float().cpu() for name in names])
    return values, cache[pattern][0, head.head].float().cpu() if head is not None else None


@torch.no_grad()
def _top(loaded: Loaded, lens: Lens, values: Tensor, k: int) -> list[list[list[dict[str, Any]]]]:
    """[layer][pos]: the k likeliest next tokens and their probabilities under the lens."""
    head, device = Head.of(loaded.model), loaded.model.W_E.device
    out = []
    for layer, stream in enumerate(values):
        rows = []
        for part in torch.split(lens.read(layer, stream), head.chunk):
            found = head.logits(part.to(device)).softmax(dim=-1).topk(min(k, len(head.weight)))
            for shares, ids in zip(found.values.tolist(), found.indices.tolist(), strict=True):
                rows.append(
                    [
                        {"id": id, "text": loaded.tokenizer.decode([id]), "p": round(share, DIGITS)}
                        for id, share in zip(ids, shares, strict=True)
                    ]
                )
        out.append(rows)
    return out


@torch.no_grad()
def _concepts(loaded: Loaded, values: Tensor) -> dict[str, Any]:
    """Each stored concept at every layer and position; what its probe says is only tested at the layer it was found at."""
    out: dict[str, Any] = {}
    for name in concepts.names(loaded.run):
        try:
            concept = concepts.Concept.load(loaded.run, name)
        except LabError as error:
            out[name] = {"problem": str(error)}
            continue
        place = concept.coordinates(values)
        found: dict[str, Any] = {
            "layer": concept.layer,
            "found_at_step": concept.checkpoint.get("step"),
            "classes": list(concept.classes),
            "strength": _rounded(place.norm(dim=-1).tolist()),
        }
        if concept.classes:
            scores = place @ concept.weight.T + concept.bias
            found["probability"] = _rounded(torch.softmax(scores, dim=-1).tolist())
        out[name] = found
    return out


def _token(tokenizer: Any, id: int) -> dict[str, Any]:
    return {"id": id, "text": tokenizer.decode([id]), "bytes": list(tokenizer.decode_bytes([id]))}


def _units(probe_set: ProbeSet) -> Tensor | None:
    """Documents, where there are enough to leave whole ones out; as live probing does."""
    units = probe_set.units
    return torch.tensor(units) if len(set(units)) >= ENOUGH_DOCUMENTS else None


def _rounded(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return round(float(value), DIGITS)
