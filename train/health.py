"""Is training healthy? Rules with their thresholds, and the functions behind them.

Numbers in, verdicts out: nothing here visits, records or pauses (`understanding` does) or runs a model (`look` does), and
nothing loads torch: the app shows these rules and must start without it. Spikes are judged against the median
of the 128 steps before (OLMo-core's window; a mean would be moved by the very spikes it is to find) and against the usual
change from step to step: a deviation from the median would count a falling loss as noise and be blind while a model learns
fastest (a rate ten times too high from step 150 on trebled the loss of three runs and gave one spike in all three together).
Trends are two exponential averages.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from probes.behaviour.findings import Rule

if TYPE_CHECKING:
    from lab.model import GPT
    from train.look import Look

WINDOW = 128  # steps; none of the first 128 of a phase of the data is judged
SIGMA = 6.0  # in robust deviations
ROBUST = 1.4826 / math.sqrt(2)  # times the median change from step to step: the deviation, where noise is normal
OFTEN, STEPS_OF_OFTEN = 3, 100
FAST, SLOW = 32, 512  # spans of the two averages of the loss, steps
EXCESS, EXCESS_STEPS = 1.05, 200
DEAD = 1e-3
DEAD_SHARE, DEAD_RISE, DEAD_RISE_STEPS = 0.10, 0.05, 1000
ENTROPY_SHARE = 0.5
FEWEST_VISITS, TRAILING = 3, 8
ROOM = 4  # checkpoints; saving refuses below 2
LOOP_RISE, LOOP_ALPHA = 0.20, 0.05


def _rule(id: str, severity: Any, definition: str, instrument: str = "health", version: str = "1") -> Rule:
    return Rule(instrument, f"{instrument}.{id}", version, severity, definition)


SPIKE = (
    f"more than {SIGMA:g} robust deviations (of changes from step to step) over the median of the {WINDOW} steps before"
)
NON_FINITE = _rule(
    "non-finite", "critical", "loss or gradient norm is not finite: not applied, the run saves and ends with exit 3"
)
LOSS_SPIKE = _rule("loss-spike", "watch", f"the loss of a step is {SPIKE}", version="2")
GRADIENT_SPIKE = _rule(
    "gradient-spike", "watch", f"the gradient norm of a step, before clipping, is {SPIKE}", version="2"
)
LOSS_SPIKES = _rule("loss-spikes", "alert", f"{OFTEN} or more loss spikes in {STEPS_OF_OFTEN} steps", version="2")
# To be read, not to be called for: norms are heavy-tailed (51 of a clean run's 5,000 steps are spikes, so three in 100 steps
# are ordinary), and they are clipped before they are applied; where one does harm, the loss shows it.
GRADIENT_SPIKES = _rule(
    "gradient-spikes", "watch", f"{OFTEN} or more gradient spikes in {STEPS_OF_OFTEN} steps", version="2"
)
WORSE_THAN_UNIFORM = _rule(
    "worse-than-uniform",
    "alert",
    "a loss spike above ln(vocabulary), what knowing nothing costs: a text of random tokens costs at least that",
    version="2",
)
DIVERGENCE = _rule(
    "divergence",
    "critical",
    f"the loss averaged over {FAST} steps is more than {EXCESS:g} times that over {SLOW} for {EXCESS_STEPS} steps on end",
)
DEAD_UNITS = _rule(
    "dead-units",
    "alert",
    f"over {DEAD_SHARE:.0%} of a layer's MLP units vary less than {DEAD:g} of their layer's median (now, or over the last "
    f"{TRAILING} visits) on the probe text, or {DEAD_RISE:.0%} more than at any visit of the last {DEAD_RISE_STEPS} steps",
)
ENTROPY_COLLAPSE = _rule(
    "entropy-collapse",
    "alert",
    f"entropy of the next token on the probe text is under {ENTROPY_SHARE:.0%} of its median over the last {TRAILING} "
    f"visits ({FEWEST_VISITS} or more), and the loss there did not fall: less doubt without more knowledge",
)
DISK = _rule("disk", "alert", f"the disk has room for less than {ROOM} checkpoints; below 2 the run stands still")
LOOP_RATE = _rule(
    "rate",
    "alert",
    f"at two visits on end, {LOOP_RISE:.0%} more generations end in a loop (`loops.tail-cycle`) than at the reference "
    f"checkpoint, with Fisher's exact p below {LOOP_ALPHA}",
    "loops",
)
RULES = (
    NON_FINITE,
    LOSS_SPIKE,
    GRADIENT_SPIKE,
    LOSS_SPIKES,
    GRADIENT_SPIKES,
    WORSE_THAN_UNIFORM,
    DIVERGENCE,
    DEAD_UNITS,
    ENTROPY_COLLAPSE,
    DISK,
    LOOP_RATE,
)


def rule_hash(rule: Rule) -> str:
    """sha256 of a rule's id, version, severity and definition: which thresholds were in force."""
    return hashlib.sha256(json.dumps(asdict(rule), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Spike:
    step: int
    value: float
    limit: float


@dataclass
class Spikes:
    """A series whose every step is judged against the 128 before it.

    Attributes:
        window: the newest values, at most 128.
        recent: steps of spikes within the last 100 steps.
    """

    window: list[float] = field(default_factory=list)
    recent: list[int] = field(default_factory=list)

    def judge(self, steps: Sequence[int], values: Sequence[float]) -> list[Spike]:
        """The spikes among new values, which then belong to the window."""
        series = np.array([*self.window, *values])
        found = []
        if len(series) > WINDOW:
            judged = len(series) - WINDOW
            before = np.lib.stride_tricks.sliding_window_view(series, WINDOW)[:judged]
            middle = np.median(before, axis=1)
            spread = ROBUST * np.median(np.abs(np.diff(before, axis=1)), axis=1)
            # A series that hardly moves has no deviation; a thousandth of its level is none either.
            limits = middle + SIGMA * np.maximum(spread, 1e-3 * np.abs(middle))
            newest = zip(steps[-judged:], series[WINDOW:].tolist(), limits.tolist(), strict=True)
            found = [Spike(step, value, limit) for step, value, limit in newest if value > limit]
        self.window = series[-WINDOW:].tolist()
        self.recent += [spike.step for spike in found]
        return found

    def bursts(self, since: int, until: int) -> tuple[bool, int]:
        """About the steps after `since`, up to `until`: were there 3 in some 100 steps that end among them, and how often
        did that begin there? Steps come in order, so `since` is the `until` of the last call.
        """
        often = any(b - a < STEPS_OF_OFTEN for a, b in zip(self.recent, self.recent[OFTEN - 1 :], strict=False))

        def count(step: int) -> int:
            return sum(step - STEPS_OF_OFTEN < spike <= step for spike in self.recent)

        begun = sum(count(spike) >= OFTEN > count(spike - 1) for spike in self.recent if spike > since)
        self.recent = [step for step in self.recent if step > until - STEPS_OF_OFTEN]
        return often, begun

    def forget(self) -> None:
        """Begin anew: the data change here."""
        self.window, self.recent = [], []


@dataclass
class Trend:
    """Two averages of the loss and for how many steps on end the fast one has been too high."""

    fast: float = 0.0
    slow: float = 0.0
    steps: int = 0
    above: int = 0

    def push(self, loss: float) -> bool:
        """Take one loss; whether the loss has been diverging for 200 steps now."""
        self.steps += 1
        self.fast += 2 / (FAST + 1) * (loss - self.fast)
        self.slow += 2 / (SLOW + 1) * (loss - self.slow)
        high = self.steps > WINDOW and self.level(FAST) > EXCESS * self.level(SLOW)
        self.above = self.above + 1 if high else 0
        return self.above >= EXCESS_STEPS

    def level(self, span: int) -> float:
        """The average over `span` steps; both start at zero, which is divided out (as Adam does)."""
        value = self.fast if span == FAST else self.slow
        return value / (1 - (1 - 2 / (span + 1)) ** self.steps) if self.steps else math.nan


@dataclass
class Vitals:
    """What was seen at earlier visits: entropies, losses on the probe text, median deviations and dead shares by layer."""

    entropies: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    medians: list[list[float]] = field(default_factory=list)
    dead: list[tuple[int, list[float]]] = field(default_factory=list)

    def entropy_collapses(self, seen: Look) -> tuple[bool, float]:
        """Whether it does, and the entropy below which it would; NaN before there are enough visits."""
        if len(self.entropies) < FEWEST_VISITS:
            return False, math.nan
        limit = ENTROPY_SHARE * median(self.entropies)
        return seen.entropy < limit and seen.loss >= median(self.losses), limit

    def dead_shares(self, seen: Look) -> list[float]:
        """Per layer, the share of units that hardly vary."""
        now = [float(deviation.median()) for deviation in seen.deviations]
        usual = [median(past) for past in zip(*self.medians, strict=True)] if self.medians else now
        # A layer that is dead as a whole has a median of 0 now, so the usual one counts too.
        scales = [max(pair) for pair in zip(now, usual, strict=True)]
        layers = zip(seen.deviations, scales, strict=True)
        return [float((deviation <= DEAD * scale).double().mean()) for deviation, scale in layers]

    def units_die(self, step: int, shares: Sequence[float]) -> bool:
        """Whether a layer has too many dead units, or many more than it had lately."""
        lately = [past for at, past in self.dead if step - at <= DEAD_RISE_STEPS]
        risen = [share - min(past[layer] for past in lately) for layer, share in enumerate(shares)] if lately else []
        return max(shares) > DEAD_SHARE or max(risen, default=0.0) >= DEAD_RISE

    def remember(self, step: int, seen: Look, shares: Sequence[float]) -> None:
        self.entropies = [*self.entropies, seen.entropy][-TRAILING:]
        self.losses = [*self.losses, seen.loss][-TRAILING:]
        self.medians = [*self.medians, [float(deviation.median()) for deviation in seen.deviations]][-TRAILING:]
        recent = [(at, past) for at, past in self.dead if step - at <= DEAD_RISE_STEPS]
        self.dead = [*recent, (step, list(shares))][-64:]


def free_bytes(folder: Path) -> int:
    """What the disk that holds `folder` has left."""
    return shutil.disk_usage(folder).free


def checkpoint_bytes(model: GPT) -> int:
    """About the size of a checkpoint: weights and AdamW's two moments, four bytes each."""
    return 12 * sum(int(parameter.numel()) for parameter in model.parameters())
