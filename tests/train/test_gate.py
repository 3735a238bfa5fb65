"""The gate before training on self-play: 100 planted bad conversations, good ones, and what it remembers."""

from collections.abc import Iterator

from probes.behaviour import loops
from tests.train.own_words import WORDS, sentence, talk
from train.gate import LAST, Gate, grams_of
from train.talk import Talk


def bad(gate: Gate) -> Iterator[tuple[Talk, str]]:
    """A hundred, of five kinds; and what refuses each."""
    for seed in range(20):
        loop = f"{sentence(seed)} " + f"{WORDS[seed % 16]} and " * 20
        yield talk(sentence(seed + 50), loop.strip() + " " + f"{WORDS[seed % 16]} and"), "loop"
        yield talk(sentence(seed, 9), sentence(seed + 1, 9)), "short"
        near = (loops.NEAR_COPY.id, loops.NEAR_COPY.severity)
        yield talk(sentence(seed), sentence(seed + 7), findings=(near,)), "loop"
        once = sentence(seed, 8)
        yield talk(f"{once} {sentence(seed + 9, 2)} {once} so {once} {sentence(seed + 8, 3)}"), "repetitive"
        known = (sentence(900 + seed), sentence(950 + seed))
        gate.let_through("seen", known)
        yield talk(*known), "seen"


def test_all_of_100_planted_bad_conversations_are_refused_and_for_the_right_reason() -> None:
    gate = Gate()
    given = list(bad(gate))
    assert len(given) == 100
    refused = [(gate.refusal(one), reason) for one, reason in given]
    assert all(found is not None for found, _ in refused)
    assert [found for found, _ in refused] == [reason for _, reason in refused]


def test_ordinary_conversations_pass_and_pass_only_once() -> None:
    gate = Gate()
    for seed in range(200, 260):
        one = talk(sentence(seed), sentence(seed + 300))
        assert gate.refusal(one) is None
        gate.let_through(one.topic, [turn.text for turn in one.turns])
        assert gate.refusal(one) == "seen"


def test_half_of_the_runs_of_eight_words_is_too_much_and_less_is_not() -> None:
    gate, first = Gate(), sentence(3, 40)
    gate.let_through("a", [first])
    words = first.split()
    mostly, partly = [*words[:30], *sentence(8, 20).split()], [*words[:14], *sentence(8, 36).split()]
    assert gate.refusal(talk(" ".join(mostly))) == "seen"
    assert gate.refusal(talk(" ".join(partly))) is None


def test_only_the_last_thousand_are_remembered() -> None:
    gate = Gate()
    for seed in range(LAST + 1):
        gate.let_through("a", [f"{sentence(seed)} number {seed}"])
    assert len(gate.passed) == LAST
    first, second = (
        talk(f"{sentence(seed)} number {seed} and then a few more words of another kind") for seed in (0, 1)
    )
    assert grams_of([first.turns[0].text]) and gate.refusal(first) is None and gate.refusal(second) == "seen"
