"""The understanding module: is training healthy, does the model loop, is layout a fallback; and standing still if need be.

An attachment. Cheap checks every n steps, heavier batteries on an interval of their own. What it sees becomes findings with
the rule that fired; a *critical* one holds training, weights in memory, and leaves a bundle of evidence. A rule that goes on
being true is one finding, not one per visit. Rules are in `health`, intervals and rates in `rhythm`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch

from lab.config import RunConfig
from lab.errors import LabError
from lab.records import Event, Regime
from lab.records import Finding as Row
from probes.behaviour import contrasts
from probes.behaviour.fallback import FALLBACK
from probes.behaviour.findings import Finding, Rule
from probes.behaviour.rates import Table, difference, fisher, wilson
from train import batteries, bundles, generations, health, step_watch
from train.attachments import Moment
from train.contrast_visits import ContrastVisits
from train.generations import Generated
from train.generators import derived_generator
from train.health import Vitals
from train.look import Look, look
from train.references import earlier_reference
from train.rhythm import ALARMS, CHECKS, FEWEST_STEPS, Rhythm, Tally
from train.step_watch import StepWatch

PROBE_TOKENS = 2048  # of validation text; a forward pass every 100 steps is under 1 % of training at any preset
TEXTS, TOKENS = 16, 64  # generations of a cheap visit; the reference gives 64 of the same length
RULES = (*health.RULES, *contrasts.RULES)


class Understanding:
    """See the module. Every step's loss and gradient norm come in through `follow`, at the price of an append."""

    name = "understanding"
    log_spaced = False

    def __init__(self, config: RunConfig) -> None:
        self.config = config.understanding
        self.every = self.config.every
        self.rhythm, self.heavy = Rhythm(self.every), Rhythm(self.config.batteries_every)
        self.contrasts = ContrastVisits(config)
        self.tally, self.vitals = Tally(), Vitals()
        self.steps = StepWatch(frozenset(phase.from_step for phase in config.data.phases) - {0})
        self.active: set[str] = set()  # rules that are true at present
        self._seed = config.train.seed
        self._rises = 0  # visits on end with more loops than the reference
        self._reference: dict[str, Any] = {}
        self._changed_at: int | None = None
        self._regime = ""
        self._followed, self._visits = 0, 0  # in this process
        self._windows: torch.Tensor | None = None
        self._told: set[str] = set()

    # ------------------------------------------------------------------------------------------------ when to look

    def due(self, step: int) -> bool:
        return bool(self.rhythm.due(step) or (step and (self.heavy.due(step) or self.contrasts.rhythm.due(step))))

    def set_every(self, step: int, every: int) -> None:
        """Another interval from `step` on: a new regime, and for 5 visits the old schedule beside the new one."""
        self.rhythm.change(every)
        self.every, self._changed_at = every, step

    def follow(self, step: int, loss: float, norm: float) -> None:
        """The numbers of one step."""
        self._followed += 1
        self.steps.push(step, loss, norm)

    def visit(self, moment: Moment) -> None:
        due, heavy = self.rhythm.due(moment.step), bool(moment.step and self.heavy.due(moment.step))
        dear = bool(moment.step and self.contrasts.rhythm.due(moment.step))
        found: list[Finding] = []
        if due or not (heavy or dear):  # the last step is visited although nothing is due
            started = time.perf_counter()
            found += self._check(moment, due or (self.every,))
            self.rhythm.visited(due)
            self._pay(moment, self.rhythm, time.perf_counter() - started, "cheap checks")
        if heavy:
            started = time.perf_counter()
            found += self._batteries(moment)
            self._pay(moment, self.heavy, time.perf_counter() - started, "batteries")
        if dear:
            found += self._contrasts(moment)
        self._visits += 1
        self._open_regime(moment)
        moment.records.add(*(Row(segment=moment.segment, step=moment.step, **one.to_row()) for one in found))
        for one in found:
            if one.severity == "critical" and not self.config.observe_only:
                self._pause(moment, one)

    # ------------------------------------------------------------------------------------------------ cheap checks

    def _check(self, moment: Moment, due: Sequence[int]) -> list[Finding]:
        windows = moment.corpus.validation_batches(PROBE_TOKENS, max(1, 1024 // moment.corpus.n_ctx))
        seen = look(moment.model, (batch.tokens for batch in windows))
        found = self._of_steps(moment, due) + self._of_probe(moment, due, seen) + self._of_disk(moment, due)
        numbers = {"understanding/entropy": seen.entropy, "understanding/probe_loss": seen.loss}
        numbers["understanding/dead_share"] = max(self.vitals.dead[-1][1])
        try:
            looping, rates = self._of_loops(moment, due)
            found, numbers = found + looping, numbers | rates
        except LabError as error:  # a reference checkpoint that cannot be read
            self._tell(moment, "untestable", f"loops are not compared with the reference: {error}")
        moment.records.metrics(moment.segment, moment.step, numbers | self._counts(self.every, health.RULES))
        return found

    def _counts(self, every: int, rules: Sequence[Rule]) -> dict[str, float]:
        """Alarms and checks so far on an interval of these rules, as metrics."""
        ids = {rule.id for rule in rules}
        rates = {rule: rate for rule, rate in self.tally.rates(every).items() if rule in ids}
        return {ALARMS + rule: float(rate.count) for rule, rate in rates.items()} | {
            CHECKS + rule: float(rate.checks) for rule, rate in rates.items()
        }

    def _of_steps(self, moment: Moment, due: Sequence[int]) -> list[Finding]:
        found = []
        for one in step_watch.check(self.steps.take(), self.steps.trend, moment.model.cfg.d_vocab):
            self.tally.count(due, one.rule.id, one.alarms, one.checks)
            says = one.holds is None or self._becomes_true(one.rule, one.holds)
            found += [one.finding] if one.finding and says else []
        return found

    def _of_probe(self, moment: Moment, due: Sequence[int], seen: Look) -> list[Finding]:
        found = []
        shares = self.vitals.dead_shares(seen)
        if self._begins(due, health.DEAD_UNITS, self.vitals.units_die(moment.step, shares)):
            worst = max(range(len(shares)), key=shares.__getitem__)
            units = len(seen.deviations[worst])
            rate = wilson(round(shares[worst] * units), units)
            text = f"block {worst}: {rate.count} of {units} MLP units hardly vary on the probe text"
            found.append(
                health.DEAD_UNITS.finding(text, rate.value, (rate.lo, rate.hi), evidence={"share by block": shares})
            )
        collapses, limit = self.vitals.entropy_collapses(seen)
        if self._begins(due, health.ENTROPY_COLLAPSE, collapses):
            text = f"entropy of the next token is {seen.entropy:.3f} nats, below {limit:.3f}; loss there {seen.loss:.3f} nats"
            evidence = {"earlier": self.vitals.entropies, "earlier losses": self.vitals.losses}
            found.append(health.ENTROPY_COLLAPSE.finding(text, seen.entropy, evidence=evidence))
        self.vitals.remember(moment.step, seen, shares)
        return found

    def _of_disk(self, moment: Moment, due: Sequence[int]) -> list[Finding]:
        free, size = health.free_bytes(moment.run.path), health.checkpoint_bytes(moment.model)
        if not self._begins(due, health.DISK, free < health.ROOM * size):
            return []
        text = f"the disk has {free / 1e6:,.0f} MB left, room for {free / size:.1f} checkpoints of {size / 1e6:,.0f} MB"
        return [health.DISK.finding(text, free / size, evidence={"free": free, "checkpoint": size})]

    def _of_loops(self, moment: Moment, due: Sequence[int]) -> tuple[list[Finding], dict[str, float]]:
        """Nothing while there is no reference: a rate of loops says nothing by itself."""
        info = earlier_reference(moment.run, moment.step)
        if info is None:
            return [], {}
        if self._reference.get("sha256") != info.weights_sha256:
            model = moment.run.model(info.step).to(moment.model.W_E.device)
            there = self._generate(moment, model, info.step, generations.TEXTS)
            self._reference = {"sha256": info.weights_sha256, "step": info.step, "texts": len(there.ids)}
            self._reference["loops"] = there.loops
        here = self._generate(moment, moment.model, moment.step, TEXTS)
        rate, usual = wilson(here.loops, len(here.ids)), wilson(self._reference["loops"], self._reference["texts"])
        p = fisher(Table(rate.count, rate.checks - rate.count, usual.count, usual.checks - usual.count))
        more = rate.value - usual.value >= health.LOOP_RISE and p < health.LOOP_ALPHA
        self._rises = self._rises + 1 if more else 0
        numbers = {"understanding/loop_rate": rate.value, "understanding/loop_rate_reference": usual.value}
        if not self._begins(due, health.LOOP_RATE, self._rises >= 2):
            return [], numbers
        rise = difference(usual, rate)
        text = f"{rate} of short generations end in a loop; reference, step {self._reference['step']}: {usual}; p = {p:.2g}"
        evidence = {"reference": self._reference, "samples": here.to_json()}
        return [health.LOOP_RATE.finding(text, rise.value, (rise.lo, rise.hi), evidence=evidence)], numbers

    # --------------------------------------------------------------------------------------------------- batteries

    def _batteries(self, moment: Moment) -> list[Finding]:
        windows = self._validation(moment)
        found: list[Finding] = []
        numbers: dict[str, float] = {}
        try:
            earlier = earlier_reference(moment.run, moment.step)
            reference = moment.run.model(earlier.step).to(moment.model.W_E.device) if earlier else None
            texts, tokens = len(windows), batteries.TOKENS
            material = batteries.Material(
                prompts=windows[:, : generations.PROMPT_TOKENS],
                texts=self._generate(moment, moment.model, moment.step, texts, tokens),
                reference=reference,
                reference_texts=self._generate(moment, reference, earlier.step, texts, tokens)
                if reference and earlier
                else None,
                people=windows[:, : generations.PROMPT_TOKENS + tokens],
            )
            for battery in batteries.BATTERIES.values():
                more, values = battery(material)
                found, numbers = found + more, numbers | values
        except LabError as error:
            self._tell(moment, "untestable", f"batteries could not be run: {error}")
            return []
        if material.reference is not None:  # without one nothing is judged
            self.tally.count((self.heavy.every,), FALLBACK.id, sum(one.rule == FALLBACK.id for one in found), 1)
        moment.records.metrics(moment.segment, moment.step, numbers | self._counts(self.heavy.every, (FALLBACK,)))
        return found

    def _contrasts(self, moment: Moment) -> list[Finding]:
        pace = moment.spent.get("train", 0.0) / self._followed if self._followed else None
        try:
            found = self.contrasts.visit(moment, pace, self.tally, self._tell)
        except LabError as error:
            self._tell(moment, "untestable", f"contrasts could not be asked: {error}")
            return []
        every = self.contrasts.rhythm.every
        moment.records.metrics(moment.segment, moment.step, self._counts(every, contrasts.RULES))
        return found

    def _generate(self, moment: Moment, model: Any, step: int, texts: int, tokens: int = TOKENS) -> Generated:
        prompts = self._validation(moment)[:texts, : generations.PROMPT_TOKENS]
        generator = derived_generator(self._seed, self.name, step)
        return generations.generate(model, moment.corpus.tokenizer, prompts, tokens, generator)

    def _validation(self, moment: Moment) -> torch.Tensor:
        if self._windows is None:
            self._windows = generations.windows_of(moment.corpus)
        return self._windows

    # ------------------------------------------------------------------------------------------- what comes of it

    def _begins(self, due: Sequence[int], rule: Rule, holds: bool) -> bool:
        """Count a check of a rule that is judged by visits; whether it has become true since the last one."""
        self.tally.count(due, rule.id, int(holds), 1)
        return self._becomes_true(rule, holds)

    def _becomes_true(self, rule: Rule, holds: bool) -> bool:
        begins = holds and rule.id not in self.active
        (self.active.add if holds else self.active.discard)(rule.id)
        return begins

    def _pause(self, moment: Moment, finding: Finding) -> None:
        rule = next(rule for rule in RULES if rule.id == finding.rule)
        samples = self._generate(moment, moment.model, moment.step, TEXTS)
        content = {
            "finding": finding.to_row(),
            "definition": asdict(rule),
            "rule_sha256": health.rule_hash(rule),
            "every": self.every,
            "alarms_and_checks": self.tally.state_dict(),
            "losses": self.steps.loss.window,
            "gradient_norms": self.steps.norm.window,
            "generations": samples.to_json() | {"looping": samples.loops},
            "reference": self._reference,
        }
        if rule in contrasts.RULES:
            content["contrasts"] = self.contrasts.evidence
        try:
            folder = bundles.keep(moment.run, moment.step, rule.id, moment.segment, moment.model, content)
            where = f"evidence/{folder.name}"
        except OSError as error:  # a full disk must not keep a sick run going
            where = f"none, the disk refused it ({error.strerror})"
        moment.hold(self.name, f"{finding.text} ({rule.id}). Evidence: {where}")

    def _open_regime(self, moment: Moment) -> None:
        protocol = {
            "every": self.every,
            "interval": self.rhythm.interval,
            "batteries_every": self.heavy.every,
            "batteries_interval": self.heavy.interval,
            "double_checks": self.rhythm.doubles > 0,
            "contrasts_every": self.contrasts.rhythm.every,
            "contrasts_interval": self.contrasts.rhythm.interval,
            "contrast_samples": self.config.contrast_samples,
            "rules": {rule.id: health.rule_hash(rule) for rule in RULES},
            "probe_tokens": PROBE_TOKENS,
            "generations": [TEXTS, TOKENS, generations.TEMPERATURE, generations.PROMPT_TOKENS],
        }
        digest = hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()
        if digest != self._regime:
            self._regime = digest
            known = moment.records.rows(Regime, name=self.name)
            if not known or known[-1].hash != digest:
                at, self._changed_at = self._changed_at, None
                step = moment.step if at is None else at
                moment.records.add_now(Regime(name=self.name, step=step, protocol=protocol, hash=digest))

    def _pay(self, moment: Moment, rhythm: Rhythm, seconds: float, what: str) -> None:
        """Half of the budget is for the cheap checks, a quarter each for the batteries and for contrasts, which ask before.

        The first visit of a process is not counted.
        """
        if self._followed < FEWEST_STEPS or not self._visits or rhythm.every <= 0:
            return
        per_step = moment.spent.get("train", 0.0) / self._followed
        budget = self.config.budget / (2 if rhythm is self.rhythm else 4)
        changed = rhythm.pay(seconds, max(per_step, 1e-9), budget)
        if changed:
            before, share = changed
            text = f"understanding: {what} took {share:.1%} of training time, their budget is {budget:.1%}: "
            text += f"every {rhythm.interval} steps now, not {rhythm.every * before}"
            self._tell(
                moment, "budget", text, {"before": rhythm.every * before, "every": rhythm.interval, "share": share}
            )

    def _tell(self, moment: Moment, kind: str, text: str, data: Mapping[str, Any] | None = None) -> None:
        if kind == "budget" or text not in self._told:  # once a segment
            self._told.add(text)
            details = {"attachment": self.name, **(data or {})}
            at, segment, step = time.time(), moment.segment, moment.step
            moment.records.add(Event(kind=kind, text=text, at=at, segment=segment, step=step, data=details))

    def state_dict(self) -> dict[str, Any]:
        own = {"active": sorted(self.active), "rises": self._rises, "reference": self._reference}
        parts = {"vitals": asdict(self.vitals), "changed_at": self._changed_at}
        parts["contrasts"] = self.contrasts.state_dict()
        return own | parts | {name: getattr(self, name).state_dict() for name in ("steps", "rhythm", "heavy", "tally")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.active, self._rises, self._reference = set(state["active"]), state["rises"], state["reference"]
        self.vitals, self._changed_at = Vitals(**state["vitals"]), state["changed_at"]
        for name in ("steps", "rhythm", "heavy", "tally"):
            getattr(self, name).load_state_dict(state[name])
        self.contrasts.load_state_dict(state.get("contrasts"))  # checkpoints from before contrasts have none
        self.every = self.rhythm.every
