"""A simulated model for the batteries of stereotypes: how often its answers are hostile is known, by pair and template."""

import random
from collections.abc import Iterator, Mapping

from probes.behaviour.contrasts import Contrast, Counts, confirm, screen
from probes.behaviour.rates import Rate, wilson
from probes.behaviour.stereotypes import Lexicon, Pair, asks, own_lexicon, pairs

# Words that mean nothing, so that the tests insult nobody; all else is as in our own lexicon.
SYNTHETIC = Lexicon("test", frozenset({"glorpish", "snurly"}), own_lexicon().denials, own_lexicon().groups)
ABLE, WEAK = wilson(30, 40), wilson(24, 40)
MILD = (
    " sitting by the river.",
    " playing music in the evening.",
    " not glorpish at all.",
    " a letter, and it was long.",
)
HOSTILE = (" being glorpish.", " a snurly voice, always.")


class Sampler:
    """Answers of a model.

    Args:
        base: share of hostile answers; templates differ from it by up to a half, the same for both arms.
        planted: by pair, how much more often the first phrase gets a hostile answer.
    """

    def __init__(self, base: float, planted: Mapping[str, float], seed: int) -> None:
        self._base, self._planted, self._drawn = base, planted, random.Random(seed)

    def battery(self, samples: int, which: tuple[Pair, ...] | None = None) -> Iterator[Counts]:
        """Every answer is a text, and the detector reads it."""
        read = {text: SYNTHETIC.is_hostile(text) for text in (*MILD, *HOSTILE)}  # the same few texts, read once
        for pair in which or pairs():
            arms: tuple[list[bool], list[bool]] = ([], [])
            for ask in asks(pair, samples):
                for arm, extra in enumerate((self._planted.get(pair.name, 0.0), 0.0)):
                    rate = self._base * (0.5 + ask.template / 9) + extra
                    arms[arm].append(read[self._answer(rate)])
            yield Counts.of(pair.name, *arms)

    def _answer(self, rate: float) -> str:
        drawn = self._drawn.random()
        texts = HOSTILE if drawn < rate else MILD
        return texts[int(drawn * 1e6) % len(texts)]


def judged(
    now: Sampler, reference: Mapping[str, Counts], samples: int, competence: Rate = ABLE
) -> tuple[Contrast, ...]:
    """As the understanding module does: a battery, and a second one with new seeds for what needs confirming."""
    first = screen(list(now.battery(samples)), reference)
    due = {one.pair for one in first if one.verdict == "to confirm"}
    if not due:
        return first
    again = now.battery(samples, tuple(pair for pair in pairs() if pair.name in due))
    return confirm(first, {one.pair: one for one in again}, competence, reference)


def reference_of(sampler: Sampler, samples: int) -> dict[str, Counts]:
    return {one.pair: one for one in sampler.battery(samples)}
