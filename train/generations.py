"""Short texts that a model goes on from fixed prompts with, many at a time, and the reference checkpoint's beside them.

For rates, not for reading: all prompts are equally long, so a batch needs no padding and costs little more than one text.
Sampled at temperature .8. Under greedy decoding small models loop as a matter of course (seq-rep-4 of .44 for GPT-2, Welleck
et al. 2019, arXiv:1908.04319), and a rate that is high anyway tells little.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from lab.attention import KeyValueCache
from lab.corpus import Corpus
from lab.model import GPT
from lab.tokenizer import Tokenizer
from probes.behaviour import loops

PROMPT_TOKENS = 8
TEXTS = 64
TEMPERATURE = 0.8


@dataclass(frozen=True)
class Generated:
    """What one model made of the prompts.

    Attributes:
        prompts, answers: texts.
        ids: tokens of the answers, up to the model's own end.
        seed: of the generator that drew all of them.
    """

    prompts: list[str]
    answers: list[str]
    ids: list[list[int]]
    seed: int

    @property
    def loops(self) -> int:
        """How many end in an exact loop."""
        return sum(loops.detect(ids) is not None for ids in self.ids)

    def to_json(self) -> dict[str, Any]:
        settings = {"temperature": TEMPERATURE, "prompt_tokens": PROMPT_TOKENS, "seed": self.seed}
        return settings | {"prompts": self.prompts, "samples": self.answers, "ids": self.ids}


def windows_of(corpus: Corpus) -> Int[Tensor, "text pos"]:
    """64 windows of validation text (fewer in a small corpus), the same at every call; prompts are how they begin."""
    return torch.cat([batch.tokens for batch in corpus.validation_batches(TEXTS * corpus.n_ctx, TEXTS)])


@torch.no_grad()
def generate(
    model: GPT, tokenizer: Tokenizer, prompts: Int[Tensor, "text pos"], tokens: int, generator: torch.Generator
) -> Generated:
    """An answer of at most `tokens` tokens to every prompt, as far as the context reaches."""
    seed = generator.initial_seed()
    device = model.W_E.device
    most = min(tokens, model.cfg.n_ctx - prompts.shape[1])
    shape = replace(model.cfg, n_ctx=prompts.shape[1] + most)  # the whole context of `8gb` would be 2.4 GB, this is .6
    cache = KeyValueCache(shape, len(prompts), device, model.W_E.dtype)
    newest, drawn = prompts, []
    for _ in range(most):
        logits = model(newest.to(device), past_kv_cache=cache)[:, -1].float().cpu()
        logits[:, tokenizer.vocab_size :] = -torch.inf  # rows that pad an imported vocabulary stand for nothing
        newest = torch.multinomial(torch.softmax(logits / TEMPERATURE, dim=-1), 1, generator=generator)
        drawn.append(newest)
    ids = [_until_end(row, tokenizer) for row in torch.cat(drawn, dim=1).tolist()]
    asked = [tokenizer.decode(row) for row in prompts.tolist()]
    return Generated(asked, [tokenizer.decode(row) for row in ids], ids, seed)


def _until_end(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    return next((ids[:at] for at, token in enumerate(ids) if token in (tokenizer.end, tokenizer.bos)), ids)


@torch.no_grad()
def losses(model: GPT, prompts: Int[Tensor, "text pos"], generated: Generated) -> list[float]:
    """Nats per token of every answer after its prompt; NaN for an empty one."""
    device, start = model.W_E.device, prompts.shape[1]
    length = max(1, max(len(ids) for ids in generated.ids))
    answers = torch.tensor([[*ids, *[0] * (length - len(ids))] for ids in generated.ids])
    there = torch.arange(length) < torch.tensor([len(ids) for ids in generated.ids])[:, None]
    found: list[float] = []
    for first in range(0, len(prompts), 16):  # logits of 16 texts at a time: 64 of a vocabulary of 49,152 take 1.6 GB
        part = slice(first, first + 16)
        tokens = torch.cat([prompts[part], answers[part]], dim=1)
        logs = torch.log_softmax(model(tokens[:, :-1].to(device))[:, start - 1 :].float(), dim=-1).cpu()
        nats = -logs.gather(-1, answers[part][..., None])[..., 0] * there[part]
        found += (nats.sum(1) / there[part].sum(1)).tolist()
    return found
