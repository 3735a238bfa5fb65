"""What the times of a clause mean: words that may be of layers or of training, ends, and "not until".

"Late" is a depth for "is decided" and a time for "has drifted"; which of the two is told by the verb, and where the verb does
not tell, the clause stays unread.
"""

from __future__ import annotations

from dataclasses import replace

from probes.claims.chunks import Chunk
from probes.claims.clauses import Clause
from probes.claims.lexicon import WORDS
from probes.claims.places import CLASSES, Region, Window


def timely(clause: Clause) -> Clause | str:
    """The clause with "late" or "in the second half" read as a time, where its verb is one of change over training.

    A string says why that cannot be: "is stable early" may be meant of layers, "at first" names no stretch.
    """
    changes = bool(clause.of("steady", "move"))
    if not changes and all(chunk.text.startswith("emerg") for chunk in clause.of("learn")):
        return clause  # "emerges late" is of layers as often as of training
    bare = [
        chunk
        for chunk in clause.of("region")
        if WORDS["time_or_place"].intersection(chunk.text.split()) and not _names_layers(chunk)
    ]
    if changes and (turns := clause.of("order", "compare", "than")):
        return f"{turns[0].text!r} is no range of layers or of training"
    if not bare or clause.of("window"):
        return _after_its_end(clause)
    past = WORDS["of_the_past"] & clause.words
    if not past and all(chunk.word.form != "past" for chunk in clause.of("steady", "move", "learn")):
        return f"does not say whether {bare[0].text!r} is of the layers or of training"
    return _after_its_end(
        Clause([_as_time(chunk) if chunk in bare else chunk for chunk in clause.chunks], clause.opener)
    )


def _names_layers(chunk: Chunk) -> bool:
    of_layers = {name for group in ("layer", "layers", "net") for name in CLASSES[group].split()}
    return not of_layers.union(WORDS["only_place"]).isdisjoint(chunk.text.split())


def _as_time(chunk: Chunk) -> Chunk:
    region = chunk.value
    if not isinstance(region, Region):
        return chunk
    how = "until" if region.until else "at"
    return replace(chunk, kind="window", value=Window("share", region.first, region.last, how, region.rank))


def is_bare_adverb(chunk: Chunk) -> bool:
    return set(chunk.text.split()) <= {"early", "late", "very", "quite", "on", "later"}


def emerges(clause: Clause) -> bool:
    return bool(clause.of("learn")) or any(c.text.split()[0] in WORDS["emerging"] for c in clause.of("locate"))


def took(clause: Clause) -> bool:
    return any(c.text.split()[0] in ("took", "takes", "take", "waited", "waits", "wait") for c in clause.chunks)


def until(
    where: Region | None, when: Window | None, positive: bool, took: bool
) -> tuple[Region | None, Window | None, bool]:
    """ "Not until layer 4" and "it took until step 8000" say when it began: from there on."""
    if not positive or took:
        if where is not None and where.until:
            begins = where if where.unit != "layer" else Region("layer", where.last or 0, None)
            return replace(begins, until=False), when, True
        if when is not None and when.how == "until":
            return where, Window(when.unit, when.last, None, "after"), True
    return where, when, positive


def came_by(when: Window | None) -> Window | None:
    """Readable *since* step 1500 = it had come up by then."""
    if when is not None and when.how == "since" and when.unit != "checkpoint":
        return Window(when.unit, None if when.unit == "step" else 0, when.first, "by")
    return when


def in_training(clause: Clause) -> bool:
    learnt = [chunk for chunk in clause.of("learn") if not chunk.text.startswith("emerg") or chunk.word.form == "past"]
    return bool(clause.of("window") or learnt)


def _after_its_end(clause: Clause) -> Clause:
    """What "stopped drifting by step 3000" is still from step 3000 on, not before."""
    ended = any(chunk.text.split()[0] in ("stopped", "ceased") for chunk in clause.of("not"))
    by = any(chunk.text == "no longer" for chunk in clause.of("not"))  # "between … it no longer moved" is that stretch
    if not clause.of("move"):
        return clause
    return Clause(
        [
            _from_its_end(chunk)
            if ended or (by and isinstance(chunk.value, Window) and chunk.value.how == "by")
            else chunk
            for chunk in clause.chunks
        ],
        clause.opener,
    )


def _from_its_end(chunk: Chunk) -> Chunk:
    when = chunk.value
    if not isinstance(when, Window) or when.unit == "checkpoint" or when.last in (None, 1):
        return chunk
    return replace(chunk, value=Window(when.unit, when.last, 1 if when.unit == "share" else None, "after"))
