"""The model's reasons for its answers: written many at a time, and read back as changes of an answer's likelihood.

A prompt is an item's own text with one line more. Each text draws from a generator of its own (of seed, task, item and kind),
so neither the batch it stands in nor the items around it change what is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from lab.attention import KeyValueCache
from lab.benchmark_items import ANSWER, Item
from lab.benchmark_scoring import fits, likelihoods, opening, requests
from lab.errors import LabError
from lab.generate import Sampling, pick
from lab.model import GPT
from lab.tokenizer import Tokenizer

TEMPERATURE = 0.8
# Of a rationale, about 18 words; every control is as long, and reading them is most of what reasons cost.
MAX_TOKENS = 24
REASON, REASONING = "Reason:", "Reasoning:"
_ROWS = 32


class CannotReason(LabError):
    """Items that have no question, or no room for a rationale."""


class ModelReader:
    """How likely each option of an item is after a rationale. Remembers what it has read: scorers ask alike."""

    def __init__(self, model: GPT, tokenizer: Tokenizer) -> None:
        self._model, self._tokenizer = model, tokenizer
        self._known: dict[tuple[Item, str], tuple[float, ...]] = {}

    def __call__(self, asked: Sequence[tuple[Item, str]]) -> list[tuple[float, ...]]:
        new = [one for one in dict.fromkeys(asked) if one not in self._known]
        pairs = [(with_rationale(item, text), item.delimiter + option) for item, text in new for option in item.options]
        wanted = requests(self._tokenizer, pairs)
        owners = [item for item, _ in new for _ in item.options]
        for item, request in zip(owners, wanted, strict=True):
            if not fits(self._model, request):
                raise CannotReason(f"{item.task} {item.id}: an option is longer than the model reads. Use other items.")
        found = iter(likelihoods(self._model, wanted))
        for item, text in new:
            self._known[item, text] = tuple(next(found).total for _ in item.options)
        return [self._known[one] for one in asked]

    def forget(self) -> None:
        """Let go of what was read, between batches of items."""
        self._known.clear()


def with_rationale(item: Item, rationale: str) -> str:
    """The context of the options, a rationale between question and answer; the item's own where that is empty."""
    return f"{_stem(item)}{REASONING} {rationale.strip()}\n{ANSWER}" if rationale.strip() else item.contexts[0]


def reason_for(item: Item, option: int) -> str:
    """The prompt for a rationale after an answer."""
    _stem(item)
    return f"{item.contexts[option]}{item.delimiter}{item.options[option]}\n{REASON}"


def reason_first(item: Item) -> str:
    """The prompt for a rationale before the answer: the short reasoning prompt."""
    return f"{_stem(item)}{REASONING}"


def _stem(item: Item) -> str:
    if item.stem is None:
        raise CannotReason(f"{item.task} {item.id}: has no question, so nobody can be asked why. Use other tasks.")
    return item.stem


@torch.no_grad()
def write(
    model: GPT,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    generators: Sequence[torch.Generator],
    tokens: int = MAX_TOKENS,
) -> list[str]:
    """One line after each prompt, sampled at temperature .8, in batches of similar length.

    Args:
        generators: one a prompt.
        tokens: at most so many, and at most a quarter of what the model reads; a longer prompt loses its beginning.
    """
    room = max(1, min(tokens, int(model.cfg.n_ctx) // 4))
    first = opening(tokenizer)
    ids = [[*first, *own][-(model.cfg.n_ctx - room) :] for own in tokenizer.encode_batch(prompts)]
    order = sorted(range(len(ids)), key=lambda at: len(ids[at]))
    texts = [""] * len(ids)
    for start in range(0, len(order), _ROWS):
        some = order[start : start + _ROWS]
        written = _continue(model, tokenizer, [ids[at] for at in some], [generators[at] for at in some], room)
        for at, row in zip(some, written, strict=True):
            texts[at] = _line(tokenizer.decode(row))
    return texts


def _continue(
    model: GPT, tokenizer: Tokenizer, prompts: list[list[int]], generators: list[torch.Generator], room: int
) -> list[list[int]]:
    """Tokens after prompts of ascending length. All go on from the shortest; a longer one is read, not drawn, to its end.

    Rows that are done leave the batch; lines end early, and a row costs as much as a token of a text that is read.
    """
    device, sampling, ends = model.W_E.device, Sampling(temperature=TEMPERATURE), (tokenizer.end, tokenizer.bos)
    start, end = len(prompts[0]), min(len(prompts[-1]) + room, model.cfg.n_ctx)
    shape = replace(model.cfg, n_ctx=end)
    cache = KeyValueCache(shape, len(prompts), device, model.W_E.dtype)
    newest = torch.tensor([prompt[:start] for prompt in prompts], device=device)
    written: list[list[int]] = [[] for _ in prompts]
    going = list(range(len(prompts)))
    for at in range(start, end):
        stream = model(newest, past_kv_cache=cache, stop_at_layer=model.cfg.n_layers)[:, -1:]
        logits = model(stream, start_at_layer=model.cfg.n_layers)[:, -1].float().cpu()
        logits[:, tokenizer.vocab_size :] = -torch.inf  # rows that pad an imported vocabulary stand for nothing
        step, kept = [], []
        for place, row in enumerate(going):
            drawn = at >= len(prompts[row])
            token = pick(logits[place], sampling, generators[row]) if drawn else prompts[row][at]
            if drawn and token not in ends:
                written[row].append(token)
            if drawn and (token in ends or len(written[row]) == room or _has_line(tokenizer.decode(written[row]))):
                continue
            step.append(token)
            kept.append(place)
        if not kept:
            break
        if len(kept) < len(going):
            cache.buffer = cache.buffer[:, :, kept]
            going = [going[place] for place in kept]
        newest = torch.tensor(step, device=device)[:, None]
    return written


def _has_line(text: str) -> bool:
    return "\n" in text.lstrip()


def _line(text: str) -> str:
    """The first line that is not empty."""
    return text.strip().split("\n", 1)[0].strip()
