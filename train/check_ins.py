"""Check-ins: the same questions, asked with the same seeds, at scheduled steps; what changed, and how often it loops.

A fixed battery (`prompts`), K samples a prompt. Seeds do not depend on the step, so the same weights give the same words and
whatever differs is the weights' doing. Each check-in is compared with the one before it and with the reference checkpoint,
whose samples are made once and kept in `statistics/`. Rates have their denominators; nothing is concluded from one answer.

A system prompt that is introduced, changed or dropped opens a regime, and for five check-ins the battery is asked both ways:
otherwise what the prompt did and what training did could not be told apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import select

from lab.database import read_rows
from lab.errors import LabError
from lab.generate import Sampling
from lab.records import Episode, Records
from lab.run import Run
from lab.sections import CheckInConfig
from probes.behaviour.findings import Finding
from probes.behaviour.rates import Rate, difference, wilson
from train.attachments import Moment
from train.conversations import (
    RATES,
    RULES,
    FirstConcise,
    Scene,
    as_json,
    draw_seed,
    examine,
    layout_of,
    open_regime,
    record,
    reply,
    room,
    stored_scene,
)
from train.generators import derived_generator
from train.prompts import Battery, battery, canonical
from train.references import reference_at, remembered

NAME, EPISODE = "check_ins", "check-in"
BOTH_WAYS = 5  # check-ins with and without a new system prompt

Json = dict[str, Any]
Place = dict[str, Any]


class CheckIns:
    """The attachment."""

    name = NAME
    log_spaced = False

    def __init__(self, config: CheckInConfig) -> None:
        self.config, self.every = config, config.every
        self.system: str | None = None  # the system prompt in force
        self.before: str | None = None  # the one it took the place of
        self.both_ways = 0  # check-ins that are still asked both ways
        self.concise = FirstConcise()
        self._told: set[str] = set()

    def visit(self, moment: Moment) -> None:
        scene = Scene.of(moment)
        wanted = system_at(self.config, moment.step)
        if wanted != self.system:
            self.before, self.system, self.both_ways = self.system, wanted, BOTH_WAYS
            scene.tell(
                "system-prompt",
                f"check-ins have {'another system prompt' if wanted else 'no system prompt any more'}; "
                f"{BOTH_WAYS} are asked both ways",
                {"attachment": self.name, "system": wanted, "before": self.before},
            )
        for system in (self.before, self.system) if self.both_ways else (self.system,):
            try:
                check_in(scene, self.config, system, self.every, self.concise)
            except (LabError, OSError) as error:
                if str(error) not in self._told:  # once a segment, not at every visit
                    self._told.add(str(error))
                    scene.tell("untestable", str(error), {"attachment": self.name})
        self.both_ways = max(0, self.both_ways - 1)

    def set_every(self, step: int, every: int) -> None:
        """From here on; the next check-in opens the regime, as the interval is part of its protocol."""
        self.every = every

    def state_dict(self) -> Json:
        own = {"every": self.every, "system": self.system, "before": self.before, "both_ways": self.both_ways}
        return own | {"concise": self.concise.state_dict()}

    def load_state_dict(self, state: Json) -> None:
        self.every, self.both_ways = int(state["every"]), int(state["both_ways"])
        self.system, self.before = state["system"], state["before"]
        self.concise.load_state_dict(state.get("concise", {}))  # checkpoints from before markers have none


def system_at(config: CheckInConfig, step: int) -> str | None:
    """The configured system prompt, from the step on at which it is introduced."""
    return config.system_prompt if step >= config.system_from else None


def check_in(
    scene: Scene, config: CheckInConfig, system: str | None, every: int, concise: FirstConcise | None = None
) -> Json:
    """One check-in in one setting, recorded as an episode with its findings.

    Args:
        concise: of the run's check-ins so far; None: nobody waits for the first concise reply.

    Returns:
        The episode's data, with its number as `episode`:
        `samples`: prompt_id, prompt, sample (0..K-1), seed, text, tokens, finish_reason, findings (spans in characters);
        `rates`, and by prompt `prompts`: loop, structure as {count, checks, value, lo, hi};
        `last`: the check-in before it (step, `changed` of all samples and by prompt, differences of rates) or None;
        `reference`: the same against the reference checkpoint, or {"reason"}.
    """
    asked = battery(config.prompts)
    setting = _setting(scene, config, asked, system)
    regime = open_regime(scene.records, NAME, scene.step, {**setting, "every": every})
    samples, findings = ask(scene, config, asked, system, concise)
    key = canonical(setting)
    data: Json = {
        "version": 1,
        "battery": setting["battery"],
        "setting": key,
        "system": system,
        "layout": setting["layout"],
        "temperature": config.temperature,
        "top_p": config.top_p,
        "samples": samples,
        "rates": _as_json(_rates(samples)),
        "prompts": {
            prompt: _as_json(_rates([one for one in samples if one["prompt_id"] == prompt])) for prompt in asked.prompts
        },
        "last": None,
        "reference": _against_reference(scene, config, asked, system, samples, key),
    }
    before = last_check_in(scene.records, scene.step, key)
    if before is not None:
        data["last"] = {"step": before.step, "episode": before.id, **compare(before.data["samples"], samples)}
    return {"episode": record(scene, EPISODE, regime, data, findings), **data}


def ask(
    scene: Scene, config: CheckInConfig, asked: Battery, system: str | None, concise: FirstConcise | None = None
) -> tuple[list[Json], list[tuple[Finding, Place]]]:
    """K samples of every prompt, examined."""
    samples: list[Json] = []
    found: list[tuple[Finding, Place]] = []
    for prompt_id, prompt in asked.prompts.items():
        generator = derived_generator(scene.seed, f"{NAME}/{prompt_id}", 0)  # of no step: the weights alone differ
        messages = [{"role": "system", "content": system}] if system else []
        for sample in range(config.samples):
            seed = draw_seed(generator)
            answer = reply(
                scene,
                [*messages, {"role": "user", "content": prompt}],
                Sampling(config.max_tokens, config.temperature, top_p=config.top_p, seed=seed),
            )
            findings = examine(scene.tokenizer, answer.ids, answer.text, prompt)
            findings += concise.judge(answer.text, prompt, findings) if concise else ()
            found += [(finding, {"prompt_id": prompt_id, "sample": sample}) for finding in findings]
            samples.append(
                {
                    "prompt_id": prompt_id,
                    "prompt": prompt,
                    "sample": sample,
                    "seed": seed,
                    "text": answer.text,
                    "tokens": len(answer.ids),
                    "finish_reason": answer.finish_reason,
                    "findings": as_json(findings),
                }
            )
    return samples, found


def compare(before: Sequence[Json], now: Sequence[Json]) -> Json:
    """What changed from one set of samples to another of the same prompts and seeds.

    Returns:
        `changed`: share of samples with other words; `prompts`: the same by prompt; `rates`: differences of loop and
        structure, `now` less `before`, with Newcombe's interval.
    """
    old = {(one["prompt_id"], one["sample"]): one["text"] for one in before}
    pairs = [(one["prompt_id"], one["text"] != old[key]) for one in now if (key := _key(one)) in old]
    if not pairs:
        return {"changed": None, "prompts": {}, "rates": {}}
    first, second = _rates(before), _rates(now)
    return {
        "changed": asdict(wilson(sum(changed for _, changed in pairs), len(pairs))),
        "prompts": {
            prompt: asdict(wilson(sum(c for p, c in pairs if p == prompt), sum(p == prompt for p, _ in pairs)))
            for prompt in dict(pairs)
        },
        "rates": {name: asdict(difference(first[name], second[name])) for name in RATES},
    }


def last_check_in(records: Records, step: int, setting: str) -> Episode | None:
    """The newest check-in before a step, in the newest history and the same setting.

    Found in SQL, from the newest back: the words of thousands of earlier ones stay on disk.
    """
    records.flush()
    for segment, first, last in reversed(records.lineage()):
        until = step - 1 if last is None else min(last, step - 1)
        query = (
            select(Episode.id)
            .where(Episode.kind == EPISODE, Episode.segment == segment, Episode.step.between(first, until))
            .where(Episode.data["setting"].as_string() == setting)
            .order_by(Episode.step.desc(), Episode.id)
            .limit(1)
        )
        for (found,) in read_rows(records.path, query):
            return records.rows(Episode, id=found)[0]
    return None


def check_in_now(run: Run, step: int | None = None, system: str | None = None, samples: int | None = None) -> Json:
    """One check-in at a stored checkpoint, recorded as a live one is; the run must not be in use.

    Args:
        system: a system prompt; the configured one by default, "" for none.

    Raises:
        LabError: no such checkpoint, the run is in use, or no room to talk.
    """
    config = run.config.check_ins
    if samples is not None:
        config = config.model_validate(config.model_dump() | {"samples": samples})
    with stored_scene(run, step, "check-in") as scene:
        wanted = system_at(config, scene.step) if system is None else system or None
        return {"step": scene.step, **check_in(scene, config, wanted, config.every)}


def _setting(scene: Scene, config: CheckInConfig, asked: Battery, system: str | None) -> Json:
    """What the words depend on besides the weights; with the interval it is the regime's protocol."""
    return {
        "protocol": "battery with fixed seeds, 1",
        "battery": {"version": asked.version, "sha256": asked.sha256, "prompts": len(asked.prompts)},
        "samples": config.samples,
        "max_tokens": room(scene.model, config.max_tokens),
        "temperature": config.temperature,
        "top_p": config.top_p,
        "seed": scene.seed,
        "system": None if system is None else canonical(system),
        "layout": layout_of(scene.tokenizer),
        "rules": {rule.id: rule.version for rule in RULES},
    }


def _against_reference(
    scene: Scene, config: CheckInConfig, asked: Battery, system: str | None, samples: list[Json], setting: str
) -> Json:
    found = reference_at(scene.run, scene.step)
    if isinstance(found, str):
        return {"reason": found}
    if found.step == scene.step:
        return {"reason": "this is the reference checkpoint"}

    def make() -> list[Json]:
        return ask(replace(scene, step=found.step, model=scene.run.model(found.step)), config, asked, system)[0]

    file = scene.run.statistics / f"check-in-reference-{setting[:12]}.json"
    theirs = remembered(file, canonical([setting, found.step, found.weights_sha256]), make)
    return {"step": found.step, "levels": _as_json(_rates(theirs)), **compare(theirs, samples)}


def _rates(samples: Sequence[Json]) -> dict[str, Rate]:
    """As `conversations.rates`, of samples that are stored already."""
    return {
        name: wilson(sum(any(f["rule"] == rule for f in one["findings"]) for one in samples), len(samples))
        for name, rule in RATES.items()
    }


def _as_json(found: Mapping[str, Rate]) -> Json:
    return {name: asdict(rate) for name, rate in found.items()}


def _key(sample: Json) -> tuple[str, int]:
    return sample["prompt_id"], sample["sample"]
