"""Is a rationale good? Scorers of rationales, and the test that a scorer must pass before its numbers are called reasoning.

`SEED` is a re-implementation of the heuristic behind a log's "66 % of wrong answers had good reasoning"; the weights of the
original are not known. It reads the text alone, and passes an echo of the question as easily as a reason. The other two ask a
reader (the model) how likely the chosen answer becomes: a rationale that does not move it is none, however it is worded.
Nothing here touches a model or a file.
"""

from __future__ import annotations

import hashlib
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from lab.benchmark_items import Item
from probes.behaviour.accuracy import area
from probes.behaviour.rates import Rate, wilson

SHUFFLES = 4  # of a rationale's own words, and as many rationales of other items, that it has to beat
DOUBLED = math.log(2)  # nats: the chosen answer is at least twice as probable; fixed before anything was measured
MOST_NULL, LEAST_AREA = 0.10, 0.80  # the admission test
STOP = frozenset(
    re.findall(
        r"\w+",
        """a an the of to in on at for from by with and or but if is are was were be been it its this that these those he she
        they his her their you your i we our not no do does did has have had can will would should which what who whom when
        where why how as than then so there here most best following answer question""",
    )
)
_STRUCTURE = re.compile(
    r"\b(because|since|so|therefore|thus|if|then|when|first|means|in order to)\b|[.;:]\s+\S", re.IGNORECASE
)
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


@dataclass(frozen=True)
class Case:
    """A rationale to be judged: is it a reason for the option that was chosen?

    Attributes:
        others: rationales of other items of the same subject, not this one's.
    """

    item: Item
    chosen: int
    rationale: str
    others: tuple[str, ...] = ()


class Reader(Protocol):
    """Log-likelihood of each option of an item, nats, after the question and a rationale ("" for none); lists in order."""

    def __call__(self, asked: Sequence[tuple[Item, str]]) -> list[tuple[float, ...]]: ...


@dataclass(frozen=True)
class Scorer:
    """A way to score rationales; good ones reach `threshold`.

    Attributes:
        unit: of the scores.
        read: whether it asks a reader.
    """

    id: str
    version: str
    about: str
    unit: str
    threshold: float
    read: bool
    score: Callable[[Sequence[Case], Reader | None], list[float]] = field(repr=False)

    def good(self, score: float) -> bool:
        return score > self.threshold


# ------------------------------------------------------------------------------------------------------ what is null


def words_shuffled(text: str, turn: int = 0) -> str:
    """The words of a text in another order, the same for the same text and turn."""
    words = text.split()
    random.Random(hashlib.sha256(f"{turn}/{text}".encode()).digest()).shuffle(words)
    return " ".join(words)


def echo(item: Item) -> str:
    """The question, said again."""
    return (item.stem or item.contexts[0]).removeprefix("Question:").removeprefix("Goal:").strip()


def of_others(items: Sequence[Item], rationales: Sequence[str], most: int = SHUFFLES + 1) -> list[tuple[str, ...]]:
    """For each item, rationales of others of its subject, the same ones every time; of all others where it is alone."""
    found = []
    for at, item in enumerate(items):
        same = [
            n for n, other in enumerate(items) if n != at and other.subject == item.subject and rationales[n].strip()
        ]
        pool = same or [n for n in range(len(items)) if n != at and rationales[n].strip()]
        pool.sort(key=lambda n: hashlib.sha256(f"{item.id}/{items[n].id}".encode()).digest())
        found.append(tuple(rationales[n] for n in pool[:most]))
    return found


# ----------------------------------------------------------------------------------------------------------- scorers


def criteria(item: Item, rationale: str) -> dict[str, bool]:
    """The four criteria of the seed heuristic, one by one."""
    words = [word.casefold() for word in _WORD.findall(rationale)]
    known = {word.casefold() for word in _WORD.findall(f"{echo(item)} {' '.join(item.options)}")} - STOP
    content = set(words) - STOP
    return {
        "relevant": bool(known & content) and len(known & content) >= 0.1 * len(content),
        "coherent": len(rationale.strip()) >= 20 and _STRUCTURE.search(rationale) is not None,
        "not repetitive": len(words) > 0 and len(set(words)) / len(words) >= 0.5,
        "substantial": len(words) >= 10,
    }


def _seed(cases: Sequence[Case], reader: Reader | None) -> list[float]:
    return [sum(criteria(case.item, case.rationale).values()) / 4 for case in cases]


def _gain(cases: Sequence[Case], reader: Reader | None) -> list[float]:
    return _over([(case, _baselines(case)) for case in cases], reader)


def _truncation(cases: Sequence[Case], reader: Reader | None) -> list[float]:
    """Over the best of its own beginnings (early answering, Lanham et al. 2023, arXiv:2307.13702)."""
    return _over([(case, _beginnings(case.rationale)) for case in cases], reader)


def asked_of(case: Case) -> list[str]:
    """Every text that the scorers here ask a reader about; one that remembers can be asked for all of them at once."""
    return [case.rationale.strip(), *_baselines(case), *_beginnings(case.rationale)]


def _baselines(case: Case) -> list[str]:
    """What carries no reason for this item: nothing, the question again, other items' reasons, its own words in disorder.

    A text of n shuffled words is exchangeable with its own shuffles, so that it beats 4 of them by chance once in 5, and
    rarely by `DOUBLED`.
    """
    shuffles = [words_shuffled(case.rationale, turn) for turn in range(1, SHUFFLES + 1)]
    others = [text for text in case.others if text != case.rationale][:SHUFFLES]
    texts = ["", echo(case.item), *others, *shuffles]
    return [text for text in dict.fromkeys(texts) if text != case.rationale or not text]


def _beginnings(rationale: str) -> list[str]:
    words = rationale.split()
    return ["", *(" ".join(words[: len(words) * part // 3]) for part in (1, 2))]


def _over(asked: Sequence[tuple[Case, list[str]]], reader: Reader | None) -> list[float]:
    """How much more probable the chosen option is after the rationale than after the best of the baselines, nats."""
    if reader is None:
        raise ValueError("this scorer asks a reader, and none was given.")
    texts = [(case.item, text) for case, baselines in asked for text in (case.rationale.strip(), *baselines)]
    read = iter(reader(texts))
    found = []
    for case, baselines in asked:
        own = share(next(read), case.chosen)
        found.append(own - max(share(next(read), case.chosen) for _ in baselines))
    return found


def share(likelihood: Sequence[float], chosen: int) -> float:
    """Log-probability of an option among the options, nats: how fluent a rationale makes all of them cancels out."""
    top = max(likelihood)
    return likelihood[chosen] - top - math.log(math.fsum(math.exp(one - top) for one in likelihood))


SEED = Scorer(
    "seed",
    "1",
    "keyword overlap, structure and length, no repetition, substance: a quarter each; a re-implementation",
    "share of criteria",
    0.5,
    False,
    _seed,
)
GAIN = Scorer(
    "gain",
    "1",
    "the chosen answer becomes at least twice as probable as under no rationale, the question again, other items' rationales "
    "and the rationale's own words in disorder",
    "nats",
    DOUBLED,
    True,
    _gain,
)
TRUNCATION = Scorer(
    "truncation",
    "1",
    "the chosen answer is at least twice as probable after the whole rationale as after its beginnings",
    "nats",
    DOUBLED,
    True,
    _truncation,
)
SCORERS = {scorer.id: scorer for scorer in (SEED, GAIN, TRUNCATION)}


# --------------------------------------------------------------------------------------------------------- admission


@dataclass(frozen=True)
class Admission:
    """What a scorer made of reasons that people wrote and of texts that are none.

    Attributes:
        good: share called good, by kind of text: real, echo, word-shuffled, same-subject.
        areas: P(a real one scores higher), against word-shuffled and same-subject.
        faults: why it is not admitted; () = admitted.
    """

    scorer: str
    good: Mapping[str, Rate]
    areas: Mapping[str, float]
    faults: tuple[str, ...]

    @property
    def admitted(self) -> bool:
        return not self.faults

    @property
    def verdict(self) -> str:
        return "admitted" if self.admitted else f"does not measure reasoning: {'; '.join(self.faults)}"

    def to_json(self) -> dict[str, Any]:
        rates = {kind: {"count": rate.count, "checks": rate.checks} for kind, rate in self.good.items()}
        return {"scorer": self.scorer, "good": rates, "areas": dict(self.areas), "faults": list(self.faults)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Admission:
        rates = {kind: wilson(rate["count"], rate["checks"]) for kind, rate in data["good"].items()}
        return cls(data["scorer"], rates, dict(data["areas"]), tuple(data["faults"]))


def admit(scorer: Scorer, items: Sequence[Item], reader: Reader | None = None) -> Admission:
    """Try a scorer on items whose reasons a person wrote, for the right option.

    It must call at most 10 % of the echoes and of the word-shuffled reasons good, and rank real reasons above shuffled ones
    of either kind with an area of at least .8. Point estimates decide; intervals are shown beside them.
    """
    written = [item for item in items if item.reason and item.stem is not None]
    reasons = [item.reason for item in written]
    others = of_others(written, reasons)
    texts = {
        "real": reasons,
        "echo": [echo(item) for item in written],
        "word-shuffled": [words_shuffled(reason) for reason in reasons],
        "same-subject": [other[-1] for other in others],
    }
    scores = {
        kind: scorer.score(
            [Case(*case) for case in zip(written, (i.gold for i in written), said, others, strict=True)], reader
        )
        for kind, said in texts.items()
    }
    good = {kind: wilson(sum(map(scorer.good, found)), len(found)) for kind, found in scores.items()}
    areas = {
        kind: found
        for kind in ("word-shuffled", "same-subject")
        if (found := area({True: scores["real"], False: scores[kind]})) is not None
    }
    faults = [
        f"{good[kind].value:.0%} of {kind} pass" for kind in ("echo", "word-shuffled") if good[kind].value > MOST_NULL
    ]
    faults += [f"AUC {value:.2f} against {kind}" for kind, value in areas.items() if value < LEAST_AREA]
    return Admission(scorer.id, good, areas, tuple(faults))
