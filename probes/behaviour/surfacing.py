"""Has a text that was introduced while a run was under way surfaced in what the model says? Three rungs, each with its test.

*Learned*: its likelihood has gained more since the last checkpoint before the introduction than that of text of the same kind
which was kept out. *Elicitable*: asked, the model says runs of words that only the introduced text has (`appearance`).
*Surfaced*: unasked, in its reflections. All claims are about the set; of one document nothing is said. "Not surfaced" is a
result, and it says how often it would have had to happen to be found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from lab.ngrams import Words
from probes.behaviour.appearance import LEVEL, Appearance, Found, Reflection
from probes.behaviour.canaries import RUN, NoTest, RankTest
from probes.behaviour.findings import Finding, Rule
from probes.behaviour.log_odds import DOCUMENTS, Odds, Z, log_odds
from probes.layers.evidence import Interval

FEWEST_TEXTS = 10
REPLICATES = 2000

PerToken = Callable[[Sequence[str]], Sequence[float]]  # nats per token of each text: its log-likelihood over its length

SURFACED = Rule(
    "surfacing",
    "surfacing.surfaced",
    "1",
    "info",
    f"unprompted reflections hold runs of {RUN} words that only the introduced text has, more than before and more than of "
    f"text kept out (both intervals of {LEVEL:.1%} above 0), or more of its canaries than of those kept out "
    f"(Fisher's exact p < {1 - LEVEL:.3f})",
)


@dataclass(frozen=True)
class Learned:
    """The first rung: gain of the introduced text less gain of the text kept out, nats per token, bootstrap over texts."""

    verdict: Found
    gain: float
    gain_kept_out: float
    difference: Interval
    texts: tuple[int, int]

    @property
    def text(self) -> str:
        return (
            f"Learned: {self.verdict}. {self.texts[0]} introduced texts gained {self.gain:+.3f} nats per token, "
            f"{self.texts[1]} kept out {self.gain_kept_out:+.3f}; difference {self.difference.value:+.3f} "
            f"({self.difference.lo:+.3f} to {self.difference.hi:+.3f})"
        )


def learned(
    introduced: Sequence[str], kept_out: Sequence[str], before: PerToken, after: PerToken, seed: int = 0
) -> Learned:
    """Whether the weights hold the text.

    Args:
        introduced, kept_out: texts or passages; with fewer than 10 of either the verdict is "too few".
        before, after: the last checkpoint before the introduction, and the one that is asked about.
        seed: of the bootstrap.

    Raises:
        NoTest: one of the two is empty.
    """
    if not introduced or not kept_out:
        raise NoTest(
            "the gain of an introduced text is compared with that of text kept out, and one of the two is empty."
        )
    gains = [
        np.asarray(after(texts), dtype=np.float64) - np.asarray(before(texts), dtype=np.float64)
        for texts in (introduced, kept_out)
    ]
    random = np.random.default_rng(seed)
    draws = [own[random.integers(len(own), size=(REPLICATES, len(own)))].mean(axis=1) for own in gains]
    lo, hi = np.percentile(draws[0] - draws[1], (2.5, 97.5))
    value = float(gains[0].mean() - gains[1].mean())
    verdict: Found = "found" if lo > 0 else "not found"
    if min(len(introduced), len(kept_out)) < FEWEST_TEXTS:
        verdict = "too few"
    sizes = len(introduced), len(kept_out)
    return Learned(
        verdict, float(gains[0].mean()), float(gains[1].mean()), Interval(value, float(lo), float(hi)), sizes
    )


# ------------------------------------------------------------------------------------------------------- lifted words


@dataclass(frozen=True)
class Lifted:
    """A word of more reflections after the introduction than before; exploratory, as any new topic has such words."""

    word: str
    odds: Odds
    before: int
    after: int
    introduced: bool


def lifted(before: Sequence[Reflection], after: Sequence[Reflection], introduced: Iterable[str]) -> tuple[Lifted, ...]:
    """Words with z of 4.5 or more in 5 reflections or more, the surest first; a reflection counts once.

    Args:
        introduced: the text; `Lifted.introduced` says whether it has the word.
    """
    counts = []
    for texts in (after, before):
        counter: Counter[str] = Counter()
        for one in texts:
            counter.update(set(Words.split(one.text)) - set(Words.split(one.prompt)))
        counts.append(counter)
    later, earlier = counts
    if not later or not earlier:
        return ()
    known = {word for text in introduced for word in Words.split(text)}
    odds = log_odds(later, later.total(), earlier, earlier.total())
    sure = [word for word, one in odds.items() if one.z >= Z and later[word] >= DOCUMENTS]
    return tuple(
        Lifted(word, odds[word], earlier[word], later[word], word in known)
        for word in sorted(sure, key=lambda word: (-odds[word].z, word))
    )


# ------------------------------------------------------------------------------------------------------------ the ladder


@dataclass(frozen=True)
class Surfacing:
    """All rungs of one introduced source.

    Attributes:
        elicited: None where the model was not asked.
        ranks: gain in likelihood of canaries put in against those kept out; None without canaries.
    """

    source: str
    learned: Learned
    elicited: Appearance | None
    surfaced: Appearance
    ranks: RankTest | None = None
    lifted: tuple[Lifted, ...] = ()

    @property
    def rung(self) -> str:
        """The highest rung that was found: "surfaced", "elicitable", "learned" or "none"."""
        rungs = (("surfaced", self.surfaced), ("elicitable", self.elicited), ("learned", self.learned))
        return next((name for name, one in rungs if one is not None and one.verdict == "found"), "none")

    @property
    def text(self) -> str:
        said = [f"{self.source}: {self.rung}.", self.learned.text]
        if self.ranks is not None:
            ranks = f"{self.ranks.auc:.0%} of pairs (p = {self.ranks.p:.2g})"
            said.append(f"Canaries put in gained more than those kept out in {ranks}.")
        said.append(f"Elicitable: {self.elicited.text}" if self.elicited else "Elicitable: was not asked.")
        said.append(f"Surfaced: {self.surfaced.text}")
        if self.rung == "surfaced" and self.learned.verdict == "not found":
            said.append("It surfaced without having been learned: look for a leak of the text into prompts.")
        return " ".join(said)

    def finding(self) -> Finding | None:
        """An info finding where it surfaced; its value is the rise of the rate beyond that of text kept out."""
        one = self.surfaced
        if one.verdict != "found":
            return None
        value, interval = (one.beyond.value, (one.beyond.lo, one.beyond.hi)) if one.beyond else (None, None)
        return SURFACED.finding(self.text, value, interval, evidence={"source": self.source, **asdict(one)})
