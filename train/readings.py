"""The readings of a claim, made on a run's material: decode, decide, use, and the series over checkpoints.

Each instrument is a pure function of `probes`; here it is decided what a claim's subjects mean to it, and what cannot be
read becomes evidence that says why, never a number. Readings that several claims share are made once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from lab.checkpoint import list_checkpoints
from probes.claims.grammar import Claim
from probes.claims.outcomes import relative_region
from probes.claims.series import Point, Series, window
from probes.layers.collect import Activations, collect
from probes.layers.compare import Bench, decode
from probes.layers.decide import decide
from probes.layers.erasers import Concept
from probes.layers.evidence import Evidence, Interval, ReadingName, Side, Target
from probes.layers.intervals import REFIT_REPLICATES
from probes.layers.problem import Untestable
from probes.layers.use import use
from train.material import Material

SERIES_CHECKPOINTS = 8  # of the run, evenly spaced in the logarithm of the step


@dataclass(frozen=True)
class Sizes:
    """How much is measured. Erasing costs most: (layers × sentences × subspaces) runs through the upper blocks."""

    decide_tokens: int = 4000
    use_layers: int = 100  # of 0..L, all of them where there are no more
    use_sentences: int = 400
    use_subspaces: int = 20
    refits: int = REFIT_REPLICATES  # of every probe, where sentences are few; most of a wide model's time

    @classmethod
    def fitting(cls, parameters: int) -> Sizes:
        """The full sizes, or for a model with more than 30 million parameters those that keep it within half an hour."""
        return cls() if parameters <= 30_000_000 else cls(use_layers=6, use_sentences=100, use_subspaces=5)


QUICK = Sizes(decide_tokens=1500, use_layers=3, use_sentences=50, use_subspaces=3, refits=80)


@dataclass
class Readings:
    """Makes the evidence of claims, remembering what it has made."""

    material: Material
    sizes: Sizes
    seed: int = 0
    report: Callable[[str], None] = lambda what: None
    checkpoints: dict[int, str] = field(default_factory=dict)  # those that series were read from, with their sha256
    _made: dict[tuple[Any, ...], Evidence] = field(default_factory=dict)

    def of(self, claim: Claim, wanted: Sequence[str]) -> dict[str, Evidence]:
        """Evidence by name for a PARSED claim about order, place or use."""
        region = None
        if claim.kind == "band" and claim.where is not None:
            region = relative_region(claim.where, self.material.n_layers)
        found: dict[str, Evidence] = {}
        targets: tuple[Target, ...] = ("next", "current")
        if "decode" in wanted and claim.kind in ("depth_order", "band"):
            for target in targets:
                found[f"decode.{target}"] = self._once("decode", target, claim, region)
        if "decide" in wanted and claim.kind in ("depth_order", "band"):
            found["decide"] = self._once("decide", None, claim, region)
        if "use" in wanted or claim.kind == "causal":
            found["use"] = self._once("use", None, claim, region)
        return found

    def series(self, claim: Claim) -> tuple[list[tuple[Series, Side]], tuple[float, float]]:
        """The claim's subjects over the run's checkpoints, each with its side at the last; and the claim's window in steps.

        The window that the claim names is resolved on all checkpoints; within what is asked for, at most
        `SERIES_CHECKPOINTS` are read, one at a time.

        Raises:
            Untestable: no label, or fewer than two checkpoints to look at.
        """
        names = [name for name in (claim.a, claim.b) if name is not None]
        there = {info.step: info for info in list_checkpoints(self.material.run.checkpoints_folder)}
        horizon = max(self.material.run.config.train.steps, *there)
        first, last = window(claim, sorted(there), horizon)
        # what stays or moves does so inside the window; what comes up is told by what was there before it, too
        inside = [step for step in sorted(there) if claim.kind != "stability" or first <= step <= last]
        steps = _spread(inside)
        if len(steps) < 2:
            raise Untestable(f"{names[0]}: {len(steps)} checkpoint to look at. Keep more of them.")
        labels = [self.material.labelled(name, "next") for name in names]
        points: list[list[Point]] = [[] for _ in names]
        sides: list[Side] = []
        for step in steps:
            self.report(f"checkpoint of step {step:,}")
            model = self.material.run.model(step)
            bench = self._bench_of(collect(model, self.material.confirmation))
            sides = []
            for label, found in zip(labels, points, strict=True):
                evidence = decode(bench, label, None, "next")
                side = evidence.a
                if side.curve is None:
                    raise Untestable(f"{side.subject} at step {step:,}: {'; '.join(evidence.untestable)}")
                best = max(range(len(side.curve.value)), key=side.curve.value.__getitem__)
                bits = Interval(side.curve.value[best], side.curve.lo[best], side.curve.hi[best])
                found.append(Point(step, bits, side.depth))
                sides.append(side)
            self.checkpoints[step] = there[step].weights_sha256
        read = [
            (Series(name, tuple(found), horizon, side.sentences), side)
            for name, found, side in zip(names, points, sides, strict=True)
        ]
        return read, (first, last)

    @cached_property
    def _bench(self) -> Bench:
        return self._bench_of(self.material.activations())

    def _bench_of(self, activations: Activations) -> Bench:
        material = self.material
        return Bench(material.confirmation, activations, material.twin, self.seed, refit_replicates=self.sizes.refits)

    def _once(
        self, reading: ReadingName, target: Target | None, claim: Claim, region: tuple[float, float] | None
    ) -> Evidence:
        key = (reading, target, claim.kind == "causal", claim.a, claim.b, region)
        if key not in self._made:
            self.report(reading if target is None else f"{reading}, {target} word")
            try:
                self._made[key] = self._make(reading, target, claim, region)
            except Untestable as error:
                self._made[key] = Evidence(reading, target, *_bare(claim), untestable=(str(error),))
        return self._made[key]

    def _make(
        self, reading: ReadingName, target: Target | None, claim: Claim, region: tuple[float, float] | None
    ) -> Evidence:
        material, sizes = self.material, self.sizes
        a, b = str(claim.a), claim.b
        if reading == "decode":
            assert target is not None
            first = material.labelled(a, target)
            second = material.labelled(b, target) if b is not None else None
            return decode(self._bench, first, second, target, region)
        sets = (material.model, material.exploration, material.confirmation)
        if reading == "decide":
            groups = [material.group(name) for name in (a, b) if name is not None]
            if len(groups) == 2 and bool((groups[0].words == groups[1].words).all()):
                raise Untestable(f"{a} and {b} are the same next words here, so neither can be settled first.")
            second_group = groups[1] if len(groups) == 2 else None
            return decide(
                *sets,
                groups[0],
                second_group,
                material.counts,
                tokens=sizes.decide_tokens,
                seed=self.seed,
                region=region,
            )
        erase = partial(
            use,
            *sets,
            layers=sizes.use_layers,
            sentences=sizes.use_sentences,
            subspaces=sizes.use_subspaces,
            seed=self.seed,
        )
        if claim.kind == "causal":
            hurt = b or a
            found = erase(Concept(material.group(hurt), material.erased(a)), None)
            return replace(found, a=replace(found.a, subject=a), settings={**found.settings, "cost_on": hurt})
        concepts = [Concept(material.group(name), material.erased(name)) for name in (a, b) if name is not None]
        return erase(concepts[0], concepts[1] if b is not None else None, region=region)


def _bare(claim: Claim) -> tuple[Side, Side | None]:
    sides = [Side(name, name, 0, 0, 0) for name in (claim.a, claim.b) if name is not None]
    return sides[0], sides[1] if len(sides) == 2 else None


def _spread(steps: Sequence[int]) -> list[int]:
    """At most `SERIES_CHECKPOINTS` of the steps, first and last among them, evenly spaced on a logarithmic axis."""
    steps = sorted(set(steps))
    if len(steps) <= SERIES_CHECKPOINTS:
        return steps
    places = [math.log1p(step) for step in steps]
    wanted = [places[0] + (places[-1] - places[0]) * i / (SERIES_CHECKPOINTS - 1) for i in range(SERIES_CHECKPOINTS)]
    nearest = {min((abs(place - at), step) for place, step in zip(places, steps, strict=True))[1] for at in wanted}
    return sorted(nearest)
