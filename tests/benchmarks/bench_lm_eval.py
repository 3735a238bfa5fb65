"""Our likelihood scoring against lm-eval's HFLM: the same items and checkpoint, item by item, then in alternating pairs.

    python -m tests.benchmarks.bench_lm_eval --run laptop --tasks arc_easy,hellaswag,openbookqa --items 300
    python -m tests.benchmarks.bench_lm_eval --run smol --tasks arc_easy,hellaswag,openbookqa --timed 24

acc, acc_norm and acc_bytes are compared on all items; nothing is timed where they differ. Timed is the same work on both
sides, every option after its context; `score` also asks for each option without its question, which costs as much again where
contexts are short. Process CPU seconds of one thread. JSON on stdout.
"""

import argparse
import json
import sys
from collections.abc import Sequence

import torch

from lab import load
from lab.benchmark_items import Item, load_items
from lab.benchmark_scoring import Request, likelihoods, requests
from lab.benchmarks import score
from lab.tokenizer import Tokenizer
from tests.benchmarks.pairs import alternate, circumstances
from train.harness import Harness, beside


def asked(tokenizer: Tokenizer, items: Sequence[Item]) -> list[Request]:
    """What lm-eval asks, too: each option after its context."""
    pairs = [
        (context, item.delimiter + option)
        for item in items
        for context, option in zip(item.contexts, item.options, strict=True)
    ]
    return requests(tokenizer, pairs)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", default="latest")
    parser.add_argument("--tasks", default="arc_easy,hellaswag,openbookqa")
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--timed", type=int, default=24, help="items of each timed pass")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--batch", type=int, default=16, help="lm-eval's batch size")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    run = load(options.run)
    model, tokenizer = run.model(), run.tokenizer()
    harness = Harness(run, run.checkpoint_info().step, options.batch)
    rows = []
    for task in options.tasks.split(","):
        items = load_items(task, options.items)
        answers = [one for one in score(model, tokenizer, items) if one is not None]
        side = beside(harness, task, answers)
        row = {
            "task": task,
            "items": len(answers),
            "differing": side.differing,
            "largest_nats": side.largest,
            "accuracy": {name: [side.ours[name].value, side.theirs[name].value] for name in side.ours},
        }
        if options.pairs and not any(side.differing.values()):
            timed = [one.item for one in answers[: options.timed]]
            row |= alternate(
                lambda timed=timed: likelihoods(model, asked(tokenizer, timed)),  # type: ignore[misc]
                lambda timed=timed: harness.likelihoods(timed),  # type: ignore[misc]
                options.pairs,
            )
            row |= {
                "timed": len(timed),
                "items_per_second": round(len(timed) / row["ours_cpu_seconds_median"], 3),
                "theirs_items_per_second": round(len(timed) / row["theirs_cpu_seconds_median"], 3),
                "items_per_second_ratio": round(1 / row["ratio_median"], 3),
                "items_per_second_interval": [round(1 / bound, 3) for bound in reversed(row["ratio_interval"])],
            }
        rows.append(row)
    figures = circumstances("tests.benchmarks.bench_lm_eval", arguments, 1)
    print(json.dumps(figures | {"run": run.name, "rows": rows}, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
