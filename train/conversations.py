"""The model talking: where it talks, one reply at a time, what the instruments see in it, and how that is recorded.

What self-play, check-ins and the journal share. A reply reads weights and draws from a generator of its own; nothing here
moves training, and nothing that the model says is ever obeyed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch

from lab.checkpoint import name_of
from lab.errors import LabError
from lab.generate import FinishReason, Sampling, generate
from lab.model import GPT
from lab.records import Episode, Event, Records, Regime
from lab.records import Finding as FindingRow
from lab.run import Run
from lab.tokenizer import BadTokenizer, Tokenizer
from probes.behaviour import loops, markers, stereotypes, structure
from probes.behaviour.findings import Finding, Rule, as_characters, finite
from probes.behaviour.rates import Rate, wilson
from train.attachments import Moment
from train.generators import derived_generator
from train.prompts import canonical

Layout = Literal["chat", "plain"]
Message = Mapping[str, str]  # role, content
_SPOKEN_BY = {"system": "System", "user": "User", "assistant": "Assistant"}
# Rules behind the rates of a set of texts; the soft loop rules ask for 100 tokens, which most replies lack.
RATES = {"loop": loops.TAIL_CYCLE.id, "structure": structure.STRUCTURED.id}
RULES: tuple[Rule, ...] = (
    *loops.RULES,
    *markers.rules(),
    stereotypes.TEXT_HIT,
)  # what a protocol keeps the versions of


class CannotTalk(LabError):
    """The context has no room for a prompt and an answer, or the run has no place to record a conversation."""


@dataclass(frozen=True)
class Scene:
    """A model at one step of a run, and where what it says is recorded: a live visit, or a stored checkpoint."""

    step: int
    segment: int
    model: GPT
    tokenizer: Tokenizer
    records: Records
    run: Run
    seed: int

    @classmethod
    def of(cls, moment: Moment) -> Scene:
        seed = moment.run.config.train.seed
        return cls(moment.step, moment.segment, moment.model, moment.corpus.tokenizer, moment.records, moment.run, seed)

    def generator(self, name: str) -> torch.Generator:
        """As `Moment.generator`: of (seed, name, step) alone, so a stored checkpoint says what the live model said."""
        return derived_generator(self.seed, name, self.step)

    def tell(self, kind: str, text: str, data: Mapping[str, Any] | None = None) -> None:
        """Put an event into the records."""
        self.records.add(
            Event(kind=kind, text=text, at=time.time(), segment=self.segment, step=self.step, data=dict(data or {}))
        )


@contextmanager
def stored_scene(run: Run, step: int | None, purpose: str, seed: int | None = None) -> Iterator[Scene]:
    """The scene of a stored checkpoint (the newest by default), inside the run's lock.

    Args:
        seed: instead of the run's own; another one gives other words.

    Raises:
        RunLocked, CheckpointMissing
        CannotTalk: no segment of the run's history has this step.
    """
    info = run.checkpoint_info(step)
    model, tokenizer = run.model(info.step), run.tokenizer()
    with run.lock(purpose), Records.writer(run.database) as records:
        pieces = records.lineage()
        found = [id for id, first, last in pieces if first <= info.step and (last is None or info.step <= last)]
        if not found:
            raise CannotTalk(f"{run.name}: its records have no segment for step {info.step}. Choose another --step.")
        own = run.config.train.seed if seed is None else seed
        yield Scene(info.step, found[-1], model, tokenizer, records, run, own)


# ------------------------------------------------------------------------------------------------------------- talking


@dataclass(frozen=True)
class Reply:
    """What the model said.

    Attributes:
        ids: tokens of `text`, in the run's tokenizer.
        prompt: everything that the model read, decoded; `heard` of the messages given were in it.
        read: the same as tokens.
    """

    text: str
    ids: tuple[int, ...]
    finish_reason: FinishReason
    seed: int
    prompt: str
    heard: int
    read: tuple[int, ...] = ()


def layout_of(tokenizer: Tokenizer) -> Layout:
    """The tokenizer's own chat format; names and line breaks for one that has no chat template (a base model's)."""
    try:
        tokenizer.chat([{"role": "user", "content": "a"}], reply_as="assistant")
    except BadTokenizer:
        return "plain"
    return "chat"


def room(model: GPT, max_tokens: int) -> int:
    """Tokens of an answer: as many as are asked for, but never more than half of the context."""
    return max(1, min(max_tokens, int(model.cfg.n_ctx) // 2))


def reply(scene: Scene, messages: Sequence[Message], sampling: Sampling) -> Reply:
    """The assistant's answer to a conversation; its oldest turns are left out where the context is too short.

    Args:
        messages: an optional system prompt, then turns of user and assistant in alternation, the user's last.
        sampling: `max_tokens` is cut to half of the context, and stop texts are the layout's.

    Raises:
        CannotTalk: not even an empty message fits.
        BadTokenizer: the chat template refuses these messages (some know no system prompt).
    """
    layout = layout_of(scene.tokenizer)
    answer = room(scene.model, sampling.max_tokens)
    ids, heard = fitted(scene.tokenizer, layout, messages, scene.model.cfg.n_ctx - answer)
    stop = ("\nUser:",) if layout == "plain" else ()
    said = generate(scene.model, scene.tokenizer, ids, replace(sampling, max_tokens=answer, stop=stop))
    text, tokens = said.text, said.ids
    while tokens and len(scene.tokenizer.decode_bytes(tokens)) > len(text.encode()):  # those of the stop text
        tokens = tokens[:-1]
    return Reply(text, tuple(tokens), said.finish_reason, sampling.seed, scene.tokenizer.decode(ids), heard, tuple(ids))


def fits(scene: Scene, messages: Sequence[Message], max_tokens: int) -> bool:
    """Whether the model reads all of these messages and has room for its answer."""
    ids = _laid_out(scene.tokenizer, layout_of(scene.tokenizer), messages)
    return len(ids) <= int(scene.model.cfg.n_ctx) - room(scene.model, max_tokens)


def fitted(tokenizer: Tokenizer, layout: Layout, messages: Sequence[Message], most: int) -> tuple[list[int], int]:
    """Ids of a prompt of at most `most` tokens, and how many messages are in it.

    What is too much goes from the front: two turns at a time, so that a user's turn stays first, then words of the last.
    """
    kept = [dict(message) for message in messages]
    first = 1 if kept[0]["role"] == "system" else 0
    while True:
        ids = _laid_out(tokenizer, layout, kept)
        excess = len(ids) - most
        if excess <= 0:
            return ids, len(kept)
        if len(kept) - first > 2:
            del kept[first : first + 2]
            continue
        content = kept[-1]["content"]
        if not content:
            raise CannotTalk(
                f"the context has room for {most} tokens of a prompt, and {len(ids)} are needed before anything is said. "
                "Use a larger model.n_ctx, or a shorter system prompt."
            )
        rest = tokenizer.decode(tokenizer.encode(content)[excess:]).lstrip("\ufffd")
        kept[-1]["content"] = rest if len(rest) < len(content) else content[1:]


def _laid_out(tokenizer: Tokenizer, layout: Layout, messages: Sequence[Message]) -> list[int]:
    if layout == "chat":
        return tokenizer.chat(messages, reply_as="assistant")[0]
    lines = [f"{_SPOKEN_BY[message['role']]}: {message['content']}" for message in messages]
    return [tokenizer.bos, *tokenizer.encode("\n".join([*lines, "Assistant:"]))]


def draw_seed(generator: torch.Generator) -> int:
    """A seed for one answer."""
    return int(torch.randint(2**31, (1,), generator=generator))


# ----------------------------------------------------------------------------------------------------------- examining


def examine(tokenizer: Tokenizer, ids: Sequence[int], text: str, prompt: str = "") -> tuple[Finding, ...]:
    """Loops, layout, markers and hostile words about groups in one text, every span in characters of it.

    Args:
        prompt: what was said to the model just before: it may have asked for a marker.
    """
    pieces = [tokenizer.decode_bytes([token]) for token in ids]
    found = []
    ours = (
        *loops.examine(ids, text),
        *structure.examine(text),
        *markers.examine(text, prompt),
        *stereotypes.examine(text),
    )
    for finding in ours:
        spans = [as_characters(span, pieces) if span.unit == "token" else span for span in finding.spans]
        spans = [replace(span, end=min(span.end, len(text))) for span in spans if span.start < len(text)]
        found.append(replace(finding, spans=tuple(spans)))
    return tuple(found)


class FirstConcise:
    """Waits for the first concise reply of a run (`markers.Series`), through conversations, steps and resumes."""

    def __init__(self) -> None:
        self.series = markers.Series()

    def judge(self, text: str, prompt: str, findings: Sequence[Finding]) -> tuple[Finding, ...]:
        """The finding that this is it, or none."""
        seen = tuple((one.rule, one.severity) for one in findings)
        self.series, found = self.series.after(markers.Reply(text, prompt, seen))
        return (found,) if found else ()

    def state_dict(self) -> dict[str, Any]:
        return asdict(self.series)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.series = markers.Series(**state)


def as_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Findings as an episode keeps them, beside the text that their spans mark."""
    return [
        {
            "rule": finding.rule,
            "version": finding.version,
            "severity": finding.severity,
            "text": finding.text,
            "value": finite(finding.value),
            "spans": [asdict(span) for span in finding.spans],
        }
        for finding in findings
    ]


def rates(texts: Sequence[Sequence[Finding]]) -> dict[str, Rate]:
    """Share of texts that end in a loop, and of those that are layout, each with Wilson's interval; {} of no texts."""
    if not texts:
        return {}
    return {
        name: wilson(sum(any(one.rule == rule for one in found) for found in texts), len(texts))
        for name, rule in RATES.items()
    }


# ----------------------------------------------------------------------------------------------------------- recording


def open_regime(records: Records, name: str, step: int, protocol: Mapping[str, Any]) -> int:
    """The id of this protocol's regime; a new one where anything about it changed."""
    digest = canonical(protocol)
    for regime in records.rows(Regime, name=name, hash=digest):
        return regime.id
    regime = Regime(name=name, step=step, protocol=dict(protocol), hash=digest)
    records.add_now(regime)
    return regime.id


def record(
    scene: Scene, kind: str, regime: int, data: dict[str, Any], findings: Sequence[tuple[Finding, Mapping[str, Any]]]
) -> int:
    """Keep a conversation and what was found in it; each finding says its episode and its place there.

    Returns:
        The episode's number.
    """
    episode = Episode(segment=scene.segment, step=scene.step, kind=kind, regime=regime, data=data)
    scene.records.add_now(episode)
    rows = []
    for finding, place in findings:
        columns = finding.to_row()
        columns["evidence"] = {**columns["evidence"], "source": kind, "episode": episode.id, **place}
        rows.append(FindingRow(segment=scene.segment, step=scene.step, **columns))
    scene.records.add(*rows)
    return episode.id


def weights_mark(model: GPT, step: int) -> str:
    """`step-…@sha256` of the weights themselves: names the checkpoint's folder, and is known before that is written.

    The hash is over names, shapes and bytes of the tensors; a stored checkpoint that is loaded again has the same.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{list(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"{name_of(step)}@{digest.hexdigest()}"
