"""Reports over what a run has said so far: markers with what chance makes of them, recurring motifs, a battery of contrasts.

Each reads the records of the newest history and is kept in `evidence/`, so that the app can show it without torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from lab.corpus import Corpus
from lab.durable import replace_file
from lab.errors import LabError
from lab.records import Entry, Episode, Records
from lab.run import Run
from probes.behaviour import contrast_power, contrasts, markers, patterns
from probes.behaviour.findings import finite
from probes.behaviour.rates import wilson
from train.contrast_battery import contrast
from train.references import earlier_reference, reference_at

MARKERS, MOTIFS, CONTRASTS = "report-markers.json", "report-motifs.json", "report-contrasts.json"
NAMES = ("pause", "identity-self", "identity-other", "concise")
MOST_DOCUMENTS = 20_000  # of training text, evenly spread
MOST_WORDS = 2_000_000
POWER_GAPS, POWER_DRAWS = (0.05, 0.1, 0.15, 0.2), 200

Json = dict[str, Any]
Placed = tuple[int, str, markers.Reply]  # step, where it is from, the reply


class NothingSaid(LabError):
    """The run has no text of the model to report on."""


def marker_report(run: Run, corpus: Corpus | None = None) -> Json:
    """Every marker over self-play and check-ins: how often, since when, beside training text and the reference checkpoint.

    Raises:
        NothingSaid: nobody has talked with the model.
    """
    with run.records() as records:
        placed = list(_replies(records))
    if not placed:
        raise NothingSaid(f"{run.name}: nobody has talked with its model. Run: lab selfplay {run.name}")
    texts = _training(run, corpus)
    replies = [reply for _, _, reply in placed]
    words = max(1, round(median(len(reply.text.split()) for reply in replies)))
    info = reference_at(run, placed[-1][0])
    there = [] if isinstance(info, str) else [reply for step, _, reply in placed if step == info.step]
    found = []
    for name in NAMES:
        pieces = [line for text in texts for line in text.splitlines()] if name == "concise" else texts
        base = markers.base_rate(name, pieces, words) if pieces else None
        counted = markers.count(name, replies, base, there)
        place = None if counted.first is None else placed[counted.first][:2]
        found.append({**asdict(counted), "text": counted.text, "first_place": place})
    result = {"version": 1, "words": words, "texts": len(replies), "training_texts": len(texts), "markers": found}
    return keep(run, MARKERS, result | {"reference": None if isinstance(info, str) else info.step})


def motif_report(run: Run, corpus: Corpus | None = None) -> Json:
    """Motifs of self-play and journal against the training text.

    Raises:
        NothingToCompare: no words on either side.
    """
    with run.records() as records:
        spoken, given = [], []
        for row in _episodes(records):
            if row.kind == "self-play":
                own = [turn["text"] for turn in row.data["turns"] if not turn.get("given")]
                spoken.append(patterns.Document(row.step, "self-play", f"episode {row.id}", "\n".join(own)))
                given += [turn["text"] for turn in row.data["turns"] if turn.get("given")]
        for entry in records.rows(Entry, author="model"):
            spoken.append(patterns.Document(entry.step, "journal", f"entry {entry.id}", entry.text))
            given.append(entry.prompt or "")
    texts = _training(run, corpus)
    found = patterns.motifs(spoken, texts, given)
    motifs = [{**asdict(one), "text": one.text} for one in found]
    return keep(run, MOTIFS, {"version": 1, "documents": len(spoken), "training_texts": len(texts), "motifs": motifs})


def contrast_report(run: Run, step: int | None = None, samples: int = contrasts.PER_ARM) -> Json:
    """A battery of contrasts at a stored checkpoint, with how large one would have to be to be found.

    Raises:
        CheckpointMissing
    """
    info = run.checkpoint_info(step)
    earlier = earlier_reference(run, info.step)
    reference = earlier and (earlier.step, earlier.weights_sha256, lambda: run.model(earlier.step))
    model, tokenizer, seed = run.model(info.step), run.tokenizer(), run.config.train.seed
    outcome = contrast(run, model, tokenizer, info.step, seed, samples, reference or None)
    arms = [rate for one in outcome.first.counts for rate in (one.first, one.second)]
    base = wilson(sum(rate.count for rate in arms), sum(rate.checks for rate in arms))
    curve = [
        asdict(contrast_power.power(base.value, gap, samples, draws=POWER_DRAWS))
        for gap in POWER_GAPS
        if base.value + gap <= 1
    ]
    result = outcome.to_json() | {"step": info.step, "base": asdict(base), "power": curve}
    return keep(run, CONTRASTS, result)


def _replies(records: Records) -> Iterator[Placed]:
    """What the model said in self-play and check-ins, in order, with what was said to it just before."""
    for row in sorted(_episodes(records), key=lambda row: (row.step, row.id)):
        before = ""
        for turn in row.data.get("turns", ()) if row.kind == "self-play" else ():
            if not turn.get("given"):
                yield row.step, row.kind, markers.Reply.of(turn["text"], before, turn["findings"])
            before = turn["text"]
        for sample in row.data.get("samples", ()) if row.kind == "check-in" else ():
            yield row.step, row.kind, markers.Reply.of(sample["text"], sample["prompt"], sample["findings"])


def _episodes(records: Records) -> list[Episode]:
    """Of the newest history."""
    pieces = {id: (first, last) for id, first, last in records.lineage()}

    def counts(row: Episode) -> bool:
        first, last = pieces.get(row.segment, (1, 0))
        return first <= row.step and (last is None or row.step <= last)

    return [row for row in records.rows(Episode) if counts(row)]


def _training(run: Run, corpus: Corpus | None) -> list[str]:
    """Training documents, evenly spread, up to 20,000 of them and two million words."""
    from train.session import corpus_of  # which imports nearly everything

    texts = list((corpus or corpus_of(run)).training_documents())
    some: Sequence[str] = texts[:: max(1, len(texts) // MOST_DOCUMENTS)]
    words = sum(text.count(" ") + 1 for text in some)
    return list(some[:: max(1, -(-words // MOST_WORDS))])


def keep(run: Run, name: str, result: Json) -> Json:
    """Write a report to `evidence/`, what is not finite as null; the same as it will be read back."""
    run.evidence.mkdir(exist_ok=True)
    kept: Json = finite(result)
    replace_file(run.evidence / name, (json.dumps(kept, indent=1) + "\n").encode())
    return kept
