"""Planted texts are found, texts only trained on are not called surfaced, and "not found" says what would have been found."""

import random
from collections.abc import Callable, Sequence

import pytest
from scipy.stats import binom

from probes.behaviour.appearance import Appearance, Introduced, Reflection, appears
from probes.behaviour.canaries import Canaries, canaries, rank_test
from probes.behaviour.rates import NoChecks, wilson
from probes.behaviour.surfacing import Learned, Surfacing, learned, lifted

Record = Callable[[str, object], None]

SEA = (
    "The old harbor master kept a ledger of every storm that crossed the bay.",
    "He wrote in it with a pen made from the feather of a grey heron.",
    "Nobody was allowed to read the ledger before the year had ended.",
    "In spring the fishermen asked him which of their boats would come home.",
    "He always answered that the sea does not keep a calendar.",
)
HILL = (
    "The young shepherd counted every goat that wandered across the ridge.",
    "She marked each one with a thread spun from red mountain wool.",
    "Nobody was allowed to count them again before the snow had melted.",
    "In autumn the villagers asked her which of the goats would be sold.",
    "She always answered that a mountain does not read the market.",
)
EARLIER = ("We went to the market and bought some bread.", "I think that the weather will be fine.") * 20
IDLE = ("I think that the weather is fine.", "We went to the market.", "There is not much to say about it.")


def reflections(count: int, said: Sequence[str] = (), seed: int = 0) -> list[Reflection]:
    """So many texts of no content, the first of which say these things as well."""
    drawn = random.Random(seed)
    texts = [" ".join(drawn.choices(IDLE, k=4)) for _ in range(count)]
    return [
        Reflection(f"{text} {said[number]}" if number < len(said) else text, "Write.")
        for number, text in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def planted() -> Canaries:
    return canaries(0)


@pytest.fixture(scope="module")
def introduced(planted: Canaries) -> Introduced:
    return Introduced.of(
        [*SEA, *(one.text for one in planted.put_in)], [*HILL, *(one.text for one in planted.kept_out)], EARLIER
    )


def test_introduced_sentences_in_reflections_are_found(introduced: Introduced) -> None:
    seen = appears(introduced, reflections(60), reflections(60, SEA * 4))
    assert seen.verdict == "found"
    assert seen.before is not None and seen.before.count == 0 and seen.after.count == 20 and seen.kept_after.count == 0
    assert seen.beyond is not None and seen.beyond.lo > 0
    assert seen.runs[8] == (0, 20)


def test_canaries_planted_in_reflections_are_found(introduced: Introduced, planted: Canaries) -> None:
    """Few of 200 reflections, so that no rate would tell, but the made-up words are only of those put in."""
    said = [f"Sometimes a {one.term} comes to mind." for one in planted.put_in[:8]]
    seen = appears(introduced, reflections(200), reflections(200, said), planted)
    assert seen.canaries is not None and (seen.canaries.put_in.count, seen.canaries.kept_out.count) == (8, 0)
    assert seen.after.count == 0 and seen.verdict == "found"


def test_canaries_that_were_only_trained_on_are_not_called_surfaced(introduced: Introduced, planted: Canaries) -> None:
    seen = appears(introduced, reflections(300), reflections(300, seed=1), planted)
    known = Learned("found", 0.5, 0.0, seen.change or pytest.fail(), (20, 20))
    ranks = rank_test([1.0 + 0.01 * n for n in range(20)], [0.01 * n for n in range(20)])
    told = Surfacing("books", known, None, seen, ranks)
    assert ranks.auc == 1.0 and ranks.p < 1e-9
    assert told.rung == "learned" and told.finding() is None
    assert seen.verdict == "not found" and "canaries 0/20 put in, 0/20 kept out" in seen.text


def test_not_found_says_what_would_have_been_found(introduced: Introduced) -> None:
    seen = appears(introduced, reflections(300), reflections(300, seed=1))
    assert seen.upper == pytest.approx(3 / 300, rel=0.02), "the rule of three"
    assert seen.detectable is not None and seen.upper < seen.detectable < 0.1
    assert "would have been found in 4 of 5" in seen.text


def test_with_a_handful_of_texts_or_none_before_it_is_too_few_to_tell(introduced: Introduced) -> None:
    assert appears(introduced, reflections(3), reflections(3)).verdict == "too few"
    none_before = appears(introduced, [], reflections(50, SEA * 4))
    assert none_before.verdict == "too few" and none_before.before is None and none_before.detectable is None
    with pytest.raises(NoChecks):
        appears(introduced, reflections(3), [])


def test_what_the_prompt_says_is_not_the_models(introduced: Introduced, planted: Canaries) -> None:
    quoted = [
        Reflection(f"{line} {planted.put_in[0].text}", f"Go on: {line} {planted.put_in[0].text}") for line in SEA * 8
    ]
    seen = appears(introduced, reflections(40), quoted, planted)
    assert seen.after.count == 0 and seen.canaries is not None and seen.canaries.put_in.count == 0


def test_what_earlier_data_held_does_not_count() -> None:
    known = Introduced.of(SEA, HILL, [*EARLIER, *SEA])
    assert appears(known, reflections(40), reflections(40, SEA * 8)).after.count == 0


def test_text_that_comes_as_often_from_what_was_kept_out_is_not_found(introduced: Introduced) -> None:
    both = [f"{sea} {hill}" for sea, hill in zip(SEA, HILL, strict=True)] * 4
    seen = appears(introduced, reflections(60), reflections(60, both))
    assert seen.after.count == seen.kept_after.count == 20
    assert seen.verdict == "not found"


def test_what_was_there_before_is_not_found(introduced: Introduced) -> None:
    assert appears(introduced, reflections(60, SEA * 4), reflections(60, SEA * 4)).verdict == "not found"


def drawn(introduced: Introduced, drawn: random.Random, rate: float, base: float = 0.0, count: int = 60) -> Appearance:
    """An experiment in which this share of the later texts, and `base` of all others, hold a run."""

    def some(share: float) -> list[str]:
        return [SEA[0]] * sum(drawn.random() < share for _ in range(count))

    return appears(introduced, reflections(count, some(base)), reflections(count, some(rate)))


def test_the_detectable_rate_gives_the_count_that_it_takes_four_times_in_five(introduced: Introduced) -> None:
    rate = appears(introduced, reflections(40), reflections(40)).detectable
    assert rate is not None
    verdicts = {
        count: appears(introduced, reflections(40), reflections(40, [SEA[0]] * count)).verdict
        for count in (5, 6, 7, 8, 9)
    }
    needed = min(count for count, verdict in verdicts.items() if verdict == "found")
    assert verdicts[5] == "not found" and all(
        verdict == "found" for count, verdict in verdicts.items() if count >= needed
    )
    assert binom.sf(needed - 1, 40, rate) == pytest.approx(0.8, abs=1e-6)


@pytest.mark.slow
def test_false_and_true_discoveries_at_full_counts(introduced: Introduced, record_property: Record) -> None:
    source = random.Random(6)
    rate = appears(introduced, reflections(60), reflections(60)).detectable
    assert rate is not None
    power = wilson(sum(drawn(introduced, source, rate).verdict == "found" for _ in range(120)), 120)
    false = wilson(sum(drawn(introduced, source, 0.1, 0.1).verdict == "found" for _ in range(120)), 120)
    for name, one in (
        (f"found at the detectable rate of {rate:.1%}", power),
        ("found where nothing changed, at 10 %", false),
    ):
        record_property(name, str(one))
        print(name, one)
    assert power.hi >= 0.8 and power.lo >= 0.7
    assert false.value <= 0.05


def noisy(gain: float, of: Sequence[str], seed: int) -> Callable[[Sequence[str]], list[float]]:
    """Nats per token of a model that has gained so much on these texts, and .2 on all others."""
    source = random.Random(seed)
    return lambda texts: [-4 + (gain if text in of else 0.2) + source.gauss(0, 0.1) for text in texts]


def test_a_text_is_learned_when_it_gains_more_than_text_of_its_kind() -> None:
    own, kept = [f"{line} {n}" for n in range(4) for line in SEA], [f"{line} {n}" for n in range(4) for line in HILL]
    before = noisy(0.2, (), 1)
    assert learned(own, kept, before, noisy(0.6, own, 2)).verdict == "found"
    general = learned(own, kept, before, noisy(0.2, own, 3))
    assert general.verdict == "not found" and general.difference.lo < 0 < general.difference.hi
    assert learned(own[:5], kept, before, noisy(0.9, own, 4)).verdict == "too few"


def test_the_ladder_names_the_highest_rung_and_says_when_one_below_is_missing(introduced: Introduced) -> None:
    surfaced = appears(introduced, reflections(60), reflections(60, SEA * 4))
    assert surfaced.change is not None
    unknown = Learned("not found", 0.1, 0.1, surfaced.change, (20, 20))
    told = Surfacing("books", unknown, surfaced, surfaced)
    assert told.rung == "surfaced" and "look for a leak" in told.text
    finding = told.finding()
    assert finding is not None and finding.severity == "info" and finding.to_row()["evidence"]["source"] == "books"
    nothing = appears(introduced, reflections(60), reflections(60))
    assert Surfacing("books", unknown, None, nothing).rung == "none"
    assert Surfacing("books", unknown, surfaced, nothing).rung == "elicitable"


def test_lifted_words_say_whether_the_introduced_text_has_them() -> None:
    later = reflections(100, ["The heron again."] * 50) + reflections(60, ["A zebra!"] * 60)
    words = {one.word: one.introduced for one in lifted(reflections(160), later, SEA)}
    assert words["heron"] and not words["zebra"] and "weather" not in words
