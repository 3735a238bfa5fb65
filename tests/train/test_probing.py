"""Probing as it rides along: rows beside the twin's, the same set at every visit, and reasons instead of numbers."""

import json
import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.checkpoint import CheckpointInfo
from lab.config import RunConfig
from lab.model import GPT, GPTConfig
from lab.records import Event, Regime
from lab.run import Run
from probes.layers.labels import BadProbeSet
from probes.layers.lexical import LEXICAL_SHARE
from probes.layers.profile import Profile, UnknownTask, is_lexical, profile_table, with_raw
from train import probing_steps
from train.loop import train
from train.probing import NoReadings, Probing, probe_run, stored_profiles
from train.probing_steps import ProbingEnded, probe_all
from train.profiles import Profiles
from train.session import Session, start

Config = Callable[..., RunConfig]
SHORT = ("train.steps=4", "optimizer.warmup_steps=1", "checkpoint.every=4", "evaluation.every=0")
PROBED = (*SHORT, "probing.every=2", "probing.log_spaced=false", "probing.sentences=60")


@pytest.fixture(scope="module")
def run(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Four steps, visited at 0, 2 and 4."""
    with start(tiny_config(*PROBED), tmp_path_factory.mktemp("runs"), "probed") as session:
        outcome = train(session)
        session.records.end_segment(session.segment, session.step, outcome.reason)
    return session.run


def test_a_visit_writes_every_layer_of_a_task_beside_the_twin(run: Run) -> None:
    with run.records() as records:
        assert records.reading_steps() == [0, 2, 4]
        rows = records.readings("class.next", step=4)
        assert {"class.current", "class.current.raw", "class.next"} <= set(records.tasks())
        assert [row.layer for row in rows] == [0, 1, 2]
        for row in rows:
            assert math.isfinite(row.value) and row.lo <= row.value <= row.hi
            assert row.n > 100 and row.baseline is not None and math.isfinite(row.baseline)
        assert len(records.rows(Regime, name="probing")) == 1


def test_the_probe_set_and_the_twin_are_kept_in_the_run(run: Run) -> None:
    probe_set = json.loads((run.statistics / "probe_set.json").read_text())
    assert len(probe_set["sentences"]) == 60
    twin = json.loads((run.statistics / "probe_twin.json").read_text())
    with run.records() as records:
        rows = records.readings("class.next", step=2)
    assert [row.baseline for row in rows] == twin["tasks"]["class.next"]["value"]
    assert not list(run.statistics.glob(".tmp-*"))


def test_the_twin_is_not_the_embedding_repeated_at_every_layer(run: Run) -> None:
    twin = GPT(GPTConfig.from_config(run.config.model), seed=5)
    assert not torch.equal(twin.W_E, run.model(0).W_E)
    _, cache = twin.run_with_cache(torch.arange(20)[None])
    first, last = cache["blocks.0.hook_resid_pre"], cache["blocks.1.hook_resid_post"]
    assert 0.1 < float((last - first).norm() / first.norm()) < 3


def test_lab_probe_gives_the_numbers_of_the_live_visit(run: Run) -> None:
    live, offline = stored_profiles(run, ["class.next"]), probe_run(run, tasks=["class.next"])
    assert offline.step == live.step == 4
    assert offline.profiles["class.next"].value == pytest.approx(live.profiles["class.next"].value, abs=1e-6)
    assert offline.profiles["class.next"].baseline == live.profiles["class.next"].baseline
    data = json.loads(json.dumps(offline.to_dict()))
    assert data["profiles"]["class.next"]["layers"] == [0, 1, 2]
    assert "class.next" in offline.to_text() and "layer 0 = embedding sum" in offline.to_text()


def test_the_class_of_the_current_word_is_called_lexical(run: Run) -> None:
    found = probe_run(run, tasks=["class.current", "class.current.raw"])
    raw = found.profiles["class.current.raw"].by_layer
    assert raw[0] >= LEXICAL_SHARE * max(raw.values()) and raw[0] > 0.5
    assert found.to_dict()["lexical"] == ["class.current"]
    assert "class.current: lexical" in found.to_text()
    assert max(found.profiles["class.current"].value) < 0.05


def test_a_lexical_task_says_so_though_its_raw_profile_was_not_asked_for(run: Run) -> None:
    for read in (probe_run, stored_profiles):
        found = read(run, tasks=["class.current"])
        assert set(found.profiles) == {"class.current", "class.current.raw"}
        assert found.to_dict()["lexical"] == ["class.current"]
        assert "class.current: lexical" in found.to_text()


def test_a_task_is_lexical_although_layer_0_is_not_among_the_layers_shown(tiny_config: Config, tmp_path: Path) -> None:
    with start(
        tiny_config(*SHORT, "probing.every=0", "probing.sentences=60", "probing.layers=[1]"), tmp_path, "upper"
    ) as session:
        train(session)
    found = probe_run(session.run, tasks=["class.current"])
    assert {profile.layers for profile in found.profiles.values()} == {(1,)}
    assert all(len(profile.baseline or ()) == 1 for profile in found.profiles.values())
    assert found.lexical == ("class.current",)


def test_a_table_shows_both_ends_of_an_interval_and_what_it_covers(run: Run) -> None:
    profile = Profile("class.next", (0,), (0.106,), (0.092,), (0.12,), n=9, sentences=3, baseline=(0.088,))
    found = Profiles("fox", 4, {"class.next": profile}, {})
    assert "+0.106 [+0.092, +0.120] twin +0.088" in found.to_text()
    for text in (found.to_text(), found.to_dict()["unit"]):
        assert "nominal 95 % intervals (about 92 % measured: probes are not refitted in the bootstrap)" in text


def test_a_probe_names_the_step_it_read_although_a_newer_checkpoint_appears(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int | None] = []
    info, load = Run.checkpoint_info, Run.model

    def newest_so_far(self: Run, step: int | None = None) -> CheckpointInfo:
        asked.append(step)
        return info(self, 2 if step is None and asked.count(None) == 1 else step)

    monkeypatch.setattr(Run, "checkpoint_info", newest_so_far)  # 2 is the newest at first, 4 from then on
    read: list[int | None] = []
    monkeypatch.setattr(Run, "model", lambda self, step=None: (read.append(step), load(self, step))[1])
    assert probe_run(run, tasks=["class.next"]).step == 2
    assert read == [2]


def test_a_task_without_enough_labels_is_an_event_with_the_reason_and_no_number(run: Run) -> None:
    with run.records() as records:
        written = {(row.task, row.step) for task in records.tasks() for row in records.readings(task)}
        told = {event.data["task"]: event.text for event in records.rows(Event) if event.kind == "untestable"}
        for task in ("supersense.current", "supersense.next"):
            assert ((task, 4) in written) != (task in told)
    shown = stored_profiles(run)
    assert set(shown.untestable) == set(told)


def visited(session: Session, probing: Probing) -> None:
    session.attachments = [probing]
    train(session)


def test_activations_that_are_not_finite_become_events_told_once_and_no_numbers(
    tiny_config: Config, tmp_path: Path
) -> None:
    with start(tiny_config(*PROBED), tmp_path, "broken") as session:
        probing = Probing(session.config.probing)
        session.model.state_dict()["blocks.1.mlp.W_out"].fill_(math.nan)
        session.horizon = 0  # visits only: a step with such weights would be stopped at its loss
        visited(session, probing)
        visited(session, probing)
        session.records.flush()
        events = [event for event in session.records.rows(Event) if event.kind == "untestable"]
        assert {event.data["task"] for event in events} == set(session.config.probing.tasks)
        assert len(events) == len(session.config.probing.tasks)
        assert all("layer 2: activations are not finite" in event.text for event in events)
        assert session.records.reading_steps() == []


def test_text_too_short_to_probe_is_said_and_does_not_stop_training(tiny_config: Config, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text("\n\n".join(f"go {i} x" * 40 for i in range(60)))
    source = f'data.sources=[{{name="story", kind="text", path="{short}"}}]'
    with start(
        tiny_config(*PROBED, source, "model.d_vocab=270", "data.validation_share=0.4"), tmp_path, "short"
    ) as session:
        train(session)
        session.records.flush()
        told = [event.text for event in session.records.rows(Event) if event.kind == "untestable"]
        assert told and all("too few to probe" in text for text in told)


def test_chosen_layers_are_written_and_no_others(tiny_config: Config, tmp_path: Path) -> None:
    config = tiny_config(*PROBED, "probing.layers=[1,2]", 'probing.tasks=["class.current"]', "probing.every=4")
    with start(config, tmp_path, "some") as session:
        train(session)
        session.records.flush()
        rows = session.records.readings("class.current", step=4)
        assert [row.layer for row in rows] == [1, 2]
        assert session.records.tasks() == ["class.current", "class.current.raw"]


def test_a_run_trained_without_probing_can_be_probed_afterwards(tiny_config: Config, tmp_path: Path) -> None:
    with start(tiny_config(*SHORT, "probing.every=0", "probing.sentences=60"), tmp_path, "plain") as session:
        train(session)
    with pytest.raises(NoReadings, match="lab probe plain"):
        stored_profiles(session.run)
    found = probe_run(session.run, tasks=["class.next"])
    assert found.profiles["class.next"].baseline is not None
    with session.run.records() as records:
        assert records.reading_steps() == []  # reading writes no record


def test_an_unknown_task_is_refused_with_the_names_there_are(run: Run) -> None:
    for read in (probe_run, stored_profiles):
        with pytest.raises(UnknownTask, match=r"'class.later' is none of ours. Tasks are: class.current, "):
            read(run, tasks=["class.later"])


def test_an_edited_probe_set_is_refused(tiny_config: Config, tmp_path: Path) -> None:
    with start(tiny_config(*PROBED), tmp_path, "edited") as session:
        train(session)
    file = session.run.statistics / "probe_set.json"
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1').replace("the", "teh", 1))
    with pytest.raises(BadProbeSet, match="Delete it"):
        probe_run(session.run)
    file.write_bytes(b"\x00\xff")
    with pytest.raises(BadProbeSet, match="not a JSON object"):
        probe_run(session.run)


def test_another_interval_or_probe_set_opens_another_regime(tiny_config: Config, tmp_path: Path) -> None:
    with start(tiny_config(*PROBED), tmp_path, "regimes") as session:
        probing = Probing(session.config.probing)
        session.horizon = 2
        visited(session, probing)
        probing.every = 1
        session.horizon = 3
        visited(session, probing)
        session.records.flush()
        assert [regime.step for regime in session.records.rows(Regime, name="probing")] == [0, 3]


def test_a_probing_process_that_is_gone_is_said_with_what_to_do(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Pool(ThreadPoolExecutor):
        """Processes of which the system ends one for want of memory."""

        def __init__(self, jobs: int, mp_context: object) -> None:
            super().__init__(jobs)

        def submit(self, *_: Any, **__: Any) -> Future[Any]:
            gone: Future[Any] = Future()
            gone.set_exception(BrokenProcessPool("A process in the process pool was terminated abruptly"))
            return gone

    monkeypatch.setattr(probing_steps, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(probing_steps, "probe_run", lambda *_: None)
    with pytest.raises(ProbingEnded, match=r"probed: one of 4 probing processes ended.*memory.*--jobs 2\."):
        probe_all(run, jobs=4)


def test_a_raw_profile_is_lexical_when_layer_0_has_nearly_all_of_it() -> None:
    assert is_lexical({0: 0.95, 3: 1.0, 6: 0.2})
    assert not is_lexical({0: 0.9, 3: 1.0})
    assert not is_lexical({0: 0.01, 3: 0.01}) and not is_lexical({1: 1.0}) and not is_lexical({})
    assert with_raw(["class.current", "class.next"]) == ("class.current", "class.next", "class.current.raw")


def test_a_table_has_a_row_for_each_layer(run: Run) -> None:
    rows = profile_table(stored_profiles(run, ["class.next", "class.current"]).profiles)
    assert [row["layer"] for row in rows] == [0, 1, 2]
    assert set(rows[0]["class.next"]) == {"value", "low", "high", "baseline", "n"}


def test_a_thorough_look_agrees_with_the_quick_one_and_adds_control_and_code_length(run: Run) -> None:
    found = probe_run(run, 4, ["class.current", "class.next"], thorough=True)
    check = found.cross_checks["class.next"]
    assert check.layers == (0, 1, 2) and check.bits == pytest.approx(found.profiles["class.next"].value, abs=1e-6)
    assert all(abs(a - b) < 0.1 for a, b in zip(check.bits, check.logistic, strict=True))
    assert all(length > 0 for length in check.code_length) and sum(check.types.values()) > 2
    assert "selectivity" in found.to_text() and "class.next" in found.to_dict()["cross_checks"]
