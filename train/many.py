"""Answers to many prompts at once, every one with random numbers of its own: for counts, not for reading.

Prompts of equal length go through the model together, so none is padded. A row's words depend on its prompt and its random
numbers alone, not on what it shares a batch with: two prompts with the same numbers are answered "with the same seed".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.attention import KeyValueCache
from lab.model import GPT
from lab.tokenizer import Tokenizer

ROWS = 64  # of a batch; keys and values of 30 layers, 3 heads of 64 and 64 positions take 6 MB a row
TEMPERATURE = 0.8

Prompt = Sequence[int]
Progress = Callable[[int], None]  # told how many rows were just answered


def randoms(rows: int, tokens: int, generator: torch.Generator) -> Float[Tensor, "row token"]:
    """One number in 0..1 for every token of every row."""
    return torch.rand(rows, tokens, generator=generator, dtype=torch.float64)


@torch.no_grad()
def answers(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    numbers: Float[Tensor, "row token"],
    temperature: float = TEMPERATURE,
    progress: Progress | None = None,
) -> list[list[int]]:
    """Token ids of an answer to each prompt, up to the model's own end, the columns of `numbers` or the end of the context.

    Args:
        prompts: each with at least one token and fewer than the context.
        temperature: 0 takes the likeliest token.
        progress: called after every batch.
    """
    found: list[list[int]] = [[] for _ in prompts]
    for rows in batches(prompts):
        tokens = torch.tensor([list(prompts[row]) for row in rows])
        drawn = _answer(model, tokenizer, tokens, numbers[rows], temperature)
        for row, ids in zip(rows, drawn.tolist(), strict=True):
            stop = (at for at, token in enumerate(ids) if token in (tokenizer.end, tokenizer.bos))
            found[row] = ids[: next(stop, len(ids))]
        if progress is not None:
            progress(len(rows))
    return found


def batches(prompts: Sequence[Prompt]) -> Iterator[list[int]]:
    """Rows of prompts of equal length, 64 at most, short ones first."""
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    for _, same in groupby(order, key=lambda row: len(prompts[row])):
        rows = list(same)
        yield from (rows[first : first + ROWS] for first in range(0, len(rows), ROWS))


def _answer(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Int[Tensor, "row pos"],
    numbers: Float[Tensor, "row token"],
    temperature: float,
) -> Int[Tensor, "row token"]:
    """By inverting the cumulated distribution: the k-th number decides the k-th token."""
    device = model.W_E.device
    most = min(numbers.shape[1], model.cfg.n_ctx - prompts.shape[1])
    shape = replace(model.cfg, n_ctx=prompts.shape[1] + most)  # a context of 8,192 would be 95 MB a row
    cache = KeyValueCache(shape, len(prompts), device, model.W_E.dtype)
    newest, drawn = prompts, []
    ended = torch.zeros(len(prompts), dtype=torch.bool)
    for at in range(most):
        logits = model(newest.to(device), past_kv_cache=cache)[:, -1].double().cpu()
        logits[:, tokenizer.vocab_size :] = -torch.inf  # rows that pad an imported vocabulary stand for nothing
        if temperature == 0:
            newest = logits.argmax(dim=-1, keepdim=True)
        else:
            reached = torch.softmax(logits / temperature, dim=-1).cumsum(dim=-1)
            wanted = numbers[:, at, None] * reached[:, -1:]  # the sum is 1 up to rounding
            newest = torch.searchsorted(reached, wanted, right=True).clamp(max=tokenizer.vocab_size - 1)
        drawn.append(newest)
        ended |= (newest[:, 0] == tokenizer.end) | (newest[:, 0] == tokenizer.bos)
        if ended.all():
            break
    return torch.cat(drawn, dim=1) if drawn else torch.zeros(len(prompts), 0, dtype=torch.long)
