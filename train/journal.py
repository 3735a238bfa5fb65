"""The journal: at scheduled steps the model writes an entry about itself, *blind* or *informed*.

Blind: the prompt holds no readings. Informed: it shows the newest probe readings, and what merely repeats them is an echo
(`probes.claims.echo`, which is given the exact prompt). Every entry is parsed at once; cheap readings stand beside it in
`evidence/journal-entry-….json`, full verdicts are made by `lab verify`.

What an entry says is never evidence. The lab writes no entry itself: a model that says nothing has no entry, and of one
too weak to write a claim it is said how many of its sentences could be tested.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch

from lab.durable import replace_file
from lab.errors import LabError
from lab.generate import Sampling
from lab.records import Entry, Event
from lab.run import Run
from lab.sections import JournalConfig
from probes.behaviour.rates import Rate, wilson
from probes.claims.echo import find_echo
from probes.claims.grammar import PARSED, Claim
from probes.claims.sentences import sentences
from train.attachments import Moment
from train.conversations import (
    Reply,
    Scene,
    as_json,
    draw_seed,
    examine,
    layout_of,
    open_regime,
    reply,
    room,
    stored_scene,
    weights_mark,
)
from train.entries import store, with_claims
from train.journal_mirror import write_mirror
from train.journal_prompt import Kind, Shown, entry_prompt, newest_readings, reading_lines
from train.probing import Probing
from train.prompts import journal_prompts

NAME, EVENT, AUTHOR = "journal", "journal", "model"


class Journal:
    """The attachment."""

    name = NAME
    log_spaced = False

    def __init__(self, config: JournalConfig) -> None:
        self.config, self.every = config, config.every
        self._told: set[str] = set()

    def visit(self, moment: Moment) -> None:
        scene = Scene.of(moment)
        for kind in self.config.kinds:
            try:
                write(scene, self.config, kind, self.every)
            except (LabError, OSError) as error:
                if str(error) not in self._told:  # once a segment, not at every visit
                    self._told.add(str(error))
                    scene.tell("untestable", str(error), {"attachment": self.name, "kind": kind})

    def set_every(self, step: int, every: int) -> None:
        """From here on; the next entry opens the regime, as the interval is part of its protocol."""
        self.every = every

    def state_dict(self) -> dict[str, Any]:
        return {"every": self.every}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.every = int(state["every"])


def write(scene: Scene, config: JournalConfig, kind: Kind, every: int) -> dict[str, Any]:
    """Let the model write one entry, and record it with everything it came from.

    Returns:
        `entry` (None: it wrote nothing), `kind`, `step`, `text`, `prompt`, `sentences`, `parsable`, `so_far` and `said`, the
        sentence about them that the records got.

    Raises:
        NoReadingsToShow: an informed entry without readings, or a context too short to show one.
        CannotTalk: no room to write.
    """
    shown = newest_readings(scene)
    lines = reading_lines(scene, shown)
    ask = entry_prompt(scene, config, kind, lines)
    seed = draw_seed(scene.generator(f"{NAME}/{kind}"))
    sampling = Sampling(config.max_tokens, config.temperature, top_p=config.top_p, seed=seed)
    answer = reply(scene, [{"role": "user", "content": ask}], sampling)
    regime = open_regime(scene.records, NAME, scene.step, _protocol(scene, config, kind, every))
    text = answer.text
    if not text.strip():
        said = f"asked for {_article(kind)} entry, the model wrote nothing"
        scene.tell(EVENT, said, {"entry": None, "kind": kind, "sentences": 0, "parsable": 0, "regime": regime})
        return _result(scene, kind, None, "", answer, 0, 0, so_far(scene, kind), said)
    entry = Entry(
        step=scene.step, author=AUTHOR, kind=kind, text=text, created_at=time.time(), segment=scene.segment,
        prompt=answer.prompt, checkpoint=weights_mark(scene.model, scene.step), seed=seed,
        temperature=config.temperature,
    )  # fmt: skip
    number, claims, is_new = _stored(scene, entry)
    total, parsable = parsed_share(text, claims)
    write_mirror(scene.run.journal, number, entry)
    _keep_evidence(scene, ask, number, entry, claims, shown, answer, total, parsable)
    before = so_far(scene, kind)
    if is_new:
        before = (before[0] + parsable, before[1] + total)
    said = _sentence(kind, number, parsable, total, before)
    if is_new:
        data = {"entry": number, "kind": kind, "sentences": total, "parsable": parsable, "regime": regime}
        scene.tell(EVENT, said, data)
    return _result(scene, kind, number, text, answer, total, parsable, before, said)


def write_now(
    run: Run, step: int | None = None, kinds: Sequence[Kind] | None = None, seed: int | None = None
) -> list[dict[str, Any]]:
    """Entries by a stored checkpoint, recorded as live ones are; the run must not be in use.

    An informed entry of a run that was never probed (imported weights) probes this checkpoint first.

    Raises:
        LabError: no such checkpoint, the run is in use, no readings for an informed entry.
    """
    config = run.config.journal
    asked = kinds or config.kinds
    with stored_scene(run, step, "journal", seed) as scene:
        if "informed" in asked:
            _first_readings(scene)
        return [write(scene, config, kind, config.every) for kind in asked]


def _first_readings(scene: Scene) -> None:
    """What probing would have recorded at this step, where it has recorded nothing yet and is not switched off."""
    from train.session import corpus_of  # which imports this file, to build the attachment

    settings = scene.run.config.probing
    if not settings.every or newest_readings(scene).rows:
        return
    moment = Moment(
        step=scene.step, segment=scene.segment, tokens_seen=0, model=scene.model, corpus=corpus_of(scene.run), metrics={},
        records=scene.records, run=scene.run, ask_to_hold=lambda owner, reason: None,
    )  # fmt: skip
    with torch.no_grad():
        Probing(settings).visit(moment)


def parsed_share(text: str, claims: Sequence[Claim]) -> tuple[int, int]:
    """Sentences of a text, and those with a claim that can be tested."""
    spans = [(one.start, one.end) for one in sentences(text) if one.tokens]
    found = [claim for claim in claims if claim.status == PARSED]
    return len(spans), sum(any(start <= claim.start < end for claim in found) for start, end in spans)


def so_far(scene: Scene, kind: Kind) -> tuple[int, int]:
    """Testable sentences and all sentences of the run's entries of this kind."""
    scene.records.flush()
    known = [row.data for row in scene.records.rows(Event) if row.kind == EVENT and row.data["kind"] == kind]
    return sum(int(data["parsable"]) for data in known), sum(int(data["sentences"]) for data in known)


def _stored(scene: Scene, entry: Entry) -> tuple[int, list[Claim], bool]:
    """The entry's number and claims; the same words of the same weights, prompt and seed are one entry, not two."""
    same = ("kind", "text", "prompt", "checkpoint", "seed", "temperature")
    for known in scene.records.rows(Entry, author=AUTHOR, step=entry.step):
        if all(getattr(known, name) == getattr(entry, name) for name in same):
            return known.id, with_claims(scene.records, known.id, known.text), False
    number, claims = store(scene.records, entry)
    return number, claims, True


def _keep_evidence(
    scene: Scene,
    ask: str,
    number: int,
    entry: Entry,
    claims: Sequence[Claim],
    shown: Shown,
    answer: Reply,
    total: int,
    parsable: int,
) -> None:
    data = {
        "version": 1,
        "entry": number,
        "step": scene.step,
        "kind": entry.kind,
        "checkpoint": entry.checkpoint,
        "seed": entry.seed,
        "temperature": entry.temperature,
        "finish_reason": answer.finish_reason,
        "tokens": len(answer.ids),
        "prompt": entry.prompt,
        "probes": shown.to_json(scene.run.config.model.n_layers),
        "sentences": {"all": total, "parsable": parsable},
        "claims": [
            {"id": claim.id, "status": claim.status, "echo": find_echo(claim.text, None, entry.prompt).to_json()}
            for claim in claims
        ],
        "findings": as_json(examine(scene.tokenizer, answer.ids, answer.text, ask)),
    }
    scene.run.evidence.mkdir(exist_ok=True)
    file = scene.run.evidence / f"journal-entry-{number}.json"
    replace_file(file, (json.dumps(data, indent=1, sort_keys=True) + "\n").encode())


def _protocol(scene: Scene, config: JournalConfig, kind: Kind, every: int) -> dict[str, Any]:
    known = journal_prompts()
    return {
        "protocol": "one answer to one prompt, 1",
        "prompts": {"version": known.version, "sha256": known.sha256},
        "kind": kind,
        "layout": layout_of(scene.tokenizer),
        "max_tokens": room(scene.model, config.max_tokens),
        "temperature": config.temperature,
        "top_p": config.top_p,
        "seed": scene.seed,
        "every": every,
    }


def _sentence(kind: str, number: int, parsable: int, total: int, all_so_far: tuple[int, int]) -> str:
    share = _rate(all_so_far)
    text = (
        f"{kind} entry {number}: {parsable} of its {total} sentences can be tested; of {kind} entries so far, {share}"
    )
    if all_so_far[0] == 0:
        text += ". The model is too weak to write a testable claim so far, and the lab writes none for it"
    return text


def _rate(counts: tuple[int, int]) -> Rate | str:
    return wilson(*counts) if counts[1] else "no sentence"


def _article(kind: str) -> str:
    return "an informed" if kind == "informed" else "a blind"


def _result(
    scene: Scene, kind: str, number: int | None, text: str, answer: Reply, total: int, parsable: int,
    all_so_far: tuple[int, int], said: str,
) -> dict[str, Any]:  # fmt: skip
    share = _rate(all_so_far)
    return {
        "entry": number,
        "kind": kind,
        "step": scene.step,
        "text": text,
        "prompt": answer.prompt,
        "seed": answer.seed,
        "sentences": total,
        "parsable": parsable,
        "so_far": asdict(share) if isinstance(share, Rate) else None,
        "said": said,
    }
