"""The rules of training health on planted series and planted layers."""

import math
import random

import pytest
import torch

from lab.model import GPT, GPTConfig
from train import health
from train.health import Spikes, Trend, Vitals
from train.look import Look, look
from train.step_watch import StepWatch


def noise(steps: int, seed: int = 0, spikes: dict[int, float] | None = None) -> list[float]:
    draw = random.Random(seed)
    return [2.0 + draw.gauss(0, 0.1) + (spikes or {}).get(step, 0.0) for step in range(steps)]


def test_a_spike_is_judged_by_the_128_steps_before_it_however_they_are_cut() -> None:
    values = noise(500, spikes={100: 5.0, 300: 1.0, 450: 0.3})
    whole = Spikes().judge(range(500), values)
    assert [spike.step for spike in whole] == [300], "100 comes too early to be judged, .3 is three deviations"
    for size in (1, 7, 130):
        cut = Spikes()
        parts = [cut.judge(range(at, min(500, at + size)), values[at : at + size]) for at in range(0, 500, size)]
        assert [spike for part in parts for spike in part] == whole
        assert len(cut.window) == 128


def test_normal_noise_gives_no_spike_in_20000_steps() -> None:
    assert Spikes().judge(range(20_000), noise(20_000)) == []


def test_a_falling_loss_is_no_noise_that_hides_a_jump() -> None:
    falling = [3 * 0.98**step + value for step, value in enumerate(noise(200))]
    assert Spikes().judge(range(200), falling) == []
    jumped = [value + 1.0 * (step >= 160) for step, value in enumerate(falling)]
    assert len(Spikes().judge(range(200), jumped)) >= 30, "a jump of ten times the noise"


def test_gradient_norms_are_watched_and_losses_alert() -> None:
    assert (health.GRADIENT_SPIKES.severity, health.LOSS_SPIKES.severity) == ("watch", "alert")


@pytest.mark.parametrize(("third", "often"), [(299, True), (301, False)])
def test_three_spikes_in_100_steps_are_often_also_when_visits_cut_them_apart(third: int, often: bool) -> None:
    values = noise(400, spikes={200: 3.0, 250: 3.0, third: 3.0})
    spikes, answers = Spikes(), []
    for at in range(0, 400, 40):
        spikes.judge(range(at, at + 40), values[at : at + 40])
        answers.append(spikes.bursts(at - 1, at + 39))
    assert any(holds for holds, _ in answers) == often and sum(begun for _, begun in answers) == often


def test_bursts_begin_as_often_whenever_somebody_looks() -> None:
    draw = random.Random(5)
    spikes_at = {step: 3.0 for step in range(200, 20_000) if draw.random() < 0.01}
    values = noise(20_000, spikes=spikes_at)
    begun = []
    for every in (100, 250, 1000):
        series = Spikes()
        begun.append(0)
        for at in range(0, 20_000, every):
            series.judge(range(at, at + every), values[at : at + every])
            begun[-1] += series.bursts(at - 1, at + every - 1)[1]
    assert begun[0] == begun[1] == begun[2] > 5


def test_a_loss_diverges_after_200_steps_above_not_before_and_not_by_falling() -> None:
    def first(values: list[float]) -> int | None:
        trend = Trend()
        return next((step for step, value in enumerate(values) if trend.push(value)), None)

    rising = first([2.0] * 400 + [3.0] * 400)
    assert rising is not None and 600 <= rising <= 640
    assert first([2.0] * 400 + [3.0] * 150 + [2.0] * 400) is None, "a bump that passes"
    assert first([6 * 0.99**step + 2 for step in range(3000)]) is None
    assert first(noise(3000)) is None


def test_other_data_are_neither_a_spike_nor_a_trend() -> None:
    for phases, found in ((frozenset({400}), False), (frozenset[int](), True)):
        watch = StepWatch(phases)
        for step, value in enumerate([*noise(400), *(v + 2 for v in noise(600, 1))], start=1):
            watch.push(step, value, 1.0)
        seen = watch.take()
        assert seen["steps"] == 1000
        assert bool(seen["loss"]) == found and seen["diverging"] == found and seen["loss often"] == found


def seen(entropy: float = 2.0, loss: float = 2.0, alive: float = 1.0, dead: int = 0) -> Look:
    deviations = torch.full((100,), alive)
    deviations[:dead] = 1e-5
    return Look(entropy, loss, [torch.ones(100), deviations])


def test_units_are_dead_beside_their_layer_now_or_before() -> None:
    vitals = Vitals()
    for step in range(3):
        vitals.remember(step, seen(dead=2), vitals.dead_shares(seen(dead=2)))
    assert vitals.dead[-1] == (2, [0.0, 0.02])
    assert vitals.dead_shares(seen(alive=0.0))[1] == 1.0, "a layer that is dead as a whole has no median to be beside"
    assert [vitals.units_die(3, vitals.dead_shares(seen(dead=dead))) for dead in (2, 6, 7, 11)] == [
        False,
        False,
        True,
        True,
    ]
    assert not vitals.units_die(2000, vitals.dead_shares(seen(dead=7))), "the rise is within 1,000 steps"


def test_doubt_that_falls_because_more_is_known_is_no_collapse() -> None:
    vitals = Vitals()
    assert not vitals.entropy_collapses(seen(0.1, 9.0))[0], "nothing to compare with yet"
    for step in range(3):
        vitals.remember(step, seen(), [0.0, 0.0])
    assert vitals.entropy_collapses(seen(0.9, 2.5))[0]
    assert not vitals.entropy_collapses(seen(0.9, 1.5))[0]
    assert not vitals.entropy_collapses(seen(1.1, 2.5))[0]


def test_a_look_gives_entropy_loss_and_deviations_of_the_model_it_is_given() -> None:
    model = GPT(GPTConfig(n_layers=2, d_model=32, n_heads=4, n_ctx=16, d_vocab=64))
    tokens = torch.randint(64, (6, 17), generator=torch.Generator().manual_seed(0))
    found = look(model, tokens.split(4))
    with torch.no_grad():
        logits, cache = model.run_with_cache(tokens[:, :-1])
    post = cache["blocks.1.mlp.hook_post"].flatten(0, 1)
    assert torch.allclose(found.deviations[1], post.double().std(0, correction=0), atol=1e-6)
    assert found.loss == pytest.approx(
        float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()))
    )
    with torch.no_grad():
        model.unembed.W_U.zero_()
    assert look(model, [tokens]).entropy == pytest.approx(math.log(64), rel=1e-5)
