"""A text as one checkpoint reads it: tokens, what each layer would say next, what the probes read, how concepts score.

Per layer 0..L (0 = embedding sum, l = after block l, before the final norm) and position. What is fitted at a checkpoint
(`server_fits`) is fitted once and kept. Pure but for reading the run.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from app.server_answers import TooLong
from app.server_fits import Fitted, fit
from app.server_weights import Loaded
from lab import concepts
from lab.errors import LabError
from probes.layers.collect import residual_names
from probes.layers.lens import LOGIT_LENS, Head, Lens
from train.profiles import LAYERS

MOST_POSITIONS = 256  # an answer of some megabytes for a dozen layers
MOST_TOKENS = 65_536
KEPT = 4  # checkpoints whose fits are remembered
DIGITS = 5


class AttentionHead(BaseModel):
    """An attention head: block 0..L-1, head 0..H-1."""

    model_config = ConfigDict(extra="forbid")

    block: int = Field(ge=0, le=1000)
    head: int = Field(ge=0, le=1000)


class TraceRequest(BaseModel):
    """What to look at, and how closely.

    `text` gets the token that begins a document in front; `tokens` are read as they are, an answer after its own prompt
    say. Positions before `start` are read and not shown. "none" leaves the lens out, the dearest part where the vocabulary
    is large.
    """

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(None, max_length=128)
    text: str | None = Field(None, min_length=1, max_length=32 * 1024)
    tokens: list[Annotated[int, Field(ge=0)]] | None = Field(None, min_length=1, max_length=MOST_TOKENS)
    start: int = Field(0, ge=0, le=MOST_TOKENS)
    top_k: int = Field(5, ge=1, le=20)
    lens: Literal["ridge", "logit", "none"] = "ridge"
    probes: bool = True
    concepts: bool = True
    attention: AttentionHead | None = None

    @model_validator(mode="after")
    def one_of_both(self) -> "TraceRequest":
        if (self.text is None) == (self.tokens is None):
            raise ValueError("give text, or tokens, and not both")
        return self


@dataclass
class Tracer:
    """Traces texts, and remembers what it fitted. For one thread."""

    _fitted: "OrderedDict[tuple[str, str], Fitted]" = field(default_factory=OrderedDict)

    def trace(self, loaded: Loaded, asked: TraceRequest) -> dict[str, Any]:
        """
        Raises:
            TooLong: more positions than the model reads, or than are shown at once.
            LabError: a head or a token that the model lacks, or a start beyond the end.
        """
        ids = _ids(loaded, asked)
        values, attention = _run(loaded.model, ids, asked.attention)
        values = values[:, asked.start :]
        fitted = self._at(loaded) if asked.probes or asked.lens == "ridge" else Fitted(LOGIT_LENS)
        answer: dict[str, Any] = {
            "run": loaded.run.name,
            "step": loaded.step,
            "checkpoint": loaded.info.weights_sha256,
            "layers": LAYERS,
            "start": asked.start,
            "tokens": [_token(loaded.tokenizer, id) for id in ids[asked.start :]],
            "untestable": dict(fitted.untestable),
        }
        if asked.lens != "none":
            lens = fitted.lens if asked.lens == "ridge" else LOGIT_LENS
            answer["lens"] = {"name": lens.name, **_seen(loaded, lens, values, ids[asked.start + 1 :], asked.top_k)}
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
            answer["attention"] = _rounded(attention[asked.start :].tolist())
        return answer

    def _at(self, loaded: Loaded) -> Fitted:
        key = (str(loaded.run.path), loaded.info.weights_sha256)
        if key not in self._fitted:
            self._fitted[key] = fit(loaded.run, loaded.model, loaded.tokenizer)
            while len(self._fitted) > KEPT:
                self._fitted.popitem(last=False)
        self._fitted.move_to_end(key)
        return self._fitted[key]


def _ids(loaded: Loaded, asked: TraceRequest) -> list[int]:
    """What the model reads."""
    ids = asked.tokens or [loaded.tokenizer.bos, *loaded.tokenizer.encode(asked.text or "")]
    context, words = int(loaded.model.cfg.n_ctx), int(loaded.model.cfg.d_vocab)
    shown, most = len(ids) - asked.start, min(MOST_POSITIONS, context)
    if shown > most:
        raise TooLong(f"the text has {shown} tokens, and {most} are shown at once. Shorten it.")
    if len(ids) > context:
        raise TooLong(f"the text has {len(ids)} tokens, and the model reads {context}. Shorten it.")
    if shown < 1:
        raise LabError(f"start is {asked.start}, and the text has {len(ids)} tokens, 0..{len(ids) - 1}. Use less.")
    if max(ids) >= words:
        raise LabError(f"tokens holds {max(ids)}, and the model knows 0..{words - 1}. Use this run's tokenizer.")
    return ids


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
def _seen(loaded: Loaded, lens: Lens, values: Tensor, following: list[int], k: int) -> dict[str, Any]:
    """Under the lens, [layer][pos]: the k likeliest next tokens, and the probability of the one that does come next."""
    head, device = Head.of(loaded.model), loaded.model.W_E.device
    top: list[list[list[dict[str, Any]]]] = []
    real: list[list[float | None]] = []
    for layer, stream in enumerate(values):
        top.append([])
        real.append([])
        for part in torch.split(lens.read(layer, stream), head.chunk):
            shares = head.logits(part.to(device)).softmax(dim=-1)
            found = shares.topk(min(k, len(head.weight)))
            for row, best, ids in zip(shares, found.values.tolist(), found.indices.tolist(), strict=True):
                place = len(real[layer])
                top[layer].append([_next(loaded.tokenizer, id, share) for id, share in zip(ids, best, strict=True)])
                real[layer].append(_rounded(row[following[place]]) if place < len(following) else None)
    return {"top": top, "next": real}


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


def _next(tokenizer: Any, id: int, share: float) -> dict[str, Any]:
    return {"id": id, "text": tokenizer.decode([id]), "p": round(share, DIGITS)}


def _rounded(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    return round(float(value), DIGITS)
