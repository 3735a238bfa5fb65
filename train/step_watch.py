"""Every step's loss and gradient norm, judged: spikes, frequent spikes, a loss that diverges. Part of `understanding`.

Steps come in one by one and are judged together; when they are judged changes nothing about what is found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from probes.behaviour.findings import Finding, Rule
from train import health
from train.health import Spike, Spikes, Trend

JUDGE_EVERY = 1024  # steps that may wait


@dataclass
class StepWatch:
    """What came in and what was found in it since `take` was called last.

    Attributes:
        phases: steps at which the data change; a jump of the loss there is neither a spike nor a trend.
        seen: steps judged, spikes of either series, whether they were frequent, whether the loss diverged; and how often
            that began.
    """

    phases: frozenset[int] = frozenset()
    loss: Spikes = field(default_factory=Spikes)
    norm: Spikes = field(default_factory=Spikes)
    trend: Trend = field(default_factory=Trend)
    seen: dict[str, Any] = field(default_factory=lambda: _nothing())
    _pending: list[tuple[int, float, float]] = field(default_factory=list)

    def push(self, step: int, loss: float, norm: float) -> None:
        """The numbers of one step: an append, and 15 ms every 1,024 steps unless a visit comes first."""
        if step - 1 in self.phases:
            self._judge()
            self.loss.forget()
            self.norm.forget()
            self.trend = Trend()
        self._pending.append((step, loss, norm))
        if len(self._pending) >= JUDGE_EVERY:
            self._judge()

    def take(self) -> dict[str, Any]:
        """What was seen since the last time."""
        self._judge()
        seen, self.seen = self.seen, _nothing()
        return seen

    def _judge(self) -> None:
        if not self._pending:
            return
        steps, losses, norms = zip(*self._pending, strict=True)
        self.seen["steps"] += len(steps)
        for name, series, values in (("loss", self.loss, losses), ("norm", self.norm, norms)):
            self.seen[name] += [asdict(spike) for spike in series.judge(steps, values)]
            often, begun = series.bursts(steps[0] - 1, steps[-1])
            self.seen[f"{name} often"] |= often
            self.seen[f"{name} bursts"] += begun
        for loss in losses:
            self.seen["diverging"] |= self.trend.push(loss)
            self.seen["divergences"] += self.trend.above == health.EXCESS_STEPS
        self._pending.clear()

    def state_dict(self) -> dict[str, Any]:
        self._judge()
        return {name: asdict(getattr(self, name)) for name in ("loss", "norm", "trend")} | {"seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.loss, self.norm, self.trend = Spikes(**state["loss"]), Spikes(**state["norm"]), Trend(**state["trend"])
        self.seen = _nothing() | state["seen"]
        self._pending.clear()


@dataclass(frozen=True)
class Checked:
    """One rule at one visit: alarms among the steps since the last one, and the finding if it fires.

    Attributes:
        alarms: steps that are spikes; of a state, steps at which it began. Per step either is as likely whenever somebody
            looks, so that rates of two intervals can be compared; "at this visit or not" would be likelier the longer the
            interval.
        holds: whether the state was true at some step since; None for what is no state.
    """

    rule: Rule
    alarms: int
    checks: int
    holds: bool | None
    finding: Finding | None


def check(seen: Mapping[str, Any], trend: Trend, vocabulary: int) -> list[Checked]:
    """All rules about steps; a check is a step.

    Args:
        vocabulary: tokens; its logarithm is what knowing nothing costs.
    """
    steps = seen["steps"]
    losses, norms = ([Spike(**spike) for spike in seen[name]] for name in ("loss", "norm"))
    high = [spike for spike in losses if spike.value > math.log(vocabulary)]
    checked = [
        Checked(rule, len(spikes), steps, None, _finding(rule, spikes, steps) if spikes else None)
        for rule, spikes in (
            (health.LOSS_SPIKE, losses),
            (health.GRADIENT_SPIKE, norms),
            (health.WORSE_THAN_UNIFORM, high),
        )
    ]
    for rule, spikes, name in ((health.LOSS_SPIKES, losses, "loss"), (health.GRADIENT_SPIKES, norms, "norm")):
        often = seen[f"{name} often"]
        finding = _finding(rule, spikes, steps) if often else None
        checked.append(Checked(rule, seen[f"{name} bursts"], steps, often, finding))
    diverges = seen["diverging"]
    finding = None
    if diverges:
        fast, slow = trend.level(health.FAST), trend.level(health.SLOW)
        text = (
            f"the loss of the last {health.FAST} steps is {fast:.3f} nats, that of {health.SLOW} is {slow:.3f}: over "
        )
        text += f"{health.EXCESS:g} times that for {health.EXCESS_STEPS} steps. Consider going back 100 steps or more"
        finding = health.DIVERGENCE.finding(text, fast / slow, evidence=asdict(trend))
    return [*checked, Checked(health.DIVERGENCE, seen["divergences"], steps, diverges, finding)]


def _nothing() -> dict[str, Any]:
    states = {"loss often": False, "norm often": False, "diverging": False}
    return {"steps": 0, "loss": [], "norm": []} | states | {"loss bursts": 0, "norm bursts": 0, "divergences": 0}


def _finding(rule: Rule, spikes: Sequence[Spike], steps: int) -> Finding:
    if not spikes:
        return rule.finding(f"they go on from the steps before ({steps} steps since the last look)")
    top = max(spikes, key=lambda spike: spike.value / spike.limit)
    text = f"{len(spikes)} of {steps} steps; the largest, step {top.step}: {top.value:.3f}, limit {top.limit:.3f}"
    return rule.finding(text, top.value, evidence={"steps": steps, "spikes": [asdict(spike) for spike in spikes[:64]]})
