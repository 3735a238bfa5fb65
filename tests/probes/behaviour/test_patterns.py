"""A planted motif is found with its open word, its first appearance and its fading; other people's talk holds none."""

import random
from collections.abc import Callable, Sequence

import pytest

from probes.behaviour.log_odds import Z, log_odds, of_counts
from probes.behaviour.patterns import Document, Motif, NothingToCompare, motifs, templates
from tests.probes.behaviour.texts import conversations

Record = Callable[[str, object], None]
WORDS = 60  # of a document


def people(count: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """Conversations as if a model had written them, and others to be the training text."""
    texts = [document.text for document in conversations()]
    random.Random(seed).shuffle(texts)
    return [" ".join(text.split()[:WORDS]) for text in texts[:count]], texts[count:]


def documents(texts: Sequence[str]) -> list[Document]:
    """Ten a step, every tenth of them a journal's entry."""
    return [
        Document(100 * (number // 10), "journal" if number % 10 == 0 else "self-play", f"talk {number}", text)
        for number, text in enumerate(texts)
    ]


def planted(texts: Sequence[str], where: Sequence[int]) -> list[str]:
    things = ("door", "light", "river", "clock")
    motif = {number: f" the {things[at % 4]} of the quiet loom" for at, number in enumerate(where)}
    return [text + motif.get(number, "") for number, text in enumerate(texts)]


def found(motif: Motif) -> bool:
    return any("of the quiet" in one or "quiet loom" in one for one in (motif.template, *motif.variants))


def test_a_planted_motif_is_found_with_what_stands_in_its_open_place() -> None:
    texts, training = people(100)
    where = range(40, 90)
    (one,) = [motif for motif in motifs(documents(planted(texts, where)), training[:250]) if found(motif)]
    assert one.seen.documents.count == 50 and one.training.count == 0 and one.odds.z >= Z
    assert (one.seen.first_step, one.seen.first_name, one.seen.last_step, one.seen.steps) == (400, "talk 40", 800, 5)
    assert one.seen.by_source["journal"].count == 5 and one.seen.by_source["journal"].checks == 10
    open_ones = [name for name in (one.template, *one.variants) if "_" in name.split()]
    assert any(name.startswith("the _ of the quiet") for name in open_ones)
    assert not one.given


def test_what_stands_in_the_open_place_is_counted() -> None:
    texts = [f"the {thing} of night" for thing in ("owl", "song", "moon") for _ in range(20)]
    kept = motifs(documents(texts), ["one two three four five six seven"] * 300)
    (one,) = [motif for motif in kept if motif.template == "the _ of night"]
    assert one.fillers == (("moon", 20), ("owl", 20), ("song", 20))


def test_a_motif_that_stops_fades_and_one_that_goes_on_does_not() -> None:
    texts, training = people(200)
    (stopped,) = [one for one in motifs(documents(planted(texts, range(60))), training[:400]) if found(one)]
    (lasting,) = [one for one in motifs(documents(planted(texts, range(0, 200, 4))), training[:400]) if found(one)]
    assert stopped.fades is not None and stopped.fades.hi < 0
    assert lasting.fades is not None and lasting.fades.lo < 0 < lasting.fades.hi


def test_a_loop_in_one_document_is_no_motif() -> None:
    texts, training = people(40)
    texts[3] += " we spin the quiet loom" * 200
    assert not any(found(motif) or "spin" in motif.template for motif in motifs(documents(texts), training[:200]))


def test_what_a_prompt_holds_is_marked_as_given() -> None:
    texts, training = people(100)
    made = documents(planted(texts, range(50)))
    (one,) = [
        motif for motif in motifs(made, training[:250], ["Speak of the river of the quiet loom."]) if found(motif)
    ]
    assert one.given and one.text.endswith("a prompt holds it")


def test_other_talk_of_the_same_people_has_no_motif(record_property: Record) -> None:
    texts, training = people(200, seed=1)
    told = motifs(documents(texts), training[:500])
    record_property("motifs in 200 conversations against 500 others", len(told))
    assert not told


@pytest.mark.slow
def test_other_talk_has_no_motif_at_scale(record_property: Record) -> None:
    """10 draws of 300 conversations against 700 others: any motif is a false one."""
    wrong = []
    for seed in range(10):
        texts, training = people(300, seed)
        wrong.append(len(motifs(documents(texts), training[:700])))
    record_property("false motifs in 10 draws of 300 conversations", wrong)
    print("false motifs in 10 draws:", wrong)
    assert sum(wrong) <= 1


def test_nothing_to_compare_is_said() -> None:
    with pytest.raises(NothingToCompare, match="no document"):
        motifs(documents(["a b"]), ["one two three"])
    with pytest.raises(NothingToCompare, match="training text"):
        motifs(documents(["one two three"]), [""])


def test_templates_open_inner_words_alone() -> None:
    assert set(templates(["a", "b", "c", "d"])) == {
        ("a", "b", "c"), ("a", "_", "c"), ("b", "c", "d"), ("b", "_", "d"),
        ("a", "b", "c", "d"), ("a", "_", "c", "d"), ("a", "b", "_", "d"),
    }  # fmt: skip


def test_z_is_at_most_that_of_chance_where_both_sets_are_draws_of_one() -> None:
    """20,000 words of one distribution: |z| above 4.5 would be expected .14 times without the prior."""
    drawn = random.Random(0)
    words = [f"w{number}" for number in range(2_000)]
    weights = [1 / (1 + number) for number in range(2_000)]
    extreme = 0
    for _ in range(5):
        first, second = (drawn.choices(words, weights, k=20_000) for _ in range(2))
        counts = [{word: part.count(word) for word in words[:50]} for part in (first, second)]
        extreme += sum(abs(one.z) >= Z for one in log_odds(counts[0], 20_000, counts[1], 20_000).values())
    assert extreme == 0


def test_a_word_that_one_side_lacks_stands_out_once_it_is_frequent_enough() -> None:
    assert of_counts(5, 10_000, 0, 10_000).z < Z <= of_counts(40, 10_000, 0, 10_000).z
    assert of_counts(13, 10_000, 0, 100_000).z >= Z
    assert of_counts(1, 10_000, 60, 10_000).z <= -Z
