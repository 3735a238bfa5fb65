"""What can be said of a word without its context: its class, its supersense, how concrete and how frequent it is.

Tables and closed lists; a word that is not in them has no label. What needs context (part of speech, number, tense) comes
from gold files or a tagger, as `grammatical` reads their tags.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from lab.assets import AssetMissing, installed
from probes.layers.probe_set import BadProbeSet
from probes.layers.text import written_form
from probes.layers.words import FUNCTION_WORDS, UNCLASSED_WORDS

# universaldependencies.org/u/pos; the classes of UD that are closed, and those that are open and not adverbs
CLOSED_POS = frozenset({"ADP", "AUX", "CCONJ", "DET", "PART", "PRON", "SCONJ"})
OPEN_POS = frozenset({"ADJ", "NOUN", "PROPN", "VERB"})
UNIVERSAL_POS = CLOSED_POS | OPEN_POS | {"ADV", "INTJ", "NUM", "PUNCT", "SYM", "X"}
UNPLACED_POS = frozenset({"PUNCT", "SYM", "X"})  # no words, or none that the treebank could place

FREQUENCY = ("rare", "uncommon", "common", "frequent")
POSITION = ("first", "middle", "last")
_RATED = (1.0, 5.0)  # the scale of Brysbaert et al. 2014


def word_class(word: str) -> str | None:
    """ "function", "content", or None for interjections and spelled numbers, which are neither.

    >>> word_class("The"), word_class("don’t"), word_class("teacher"), word_class("wow")
    ('function', 'function', 'content', None)
    """
    form = written_form(word)
    if form in UNCLASSED_WORDS:
        return None
    return "function" if form in FUNCTION_WORDS else "content"


def class_of_pos(pos: str, word: str) -> str | None:
    """Word class by a gold part of speech: closed classes are function words, open ones content words.

    Adverbs are both ("here" points, "slowly" describes), so the closed list decides for them; interjections, numerals and
    what the treebank could not place are neither.
    """
    if pos in CLOSED_POS:
        return "function"
    if pos in OPEN_POS:
        return "content"
    return word_class(word) if pos == "ADV" else None


def grammatical(pos: str, features: Mapping[str, str]) -> dict[str, str]:
    """Families "pos", "number" (of common nouns) and "tense" (of finite full verbs) by universal tag and features.

    Participles carry Tense=Past or Pres too, but of form, not of time ("the broken cup"); auxiliaries have so few forms
    that their tense is the word itself. Both are left out.

    >>> grammatical("VERB", {"Tense": "Past", "VerbForm": "Fin"})
    {'pos': 'VERB', 'tense': 'Past'}
    """
    found = {} if pos in UNPLACED_POS else {"pos": pos}
    if pos == "NOUN" and features.get("Number") in ("Sing", "Plur"):
        found["number"] = features["Number"]
    if pos == "VERB" and features.get("VerbForm") == "Fin" and features.get("Tense") in ("Past", "Pres"):
        found["tense"] = features["Tense"]
    return found


def supersense(word: str) -> str | None:
    """WordNet's supersense of a written form if all its readings share one, else None.

    >>> supersense("farmers"), supersense("table"), supersense("in")
    ('noun.person', None, None)
    """
    return _supersenses().get(written_form(word))


def third(number: int, of: int) -> str:
    """In which third of its sentence the word of that number (from 0) stands."""
    return POSITION[3 * number // of]


@dataclass(frozen=True)
class Concreteness:
    """Ratings of how concrete a content word is, from 1 to 5, cut into three equal shares of the words rated.

    Function words are rated too, nearly all as abstract: with them the label would be word class under another name.

    Source: Brysbaert, Warriner & Kuperman 2014, doi:10.3758/s13428-013-0403-5 (asset "concreteness").
    """

    ratings: Mapping[str, float]
    cuts: tuple[float, float]
    sha256: str

    def of(self, word: str, lemma: str | None) -> str | None:
        """ "abstract", "middle" or "concrete" for a content word that was rated, itself or its lemma."""
        rating = self.ratings.get(written_form(word))
        if rating is None and lemma is not None and word_class(word) == "content":
            rating = self.ratings.get(written_form(lemma))
        if rating is None:
            return None
        return "abstract" if rating < self.cuts[0] else "middle" if rating < self.cuts[1] else "concrete"


def installed_concreteness() -> Concreteness | None:
    """The ratings if `lab data get concreteness` was done on this machine, else None.

    Raises:
        BadProbeSet: the file is not what it was.
    """
    try:
        return read_concreteness(installed("concreteness") / "concreteness.csv")
    except AssetMissing:
        return None


def read_concreteness(file: Path) -> Concreteness:
    """Single content words of a table with the columns Word and Brysbaert (the human ratings; the others are predicted).

    Raises:
        BadProbeSet: naming the line.
    """
    ratings: dict[str, float] = {}
    remedy = "Fetch it again: lab data get concreteness"
    try:
        content = file.read_bytes()
        rows = csv.DictReader(content.decode("utf8").splitlines())
        if not {"Word", "Brysbaert"} <= set(rows.fieldnames or ()):
            raise BadProbeSet(f"{file.name}: has no columns Word and Brysbaert. {remedy}")
        for line, row in enumerate(rows, 2):
            if row["Brysbaert"] and word_class(row["Word"]) == "content" and " " not in row["Word"]:
                rating = float(row["Brysbaert"])
                if not _RATED[0] <= rating <= _RATED[1]:
                    raise BadProbeSet(f"{file.name}, line {line}: rating {rating} is outside 1 to 5. {remedy}")
                ratings[written_form(row["Word"])] = rating
    except (OSError, ValueError) as error:
        raise BadProbeSet(f"{file.name}: cannot be read as ratings ({error}). {remedy}") from None
    if len(ratings) < 3:
        raise BadProbeSet(f"{file.name}: rates {len(ratings)} content words, too few for three bins. {remedy}")
    ordered = sorted(ratings.values())
    cuts = (ordered[len(ordered) // 3], ordered[2 * len(ordered) // 3])
    return Concreteness(ratings, cuts, hashlib.sha256(content).hexdigest())


@dataclass(frozen=True)
class Frequency:
    """Training-corpus frequency in four bins that hold a quarter of all counted tokens each.

    "frequent" are the few token types that together make up the most common quarter of the text, "rare" the many that make
    up the last one. The bins depend on the counts alone, so two probe sets of one run mean the same by them.
    """

    bins: Mapping[int, str]

    @classmethod
    def of_counts(cls, counts: Mapping[int, int] | Sequence[int]) -> Frequency:
        """From how often each token id occurs in training text.

        Raises:
            BadProbeSet: a negative count, or fewer than four tokens that occur at all.
        """
        pairs = counts.items() if isinstance(counts, Mapping) else enumerate(counts)
        occurring = [(-int(count), int(token)) for token, count in pairs if count != 0]
        if any(count > 0 for count, _ in occurring) or len(occurring) < 4:
            raise BadProbeSet(
                f"token frequencies: {len(occurring)} tokens with a count, some negative or too few for four bins. Give how "
                "often each token id occurs in the training shards."
            )
        total = -sum(count for count, _ in occurring)
        bins: dict[int, str] = {}
        before = 0
        for count, token in sorted(occurring):
            bins[token] = FREQUENCY[3 - min(3, 4 * before // total)]
            before -= count
        return cls(bins)

    def of(self, pieces: Sequence[int]) -> str:
        """The bin of a word's rarest token: a word is no more frequent than each of its pieces. Unseen ones are rare."""
        return min((self.bins.get(piece, FREQUENCY[0]) for piece in pieces), key=FREQUENCY.index)


@cache
def _supersenses() -> dict[str, str]:
    path = Path(__file__).with_name("supersenses.tsv.gz")
    rows = (line.split("\t") for line in gzip.decompress(path.read_bytes()).decode().splitlines())
    return {word: name for name, words in rows for word in words.split(" ")}
