"""How likely a model finds one text after another: batched, what texts share is computed once.

The options of an item follow one context, and often many contexts begin alike. Of every batch a prefix is run once for each
distinct beginning, and its keys and values are spread over the rows; where to cut is chosen by counting tokens. Rows are
padded on the right, where causal attention never looks, so no mask is needed; only float noise differs from one by one.
Logits are taken at the scored positions alone: for a vocabulary of 49,152 they would otherwise be a fifth of all work.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from lab.attention import KeyValueCache
from lab.hf_tokenizer import HFTokenizer
from lab.model import GPT
from lab.pins import pins_of
from lab.tokenizer import Tokenizer

BATCH_TOKENS = 2048
MOST_ROWS = 64  # a batch's keys and values: 30 layers, 3 heads of 64 and 130 positions take 6 MB a row
_SPREAD, _LEAST_ROWS = 2, 4
_LEAST_SAVED = 64  # tokens; a further pass reads all weights again, which costs about as much
_LOGITS_AT_ONCE = 256  # positions; 50 MB of a vocabulary of 49,152

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Request:
    """Tokens whose likelihood is wanted, after those of a context, which has at least one."""

    context: Ids
    continuation: Ids


@dataclass(frozen=True)
class Likelihood:
    """What the model says of a continuation.

    Attributes:
        tokens: log-probability of each of its tokens, nats.
        greedy: each of them was the likeliest.
        truncated: the context was longer than the model reads, and its beginning was left out.
    """

    tokens: tuple[float, ...]
    greedy: bool
    truncated: bool

    @property
    def total(self) -> float:
        return sum(self.tokens)


def opening(tokenizer: Tokenizer) -> list[int]:
    """What stands before a text: <|bos|> for ours, as in training; for imported ones what their own tokenizer puts there."""
    if not isinstance(tokenizer, HFTokenizer):
        return [tokenizer.bos]
    first = tokenizer.to_tokenizers().encode("a").ids[:1]
    return [tokenizer.bos] if first == [tokenizer.bos] else []


def requests(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> list[Request]:
    """Tokens of (context, continuation), split as lm-eval splits them.

    Both are encoded as one text, and what lies beyond the context's own number of tokens is the continuation; spaces at the
    end of a context go over to the continuation. An empty context is the boundary between documents.
    """
    first = opening(tokenizer)
    moved = [_move_spaces(*pair) for pair in pairs]
    contexts = list(dict.fromkeys(context for context, _ in moved))
    ids = dict(zip(contexts, tokenizer.encode_batch(contexts), strict=True))
    whole = tokenizer.encode_batch([context + continuation for context, continuation in moved])
    found = []
    for (context, _), both in zip(moved, whole, strict=True):
        before = ids[context]
        found.append(Request(tuple([*first, *before] or [tokenizer.bos]), tuple(both[len(before) :])))
    return found


def _move_spaces(context: str, continuation: str) -> tuple[str, str]:
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def fits(model: GPT, request: Request) -> bool:
    """Whether the continuation alone fits, with one token to follow, and there is anything to score."""
    return 1 <= len(request.continuation) <= int(model.cfg.n_ctx)


@torch.no_grad()
def likelihoods(model: GPT, wanted: Sequence[Request], batch_tokens: int = BATCH_TOKENS) -> list[Likelihood]:
    """The likelihood of each continuation, in the order asked; equal requests are computed once.

    Args:
        wanted: requests that `fits`; a context too long for the model loses its beginning, as in lm-eval.
        batch_tokens: padded tokens of a batch, at most, unless one row is longer.
    """
    n_ctx = model.cfg.n_ctx
    rows = [
        (request.context[-max(1, n_ctx + 1 - len(request.continuation)) :], request.continuation) for request in wanted
    ]
    found: dict[tuple[Ids, Ids], tuple[tuple[float, ...], bool]] = {}
    for batch in _batches(list(dict.fromkeys(rows)), batch_tokens):
        found.update(zip(batch, _score(model, batch), strict=True))
    return [
        Likelihood(*found[row], truncated=len(row[0]) < len(request.context))
        for row, request in zip(rows, wanted, strict=True)
    ]


def _batches(rows: list[tuple[Ids, Ids]], batch_tokens: int) -> Iterator[list[tuple[Ids, Ids]]]:
    """Rows of similar length together, options of one context side by side.

    A context that is longer than the batch's first by more than `_SPREAD` begins a new one: what lies beyond the common cut
    is run once for each option (10 % of the time of ARC-easy at `laptop` shape).
    """
    rows.sort(key=lambda row: (len(row[0]), row[0], len(row[1])))
    batch: list[tuple[Ids, Ids]] = []
    width = 0
    for row in rows:
        size = len(row[0]) + len(row[1])
        full = len(batch) == MOST_ROWS or max(width, size) * (len(batch) + 1) > batch_tokens
        longer = bool(batch) and row[0] != batch[-1][0] and len(row[0]) - len(batch[0][0]) > _SPREAD
        if batch and (full or (longer and len(batch) >= _LEAST_ROWS)):
            yield batch
            batch, width = [], 0
        batch.append(row)
        width = max(width, size)
    if batch:
        yield batch


def _score(model: GPT, rows: list[tuple[Ids, Ids]]) -> list[tuple[tuple[float, ...], bool]]:
    device, end = model.W_E.device, model.cfg.n_layers
    # A pin's frozen lower copy follows only the cache that it has seen filled, so there no beginnings are shared.
    cut = 0 if pins_of(model) else _cheapest_cut([context for context, _ in rows])
    tails = [[*context[cut:], *continuation[:-1]] for context, continuation in rows]
    width = max(map(len, tails))
    cache = _prefixes(model, [context[:cut] for context, _ in rows], width) if cut else None
    tokens = torch.tensor([tail + [0] * (width - len(tail)) for tail in tails], device=device)
    stream: Float[Tensor, "row pos d_model"] = model(tokens, past_kv_cache=cache, stop_at_layer=end)
    at_row = [row for row, (_, continuation) in enumerate(rows) for _ in continuation]
    at = [len(context) - cut - 1 + n for context, continuation in rows for n in range(len(continuation))]
    targets = torch.tensor([token for _, continuation in rows for token in continuation], device=device)
    picked = stream[torch.tensor(at_row, device=device), torch.tensor(at, device=device)]
    logs: list[float] = []
    likeliest: list[bool] = []
    for first in range(0, len(picked), _LOGITS_AT_ONCE):
        here = slice(first, first + _LOGITS_AT_ONCE)
        logits = model(picked[here, None], start_at_layer=end)[:, 0].float().log_softmax(-1)
        logs += logits.gather(-1, targets[here, None])[:, 0].tolist()
        likeliest += (logits.argmax(-1) == targets[here]).tolist()
    out, first = [], 0
    for _, continuation in rows:
        last = first + len(continuation)
        out.append((tuple(logs[first:last]), all(likeliest[first:last])))
        first = last
    return out


def _cheapest_cut(contexts: Sequence[Ids]) -> int:
    """How many tokens of each context to run once for each distinct beginning: those that save the most tokens.

    A row keeps at least the last token of its context, whose logits are the first to be scored.
    """
    distinct = sorted(set(contexts))
    shared = [_common(one, two) for one, two in pairwise(distinct)]
    longest = min(map(len, distinct)) - 1
    candidates = {longest, *(length for length in shared if length < longest)}

    def saved(cut: int) -> int:
        return cut * (len(contexts) - 1 - sum(length < cut for length in shared))

    best = max(candidates, key=lambda cut: (saved(cut), -cut))
    return best if saved(best) >= _LEAST_SAVED else 0


def _common(one: Ids, two: Ids) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


def _prefixes(model: GPT, prefixes: Sequence[Ids], room: int) -> KeyValueCache:
    """Keys and values of each row's prefix, computed once for each distinct one, with room for the tails."""
    device, cut = model.W_E.device, len(prefixes[0])
    distinct = list(dict.fromkeys(prefixes))
    inner = _cheapest_cut(distinct)  # a question under many rationales: what they share is run once, too
    if inner:
        once = _prefixes(model, [prefix[:inner] for prefix in distinct], cut - inner)
    else:
        once = KeyValueCache(replace(model.cfg, n_ctx=cut), len(distinct), device, model.W_E.dtype)
    tails = torch.tensor([prefix[inner:] for prefix in distinct], device=device)
    model(tails, past_kv_cache=once, stop_at_layer=model.cfg.n_layers)
    cache = KeyValueCache(replace(model.cfg, n_ctx=cut + room), len(prefixes), device, model.W_E.dtype)
    place = {prefix: at for at, prefix in enumerate(distinct)}
    owner = torch.tensor([place[prefix] for prefix in prefixes], device=device)
    cache.buffer[..., :cut, :] = once.buffer[..., :cut, :].index_select(2, owner)
    cache.length = cut
    return cache
