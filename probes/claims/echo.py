"""Where did the sentence come from: the longest run of words that a claim shares with the training text or with its prompt.

A model that repeats what it was shown says nothing about itself. Words are compared without case, punctuation and spacing
(`lab.ngrams.Words`), so a reprint with other commas is still a reprint, and tokenizers do not matter.

A claim is an ECHO when all of it is found (4 words or more), a run of 6 words that is 60 % of it, or any run of 8. `is_echo`
says what that costs in false alarms. An echo is no refutation: it says that the words have a source other than the
model's insides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from lab.errors import LabError
from lab.ngrams import NgramIndex, Words

WHOLE, MOSTLY, RUN = 4, 6, 8  # words
SHARE = 0.6


class NothingToEcho(LabError):
    """A claim without a word, or a training text without one."""


@dataclass(frozen=True)
class Shared:
    """A run of `words` words of the claim's `of`; `text` as the claim spells it, without case and punctuation."""

    words: int
    of: int
    text: str

    @property
    def is_echo(self) -> bool:
        return is_echo(self.words, self.of)


@dataclass(frozen=True)
class Echo:
    """What a claim shares with the training text and with the prompt; None = nothing, or there was no such text."""

    training: Shared | None
    prompt: Shared | None

    @property
    def echo(self) -> bool:
        return any(shared is not None and shared.is_echo for shared in (self.training, self.prompt))

    @property
    def text(self) -> str:
        """A plain sentence. The run itself stays in `Shared.text`: it is the model's words, not ours."""
        found = [
            f"{shared.words} of its {shared.of} words stand in a row in {place}"
            for place, shared in (("the training text", self.training), ("the prompt", self.prompt))
            if shared is not None and shared.is_echo
        ]
        return f"ECHO: {' and '.join(found)}." if found else "No run of words long enough to be an echo."

    def to_json(self) -> dict[str, Any]:
        both = {"training": self.training, "prompt": self.prompt}
        shared = {place: asdict(found) if found else None for place, found in both.items()}
        return {**shared, "echo": self.echo, "text": self.text}


class Sources:
    """Texts that a claim may repeat, indexed by word. Build it once a run and keep it; it writes nothing.

    Chitchat's 2.3 million words take about 2.5 s of one core to index, and a claim 0.5 ms to look up.

    >>> Sources.of(["Early layers know the small words."]).longest("the early layers know")
    Shared(words=3, of=4, text='early layers know')
    """

    def __init__(self, words: Words, index: NgramIndex) -> None:
        self._words, self._index = words, index

    @classmethod
    def of(cls, texts: Iterable[str]) -> Sources:
        """Index texts, one document each; a run never crosses from one to the next.

        Raises:
            NothingToEcho: there is no word in them.
        """
        words = Words()
        stream = words.add(texts)
        if not stream.any():
            raise NothingToEcho("echo: the training texts hold no word. Give the texts that the run was trained on.")
        return cls(words, NgramIndex.build([stream]))

    def longest(self, claim: str) -> Shared | None:
        """The longest run that the claim shares with the texts; None if they share no word.

        Raises:
            NothingToEcho: the claim has no word.
        """
        spelled = Words.split(claim)
        if not spelled:
            raise NothingToEcho(f"echo: the claim {claim[:60]!r} has no word. Give a sentence.")
        match = self._index.longest(self._words.encode(claim), most=len(spelled))
        if match is None:
            return None
        return Shared(match.length, len(spelled), " ".join(spelled[match.start : match.start + match.length]))


def is_echo(words: int, of: int) -> bool:
    """Whether a run of `words` out of `of` is more than what ordinary sentences share by chance.

    Measured on held-out documents (2 %) of the bundled corpora, all sentences of 4 words or more, no claim among them. A
    run of 6 words or 60 % would call 35 % of 3,359 chat sentences an echo and 40 % of 1,268 from speeches: short
    sentences share four words with 2 million by chance, long ones six. This rule calls 12 % of either: 30 %
    of 4 or 5 words (found whole, so truly there), 12 % of 6 to 9, 3 % of 10 and more in chat; 6 % and 12 % in speeches,
    whose set phrases are real reprints.
    """
    return words >= RUN or (words >= MOSTLY and words >= SHARE * of) or (words == of and words >= WHOLE)


def find_echo(claim: str, training: Sources | None, prompt: str | None = None) -> Echo:
    """What a claim repeats.

    Args:
        claim: the sentence of the entry.
        training: of the texts that this checkpoint was trained on; None = they are not at hand, which is not "no echo".
        prompt: what elicited the entry.
    """
    from_prompt = Sources.of([prompt]).longest(claim) if prompt and Words.split(prompt) else None
    return Echo(training.longest(claim) if training else None, from_prompt)
