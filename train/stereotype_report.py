"""What a contrast battery can see in a run, and what it costs: the detectors' cards, the power at the run's own base rate.

A detector is worth what it finds in texts whose labels are known, and what it says of a checkpoint that nobody suspects: how
often it fires there is the base rate, and power falls as that rises. At 20 % a gap of 10 points is missed in every fifth
battery of 2,000 answers an arm. `train.contrast_battery` asks the battery itself.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import torch

from lab.benchmark_scoring import opening
from lab.model import GPT
from lab.records import RecordsMissing
from lab.run import Run
from lab.tokenizer import Tokenizer
from probes.behaviour import contrast_power, stereotypes
from probes.behaviour.rates import Rate
from train import many
from train.contrast_battery import TOKENS
from train.contrast_visits import SHARE
from train.generators import derived_generator
from train.references import reference_at
from train.reports import keep

FILE = "report-stereotypes.json"
TEXTS = 400  # of the reference; a rate of 5 % is known to ± 2 points
GAPS, SIZES, DRAWS = (0.05, 0.1, 0.15, 0.2), (400, 800, 2000), 100
BASES = (0.01, 0.04, 0.1, 0.2)  # beside the run's own: the same gap and size, so that what the base rate does is seen
BASE_GAP, BASE_SIZE = 0.1, 2000
INTERVAL = 250  # steps; what a visit costs is told as a share of so many

Json = dict[str, Any]


def stereotype_report(run: Run, step: int | None = None, texts: int = TEXTS) -> Json:
    """Cards, power and price at the reference checkpoint; kept as `evidence/report-stereotypes.json`.

    Args:
        step: of the checkpoint whose texts are counted; by default the run's reference, else its newest one.
        texts: how many answers to the prompts of the contrasts are examined.

    Returns:
        `step`, `texts`, `lexicon`; `cards` (with `text`); `power` at the base rate found and `bases` at others; `cost`:
        seconds of a whole battery, and its share of 250 steps and of training where the run was trained here.

    Raises:
        CheckpointMissing
    """
    newest = run.checkpoint_info(step)
    found = reference_at(run, newest.step, or_oldest=False) if step is None else newest
    info = newest if isinstance(found, str) else found
    said, seconds = _said(run.model(info.step), run.tokenizer(), texts, run.config.train.seed)
    cards = stereotypes.cards(said)
    firing = cards[0].firing
    assert firing is not None  # there are texts
    result = {
        "version": 1,
        "step": info.step,
        "texts": len(said),
        "lexicon": cards[0].version,
        "cards": [{**asdict(card), "text": str(card)} for card in cards],
        "power": [asdict(one) for size in SIZES for one in _power(firing, size)],
        "bases": [asdict(contrast_power.power(base, BASE_GAP, BASE_SIZE, draws=DRAWS)) for base in BASES],
        "cost": _cost(run, seconds / len(said)),
    }
    return keep(run, FILE, result)


def _power(base: Rate, size: int) -> list[contrast_power.Power]:
    return [contrast_power.power(base.value, gap, size, draws=DRAWS) for gap in GAPS if base.value + gap <= 1]


def _said(model: GPT, tokenizer: Tokenizer, texts: int, seed: int) -> tuple[list[str], float]:
    """Prompts of all pairs and arms in turn, each with its answer, and the seconds that answering took."""
    pairs = stereotypes.pairs()
    own = [stereotypes.asks(pair, -(-texts // (2 * len(pairs)))) for pair in pairs]
    asked = [text for row in zip(*own, strict=True) for one in row for text in (one.first, one.second)][:texts]
    prompts = [[*opening(tokenizer), *tokenizer.encode(text)] for text in asked]
    numbers = many.randoms(len(prompts), TOKENS, derived_generator(seed, "stereotypes/card", 0))
    many.answers(
        model, tokenizer, prompts[: many.ROWS], numbers[: many.ROWS]
    )  # the first batch is slow for other reasons
    began = time.perf_counter()
    answered = many.answers(model, tokenizer, prompts, numbers)
    seconds = time.perf_counter() - began
    return [f"{text} {tokenizer.decode(ids)}" for text, ids in zip(asked, answered, strict=True)], seconds


def _cost(run: Run, each: float) -> Json:
    """Of a battery of the configured size, from the seconds of one answer; confirming a contrast asks its pair again."""
    settings = run.config.understanding
    answers = 2 * len(stereotypes.pairs()) * settings.contrast_samples
    seconds = each * answers
    told: Json = {"answers": answers, "seconds": seconds, "threads": torch.get_num_threads()}
    told |= {"every": settings.contrasts_every, "budget": SHARE * settings.budget}
    pace = _seconds_per_step(run)
    if pace:
        told |= {"seconds_per_step": pace, "share_of_250_steps": seconds / (INTERVAL * pace)}
        told["share"] = seconds / (settings.contrasts_every * pace) if settings.contrasts_every else None
    return told


def _seconds_per_step(run: Run) -> float | None:
    """What a step of training took in the newest segment; None of imported weights, or where nobody recorded it."""
    try:
        with run.records() as records:
            spent = records.series("cost/train_seconds")
            began = {segment.id: segment.from_step for segment in records.segments()}
    except RecordsMissing:
        return None
    if not spent:
        return None
    segment, step, seconds = spent[-1]
    return seconds / (step - began[segment]) if step > began.get(segment, step) and seconds > 0 else None


def lines(found: Json) -> list[str]:
    """The report in sentences."""
    said = [f"detectors, on {found['texts']:,} answers to prompts about groups at step {found['step']:,}:"]
    said += [f"  {card['text']}" for card in found["cards"]]
    for one in found["power"]:
        said.append(
            f"power at the base rate found here ({one['base']:.1%}), {one['per_arm']:,} an arm: a gap of "
            f"{100 * one['gap']:.0f} points is an alert in {one['alert']['value']:.0%} and critical in "
            f"{one['critical']['value']:.0%} of batteries"
        )
    others = ", ".join(f"{one['critical']['value']:.0%} at {one['base']:.0%}" for one in found["bases"])
    said.append(
        f"power falls as the base rate rises: {100 * BASE_GAP:.0f} points at {BASE_SIZE:,} an arm are critical in {others}"
    )
    return [*said, _price(found["cost"])]


def _price(cost: Json) -> str:
    text = f"a battery of {cost['answers']:,} answers takes about {cost['seconds']:.0f} s ({cost['threads']} threads)"
    if "share_of_250_steps" not in cost:
        return f"{text}; this run was not trained here, so there is no pace to compare with"
    text += f", {cost['share_of_250_steps']:.1%} of the time of {INTERVAL} steps of this run"
    if cost["share"] is None:
        return f"{text}; contrasts_every = 0: none is asked while it trains"
    dear = "" if cost["share"] <= cost["budget"] else ", so it is asked less often"
    return (
        f"{text}, {cost['share']:.2%} of training at every {cost['every']:,} steps (budget {cost['budget']:.2%}{dear})"
    )
