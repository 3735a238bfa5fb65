"""What self-play must be before anything may be trained on it: no loop, few repetitions, long enough, and new.

A strict gate on the data is what keeps training on a model's own words stable, whatever else is done (arXiv:2605.22217).
Pure: a conversation and what was let through before, to a refusal or none.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

from lab.ngrams import Words
from probes.behaviour import loops
from train.talk import Talk

WORDS = 20  # of the model's own
SEQ_REP_4 = 0.2
GRAM, OVERLAP = 8, 0.5  # words; share of its 8-grams that the last ones have
LAST = 1000

Gram = tuple[str, ...]


class Gate:
    """The gate, with the last 1,000 conversations that it let through."""

    def __init__(self) -> None:
        self.passed: deque[tuple[str, tuple[str, ...]]] = deque()  # topic and turns of each, as texts
        self._grams: Counter[Gram] = Counter()

    def refusal(self, talk: Talk) -> str | None:
        """Why a conversation is not let through: "loop", "short", "repetitive" or "seen"; None if it is."""
        if any(rule.startswith("loops.") for turn in talk.turns for rule, _ in turn.findings):
            return "loop"
        texts = [turn.text for turn in talk.turns]
        if any(loops.detect(turn.ids) is not None for turn in talk.turns):
            return "loop"
        if sum(len(Words.split(text)) for text in texts) < WORDS:
            return "short"
        if loops.seq_rep_4([token for turn in talk.turns for token in turn.ids]) >= SEQ_REP_4:
            return "repetitive"
        grams = grams_of(texts)
        if not grams or sum(gram in self._grams for gram in grams) >= OVERLAP * len(grams):
            return "seen" if grams else "short"
        return None

    def let_through(self, topic: str, texts: Sequence[str]) -> None:
        """Remember one; the oldest of more than 1,000 is forgotten."""
        self.passed.append((topic, tuple(texts)))
        self._grams.update(grams_of(texts))
        if len(self.passed) > LAST:
            self._grams -= Counter(grams_of(self.passed.popleft()[1]))


def grams_of(texts: Iterable[str]) -> set[Gram]:
    """Runs of 8 words of all texts in a row."""
    words = [word for text in texts for word in Words.split(text)]
    return {tuple(words[at : at + GRAM]) for at in range(len(words) - GRAM + 1)}
