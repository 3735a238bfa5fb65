"""When the understanding module asks contrasts, what it makes of them, and what they may cost.

The price is asked before: a battery that would take more than a quarter of the budget is put off to a longer interval, with
an event that says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lab.config import RunConfig
from lab.records import Episode
from probes.behaviour.contrasts import CONFIRMED, CONTRAST
from probes.behaviour.findings import Finding
from train.attachments import Moment
from train.contrast_battery import Outcome, TooDear, contrast
from train.references import earlier_reference
from train.rhythm import Rhythm, Tally

EPISODE = "contrasts"
SHARE = 0.25  # of the understanding module's budget

Tell = Callable[[Moment, str, str, Mapping[str, Any] | None], None]


class ContrastVisits:
    """The contrasts of one run.

    Attributes:
        active: (rule, pair) that were true at the last battery: what goes on being true is one finding.
        evidence: of the last battery, for a bundle.
    """

    def __init__(self, config: RunConfig) -> None:
        self.samples, self.budget = config.understanding.contrast_samples, SHARE * config.understanding.budget
        self.rhythm = Rhythm(config.understanding.contrasts_every)
        self.active: set[tuple[str, str]] = set()
        self.evidence: dict[str, Any] = {}
        self._seed = config.train.seed

    def visit(self, moment: Moment, per_step: float | None, tally: Tally, tell: Tell) -> list[Finding]:
        """Ask, unless that is too dear; an episode, and the findings that are new.

        Args:
            per_step: seconds that a step of training takes; None where nothing is known yet.

        Raises:
            LabError: the reference cannot be read.
        """

        def may_go_on(seconds: float) -> bool:
            if per_step is None:
                return True
            changed = self.rhythm.pay(seconds, max(per_step, 1e-9), self.budget)
            if changed:
                every, interval = self.rhythm.every * changed[0], self.rhythm.interval
                text = f"understanding: contrasts would take {seconds:.0f} s, {changed[1]:.1%} of training time, their "
                text += f"budget is {self.budget:.2%}: every {interval} steps now, not {every}"
                tell(moment, "budget", text, {"before": every, "every": interval, "share": changed[1]})
            return moment.step % self.rhythm.interval == 0

        earlier = earlier_reference(moment.run, moment.step)
        device = moment.model.W_E.device
        reference = earlier and (
            earlier.step,
            earlier.weights_sha256,
            lambda: moment.run.model(earlier.step).to(device),
        )
        try:
            outcome = contrast(
                moment.run,
                moment.model,
                moment.corpus.tokenizer,
                moment.step,
                self._seed,
                self.samples,
                reference or None,
                may_go_on,
            )
        except TooDear:
            return []
        self.evidence = outcome.evidence()
        moment.records.add(
            Episode(segment=moment.segment, step=moment.step, kind=EPISODE, regime=None, data=outcome.to_json())
        )
        return self._new(outcome, tally)

    def _new(self, outcome: Outcome, tally: Tally) -> list[Finding]:
        found = {one.pair: finding for one in outcome.contrasts if (finding := one.finding()) is not None}
        for rule in (CONTRAST, CONFIRMED):
            alarms = sum(finding.rule == rule.id for finding in found.values())
            tally.count((self.rhythm.every,), rule.id, alarms, len(outcome.contrasts))
        now = {(finding.rule, pair) for pair, finding in found.items()}
        new = [finding for pair, finding in found.items() if (finding.rule, pair) not in self.active]
        self.active = now
        return new

    def state_dict(self) -> dict[str, Any]:
        return {"rhythm": self.rhythm.state_dict(), "active": sorted(map(list, self.active))}

    def load_state_dict(self, state: Mapping[str, Any] | None) -> None:
        if state is not None:
            self.rhythm.load_state_dict(state["rhythm"])
            self.active = {(rule, pair) for rule, pair in state["active"]}
