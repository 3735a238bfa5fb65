"""How likely a model finds one text after another: batched, what texts share is computed once.

The options of an item follow one context, and often many contexts begin alike; `benchmark_trees` runs every beginning once.
Logits are taken at the scored positions alone: for a vocabulary of 49,152 they would otherwise be a fifth of all work. Only
float noise differs from one text at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lab.benchmark_trees import Ids, Pass, apart, batches, planted
from lab.hf_tokenizer import HFTokenizer
from lab.model import GPT
from lab.tokenizer import Tokenizer

BATCH_TOKENS = 512  # 1,024 and 2,048 took 8 % longer on one thread: more padding, and less of it stays in its cache
_LOGITS_AT_ONCE = 256  # positions; 50 MB of a vocabulary of 49,152


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


@torch.inference_mode()
def likelihoods(model: GPT, wanted: Sequence[Request], batch_tokens: int = BATCH_TOKENS) -> list[Likelihood]:
    """The likelihood of each continuation, in the order asked; equal requests are computed once.

    Args:
        wanted: requests that `fits`; a context too long for the model loses its beginning, as in lm-eval.
        batch_tokens: padded tokens of a batch, at most, unless one row is longer.
    """
    n_ctx = model.cfg.n_ctx
    rows = [Request(one.context[-max(1, n_ctx + 1 - len(one.continuation)) :], one.continuation) for one in wanted]
    by_text: dict[Ids, list[Request]] = {}
    for row in dict.fromkeys(rows):
        by_text.setdefault((*row.context, *row.continuation[:-1]), []).append(row)  # the last token is only asked for
    run = Pass(model)
    found: dict[Request, tuple[tuple[float, ...], bool]] = {}
    for batch in batches(apart(by_text) if run.heard else planted(model, by_text), batch_tokens):
        stream = run(batch)
        width = stream.shape[1]
        asked = [
            (row, [at * width + node for node in path[len(row.context) - 1 :]])
            for at, tree in enumerate(batch)
            for text, path in tree.paths.items()
            for row in by_text[text]
        ]
        found.update(_score(model, stream.flatten(0, 1), asked))
    return [
        Likelihood(*found[row], truncated=len(row.context) < len(one.context))
        for row, one in zip(rows, wanted, strict=True)
    ]


def _score(
    model: GPT, stream: Float[Tensor, "node d_model"], asked: Sequence[tuple[Request, list[int]]]
) -> Iterator[tuple[Request, tuple[tuple[float, ...], bool]]]:
    """Log-probabilities of each continuation from the nodes before its tokens, and whether all of it is the likeliest."""
    device = stream.device
    nodes = torch.tensor([node for _, own in asked for node in own], device=device)
    targets = torch.tensor([token for row, _ in asked for token in row.continuation], device=device)
    distinct, which = torch.unique(nodes, return_inverse=True)  # options of one item begin after the same node
    logs = torch.empty(len(nodes), device=device)
    likeliest = torch.empty(len(nodes), dtype=torch.bool, device=device)
    for first in range(0, len(distinct), _LOGITS_AT_ONCE):
        here = stream[distinct[first : first + _LOGITS_AT_ONCE]]
        logits = model(here[:, None], start_at_layer=model.cfg.n_layers)[:, 0].float()
        chosen = ((which >= first) & (which < first + len(here))).nonzero()[:, 0]
        at, token = which[chosen] - first, targets[chosen]
        logs[chosen] = logits[at, token] - logits.logsumexp(-1)[at]
        likeliest[chosen] = logits.argmax(-1)[at] == token
    values, best, end = logs.tolist(), likeliest.tolist(), 0
    for row, own in asked:
        start, end = end, end + len(own)
        yield row, (tuple(values[start:end]), all(best[start:end]))
