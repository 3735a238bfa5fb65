"""Answers to benchmark items by likelihood: what a model finds likeliest to follow, and the ways to count it right.

One pass gives every metric. Sums of log-probabilities are kept per option, and per token, so that another way to count needs
no second run. Rates over items, with intervals, are in `probes.behaviour.accuracy`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from lab.benchmark_items import Item
from lab.ngrams import CONTAMINATION, NgramIndex, Words

if TYPE_CHECKING:
    from lab.model import GPT
    from lab.tokenizer import Tokenizer

SHORTEST = 8  # words of an item that is looked for in the training text
METRICS = {
    "acc": "likeliest option, sum over its tokens",
    "acc_norm": "likeliest per character",
    "acc_bytes": "likeliest per byte",
    "acc_unconditional": "likeliest beyond what it is without the question",
    "zero_prompt": "likeliest without the question: what the options alone give away",
}


@dataclass(frozen=True)
class Answer:
    """One item and how likely each option was.

    Attributes:
        likelihood: log-probability of each option after its context, nats, summed over its tokens.
        bare: the same after the bare context, which says nothing of the question.
        tokens: the summands of `likelihood`, rounded to 1e-5.
        greedy: the model itself would have written this option.
        truncated: the context did not fit, and its beginning was left out.
        contamination: share of the item's words inside 13-grams of the training text; None: not looked for, or too short.
    """

    item: Item
    likelihood: tuple[float, ...]
    bare: tuple[float, ...]
    tokens: tuple[tuple[float, ...], ...]
    greedy: tuple[bool, ...]
    truncated: bool = False
    contamination: float | None = None

    def choice(self, metric: str = "acc") -> int:
        """The option chosen, the first of equal ones."""
        scores = np.array(self.likelihood)
        if metric == "acc_norm":
            scores = scores / [len(option) for option in self.item.options]
        elif metric == "acc_bytes":
            scores = scores / [len(option.encode()) for option in self.item.options]
        elif (
            metric == "acc_unconditional" and len(set(self.item.contexts)) == 1
        ):  # else what is scored is the same text
            scores = scores - np.array(self.bare)
        elif metric == "zero_prompt":
            scores = np.array(self.bare)
        elif metric not in METRICS:
            raise ValueError(f"{metric!r} is no metric. Metrics are: {', '.join(METRICS)}.")
        return int(scores.argmax())

    def right(self, metric: str = "acc") -> bool:
        """Whether the choice is the gold one; with a single option, whether the model would have written it."""
        if len(self.item.options) == 1:
            return metric != "zero_prompt" and self.greedy[0]
        return self.choice(metric) == self.item.gold

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        item = data["item"] | {key: tuple(data["item"][key]) for key in ("contexts", "options")}
        return cls(
            item=Item(**item),
            likelihood=tuple(data["likelihood"]),
            bare=tuple(data["bare"]),
            tokens=tuple(tuple(row) for row in data["tokens"]),
            greedy=tuple(data["greedy"]),
            truncated=data["truncated"],
            contamination=data["contamination"],
        )


def score(
    model: GPT, tokenizer: Tokenizer, items: Sequence[Item], text: TrainingText | None = None
) -> list[Answer | None]:
    """Each item answered; None where an option alone is longer than the model reads.

    Args:
        text: what the model was trained on, to look the items up in.
    """
    from lab.benchmark_scoring import fits, likelihoods, requests

    pairs = [
        (context, item.delimiter + option)
        for item in items
        for context, option in [*zip(item.contexts, item.options, strict=True), *_bare_pairs(item)]
    ]
    asked = requests(tokenizer, pairs)
    scored = iter(likelihoods(model, [request for request in asked if fits(model, request)]))
    found = [next(scored) if fits(model, request) else None for request in asked]
    answers: list[Answer | None] = []
    first = 0
    for item in items:
        count = len(item.options)
        own, bare = found[first : first + count], found[first + count : first + 2 * count]
        first += 2 * count
        whole = [one for one in own if one is not None]
        without = [one for one in bare if one is not None]
        if len(whole) + len(without) < 2 * count:
            answers.append(None)
            continue
        answers.append(
            Answer(
                item,
                tuple(one.total for one in whole),
                tuple(one.total for one in without),
                tuple(tuple(round(log, 5) for log in one.tokens) for one in whole),
                tuple(one.greedy for one in whole),
                any(one.truncated for one in whole),
                None if text is None else text.contamination(item),
            )
        )
    return answers


class TrainingText:
    """The training text by word, to look items up in. Chitchat's 2.3 million words take about 3 s of one core."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._words = Words()
        self._index = NgramIndex.build([self._words.add(texts)])

    def contamination(self, item: Item) -> float | None:
        """Share of the words of an item, its gold option included, inside 13-grams that the training text has.

        13 words are GPT-3's measure (arXiv:2005.14165, appendix C), which goes down to 8 for short items as here. None below
        that: such a phrase may stand anywhere.
        """
        words = self._words.encode(item.contexts[item.gold] + item.delimiter + item.options[item.gold])
        if len(words) < SHORTEST:
            return None
        return self._index.covered(words, min(CONTAMINATION, len(words)))


def _bare_pairs(item: Item) -> list[tuple[str, str]]:
    """The options after the bare context; where contexts differ (WinoGrande) the options inside them are what differs."""
    if len(set(item.contexts)) == 1:
        return [(item.bare_context, option) for option in item.options]
    return [("", context.removeprefix(_shared(item.contexts))) for context in item.contexts]


def _shared(texts: Sequence[str]) -> str:
    """The words that all texts begin with."""
    first, last = min(texts), max(texts)
    at = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[: first[:at].rfind(" ") + 1]
