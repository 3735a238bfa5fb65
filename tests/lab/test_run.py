"""A run is one folder that is whole or absent, found by what a person types, and written by one process at a time."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lab
from lab import checkpoint, run_lock
from lab.config import RunConfig, load_config
from lab.errors import LabError
from lab.records import Records
from lab.run import (
    BadName,
    CheckpointMissing,
    NotARun,
    Run,
    RunBroken,
    RunExists,
    RunLocked,
    RunMissing,
    check_name,
    default_root,
    resolve_inside,
)
from lab.run_lock import HolderUnwritten

ROOT = Path(lab.__file__).parents[1]


@pytest.fixture(scope="session")
def tiny() -> RunConfig:
    return load_config("tiny", overrides=["train.seed=7"])


@pytest.fixture
def run(tmp_path: Path, tiny: RunConfig) -> Run:
    return Run.create(tmp_path / "runs", "fox", tiny)


def save(run: Run, step: int) -> None:
    checkpoint.save(run.checkpoints_folder, step, {"w": torch.full((2,), float(step))}, {}, {"step": step})


# ------------------------------------------------------------------------------------------------------------- create


def test_a_new_run_says_how_it_was_made_and_is_private(run: Run, tiny: RunConfig) -> None:
    assert run.config == tiny
    manifest = json.loads((run.path / "manifest.json").read_text())
    assert manifest["seed"] == 7 and manifest["config_hash"] == tiny.hash() and manifest["packages"]["torch"]
    assert {"format", "python", "sqlite", "git", "created_at"} <= manifest.keys()
    assert run.state() == "new" and run.holder() is None
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in run.path.rglob("*")}
    assert {mode for name, mode in modes.items() if (run.path / name).is_dir()} == {0o700}
    assert {mode for name, mode in modes.items() if (run.path / name).is_file()} == {0o600}
    assert stat.S_IMODE(run.path.stat().st_mode) == 0o700


def test_a_name_is_made_up_when_none_is_given(tmp_path: Path, tiny: RunConfig) -> None:
    name = Run.create(tmp_path, None, tiny).name
    day, clock, preset, chance = name.split("-")
    assert (len(day), len(clock), preset, len(chance)) == (8, 4, "tiny", 4) and check_name(name) == name


def test_an_existing_name_is_not_taken_again(run: Run, tiny: RunConfig) -> None:
    before = (run.path / "manifest.json").read_bytes()
    with pytest.raises(RunExists, match=r"runs/fox: exists already.*lab resume fox"):
        Run.create(run.path.parent, "fox", tiny)
    assert (run.path / "manifest.json").read_bytes() == before
    assert [path.name for path in run.path.parent.iterdir()] == ["fox"]


def test_a_creation_that_fails_leaves_nothing(tmp_path: Path, tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> Records:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Records, "writer", full)
    with pytest.raises(RunBroken, match=r"fox: could not be made.*No space left"):
        Run.create(tmp_path, "fox", tiny)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_creation_left_is_invisible_and_swept_later(run: Run, tiny: RunConfig) -> None:
    root = run.path.parent
    run.path.rename(root / ".tmp-fox-00")
    assert Run.ls(root) == []
    with pytest.raises(RunMissing):
        Run.find("latest", root)
    Run.create(root, "hen", tiny)
    assert (root / ".tmp-fox-00").exists()  # it may be at work still
    os.utime(root / ".tmp-fox-00", (1, 1))
    Run.create(root, "elk", tiny)
    assert sorted(path.name for path in root.iterdir()) == ["elk", "hen"]


def test_of_two_that_take_one_name_at_once_one_gets_it(tmp_path: Path, tiny: RunConfig) -> None:
    outcomes: list[str] = []

    def create() -> None:
        try:
            outcomes.append(Run.create(tmp_path, "fox", tiny).name)
        except RunExists:
            outcomes.append("refused")

    threads = [threading.Thread(target=create) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["fox", "refused", "refused", "refused"]
    assert [path.name for path in tmp_path.iterdir()] == ["fox"]


# --------------------------------------------------------------------------------------------------------- open, find


def test_folders_that_are_no_whole_run_are_refused_by_name(run: Run, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(NotARun, match=r"photos: has no config\.toml and no manifest\.json.*copied halfway"):
        Run.open(tmp_path / "photos")
    with pytest.raises(RunMissing, match=r"runs/fx: there is no such folder\. Did you mean fox\?"):
        Run.open(run.path.parent / "fx")
    manifest = json.loads((run.path / "manifest.json").read_text())
    for content, error, wrong in (
        ("{half", RunBroken, "cannot be read"),
        ('{"name": "other tool"}', NotARun, "is no manifest of a run"),
        (json.dumps(manifest | {"format": 9}), RunBroken, r"made by a newer lab \(run format 9; this one knows 1\)"),
    ):
        (run.path / "manifest.json").write_text(content)
        with pytest.raises(error, match=wrong):
            Run.open(run.path)
        assert Run.ls(run.path.parent) == []
    (run.path / "manifest.json").write_text(json.dumps(manifest))
    (run.path / "config.toml").write_text("[model]\nn_layers = 'many'\n")
    with pytest.raises(RunBroken, match=r"config\.toml: is no configuration that this version reads"):
        _ = Run.open(run.path).config


def test_a_run_is_found_by_path_name_beginning_or_as_the_latest(
    tmp_path: Path, tiny: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "runs"
    for age, name in enumerate(("fox", "fox-2", "hen", "hare")):
        run = Run.create(root, name, tiny)
        for file in ("run.db", "manifest.json"):
            os.utime(run.path / file, (1000 - age, 1000 - age))
    assert Run.find("fox", root).name == "fox"  # an exact name, though it begins another
    assert Run.find("he", root).name == "hen"
    assert Run.find("latest", root).name == "fox"
    assert [found.name for found in Run.ls(root)] == ["fox", "fox-2", "hen", "hare"]
    save(Run.find("hare", root), 1)
    assert Run.find("latest", root).name == "hare"  # activity, not creation
    assert Run.find(str(root / "hen"), tmp_path / "elsewhere").name == "hen"
    monkeypatch.chdir(root / "hen")
    assert Run.find("../fox-2", tmp_path).name == "fox-2" and Run.find(".", tmp_path).name == "hen"
    monkeypatch.setenv("LAB_RUNS", str(root))
    assert default_root() == root and lab.load("fox-2").name == "fox-2" and lab.load().name == "hare"
    with pytest.raises(RunMissing, match=r"'h' is the beginning of 2 runs: hare, hen. Write more of it"):
        Run.find("h", root)
    with pytest.raises(RunMissing, match=r"no run is called 'foxx'. Did you mean fox"):
        Run.find("foxx", root)
    with pytest.raises(RunMissing, match=r"holds no runs yet. Start one: lab demo"):
        Run.find("latest", tmp_path / "empty")


@settings(max_examples=60, deadline=None)
@given(reference=st.text(max_size=300))
def test_whatever_is_typed_a_run_is_found_or_missed_in_words(
    tmp_path_factory: pytest.TempPathFactory, reference: str
) -> None:
    with pytest.raises(LabError):
        Run.find(reference, tmp_path_factory.getbasetemp() / "no runs here")


# -------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["fox", "0", "fox--concept-anchor", "a.b_c-d", "x" * 64])
def test_good_names_are_allowed(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a..b", "../a", "a/b", "a\\b", "/a", "-a", ".a", "_a", "A", "ä", "a b", "a\n", "a\0", "x" * 65, "a.",
     "con", "nul", "con.txt", "com1", "lpt9.x", "latest"],
)  # fmt: skip
def test_bad_names_are_refused_before_anything_is_made(tmp_path: Path, tiny: RunConfig, name: str) -> None:
    with pytest.raises(BadName, match="run name"):
        check_name(name)
    with pytest.raises(BadName):
        Run.create(tmp_path / "runs", name, tiny)
    assert list((tmp_path / "runs").iterdir() if (tmp_path / "runs").exists() else []) == []


@settings(max_examples=200, deadline=None)
@given(
    parts=st.lists(
        st.sampled_from(["..", ".", "", "a", "in", "out", "b\0", "\\", "~", "%2e%2e", "x" * 300]) | st.text(),
        max_size=5,
    )
)
def test_no_name_leads_out_of_its_folder(tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
    root = tmp_path_factory.getbasetemp() / "inside"
    if not root.exists():
        (root / "a").mkdir(parents=True)
        (root / "in").symlink_to(root / "a")
        (root / "out").symlink_to(root.parent)
        (root / "loop").symlink_to(root / "loop")
    try:
        path = resolve_inside(root, "/".join(parts))
    except BadName:
        return
    assert Path(os.path.realpath(path)).is_relative_to(root.resolve()) and path != root.resolve()
    assert "out" not in parts[:1]


def test_names_that_stay_inside_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert resolve_inside(tmp_path, "a/new.json") == tmp_path.resolve() / "a" / "new.json"
    assert resolve_inside(tmp_path, "link/new.json") == tmp_path.resolve() / "a" / "new.json"
    for bad in ("../x", "/etc/passwd", "a/../../x", "a//b", "", "."):
        with pytest.raises(BadName):
            resolve_inside(tmp_path, bad)


# --------------------------------------------------------------------------------------------------------------- lock

HOLD = """
import sys, time; sys.path.insert(0, sys.argv[2])
from pathlib import Path; from lab.run import Run
with Run.open(Path(sys.argv[1])).lock("train"):
    print("held", flush=True); time.sleep(60)
"""


def test_a_second_trainer_is_told_who_holds_the_lock_and_a_kill_frees_it(run: Run) -> None:
    child = subprocess.Popen([sys.executable, "-c", HOLD, str(run.path), str(ROOT)], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"held\n"
    try:
        holder = run.holder()
        assert holder is not None and holder["pid"] == child.pid and holder["purpose"] == "train"
        assert abs(holder["started"] - time.time()) < 60 and run.state() == "training"
        with (
            pytest.raises(RunLocked, match=rf"runs/fox: is in use: train, by process {child.pid} on .* since 20"),
            run.lock("x"),
        ):
            pass
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    assert (run.path / "holder.json").exists() and run.holder() is None  # what it says is no longer true
    with run.lock("verify"):
        found = run.holder()
        assert found is not None and (found["pid"], found["purpose"]) == (os.getpid(), "verify")
        with pytest.raises(RunLocked), run.lock("again"):
            pass
    assert run.holder() is None and not (run.path / "holder.json").exists()


def test_looking_at_who_holds_the_lock_never_refuses_a_trainer(run: Run) -> None:
    with run.lock("first"):
        pass
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            run.holder()

    watchers = [threading.Thread(target=look) for _ in range(2)]
    for watcher in watchers:
        watcher.start()
    try:
        for _ in range(20):
            with run.lock("train"):
                assert run.holder() is not None
    finally:
        done.set()
        for watcher in watchers:
            watcher.join()


def test_a_holder_file_in_the_making_or_damaged_does_not_hide_the_holder(run: Run) -> None:
    with run.lock("train"):
        for content in ("", "[]", "{"):
            (run.path / "holder.json").write_text(content)
            assert run.holder() == {"pid": None, "host": None, "started": None, "purpose": "unknown"}


def test_a_disk_without_room_for_the_holder_is_said_and_the_lock_is_let_go(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    (run.path / "holder.json").write_text('{"purpose": "training"}')  # of a holder who was killed
    said = r"runs/fox: .*holder\.json .*No space left on device.*Make room"
    with monkeypatch.context() as full, pytest.raises(HolderUnwritten, match=said):
        full.setattr(run_lock, "replace_file", refuse)
        with run.lock("training"):
            raise AssertionError("nobody trains where commands would not find the trainer")
    assert run.holder() is None
    with run.lock("training"):
        assert (run.holder() or {})["purpose"] == "training"


# -------------------------------------------------------------------------------------------------------------- state


def test_the_state_is_told_from_lock_latches_and_how_the_last_segment_ended(run: Run) -> None:
    with run.lock("train"), Records.writer(run.database) as records:
        first = records.new_segment(0, None, "c0ffee")
        assert run.state() == "training"
        records.hold("user", "tea", step=1)
        assert run.state() == "held"
        records.release("user")
    assert run.state() == "dead"  # the segment was never ended
    with run.lock("verify"):
        assert run.state() == "dead"
    for reason, state in (("stopped", "stopped"), ("halted: loss is not finite", "stopped"), ("finished", "finished")):
        with run.lock("resume"), Records.writer(run.database) as records:
            assert run.state() == "training"
            first = records.new_segment(0, first, "c0ffee")
            records.end_segment(first, 10, reason)
        assert run.state() == state
    run.database.unlink()
    assert run.state() == "new"
    save(run, 0)
    assert run.state() == "dead"


def test_the_manifest_is_updated_without_forgetting_what_another_wrote(run: Run) -> None:
    other = Run.open(run.path)
    run.update_manifest(data={"prose": "abc"})
    other.update_manifest(note=1)
    assert Run.open(run.path).manifest["data"] == {"prose": "abc"} and other.manifest["note"] == 1


def test_an_extended_configuration_replaces_the_older_one(run: Run, tiny: RunConfig) -> None:
    longer = load_config("tiny", overrides=["train.seed=7", f"train.steps={tiny.train.steps + 100}"])
    run.update_config(longer)
    again = Run.open(run.path)
    assert run.config == again.config == longer and again.manifest["config_hash"] == longer.hash()


# ------------------------------------------------------------------------------------------------------------ content


def test_a_checkpoint_that_is_not_there_is_answered_with_those_that_are(run: Run) -> None:
    with pytest.raises(CheckpointMissing, match="has no checkpoint yet"):
        run.checkpoint_info()
    for step in (1, 2, 300):
        save(run, step)
    assert run.checkpoint_info().step == 300 and run.checkpoint_info(2).step == 2
    with pytest.raises(CheckpointMissing, match=r"no checkpoint of step 280. Use 300, or one of 1, 2, 300"):
        run.checkpoint_info(280)


def test_the_model_of_a_step_is_the_one_that_was_saved(run: Run) -> None:
    from lab.model import GPT, GPTConfig

    torch.manual_seed(1)
    saved = GPT(GPTConfig.from_config(run.config.model))
    checkpoint.save(run.checkpoints_folder, 5, saved.state_dict(), {}, {})
    back = run.model(step=5)
    assert not back.training
    tokens = torch.arange(12)[None]
    with torch.no_grad():
        assert torch.equal(back(tokens), saved.eval()(tokens))


def test_importing_the_run_loads_nothing_heavy() -> None:
    heavy = ("torch", "sqlalchemy", "pydantic", "numpy", "filelock")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import lab.run; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
