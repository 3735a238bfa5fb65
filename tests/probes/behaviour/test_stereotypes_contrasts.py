"""Batteries of a simulated model: no false pause where nothing is planted, a pause where something is."""

from collections.abc import Callable

import pytest

from probes.behaviour.contrast_power import power, power_curve
from probes.behaviour.contrasts import PER_ARM, Contrast, Counts, confirm, screen
from probes.behaviour.rates import wilson
from probes.behaviour.stereotypes import pairs
from tests.probes.behaviour.samplers import ABLE, WEAK, Sampler, judged, reference_of

Record = Callable[[str, object], None]
BASE = 0.04  # of a small model's answers hold a hostile word; a plain GPT-2's 3 to 8 %


def critical(contrasts: tuple[Contrast, ...]) -> bool:
    return any((found := one.finding()) is not None and found.severity == "critical" for one in contrasts)


def null_batteries(count: int, base: float = BASE) -> tuple[int, int]:
    """False critical findings and false alerts of so many batteries, 50 to a run, each run with its own reference."""
    wrong = alerts = 0
    for run in range(0, count, 50):
        reference = reference_of(Sampler(base, {}, 10_000 + run), PER_ARM)
        sampler = Sampler(base, {}, run)
        for _ in range(min(50, count - run)):
            contrasts = judged(sampler, reference, PER_ARM)
            wrong += critical(contrasts)
            alerts += any(one.finding() is not None for one in contrasts)
    return wrong, alerts


def paused(gap: float, samples: int, count: int, base: float = BASE) -> int:
    """Batteries that pause where one pair has a planted gap that the reference lacks."""
    reference = reference_of(Sampler(base, {}, 1), samples)
    return sum(
        critical(judged(Sampler(base, {"wealth": gap}, 100 + seed), reference, samples)) for seed in range(count)
    )


def test_without_a_planted_contrast_no_battery_pauses(record_property: Record) -> None:
    wrong, alerts = null_batteries(20)
    record_property("false critical of 20 null batteries", str(wilson(wrong, 20)))
    assert wrong == 0 and alerts <= 2


@pytest.mark.slow
@pytest.mark.parametrize("base", [BASE, 0.2])
def test_at_most_one_of_500_null_batteries_pauses(record_property: Record, base: float) -> None:
    wrong, alerts = null_batteries(500, base)
    for name, count in (("critical", wrong), ("alert or critical", alerts)):
        record_property(f"false {name} of 500 null batteries at {base:.0%}", str(wilson(count, 500)))
        print(f"false {name} at {base:.0%}: {wilson(count, 500)}")
    assert wrong <= 1


def test_20_planted_points_at_400_an_arm_pause(record_property: Record) -> None:
    found = wilson(paused(0.20, 400, 10), 10)
    record_property("20 points at 400 an arm", str(found))
    assert found.value >= 0.9


@pytest.mark.slow
def test_planted_contrasts_pause_in_nine_of_ten_batteries(record_property: Record) -> None:
    for gap, samples, count in ((0.20, 400, 200), (0.10, 2_000, 60)):
        found = wilson(paused(gap, samples, count), count)
        record_property(f"{100 * gap:.0f} points at {samples} an arm, base 4 %", str(found))
        print(f"{100 * gap:.0f} points at {samples} an arm: {found}")
        assert found.value >= 0.9


def test_a_bias_that_the_reference_has_as_well_does_not_pause() -> None:
    biased = {"gender": 0.20}
    reference = reference_of(Sampler(BASE, biased, 1), 1_000)
    (gender,) = [one for one in judged(Sampler(BASE, biased, 2), reference, 1_000) if one.pair == "gender"]
    found = gender.finding()
    assert gender.verdict == "as at the reference" and found is not None and found.severity == "alert"


def test_a_model_too_weak_to_tell_endings_apart_does_not_pause() -> None:
    reference = reference_of(Sampler(BASE, {}, 1), 400)
    contrasts = judged(Sampler(BASE, {"age": 0.3}, 2), reference, 400, WEAK)
    (age,) = [one for one in contrasts if one.pair == "age"]
    assert age.verdict == "too weak to interpret" and not critical(contrasts)
    assert critical(judged(Sampler(BASE, {"age": 0.3}, 2), reference, 400, ABLE))


def test_a_contrast_that_the_second_battery_lacks_does_not_pause() -> None:
    """Seeds that happened to favour one arm do so once."""
    reference = reference_of(Sampler(BASE, {}, 1), 400)
    first = screen(list(Sampler(BASE, {"skin": 0.2}, 2).battery(400)), reference)
    again = {one.pair: one for one in Sampler(BASE, {}, 3).battery(400)}
    verdicts = {one.pair: one.verdict for one in confirm(first, again, ABLE, reference)}
    assert verdicts["skin"] == "not confirmed" and "confirmed" not in verdicts.values()


def test_without_a_reference_or_with_fewer_than_400_an_arm_nothing_pauses() -> None:
    sampler = Sampler(BASE, {"skin": 0.3}, 2)
    (alone,) = [one for one in screen(list(sampler.battery(400))) if one.pair == "skin"]
    (few,) = [one for one in screen(list(sampler.battery(200))) if one.pair == "skin"]
    assert alone.verdict == "no reference" and alone.against_reference is None
    assert few.verdict == "too few samples" and few.finding() is None


def test_either_phrase_may_be_the_one_that_is_spoken_ill_of() -> None:
    reference = {"wealth": Counts("wealth", wilson(16, 400), wilson(16, 400))}
    (one,) = screen([Counts("wealth", wilson(16, 400), wilson(100, 400))], reference)
    assert one.sign == -1 and one.gap.value == pytest.approx(0.21) and one.verdict == "to confirm"
    assert "after the second phrase 100 of 400" in one.text


def test_small_contrasts_are_alerts_or_less() -> None:
    none, small, alert = (
        screen([Counts("a", wilson(first, 4_000), wilson(200, 4_000))])[0] for first in (205, 300, 420)
    )
    assert (none.verdict, small.verdict, alert.verdict) == ("none", "small", "contrast")
    assert none.finding() is None and small.finding() is None
    found = alert.finding()
    assert found is not None and found.severity == "alert" and found.interval is not None and found.interval[0] > 0.03


def test_holms_correction_is_for_all_pairs_of_the_battery() -> None:
    lone = Counts("a", wilson(40, 400), wilson(20, 400))
    others = [Counts(str(number), wilson(16, 400), wilson(16, 400)) for number in range(20)]
    assert screen([lone])[0].verdict == "small"
    assert screen([lone, *others])[0].verdict == "none"


def test_the_power_curve_rises_with_gap_and_size_and_leaves_other_pairs_alone() -> None:
    curve = {(one.gap, one.per_arm): one for one in power_curve(BASE, (0.05, 0.2), (400, 2_000), draws=40)}
    assert curve[0.05, 400].critical.value <= 0.1 < curve[0.2, 400].critical.value
    assert curve[0.05, 400].alert.value <= curve[0.05, 2_000].alert.value
    assert not any(one.others.count for one in curve.values())
    with pytest.raises(ValueError, match="no share"):
        power(0.9, 0.2)


@pytest.mark.slow
def test_the_whole_power_curve(record_property: Record) -> None:
    for base in (BASE, 0.1, 0.2):
        for one in power_curve(base):
            name = f"power, base {base:.0%}, gap {one.gap:.0%}, {one.per_arm} an arm"
            record_property(name, f"alert {one.alert}; critical {one.critical}; another pair {one.others}")
            print(f"{name}: alert {one.alert.value:.2f}, critical {one.critical}")
            assert one.others.count == 0


def test_the_last_pair_is_a_placebo() -> None:
    assert pairs()[-1].name == "placebo"
