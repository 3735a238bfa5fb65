"""Has a source that was introduced while a run was under way surfaced? The ladder of `probes.behaviour.surfacing`.

The last checkpoint before the introduction against the newest, the same prompts with the same random numbers. Text kept out
is the source's validation slice, which no step trains on; of the introduced text as many words are taken, evenly spread, so
that chance finds as much in one as in the other. Canaries (a source of that kind that came no earlier) are asked about too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from lab.benchmark_scoring import Request, likelihoods, opening
from lab.canaries import Canaries, canaries
from lab.checkpoint import CheckpointInfo, list_checkpoints
from lab.config import RunConfig
from lab.corpus import Corpus
from lab.durable import replace_file
from lab.errors import LabError
from lab.model import GPT
from lab.ngrams import Words
from lab.run import Run
from lab.sources import documents, position
from lab.tokenizer import Tokenizer
from probes.behaviour.appearance import Introduced, Reflection, appears
from probes.behaviour.canaries import RankTest, rank_test
from probes.behaviour.findings import finite
from probes.behaviour.surfacing import PerToken, Surfacing, learned, lifted
from train import many
from train.conversations import fitted, layout_of, room
from train.generators import derived_generator
from train.prompts import battery, journal_prompts, topics

TEXTS = 200  # reflections of each checkpoint, and as many answers to the beginnings of passages
TOKENS = 64
BEGINNING = 8  # words of a passage that the model is asked to go on from
MOST_PASSAGES = 400  # a side, for the likelihoods
SHOWN = 20  # reflections with something in them that the file quotes


class NotIntroduced(LabError):
    """The source was there from the beginning, is not there yet, or there is no checkpoint on both sides."""


def surfacing(
    run: Run, source: str, step: int | None = None, texts: int = TEXTS, seed: int = 0, corpus: Corpus | None = None
) -> dict[str, Any]:
    """The whole ladder, kept as `evidence/surfacing-<source>.json`.

    Args:
        step: of the checkpoint that is asked about; the newest by default.
        texts: reflections of each checkpoint.
        seed: of prompts, random numbers and bootstrap.

    Returns:
        What the file holds: `rung`, `text`, the steps, every rung's numbers, and a few of the texts that count.

    Raises:
        NotIntroduced, NoTest, BadSource, CheckpointMissing
    """
    from train.session import corpus_of  # which imports nearly everything

    at = introduced_at(run.config, source)
    before, after = _checkpoints(run, at, step)
    corpus = corpus or corpus_of(run)
    tokenizer, kept_out = corpus.tokenizer, corpus.validation_documents(source)
    introduced = _as_long(_training(run.config, [source]), kept_out)
    planted = planted_with(run.config, at)
    old, new = (run.model(info.step) for info in (before, after))
    scores = _per_token(old, tokenizer), _per_token(new, tokenizer)
    rung = learned(introduced[:MOST_PASSAGES], kept_out[:MOST_PASSAGES], scores[0], scores[1], seed)
    earlier = [name for name in _weighed(run.config, at) if name != source]
    said = [*(one.text for one in planted.put_in), *introduced] if planted else introduced
    unsaid = [*(one.text for one in planted.kept_out), *kept_out] if planted else kept_out
    known = Introduced.of(said, unsaid, _training(run.config, earlier))
    length = room(old, TOKENS)
    unasked = _reflection_prompts(tokenizer, int(old.cfg.n_ctx) - length, texts, after.step)
    asked = _beginnings(tokenizer, introduced, kept_out, texts)
    once, now = (_written(model, tokenizer, unasked, length, seed, "reflections") for model in (old, new))
    went, goes = (_written(model, tokenizer, asked, length, seed, "continuations") for model in (old, new))
    found = Surfacing(
        source,
        rung,
        appears(known, went, goes, planted),
        appears(known, once, now, planted),
        _ranks(planted, scores) if planted else None,
        lifted(once, now, introduced),
    )
    result = {
        "version": 1,
        "source": source,
        "introduced": at,
        "steps": [before.step, after.step],
        "weights_sha256": [before.weights_sha256, after.weights_sha256],
        "seed": seed,
        "tokens": length,
        "temperature": many.TEMPERATURE,
        "rung": found.rung,
        "text": found.text,
        **finite(asdict(found)),
        "quoted": _quoted(known, now),
    }
    run.evidence.mkdir(exist_ok=True)
    replace_file(run.evidence / f"surfacing-{source}.json", (json.dumps(result, indent=1) + "\n").encode())
    return result


def introduced_at(config: RunConfig, source: str) -> int:
    """The step at which a source first has a weight, later than 0.

    Raises:
        NotIntroduced
    """
    starts = [phase.from_step for phase in config.data.phases if phase.weights.get(source, 0) > 0]
    if not starts or starts[0] == 0:
        names = [one.name for one in config.data.sources]
        later = [name for name in names if name not in config.data.phases[0].weights]
        why = "is trained on from step 0" if starts else "is no source that this run is ever trained on"
        raise NotIntroduced(
            f"data.sources {source!r} {why}, so nothing can be said of before and after. Introduced later were: "
            f"{', '.join(later) or 'none; give a phase of data.phases a new source'}."
        )
    if any(one.name == source and one.kind == "canaries" for one in config.data.sources):
        with_it = [
            name for name in _weighed(config, starts[0] + 1) if name not in (source, *_weighed(config, starts[0]))
        ]
        raise NotIntroduced(
            f"data.sources {source!r} holds canaries, asked about in the report on the text they were planted beside: "
            f"{', '.join(with_it) or 'none came with them; introduce a source in the same phase'}."
        )
    return starts[0]


def planted_with(config: RunConfig, at: int) -> Canaries | None:
    """The canaries that came at this step or later; None without any."""
    for source in config.data.sources:
        if source.kind == "canaries" and source.name not in _weighed(config, at):
            return canaries(source.seed)
    return None


def _checkpoints(run: Run, at: int, step: int | None) -> tuple[CheckpointInfo, CheckpointInfo]:
    earlier = [info for info in list_checkpoints(run.checkpoints_folder) if info.step <= at]
    after = run.checkpoint_info(step)
    if not earlier or after.step <= at:
        raise NotIntroduced(
            f"{run.name}: the source came at step {at}, and there must be a checkpoint up to there and one after it. Train "
            "on, or give another --step."
        )
    return max(earlier, key=lambda info: info.step), after


def _weighed(config: RunConfig, before: int) -> list[str]:
    """Sources that any phase before this step draws from."""
    phases = [phase for phase in config.data.phases if phase.from_step < before]
    return sorted({name for phase in phases for name, weight in phase.weights.items() if weight > 0})


def _training(config: RunConfig, names: Sequence[str]) -> list[str]:
    """Training documents of these sources."""
    share = config.data.validation_share
    chosen = [source for source in config.data.sources if source.name in names]
    return [one.text for source in chosen for one, _ in documents(source) if position(one.digest) >= share]


def _as_long(texts: Sequence[str], other: Sequence[str]) -> list[str]:
    """Texts of about as many words as others have, evenly spread."""
    size = sum(len(Words.split(text)) for text in texts)
    wanted = sum(len(Words.split(text)) for text in other)
    keep = max(1, min(len(texts), round(len(texts) * wanted / max(1, size))))
    return [texts[at * len(texts) // keep] for at in range(keep)] if texts else []


def _per_token(model: GPT, tokenizer: Tokenizer) -> PerToken:
    """Nats per token of how each text begins, as far as the context reaches."""
    first, most = tuple(opening(tokenizer) or [tokenizer.bos]), int(model.cfg.n_ctx) - 1

    def of(texts: Sequence[str]) -> Sequence[float]:
        wanted = [Request(first, tuple(ids[:most])) for ids in tokenizer.encode_batch(texts)]
        return [one.total / max(1, len(one.tokens)) for one in likelihoods(model, wanted)]

    return of


def _ranks(planted: Canaries, scores: Sequence[PerToken]) -> RankTest:
    gains = []
    for side in (planted.put_in, planted.kept_out):
        before, after = (score([one.text for one in side]) for score in scores)
        gains.append([b - a for a, b in zip(before, after, strict=True)])
    return rank_test(*gains)


def _reflection_prompts(tokenizer: Tokenizer, most: int, texts: int, step: int) -> list[tuple[list[int], str]]:
    """The journal's question, the topics of self-play and the questions of check-ins, round and round: nobody asks of it."""
    questions = [journal_prompts().blind.format(step=step), *topics().topics, *battery().prompts.values()]
    layout = layout_of(tokenizer)
    ids = [fitted(tokenizer, layout, [{"role": "user", "content": one}], most)[0] for one in questions]
    return [(ids[at % len(ids)], questions[at % len(ids)]) for at in range(texts)]


def _beginnings(
    tokenizer: Tokenizer, introduced: Sequence[str], kept_out: Sequence[str], texts: int
) -> list[tuple[list[int], str]]:
    """How passages of both begin, in turn."""
    found = []
    for at in range(texts):
        side = (introduced, kept_out)[at % 2]
        text = side[(at // 2) % len(side)] if side else ""
        beginning = " ".join(text.split()[:BEGINNING])
        found.append(([*(opening(tokenizer) or [tokenizer.bos]), *tokenizer.encode(beginning)], beginning))
    return found


def _written(
    model: GPT, tokenizer: Tokenizer, prompts: Sequence[tuple[list[int], str]], length: int, seed: int, name: str
) -> list[Reflection]:
    numbers = many.randoms(len(prompts), length, derived_generator(seed, f"surfacing/{name}", 0))
    ids = many.answers(model, tokenizer, [one for one, _ in prompts], numbers)
    return [Reflection(tokenizer.decode(one), text) for one, (_, text) in zip(ids, prompts, strict=True)]


def _quoted(known: Introduced, texts: Sequence[Reflection]) -> list[dict[str, Any]]:
    """Reflections that hold a run of words of the introduced text, the first ones; words of a model."""
    found = [
        {"prompt": one.prompt, "text": one.text, "runs": sorted(runs)} for one in texts if (runs := known.runs(one)[0])
    ]
    return found[:SHOWN]
