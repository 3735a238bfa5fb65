"""`lab collect` against HookedTransformer's `run_with_cache` with the same names_filter: process CPU time, alternating pairs.

    .venv-tl39/bin/python -m tests.benchmarks.harvest          # in the 3.9.0 environment (make bench-tl39)

Both read the same windows of token ids in the same batches, keep the same activations in float32, and end with them in
safetensors files on disk. The peer is used as its users use it: `with torch.no_grad(): model.run_with_cache(tokens,
names_filter=[…])`, gathered, then `save_file`. Peaks are of tensor bytes alive at once, beside the weights, for one batch:
ours while it harvests the layers, the peer's while `run_with_cache` without a filter fills its cache. JSON on stdout.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lab.collecting import collect
from lab.model import GPT, GPTConfig
from tests.benchmarks.pairs import alternate, circumstances
from tests.live_bytes import LiveBytes
from tests.tl39.oracle import twin


class Ids:
    """A tokenizer whose text is token ids already, so that neither side pays for tokenising."""

    bos, sha256 = 0, "ids"

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]


def documents(vocabulary: int, context: int, windows: int) -> Iterator[str]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(windows):
        yield " ".join(map(str, torch.randint(1, vocabulary, (context - 1,), generator=generator).tolist()))


def compare(layers: list[int], pairs: int, windows: int, batch: int) -> dict[str, Any]:
    cfg = GPTConfig(n_layers=6, d_model=256, n_heads=8, n_ctx=256, d_vocab=4096)
    ours = GPT(cfg, seed=0)
    with torch.no_grad():  # writers start at zero; give every layer something to write
        for weight in ours.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.02)
    theirs: Any = twin(ours)
    names = [f"blocks.{layer - 1}.hook_resid_post" for layer in layers]
    texts = list(documents(cfg.d_vocab, cfg.n_ctx, windows))
    rows = torch.tensor([[0, *Ids().encode(text)] for text in texts])
    folder = Path(tempfile.mkdtemp())

    def mine() -> None:
        shutil.rmtree(folder / "ours", ignore_errors=True)
        tokenizer: Any = Ids()
        collect(ours, tokenizer, texts, names, folder / "ours", batch=batch, dtype="float32")

    def other() -> None:
        kept: dict[str, list[torch.Tensor]] = {name: [] for name in names}
        with torch.no_grad():
            for start in range(0, windows, batch):
                _, cache = theirs.run_with_cache(rows[start : start + batch], names_filter=names)
                for name in names:
                    kept[name].append(cache[name])
        save_file({name: torch.cat(parts) for name, parts in kept.items()}, folder / "theirs.safetensors")

    def peak_of(work: Callable[[], object]) -> int:
        with torch.no_grad(), LiveBytes() as counted:
            work()
        return int(counted.peak)

    def first_batch() -> None:
        tokenizer: Any = Ids()
        collect(ours, tokenizer, texts[:batch], names, folder / "peak", batch=batch, dtype="float32")

    peaks = peak_of(first_batch), peak_of(lambda: theirs.run_with_cache(rows[:batch]))
    mine()
    other()
    result = alternate(mine, other, pairs)
    shutil.rmtree(folder)
    speed = round(1 / result["ratio_median"], 3)
    return {
        "layers": layers,
        "windows": windows,
        "context": cfg.n_ctx,
        "tokens_per_second_ratio": speed,
        "windows_at_peak": batch,
        "ours_peak_bytes": peaks[0],
        "theirs_peak_bytes": peaks[1],
        "peak_ratio": round(peaks[0] / peaks[1], 4),
        **result,
    }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--windows", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    sets = ([3], [6], [1, 2, 3, 4, 5, 6])
    found = [compare(layers, options.pairs, options.windows, options.batch) for layers in sets]
    print(json.dumps(circumstances("tests.benchmarks.harvest", arguments, 1) | {"rows": found}, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
