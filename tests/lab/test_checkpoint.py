"""What is saved comes back exactly, what was damaged is refused by name, and what matters is never rotated away."""

import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lab import checkpoint, state_json
from lab.checkpoint import CheckpointCorrupt, CheckpointNotSaved, NotEnoughDisk, WeightsOnly
from lab.errors import LabError

Usage = namedtuple("Usage", "total used free")


def weights_of(step: int, size: int = 64) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {
        "embed.W_E": torch.randn(size, 8, generator=generator),
        "blocks.0.mlp.W_in": torch.randn(8, size, generator=generator),
    }


def save(folder: Path, step: int, **changes: Any) -> checkpoint.CheckpointInfo:
    given: dict[str, Any] = {
        "weights": weights_of(step),
        "optimizer": {"embed.W_E.exp_avg": torch.full((64, 8), float(step)), "step": torch.tensor(step)},
        "state": {"step": step, "segment": 1, "config_hash": "c0ffee"},
    }
    return checkpoint.save(folder, step, **(given | changes))


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_what_is_loaded(tmp_path: Path) -> None:
    optimizer = {"m": torch.randn(3, 5).bfloat16(), "count": torch.tensor(7), "empty": torch.empty(0, 4)}
    info = save(tmp_path, 1200, optimizer=optimizer)
    loaded = checkpoint.load(tmp_path / "step-000001200")
    assert equal(loaded.weights, weights_of(1200))
    assert equal(loaded.optimizer, optimizer)
    assert loaded.state == {"step": 1200, "segment": 1, "config_hash": "c0ffee"}
    assert loaded.info == info == checkpoint.list_checkpoints(tmp_path)[0]
    assert (info.step, info.healthy, info.has_optimizer, info.config_hash, info.segment) == (
        1200,
        True,
        True,
        "c0ffee",
        1,
    )
    assert (tmp_path / "LATEST").read_text() == "step-000001200\n"
    assert names(info.path) == ["manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]


def test_nobody_else_may_read_a_checkpoint(tmp_path: Path) -> None:
    path = save(tmp_path / "checkpoints", 1).path
    assert {oct(file.stat().st_mode & 0o777) for file in path.iterdir()} == {"0o600"}
    assert oct(path.stat().st_mode & 0o777) == oct(path.parent.stat().st_mode & 0o777) == "0o700"


def test_tied_embeddings_come_back_as_one_tensor_and_overlapping_views_as_equal_ones(tmp_path: Path) -> None:
    table = torch.randn(16, 4)
    given = {
        "embed": table,
        "unembed": table,
        "turned": table.T,
        "row": table[3],
        "twin": torch.nn.Parameter(table.clone()),
    }
    path = save(tmp_path, 0, weights=given).path
    back = checkpoint.read_weights(path)
    assert back["embed"] is back["unembed"]
    assert equal(back, {name: tensor.detach() for name, tensor in given.items()})
    assert checkpoint.list_checkpoints(tmp_path)[0].bytes < 5 * table.nbytes + 4096  # the tied one is stored once


def test_a_segment_that_saves_the_same_step_again_with_the_same_bytes_changes_nothing(tmp_path: Path) -> None:
    before = save(tmp_path, 8)
    inode = before.path.stat().st_ino
    save(tmp_path, 16)
    assert save(tmp_path, 8) == before
    assert before.path.stat().st_ino == inode
    assert checkpoint.newest_first(tmp_path)[0].step == 8  # saved last, so it is what resuming starts from


def test_a_step_saved_again_with_other_bytes_replaces_the_older_one(tmp_path: Path) -> None:
    save(tmp_path, 8)
    save(tmp_path, 8, weights=weights_of(9), state={"segment": 2})
    loaded = checkpoint.load(tmp_path / "step-000000008")
    assert equal(loaded.weights, weights_of(9)) and loaded.info.segment == 2
    assert names(tmp_path) == ["LATEST", "step-000000008"]


def test_a_kill_between_the_two_renames_of_a_replacement_leaves_the_older_one_in_use(tmp_path: Path) -> None:
    path = save(tmp_path, 8).path
    path.rename(path.with_name("step-000000008.replaced"))
    listed = checkpoint.list_checkpoints(tmp_path)
    assert [info.step for info in listed] == [8] and equal(checkpoint.read_weights(listed[0].path), weights_of(8))
    found = checkpoint.newest_valid(tmp_path, repair=True)
    assert found is not None and found.path == path and path.is_dir()


def test_after_a_rewind_resuming_goes_on_from_the_rewound_history(tmp_path: Path) -> None:
    for step in (500, 600, 1000):
        save(tmp_path, step)
    checkpoint.point_latest(tmp_path, 500)
    save(tmp_path, 550)
    assert [info.step for info in checkpoint.newest_first(tmp_path)] == [550, 500, 1000, 600]
    (tmp_path / "LATEST").write_bytes(b"\xff\xfe nonsense")
    assert [info.step for info in checkpoint.newest_first(tmp_path)] == [1000, 600, 550, 500]


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"w": torch.ones(1_000_000)}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 7_900_000))
    with pytest.raises(NotEnoughDisk, match=r"step-000000002: saving needs 2 × 4\.0 MB free, but the disk has 7\.9 MB"):
        save(tmp_path / "b", 2, weights=weights)
    assert not (tmp_path / "b").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 0, 8_100_000))
    save(tmp_path / "b", 2, weights=weights)


def test_a_disk_that_refuses_halfway_costs_nothing_that_was_saved(tmp_path: Path) -> None:
    save(tmp_path, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # the kernel refuses every byte past that
    try:
        with pytest.raises(CheckpointNotSaved, match=r"step-000000002: the checkpoint could not be written \("):
            save(tmp_path, 2, weights={"w": torch.ones(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert names(tmp_path) == ["LATEST", "step-000000001"]
    assert equal(checkpoint.load(tmp_path / "step-000000001").weights, weights_of(1))


def test_an_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointNotSaved, match="file/step-000000001: the checkpoint could not be written"):
        save(tmp_path / "file", 1)


def test_weights_that_are_not_finite_are_marked_whatever_the_caller_says(tmp_path: Path) -> None:
    save(tmp_path, 1)
    assert not save(tmp_path, 2, weights={"w": torch.tensor([1.0, float("nan")])}).healthy
    assert not save(tmp_path, 3, healthy=False).healthy
    found = checkpoint.newest_valid(tmp_path)
    assert found is not None and found.step == 1  # training cannot go on from the others


@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
def test_a_missing_file_is_named_and_resuming_falls_back(tmp_path: Path, file: str) -> None:
    save(tmp_path, 1)
    path = save(tmp_path, 2).path
    (path / file).unlink()
    with pytest.raises(CheckpointCorrupt, match=f"step-000000002/{file}: is missing.*falls back"):
        checkpoint.load(path)
    found = checkpoint.newest_valid(tmp_path)
    assert found is not None and found.step == 1


def test_what_is_wrong_with_a_checkpoint_is_said_across_processes(tmp_path: Path) -> None:
    path = save(tmp_path, 1).path
    (path / "model.safetensors").unlink()
    with pytest.raises(CheckpointCorrupt) as refused:
        checkpoint.load(path)
    here, there = multiprocessing.Pipe()
    with here, there:
        there.send(refused.value)
        sent = here.recv()
    assert (type(sent), str(sent)) == (CheckpointCorrupt, str(refused.value))
    assert (sent.file, sent.wrong) == (path / "model.safetensors", "is missing")


def test_a_reader_moves_nothing_and_the_holder_quarantines_with_the_reason(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    for step, file in ((4, "model.safetensors"), (3, "state.json")):
        target = tmp_path / f"step-{step:09d}" / file
        raw = bytearray(target.read_bytes())
        raw[-1] ^= 1
        target.write_bytes(raw)
    (tmp_path / ".tmp-step-000000005-1-00").mkdir()
    before = names(tmp_path)
    found = checkpoint.newest_valid(tmp_path)
    assert found is not None and found.step == 2 and names(tmp_path) == before
    assert checkpoint.newest_valid(tmp_path, repair=True) == found
    assert names(tmp_path) == ["LATEST", "quarantine", "step-000000001", "step-000000002"]
    assert (tmp_path / "LATEST").read_text().strip() == "step-000000002"
    reasons = sorted(path.read_text() for path in (tmp_path / "quarantine").glob("*.reason.txt"))
    assert "step-000000003/state.json: has sha256" in reasons[0] and "step-000000004/model" in reasons[1]


def test_a_checkpoint_under_another_name_is_refused(tmp_path: Path) -> None:
    moved = save(tmp_path, 7).path.rename(tmp_path / "step-000000008")
    with pytest.raises(CheckpointCorrupt, match="says step 7, but the folder is named step-000000008"):
        checkpoint.load(moved)
    assert checkpoint.newest_valid(tmp_path) is None


def test_a_newer_format_is_refused_even_though_its_hash_is_right(tmp_path: Path) -> None:
    from lab.checkpoint_format import read_manifest, rendered_manifest

    path = save(tmp_path, 7).path
    (path / "manifest.json").write_bytes(rendered_manifest(read_manifest(path) | {"format": 2}))
    with pytest.raises(CheckpointCorrupt, match="has format 2, and this version reads format 1"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "change", [{"files": {}}, {"files": []}, {"step": "7"}, {"healthy": 1}, {"files": {"../../x": {}}}]
)
def test_a_strangers_manifest_with_a_right_hash_is_still_read_with_care(tmp_path: Path, change: dict[str, Any]) -> None:
    from lab.checkpoint_format import read_manifest, rendered_manifest

    path = save(tmp_path, 7).path
    (path / "manifest.json").write_bytes(rendered_manifest(read_manifest(path) | change))
    with pytest.raises(CheckpointCorrupt, match="is no manifest of a checkpoint"):
        checkpoint.load(path)


def test_a_link_in_a_checkpoint_is_not_followed(tmp_path: Path) -> None:
    path = save(tmp_path, 7).path
    (path / "state.json").rename(tmp_path / "elsewhere")
    (path / "state.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointCorrupt, match=r"state\.json: cannot be read"):
        checkpoint.load(path)


def damaged(raw: bytes, kind: str, generator: random.Random) -> bytes:
    if kind == "truncation":
        return raw[: generator.randrange(len(raw))]
    flipped = bytearray(raw)
    flipped[generator.randrange(len(raw))] ^= 1 << generator.randrange(8)
    return bytes(flipped)


@pytest.mark.parametrize("count", [20, pytest.param(100, marks=pytest.mark.slow)])
def test_every_flipped_bit_and_every_truncation_of_any_file_is_detected(tmp_path: Path, count: int) -> None:
    path = save(tmp_path, 512).path
    generator = random.Random(count)
    files = [path / name for name in ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json")]
    detected = 0
    for kind in ("bit flip", "truncation"):
        for i in range(count):
            file = files[i % len(files)]
            whole = file.read_bytes()
            file.write_bytes(damaged(whole, kind, generator))
            try:
                checkpoint.load(path)
            except CheckpointCorrupt as error:
                detected += error.file == file
            detected += checkpoint.newest_valid(tmp_path) is None
            file.write_bytes(whole)
    assert detected == 2 * 2 * count
    checkpoint.load(path)


def test_rotation_keeps_the_newest_and_the_milestones_as_weights_only(tmp_path: Path) -> None:
    steps = [0, 1, 2, 4, 100, 200, 256, 300, 400, 500, 600]
    for step in steps:
        save(tmp_path, step)
        checkpoint.rotate(tmp_path, keep=3, milestones=checkpoint.is_log_milestone)
    kept = {info.step: info.has_optimizer for info in checkpoint.list_checkpoints(tmp_path)}
    assert kept == {0: False, 1: False, 2: False, 4: False, 256: False, 400: True, 500: True, 600: True}
    milestone = tmp_path / "step-000000256"
    assert names(milestone) == ["manifest.json", "model.safetensors", "state.json"]
    assert equal(checkpoint.read_weights(milestone), weights_of(256))
    assert checkpoint.load(milestone, optimizer=False).optimizer == {}
    with pytest.raises(WeightsOnly, match="superseded milestone"):
        checkpoint.load(milestone)


def test_the_newest_healthy_checkpoint_is_never_rotated_away(tmp_path: Path) -> None:
    save(tmp_path, 10)
    for step in range(11, 19):
        save(tmp_path, step, healthy=False)
        assert (tmp_path / "step-000000010") not in checkpoint.rotate(tmp_path, keep=2, milestones=lambda _: False)
    kept = {info.step: info.has_optimizer for info in checkpoint.list_checkpoints(tmp_path)}
    assert kept == {10: True, 17: True, 18: True}


def test_one_checkpoint_is_not_enough_to_keep(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="keep = 1"):
        checkpoint.rotate(tmp_path, keep=1, milestones=lambda _: False)


def test_a_kill_while_a_milestone_is_thinned_leaves_it_readable(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save(tmp_path, step)
    moments = (tmp_path / "step-000000001" / "optimizer.safetensors").read_bytes()
    checkpoint.rotate(tmp_path, keep=3, milestones=lambda _: True)
    (tmp_path / "step-000000001" / "optimizer.safetensors").write_bytes(moments)  # killed before it was removed
    assert not checkpoint.list_checkpoints(tmp_path)[0].has_optimizer
    assert equal(checkpoint.read_weights(tmp_path / "step-000000001"), weights_of(1))
    checkpoint.rotate(tmp_path, keep=3, milestones=lambda _: True)
    assert not (tmp_path / "step-000000001" / "optimizer.safetensors").exists()


def test_the_milestones_are_powers_of_two_up_to_512() -> None:
    assert [step for step in range(2000) if checkpoint.is_log_milestone(step)] == [
        0,
        1,
        2,
        4,
        8,
        16,
        32,
        64,
        128,
        256,
        512,
    ]


def test_generators_go_on_after_a_save_as_if_nothing_had_happened(tmp_path: Path) -> None:
    generators = (random.Random(1), numpy.random.default_rng(1), torch.Generator().manual_seed(1))
    for each in (generators[0].random, generators[1].random, lambda: torch.rand(3, generator=generators[2])):
        each()
    state = {
        "python": generators[0].getstate(),
        "numpy": generators[1].bit_generator.state,
        "torch": generators[2].get_state(),
    }
    path = save(tmp_path, 1, state=state).path
    wanted = (generators[0].random(), generators[1].random(), torch.rand(3, generator=generators[2]))
    back = checkpoint.load(path).state
    fresh = (random.Random(), numpy.random.default_rng(), torch.Generator())
    fresh[0].setstate(back["python"])
    fresh[1].bit_generator.state = back["numpy"]
    fresh[2].set_state(back["torch"])
    assert (fresh[0].random(), fresh[1].random()) == wanted[:2]
    assert torch.equal(torch.rand(3, generator=fresh[2]), wanted[2])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(state=st.dictionaries(st.text().filter(lambda key: key != state_json.TAG), JSON))
def test_a_state_comes_back_with_its_types(state: dict[str, Any]) -> None:
    try:
        encoded = state_json.encode(state)
    except state_json.UnsavableState:
        return  # a key that is our own tag
    assert repr(state_json.decode(encoded)) == repr(state)


@pytest.mark.parametrize("bad", [{1: "a"}, {"a": {1}}, {"a": [object()]}, {"a": {"b": print}}, {"__lab__": "tuple"}])
def test_a_state_that_could_not_come_back_is_refused_before_anything_is_written(
    tmp_path: Path, bad: dict[Any, Any]
) -> None:
    with pytest.raises(state_json.UnsavableState, match="state"):
        save(tmp_path / "c", 1, state=bad)
    assert not (tmp_path / "c").exists()


def test_listing_checkpoints_needs_no_torch(tmp_path: Path) -> None:
    save(tmp_path, 3)
    code = (
        "import sys; sys.path[:0] = sys.argv[2:]; from pathlib import Path; from lab.checkpoint import list_checkpoints\n"
        "print([info.step for info in list_checkpoints(Path(sys.argv[1]))], 'torch' in sys.modules)"
    )
    root = str(Path(checkpoint.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path), root], capture_output=True, text=True, check=True)
    assert done.stdout == "[3] False\n"


def test_a_manifest_says_what_it_vouches_for(tmp_path: Path) -> None:
    path = save(tmp_path, 3).path
    manifest = json.loads((path / "manifest.json").read_text())
    assert {name: entry["bytes"] for name, entry in manifest["files"].items()} == {
        file.name: os.path.getsize(file) for file in path.iterdir() if file.name != "manifest.json"
    }
