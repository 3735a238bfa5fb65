"""Self-play: two voices of the model converse from a seeded topic, and every turn is examined. Observe-only.

Untrained self-chat that falls into a loop is what small models do (arXiv:2512.06256): a looping conversation says nothing by
itself. What can be read is a rate, beside the same protocol at the reference checkpoint. Nothing said here is trained on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lab.errors import LabError
from lab.generate import Sampling
from lab.run import Run
from lab.sections import SelfPlayConfig
from probes.behaviour import loops
from probes.behaviour.findings import Finding
from train.attachments import Moment
from train.conversations import (
    RULES,
    FirstConcise,
    Message,
    Scene,
    as_json,
    draw_seed,
    examine,
    layout_of,
    open_regime,
    rates,
    record,
    reply,
    room,
    stored_scene,
)
from train.prompts import topics
from train.talk import Talk, Turn

NAME, EPISODE, LOG = "self_play", "self-play", "self_play.jsonl"


class SelfPlay:
    """The attachment. `listeners` are given every conversation: interventions that act on what was said."""

    name = NAME
    log_spaced = False

    def __init__(self, config: SelfPlayConfig) -> None:
        self.config, self.every = config, config.every
        self.listeners: list[Callable[[Talk], object]] = []
        self.concise = FirstConcise()
        self._told: set[str] = set()

    def visit(self, moment: Moment) -> None:
        scene = Scene.of(moment)
        generator = scene.generator(self.name)
        try:
            for _ in range(self.config.conversations):
                spoken, _line = play(scene, self.config, generator, self.every, concise=self.concise)
                for listener in self.listeners:
                    listener(spoken.talk)
        except (LabError, OSError) as error:
            if str(error) not in self._told:  # once a segment, not at every visit
                self._told.add(str(error))
                scene.tell("untestable", str(error), {"attachment": self.name})

    def set_every(self, step: int, every: int) -> None:
        """From here on; the next conversation opens the regime, as the interval is part of its protocol."""
        self.every = every

    def state_dict(self) -> dict[str, Any]:
        return {"every": self.every, "concise": self.concise.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.every = int(state["every"])
        self.concise.load_state_dict(state.get("concise", {}))  # checkpoints from before markers have none


@dataclass(frozen=True)
class Conversation:
    """What was said, as an episode's data, and the findings with their places; `talk`: the same as tokens."""

    data: dict[str, Any]
    findings: tuple[tuple[Finding, dict[str, int]], ...]
    talk: Talk


def play(
    scene: Scene,
    config: SelfPlayConfig,
    generator: torch.Generator,
    every: int,
    topic: str | None = None,
    concise: FirstConcise | None = None,
) -> tuple[Conversation, dict[str, Any]]:
    """One conversation, recorded: an episode, its findings, and a line of `logs/self_play.jsonl`.

    Args:
        concise: of the run's self-play so far; None: nobody waits for the first concise reply.

    Returns:
        The conversation, and the line as a dict.
    """
    spoken = converse(scene, config, generator, topic, concise)
    regime = open_regime(scene.records, NAME, scene.step, _protocol(scene, config, every))
    episode = record(scene, EPISODE, regime, spoken.data, spoken.findings)
    line = {"episode": episode, "segment": scene.segment, "step": scene.step, "regime": regime, **spoken.data}
    append_line(scene.run.logs / LOG, line)
    return spoken, line


def converse(
    scene: Scene,
    config: SelfPlayConfig,
    generator: torch.Generator,
    topic: str | None = None,
    concise: FirstConcise | None = None,
) -> Conversation:
    """`turns` turns after a topic, by voices B and A in alternation; the topic counts as turn 0, said by A.

    Each voice hears itself as the assistant and the other as the user.
    """
    known = topics()
    drawn = int(torch.randint(len(known.topics), (1,), generator=generator))  # drawn in any case: seeds stay the same
    opening = known.topics[drawn] if topic is None else topic
    said: list[tuple[str, str]] = [("A", opening)]
    tokens: list[Sequence[int]] = [scene.tokenizer.encode(opening)]
    turns: list[dict[str, Any]] = [{"turn": 0, "voice": "A", "text": opening, "given": True, "findings": []}]
    found: list[tuple[Finding, dict[str, int]]] = []
    examined: list[Sequence[Finding]] = []
    taken: list[Turn] = []
    for turn in range(1, config.turns + 1):
        voice = "B" if turn % 2 else "A"
        seed = draw_seed(generator)
        answer = reply(
            scene,
            heard_by(voice, said, known.invitation),
            Sampling(config.max_tokens, config.temperature, top_p=config.top_p, seed=seed),
        )
        before = said[-1][1]
        findings = examine(scene.tokenizer, answer.ids, answer.text, before)
        findings += concise.judge(answer.text, before, findings) if concise else ()
        examined.append(findings)
        kinds = tuple((one.rule, one.severity) for one in findings)
        taken.append(Turn(answer.read, answer.ids, answer.text, kinds))
        found += [(finding, {"turn": turn}) for finding in findings]
        said.append((voice, answer.text))
        tokens.append(answer.ids)
        turns.append(
            {
                "turn": turn,
                "voice": voice,
                "text": answer.text,
                "tokens": len(answer.ids),
                "seed": seed,
                "finish_reason": answer.finish_reason,
                "heard": answer.heard,
                "findings": as_json(findings),
            }
        )
    copies = loops.examine_turns(tokens)
    found += [(finding, {"turn": int(finding.evidence["turn"])}) for finding in copies]
    data = {
        "version": 1,
        "topic": opening,
        "topic_given": topic is not None,
        "topics": known.version,
        "layout": layout_of(scene.tokenizer),
        "temperature": config.temperature,
        "top_p": config.top_p,
        "turns": turns,
        "findings": as_json(copies),
        "rates": {name: asdict(rate) for name, rate in rates(examined).items()},
    }
    for copy in copies:  # the whole conversation tells; the later of the two turns bears it
        at = int(copy.evidence["turn"]) - 1
        taken[at] = replace(taken[at], findings=(*taken[at].findings, (copy.rule, copy.severity)))
    return Conversation(data, tuple(found), Talk(opening, tuple(taken)))


def heard_by(voice: str, said: Sequence[tuple[str, str]], invitation: str) -> list[Message]:
    """The conversation as one voice hears it; chat templates want a user's turn first, so A was invited to begin."""
    messages: list[Message] = [{"role": "user", "content": invitation}] if said[0][0] == voice else []
    return [*messages, *({"role": "assistant" if by == voice else "user", "content": text} for by, text in said)]


def self_play_now(
    run: Run,
    step: int | None = None,
    turns: int | None = None,
    topic: str | None = None,
    seed: int | None = None,
) -> dict[str, Any]:
    """One conversation at a stored checkpoint, recorded as a live one is; the run must not be in use.

    Raises:
        LabError: no such checkpoint, the run is in use, or no room to talk.
    """
    config = run.config.self_play
    if turns is not None:
        config = config.model_validate(config.model_dump() | {"turns": turns})
    with stored_scene(run, step, "self-play", seed) as scene:
        return play(scene, config, scene.generator(NAME), config.every, topic)[1]


def append_line(file: Path, data: dict[str, Any]) -> None:
    """Add one JSON line; a half line that a kill left behind is ended first, so that it spoils no other."""
    file.parent.mkdir(exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "rb+", buffering=0) as opened:
        size = os.fstat(descriptor).st_size
        whole = size == 0 or os.pread(descriptor, 1, size - 1) == b"\n"
        opened.write((b"" if whole else b"\n") + json.dumps(data, ensure_ascii=True).encode() + b"\n")


def _protocol(scene: Scene, config: SelfPlayConfig, every: int) -> dict[str, Any]:
    known = topics()
    return {
        "protocol": "two voices, examined turn by turn, 1",
        "topics": {"version": known.version, "sha256": known.sha256},
        "layout": layout_of(scene.tokenizer),
        "turns": config.turns,
        "max_tokens": room(scene.model, config.max_tokens),
        "temperature": config.temperature,
        "top_p": config.top_p,
        "seed": scene.seed,
        "every": every,
        "rules": {rule.id: rule.version for rule in RULES},
    }
