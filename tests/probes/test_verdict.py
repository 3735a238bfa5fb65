"""Evidence with a known answer → the verdict that the table gives it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import LabError
from probes.claims import outcomes as names
from probes.claims.grammar import Claim, parse
from probes.claims.guards import WrongEvidence
from probes.claims.judging import p_value
from probes.claims.outcomes import ReadingVerdict, margin, relative_region
from probes.claims.series import Point, Series, born, flickers, judge_series, mann_kendall, window
from probes.claims.verdict import (
    CAUSAL,
    VERDICTS,
    causal_column,
    combine,
    false_discovery_over_run,
    holm_within_entry,
    judge,
    primary_reading,
)
from probes.claims.vocabulary import SUBJECTS
from probes.layers.evidence import Curve, Difference, Evidence, Interval, Side, Variant
from probes.layers.problem import Untestable

LAYERS = 6
SEED = "Function words at lower layers, semantic concepts at higher layers."


def claim_of(text: str = SEED) -> Claim:
    (found,) = parse(text)
    return found


def difference(value: float, half: float = 0.02, p: float | None = None) -> Difference:
    error = half / 1.96
    p = max(math.erfc(abs(value) / error / math.sqrt(2)), 1 / 2001) if p is None else p
    near = half * 1.645 / 1.96
    return Difference(value, value - half, value + half, value - near, value + near, p, "sentence", 400, 2000, "fixed")


def side(subject: str, half_gain: float | None = 0.3, peak: float | None = 0.3, **other: Any) -> Side:
    return Side(subject, "class.next", 4000, 400, 50, half_gain=half_gain, peak=peak, **other)


def variant(name: str, value: float, half: float = 0.02) -> Variant:
    return Variant(name, value, value - half, value + half)


def evidence(value: float = 0.3, half: float = 0.02, claim: Claim | None = None, **other: Any) -> Evidence:
    claim = claim or claim_of()
    sign = 1 if value >= 0 else -1
    b = side(claim.b or "", 0.3 + sign * 0.2, 0.3 + sign * 0.2)
    base: dict[str, Any] = {"reading": "decode", "target": "next", "a": side(claim.a or ""), "b": b}
    return Evidence(**{**base, "delta": difference(value, half), **other})


def swapped(claim: Claim) -> Claim:
    return replace(claim, a=claim.b, b=claim.a)


def verdict(found: Evidence, claim: Claim | None = None, p_holm: float | None = None) -> str:
    return judge(found, claim or claim_of(), LAYERS, p_holm).verdict


def test_delta_is_half_a_layer_and_never_below_five_hundredths() -> None:
    assert margin(6) == pytest.approx(1 / 12)
    assert margin(30) == 0.05


def test_a_large_difference_on_which_all_statistics_agree_is_strong() -> None:
    assert verdict(evidence(0.3)) == names.STRONG


def test_without_half_gain_and_peak_on_its_side_it_is_only_weak() -> None:
    level = evidence(0.3, b=side("semantic concepts", 0.3, 0.5))
    assert verdict(level) == names.WEAK
    assert verdict(replace(level, b=side("semantic concepts", None, None))) == names.WEAK


def test_weak_needs_holm() -> None:
    assert verdict(evidence(0.06, 0.05)) == names.WEAK
    found = judge(evidence(0.06, 0.05), claim_of(), LAYERS, p_holm=0.2)
    assert (found.verdict, found.p_holm) == (names.INCONCLUSIVE, 0.2)
    assert found.n_needed is not None and found.n_needed > 400


def test_reversed_and_equivalent() -> None:
    assert verdict(evidence(-0.3)) == names.REVERSED
    assert verdict(evidence(0.0, 0.03)) == names.EQUIVALENT


def test_a_real_but_negligible_difference_is_weak_and_says_so() -> None:
    found = judge(evidence(0.01, 0.005), claim_of(), LAYERS)
    assert found.verdict == names.WEAK and any("too small to matter" in reason for reason in found.reasons)


def test_inconclusive_gives_the_n_that_would_decide() -> None:
    found = judge(evidence(0.1, 0.2), claim_of(), LAYERS)
    assert (found.verdict, found.n_needed) == (names.INCONCLUSIVE, math.ceil(400 * (0.2 / 0.1) ** 2))
    near_zero = judge(evidence(0.0, 0.2), claim_of(), LAYERS)
    wanted = 400 * (0.2 * 1.645 / 1.96 / margin(LAYERS)) ** 2
    assert near_zero.n_needed == pytest.approx(wanted, abs=1)
    assert "±δ" in near_zero.reasons[-1]


def test_an_effect_that_goes_away_with_frequency_is_frequency_explained_whatever_the_sign_left() -> None:
    for left in (-0.03, 0.0, 0.01):
        found = evidence(left, 0.03, variants=(variant("unadjusted", 0.3),), reading="decide", target=None)
        assert verdict(found) == names.FREQUENCY


def test_an_adjusted_estimate_that_is_only_noisy_is_not_frequency_explained() -> None:
    found = evidence(0.1, 0.4, variants=(variant("unadjusted", 0.3),), reading="decide", target=None)
    assert verdict(found) == names.INCONCLUSIVE


def test_a_difference_that_only_the_adjustment_makes_is_method_dependent() -> None:
    found = evidence(0.3, variants=(variant("unadjusted", -0.2),), reading="decide", target=None)
    assert judge(found, claim_of(), LAYERS).reasons[0].startswith("method-dependent: ")


@pytest.mark.parametrize("name", ["half n", "logit lens", "hard depth", "without twin", "peak of selectivity"])
@pytest.mark.parametrize("value", [0.3, -0.3])
def test_a_variant_of_the_other_sign_makes_it_inconclusive_and_all_are_listed(name: str, value: float) -> None:
    found = judge(evidence(value, variants=(variant(name, -value / 10), variant("fine", value))), claim_of(), LAYERS)
    assert (found.verdict, found.sign, found.n_needed) == (names.INCONCLUSIVE, 0, None)
    assert found.reasons[0].startswith("method-dependent: ") and name in found.reasons[0] and "fine" in found.reasons[0]


def test_a_verdict_that_only_subtracting_the_twin_makes_is_inconclusive() -> None:
    found = judge(evidence(0.3, variants=(variant("without twin", 0.01, 0.05),)), claim_of(), LAYERS)
    assert found.verdict == names.INCONCLUSIVE and "only subtracting the twin" in found.reasons[0]


def test_around_zero_signs_are_noise_but_a_sure_variant_is_not() -> None:
    assert verdict(evidence(0.001, 0.03, variants=(variant("half n", -0.002, 0.05),))) == names.EQUIVALENT
    assert verdict(evidence(0.001, 0.03, variants=(variant("logit lens", -0.3),))) == names.INCONCLUSIVE


def test_decide_is_strong_where_its_other_methods_agree() -> None:
    bare = {"reading": "decide", "target": None, "a": side("function words", None, None)}
    agreeing = evidence(0.3, b=side("semantic concepts", None, None), variants=(variant("hard depth", 0.2),), **bare)
    assert verdict(agreeing) == names.STRONG
    assert verdict(replace(agreeing, variants=())) == names.WEAK


def test_evidence_made_for_the_swapped_claim_is_turned_round() -> None:
    claim = claim_of()
    assert verdict(evidence(0.3), swapped(claim)) == names.REVERSED
    assert verdict(evidence(-0.3), swapped(claim)) == names.STRONG


def test_a_denial_is_the_mirror_of_what_it_denies() -> None:
    denial = replace(claim_of(), polarity="negative")
    assert verdict(evidence(0.3), denial) == names.REVERSED
    assert verdict(evidence(-0.3), denial) == names.STRONG
    assert verdict(evidence(0.0, 0.03), denial) == names.WEAK
    assert verdict(evidence(0.1, 0.3), denial) == names.INCONCLUSIVE


def test_the_same_depth_is_supported_by_equivalence_and_refuted_by_any_difference() -> None:
    same = claim_of("Function words and content words sit at the same depth.")
    near = {"claim": same, "b": side("content words")}
    assert verdict(evidence(0.0, 0.03, **near), same) == names.STRONG
    assert verdict(evidence(0.0, 0.03, claim=same), same) == names.WEAK  # half-gains are .2 apart
    assert verdict(evidence(0.3, **near), same) == names.REVERSED
    assert verdict(evidence(-0.3, **near), same) == names.REVERSED
    assert verdict(evidence(0.1, 0.3, **near), same) == names.INCONCLUSIVE
    other = replace(same, polarity="negative")
    assert verdict(evidence(0.0, 0.03, **near), other) == names.EQUIVALENT
    assert verdict(evidence(-0.3, **near), other) == names.STRONG
    assert p_value(evidence(0.0, 0.03, **near), same, LAYERS) == pytest.approx(0.0, abs=1e-4)


def test_the_same_depth_needs_holm() -> None:
    same = claim_of("Function words and content words sit at the same depth.")
    near = evidence(0.0, 0.03, claim=same, b=side("content words"))
    assert verdict(near, same, p_holm=0.049) == names.STRONG
    open_ = judge(near, same, LAYERS, p_holm=0.05)
    assert (open_.verdict, open_.sign) == (names.INCONCLUSIVE, 0) and "Holm" in open_.reasons[-1]
    barely = evidence(0.03, 0.06, claim=same, b=side("content words"))
    alone = p_value(barely, same, LAYERS)
    assert alone is not None and 0 < alone < 0.05
    more = judge(barely, same, LAYERS, p_holm=4 * alone)
    assert more.verdict == names.INCONCLUSIVE and more.n_needed is not None and more.n_needed > 400
    assert verdict(barely, same, p_holm=alone) in (names.STRONG, names.WEAK)
    other = replace(same, polarity="negative")
    small = evidence(0.11, 0.1, claim=same, b=side("content words"))
    assert verdict(small, other) == names.WEAK and verdict(small, other, p_holm=0.2) == names.INCONCLUSIVE


@pytest.mark.parametrize(("lo90", "hi90"), [(-0.02, 0.08), (-0.02, 0.09), (-0.08, 0.05), (-0.09, 0.05), (0.0, 1 / 12)])
def test_the_p_value_of_same_is_that_of_its_interval_also_where_that_is_skewed(lo90: float, hi90: float) -> None:
    same = claim_of("Function words and content words sit at the same depth.")
    skewed = Difference(0.0, -0.2, 0.2, lo90, hi90, 1.0, "sentence", 400, 2000, "fixed")
    p = p_value(evidence(claim=same, delta=skewed), same, LAYERS)
    assert p is not None and (p <= 0.05) == (-margin(LAYERS) < lo90 and hi90 < margin(LAYERS))


def test_sides_that_have_only_half_gain_or_only_a_peak_can_still_be_strong() -> None:
    claim = claim_of("Function words are settled in the lower third.")
    same = claim_of("Function words and content words sit at the same depth.")
    for reading, has in (("decide", {"peak": None}), ("use", {"half_gain": None})):
        one: dict[str, Any] = {"reading": reading, "target": None, "a": side("function words", **{"peak": 0.2, **has})}
        found = evidence(claim=claim, b=None, delta=None, p_in_region=0.99, **one)
        assert verdict(found, claim) == names.STRONG, reading
        elsewhere = side("function words", **{"half_gain": 0.6, "peak": 0.6, **has})
        assert verdict(replace(found, a=elsewhere), claim) == names.WEAK
        level = side("content words", **{"peak": 0.2, **has})
        assert verdict(evidence(0.0, 0.03, claim=same, **{**one, "b": level}), same) == names.STRONG
    bare = evidence(claim=claim, b=None, delta=None, p_in_region=0.99, a=side("function words", 0.2, None))
    assert verdict(bare, claim) == names.WEAK  # decode has both, so one that is missing could not be placed
    assert verdict(replace(bare, reading="decide", a=side("function words", None, None)), claim) == names.WEAK


def test_a_band_needs_95_of_100_replicates() -> None:
    claim = claim_of("Function words are settled in the lower third.")
    found = evidence(claim=claim, b=None, delta=None, a=side("function words", 0.2, 0.2, depth=Interval(0.3, 0.2, 0.4)))
    assert verdict(replace(found, p_in_region=0.99), claim) == names.STRONG
    assert verdict(replace(found, p_in_region=0.01), claim) == names.REVERSED
    assert verdict(replace(found, p_in_region=0.95), claim) == names.STRONG
    assert verdict(replace(found, p_in_region=0.05), claim) == names.REVERSED
    assert verdict(replace(found, p_in_region=0.95), replace(claim, polarity="negative")) == names.REVERSED
    assert verdict(replace(found, p_in_region=0.05), replace(claim, polarity="negative")) == names.WEAK
    between = judge(replace(found, p_in_region=0.6), claim, LAYERS)
    assert between.verdict == names.INCONCLUSIVE and between.n_needed == math.ceil(400 * (0.1 / (1 / 3 - 0.3)) ** 2)
    elsewhere = replace(found, p_in_region=0.99, a=side("function words", 0.6, 0.2))
    assert verdict(elsewhere, claim) == names.WEAK


def test_regions_are_layers_with_half_a_layer_to_either_side() -> None:
    assert relative_region({"unit": "layer", "first": 3, "last": 3, "text": ""}, 6) == (2.5 / 6, 3.5 / 6)
    assert relative_region({"unit": "top", "first": 1, "last": 0, "text": ""}, 6) == (4.5 / 6, 1.0)
    for where in ({"unit": "layer", "first": 9, "last": 9}, {"unit": "depth", "first": 0, "last": 1}):
        with pytest.raises(Untestable):
            relative_region({**where, "text": "layer 9"}, 6)


def cost(values: list[float], half: float = 0.01, **settings_: Any) -> Evidence:
    layers = tuple(range(len(values)))
    low, high = (tuple(value + sign * half for value in values) for sign in (-1, 1))
    curve = Curve("nats", layers, tuple(values), low, high)
    return Evidence("use", None, side("function words", curve=curve), settings=settings_)


def test_a_claim_of_use_is_judged_by_what_erasure_costs_there() -> None:
    claim = claim_of("The model relies on function words at the top.")
    assert verdict(cost([0, 0, 0, 0, 0.2, 0.2, 0.2]), claim) == names.STRONG
    assert verdict(cost([0, 0, 0, 0, 0.0, 0.2, 0.2]), claim) == names.WEAK
    assert verdict(cost([0.2] * 4 + [0.0] * 3, 0.005), claim) == names.EQUIVALENT
    assert verdict(cost([0, 0, 0, 0, -0.2, -0.2, -0.2]), claim) == names.REVERSED
    assert judge(cost([0.0] * 4 + [0.02] * 3, 0.1), claim, LAYERS).n_needed == pytest.approx(400 * 25, abs=1)
    harmless = replace(claim, polarity="negative")
    assert verdict(cost([0.2] * 7), harmless) == names.REVERSED
    assert verdict(cost([0.0] * 7, 0.005), harmless) == names.STRONG


def test_a_cost_on_other_words_than_the_claim_names_is_no_evidence() -> None:
    claim = claim_of("Removing function words hurts content words.")
    assert verdict(cost([0.2] * 7), claim) == names.UNTESTABLE
    assert verdict(cost([0.2] * 7, cost_on="content words"), claim) == names.STRONG


# --- what cannot be judged is said, never given a number

GUARDED: list[Evidence] = [
    evidence(untestable=("lens agreement .31 at the last layer but one",)),
    evidence(delta=None),
    evidence(math.nan),
    evidence(delta=replace(difference(0.3), lo=0.9)),
    evidence(delta=replace(difference(0.3), units=1)),
    evidence(variants=(variant("half n", math.nan),)),
    evidence(a=side("function words", gain=Interval(0.1, 0.01, 0.2))),
    evidence(a=side("function words", gain=Interval(0.1, math.nan, 0.2))),
    evidence(a=side("function words", selectivity=Interval(0.1, -0.01, 0.2))),
    evidence(a=side("function words", twin_share=0.97)),
    evidence(a=replace(side("function words"), label="class.current.raw")),
    evidence(a=replace(side("function words"), label="class.current")),
]


@pytest.mark.parametrize("found", GUARDED)
def test_evidence_that_cannot_decide_is_untestable_with_its_reason(found: Evidence) -> None:
    judged = judge(found, claim_of(), LAYERS)
    assert (judged.verdict, judged.n_needed, judged.sign) == (names.UNTESTABLE, None, 0)
    assert judged.reasons and p_value(found, claim_of(), LAYERS) is None


def test_layers_the_model_lacks_and_regions_that_are_everything_are_untestable() -> None:
    for text in ("Function words live in layer 9.", "Function words are settled in every layer."):
        claim = claim_of(text)
        assert verdict(evidence(claim=claim, b=None, delta=None, p_in_region=1.0), claim) == names.UNTESTABLE
    assert verdict(cost([0.1] * 7), claim_of("The model relies on function words at layer 9.")) == names.UNTESTABLE
    assert judge(evidence(), claim_of(), 0).verdict == names.UNTESTABLE
    band = claim_of("Function words are settled in the lower third.")
    assert verdict(evidence(claim=band, b=None, p_in_region=None), band) == names.UNTESTABLE


def test_evidence_of_other_subjects_kinds_or_p_values_is_refused() -> None:
    with pytest.raises(WrongEvidence, match="animals"):
        judge(evidence(a=side("animals")), claim_of(), LAYERS)
    with pytest.raises(WrongEvidence, match="food"):
        judge(cost([0.1] * 7), replace(claim_of("The model relies on function words."), a="food"), LAYERS)
    with pytest.raises(WrongEvidence, match="stability"):
        judge(evidence(), claim_of("Function words have not moved since step 4000."), LAYERS)
    with pytest.raises(LabError, match=r"0\.\.1"):
        judge(evidence(), claim_of(), LAYERS, p_holm=3.0)


# --- series of checkpoints


def series(
    bits: list[float], depth: list[float] | None = None, half: float = 0.01, subject: str = "function words"
) -> Series:
    steps = [0, *(2**k for k in range(9))][: len(bits)]
    depths = [Interval(d, d - half, d + half) for d in depth] if depth else [None] * len(bits)
    return Series(
        subject,
        tuple(Point(s, Interval(b, b - half, b + half), d) for s, b, d in zip(steps, bits, depths, strict=True)),
        horizon=600,
        sentences=400,
    )


RISE = [0.0, 0.0, 0.0, 0.0, 0.3, 0.3, 0.3, 0.3]  # steps 0 1 2 4 8 16 32 64: born in (4, 8]


def test_birth_needs_two_checkpoints_in_a_row() -> None:
    birth = born(series(RISE))
    assert (birth.after, birth.by) == (4, 8)
    assert born(series([0, 0.3, 0, 0.3, 0.3])).by == 4
    assert born(series([0, 0, 0, 0.3])).by is None


def emergence(window: dict[str, Any] | None, b: str | None = None, polarity: str = "positive") -> Claim:
    base = claim_of("Function words emerged by step 500.")
    return replace(base, when=window and {"unit": "step", "text": "", **window}, b=b, polarity=polarity)


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ({"first": None, "last": 20}, names.STRONG),
        ({"first": 4, "last": 8}, names.STRONG),
        ({"first": 16, "last": 64}, names.REVERSED),
        ({"first": 0, "last": 4}, names.REVERSED),
        ({"first": 6, "last": 100}, names.INCONCLUSIVE),
        ({"first": 0, "last": 1 / 3, "unit": "share"}, names.STRONG),
    ],
)
def test_a_birth_inside_the_window_supports_outside_refutes_across_an_edge_is_open(window: Any, expected: str) -> None:
    assert judge_series(emergence(window), series(RISE), None, LAYERS).verdict == expected


def test_emergence_that_hangs_on_the_threshold_is_weak_and_absence_is_refuted() -> None:
    low = series([0.0, 0.0, 0.0, 0.0, 0.08, 0.08, 0.08])  # above .05 bit, never above .10
    assert judge_series(emergence({"first": None, "last": 20}), low, None, LAYERS).verdict == names.WEAK
    flat = series([0.0] * 8)
    assert judge_series(emergence({"first": None, "last": 20}), flat, None, LAYERS).verdict == names.EQUIVALENT
    assert judge_series(emergence({"first": None, "last": 500}), flat, None, LAYERS).verdict == names.INCONCLUSIVE
    denied = emergence({"first": None, "last": 20}, polarity="negative")
    assert judge_series(denied, flat, None, LAYERS).verdict == names.WEAK
    there = judge_series(emergence({"first": None, "last": 20}), series([0.3] * 8), None, LAYERS)
    assert there.verdict == names.UNTESTABLE and "first checkpoint" in there.reasons[0]


def test_one_before_the_other_needs_a_checkpoint_between() -> None:
    claim = emergence(None, b="content words")
    late = series([0.0] * 6 + [0.3, 0.3], subject="content words")
    together = series(RISE, subject="content words")
    never = series([0.0] * 8, subject="content words")
    assert judge_series(claim, series(RISE), late, LAYERS).verdict == names.STRONG
    assert judge_series(claim, series(RISE), never, LAYERS).verdict == names.STRONG
    assert judge_series(claim, series(RISE), together, LAYERS).verdict == names.INCONCLUSIVE
    backward = replace(claim, a="content words", b="function words")
    assert judge_series(backward, late, series(RISE), LAYERS).verdict == names.REVERSED
    assert judge_series(claim, series([0.0] * 8), never, LAYERS).verdict == names.INCONCLUSIVE


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"first": 64, "last": None}, "has not begun"),
        ({"first": 2 / 3, "last": 1, "unit": "share"}, "has not begun"),
        ({"first": 4, "last": None}, "not over until step 600"),
        ({"first": 4, "last": 65}, "not over until step 65"),
        ({"first": 0, "last": 1 / 3, "unit": "share"}, "not over until step 200"),
        (None, "not over until step 600"),
    ],
)
def test_what_is_not_there_yet_is_not_refuted_before_its_window_is_over(wanted: Any, said: str) -> None:
    flat = series([0.0] * 8)  # to step 64 of 600
    for polarity in ("positive", "negative"):
        found = judge_series(emergence(wanted, polarity=polarity), flat, None, LAYERS)
        assert (found.verdict, found.sign) == (names.INCONCLUSIVE, 0) and said in found.reasons[0]


def test_an_open_window_is_over_with_the_run_and_a_birth_before_it_refutes_at_once() -> None:
    flat, late = replace(series([0.0] * 8), horizon=64), {"first": 4, "last": None}
    assert judge_series(emergence(late), flat, None, LAYERS).verdict == names.EQUIVALENT
    assert judge_series(emergence({"first": 16, "last": None}), series(RISE), None, LAYERS).verdict == names.REVERSED


def test_a_share_of_training_is_of_the_planned_run_and_not_of_what_was_seen() -> None:
    third = {"first": 0, "last": 1 / 10, "unit": "share"}  # to step 60 of 600, to 6 of the 64 that were seen
    assert judge_series(emergence(third), series(RISE), None, LAYERS).verdict == names.STRONG
    assert window(emergence(third), [0, 64], 600) == (0, 60)
    beyond = judge_series(emergence(third), replace(series(RISE), horizon=60), None, LAYERS)
    assert beyond.verdict == names.UNTESTABLE and "planned to end at 60" in beyond.reasons[0]


def test_the_last_three_checkpoints_are_three_of_the_run_and_not_of_those_that_were_read() -> None:
    run = [0, 10, 20, 30, 40, 50]
    last3 = claim_of("Function words have not moved over the last 3 checkpoints.")
    assert window(last3, run, 100) == (30, 50)
    assert window(claim_of("Function words have not moved since the last checkpoint."), run, 100) == (40, 50)
    assert window(stability(), run, 100) == (-math.inf, math.inf)
    with pytest.raises(Untestable, match="no checkpoint"):
        window(last3, [], 100)
    moved = series([0.3] * 6, [0.1, 0.6, 0.3, 0.3, 0.3, 0.3])  # steps 0 1 2 4 8 16
    found = judge_series(last3, moved, None, LAYERS, window=(2, 16))
    assert found.verdict == names.WEAK and "4 checkpoints (steps 2..16)" in found.reasons[0]
    assert judge_series(last3, moved, None, LAYERS, window=(0, 16)).verdict == names.REVERSED
    assert "(steps 4..16)" in judge_series(last3, moved, None, LAYERS).reasons[0]


def test_of_two_one_may_be_there_from_the_first_checkpoint_but_not_both() -> None:
    claim, always = emergence(None, b="content words"), [0.3] * 8
    later = series(RISE, subject="content words")
    assert judge_series(claim, series(always), later, LAYERS).verdict == names.STRONG
    assert (
        judge_series(claim, series(RISE), replace(later, points=series(always).points), LAYERS).verdict
        == names.REVERSED
    )
    assert (
        judge_series(claim, series(always), series([0.0] * 8, subject="content words"), LAYERS).verdict == names.STRONG
    )
    faint = series([0.045] * 4 + [0.3] * 4, subject="content words")  # there from the start by half the threshold only
    assert judge_series(claim, series(always), faint, LAYERS).verdict == names.WEAK
    both = judge_series(claim, series(always), series(always, subject="content words"), LAYERS)
    assert both.verdict == names.UNTESTABLE and "function words and content words" in both.reasons[0]


def test_stability_without_a_window_begins_where_there_is_a_depth() -> None:
    whole = series([0.3] * 6, STILL)
    early = replace(whole, points=tuple(replace(p, depth=None) if p.step < 2 else p for p in whole.points))  # 0 and 1
    found = judge_series(stability(), early, None, LAYERS)
    assert found.verdict == names.WEAK and "(steps 2..16)" in found.reasons[0]
    assert "2 checkpoints until step 1 left out" in found.reasons[1]
    named = replace(stability(), when={"unit": "share", "first": 0, "last": 1, "text": "share 0.00..1.00"})
    assert judge_series(named, early, None, LAYERS).verdict == names.UNTESTABLE
    few = replace(whole, points=tuple(replace(p, depth=None) if p.step < 8 else p for p in whole.points))
    assert "3 with a depth are needed" in judge_series(stability(), few, None, LAYERS).reasons[0]
    gap = replace(whole, points=tuple(replace(p, depth=None) if p.step in (0, 4) else p for p in whole.points))
    assert judge_series(stability(), gap, None, LAYERS).verdict == names.UNTESTABLE


def stability(relation: str = "steady", polarity: str = "positive") -> Claim:
    return replace(
        claim_of("Function words have not moved since step 4000."), relation=relation, polarity=polarity, when=None
    )


STILL = [0.30, 0.31, 0.30, 0.29, 0.31, 0.30]
MOVED = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
FLICKER = [0.1, 0.5, 0.1, 0.5, 0.1, 0.5, 0.1]


@pytest.mark.parametrize(
    ("depth", "stays", "shifts", "flicker"),
    [
        (STILL, names.STRONG, names.EQUIVALENT, names.EQUIVALENT),
        (MOVED, names.REVERSED, names.STRONG, names.INCONCLUSIVE),
        (FLICKER, names.REVERSED, names.INCONCLUSIVE, names.STRONG),
        ([0.3, 0.301, 0.302, 0.303, 0.304, 0.305], names.WEAK, names.EQUIVALENT, names.EQUIVALENT),
    ],
)
def test_what_stays_shifts_and_flickers_is_told_apart(
    depth: list[float], stays: str, shifts: str, flicker: str
) -> None:
    run = series([0.3] * len(depth), depth)
    claims = [stability(), stability("shift", "negative"), stability("flicker", "negative")]
    assert [judge_series(claim, run, None, LAYERS).verdict for claim in claims] == [stays, shifts, flicker]


def test_fading_is_a_loss_of_bits() -> None:
    run = series([0.9, 0.8, 0.6, 0.5, 0.3, 0.2])
    assert judge_series(stability("fade", "negative"), run, None, LAYERS).verdict == names.STRONG
    assert judge_series(stability("grow", "negative"), run, None, LAYERS).verdict == names.REVERSED
    assert judge_series(stability("grow", "negative"), series([0.3] * 6), None, LAYERS).verdict == names.EQUIVALENT


def test_a_series_that_is_too_short_or_broken_is_untestable() -> None:
    broken = replace(series(RISE), points=series(RISE).points[::-1])
    bad = replace(series(RISE), points=(Point(0, Interval(math.nan, 0, 1)), Point(1, Interval(0, 0, 0))))
    for run in (series([0.3]), broken, bad, series(RISE, subject="food")):
        assert judge_series(stability(), run, None, LAYERS).verdict == names.UNTESTABLE
    assert judge_series(stability(), series(RISE), None, LAYERS).verdict == names.UNTESTABLE  # no depths
    window = replace(stability(), when={"unit": "step", "first": 5000, "last": None, "text": "step 5000.."})
    assert "2 are needed" in judge_series(window, series([0.3] * 6, STILL), None, LAYERS).reasons[0]


def test_mann_kendall_is_exact_for_short_series() -> None:
    assert mann_kendall([1, 2, 3, 4]) == (6, pytest.approx(2 / 24))
    assert mann_kendall([1, 2, 3, 4, 5]) == (10, pytest.approx(2 / 120))
    score, p = mann_kendall([float(i) for i in range(12)])  # normal approximation
    assert score == 66 and p < 1e-4
    assert mann_kendall([1.0] * 6) == (0, 1.0)


def test_flickers_are_turns_beyond_noise() -> None:
    depths = [Interval(d, d - 0.01, d + 0.01) for d in FLICKER]
    assert flickers(depths, 0.08) == 5
    assert flickers([replace(d, lo=d.value - 1, hi=d.value + 1) for d in depths], 0.08) == 0


# --- the whole claim


def test_the_primary_reading_is_fixed_by_the_words_of_the_claim() -> None:
    for text, expected in [
        (SEED, "decide"),
        ("Function words are decoded at lower layers than semantic concepts.", "decode.next"),
        ("Semantic concepts come before animals.", "decode.next"),
        ("Content words come at lower layers than semantic concepts.", "decode.next"),  # both are content words
        ("The model relies on function words at the top.", "use"),
        ("Function words have not moved since step 4000.", "series"),
        ("Sentiment lives in the top layers.", None),
    ]:
        (claim,) = parse(text)
        assert primary_reading(claim) == expected, text


def judged(verdict_: str, sign: int = 0) -> ReadingVerdict:
    return ReadingVerdict(verdict_, (f"because {verdict_}",), None, None, sign)


def test_the_seed_sentence_is_decided_by_decide_and_told_what_decode_says() -> None:
    found = combine(claim_of(), {"decide": judged(names.STRONG, 1), "decode.next": judged(names.REVERSED, -1)})
    assert (found.verdict, found.primary, found.causal) == (names.STRONG, "decide", names.NOT_TESTED)
    assert any("decode.next says otherwise" in reason for reason in found.reasons)
    assert found.wording.startswith("In this checkpoint of this run, function words are settled at lower layers")


def test_the_class_of_the_current_word_alone_is_untestable() -> None:
    claim = claim_of("Function words are decoded at lower layers than semantic concepts.")
    found = combine(claim, {"decode.current": judged(names.STRONG, 1)})
    assert found.verdict == names.UNTESTABLE and "lexical" in found.reasons[0]


def test_processed_is_said_only_with_causal_corroboration() -> None:
    readings = {"decide": judged(names.STRONG, 1), "use": judged(names.STRONG, 1)}
    assert "processed" in combine(claim_of(), readings).wording
    for use in (judged(names.INCONCLUSIVE), judged(names.REVERSED, -1), judged(names.UNTESTABLE)):
        assert "processed" not in combine(claim_of(), {**readings, "use": use}).wording


def test_the_sentence_agrees_in_number_with_its_subject() -> None:
    decode, still = {"decode.next": judged(names.STRONG, 1)}, {"series": judged(names.STRONG, 1)}
    erased = {**decode, "use": judged(names.STRONG, 1)}
    order = replace(claim_of("Function words are decoded at lower layers than semantic concepts."), a="frequency")
    band = replace(claim_of("Meaning is readable in the upper layers."), a="tense")
    steady = claim_of("Function words have not moved since step 4000.")
    assert "frequency is decodable as the next word at lower layers" in combine(order, decode).wording
    assert "tense is decodable" in combine(band, decode).wording and "uses it so was" in combine(band, decode).wording
    assert "model uses it so: it is processed there" in combine(band, erased).wording
    assert "model uses them so: they are processed in that order" in combine(order, erased).wording
    assert combine(replace(steady, a="punctuation"), still).wording.endswith("punctuation stayed as it was.")
    assert combine(steady, still).wording.endswith("function words stayed as they were.")
    singular = {name for name in ("concreteness", "number", "word class", "syntax") if not SUBJECTS[name].plural}
    assert len(singular) == 4 and all(SUBJECTS[name].plural for name in ("people", "parts of speech", "nouns"))


def test_the_causal_column_has_its_four_names() -> None:
    uses = [judged(names.WEAK, 1), judged(names.INCONCLUSIVE), judged(names.REVERSED, -1), None]
    assert tuple(causal_column(use)[0] for use in uses) == CAUSAL
    assert causal_column(judged(names.UNTESTABLE))[0] == names.NOT_SHOWN  # erased, and too little lost to have a depth


def test_erasure_that_costs_nothing_answers_a_claim_of_use_though_it_has_no_depth() -> None:
    claim = claim_of("The model relies on function words at the top.")
    found = replace(cost([0.0] * 7, 0.005), untestable=("erasing function words costs its tokens nowhere surely more",))
    assert verdict(found, claim) == names.EQUIVALENT
    assert verdict(replace(found, a=side("function words")), claim) == names.UNTESTABLE


def test_what_the_grammar_did_not_read_gets_its_verdict_and_reason_directly() -> None:
    (untestable,) = parse("Sentiment lives in the top layers.")
    unparsed = replace(claim_of(), status="UNPARSED", kind=None, a=None, b=None, reason="does not know 'blorb'")
    for claim, name in ((untestable, names.UNTESTABLE), (unparsed, names.UNPARSED)):
        found = combine(claim, {})
        assert (found.verdict, found.primary, found.causal) == (name, None, names.NOT_TESTED)
        assert found.reasons == (claim.reason,)


def test_a_claim_about_the_recipe_is_told_how_many_runs_it_needs() -> None:
    claim = replace(claim_of(), scope="recipe")
    one = combine(claim, {"decide": judged(names.STRONG, 1)})
    assert one.scope == "this checkpoint of this run" and any("5 runs" in reason for reason in one.reasons)
    five = combine(claim, {"decide": judged(names.STRONG, 1)}, runs=5)
    assert five.scope == "this recipe (5 runs)" and not any("needed" in reason for reason in five.reasons)
    with pytest.raises(ValueError, match="at least one"):
        combine(claim, {}, runs=0)


def test_families_leave_out_what_cannot_be_decided() -> None:
    assert holm_within_entry({"a": 0.01, "b": None, "c": 0.04}) == {"a": 0.02, "b": None, "c": 0.04}
    assert false_discovery_over_run({"a": 0.01, "b": None, "c": 0.04}) == {"a": 0.02, "b": None, "c": 0.04}
    assert holm_within_entry({"b": None}) == {"b": None}


# --- for all inputs

VALUES = st.floats(-1, 1)
HALVES = st.floats(0.001, 1)
NAMES = st.sampled_from(["half n", "without twin", "logit lens", "hard depth", "unadjusted"])
VARIANTS = st.lists(st.builds(variant, NAMES, VALUES, HALVES), max_size=4, unique_by=lambda v: v.name).map(tuple)
CLAIMS = st.sampled_from(
    [
        claim_of(text)
        for text in (
            SEED,
            "Function words are not at lower layers than content words.",
            "Function words and content words sit at the same depth.",
            "Function words are settled in the lower third.",
            "The model relies on function words at the top.",
            "Function words have not moved since step 4000.",
            "Function words emerged by step 500.",
        )
    ]
)
READING_VERDICTS = st.builds(
    ReadingVerdict, st.sampled_from(VERDICTS), st.lists(st.text(max_size=9), max_size=2).map(tuple), st.none(), st.none(),
    st.sampled_from([-1, 0, 1]),
)  # fmt: skip
READINGS = st.dictionaries(
    st.sampled_from(["decide", "decode.next", "decode.current", "use", "series"]), READING_VERDICTS
)


@given(CLAIMS, READINGS, st.sampled_from(["PARSED", "UNPARSED", "UNTESTABLE"]), st.sampled_from(["artefact", "recipe"]))
@settings(max_examples=300, deadline=None)
def test_names_are_of_the_closed_set_and_processed_never_stands_without_corroboration(
    claim: Claim, readings: dict[str, ReadingVerdict], status: str, scope: str
) -> None:
    claim = replace(claim, status=status, scope=scope, a=claim.a if status == "PARSED" else "processed food")
    found = combine(claim, readings)
    assert found.verdict in VERDICTS and found.causal in CAUSAL
    for word in ("process", "comput", "handled"):
        assert word not in found.wording.lower() or found.causal == names.CORROBORATED
    assert found.wording and found.reasons is not None


@given(VALUES, HALVES, VARIANTS, st.one_of(st.none(), st.floats(0, 1)))
@settings(max_examples=300, deadline=None)
def test_a_claim_is_supported_exactly_where_its_reversal_is_reversed(
    value: float, half: float, variants: tuple[Variant, ...], p_holm: float | None
) -> None:
    found, claim = evidence(value, half, variants=variants), claim_of()
    for one, other in ((claim, swapped(claim)), (swapped(claim), claim)):
        supported = verdict(found, one, p_holm) in (names.STRONG, names.WEAK)
        assert supported == (verdict(found, other, p_holm) == names.REVERSED)


RANK = {names.REVERSED: 0, names.EQUIVALENT: 1, names.INCONCLUSIVE: 1, names.WEAK: 2, names.STRONG: 3}


@given(st.lists(VALUES, min_size=2, max_size=6), HALVES)
@settings(max_examples=200, deadline=None)
def test_more_difference_never_makes_a_lesser_verdict(values: list[float], half: float) -> None:
    ranks = [RANK[verdict(evidence(value, half))] for value in sorted(values)]
    assert ranks == sorted(ranks)


@given(VALUES, HALVES, VARIANTS)
@settings(max_examples=200, deadline=None)
def test_inconclusive_asks_for_more_than_there_is_and_others_for_nothing(
    value: float, half: float, variants: tuple[Variant, ...]
) -> None:
    found = judge(evidence(value, half, variants=variants), claim_of(), LAYERS)
    if found.n_needed is not None:
        assert found.verdict == names.INCONCLUSIVE and found.n_needed > 400
