"""Whether a configuration fits a budget of memory, and what would: the largest micro-batch and context, the flags to set.

The prediction is `train.memory`'s; what is added to it here is held back for what are no tensors of ours, in numbers that say
what they are. Nothing is trained.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lab.config import RunConfig
from lab.errors import LabError
from train.memory import Prediction, predict, product_bytes

# What a process takes before its first tensor. On a CPU: Python, torch and the other libraries of a training process. On a
# graphics card: its context, kernels and workspaces; nobody has measured that here, and a desktop on the card takes more.
PROCESS_BYTES = {"cpu": 600_000_000, "cuda": 600_000_000, "mps": 600_000_000}
# Of the tensors' peak: blocks of torch's allocator on a graphics card that are free but too small; likewise an assumption.
# On a CPU freed memory is one heap, and big tensors are mapped one by one.
FRAGMENTS = {"cpu": 0.02, "cuda": 0.05, "mps": 0.05}
CONTEXT_STEP = 64  # contexts are proposed in multiples of it
MOST_CONTEXT = 1 << 17
_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


class BadSize(LabError):
    """A text that says no amount of memory."""


@dataclass(frozen=True)
class Fit:
    """A configuration beside a budget; bytes.

    Attributes:
        prediction: of the configuration as it is.
        reserve: held back for what is no tensor.
        batch, accumulation, checkpoint_blocks: the largest micro-batch that fits, as many sequences a step as configured;
            batch is 0 where not even one sequence fits. Blocks run again only where it fits no other way.
        context: the largest that fits with the configured micro-batch; 0 for none.
        context_of_one: the largest that fits with one sequence at a time.
        flags: what to set so that the largest micro-batch is used; nothing where it is used already, or nothing fits.
    """

    budget: int
    prediction: Prediction
    reserve: int
    batch: int
    accumulation: int
    checkpoint_blocks: bool
    context: int
    context_of_one: int
    flags: tuple[str, ...]

    @property
    def needed(self) -> int:
        return self.prediction.peak.bytes + self.reserve

    @property
    def fits(self) -> bool:
        return self.needed <= self.budget


def fits(config: RunConfig, budget: int, device: str = "cpu", anchored: Sequence[int] | None = None) -> Fit:
    """What of a configuration fits so many bytes on a device.

    Args:
        device: "cpu", "cuda" or "mps".
        anchored: as for `predict`.
    """

    def within(one: RunConfig) -> bool:
        peak = predict(one, device, product_bytes(one, device), anchored).peak.bytes
        return peak + reserve(peak, device) <= budget

    train, whole = config.train, config.train.batch * config.train.accumulation
    batch, again = 0, train.checkpoint_blocks
    for again in dict.fromkeys((train.checkpoint_blocks, True)):
        trials = (_with(config, batch=n, accumulation=whole // n, checkpoint_blocks=again) for n in _divisors(whole))
        batch = next((one.train.batch for one in trials if within(one)), 0)
        if batch:
            break
    accumulation = whole // batch if batch else train.accumulation

    def context(rows: int) -> int:
        of_rows = _with(config, batch=rows)
        found = _largest(lambda n: within(_of_context(of_rows, n)), MOST_CONTEXT)
        return found // CONTEXT_STEP * CONTEXT_STEP if found > CONTEXT_STEP else found

    prediction = predict(config, device, product_bytes(config, device), anchored)
    better = {"train.batch": batch, "train.accumulation": accumulation, "train.checkpoint_blocks": again}
    now = {
        "train.batch": train.batch,
        "train.accumulation": train.accumulation,
        "train.checkpoint_blocks": train.checkpoint_blocks,
    }
    changed = [f"--set {key}={str(value).lower()}" for key, value in better.items() if value != now[key]]
    return Fit(
        budget=budget,
        prediction=prediction,
        reserve=reserve(prediction.peak.bytes, device),
        batch=batch,
        accumulation=accumulation,
        checkpoint_blocks=again,
        context=context(train.batch),
        context_of_one=context(1),
        flags=tuple(changed) if batch else (),
    )


def reserve(peak: int, device: str) -> int:
    """Bytes to hold back beside so many of tensors."""
    return PROCESS_BYTES[device] + round(FRAGMENTS[device] * peak)


def size_in_bytes(text: str) -> int:
    """
    >>> size_in_bytes("8GB"), size_in_bytes("7.5GiB")
    (8000000000, 8053063680)

    Raises:
        BadSize: anything else.
    """
    found = re.fullmatch(r"\s*([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*([A-Za-z]*)\s*", text)
    unit = _UNITS.get(found[2].upper()) if found else None
    size = round(float(found[1]) * unit) if found and unit else 0
    if size <= 0:
        raise BadSize(f"--memory {text!r}: is no amount of memory. Write 8GB, 7.5GiB or 512MB, for example.")
    return size


def _divisors(number: int) -> list[int]:
    """Descending."""
    return [n for n in range(number, 0, -1) if number % n == 0]


def _largest(suits: Callable[[int], bool], most: int) -> int:
    """The largest of 0..most that suits, where whatever is smaller than one that does so too; 0 is taken to."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if suits(middle) else (low, middle - 1)
    return low


def _with(config: RunConfig, **train: int | bool) -> RunConfig:
    return config.model_copy(update={"train": config.train.model_copy(update=train)})


def _of_context(config: RunConfig, n_ctx: int) -> RunConfig:
    return config.model_copy(update={"model": config.model.model_copy(update={"n_ctx": n_ctx})})
