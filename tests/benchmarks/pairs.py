"""Timing two ways of the same work in alternating pairs, and reporting the ratio with its interval."""

import datetime
import importlib.metadata
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def median(values: Tensor) -> float:
    """With an even count the mean of the middle two, unlike torch.median."""
    return float(values.quantile(0.5))


def bootstrap(values: Tensor, resamples: int = 10_000) -> tuple[float, float]:
    """A 95 % interval of the median."""
    picks = torch.randint(len(values), (resamples, len(values)), generator=torch.Generator().manual_seed(0))
    medians = values[picks].quantile(0.5, dim=1)
    return float(medians.quantile(0.025)), float(medians.quantile(0.975))


def alternate(ours: Callable[[], object], theirs: Callable[[], object], pairs: int) -> dict[str, Any]:
    """Process CPU seconds of both, in turns of who goes first; ratio = ours / theirs, below 1 is faster."""
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for index in range(pairs):
        turns = [("ours", ours), ("theirs", theirs)]
        for name, work in turns if index % 2 == 0 else reversed(turns):
            start = time.process_time()
            work()
            seconds[name].append(time.process_time() - start)
    mine, other = (torch.tensor(seconds[name]) for name in ("ours", "theirs"))
    low, high = bootstrap(mine / other)
    return {
        "pairs": pairs,
        "ratio_median": round(median(mine / other), 4),
        "ratio_interval": [round(low, 4), round(high, 4)],
        "ours_cpu_seconds_median": round(median(mine), 4),
        "theirs_cpu_seconds_median": round(median(other), 4),
    }


def circumstances(module: str, arguments: list[str], threads: int) -> dict[str, Any]:
    """The command, the date and the machine that a figure belongs to."""
    return {
        "command": " ".join([f"python -m {module}", *arguments]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {_processor()}",
        "threads": threads,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "transformer_lens": importlib.metadata.version("transformer-lens"),
    }


def _processor() -> str:
    names = Path("/proc/cpuinfo")
    lines = names.read_text().splitlines() if names.exists() else []
    found = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(found, platform.processor())
