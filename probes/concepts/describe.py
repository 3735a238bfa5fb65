"""What a concept looks like: words by their place along it, tokens that it promotes, how its classes lie apart, its layers.

Pure functions from coordinates, weights and probe sets to plain data that a card can hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from probes.concepts.text import Characters
from probes.layers.fit import Decoding
from probes.layers.intervals import sentence_intervals
from probes.layers.lens import Head
from probes.layers.probe_set import ProbeSet

QUANTILES = (0.9, 0.75, 0.5, 0.25, 0.1)
TOP, AROUND = 12, 4  # words shown at either end, and at each quantile
CONTEXT = 60  # characters of the sentence on either side of a word
BINS = 30
TAIL = 0.002  # of the words, on either side, lie in the outermost bins: one odd token would stretch the axis


def places_along(
    score: Float[Tensor, "word"], kept: Bool[Tensor, "word"], top: int = TOP, around: int = AROUND
) -> dict[str, list[int]]:
    """Words at both ends of a coordinate and around its quantiles: "top", "0.9" … "0.1", "bottom"; none twice in a group.

    Args:
        kept: False for words to leave out (outliers of the norm).
    """
    words = kept.nonzero()[:, 0]
    order = words[score[words].argsort(descending=True, stable=True)].tolist()
    top = min(top, len(order) // 2)
    found = {"top": order[:top]}
    for quantile in QUANTILES:
        middle = round((1 - quantile) * (len(order) - 1))
        start = max(0, min(middle - around // 2, len(order) - around))
        found[f"{quantile:g}"] = order[start : start + around]
    found["bottom"] = order[::-1][:top]
    return found


def in_context(probe_set: ProbeSet, spans: Sequence[Characters], word: int) -> dict[str, str]:
    """A word with the text on either side of it."""
    text, (start, end) = probe_set.sentences[probe_set.word_sentence[word]], spans[word]
    before, after = text[:start], text[end:]
    return {
        "before": before if len(before) <= CONTEXT else "…" + before[-CONTEXT:],
        "word": text[start:end],
        "after": after if len(after) <= CONTEXT else after[:CONTEXT] + "…",
    }


def token_effects(
    model: Any, directions: Mapping[str, Float[Tensor, "d"]], name_of: Callable[[int], str], top: int = TOP
) -> list[dict[str, Any]]:
    """Tokens whose logit a step along each direction raises and lowers most: through the final norm's gain and W_U.

    First order and direct: later blocks are left out, and so is what the norm divides by. Logits are relative to their
    mean over the vocabulary, which no softmax sees.

    Raises:
        BadActivations: the model has no final norm or unembedding.
    """
    head = Head.of(model)
    gain = getattr(head.norm, "w", None)
    found = []
    for name, direction in directions.items():
        unit = direction.to(head.weight)
        logit = head.weight @ (unit if gain is None else unit * gain.detach().to(unit))
        logit = (logit - logit.mean()).double().cpu()
        order = logit.argsort(descending=True, stable=True).tolist()
        promoted, demoted = order[:top], order[::-1][:top]
        found.append(
            {
                "direction": name,
                "promoted": [{"token": name_of(i), "id": i, "logit": float(logit[i])} for i in promoted],
                "demoted": [{"token": name_of(i), "id": i, "logit": float(logit[i])} for i in demoted],
            }
        )
    return found


def histogram(
    score: Float[Tensor, "word"], label: Int[Tensor, "word"], classes: Sequence[str], bins: int = BINS
) -> dict[str, Any]:
    """How many words of each class lie where along a coordinate; what lies beyond the axis is in its outermost bins.

    Args:
        label: class per word; negative = none. Without classes all words are counted, as "all words".
    """
    used = label >= 0 if classes else torch.ones(len(score), dtype=torch.bool)
    values = score[used].double()
    low, high = torch.quantile(values, torch.tensor([TAIL, 1 - TAIL], dtype=torch.float64)).tolist()
    if not high > low:
        low, high = low - 0.5, high + 0.5
    edges = torch.linspace(low, high, bins + 1, dtype=torch.float64)
    place = (torch.bucketize(values, edges, right=True) - 1).clamp(0, bins - 1)
    groups = {name: label[used] == index for index, name in enumerate(classes)} or {
        "all words": torch.ones(len(values), dtype=torch.bool)
    }
    counts = {name: torch.bincount(place[rows], minlength=bins).tolist() for name, rows in groups.items()}
    return {"edges": edges.tolist(), "counts": counts}


def layer_profile(found: Decoding, weights: Float[Tensor, "replicate sentence"]) -> dict[str, Any]:
    """Usable bits of the labels at every layer, out of fold, each with its 95 % interval."""
    intervals = sentence_intervals(found.gain, found.words, weights)
    return {
        "layers": list(found.layers),
        "value": intervals.value.tolist(),
        "low": intervals.low.tolist(),
        "high": intervals.high.tolist(),
        "n": found.n,
        "base_bits": found.base_bits,
    }
