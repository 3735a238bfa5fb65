"""From a clause to statements: who relates to what, where and when, and whether it is denied.

Each kind of statement has its own function; they are tried from the most to the least specific: removal, reliance,
stability, comparison, place or time. A word that no table knows makes the clause `Unread`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from probes.claims.clauses import Chunk, Clause
from probes.claims.lexicon import STEMS_OF_A_NETWORK, WORDS
from probes.claims.places import Region, Window
from probes.claims.vocabulary import UNNAMED, Subject


@dataclass(frozen=True)
class Statement:
    """One reading of a clause; see `grammar` for what `positive` affirms."""

    kind: str
    a: Subject
    start: int
    end: int
    b: Subject | None = None
    positive: bool = True
    relation: str | None = None
    reading: str | None = None
    where: Region | None = None
    when: Window | None = None
    rank: int | None = None
    in_training: bool = False

    def denied(self) -> Statement:
        return replace(self, positive=not self.positive)


@dataclass(frozen=True)
class Unread:
    """A clause that looks like a claim and cannot be read."""

    reason: str
    start: int
    end: int


def statements(clause: Clause, before: tuple[Subject, ...]) -> list[Statement | Unread]:
    """What a clause states; empty if it is about something else.

    Args:
        before: the subject that the sentence named last, for "it" and for a clause that names none.
    """
    if not clause.has_predicate:
        return []
    start, end = clause.chunks[0].start, clause.chunks[-1].end
    found = _subjects(clause, before)
    if isinstance(found, str):
        return [Unread(found, start, end)] if found else []
    subjects, unknown = found
    if unknown:
        return [Unread(f"does not know {' '.join(repr(chunk.text) for chunk in unknown[:3])}", start, end)]
    if not _of_a_network(clause, subjects):
        known = bool(clause.of("subject"))
        return [Unread("may be about the world: names no layer, step or concept", start, end)] if known else []
    inherited = not clause.of("subject", "unknown")
    if inherited and not clause.of("region", "window", "rely", "remove", "steady", "move"):
        return []
    if clause.of("move") and not clause.of("window") and (inherited or clause.of("region")) and _trend(clause):
        return [] if inherited else [Unread("does not say whether over the layers or over training", start, end)]
    for read in (_removal, _reliance, _stability, _comparison, _place):
        if read_as := read(clause, subjects):
            return [replace(item, start=start, end=end) for item in read_as]
    return [Unread("names a subject, but not what is claimed of it", start, end)]


Named = tuple[Subject, int]  # a subject and the token where it stands


def _subjects(clause: Clause, before: tuple[Subject, ...]) -> tuple[list[Named], list[Chunk]] | str:
    """Subjects with their places, and the words left unknown; or why there are none ("" = nothing to report)."""
    named = [(chunk.value, chunk.start) for chunk in clause.chunks if isinstance(chunk.value, Subject)]
    unknown = clause.of("unknown")
    if clause.of("hurt", "harmless") and clause.of("remove"):
        unknown = [chunk for chunk in unknown if chunk.text not in WORDS["outcome"]]
    wants_two = bool(clause.of("compare", "than"))
    if named and not (wants_two and len(named) < 2 and unknown):
        return named, unknown
    if unknown:
        made, rest = _unknown_subject(clause, unknown)
        if "#" in made.name or WORDS["not_subject"].intersection(made.name.split()):
            return f"does not know {made.name!r}" if named else ""
        if not named and not _has_verb(clause):
            return ""
        return sorted([*named, (made, unknown[0].start)], key=lambda pair: pair[1]), rest
    if before and not (clause.of("pronoun") and len(before) > 1):
        return [(subject, clause.chunks[0].start) for subject in before], []
    return "'it' or 'they' refers to another sentence" if clause.of("pronoun") else ""


def _unknown_subject(clause: Clause, unknown: list[Chunk]) -> tuple[Subject, list[Chunk]]:
    """The first run of unknown words ("sense of humour") as a subject without a task; the words after it."""
    run = [unknown[0]]
    for chunk in unknown[1:]:
        between = [c.text for c in clause.chunks if run[-1].end <= c.start < chunk.start]
        if not all(text in ("of", "the", "a", "in", "for") for text in between) or len(between) > 2:
            break
        run += [chunk]
    inside = [c.text for c in clause.chunks if run[0].start <= c.start < run[-1].end]
    name = " ".join(inside)
    lead = [c for c in clause.chunks if c.end == run[0].start and c.text in ("sense", "kind")]
    name = " ".join([*(c.text for c in lead), name])
    return Subject(name, name, UNNAMED), [chunk for chunk in unknown if chunk not in run]


def _has_verb(clause: Clause) -> bool:
    verbs = clause.of("locate", "learn", "steady", "move", "rely", "hurt", "harmless", "remove", "compare")
    return bool(verbs) or bool(clause.words & {"is", "are", "was", "were", "has", "have", "had"})


def _of_a_network(clause: Clause, subjects: list[Named]) -> bool:
    """Whether it is about the model: "the food was late" is not, "food is late in the network" is."""
    everyday = [s for s, _ in subjects if (s.value or "").startswith(("noun.", "verb.", UNNAMED))]
    if len(everyday) < len(subjects):
        return True
    return any(word.startswith(STEMS_OF_A_NETWORK) for word in clause.words)


def _trend(clause: Clause) -> bool:
    return clause.of("move")[0].word.value in ("grow", "fade")


def _denials(clause: Clause) -> int:
    absent = sum(chunk.word.value == "not" for chunk in clause.of("locate"))
    never = sum(isinstance(chunk.value, Region) and chunk.value.never for chunk in clause.chunks)
    return len(clause.of("not")) + absent + never


def _positive(clause: Clause) -> bool:
    return _denials(clause) % 2 == 0


def _where(clause: Clause) -> Region | None:
    return next((chunk.value for chunk in clause.chunks if isinstance(chunk.value, Region)), None)


def _when(clause: Clause) -> Window | None:
    return next((chunk.value for chunk in clause.chunks if isinstance(chunk.value, Window)), None)


def _reading(clause: Clause) -> str | None:
    values = [str(chunk.word.value) for chunk in clause.of("locate") if chunk.word.value in ("decide", "decode")]
    tools = [chunk.text for chunk in clause.of("instrument")]
    if any("lens" in tool for tool in tools):
        return "decide"
    return values[0] if values else "decode" if any("probe" in tool for tool in tools) else None


def _removal(clause: Clause, subjects: list[Named]) -> list[Statement]:
    """ "Removing A at layer 2 hurts B", "when A is ablated, predictions collapse", "erasing A makes no difference"."""
    if not (clause.of("remove") and clause.of("hurt", "harmless")):
        return []
    removal = clause.of("remove")[0].start
    effect = clause.of("hurt", "harmless")[0].start
    removed = next((s for s, at in subjects if removal < at < effect), None) or next(
        (s for s, at in subjects if at > removal), subjects[0][0]
    )
    other = next((s for s, _ in subjects if s != removed), None)
    positive = _positive(clause) != bool(clause.of("harmless"))
    return [
        Statement("causal", removed, 0, 0, other, positive, reading="use", where=_where(clause), when=_when(clause))
    ]


def _reliance(clause: Clause, subjects: list[Named]) -> list[Statement]:
    """ "The model relies on A at the top", "B depends on A", "A is needed (for B)", "A does not matter"."""
    verbs = clause.of("rely")
    if not verbs:
        return []
    verb = verbs[0]
    before = [s for s, at in subjects if at < verb.start]
    after = [s for s, at in subjects if at > verb.start]
    auxiliary = {c.text for c in clause.chunks if c.kind == "filler" and c.end <= verb.start}
    passive = verb.word.value != "active" or (
        verb.word.form == "past" and bool(auxiliary & {"is", "are", "was", "were", "been", "be"})
    )
    if not passive and after:
        needed, dependent = after, before
    else:
        needed, dependent = before or after, after if before else []
    positive = _positive(clause) != (verb.word.value == "not")
    return [
        Statement(
            "causal",
            subject,
            0,
            0,
            dependent[0] if dependent else None,
            positive,
            reading="use",
            where=_where(clause),
            when=_when(clause),
        )
        for subject in dict.fromkeys(needed)
    ]


def _stability(clause: Clause, subjects: list[Named]) -> list[Statement]:
    """ "A has not moved since step 4000", "A keeps flickering", "A is stable"."""
    moves = clause.of("steady", "move")
    if not moves:
        return []
    steady = moves[0].kind == "steady"
    return [
        Statement(
            "stability", subject, 0, 0, None, _positive(clause) == steady, relation=str(moves[0].word.value),
            reading=_reading(clause), where=_where(clause), when=_when(clause),
        )
        for subject, _ in subjects
    ]  # fmt: skip


def _comparison(clause: Clause, subjects: list[Named]) -> list[Statement]:
    """ "A before B", "B deeper than A", "before B come A", "A at lower layers than B", "A and B at the same depth"."""
    compares, than = clause.of("compare"), clause.of("than")
    if not (compares or than) or len(subjects) < 2:
        return []
    ranks = [(chunk.start, rank) for chunk in clause.chunks if (rank := _rank(chunk)) is not None]
    if not ranks:
        return []
    limit = than[0].start if than else clause.chunks[-1].end
    at, rank = max((pair for pair in ranks if pair[0] <= limit), default=ranks[0])
    if not than:
        at, rank = compares[0].start, int(compares[0].word.value)
    split = than[0].start if than else at
    left = [subject for subject, where in subjects if where < split]
    right = [subject for subject, where in subjects if where > split]
    if not left or not right:  # "before B come A", "A and B at the same depth", "it takes more layers for B than …"
        (left, right) = (
            ([subjects[-1][0]], [subjects[0][0]])
            if at < subjects[0][1] and rank
            else ([subjects[0][0]], [subjects[-1][0]])
        )
    elif not (_enumerates(clause, left) and _enumerates(clause, right)):  # "higher than B in frequency"
        return []
    trained = _in_training(clause)
    found = []
    for one in left:
        for other in right:
            a, b = (one, other) if rank <= 0 else (other, one)
            if a != b:
                found.append(
                    Statement(
                        "emergence" if trained else "depth_order", a, 0, 0, b, _positive(clause), when=_when(clause),
                        relation=None if rank else "same", reading=_reading(clause),
                    )
                )  # fmt: skip
    return found


def _enumerates(clause: Clause, side: list[Subject]) -> bool:
    """Several subjects on one side of a comparison are all meant only if "and" or "or" stands between them."""
    return len(side) < 2 or bool(clause.words & {"and", "or", "nor", "&"})


def _rank(chunk: Chunk) -> int | None:
    if chunk.kind in ("compare", "order"):
        return int(chunk.word.value)
    return chunk.value.rank if isinstance(chunk.value, Region | Window) else None


def _in_training(clause: Clause) -> bool:
    learnt = [chunk for chunk in clause.of("learn") if not chunk.text.startswith("emerg") or chunk.word.form == "past"]
    return bool(clause.of("window") or learnt)


def _place(clause: Clause, subjects: list[Named]) -> list[Statement]:
    """A subject with its layers, its time of training or its turn ("first …"), in the order in which they are named."""
    regions = [(c.value, c.start) for c in clause.chunks if isinstance(c.value, Region)]
    regions = [pair for pair in regions if not pair[0].never] or regions  # "nowhere in the lower half"
    when, orders = _when(clause), clause.of("order")
    reading, positive = _reading(clause), _positive(clause)
    if not regions and when is None and (orders or not clause.of("learn")):
        rank = int(orders[0].word.value) if orders else None
        if clause.of("compare", "than"):
            return []
        return [
            Statement(
                "turn", subject, 0, 0, None, positive, reading=reading, rank=rank, in_training=_in_training(clause)
            )
            for subject, _ in subjects
        ]
    if clause.of("compare", "than"):
        return []
    pairs: list[tuple[Subject, Region | None]] = (
        _paired(subjects, regions) if regions else [(s, None) for s, _ in subjects]
    )
    emerges = bool(when and _emerges(clause)) if regions else True
    found = []
    for subject, region in pairs:
        where, window, holds = _until(region, when, positive, _took(clause))
        ranked = region.rank if region else when.rank if when else None
        if ranked is None and orders and not regions:
            ranked = int(orders[0].word.value)
        found.append(
            Statement(
                "emergence" if emerges else "band", subject, 0, 0, None, holds, reading=reading, where=where,
                when=_came_by(window) if emerges else window, rank=ranked, in_training=emerges,
            )
        )  # fmt: skip
    return found


def _emerges(clause: Clause) -> bool:
    return bool(clause.of("learn")) or any(c.text.split()[0] in WORDS["emerging"] for c in clause.of("locate"))


def _took(clause: Clause) -> bool:
    return any(c.text.split()[0] in ("took", "takes", "take", "waited", "waits", "wait") for c in clause.chunks)


def _until(
    where: Region | None, when: Window | None, positive: bool, took: bool
) -> tuple[Region | None, Window | None, bool]:
    """ "Not until layer 4" and "it took until step 8000" say when it began: from there on."""
    if not positive or took:
        if where is not None and where.until and where.last is not None:
            return Region("layer", where.last, None), when, True
        if when is not None and when.how == "until":
            return where, Window(when.unit, when.last, None, "after"), True
    return where, when, positive


def _came_by(when: Window | None) -> Window | None:
    """Readable *since* step 1500 = it had come up by then."""
    if when is not None and when.how == "since" and when.unit == "step":
        return Window("step", None, when.first, "by")
    return when


def _paired(subjects: list[Named], regions: list[tuple[Region, int]]) -> list[tuple[Subject, Region | None]]:
    """Subjects and regions in the order of the text: all with one, one with all, or one by one."""
    if len(regions) > 1 and len(regions) == len(subjects):
        return [(subject, region) for (subject, _), (region, _) in zip(subjects, regions, strict=True)]
    return [(subject, region) for subject, _ in subjects for region, _ in regions]


def contrast(found: Sequence[Statement | Unread]) -> list[Statement | Unread]:
    """Statements that rank their subjects by words alone ("early … late", "first … then") become one order of the two.

    A place given by number says more than the order, so it stays a band; a turn ("first") with nothing to compare is no
    claim.
    """
    joined: list[Statement | Unread] = []
    previous: Statement | None = None
    used: set[int] = set()
    for at, item in enumerate(found):
        if (
            not isinstance(item, Statement)
            or item.rank is None
            or not item.positive
            or item.kind not in ("band", "turn", "emergence")
        ):
            previous = item if isinstance(item, Statement) and item.kind == "turn" else None
            continue
        if previous is not None and previous.a != item.a and previous.rank is not None and previous.rank != item.rank:
            a, b = (previous, item) if previous.rank < item.rank else (item, previous)
            trained = previous.in_training or item.in_training
            joined.append(
                Statement(
                    "emergence" if trained else "depth_order", a.a, min(a.start, b.start), max(a.end, b.end), b.a,
                    reading=a.reading or b.reading,
                )
            )  # fmt: skip
            used |= {at, list(found).index(previous)}
        previous = item
    rest: list[Statement | Unread] = []
    for at, item in enumerate(found):
        if at in used:
            continue
        if isinstance(item, Statement) and item.kind == "turn":
            item = Unread("compares with nothing that the sentence names", item.start, item.end)
        rest.append(item)
    return sorted([*joined, *rest], key=lambda item: item.start)


__all__ = ["Statement", "Unread", "contrast", "statements"]
