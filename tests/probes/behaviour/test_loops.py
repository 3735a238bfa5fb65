"""The exact definition against brute force, streams against whole texts, and planted loops of every period."""

import random
import time
from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lab.generate import Sampling, sample_tokens
from lab.model import GPT
from lab.shape import GPTConfig
from lab.tokenizer import Tokenizer
from probes.behaviour.findings import Span
from probes.behaviour.loops import (
    EVERY,
    MAX_PERIOD,
    RULES,
    LoopEvent,
    Tail,
    detect,
    examine,
    examine_turns,
    near_copies,
    scan,
    seq_rep_4,
    zlib_ratio,
)

# A cycle, so that loops are common, behind and before anything.
tokens_with_loops = st.builds(
    lambda before, cycle, copies, cut, after: before + (cycle * copies)[-200:] + cycle[:cut] + after,
    st.lists(st.integers(0, 3), max_size=12),
    st.lists(st.integers(0, 2), min_size=1, max_size=70),
    st.sampled_from([1, 2, 3, 4, 12, 24]),
    st.integers(0, 5),
    st.lists(st.integers(0, 2), max_size=2),
)


def by_definition(tokens: list[int]) -> LoopEvent | None:
    """The words of the rule, spelled out: c whole copies of the last p tokens, c ≥ 3, c·p ≥ 24, the smallest such p ≤ 64."""
    for period in range(1, min(MAX_PERIOD, len(tokens)) + 1):
        block, most = tokens[len(tokens) - period :], len(tokens) // period
        copies = max(c for c in range(1, most + 1) if tokens[len(tokens) - c * period :] == block * c)
        if copies >= 3 and copies * period >= 24:
            start = len(tokens) - copies * period
            while start > 0 and tokens[start - 1] == tokens[start - 1 + period]:
                start -= 1
            return LoopEvent(period, copies, len(tokens) - start, start)
    return None


@settings(deadline=None, max_examples=100)
@given(tokens_with_loops)
@example([])
@example([1] * 23)
@example([1] * 24)
@example([0] + list(range(1, 65)) * 3)
@example(list(range(65)) * 3)
def test_detect_is_its_definition(tokens: list[int]) -> None:
    assert detect(tokens) == by_definition(tokens)


@settings(deadline=None, max_examples=100)
@given(tokens_with_loops)
def test_a_period_is_primitive(tokens: list[int]) -> None:
    event = detect(tokens)
    if event:
        block = tokens[len(tokens) - event.period :]
        divisors = [size for size in range(1, event.period) if event.period % size == 0]
        assert all(block != block[:size] * (event.period // size) for size in divisors)


@settings(deadline=None, max_examples=100)
@given(tokens_with_loops, st.sampled_from([5, EVERY]))
def test_a_stream_says_what_the_whole_text_so_far_says(tokens: list[int], every: int) -> None:
    tail = Tail(every)
    for count, token in enumerate(tokens, start=1):
        assert tail.push(token) == (detect(tokens[:count]) if count % every == 0 else None)


@settings(deadline=None, max_examples=100)
@given(tokens_with_loops)
def test_a_scan_holds_what_streams_and_the_end_say(tokens: list[int]) -> None:
    looks = [detect(tokens[:end]) for end in {*range(EVERY, len(tokens) + 1, EVERY), len(tokens)}]
    places = {(event.period, event.start): 0 for event in looks if event}
    for event in looks:
        if event:
            places[event.period, event.start] = max(places[event.period, event.start], event.cover)
    assert {(event.period, event.start): event.cover for event in scan(tokens)} == places


def test_twelve_equal_tokens_are_not_three_copies_of_four() -> None:
    assert detect([5] * 12) is None
    assert detect([5] * 24) == LoopEvent(1, 24, 24, 0)


def planted(period: int, chosen: random.Random) -> tuple[list[int], LoopEvent]:
    """Different tokens, then a cycle with no inner one, in as few copies as the rule asks for."""
    block = chosen.sample(range(1_000, 2_000), period)
    copies = max(3, -(-24 // period))
    before = chosen.sample(range(1_000), chosen.randrange(60))
    return before + block * copies, LoopEvent(period, copies, period * copies, len(before))


@pytest.mark.parametrize("period", range(1, MAX_PERIOD + 1))
def test_every_planted_loop_is_found_at_its_place_by_every_way(period: int) -> None:
    chosen = random.Random(period)
    for _ in range(20):
        tokens, truth = planted(period, chosen)
        assert detect(tokens) == truth
        assert truth in scan(tokens)
        ongoing = tokens + tokens[truth.start :][:period] * (EVERY // period + 1)  # the model goes on looping
        tail = Tail()
        assert any(tail.push(token) for token in ongoing[: len(tokens) + EVERY])
        assert ("loops.tail-cycle", truth.copies) in [(one.rule, one.value) for one in examine(tokens, "")]


def test_a_period_above_64_is_out_of_scope() -> None:
    assert detect(list(range(65)) * 5) is None


def test_a_loop_that_the_text_got_out_of_is_only_information() -> None:
    tokens = [*range(100, 104), *[1, 2, 3] * 20, *range(200, 225)]
    (finding,) = examine(tokens, "")
    assert (finding.rule, finding.severity) == ("loops.passing-cycle", "info")
    assert finding.spans == (Span(4, 64, "token"),)
    assert [(one.rule, one.severity) for one in examine(tokens[:64], "")] == [("loops.tail-cycle", "watch")]


def test_the_soft_rules_are_silent_below_100_tokens_and_speak_from_there() -> None:
    """Fifty varied sentences of one pattern: no exact copy, so only the soft rules can see it."""
    words = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    tokens = [token for index in range(20) for token in [*words, 100 + index]]
    text = "the king went to the old market and saw a horse, again. " * 20
    assert examine(tokens[:99], text) == ()
    rules = {finding.rule: finding for finding in examine(tokens, text)}
    assert set(rules) == {"loops.seq-rep-4", "loops.zlib"}
    assert all(finding.severity == "watch" and finding.version == "1" for finding in rules.values())
    assert rules["loops.seq-rep-4"].spans[0] == Span(10, 19, "token")
    assert rules["loops.zlib"].value == pytest.approx(zlib_ratio(text)) and zlib_ratio(text) > 2.4


def test_seq_rep_4_counts_what_welleck_counts_and_survives_short_texts() -> None:
    assert seq_rep_4([1, 2, 3]) == 0.0
    assert seq_rep_4([1, 2, 3, 4, 5]) == 0.0
    assert seq_rep_4([1] * 13) == pytest.approx(0.9)  # ten 4-grams, one of them distinct
    assert zlib_ratio("") == 0.0


def test_a_turn_that_nearly_repeats_an_earlier_one_is_found_and_names_it() -> None:
    first = list(range(40))
    altered = [*first[:39], 99]  # one word of forty differs at the end: 36 of 38 4-grams are shared
    turns = [first, list(range(100, 140)), altered, [1, 2, 3], [1, 2, 3], list(range(200, 220))]
    (copy,) = near_copies(turns)
    assert (copy.turn, copy.of) == (2, 0)
    assert copy.jaccard == pytest.approx(36 / 38) and copy.containment == pytest.approx(36 / 37)
    (finding,) = examine_turns(turns)
    assert finding.spans == (Span(0, 1, "turn"), Span(2, 3, "turn")) and finding.severity == "watch"


def test_short_turns_may_be_said_again() -> None:
    assert near_copies([[1] * 11, [1] * 11]) == ()
    assert len(near_copies([list(range(12)), list(range(12))])) == 1


def test_a_near_copy_below_four_fifths_is_none() -> None:
    first = list(range(40))
    assert near_copies([first, [*first[:30], *range(50, 60)]]) == ()  # 27 of 47


def test_rules_have_ids_of_their_own_and_versions() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)
    assert all(rule.version and rule.definition and rule.severity in ("info", "watch") for rule in RULES)


def seconds_per_token(work: Callable[[], int], repeats: int) -> float:
    """The fastest of several, for the machine does other things as well."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        count = work()
        best = min(best, (time.perf_counter() - start) / count)
    return best


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("tiny", GPTConfig(n_layers=2, d_model=64, n_heads=4, n_ctx=64, d_vocab=4096)),
        ("demo", GPTConfig(n_layers=6, d_model=128, n_heads=4, n_ctx=128, d_vocab=4096)),
    ],
)
def test_watching_a_stream_costs_a_hundredth_of_generating_it_at_most(
    name: str, shape: GPTConfig, record_property: Callable[[str, object], None]
) -> None:
    torch.manual_seed(0)
    model = GPT(shape).eval()

    def generating() -> int:
        return len(list(sample_tokens(model, [0], Sampling(max_tokens=32))))

    def watching(tokens: list[int]) -> Callable[[], int]:
        def work() -> int:
            tail = Tail()
            for token in tokens:
                tail.push(token)
            return len(tokens)

        return work

    generation = seconds_per_token(generating, 3)
    ordinary = seconds_per_token(watching(random.Random(0).choices(range(200), k=shape.n_ctx)), 100)
    looping = seconds_per_token(watching(([1, 2, 3, 4, 5] * shape.n_ctx)[: shape.n_ctx]), 100)
    for label, seconds in (("generation", generation), ("ordinary", ordinary), ("looping", looping)):
        record_property(f"{name} {label} µs per token", round(1e6 * seconds, 2))
    print(
        f"{name}: generation {1e6 * generation:.0f}, ordinary {1e6 * ordinary:.2f}, looping {1e6 * looping:.2f} µs/token"
    )
    assert max(ordinary, looping) <= 0.01 * generation


def test_spans_of_a_found_loop_mark_it_in_the_text(tokenizer: Tokenizer) -> None:
    text = "It began well." + " I do not know." * 12
    ids, offsets = tokenizer.encode_with_offsets(text)
    (finding,) = [one for one in examine(ids, text) if one.rule == "loops.tail-cycle"]
    (span,) = finding.spans
    assert " I do not know." * 11 in text[offsets[span.start][0] : offsets[span.end - 1][1]]
    assert "began" not in text[offsets[span.start][0] :]
