"""From a clause to statements: who relates to what, where and when, and whether it is denied.

Each kind of statement has its own function; they are tried from the most to the least specific: removal, reliance,
stability, comparison, place or time. A word that no table knows makes the clause `Unread`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from probes.claims.chunks import Chunk
from probes.claims.clauses import Clause
from probes.claims.lexicon import WORDS
from probes.claims.places import Region, Window
from probes.claims.subjects import Named, is_of_a_network, subjects_of
from probes.claims.timing import came_by, emerges, in_training, is_bare_adverb, timely, took, until
from probes.claims.vocabulary import Subject


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
    start, end = clause.chunks[0].start, clause.chunks[-1].end
    if not clause.has_predicate:
        told = clause.of("subject") and (clause.of("remove", "learn", "hurt", "harmless") or _is_placed(clause))
        what = "what the removal does" if clause.of("remove") else "where, when or before what"
        return [Unread(f"does not say {what}", start, end)] if told else []
    found = subjects_of(clause, before)
    if isinstance(found, str):
        return [Unread(found, start, end)] if found else []
    subjects, unknown = found
    if why := _compares_effects(clause):
        return [Unread(why, start, end)]
    if unknown:
        return [Unread(f"does not know {' '.join(repr(chunk.text) for chunk in unknown[:3])}", start, end)]
    if misread := clause.of("misread"):
        return [Unread(f"{misread[0].text!r} is no range of layers or of training", start, end)]
    if not is_of_a_network(clause, subjects):
        known = bool(clause.of("subject", "remove") or (clause.of("compare") and clause.of("than")))
        return [Unread("may be about the world: names no layer, step or concept", start, end)] if known else []
    inherited = not clause.of("subject", "unknown")
    if inherited and not clause.of("region", "window", "rely", "remove", "steady", "move"):
        return []
    if clause.of("move") and not clause.of("window") and (inherited or clause.of("region")) and _trend(clause):
        return [] if inherited else [Unread("does not say whether over the layers or over training", start, end)]
    if clause.of("rest") and not clause.of("once"):
        return [Unread(f"does not say since when, before {clause.of('rest')[0].text!r}", start, end)]
    if clause.of("once") and not clause.of("steady", "move"):
        return [Unread(f"holds only {clause.of('once')[0].text!r}", start, end)]
    if clause.of("steady", "move", "learn"):
        timed = timely(clause)
        if isinstance(timed, str):
            return [Unread(timed, start, end)]
        clause = timed
    for read in (_removal, _reliance, _stability, _comparison, _place):
        if read_as := read(clause, subjects):
            return [replace(item, start=start, end=end) for item in read_as]
    return [Unread("names a subject, but not what is claimed of it", start, end)]


def _compares_effects(clause: Clause) -> str:
    """Why "hurts more than erasing number" and "matters more than verbs" are not read: they ask which is more."""
    if not clause.of("than"):
        return ""
    if clause.of("remove"):
        return "compares two removals, which is not measured"
    if clause.of("rely") and clause.of("subject") and all(_rank(chunk) is None for chunk in clause.chunks):
        return "compares how much the model relies on each, which is not measured"
    return ""


def _trend(clause: Clause) -> bool:
    return clause.of("move")[0].word.value in ("grow", "fade")


def _denials(clause: Clause) -> int:
    absent = sum(chunk.word.value == "not" for chunk in clause.of("locate"))
    never = sum(isinstance(chunk.value, Region) and chunk.value.never for chunk in clause.chunks)
    nor = clause.opener == "nor" and not clause.of("not")
    return len(clause.of("not")) + absent + never + nor


def _positive(clause: Clause) -> bool:
    return _denials(clause) % 2 == 0


def _where(clause: Clause) -> Region | None:
    return next((chunk.value for chunk in clause.chunks if isinstance(chunk.value, Region)), None)


def _is_placed(clause: Clause) -> bool:
    """ "Tense lies": a verb of place that lacks its place."""
    return any(WORDS["placing"].intersection(chunk.text.split()) for chunk in clause.of("locate"))


def _when(clause: Clause) -> Window | None:
    return next((chunk.value for chunk in clause.chunks if isinstance(chunk.value, Window)), None)


def _reading(clause: Clause) -> str | None:
    values = [str(chunk.word.value) for chunk in clause.of("locate") if chunk.word.value in ("decide", "decode")]
    tools = [chunk.text for chunk in clause.of("instrument")]
    if any("lens" in tool for tool in tools):
        return "decide"
    if clause.of("rely"):
        return "use"
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
    if not verbs or (clause.of("compare", "than") and len(subjects) > 1):
        return []
    verb = verbs[0]
    before = [s for s, at in subjects if at < verb.start]
    after = [s for s, at in subjects if at > verb.start]
    auxiliary = {c.text for c in clause.chunks if c.kind == "filler" and c.end <= verb.start}
    active = verb.word.value in ("active", "spare")
    if active and verb.word.form != "past" and not after and not clause.of("region", "pronoun"):
        return []  # "depends on the layer"
    passive = not active or (verb.word.form == "past" and bool(auxiliary & {"is", "are", "was", "were", "been", "be"}))
    if not passive and after:
        needed, dependent = after, before
    else:
        needed, dependent = before or after, after if before else []
    positive = _positive(clause) != (verb.word.value in ("not", "spare"))
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
    acted = clause.words & {"i", "we"} and moves and moves[0].word.value == "shift"
    if not moves or (acted and all(at > moves[0].start for _, at in subjects)):  # "we moved A to the top" is a deed
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
    trained = in_training(clause)
    found = []
    for one in left:
        for other in right:
            a, b = (one, other) if rank <= 0 else (other, one)
            if a != b:
                found.append(
                    Statement(
                        "emergence" if trained else "depth_order", a, 0, 0, b, _positive(clause), when=_when_of_both(clause),
                        relation=None if rank else "same", reading=_reading(clause),
                    )
                )  # fmt: skip
    return found


def _when_of_both(clause: Clause) -> Window | None:
    """The time of a comparison; "later in training than" is the comparison itself, and no last third of training."""
    ends = {chunk.start for chunk in clause.of("than")}
    held = [c for c in clause.chunks if c.end not in ends or {"earlier", "later"}.isdisjoint(c.text.split())]
    return _when(Clause(held))


def _enumerates(clause: Clause, side: list[Subject]) -> bool:
    """Several subjects on one side of a comparison are all meant only if "and" or "or" stands between them."""
    return len(side) < 2 or bool(clause.words & {"and", "or", "nor", "&"})


def _rank(chunk: Chunk) -> int | None:
    if chunk.kind in ("compare", "order"):
        return int(chunk.word.value)
    return chunk.value.rank if isinstance(chunk.value, Region | Window) else None


def _place(clause: Clause, subjects: list[Named]) -> list[Statement]:
    """A subject with its layers, its time of training or its turn ("first …"), in the order in which they are named."""
    if clause.of("move", "steady", "rely", "remove"):
        return []
    regions = [(c.value, c.start) for c in clause.chunks if isinstance(c.value, Region)]
    if clause.of("window"):  # "late, around step 5000" is one time
        regions = [
            pair for pair in regions if (pair[1], True) not in [(c.start, is_bare_adverb(c)) for c in clause.chunks]
        ]
    regions = [pair for pair in regions if not pair[0].never] or regions  # "nowhere in the lower half"
    when, orders = _when(clause), clause.of("order")
    reading, positive = _reading(clause), _positive(clause)
    if not regions and when is None and (orders or not clause.of("learn")):
        rank = int(orders[0].word.value) if orders else None
        if clause.of("compare", "than"):
            return []
        return [
            Statement(
                "turn", subject, 0, 0, None, positive, reading=reading, rank=rank, in_training=in_training(clause)
            )
            for subject, _ in subjects
        ]
    if clause.of("compare", "than"):
        return []
    pairs: list[tuple[Subject, Region | None]] = (
        _paired(subjects, regions) if regions else [(s, None) for s, _ in subjects]
    )
    emerging = bool(when and emerges(clause)) if regions else True
    found = []
    for subject, region in pairs:
        where, window, holds = until(region, when, positive, took(clause))
        ranked = region.rank if region else when.rank if when else None
        if ranked is None and orders and not regions:
            ranked = int(orders[0].word.value)
        found.append(
            Statement(
                "emergence" if emerging else "band", subject, 0, 0, None, holds, reading=reading, where=where,
                when=came_by(window) if emerging else window, rank=ranked, in_training=emerging,
            )
        )  # fmt: skip
    return found


def _paired(subjects: list[Named], regions: list[tuple[Region, int]]) -> list[tuple[Subject, Region | None]]:
    """Subjects and regions in the order of the text: all with one, one with all, or one by one."""
    if len(regions) > 1 and len(regions) == len(subjects):
        return [(subject, region) for (subject, _), (region, _) in zip(subjects, regions, strict=True)]
    return [(subject, region) for subject, _ in subjects for region, _ in regions]
