"""The label families: what is asked about a word, who can answer, and why a family may be missing.

A family's labels come from what a source says (a gold file, a tagger, topics given with documents) before any rule; where
neither is there, the family is absent and says what it needs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from probes.layers.annotated import Sentence
from probes.layers.lexicons import Concreteness, Frequency, supersense, third, word_class

# What is asked of each family: of the word itself, of the next one, or both. Topic belongs to the document, and where the
# next word stands in its sentence follows from where this one does.
FAMILIES: Mapping[str, tuple[str, ...]] = {
    "class": ("current", "next"),
    "supersense": ("current", "next"),
    "pos": ("current", "next"),
    "number": ("current", "next"),
    "tense": ("current", "next"),
    "concreteness": ("current", "next"),
    "frequency": ("current", "next"),
    "position": ("current",),
    "topic": ("current",),
}
LIVE = ("class", "supersense")  # cheap and by rule: what rides along with training
PER_DOCUMENT_FAMILIES = frozenset({"topic"})

NEEDS: Mapping[str, str] = {
    "pos": "needs a tagger or a gold file",
    "number": "needs a tagger or a gold file",
    "tense": "needs a tagger or a gold file",
    "concreteness": "needs the ratings: lab data get concreteness",
    "frequency": "needs token counts of training text, which an imported model does not bring",
    "topic": "needs documents with topics (the wiki source has them)",
}

Counts = Mapping[int, int] | Sequence[int]
Labeller = Callable[[Sentence, int, Sequence[int]], str | None]  # sentence, number of the word, token ids of the word


def names_of(families: Iterable[str]) -> tuple[str, ...]:
    """Label names of families, in our order: ("class.current", "class.next", …)."""
    wanted = set(families)
    return tuple(f"{family}.{which}" for family in FAMILIES if family in wanted for which in FAMILIES[family])


@dataclass(frozen=True)
class Labelling:
    """How each family is labelled, where its labels come from, and which families are absent and why."""

    by_family: Mapping[str, Labeller]
    sources: Mapping[str, str]
    absent: Mapping[str, str]

    @classmethod
    def of(
        cls,
        families: Collection[str],
        given: Mapping[str, str],
        frequencies: Counts | None,
        concreteness: Concreteness | None,
    ) -> Labelling:
        """Bring families and sources together.

        Args:
            given: families whose labels the words (or documents) carry, and where those come from.

        Raises:
            BadProbeSet: token counts that cannot be.
        """
        rules = _rules(Frequency.of_counts(frequencies) if frequencies is not None else None, concreteness)
        carried = {family: (_carried(family), source) for family, source in given.items()}
        offered = rules | carried
        wanted = [family for family in FAMILIES if family in families]
        return cls(
            by_family={family: offered[family][0] for family in wanted if family in offered},
            sources={family: offered[family][1] for family in wanted if family in offered},
            absent={family: NEEDS[family] for family in wanted if family not in offered},
        )


def class_names(label: str, names: Mapping[str, Sequence[str | None]]) -> tuple[str, ...]:
    """Current and next word share one list of class names, so that an index means the same in both."""
    family = label.split(".")[0]
    same = [values for other, values in names.items() if other.split(".")[0] == family]
    return tuple(sorted({name for values in same for name in values if name is not None}))


def _rules(bins: Frequency | None, concreteness: Concreteness | None) -> dict[str, tuple[Labeller, str]]:
    rules: dict[str, tuple[Labeller, str]] = {
        "class": (lambda s, w, _: word_class(s.form(s.words[w])), "rule: closed list of function words"),
        "supersense": (
            lambda s, w, _: supersense(s.form(s.words[w])),
            "rule: WordNet 3.1, words of which all readings share one supersense",
        ),
        "position": (_place_in_sentence, "rule: which third of the sentence's words"),
    }
    if bins is not None:
        rules["frequency"] = (
            lambda s, w, pieces: bins.of(pieces),
            "rule: rarest token of the word, by quarters of all training tokens",
        )
    if concreteness is not None:
        low, high = concreteness.cuts
        rules["concreteness"] = (
            lambda s, w, _: concreteness.of(s.form(s.words[w]), s.words[w].lemma),
            f"norms: Brysbaert et al. 2014, cut at {low:g} and {high:g}, content words; sha256 {concreteness.sha256[:16]}",
        )
    return rules


def _carried(family: str) -> Labeller:
    if family == "topic":
        return lambda sentence, word, _: sentence.topic
    return lambda sentence, word, _: sentence.words[word].labels.get(family)


def _place_in_sentence(sentence: Sentence, word: int, _: Sequence[int]) -> str:
    before = sum(other.labelled for other in sentence.words[:word])
    return third(before, sum(other.labelled for other in sentence.words))
