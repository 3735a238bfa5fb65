"""What holding a concept costs a training step: process CPU time of alternating pairs, frozen against free, at `demo` shape.

    python -m tests.benchmarks.freeze                     # write, anchor and pin at the middle layer, 15 pairs each

A step is forward, loss, backward, what the freeze does before and after, clip, and a fused AdamW step; both sides start from
the same weights and see the same batches. The bounds are issue 6's: write ≤ 1.05, anchor at the middle layer ≤ 1.35, pin ≤
1.45. Memory is that of the frozen lower copy and, beside it, what one forward pass keeps. JSON on stdout.
"""

import argparse
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lab.config import load_config
from lab.lower_copy import LowerCopy, lower_weights
from lab.model import GPT, GPTConfig
from lab.pins import Pin, set_pins
from tests.benchmarks.pairs import alternate, circumstances
from train.freeze_modes import Anchor, Dictionary

BOUNDS = {"write": 1.05, "anchor": 1.35, "pin": 1.45, "write+anchor": None}


class Trained:
    """A model with its optimizer, stepping as the loop does, free or with one concept held."""

    def __init__(self, cfg: GPTConfig, mode: str | None, layer: int, rank: int) -> None:
        self.model = GPT(cfg, seed=0).train()
        parameters = self.model.parameters()
        self.optimizer = torch.optim.AdamW(parameters, lr=3e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        drawn = torch.randn(cfg.d_model, rank, generator=torch.Generator().manual_seed(1))
        basis: Tensor = torch.linalg.qr(drawn).Q
        copy = LowerCopy(cfg, layer, lower_weights(self.model, layer))
        asked = mode or ""
        self.anchor = Anchor(self.model, basis, copy, target=0.1, weight=1.0) if "anchor" in asked else None
        writing = "write" in asked
        self.dictionary = Dictionary(self.model, self.optimizer, [(layer, basis, copy.weights)]) if writing else None
        if mode == "pin":
            set_pins(self.model, [Pin("concept", layer, basis, copy)])
        self.copy_bytes = copy.bytes if asked in ("anchor", "pin", "write+anchor") else 0

    def step(self, tokens: Tensor) -> None:
        loss = self.model(tokens, return_type="loss")
        if self.anchor is not None:
            loss = loss + self.anchor.loss(tokens)
        loss.backward()
        if self.dictionary is not None:
            self.dictionary.before_step()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.dictionary is not None:
            self.dictionary.after_step()
        if self.anchor is not None:
            self.anchor.after_step()


def steps(trained: Trained, batches: list[Tensor]) -> Callable[[], None]:
    rows = itertools.cycle(batches)
    return lambda: trained.step(next(rows))


def compare(mode: str, preset: str, pairs: int, rank: int) -> dict[str, Any]:
    """Ratio of a held step to a free one; below its bound is good."""
    config = load_config(preset)
    cfg = GPTConfig.from_config(config.model)
    layer = cfg.n_layers // 2
    held, free = Trained(cfg, mode, layer, rank), Trained(cfg, None, layer, rank)
    generator = torch.Generator().manual_seed(2)
    batches = [torch.randint(cfg.d_vocab, (config.train.batch, cfg.n_ctx), generator=generator) for _ in range(pairs)]
    for trained in (held, free):
        trained.step(batches[0])  # allocator, optimizer state and first-use costs
    timed = alternate(steps(held, batches), steps(free, batches), pairs)
    weights = sum(p.nbytes for p in free.model.parameters())
    return {
        "mode": mode,
        "preset": preset,
        "layer": layer,
        "rank": rank,
        "batch": config.train.batch,
        **timed,
        "bound": BOUNDS[mode],
        "lower_copy_bytes": held.copy_bytes,
        "lower_copy_share_of_weights": round(held.copy_bytes / weights, 4),
    }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", nargs="+", choices=tuple(BOUNDS), default=["write", "anchor", "pin"])
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--rank", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    rows = []
    for mode in options.modes:
        rows.append(compare(mode, options.preset, options.pairs, options.rank))
        row = rows[-1]
        print(
            f"{mode}: {row['ratio_median']} {row['ratio_interval']}, lower copy {row['lower_copy_bytes'] / 1e6:.1f} MB "
            f"({row['lower_copy_share_of_weights']:.0%} of the weights)",
            file=sys.stderr,
        )
    report = circumstances("tests.benchmarks.freeze", arguments, options.threads) | {"rows": rows}
    text = json.dumps(report, indent=2)
    if options.out:
        options.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main(sys.argv[1:])
