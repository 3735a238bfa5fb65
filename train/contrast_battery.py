"""The contrasts of `probes.behaviour.contrasts`, asked of a model: the same prompts with one phrase swapped, many at a time.

Seeds of the first battery are of no step, so that the reference, which is asked once and kept, had the same ones, and
whatever differs is the weights' doing. What it finds is asked again with seeds of the step's own. 400 answers an arm to eight
pairs are 6,400 short texts: two batches of them are timed first, and what is too dear is not begun.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from lab.benchmark_scoring import likelihoods, opening, requests
from lab.model import GPT
from lab.run import Run
from lab.tokenizer import Tokenizer
from probes.behaviour import contrasts, stereotypes
from probes.behaviour.contrasts import Contrast, Counts
from probes.behaviour.rates import Rate, wilson
from probes.behaviour.stereotypes import Ask, Likelihood, Pair
from train import many
from train.generators import derived_generator
from train.prompts import canonical
from train.references import remembered

TOKENS = 20  # of an answer: a dozen words, and a hostile one within 8 of the group is most of what is said of it
SHOWN = 8  # hostile answers an arm that a bundle of evidence quotes

Json = dict[str, Any]
MayGoOn = Callable[[float], bool]  # told how many seconds the battery will take


class TooDear(Exception):
    """The battery would cost more than it may; nothing was counted."""


@dataclass(frozen=True)
class Battery:
    """What was answered to every pair.

    Attributes:
        counts: hostile answers of both arms, in the pairs' order.
        quoted: by pair and arm, a few hostile answers with their prompts; text of a model.
    """

    counts: tuple[Counts, ...]
    quoted: Mapping[str, Mapping[str, Sequence[Mapping[str, str]]]]

    @property
    def by_pair(self) -> dict[str, Counts]:
        return {one.pair: one for one in self.counts}


@dataclass(frozen=True)
class Outcome:
    """A battery with its verdicts, as an episode keeps it.

    Attributes:
        reference_step: None where there is no reference to compare with.
        competence: told only where a second battery was asked.
    """

    contrasts: tuple[Contrast, ...]
    first: Battery
    second: Battery | None
    competence: Rate | None
    reference_step: int | None
    protocol: Json = field(default_factory=dict)

    def to_json(self) -> Json:
        return {
            "version": 1,
            "protocol": self.protocol,
            "reference": self.reference_step,
            "competence": None if self.competence is None else asdict(self.competence),
            "contrasts": [{**asdict(one), "text": one.text} for one in self.contrasts],
        }

    def evidence(self) -> Json:
        """What a bundle keeps besides: hostile answers of both batteries."""
        batteries = {"first": self.first, "second": self.second}
        return self.to_json() | {"quoted": {name: one.quoted for name, one in batteries.items() if one is not None}}


def ask(
    model: GPT,
    tokenizer: Tokenizer,
    pairs: Sequence[Pair],
    samples: int,
    seed: int,
    name: str,
    step: int = 0,
    may_go_on: MayGoOn | None = None,
) -> Battery:
    """Answers to every pair, `samples` an arm, the n-th of both arms with the same random numbers.

    Args:
        name, step: of the seeds.
        may_go_on: asked once, after two batches, with the seconds that the whole battery will take.

    Raises:
        TooDear: it said no.
    """
    lexicon = stereotypes.own_lexicon()
    first = opening(tokenizer)
    asked = [(pair, stereotypes.asks(pair, samples)) for pair in pairs]
    numbers = {
        pair.name: many.randoms(samples, TOKENS, derived_generator(seed, f"{name}/{pair.name}", step)) for pair in pairs
    }
    rows = [
        (pair.name, arm, number) for pair, own in asked for arm in ("first", "second") for number in range(len(own))
    ]
    texts = {pair.name: own for pair, own in asked}
    prompts = [[*first, *tokenizer.encode(_text(texts[pair][number], arm))] for pair, arm, number in rows]
    drawn = torch.stack([numbers[pair][number] for pair, _, number in rows])
    answered = many.answers(model, tokenizer, prompts, drawn, progress=_Clock(len(rows), may_go_on))
    hostile = {(pair.name, arm): [False] * samples for pair in pairs for arm in ("first", "second")}
    quoted: dict[str, dict[str, list[dict[str, str]]]] = {p.name: {"first": [], "second": []} for p in pairs}
    for (pair, arm, number), ids in zip(rows, answered, strict=True):
        text = tokenizer.decode(ids)
        if lexicon.is_hostile(text):
            hostile[pair, arm][number] = True
            if len(quoted[pair][arm]) < SHOWN:
                quoted[pair][arm].append({"prompt": _text(texts[pair][number], arm), "answer": text})
    counts = tuple(Counts.of(p.name, hostile[p.name, "first"], hostile[p.name, "second"]) for p in pairs)
    return Battery(counts, quoted)


def contrast(
    run: Run,
    model: GPT,
    tokenizer: Tokenizer,
    step: int,
    seed: int,
    samples: int = contrasts.PER_ARM,
    reference: tuple[int, str, Callable[[], GPT]] | None = None,
    may_go_on: MayGoOn | None = None,
) -> Outcome:
    """The whole procedure: a battery, the reference's, and where a contrast is to be confirmed a second battery.

    Args:
        run: in whose `statistics/` the reference's counts are kept.
        reference: step, sha256 of the weights, and the model (loaded only if it was not asked before).

    Raises:
        TooDear: `may_go_on` said no.
    """
    pairs = stereotypes.pairs()
    first = ask(model, tokenizer, pairs, samples, seed, "contrasts", may_go_on=may_go_on)
    usual = None if reference is None else _reference(run, tokenizer, pairs, samples, seed, reference)
    screened = contrasts.screen(first.counts, usual)
    doubtful = {one.pair for one in screened if one.verdict == "to confirm"}
    second, able = None, None
    if doubtful and usual is not None:
        some = [pair for pair in pairs if pair.name in doubtful]
        second = ask(model, tokenizer, some, samples, seed, "contrasts/again", step)
        able = stereotypes.competence(likelihood(model, tokenizer))
        screened = contrasts.confirm(screened, second.by_pair, able, usual)
    return Outcome(screened, first, second, able, reference[0] if reference else None, protocol(samples, seed))


def likelihood(model: GPT, tokenizer: Tokenizer) -> Likelihood:
    """Log-likelihood of endings after their contexts; an empty context is the boundary between documents."""

    def of(pairs: Sequence[tuple[str, str]]) -> Sequence[float]:
        return [one.total for one in likelihoods(model, requests(tokenizer, pairs))]

    return of


def protocol(samples: int, seed: int) -> Json:
    """What the counts depend on besides the weights."""
    return {
        "stereotypes": stereotypes.own_lexicon().version,
        "pairs": canonical([asdict(pair) for pair in stereotypes.pairs()]),
        "samples": samples,
        "tokens": TOKENS,
        "temperature": many.TEMPERATURE,
        "seed": seed,
        "rules": {rule.id: rule.version for rule in contrasts.RULES},
    }


def _reference(
    run: Run,
    tokenizer: Tokenizer,
    pairs: Sequence[Pair],
    samples: int,
    seed: int,
    reference: tuple[int, str, Callable[[], GPT]],
) -> dict[str, Counts]:
    step, sha256, load = reference

    def make() -> list[Json]:
        there = ask(load(), tokenizer, pairs, samples, seed, "contrasts")
        return [
            {
                "pair": one.pair,
                **{arm: [getattr(one, arm).count, getattr(one, arm).checks] for arm in ("first", "second")},
            }
            for one in there.counts
        ]

    key = canonical([protocol(samples, seed), step, sha256])
    stored = remembered(run.statistics / f"contrast-reference-{samples}.json", key, make)
    return {one["pair"]: Counts(one["pair"], wilson(*one["first"]), wilson(*one["second"])) for one in stored}


class _Clock:
    """Two batches (the first is slow for other reasons) tell what all of them will take."""

    def __init__(self, rows: int, may_go_on: MayGoOn | None) -> None:
        self._rows, self._may_go_on, self._seen, self._since = rows, may_go_on, 0, 0.0

    def __call__(self, answered: int) -> None:
        self._seen += 1
        if self._seen == 1:
            self._since = time.perf_counter()
        elif self._seen == 2 and self._may_go_on is not None:
            seconds = (time.perf_counter() - self._since) / answered * self._rows
            if not self._may_go_on(seconds):
                raise TooDear


def _text(asked: Ask, arm: str) -> str:
    return asked.first if arm == "first" else asked.second
