"""Starting, stopping, resuming, rewinding and extending a run, in one process."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lab import checkpoint
from lab.config import RunConfig
from lab.errors import LabError
from lab.run import Run
from lab.run_lock import RunLocked
from tests.train.digest import digest, losses
from tests.train.riders import Diary, Nudge
from train.loop import Outcome, train
from train.session import CannotResume, Riders, Session, resume, start

Config = Callable[..., RunConfig]
SHORT = ("train.steps=12", "optimizer.warmup_steps=3", "checkpoint.every=4", "evaluation.every=6", "probing.every=0")


def run_to(config: RunConfig, root: Path, name: str, stop_at: int | None = None, riders: Riders | None = None) -> Run:
    """Train a new run, to its horizon or as if SIGINT had come at a step."""
    with start(config, root, name, riders=riders) as session:
        finish(session, stop_at)
        return session.run


def finish(session: Session, stop_at: int | None = None) -> Outcome:
    def interrupt(session: Session) -> None:
        if session.step == stop_at:
            session.control.stop_reason = "SIGINT"

    session.report = interrupt
    outcome = train(session)
    session.records.end_segment(session.segment, session.step, outcome.reason)
    return outcome


@pytest.fixture(scope="module")
def reference(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Run:
    """Twelve steps without a pause, a diary and a nudge along; a parameter is further overrides."""
    root, config = tmp_path_factory.mktemp("runs"), tiny_config(*SHORT, *getattr(request, "param", ()))
    return run_to(config, root, "reference", riders=Riders([Diary()], [Nudge()]))


def resumed_without(piece: str | None, reference: Run, name: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The reference run, stopped at step 5 and resumed with one piece of its state left out."""
    run = run_to(reference.config, reference.path.parent, name, stop_at=5, riders=Riders([Diary()], [Nudge()]))
    pieces = Session.pieces

    def without(self: Session, saved: checkpoint.Checkpoint) -> dict[str, Callable[[], object]]:
        return {key: restore for key, restore in pieces(self, saved).items() if key != piece}

    monkeypatch.setattr(Session, "pieces", without)
    with resume(run, riders=Riders([Diary()], [Nudge()])) as session:
        finish(session)
    return run


MUON = ("optimizer.kind=muon",)
KINDS = pytest.mark.parametrize("reference", [(), MUON, ("train.checkpoint_blocks=true",)], indirect=True)


@KINDS
def test_stopping_and_resuming_is_bit_exact(reference: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run = resumed_without(None, reference, "whole", monkeypatch)
    assert digest(run) == digest(reference)
    assert losses(run) == losses(reference)


@pytest.mark.parametrize(
    "piece", ["counters", "weights", "optimizer", "corpus", "generators", "attachments", "interventions"]
)
def test_a_resume_that_leaves_out_any_piece_of_state_is_another_run(
    piece: str, reference: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.rand(1)  # so that generators that were not put back are elsewhere
    run = resumed_without(piece, reference, f"without-{piece}", monkeypatch)
    assert (digest(run), losses(run)) != (digest(reference), losses(reference))


def test_every_piece_of_state_is_named_in_the_mutation_test(tiny_config: Config, tmp_path: Path) -> None:
    marks: Any = test_a_resume_that_leaves_out_any_piece_of_state_is_another_run
    named = set(marks.pytestmark[0].args[1])
    with start(tiny_config(*SHORT), tmp_path, "pieces") as session:
        state = {key: {} for key in ("corpus", "generators", "attachments", "interventions")}
        info: Any = None
        saved = checkpoint.Checkpoint(info, {}, {}, state | {"step": 0, "horizon": 0, "tokens_seen": 0})
        assert set(session.pieces(saved)) == named
        counters = {"step", "horizon", "tokens_seen", "micro_batch"}
        assert set(session.state()) - counters - {"segment", "config_hash"} <= named


def test_observing_changes_no_bit_of_weights_or_optimizer(tiny_config: Config, tmp_path: Path) -> None:
    plain = run_to(tiny_config(*SHORT, "evaluation.every=0"), tmp_path, "plain")
    watching = ("probing.every=3", "probing.sentences=40", "evaluation.every=2")
    watched = run_to(tiny_config(*SHORT, *watching), tmp_path, "watched", riders=Riders([Diary(every=1)]))
    same = ("model.safetensors", "optimizer.safetensors", "generators", "corpus")
    assert {key: digest(plain)[key] for key in same} == {key: digest(watched)[key] for key in same}
    assert losses(plain) == losses(watched)
    with watched.records() as records:
        assert records.reading_steps(), "probing wrote nothing, so the comparison would prove nothing"


@pytest.mark.parametrize("more", [(), MUON])
def test_a_non_finite_loss_never_reaches_the_weights(tiny_config: Config, tmp_path: Path, more: tuple[str]) -> None:
    config = tiny_config(*SHORT, *more)
    clean = run_to(config, tmp_path, "clean", stop_at=7, riders=Riders([], [Nudge()]))
    with start(config, tmp_path, "poisoned", riders=Riders([], [Nudge(nan_at=7)])) as session:
        assert finish(session) == Outcome("non-finite", 3)
        run = session.run
    assert digest(run, 7)["model.safetensors"] == digest(clean, 7)["model.safetensors"]
    assert (run.path / "evidence" / "non-finite-step-000000007.safetensors").exists()
    with run.records() as records:
        assert any(event.kind == "non-finite" for event in records.events())
    with resume(run, skip_batches=1, riders=Riders([], [Nudge()])) as session:
        assert finish(session).reason == "finished"


def test_a_finished_run_goes_on_only_when_extended_and_says_what_happens_to_the_rate(
    tiny_config: Config, tmp_path: Path
) -> None:
    run = run_to(tiny_config(*SHORT), tmp_path, "short")
    with pytest.raises(CannotResume, match="--extend-to 24"), resume(run):
        pass
    with pytest.raises(CannotResume, match="not after"), resume(run, extend_to=12):
        pass
    assert run.state() == "finished", "a refused resume must leave no open segment"
    with resume(run, extend_to=16) as session:
        assert finish(session).reason == "finished"
    with run.records() as records:
        assert any("learning rate goes from" in event.text for event in records.events())
        assert [step for _, step, _ in records.series("train/loss")] == list(range(1, 17))
    with resume(run, extend_to=18) as session:  # the horizon is the checkpoint's, not the configuration's
        assert session.horizon == 18


def test_a_rewind_keeps_the_overtaken_history(tiny_config: Config, tmp_path: Path) -> None:
    run = run_to(tiny_config(*SHORT, "checkpoint.keep=5"), tmp_path, "rewound")
    before = losses(run)
    with resume(run, from_step=8) as session:
        finish(session)
    assert losses(run) == before  # the same state, the same batches, the same losses
    with run.records() as records:
        assert len(records.series("train/loss", lineage_only=False)) == 12 + 4


def test_a_second_trainer_is_refused_and_told_who_holds_the_run(tiny_config: Config, tmp_path: Path) -> None:
    with (
        start(tiny_config(*SHORT), tmp_path, "held") as session,
        pytest.raises(RunLocked, match="training"),
        resume(session.run),
    ):
        pass


def test_a_full_disk_holds_the_run_until_there_is_room(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = [0, 0, 0]  # three looks find the disk full, then the real one answers
    usage = shutil.disk_usage

    def disk_usage(path: Any) -> Any:
        real = usage(path)
        return real._replace(free=room.pop()) if room else real

    said: list[str] = []
    with start(tiny_config(*SHORT, "checkpoint.log_spaced=false"), tmp_path, "full") as session:
        session.say = said.append
        monkeypatch.setattr(shutil, "disk_usage", disk_usage)
        assert finish(session).reason == "finished"
        run = session.run
    with run.records() as records:
        kinds = [event.kind for event in records.events()]
        assert "hold" in kinds and "release" in kinds and not records.latches()
    assert len(said) == 2 and "stands still" in said[0] and "2 ×" in said[0] and "goes on" in said[1]


def test_changed_text_is_refused_on_resume(tiny_config: Config, tmp_path: Path, text_file: Path) -> None:
    copy = tmp_path / "story.txt"
    copy.write_text(text_file.read_text())
    source = f'data.sources=[{{name="story", kind="text", path="{copy}"}}]'
    run = run_to(tiny_config(*SHORT, source), tmp_path / "runs", "changing", stop_at=5)
    copy.write_text(copy.read_text() + "\n\nAnother ending altogether.")
    with pytest.raises(CannotResume, match="text has changed"), resume(run):
        pass


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_again_from_nothing(
    tiny_config: Config, tmp_path: Path
) -> None:
    run = run_to(tiny_config(*SHORT), tmp_path, "damaged")
    for file in run.checkpoints_folder.glob("step-*/model.safetensors"):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    with pytest.raises(CannotResume, match="quarantine"), resume(run, extend_to=20):
        pass
    with pytest.raises(CannotResume, match="quarantine"), resume(run, extend_to=20):  # nor at the second try
        pass


def test_a_crash_ends_the_segment_and_says_how(tiny_config: Config, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), start(tiny_config(*SHORT), tmp_path, "crashed") as session:
        session.report = lambda session: 1 / 0  # type: ignore[assignment,return-value]
        train(session)
    with session.run.records() as records:
        assert (records.segments()[-1].reason or "").startswith("failed: ZeroDivisionError")


def test_a_device_that_is_not_there_leaves_no_run_behind(tiny_config: Config, tmp_path: Path) -> None:
    if torch.cuda.is_available():
        return
    with pytest.raises(LabError, match="no such device"), start(tiny_config(*SHORT, "train.device=cuda"), tmp_path):
        pass
    assert Run.ls(tmp_path) == []


def test_the_reference_checkpoint_is_saved_and_kept(tiny_config: Config, tmp_path: Path) -> None:
    settings = (*SHORT, "checkpoint.log_spaced=false", "checkpoint.keep=2", "checkpoint.every=1", "reference.step=3")
    run = run_to(tiny_config(*settings), tmp_path, "referenced")
    assert [info.step for info in checkpoint.list_checkpoints(run.checkpoints_folder)] == [3, 11, 12]
