"""A term of the loss on text beside a batch's own: never more than a share of the tokens, each counting as one of the real.

What feeding back self-play (`feedback`) and training on chats with people (`chat_training`) have in common.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lab.corpus import Batch
from lab.model import GPT
from lab.tokenizer import BadTokenizer, Tokenizer

Told = tuple[list[int], list[bool]]  # ids of a text as training reads it, and which of them are to be learned
Rows = tuple[Int[Tensor, "row pos_plus_1"], Bool[Tensor, "row pos"]]


def most_tokens(share: float, real: int) -> int:
    """How many added tokens are at most `share` of them and `real` real ones together.

    >>> most_tokens(0.1, 90)
    10
    """
    most = int(share / (1 - share) * real) + 1
    while most * (1 - share) > share * real + 1e-9 * real:  # rounding, either way
        most -= 1
    return max(0, most)


def drawn(texts: Sequence[Told], most: int, n_ctx: int, generator: torch.Generator) -> Rows | None:
    """Texts in a drawn order and which targets count: `most` of them, never more; None for none."""
    chosen: list[Told] = []
    for at in torch.randperm(len(texts), generator=generator).tolist():
        whole, told = texts[at]
        ids, counted = whole[: n_ctx + 1], told[: n_ctx + 1]
        places = [place for place, counts in enumerate(counted) if counts][:most]
        if not places:
            break
        most -= len(places)
        end = places[-1] + 1
        chosen.append((ids[:end], counted[:end]))
    if not chosen:
        return None
    width = max(len(ids) for ids, _ in chosen)
    tokens = torch.zeros(len(chosen), width, dtype=torch.long)
    counts = torch.zeros(len(chosen), width, dtype=torch.bool)
    for row, (ids, counted) in enumerate(chosen):
        tokens[row, : len(ids)], counts[row, : len(ids)] = torch.tensor(ids), torch.tensor(counted)
    return tokens, counts[:, 1:]


def term(model: GPT, rows: Rows, batch: Batch, dtype: torch.dtype) -> Float[Tensor, ""]:
    """Cross-entropy of the added tokens, summed and divided by the batch's real targets, in nats."""
    tokens, counts = rows
    device = model.W_E.device
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        logits = model(tokens[:, :-1].to(device))
    targets = tokens[:, 1:].masked_fill(~counts, -100).to(device)
    summed = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-100, reduction="sum")
    return summed / int(batch.mask.sum())


def laid_out(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], learned_from: int) -> Told:
    """A conversation as training reads one, and which tokens are to be learned: those of message `learned_from` and later."""
    try:
        ids, roles = tokenizer.chat(messages)
        given = messages[:learned_from]
        before = len(tokenizer.chat(given)[0]) if given else roles.index(messages[0]["role"])
    except BadTokenizer:  # a base model's, without a chat template
        lines = [f"{message['role'].capitalize()}: {message['content']}" for message in messages]
        given_ids = [tokenizer.bos, *tokenizer.encode("".join(f"{line}\n" for line in lines[:learned_from]))]
        ids, before = [*given_ids, *tokenizer.encode("\n".join(lines[learned_from:])), tokenizer.end], len(given_ids)
    return ids, [at >= before for at in range(len(ids))]
