"""When an attachment looks: its interval, a change of it with both schedules side by side, and a budget that stretches it.

A changed interval changes how often a rule *can* fire, so alarms are counted per rule and regime beside the checks that were
made, and shown per 1,000 checks. For `DOUBLES` visits after a change the old schedule is kept up beside the new one; each
check counts for the schedules it was due on, so the two regimes overlap.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from lab.records import Records
from probes.behaviour.rates import Rate, wilson

DOUBLES = 5  # visits on the new schedule during which the old one is kept up
ALARMS, CHECKS = "alarms/", "checks/"  # metrics: counts so far in this regime, by rule
FEWEST_STEPS = 20  # in this process, before the pace of training is known


@dataclass
class Rhythm:
    """One interval in steps, and what it is at present.

    Attributes:
        every: as asked for; 0 = off.
        before: the interval that was in force before the last change, while it is kept up beside; else 0.
        doubles: visits on the new schedule for which that will still be so.
        stretch: the interval is this many times longer, for the sake of the budget. Not part of a checkpoint: it says
            something about this machine, and is found anew after a resume.
    """

    every: int
    before: int = 0
    doubles: int = 0
    stretch: int = 1
    _costs: list[float] = field(default_factory=list)

    @property
    def interval(self) -> int:
        return self.every * self.stretch

    def due(self, step: int) -> tuple[int, ...]:
        """The intervals that a visit is due on at this step: the present one, the one before, both or neither."""
        if self.every <= 0:
            return ()
        now = (self.every,) if step % self.interval == 0 else ()
        return now + ((self.before,) if self.doubles and step % self.before == 0 else ())

    def change(self, every: int) -> None:
        """Another interval from now on. The old one, unless it was off, goes on beside it for 5 visits."""
        if every == self.every:
            return
        both = self.every > 0 and every > 0
        self.before, self.doubles = (self.every, DOUBLES) if both else (0, 0)
        self.every, self.stretch = every, 1
        self._costs.clear()

    def visited(self, due: Sequence[int]) -> None:
        """A visit that was due on these intervals is over."""
        if self.doubles and self.every in due:
            self.doubles -= 1
            if not self.doubles:
                self.before = 0

    def pay(self, seconds: float, per_step: float, share: float) -> tuple[int, float] | None:
        """Account for a visit; the stretch before and the share of training time it took, if the stretch changes.

        The cost is the median of the last three visits; stretches are powers of two, and shrink only when half of one
        would be enough twice over, so that a busy minute does not set the interval trembling.

        Args:
            per_step: seconds that a step of training takes on average.
            share: of training time that visits may take.
        """
        self._costs = [*self._costs, seconds][-3:]
        cost = median(self._costs)
        needed = cost / (share * per_step * self.every)
        before, wanted = self.stretch, 2 ** max(0, math.ceil(math.log2(max(1.0, needed))))
        if wanted > before or wanted <= before // 4:
            self.stretch = wanted
            return before, cost / (per_step * self.every * before)
        return None

    def state_dict(self) -> dict[str, int]:
        return {"every": self.every, "before": self.before, "doubles": self.doubles}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.every, self.before, self.doubles = state["every"], state["before"], state["doubles"]


@dataclass
class Tally:
    """Alarms and checks by interval and rule. A check is a step for rules about steps, else a visit."""

    counts: dict[int, dict[str, list[int]]] = field(default_factory=dict)

    def count(self, intervals: Sequence[int], rule: str, alarms: int, checks: int) -> None:
        for interval in intervals:
            cell = self.counts.setdefault(interval, {}).setdefault(rule, [0, 0])
            cell[0] += alarms
            cell[1] += checks

    def rates(self, interval: int) -> dict[str, Rate]:
        """Per rule; `Rate.per_thousand` is what series with different intervals are compared by."""
        return {
            rule: wilson(alarms, checks) for rule, (alarms, checks) in self.counts.get(interval, {}).items() if checks
        }

    def state_dict(self) -> dict[str, dict[str, list[int]]]:
        return {
            str(interval): {rule: list(cell) for rule, cell in rules.items()} for interval, rules in self.counts.items()
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Sequence[int]]]) -> None:
        self.counts = {int(i): {rule: list(cell) for rule, cell in rules.items()} for i, rules in state.items()}


def recorded_rates(records: Records) -> dict[str, Rate]:
    """Alarms among checks by rule, in the regime that is in force, as the newest visit recorded them."""
    found = {}
    for name in records.metric_names():
        if name.startswith(CHECKS):
            alarms, checks = records.newest(ALARMS + name.removeprefix(CHECKS)), records.newest(name)
            if alarms and checks and checks[1]:
                found[name.removeprefix(CHECKS)] = wilson(int(alarms[1]), int(checks[1]))
    return found
