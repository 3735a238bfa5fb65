"""Shimmer as it rides along and afterwards: the same numbers, of this history only, and reasons instead of numbers."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lab.concepts import Concept, ConceptMissing, remove
from lab.config import RunConfig
from lab.records import Event, Reading, Records, Regime
from lab.run import Run
from probes.concepts.snapshot import standard_error
from probes.concepts.states import life
from probes.layers.profile import UnknownTask
from tests.train.digest import digest
from train.loop import train
from train.session import resume, start
from train.shimmer import NoShimmer, shimmer, states
from train.snapshot_files import path_of, read, stored_steps
from train.snapshots import Eyes

Config = Callable[..., RunConfig]
SHORT = ("train.steps=8", "optimizer.warmup_steps=1", "checkpoint.every=4", "checkpoint.log_spaced=false")
OFF = ("evaluation.every=0", "understanding.every=0", "probing.every=0")
QUIET = (*SHORT, *OFF, "probing.sentences=60", 'probing.tasks=["class.next", "class.current"]')
LIVE = (*QUIET, "shimmer.every=2", "shimmer.log_spaced=false")
CHECKPOINTS = [0, 4, 8]
VISITS = [0, 2, 4, 6, 8]


def trained(config: RunConfig, root: Path, name: str) -> Run:
    with start(config, root, name) as session:
        outcome = train(session)
        session.records.end_segment(session.segment, session.step, outcome.reason)
    return session.run


@pytest.fixture(scope="module")
def original(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return trained(tiny_config(*LIVE), tmp_path_factory.mktemp("runs"), "live")


@pytest.fixture
def run(original: Run, tmp_path: Path) -> Run:
    """A copy that a test may change."""
    shutil.copytree(original.path.parent, tmp_path / "runs")
    return Run.open(tmp_path / "runs" / "live")


def concept(run: Run, name: str, source: dict[str, object], step: int = 4, classes: int = 2) -> Concept:
    """A subspace of layer 1 with a probe on its first coordinate."""
    basis = torch.linalg.qr(torch.randn(64, 2, generator=torch.Generator().manual_seed(0))).Q
    made = Concept(
        name=name,
        layer=1,
        basis=basis,
        mean=torch.zeros(64),
        weight=torch.tensor([[-1.0, 0.0], [1.0, 0.0]])[:classes],
        bias=torch.zeros(classes),
        classes=("content", "function")[:classes],
        checkpoint={"step": step, "sha256": run.checkpoint_info(step).weights_sha256},
        tokenizer=run.tokenizer().sha256,
        details={"source": source},
    )
    made.save(run)
    return made


def test_a_visit_keeps_a_file_and_rows_that_agree(original: Run) -> None:
    assert stored_steps(original) == VISITS
    with original.records() as records:
        rows = records.readings(reading="shimmer", step=4)
        assert records.reading_steps("shimmer") == VISITS and records.tasks("shimmer") == [
            "class.current.raw",
            "class.next",
        ]
        assert records.reading_steps() == records.tasks() == [], "views of the probes' readings must not see these"
        assert len(records.rows(Regime, name="shimmer")) == 1
    stored = read(original, 4)
    assert stored is not None
    seen = Eyes.open(original, original.tokenizer(), lambda: [])
    for name in ("class.next", "class.current.raw"):
        one = stored.snapshot(name)
        error = standard_error(one.gain, one.words, seen.frame.unit)
        for row in (row for row in rows if row.task == name):
            assert row.value == float(one.bits()[row.layer]) and row.n == one.n > 100
            assert (row.hi - row.lo) / 2 == pytest.approx(1.959964 * float(error[row.layer]))


def test_afterwards_gives_the_numbers_of_the_live_visits(run: Run, original: Run) -> None:
    for step in VISITS:
        path_of(run, step).unlink()
    found = shimmer(run)
    assert list(found.steps) == CHECKPOINTS and {t.layer for t in found.tracks} == {0, 1, 2}
    for step in CHECKPOINTS:
        live, again = load_file(path_of(original, step)), load_file(path_of(run, step))
        assert live.keys() == again.keys() and all(torch.equal(live[key], again[key]) for key in live)


def test_visits_between_checkpoints_are_followed_too_and_states_are_those_of_the_records(run: Run) -> None:
    found = shimmer(run, tasks=["class.next"])
    assert list(found.steps) == VISITS and len(found.tracks) == 3 and not found.missing and not found.untestable
    for one in found.tracks:
        assert states(run, "class.next", one.layer) == [(point.step, point.state) for point in one.points]
    with pytest.raises(NoShimmer, match="layers 0, 1, 2"):
        states(run, "class.next")
    with pytest.raises(NoShimmer, match="layers 0, 1, 2"):
        states(run, "class.next", 7)
    assert states(run, "no-such-concept") == []


def test_looking_changes_no_weight(original: Run, tiny_config: Config, tmp_path: Path) -> None:
    silent = trained(tiny_config(*QUIET), tmp_path / "runs", "silent")
    assert stored_steps(silent) == []
    left, right = digest(silent), digest(original)
    same = ("model.safetensors", "optimizer.safetensors", "corpus", "generators")
    assert [left[piece] for piece in same] == [right[piece] for piece in same]


def test_the_result_is_json_and_names_its_steps(run: Run) -> None:
    data = json.loads(json.dumps(shimmer(run, tasks=["class.current"], layers=[2]).to_dict(), allow_nan=False))
    (only,) = data["tracks"]
    assert only["name"] == "class.current.raw" and only["layer"] == 2, "a label is followed alone, not given layer 0"
    assert [point["step"] for point in only["points"]] == VISITS and only["index"] is None


def test_a_concept_is_followed_at_its_layer_by_the_labels_it_was_found_from(run: Run) -> None:
    concept(run, "classes", {"kind": "task", "task": "class.next"})
    found = shimmer(run, concepts=["classes"])
    (only,) = found.tracks
    assert (only.name, only.layer) == ("concept.classes", 1) and list(
        found.steps
    ) == CHECKPOINTS  # no weights elsewhere
    stored = read(run, 4)
    assert stored is not None and {"class.next", "concept.classes"} <= set(stored.cards), "what was there stays there"
    one = stored.snapshot("concept.classes")
    assert one.classes == ("content", "function") and one.n == stored.snapshot("class.next").n
    assert one.projection is not None and one.projection.shape[1] == 2
    assert sorted(found.missing) == [2, 6]
    assert states(run, "classes") == [], "no live visit saw it"
    assert states(run, "classes", make=True) == [(point.step, point.state) for point in only.points]


def test_a_concept_without_labels_is_followed_by_what_its_own_probe_said_at_first(run: Run) -> None:
    concept(run, "words", {"kind": "words"})
    found = shimmer(run, concepts=["words"])
    (only,) = found.tracks
    at = {point.step: point.bits for point in only.points}
    assert at[4] > 0.8, "in the weights it was found in, its probe's own decisions are readable from its coordinates"
    assert max(at.values()) == at[4] or at[8] > 0.5


@pytest.mark.slow
def test_a_direction_without_classes_is_followed_by_its_sides(run: Run) -> None:
    concept(run, "direction", {"kind": "file"}, classes=0)
    (only,) = shimmer(run, concepts=["direction"]).tracks
    assert {p.step: p.bits for p in only.points}[4] > 0.8


def test_a_concept_from_weights_that_are_gone_is_untestable_and_says_why(run: Run) -> None:
    made = concept(run, "orphan", {"kind": "words"})
    remove(run, "orphan")
    Concept(**{**vars(made), "checkpoint": {"step": 5, "sha256": "0" * 64}}).save(run)
    found = shimmer(run, concepts=["orphan"])
    assert not found.tracks and "checkpoint it was found in (step 5)" in found.untestable["concept.orphan"]


@pytest.mark.slow
def test_a_concept_found_anew_is_read_anew(run: Run) -> None:
    made = concept(run, "classes", {"kind": "task", "task": "class.next"})
    before = shimmer(run, concepts=["classes"]).tracks[0].newest.bits
    other = torch.linalg.qr(torch.randn(64, 2, generator=torch.Generator().manual_seed(1))).Q
    Concept(**{**vars(made), "basis": other}).save(run, replace=True)
    assert shimmer(run, concepts=["classes"]).tracks[0].newest.bits != before


def test_a_live_run_follows_a_concept_and_tells_its_states(original: Run, tiny_config: Config, tmp_path: Path) -> None:
    shutil.copytree(original.path.parent, tmp_path / "runs")
    run = Run.open(tmp_path / "runs" / "live")
    concept(run, "classes", {"kind": "task", "task": "class.next"}, step=8)
    with resume(run, extend_to=12) as session:
        outcome = train(session)
        session.records.end_segment(session.segment, session.step, outcome.reason)
    assert [step for step, _ in states(run, "classes")] == [10, 12]


def test_a_history_that_a_rewind_left_is_not_followed(run: Run) -> None:
    with resume(run, from_step=4) as session:
        session.records.end_segment(session.segment, session.step, "stopped")
    found = shimmer(run, tasks=["class.next"])
    assert list(found.steps) == [0, 2, 4, 8] and found.missing == (6,)
    assert [step for step, _ in states(run, "class.next", 1)] == [0, 2, 4]


def test_a_damaged_file_is_made_anew_where_there_is_a_checkpoint(run: Run, original: Run) -> None:
    for step in (4, 6):
        file = path_of(run, step)
        file.write_bytes(file.read_bytes()[:500])
    found = shimmer(run, tasks=["class.next"])
    assert 4 in found.steps and found.missing == (6,)
    again, live = load_file(path_of(run, 4)), load_file(path_of(original, 4))
    assert all(torch.equal(again[key], live[key]) for key in again)


@pytest.mark.slow
def test_files_of_another_protocol_are_not_mixed_in(run: Run) -> None:
    config = run.config.model_copy(update={"probing": run.config.probing.model_copy(update={"seed": 5})})
    run.update_config(config)
    found = shimmer(run, tasks=["class.next"])
    assert list(found.steps) == CHECKPOINTS and found.missing == (2, 6)


def test_a_folder_that_cannot_be_written_is_read_all_the_same(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = shimmer(run, tasks=["class.next"]).to_dict()
    path_of(run, 4).unlink()
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert shimmer(run, tasks=["class.next"]).to_dict() == expected and not path_of(run, 4).exists()


def test_what_there_is_not_is_refused_by_name(run: Run) -> None:
    with pytest.raises(UnknownTask, match=r"class\.nxt"):
        shimmer(run, tasks=["class.nxt"])
    with pytest.raises(ConceptMissing, match="none yet"):
        shimmer(run, concepts=["ghost"])
    with pytest.raises(NoShimmer, match="--layer 9"):
        shimmer(run, layers=[9])


@pytest.mark.slow
def test_too_little_text_is_an_event_not_a_crash(tiny_config: Config, tmp_path: Path) -> None:
    short = trained(tiny_config(*QUIET[:-2], "probing.sentences=12", "shimmer.every=8"), tmp_path / "runs", "short")
    with short.records() as records:
        events = [e for e in records.rows(Event) if e.kind == "untestable"]
        assert records.readings(reading="shimmer") == []
    assert {event.data["attachment"] for event in events} == {"shimmer"}
    assert len({event.data["task"] for event in events}) == len(events), "said once, not at every visit"


def test_a_new_regime_is_another_series(original: Run, tmp_path: Path) -> None:
    """Bits under another protocol are not the same bits: states begin anew."""
    with Records.writer(tmp_path / "run.db") as records:
        segment = records.new_segment(from_step=0, resumed_from=None, config_hash="x")
        for number in (0, 1):
            records.add_now(Regime(name="shimmer", step=8 * number, protocol={"n": number}, hash=str(number)))
        for step in range(16):
            records.add_now(
                Reading(
                    task="concept.fox", reading="shimmer", segment=segment, step=step, layer=1, regime=1 + step // 8,
                    value=0.3, lo=0.28, hi=0.32, n=400,
                )
            )  # fmt: skip
        found = states(records, "fox")
    assert [step for step, _ in found] == list(range(8, 16))
    assert tuple(state for _, state in found) == life(range(8), [0.3] * 8, [0.01] * 8).states
