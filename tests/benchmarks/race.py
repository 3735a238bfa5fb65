"""The loss that a fixed budget of time buys: our training step against a plain PyTorch GPT with AdamW, each at its best rate.

    python -m tests.benchmarks.race --folder race --minutes 4 --threads 2 > tests/figures/race.json
    python -m tests.benchmarks.race --folder short --minutes .25 --threads 1 --contenders lab-muon --rates 5e-3 1e-2 2e-2 4e-2

Same shape, corpus, batches in the same order, clip, decay, warm-up and cosine for all: the schedule goes by the share of the
budget that is spent, so nobody has to guess how many steps it buys. The plain GPT begins from GPT-2's weights (.02, writers
over √(2·layers)), as such models do; "plain-our-weights" from ours. First every contender runs at four rates with seed 0,
then at the best of them with seeds 1 to 3. Ours is the better of lab-adamw and lab-muon at seed 0, so that the seeds which
decide chose nothing. What counts is the loss on held-out text, in nats per token.

The budget is CPU time of the training steps alone (minutes × threads), or wall time with `--clock wall`, for a quiet machine.
A finished trial is a file in the folder and is not run again. JSON on stdout.
"""

import argparse
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from lab.allocator import keep_freed_memory
from lab.config import RunConfig, load_config
from lab.corpus import Corpus
from lab.cross_entropy import IGNORED
from lab.model import GPT, GPTConfig
from lab.run import default_root
from tests.benchmarks.pairs import circumstances
from tests.benchmarks.plain_gpt import PlainGPT
from train.optimizer import build_optimizer
from train.session import prepare_corpus

# Peak rates: of AdamW, and for lab-muon of Muon, its AdamW staying at the preset's.
RATES: dict[str, tuple[float, ...]] = {
    "lab-adamw": (2.5e-3, 5e-3, 1e-2, 2e-2),
    "lab-muon": (3e-3, 6e-3, 1.2e-2, 2.4e-2),
    "plain": (1.5e-3, 3e-3, 6e-3, 1.2e-2),
    "plain-our-weights": (2.5e-3, 5e-3, 1e-2, 2e-2),
}
OURS, USUAL = ("lab-adamw", "lab-muon"), ("lab-adamw", "lab-muon", "plain")
SEEDS = (1, 2, 3)
WARM_UP, FINAL = 0.05, 0.05  # shares of the budget and of the peak rate
SummedLoss = Callable[[Tensor, Tensor], Tensor]  # inputs and targets, IGNORED where one does not count


@dataclass(frozen=True)
class Settings:
    """What all trials of a folder share; a trial of other settings is another race."""

    preset: str
    minutes: float
    threads: int
    clock: str
    overrides: tuple[str, ...]

    @property
    def seconds(self) -> float:
        return 60 * self.minutes * (self.threads if self.clock == "cpu" else 1)


def contender(
    name: str, config: RunConfig, rate: float, seed: int
) -> tuple[nn.Module, SummedLoss, torch.optim.Optimizer]:
    """A model, its summed loss, and its optimizer, every group of which names its peak rate."""
    ours = GPT(GPTConfig.from_config(config.model), seed=seed)
    if name in OURS:
        change = {"kind": "muon", "muon_lr": rate} if name == "lab-muon" else {"kind": "adamw", "lr": rate}
        settings = config.optimizer.model_copy(update=change)

        def loss(inputs: Tensor, targets: Tensor) -> Tensor:
            summed: Tensor = ours(inputs, targets=targets, return_type="loss")
            return summed

        return ours, loss, build_optimizer(ours, settings)
    plain = PlainGPT(ours.cfg)
    if name == "plain":
        plain.initialise(seed)
    else:
        plain.copy_weights(ours)
    options = config.optimizer
    groups = [
        {"params": [p for p in plain.parameters() if (p.ndim >= 2) == matrix], "weight_decay": decay, "peak": rate}
        for matrix, decay in ((True, options.weight_decay), (False, 0.0))
    ]
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=options.betas, eps=options.eps, fused=True)

    def plain_loss(inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(plain(inputs).flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")

    return plain, plain_loss, optimizer


def share(progress: float) -> float:
    """Of the peak rate, at this share of the budget: linear warm-up, then a cosine down to `FINAL`."""
    if progress < WARM_UP:
        return max(progress / WARM_UP, 0.01)
    along = min(1.0, (progress - WARM_UP) / (1 - WARM_UP))
    return FINAL + (1 - FINAL) * 0.5 * (1 + math.cos(math.pi * along))


def trial(name: str, rate: float, seed: int, settings: Settings, root: Path) -> dict[str, Any]:
    """Train until the budget is spent, then measure."""
    config = load_config(settings.preset, overrides=[f"train.seed={seed}", *settings.overrides])
    corpus = prepare_corpus(config, root)
    model, loss_of, optimizer = contender(name, config, rate, seed)
    parameters = list(model.parameters())
    clock = time.process_time if settings.clock == "cpu" else time.perf_counter
    model.train()
    spent, step, curve = 0.0, 0, []
    while spent < settings.seconds:
        start = clock()
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * share(spent / settings.seconds)
        batch = corpus.next_batch(step)
        targets = batch.tokens[:, 1:].masked_fill(~batch.mask, IGNORED)
        loss = loss_of(batch.tokens[:, :-1], targets) / max(1, int(batch.mask.sum()))
        torch.autograd.backward(loss)
        norm = float(nn.utils.clip_grad_norm_(parameters, config.optimizer.clip))
        if not math.isfinite(norm):
            return {"contender": name, "rate": rate, "seed": seed, "steps": step, "loss": None}
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
        spent += clock() - start
        curve.append((round(spent, 2), round(float(loss.detach()), 4)))
    return {
        "contender": name,
        "rate": rate,
        "seed": seed,
        "steps": step,
        "seconds": round(spent, 2),
        "loss": round(held_out(model, loss_of, corpus, config), 5),
        "curve": curve[:: max(1, len(curve) // 40)],  # (seconds, training loss)
    }


@torch.no_grad()
def held_out(model: nn.Module, loss_of: SummedLoss, corpus: Corpus, config: RunConfig) -> float:
    """Nats per token on the validation slice."""
    model.eval()
    nats, tokens = 0.0, 0
    for batch in corpus.validation_batches(config.evaluation.tokens, config.train.batch):
        targets = batch.tokens[:, 1:].masked_fill(~batch.mask, IGNORED)
        nats += float(loss_of(batch.tokens[:, :-1], targets))
        tokens += int(batch.mask.sum())
    return nats / max(1, tokens)


class Race:
    """Trials that are kept in a folder, and run only when they are not there."""

    def __init__(self, folder: Path, settings: Settings, root: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.settings, self.root = folder, settings, root
        kept, text = folder / "settings.json", json.dumps(asdict(settings) | {"torch": torch.__version__}, indent=2)
        if kept.exists() and kept.read_text() != text:
            raise SystemExit(f"{folder}: holds trials of other settings ({kept.read_text()}). Give another folder.")
        kept.write_text(text)

    def trial(self, name: str, rate: float, seed: int) -> dict[str, Any]:
        file = self.folder / f"{name}-{rate:g}-{seed}.json"
        if not file.exists():
            found = trial(name, rate, seed, self.settings, self.root)
            half = file.with_suffix(".half")
            half.write_text(json.dumps(found))
            os.replace(half, file)
            print(f"{name} rate {rate:g} seed {seed}: {found['loss']} after {found['steps']} steps", file=sys.stderr)
        row: dict[str, Any] = json.loads(file.read_text())
        return row

    def run(self, names: Sequence[str], rates: Sequence[float], seeds: Sequence[int]) -> dict[str, Any]:
        """Tune, then repeat at the best rate; what the JSON says of it."""
        rows: list[dict[str, Any]] = []
        best: dict[str, dict[str, Any]] = {}
        for name in names:
            tried = [self.trial(name, rate, 0) for rate in rates or RATES[name]]
            rows += tried
            finite = [row for row in tried if row["loss"] is not None]
            if not finite:
                raise SystemExit(f"{name}: no rate gave a finite loss. Give lower ones: --rates")
            best[name] = min(finite, key=lambda row: float(row["loss"]))
        results = {}
        for seed, name in itertools.product(seeds, names):  # in turns, so that a machine that slows down slows all
            rows.append(self.trial(name, best[name]["rate"], seed))
        for name in names:
            repeated = [row for row in rows if row["contender"] == name and row["seed"] in seeds]
            tried = [row["rate"] for row in rows if row["contender"] == name and row["seed"] == 0]
            results[name] = {
                "rate": best[name]["rate"],
                "best_at_edge": best[name]["rate"] in (min(tried), max(tried)) and len(tried) > 1,
                "steps_median": sorted(row["steps"] for row in repeated or [best[name]])[len(repeated) // 2],
                **interval([row["loss"] for row in repeated]),
            }
        return {"contenders": results, **self.verdict(best, rows, seeds), "trials": rows}

    def verdict(self, best: dict[str, Any], rows: list[dict[str, Any]], seeds: Sequence[int]) -> dict[str, Any]:
        """How much lower ours ends than the plain GPT, seed by seed."""
        ours = min((name for name in best if name in OURS), key=lambda name: float(best[name]["loss"]), default=None)
        if ours is None or "plain" not in best or not seeds:
            return {}
        ends = {(row["contender"], row["seed"]): row["loss"] for row in rows}
        return {"ours": ours, "lower_by": interval([ends["plain", seed] - ends[ours, seed] for seed in seeds])}


def interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean of a few seeds with its 95 % interval by Student's t."""
    if len(values) < 2:
        return {"n": len(values), "values": list(values)}
    data = torch.tensor(values, dtype=torch.float64)
    half = float(stats.t.ppf(0.975, len(values) - 1) * data.std() / math.sqrt(len(values)))
    mean = float(data.mean())
    return {
        "n": len(values),
        "mean": round(mean, 4),
        "interval": [round(mean - half, 4), round(mean + half, 4)],
        "values": list(values),
    }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="where finished trials are kept")
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu")
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--contenders", nargs="+", choices=tuple(RATES), default=USUAL)
    parser.add_argument("--rates", type=float, nargs="+", default=(), help="for all contenders, in place of their own")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--set", action="append", default=[], help="section.key=value, for all contenders")
    parser.add_argument("--runs", type=Path, default=None, help="the folder that has the tokenised corpus (LAB_RUNS)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as a run does; all have it
    settings = Settings(options.preset, options.minutes, options.threads, options.clock, tuple(options.set))
    race = Race(options.folder, settings, options.runs or default_root())
    found = {"settings": asdict(settings), **race.run(options.contenders, options.rates, options.seeds)}
    print(json.dumps(circumstances("tests.benchmarks.race", arguments, options.threads) | found, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
