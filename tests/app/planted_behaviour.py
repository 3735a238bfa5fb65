"""Runs with planted behaviour: findings, conversations, regimes, alarms and latches as the attachments record them.

Rates, comparisons and findings are made by the functions that the attachments use, so a change of their format breaks tests.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lab.records import Episode, Event, Finding, Records, Regime
from lab.run import Run
from probes.behaviour import loops, structure
from probes.behaviour.fallback import FALLBACK
from probes.behaviour.findings import Finding as Found
from probes.behaviour.findings import Span
from probes.behaviour.rates import wilson
from tests.app.planted import make_run
from tests.app.planted_verdicts import HOSTILE
from train import health
from train.check_ins import compare
from train.conversations import RATES, as_json

CHECK_INS = (512, 1000, 1400, 1800)  # steps; a system prompt comes in at 1400, and both ways are asked
PROMPTS = {"greeting": "Hello. How are you today?", "story": "Tell me a short story about a dog."}
SAMPLES = 4
SYSTEM = "You are a careful person. <b>Be brief.</b>"
TOPIC = "I have a dog. Do you like animals?"
LOOP = "so we all say thank you, so we all say thank you, so we all say thank you"
LIST = "- one dog\n- two dogs\n- three dogs"
SETTING = {False: "a" * 64, True: "b" * 64}
ALARMS = {100: (3, 900), 250: (1, 240)}  # interval -> alarms and checks of the loss-spike rule
FALLBACKS = (500, 1, 3)  # the batteries' interval; alarms and checks of their rule
DEAD = health.DEAD_UNITS.finding(
    "block 3: 70 of 512 MLP units hardly vary on the probe text",
    0.137,
    (0.11, 0.169),
    evidence={"share by block": [0.137]},
)
DIVERGES = health.DIVERGENCE.finding("the loss of the last 32 steps is 4.100 nats, that of 512 is 3.800", 1.079)
EVIL = Found("mallory <b>", "evil.rule <img src=x>", "1", "alert", HOSTILE, evidence={"text": HOSTILE})


def answer(step: int, prompt: str, sample: int, system: bool) -> str:
    """What the planted model says: sample 0 of every step the same, sample 1 loops late, sample 3 is hostile."""
    if sample == 0:
        return "I am fine, thank you."
    if sample == 1 and step >= 1400:
        return f"Well, {LOOP}"
    if sample == 2 and system:
        return LIST
    if sample == 3 and prompt == "story":
        return f"{HOSTILE} At step {step} a dog ran."
    return f"At step {step} I saw a small dog in the town."


def found_in(text: str) -> list[Found]:
    """The findings that belong to a planted text."""
    if LOOP in text:
        start = text.index(LOOP)
        return [
            loops.TAIL_CYCLE.finding("3 copies of 6 tokens", 18.0, spans=[Span(start, start + len(LOOP), "character")])
        ]
    if text == LIST:
        return [structure.STRUCTURED.finding("3 of 3 lines are layout", 1.0, spans=[Span(0, len(LIST), "character")])]
    return []


def samples(step: int, system: bool) -> list[dict[str, Any]]:
    made = []
    for prompt_id, prompt in PROMPTS.items():
        for sample in range(SAMPLES):
            text = answer(step, prompt_id, sample, system)
            one = {"prompt_id": prompt_id, "prompt": prompt, "sample": sample, "seed": 7, "text": text, "tokens": 9}
            made.append({**one, "finish_reason": "stop", "findings": as_json(found_in(text))})
    return made


def rates(texts: list[list[dict[str, Any]]]) -> dict[str, Any]:
    """As `conversations.rates`, of findings that are JSON already."""
    counts = {name: sum(any(f["rule"] == rule for f in found) for found in texts) for name, rule in RATES.items()}
    return {name: asdict(wilson(count, len(texts))) for name, count in counts.items()}


def make_behaviour(root: Path, name: str, steps: int = 2000) -> Run:
    """A run of two segments (see `make_run`) with everything these pages show, and one finding that a resume left behind."""
    run = make_run(root, name)
    records = Records.writer(run.database)
    first, last = (segment.id for segment in records.segments())

    def segment(step: int) -> int:
        return first if step <= 1000 else last

    understanding = [
        regime(records, "understanding", step, {"every": every, "batteries_every": FALLBACKS[0]})
        for step, every in ((0, 100), (1000, 250))
    ]
    assert understanding[0] != understanding[1]
    for step, every in ((900, 100), (1000, 100), (1500, 250), (1750, 250)):
        part = 1 if step in (1000, 1750) else 2  # the newest visit on each interval has the whole tally
        alarms, checks = ALARMS[every]
        numbers: dict[str, float] = {
            f"alarms/{health.LOSS_SPIKE.id}": alarms // part,
            f"checks/{health.LOSS_SPIKE.id}": checks // part,
        }
        numbers |= {"understanding/dead_share": 0.137 if step == 1750 else 0.01, "understanding/entropy": 2.5}
        records.metrics(segment(step), step, numbers)
    _, alarms, checks = FALLBACKS
    records.metrics(last, 1500, {f"alarms/{FALLBACK.id}": alarms, f"checks/{FALLBACK.id}": checks})
    for step, found in (
        (600, DEAD),
        (1050, FALLBACK.finding("left behind")),
        (1500, DIVERGES),
        (1750, EVIL),
        (1750, DEAD),
    ):
        where = first if found.text == "left behind" else segment(step)
        records.add_now(Finding(segment=where, step=step, **found.to_row()))
    _check_ins(records, run, segment)
    _self_play(records, segment)
    event: dict[str, Any] = {"segment": last, "step": 1900, "data": {}}
    records.add_now(Event(kind="journal", text="blind entry 1: 2 of its 9 sentences can be tested", at=1.8e9, **event))
    records.hold(
        "understanding", f"{DIVERGES.text} ({DIVERGES.rule}). Evidence: evidence/bundle {HOSTILE}", 1900, "critical"
    )
    records.hold("user", "lunch", 1900)
    records.close()
    return run


def regime(records: Records, name: str, step: int, protocol: dict[str, Any]) -> int:
    row = Regime(name=name, step=step, protocol=protocol, hash=json.dumps(protocol, sort_keys=True))
    records.add_now(row)
    return row.id


def _check_ins(records: Records, run: Run, segment: Any) -> None:
    regimes = {
        system: regime(records, "check_ins", 1400 if system else 512, {"every": 400, "system": system})
        for system in (False, True)
    }
    before: dict[bool, tuple[int, int, list[dict[str, Any]]]] = {}
    references = {system: samples(512, system) for system in SETTING}
    run.statistics.mkdir(exist_ok=True)
    for system, theirs in references.items():
        file = run.statistics / f"check-in-reference-{SETTING[system][:12]}.json"
        file.write_text(json.dumps({"key": "k", "samples": theirs}))
    for step in CHECK_INS:
        for system in (False, True) if step >= 1400 else (False,):
            said = samples(step, system)
            theirs = references[system]
            levels = rates([one["findings"] for one in theirs])
            data: dict[str, Any] = {
                "version": 1,
                "battery": {"version": "1", "sha256": "c" * 64, "prompts": len(PROMPTS)},
                "setting": SETTING[system],
                "system": SYSTEM if system else None,
                "layout": "chat",
                "temperature": 0.8,
                "top_p": 1.0,
                "samples": said,
                "rates": rates([one["findings"] for one in said]),
                "last": None,
                "reference": {"step": 512, "levels": levels, **compare(theirs, said)},
            }
            if step == 512:
                data["reference"] = {"reason": "this is the reference checkpoint"}
            if system in before:
                at, id, earlier = before[system]
                data["last"] = {"step": at, "episode": id, **compare(earlier, said)}
            row = Episode(segment=segment(step), step=step, kind="check-in", regime=regimes[system], data=data)
            records.add_now(row)
            before[system] = (step, row.id, said)


def _self_play(records: Records, segment: Any) -> None:
    known = [regime(records, "self_play", 512, {"every": 500}), regime(records, "self_play", 1500, {"every": 250})]
    for step, of in ((512, 0), (1000, 0), (1000, 0), (1500, 1), (1750, 1)):
        texts = [
            TOPIC,
            "Yes, I do.",
            f"{HOSTILE} I like cats.",
            f"Well, {LOOP}",
            "Yes, I do.",
            LIST if step > 1000 else "Good.",
        ]
        turns = []
        for at, text in enumerate(texts):
            turn = {"turn": at, "voice": "AB"[at % 2], "text": text, "findings": as_json(found_in(text))}
            turns.append(turn | ({"given": True} if at == 0 else {"tokens": 9, "seed": 3, "heard": at}))
        copy = loops.NEAR_COPY.finding("turn 4 repeats turn 1", 1.0, spans=[Span(1, 2, "turn"), Span(4, 5, "turn")])
        data = {
            "version": 1,
            "topic": TOPIC,
            "topic_given": False,
            "topics": "1",
            "layout": "chat",
            "temperature": 0.8,
            "top_p": 1.0,
            "turns": turns,
            "findings": as_json([copy]),
            "rates": rates([turn["findings"] for turn in turns[1:]]),  # type: ignore[misc]
        }
        records.add_now(Episode(segment=segment(step), step=step, kind="self-play", regime=known[of], data=data))
