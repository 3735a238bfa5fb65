"""The understanding module: what it does to a run (nothing, or a pause), its generations and its rhythm."""

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.config import RunConfig
from lab.records import Event, Finding, Regime
from lab.run import Run
from probes.behaviour.fallback import FALLBACK
from probes.behaviour.rates import wilson
from tests.train.digest import digest, losses
from train import bundles, generations, health
from train.control import send
from train.generations import Generated
from train.loop import train
from train.rhythm import DOUBLES, Rhythm, Tally, recorded_rates
from train.session import Session, resume, start
from train.understanding import Understanding

Config = Callable[..., RunConfig]
SHORT = ("train.steps=12", "optimizer.warmup_steps=3", "checkpoint.every=4", "evaluation.every=0", "probing.every=0")
WATCHED = (
    *SHORT,
    "understanding.every=2",
    "understanding.batteries_every=5",
    "understanding.budget=1.0",
    "reference.step=4",
)


def finish(session: Session, at: dict[int, Callable[[Session], object]] | None = None) -> Run:
    """Train on; `at` a step, just before its boundary, something happens."""

    def happen(session: Session) -> None:
        if at and session.step in at:
            at[session.step](session)

    session.report = happen
    outcome = train(session)
    session.records.end_segment(session.segment, session.step, outcome.reason)
    return session.run


def stop(session: Session) -> None:
    session.control.stop_reason = "SIGINT"


def watch_of(session: Session) -> Understanding:
    return next(a for a in session.attachments if isinstance(a, Understanding))


@pytest.fixture(scope="module")
def watched(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Run:
    with start(tiny_config(*WATCHED), tmp_path_factory.mktemp("watched"), "watched") as session:
        return finish(session)


# --------------------------------------------------------------------------------------------------- beside training


def test_watching_changes_no_bit_and_is_no_empty_watch(tiny_config: Config, tmp_path: Path, watched: Run) -> None:
    with start(tiny_config(*WATCHED, "understanding.every=0"), tmp_path, "plain") as session:
        plain = finish(session)
    same = ("model.safetensors", "optimizer.safetensors", "generators", "corpus")
    assert {key: digest(plain)[key] for key in same} == {key: digest(watched)[key] for key in same}
    assert losses(plain) == losses(watched)
    with watched.records() as records:
        steps = {name: [step for _, step, _ in records.series(f"understanding/{name}")] for name in NUMBERS}
        rates = recorded_rates(records)
        assert [row.step for row in records.rows(Regime, name="understanding")] == [0]
    assert steps["entropy"] == [0, 2, 4, 6, 8, 10, 12] and steps["loop_rate"] == [6, 8, 10, 12]
    assert steps["layout_share"] == [5, 10]
    assert rates["health.loss-spike"].checks == 12 and rates["health.disk"].checks == 7
    assert rates[FALLBACK.id].checks == 2, "the batteries looked at steps 5 and 10, both after the reference"


NUMBERS = ("entropy", "loop_rate", "layout_share")


def test_a_resume_goes_on_with_windows_baselines_and_counts(tiny_config: Config, tmp_path: Path, watched: Run) -> None:
    with start(tiny_config(*WATCHED), tmp_path, "stopped") as session:
        finish(session, {7: stop})
    with resume(session.run) as session:
        finish(session)
    assert digest(session.run) == digest(watched)


def test_a_non_finite_loss_leaves_a_critical_finding(tiny_config: Config, tmp_path: Path) -> None:
    with start(tiny_config(*WATCHED), tmp_path, "poisoned") as session:
        session.keep_bad_batch([session.corpus.next_batch(0)], math.nan, math.inf)
        with session.run.records() as records:
            (row,) = records.rows(Finding)
    assert (row.rule, row.severity, row.value) == ("health.non-finite", "critical", None)


# ------------------------------------------------------------------------------------------------------------ pauses


def diverge(session: Session) -> None:
    """Six hundred steps of planted losses: level, then half as high again for good."""
    for step in range(600):
        watch_of(session).follow(step, 2.0 if step < 350 else 3.0, 1.0)


def test_a_critical_rule_saves_holds_and_leaves_a_bundle_that_belongs_to_the_checkpoint(
    tiny_config: Config, tmp_path: Path
) -> None:
    held: list[dict[str, str]] = []
    with start(tiny_config(*WATCHED), tmp_path, "sick") as session:

        def say(text: str) -> None:
            if "stands still" in text:
                held.append(dict(session.control.held) | {"step": str(session.saved_step)})
                send(session.run, "unpause", {"owner": "understanding", "reason": "planted"})

        session.say = say
        run = finish(session, {3: diverge})
    assert len(held) == 1, "a rule that goes on being true holds once"
    assert held[0]["step"] == "4" and "health.divergence" in held[0]["understanding"]
    (folder,) = (run.path / "evidence").iterdir()
    assert folder.name == "bundle-000000004-health.divergence" and folder.name in held[0]["understanding"]
    bundle = json.loads((folder / bundles.FILE).read_text())
    assert bundle["checkpoint"]["weights_sha256"] == run.checkpoint_info(4).weights_sha256
    assert bundle["rule_sha256"] == health.rule_hash(health.DIVERGENCE)
    assert len(bundle["generations"]["samples"]) == len(bundle["generations"]["prompts"]) == 16
    assert bundle["every"] == 2 and bundle["alarms_and_checks"]["2"]["health.divergence"] == [1, 604]
    assert len(bundle["losses"]) == 128
    with run.records() as records:
        assert [row.rule for row in records.rows(Finding) if row.severity == "critical"] == ["health.divergence"]


def test_observing_only_records_and_does_not_pause(tiny_config: Config, tmp_path: Path) -> None:
    with start(tiny_config(*WATCHED, "understanding.observe_only=true"), tmp_path, "observed") as session:
        run = finish(session, {3: diverge})
    with run.records() as records:
        assert "health.divergence" in [row.rule for row in records.rows(Finding)]
        assert not [event for event in records.rows(Event) if event.kind == "hold"]
    assert not run.evidence.exists() or not list(run.evidence.iterdir())


def test_a_bundle_that_the_disk_refuses_leaves_nothing_behind_and_the_run_held(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundles, "write_file", refuse)
    with start(tiny_config(*WATCHED), tmp_path, "refused") as session:
        session.say = lambda text: stop(session)
        run = finish(session, {3: diverge})
        assert "No space left" in session.control.held["understanding"]
    assert not list(run.evidence.iterdir())


# --------------------------------------------------------------------------------------------------------- generations


def test_more_loops_than_the_reference_alert_at_the_second_visit_only(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looping = {4: 10, 6: 9, 8: 2, 10: 9, 12: 9}  # of 16; at the reference, step 4, of 64

    def generate(watch: Any, moment: Any, model: Any, step: int, texts: int, tokens: int = 64) -> Generated:
        ids = [[7] * 40 if text < looping[step] else list(range(40)) for text in range(texts)]
        return Generated([""] * texts, [""] * texts, ids, 0)

    monkeypatch.setattr(Understanding, "_generate", generate)
    with start(tiny_config(*WATCHED, "understanding.batteries_every=0"), tmp_path, "looping") as session:
        run = finish(session)
    with run.records() as records:
        rows = records.rows(Finding, rule="loops.rate")
    assert [row.step for row in rows] == [12]
    assert rows[0].value == pytest.approx(9 / 16 - 10 / 64) and (rows[0].lo or 0) > 0


def test_answers_keep_to_the_vocabulary_and_end_where_the_model_ends(watched: Run) -> None:
    model, tokenizer = watched.model(), watched.tokenizer()
    prompts = torch.full((5, 8), tokenizer.encode("the")[0])
    one, two = (generations.generate(model, tokenizer, prompts, 20, torch.Generator().manual_seed(3)) for _ in range(2))
    assert one == two and {len(ids) for ids in one.ids} <= set(range(21))
    assert not any(token in (tokenizer.end, tokenizer.bos) for ids in one.ids for token in ids)
    nats = generations.losses(model, prompts, one)
    row = max(range(5), key=lambda row: len(one.ids[row]))
    whole = torch.tensor([[*prompts[row].tolist(), *one.ids[row]]])
    expected = model(whole, return_type="loss", loss_per_token=True)[0, 7:].detach().mean()
    assert nats[row] == pytest.approx(float(expected), rel=1e-4)


# ------------------------------------------------------------------------------------------------------------ rhythm


def test_a_new_interval_is_doubled_for_five_visits_on_it() -> None:
    rhythm = Rhythm(100)
    rhythm.change(250)
    visits = {}
    for step in range(1001, 4001):
        if due := rhythm.due(step):
            visits[step] = due
            rhythm.visited(due)
    double = [1100, 1200, 1250, 1300, 1400, 1500, 1600, 1700, 1750, 1800, 1900, 2000, 2100, 2200, 2250]
    assert list(visits) == [*double, *range(2500, 4001, 250)]
    assert sum(250 in due for step, due in visits.items() if step <= 2250) == DOUBLES
    assert visits[1500] == (250, 100) and visits[2500] == (250,)


def simulated(seed: int) -> bool:
    """40,000 steps, the interval changed halfway: whether both regimes' 95 % intervals hold what was planted."""
    draw, rhythm, tally, since = random.Random(seed), Rhythm(100), Tally(), 0
    for step in range(1, 40_001):
        since += 1
        if step == 20_000:
            rhythm.change(250)
        if due := rhythm.due(step):
            tally.count(due, "spikes", sum(draw.random() < 0.01 for _ in range(since)), since)
            tally.count(due, "state", int(draw.random() < 0.1), 1)
            rhythm.visited(due)
            since = 0
    rates = [tally.rates(every)[rule] for every in (100, 250) for rule in ("spikes", "state")]
    return sum(rate.lo <= planted <= rate.hi for rate, planted in zip(rates, (0.01, 0.1) * 2, strict=True)) == 4


def test_changing_100_to_250_leaves_alarms_per_1000_checks_where_they_were() -> None:
    inside = wilson(sum(simulated(seed) for seed in range(60)), 60)
    print(f"all four intervals hold the planted rate: {inside}")
    assert inside.hi >= 0.95**4  # four 95 % intervals


def test_an_interval_changed_while_training_opens_regimes_and_both_schedules_are_counted(
    tiny_config: Config, tmp_path: Path
) -> None:
    at = {3: lambda session: send(session.run, "set-interval", {"name": "understanding", "every": 3})}
    with start(
        tiny_config(*WATCHED, "train.steps=19", "understanding.batteries_every=0"), tmp_path, "changed"
    ) as session:
        run = finish(session, at)
        watch = watch_of(session)
    with run.records() as records:
        regimes = records.rows(Regime, name="understanding")
        steps = [step for _, step, _ in records.series("understanding/entropy")]
    assert [(row.step, row.protocol["every"], row.protocol["double_checks"]) for row in regimes] == [
        (0, 2, False),
        (3, 3, True),
        (18, 3, False),
    ]
    assert steps == [0, 2, 4, 6, 8, 9, 10, 12, 14, 15, 16, 18, 19]
    checks = {every: watch.tally.rates(every)["health.disk"].checks for every in (2, 3)}
    assert checks == {2: 10, 3: 6}


def test_visits_over_their_budget_come_less_often_and_say_so() -> None:
    rhythm = Rhythm(100)
    assert rhythm.pay(0.1, per_step=0.1, share=0.02) is None
    rhythm = Rhythm(100)
    assert rhythm.pay(1.0, per_step=0.1, share=0.02) == (1, pytest.approx(0.1))
    assert rhythm.interval == 800 and rhythm.due(800) and not rhythm.due(100)
    for _ in range(3):
        rhythm.pay(0.5, per_step=0.1, share=0.02)
    assert rhythm.stretch == 8, "half of that is no reason to change again"
    for _ in range(3):
        rhythm.pay(0.1, per_step=0.1, share=0.02)
    assert rhythm.stretch == 1


def test_a_run_tells_of_a_stretched_interval(tiny_config: Config, tmp_path: Path) -> None:
    settings = ("train.steps=40", "understanding.every=10", "understanding.budget=0.00001")
    with start(tiny_config(*SHORT, *settings), tmp_path, "stretched") as session:
        run = finish(session)
    with run.records() as records:
        event = next(event for event in records.rows(Event) if event.kind == "budget")
        assert [step for _, step, _ in records.series("understanding/entropy")] == [0, 10, 20, 40]
        assert [row.step for row in records.rows(Regime, name="understanding")][:2] == [0, 20]
    assert event.data["before"] == 10 and event.data["every"] > 1000 and "not 10" in event.text
