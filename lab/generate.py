"""Sampling text from a model with a KV cache and a random generator of its own.

Reads weights only: the training generators, the model's mode and its hooks are left as they were. The same model, prompt,
seed and settings give the same tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lab.errors import LabError
from lab.model import GPT, KeyValueCache
from lab.tokenizer import Tokenizer

FinishReason = Literal["stop", "length"]


class BadSampling(LabError):
    """A sampling setting is out of its range, or the prompt leaves no room."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    Attributes:
        temperature: 0 takes the likeliest token; 1 samples the model's own distribution.
        top_k: only the k likeliest tokens (0 = all).
        top_p: only the likeliest tokens that together hold this probability (arXiv:1904.09751).
        stop: texts that end the answer; they are not part of it.
        seed: of the generator made for this answer.
    """

    max_tokens: int = 128
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for wrong, message in (
            (self.max_tokens < 1, f"max_tokens = {self.max_tokens}: ask for at least one token"),
            (not 0 <= self.temperature <= 10, f"temperature = {self.temperature}: use 0 (greedy) to 10"),
            (self.top_k < 0, f"top_k = {self.top_k}: use 0 (all tokens) or more"),
            (not 0 < self.top_p <= 1, f"top_p = {self.top_p}: use a share above 0, at most 1"),
            (not 0 <= self.seed < 2**63, f"seed = {self.seed}: use 0 to 2**63 - 1"),
            (any(not text for text in self.stop), "stop has an empty text, which every answer ends with: take it out"),
        ):
            if wrong:
                raise BadSampling(f"{message}.")


@dataclass
class Generation:
    """An answer. `finish_reason` is "stop" at the model's own end or a stop text, "length" when tokens ran out."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    finish_reason: FinishReason = "length"


def generate(
    model: GPT, tokenizer: Tokenizer, prompt: str | Sequence[int], sampling: Sampling | None = None
) -> Generation:
    """One answer to a prompt: a text (after <|bos|>) or token ids as they are (`tokenizer.chat` gives them).

    Raises:
        BadSampling: the prompt fills the context, or a setting is out of range.
    """
    generation = Generation()
    for piece in stream(model, tokenizer, prompt, sampling or Sampling(), generation):
        generation.text += piece
    return generation


def stream(
    model: GPT,
    tokenizer: Tokenizer,
    prompt: str | Sequence[int],
    sampling: Sampling,
    generation: Generation | None = None,
) -> Iterator[str]:
    """The answer in pieces of whole characters, as they become certain; `generation` collects ids and the reason.

    A piece that might be the beginning of a stop text, or that ends within a character, is held back until it is decided.
    """
    record = generation if generation is not None else Generation()
    held = bytearray()
    for token in sample_tokens(model, _prompt_ids(model, tokenizer, prompt), sampling):
        if token in (tokenizer.end, tokenizer.bos):
            record.finish_reason = "stop"
            break
        record.ids.append(token)
        held += tokenizer.decode_bytes([token])
        text, rest = _whole_characters(bytes(held))
        stopped = min((at for at in (text.find(stop) for stop in sampling.stop) if at >= 0), default=-1)
        if stopped >= 0:
            record.finish_reason = "stop"
            if stopped:
                yield text[:stopped]
            return
        keep = max((_overlap(text, stop) for stop in sampling.stop), default=0)
        if len(text) > keep:
            yield text[: len(text) - keep]
        held = bytearray(text[len(text) - keep :].encode() + rest)
    if held:
        yield bytes(held).decode(errors="replace")


@torch.inference_mode()
def sample_tokens(model: GPT, prompt: Sequence[int], sampling: Sampling) -> Iterator[int]:
    """Token ids after a prompt of ids, up to `max_tokens` or the end of the context, whichever comes first."""
    device = model.W_E.device
    generator = torch.Generator(device="cpu").manual_seed(sampling.seed)
    cache = KeyValueCache(model.cfg, 1, device, model.W_E.dtype)
    tokens = torch.tensor([list(prompt)], dtype=torch.long, device=device)
    for _ in range(min(sampling.max_tokens, model.cfg.n_ctx - tokens.shape[1])):
        logits = model(tokens, past_kv_cache=cache)[0, -1].float().cpu()
        token = pick(logits, sampling, generator)
        yield token
        tokens = torch.tensor([[token]], dtype=torch.long, device=device)


def pick(logits: Float[Tensor, "d_vocab"], sampling: Sampling, generator: torch.Generator) -> int:
    """One token id drawn from logits; ties under temperature 0 go to the lowest id."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    probabilities = torch.softmax(logits / sampling.temperature, dim=-1)
    if sampling.top_k or sampling.top_p < 1:
        ordered, order = probabilities.sort(descending=True, stable=True)
        if sampling.top_k:
            ordered[sampling.top_k :] = 0
        ordered[ordered.cumsum(0) - ordered >= sampling.top_p * float(ordered.sum())] = (
            0  # keeps at least the likeliest
        )
        probabilities = torch.zeros_like(probabilities).scatter(0, order, ordered)
    return int(torch.multinomial(probabilities, 1, generator=generator))


def _prompt_ids(model: GPT, tokenizer: Tokenizer, prompt: str | Sequence[int]) -> list[int]:
    ids = [tokenizer.bos, *tokenizer.encode(prompt)] if isinstance(prompt, str) else list(prompt)
    if not ids:
        raise BadSampling("the prompt is empty. Give at least one token.")
    if len(ids) >= model.cfg.n_ctx:
        raise BadSampling(
            f"the prompt has {len(ids)} tokens and the model reads {model.cfg.n_ctx} at most, answer included. Shorten it."
        )
    return ids


def _whole_characters(data: bytes) -> tuple[str, bytes]:
    """The text of `data`, and the bytes at its end that may be the beginning of a character."""
    for cut in range(min(3, len(data)) + 1):
        head = data[: len(data) - cut]
        try:
            return head.decode(), data[len(data) - cut :]
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data" and error.end < len(head):
                break
    return data.decode(errors="replace"), b""


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
