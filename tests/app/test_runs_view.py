"""Runs: family, disk use and differences as they are on the disk; tables as files; broken runs listed, also by `lab ls`."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app import run_queries, table_files
from lab.records import Event, Records
from lab.run import Run
from tests.app.commands import ROOT, lab
from tests.app.planted import STEPS, make_run
from tests.app.planted_concepts import branch, make_concepts
from tests.app.test_views import words

Opener = Callable[..., AppTest]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its branches and a twin, a run of another shape, one that is half there, and a stranger's folder."""
    root = tmp_path_factory.mktemp("runs")
    make_concepts(root, "fox")
    make_run(root, "wolf", steps=STEPS[:9], tasks=("class.next",))
    half = root / "half"
    half.mkdir()
    (half / "manifest.json").write_text("{half a mani")
    (root / "photos").mkdir()
    return root


# ------------------------------------------------------------------------------------------------- what lies on the disk


def test_branches_and_twins_stand_under_the_run_that_they_began_from(root: Path) -> None:
    found = run_queries.family(root, ["wolf", "fox--weather-write--twin-unfrozen", "fox--weather-pin", "fox", "half"])
    assert [(one.name, one.depth, one.kind) for one in found] == [
        ("wolf", 0, None),
        ("fox", 0, None),
        ("fox--weather-pin", 1, "freeze"),
        ("fox--weather-write--twin-unfrozen", 1, "unfrozen"),
        ("half", 0, None),
    ]
    assert (found[2].step, found[2].stop) == (1000, 1500)


def test_manifests_that_go_round_in_a_circle_or_name_nobody_lose_no_run(tmp_path: Path) -> None:
    for name, parent in (("a", "b"), ("b", "a"), ("c", "c"), ("d", "gone"), ("e", "a")):
        branch(tmp_path, parent, name, "pin")
    names = ["a", "b", "c", "d", "e"]
    assert sorted(one.name for one in run_queries.family(tmp_path, names)) == names


def test_disk_use_is_what_the_files_take_by_kind_and_follows_no_link(tmp_path: Path) -> None:
    run = make_run(tmp_path, "fox", steps=())
    before = run_queries.disk_use(run.path)
    for place, size in (
        ("checkpoints/step-000000001/model.safetensors", 1000),
        ("evidence/v.json", 100),
        ("statistics/step.safetensors", 10),
        ("chats.db-wal", 7),
        ("exports/hf/model.safetensors", 3),
        ("tokenizer/t.json", 2),
    ):
        (run.path / place).parent.mkdir(parents=True, exist_ok=True)
        (run.path / place).write_bytes(b"x" * size)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "large").write_bytes(b"x" * 50_000)
    os.symlink(tmp_path / "elsewhere", run.path / "checkpoints" / "link")
    grown = {kind: size - before[kind] for kind, size in run_queries.disk_use(run.path).items() if size != before[kind]}
    assert {**grown, "checkpoints": grown["checkpoints"] // 1000 * 1000} == {
        "checkpoints": 1000, "evidence": 110, "records": 7, "exports": 3, "other": 2
    }  # fmt: skip
    assert sum(run_queries.disk_use(tmp_path / "nowhere").values()) == 0


def test_only_keys_that_differ_are_told_the_configuration_s_first(tmp_path: Path) -> None:
    a, b = make_run(tmp_path, "a", steps=()), make_run(tmp_path, "b", steps=())
    assert run_queries.changes(a.path, b.path) == []
    b.update_config(b.config.model_copy(update={"train": b.config.train.model_copy(update={"steps": 777, "seed": 5})}))
    b.update_manifest(packages=b.manifest["packages"] | {"torch": "0.1"}, seed=5)
    found = run_queries.changes(a.path, b.path)
    assert {one.key for one in found} == {"train.steps", "train.seed", "manifest.packages.torch", "manifest.seed"}
    assert (found[0].key.startswith("train"), found[-1].key.startswith("manifest")) == (True, True)
    (b.path / "config.toml").write_text("preset = [")
    assert "train.steps" in {one.key for one in run_queries.changes(a.path, b.path)}


def test_a_table_as_a_file_has_every_row_and_no_formula(root: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path, "fox", steps=STEPS[:9], tasks=("class.next",))
    with Records.writer(run.database) as records:
        records.add_now(Event(kind="note", text='=cmd|"/C calc"!A0', at=1.0, step=3, data={"a": [1]}))
        records.metrics(1, 5000, {"train/loss": float("nan")})
    sizes = table_files.sizes(run.database)
    with run.records() as records:
        stored = records.readings(task="class.next")
    rows = list(csv.DictReader(io.StringIO(table_files.as_csv(run.database, "readings").decode())))
    assert len(rows) == sizes["readings"] == len(stored)
    assert [float(row["value"]) for row in rows if row["step"] == "8"] == [r.value for r in stored if r.step == 8]
    events = list(csv.DictReader(io.StringIO(table_files.as_csv(run.database, "events").decode())))
    assert [row["text"] for row in events if row["kind"] == "note"] == ['\'=cmd|"/C calc"!A0']
    metrics = json.loads(table_files.as_json(run.database, "metrics"))
    assert len(metrics) == sizes["metrics"] and [m["value"] for m in metrics if m["step"] == 5000] == [None]
    noted = [row for row in json.loads(table_files.as_json(run.database, "events")) if row["kind"] == "note"]
    assert noted[0]["text"].startswith("=cmd") and noted[0]["data"] == {"a": [1]}  # JSON is never run: as it was


def test_runs_are_looked_at_without_torch(root: Path) -> None:
    program = (
        "import sys; from pathlib import Path; import app.main;"
        "from app import doctor, run_queries, freeze_plan, jobs_client;"
        "root = Path(sys.argv[1]); run_queries.family(root, ['fox']); doctor.machine(root); doctor.of_run(root, 'fox');"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(root)], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr


# -------------------------------------------------------------------------------------------------------------- the page


def test_every_run_is_listed_with_family_state_and_size_and_a_broken_one_with_its_problem(
    root: Path, open_app: Opener
) -> None:
    shown = open_app(root, "runs", run="fox")
    assert not shown.exception and not shown.error
    table = shown.dataframe[0].value
    by_name = {
        str(name).strip("\u2003└ "): row for name, row in zip(table["Run"], table.to_dict("records"), strict=True)
    }
    assert set(by_name) == {
        "fox", "fox--weather-pin", "fox--weather-write", "fox--weather-write--twin-unfrozen", "wolf", "half"
    }  # fmt: skip
    pin = by_name["fox--weather-pin"]
    assert pin["Run"].startswith("\u2003└ ") and pin["Kind"] == "freeze from step 1,000" and pin["of"] == 1500
    assert by_name["fox"]["Preset and shape"] == "demo, 6 × 128, context 128"
    used = run_queries.disk_use(root / "fox")
    disk = shown.dataframe[1].value.set_index("Run").loc["fox"]
    assert disk["Records"] == pytest.approx(used["records"] / 1e6)
    assert disk["All"] == pytest.approx(sum(used.values()) / 1e6)
    assert "unreadable" in str(by_name["half"]["State"]) and "half" in words(shown)
    assert "photos" in words(shown)


def test_a_branch_is_compared_with_its_parent_first(root: Path, open_app: Opener) -> None:
    shown = open_app(root, "runs", run="fox--weather-pin")
    assert shown.selectbox(key="other").value == "fox"
    shown = open_app(root, "runs", run="fox", other="wolf")
    assert not shown.exception and "Nothing: both were made with the same configuration" in words(shown)


def test_export_is_a_command_and_small_tables_are_files(root: Path, open_app: Opener) -> None:
    shown = open_app(root, "runs", run="fox")
    for form in ("hf", "hooked", "parquet", "tensorboard"):
        assert f"lab export fox --to {form}" in words(shown)
    assert shown.selectbox(key="table").options[0].startswith("metrics, ")
    assert len(shown.get("download_button")) == 2


def test_examining_a_run_says_whether_it_is_whole(root: Path, open_app: Opener) -> None:
    shown = open_app(root, "runs", run="fox")
    assert "whole" not in " ".join(str(one.value) for one in shown.success)
    shown.button(key="examine").click().run()
    assert (
        not shown.exception and shown.success[0].value == "This run is whole." and "no checkpoint yet" in words(shown)
    )


def test_a_broken_run_can_be_examined_and_compared(broken_root: Path, tmp_path: Path, open_app: Opener) -> None:
    shutil.copytree(broken_root, tmp_path / "runs")
    make_run(tmp_path / "runs", "well", steps=())
    shown = open_app(tmp_path / "runs", "runs", run="ruin")
    assert not shown.exception and "nothing can be exported" in words(shown)
    shown.button(key="examine").click().run()
    assert not shown.exception and shown.error[0].value == "This run is not whole."


def test_without_any_run_the_commands_are_named(tmp_path: Path, open_app: Opener) -> None:
    assert "lab demo" in words(open_app(tmp_path, "runs"))


# --------------------------------------------------------------------------------------------------------------- lab ls


def test_lab_ls_lists_a_run_whose_manifest_is_broken_with_what_is_wrong(root: Path) -> None:
    rows = {row["name"]: row for row in json.loads(lab("ls", "--json", runs=root).stdout)}
    assert rows["half"]["state"] == "broken" and "half" in rows["half"]["error"]
    assert rows["wolf"]["state"] != "broken" and "photos" not in rows
    done = lab("ls", runs=root)
    assert done.returncode == 0 and done.stdout.splitlines()[-1].split()[:2] == ["half", "broken"]
    assert "half:" in done.stderr


def test_lab_ls_shows_and_does_not_obey_what_a_broken_folder_is_called(tmp_path: Path) -> None:
    folder = tmp_path / "evil\x1b[2J"
    folder.mkdir()
    (folder / "config.toml").write_text("")
    done = lab("ls", runs=tmp_path)
    assert "\x1b" not in done.stdout + done.stderr and "evil" in done.stdout


def test_a_run_that_is_whole_is_listed_once(tmp_path: Path) -> None:
    make_run(tmp_path, "fox", steps=())
    assert [row["name"] for row in json.loads(lab("ls", "--json", runs=tmp_path).stdout)] == ["fox"]
    assert Run.open(tmp_path / "fox").name == "fox"
