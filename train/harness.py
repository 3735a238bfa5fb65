"""The same items answered by lm-eval's HFLM on the exported folder, beside our own answers, item by item.

lm-eval reads the Llama folder through transformers, builds its batches and counts what is right by its own code; the items
are ours, as its own ones come from a hub. An extra: pip install 'brightwoven-lab[clients]'.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lab.benchmark_items import Item
from lab.benchmark_scoring import opening
from lab.benchmarks import Answer
from lab.errors import LabError
from lab.exports import export
from lab.run import Run
from probes.behaviour.accuracy import accuracy
from probes.behaviour.rates import Rate, wilson

COUNTED = ("acc", "acc_norm", "acc_bytes")
Report = Callable[[str, float], None]


class HarnessMissing(LabError):
    """lm-eval is not installed."""


@dataclass(frozen=True)
class Side:
    """One benchmark by both: accuracies, and how many items they do not agree on.

    Attributes:
        differing: items that one of the two counts right and the other does not.
        largest: greatest difference of an option's log-likelihood, nats.
        seconds: lm-eval's, for these items, its loading not counted.
    """

    task: str
    ours: dict[str, Rate]
    theirs: dict[str, Rate]
    differing: dict[str, int]
    largest: float
    seconds: float


class Harness:
    """lm-eval's HFLM on a checkpoint, ready to be asked."""

    def __init__(self, run: Run, step: int, batch: int = 16) -> None:
        try:
            from lm_eval.models.huggingface import HFLM
        except ImportError:
            raise HarnessMissing(
                "lm-eval is not installed. Install it beside the lab: pip install 'brightwoven-lab[clients]'"
            ) from None
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        tokenizer = run.tokenizer()
        # Our tokenizer is trained with <|bos|> before each document, and no folder can say so: it is spelled out.
        self._first = tokenizer.decode(opening(tokenizer))
        with tempfile.TemporaryDirectory(prefix="lab-harness-") as temporary:
            folder = export(run, "hf", step, Path(temporary) / "hf")
            self._model: Any = HFLM(
                pretrained=str(folder),
                device="cpu",
                dtype="float32",
                batch_size=batch,
                add_bos_token=False,
                prefix_token_id=tokenizer.bos,
            )

    def likelihoods(self, items: Sequence[Item]) -> list[list[tuple[float, bool]]]:
        """(log-likelihood in nats, greedy) of each option of each item."""
        from lm_eval.api.instance import Instance

        asked = [
            Instance("loglikelihood", {}, (self._first + context if context else "", item.delimiter + option), at)
            for item in items
            for at, (context, option) in enumerate(zip(item.contexts, item.options, strict=True))
        ]
        found = iter(self._model.loglikelihood(asked, disable_tqdm=True))
        return [[next(found) for _ in item.options] for item in items]


def counted(item: Item, results: Sequence[tuple[float, bool]]) -> dict[str, bool]:
    """What lm-eval's own multiple-choice task makes of an item's likelihoods."""
    if len(item.options) == 1:
        return dict.fromkeys(COUNTED, results[0][1])
    found = _multiple_choice().process_results(_document(item.options, item.gold), results)
    return {name: bool(found[name]) for name in COUNTED}


@cache
def _multiple_choice() -> Any:
    """lm-eval's task for items like ours; it wants a data set when it is made, and counts any item afterwards."""
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    return ConfigurableTask(
        config={
            "task": "lab",
            "custom_dataset": lambda **_: {"test": Dataset.from_list([_document(("a", "b"), 0)])},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "",
            "doc_to_choice": "options",
            "doc_to_target": "gold",
            "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in COUNTED],
        }
    )


def _document(options: Sequence[str], gold: int) -> dict[str, Any]:
    return {"options": list(options), "gold": gold}


def beside(harness: Harness, task: str, answers: Sequence[Answer], report: Report | None = None) -> Side:
    """lm-eval's answers to the items of ours."""
    items = [answer.item for answer in answers]
    if report:
        report(f"lm-eval answers {task}", 0.0)
    began = time.perf_counter()
    results = harness.likelihoods(items)
    seconds = time.perf_counter() - began
    theirs = [counted(item, found) for item, found in zip(items, results, strict=True)]
    differing = {
        name: sum(answer.right(name) != found[name] for answer, found in zip(answers, theirs, strict=True))
        for name in COUNTED
    }
    largest = max(
        abs(ours - value)
        for answer, found in zip(answers, results, strict=True)
        for ours, (value, _) in zip(answer.likelihood, found, strict=True)
    )
    return Side(
        task=task,
        ours={name: accuracy(answers, name) for name in COUNTED},
        theirs={name: wilson(sum(found[name] for found in theirs), len(theirs)) for name in COUNTED},
        differing=differing,
        largest=largest,
        seconds=seconds,
    )
