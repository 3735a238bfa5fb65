"""Who a clause is about: known subjects, unknown ones by their own words, and what "it" refers to."""

from __future__ import annotations

from probes.claims.chunks import Chunk
from probes.claims.clauses import Clause, runs
from probes.claims.lexicon import STEMS_OF_A_NETWORK, WORDS
from probes.claims.places import CLASSES
from probes.claims.vocabulary import UNNAMED, Subject

WORDS_OF_A_NETWORK = frozenset(CLASSES["net"].split()) - {"me", "myself"}
Named = tuple[Subject, int]  # a subject and the token where it stands


def subjects_of(clause: Clause, before: tuple[Subject, ...]) -> tuple[list[Named], list[Chunk]] | str:
    """Subjects with their places, and the words left unknown; or why there are none ("" = nothing to report)."""
    named = [(chunk.value, chunk.start) for chunk in clause.chunks if isinstance(chunk.value, Subject)]
    unknown = clause.of("unknown")
    if clause.of("rely") or (clause.of("hurt", "harmless") and clause.of("remove")):
        unknown = [chunk for chunk in unknown if chunk.text not in WORDS["outcome"]]
    wants_two = bool(clause.of("compare", "than"))
    if named and not (wants_two and len(named) < 2 and unknown):
        return named, unknown
    if unknown:
        first, *others = runs(clause, unknown)
        made, rest = _unknown_subject(clause, first), [chunk for run in others for chunk in run]
        if (wants_two or clause.of("remove")) and not named and len(others) == 1:
            other = _unknown_subject(clause, others[0])
            if WORDS["not_subject"].isdisjoint(other.name.split()) and "#" not in other.name:
                named, rest = [(other, others[0][0].start)], []
        if "#" in made.name or WORDS["not_subject"].intersection(made.name.split()):
            return f"does not know {made.name!r}" if clause.of("subject") else ""
        if not clause.of("subject") and (not _has_verb(clause) or _is_complement(clause, unknown[0])):
            return ""
        return sorted([*named, (made, unknown[0].start)], key=lambda pair: pair[1]), rest
    if before and not (clause.of("pronoun") and len(before) > 1):
        return [(subject, clause.chunks[0].start) for subject in before], []
    return "'it' or 'they' refers to another sentence" if clause.of("pronoun") else ""


def _unknown_subject(clause: Clause, run: list[Chunk]) -> Subject:
    """A run of unknown words ("sense of humour") as a subject without a task."""
    inside = [c.text for c in clause.chunks if run[0].start <= c.start < run[-1].end]
    name = " ".join(inside)
    lead = [c for c in clause.chunks if c.end == run[0].start and c.text in ("sense", "kind")]
    name = " ".join([*(c.text for c in lead), name])
    return Subject(name, name, UNNAMED)


def _is_complement(clause: Clause, unknown: Chunk) -> bool:
    """ "Was saved" says what happened, it does not name a subject; "there is irony" does."""
    before = [c.text for c in clause.chunks if c.end <= unknown.start and c.text not in WORDS["article"]][-1:]
    return bool(before) and before[0] in ("is", "are", "was", "were", "been") and "there" not in clause.words


def _has_verb(clause: Clause) -> bool:
    verbs = clause.of("locate", "learn", "steady", "move", "rely", "hurt", "harmless", "remove", "compare")
    return bool(verbs) or bool(clause.words & {"is", "are", "was", "were", "has", "have", "had"})


def is_of_a_network(clause: Clause, subjects: list[Named]) -> bool:
    """Whether it is about the model: "the food was late" is not, "food is late in the network" is."""
    everyday = [s for s, _ in subjects if (s.value or "").startswith(("noun.", "verb.", UNNAMED))]
    if len(everyday) < len(subjects):
        return True
    if all(subject.value == UNNAMED for subject, _ in subjects) and clause.words & {"top", "bottom", "upper", "lower"}:
        return True
    if any(not WORDS_OF_A_NETWORK.isdisjoint(chunk.text.split()) for chunk in clause.of("region")):
        return True
    return any(word.startswith(STEMS_OF_A_NETWORK) for word in clause.words)
