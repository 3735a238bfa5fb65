"""The command line as a person meets it: real processes, exit codes, data on stdout and everything else on stderr."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.doctor import of_run
from lab import checkpoint
from lab.checkpoint_upkeep import keep_weights_only
from lab.model import GPT
from lab.run import Run
from tests.app.commands import ROOT, command, environment, lab, real_lab
from tests.made_runs import made_run


@pytest.fixture(scope="module")
def overrides(text_file: Path) -> list[str]:
    settings = [
        f'data.sources=[{{name="story", kind="text", path="{text_file}"}}]',
        "data.phases=[{from_step=0, weights={story=1.0}}]",
        "model.d_vocab=400",
        "data.tokenizer_bytes=200000",
        "data.validation_share=0.1",
        "train.threads=1",
        "probing.sentences=60",
    ]
    return [word for setting in settings for word in ("--set", setting)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, overrides: list[str]) -> Path:
    """A folder with one finished tiny run called `fox`, made by the command itself."""
    folder = tmp_path_factory.mktemp("runs")
    short = ["--set", "train.steps=20", "--set", "checkpoint.every=10", "--set", "probing.every=10"]
    done = lab("train", "--preset", "tiny", "--name", "fox", *overrides, *short, runs=folder)
    assert done.returncode == 0, done.stderr
    assert "lab probe fox" in done.stdout  # what to do next
    return folder


def test_help_answers_without_importing_torch_streamlit_or_pydantic() -> None:
    heavy = "('torch', 'streamlit', 'pydantic', 'sqlalchemy')"
    program = f"import sys; from app import cli; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_reading_verbs_speak_json(runs: Path) -> None:
    listed = json.loads(lab("ls", "--json", runs=runs).stdout)
    assert [(run["name"], run["state"], run["step"]) for run in listed] == [("fox", "finished", 20)]
    status = json.loads(lab("status", "fo", "--json", runs=runs).stdout)  # a unique beginning is enough
    assert status["horizon"] == 20 and set(status["cost"]) >= {"probing", "evaluation", "checkpoint"}
    probed = json.loads(lab("probe", "latest", "--task", "class.next", "--json", runs=runs).stdout)
    assert probed["profiles"]["class.next"]["layers"] == [0, 1, 2]
    answer = json.loads(lab("generate", "fox", "--prompt", "The old", "--max-tokens", "5", "--json", runs=runs).stdout)
    assert 1 <= len(answer["ids"]) <= 5 and answer["step"] == 20


def test_generation_is_reproducible_and_plain_tables_are_readable(runs: Path) -> None:
    one, two = (lab("generate", "fox", "--prompt", "The", "--seed", "3", runs=runs).stdout for _ in range(2))
    assert one == two and one.strip()
    table = lab("probe", "fox", "--step", "10", runs=runs).stdout
    assert "usable bits per word at step 10" in table and "supersense.next" in table


def test_a_probe_on_the_command_line_equals_the_live_reading(runs: Path) -> None:
    probed = json.loads(lab("probe", "fox", "--task", "class.next", "--json", runs=runs).stdout)
    with Run.open(runs / "fox").records() as records:
        live = [row.value for row in records.readings("class.next", 20)]
    assert probed["profiles"]["class.next"]["value"] == pytest.approx(live, abs=1e-9)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["status", "wolf"], "wolf"),
        (["status", "/nowhere/at/all"], "/nowhere/at/all"),
        (["resume", "fox"], "--extend-to"),
        (["resume", "fox", "--from", "7"], "no checkpoint of step 7"),
        (["generate", "fox", "--step", "999"], "no checkpoint of step 999"),
        (["generate", "fox", "--temperature", "-1"], "temperature"),
        (["generate", "fox", "--top-p", "0"], "top_p"),
        (["generate", "fox", "--max-tokens", "0"], "max_tokens"),
        (["generate", "fox", "--prompt", "word " * 500], "Shorten"),
        (["generate", "fox", "--seed", "99999999999999999999"], "seed = 99999999999999999999"),
        (["generate", "fox", "--seed", "-1"], "seed = -1"),
        (["demo", "--steps", "0"], "--steps"),
        (["collect", "fox", "--layer", "0", "--out", "never-made", "--device", "quantum"], "--device quantum"),
        (["probe", "fox", "--task", "class.later"], "class.later"),
        (["train", "--preset", "huge"], "Presets are"),
        (["train", "--set", "train.step=3"], "Did you mean steps"),
        (["train", "--config", "/nowhere.toml"], "/nowhere.toml"),
        (["train", "--preset", "tiny", "--name", "../escape"], "../escape"),
        (["train", "--preset", "tiny", "--name", "Fox!"], "Fox!"),
        (["frobnicate"], "frobnicate"),
        (["train", "--wrong-flag"], "--wrong-flag"),
    ],
)
def test_bad_usage_ends_with_2_and_one_sentence_that_names_it(arguments: list[str], says: str, runs: Path) -> None:
    before = sorted(path.name for path in runs.iterdir())
    if arguments[0] == "train" and "--name" in arguments:
        arguments = [*arguments, "--set", "train.steps=1", "--set", "optimizer.warmup_steps=0"]
    done = lab(*arguments, runs=runs)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""
    made = {path.name for path in runs.iterdir()} - set(before)
    assert made <= {".data"}, f"left behind: {made}"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.txt", b""),
        ("blank.txt", b"   \n\n  \n"),
        ("binary.txt", b"\x7fELF\x00\x00\x01" * 400),
        ("latin.txt", "un caf\u00e9 noir ".encode("latin-1") * 4000),
        ("short.txt", b"Too short to train on."),
        ("missing.txt", None),
        ("a-folder.txt", "folder"),
    ],
)
def test_a_text_that_cannot_be_used_leaves_no_run_behind(
    name: str, content: bytes | str | None, tmp_path: Path
) -> None:
    file = tmp_path / name
    if content == "folder":
        file.mkdir()
    elif isinstance(content, bytes):
        file.write_bytes(content)
    source = f'data.sources=[{{name="story", kind="text", path="{file}"}}]'
    done = lab(
        "train",
        "--preset",
        "tiny",
        "--set",
        source,
        "--set",
        "data.phases=[{from_step=0, weights={story=1.0}}]",
        runs=tmp_path / "runs",
    )
    assert done.returncode == 2, done.stderr
    assert name in done.stderr or "story" in done.stderr
    assert "Traceback" not in done.stderr
    assert not [path for path in (tmp_path / "runs").glob("*") if not path.name.startswith(".")]


def test_foreign_and_broken_runs_are_refused_by_name(runs: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("not a run")
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in ("config.toml", "manifest.json"):
        (broken / file).write_text("{[ not readable")
    for path in (foreign, broken):
        done = real_lab("status", str(path), runs=runs)
        assert done.returncode == 2 and str(path) in done.stderr and "Traceback" not in done.stderr


def test_the_first_sigint_saves_and_stops_and_resuming_reaches_the_same_end(overrides: list[str], runs: Path) -> None:
    settings = [*overrides, "--set", "train.steps=400", "--set", "checkpoint.every=400", "--set", "probing.every=0"]
    process = subprocess.Popen(
        command("train", "--preset", "tiny", "--name", "stopped", *settings),
        env=environment(runs),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (runs / "stopped" / "checkpoints" / "step-000000004").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "lab resume stopped" in errors
    assert json.loads(lab("status", "stopped", "--json", runs=runs).stdout)["state"] == "stopped"
    done = real_lab("resume", "stopped", runs=runs)
    assert done.returncode == 0, done.stderr
    assert json.loads(lab("status", "stopped", "--json", runs=runs).stdout)["step"] == 400


def test_print_config_prints_what_would_run() -> None:
    done = subprocess.run(
        command(
            "train",
            "--preset",
            "laptop",
            "--set",
            "train.steps=7",
            "--set",
            "optimizer.warmup_steps=2",
            "--print-config",
        ),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "steps = 7" in done.stdout and 'preset = "laptop"' in done.stdout


def test_doctor_examines_the_machine_and_every_run(runs: Path) -> None:
    findings = json.loads(lab("doctor", "--json", runs=runs).stdout)
    names = {finding["name"] for finding in findings}
    assert {"python", "torch", "disk", "run fox"} <= names
    assert all(finding["ok"] for finding in findings if finding["name"].startswith("run "))


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def _runs_found_by_doctor(root: Path) -> tuple[int, dict[str, tuple[bool, str]]]:
    done = lab("doctor", "--json", runs=root)
    found = {finding["name"]: (finding["ok"], finding["text"]) for finding in json.loads(done.stdout)}
    return done.returncode, {name: value for name, value in found.items() if name.startswith("run ")}


def test_doctor_calls_no_broken_run_whole(tmp_path: Path) -> None:
    whole = made_run(tmp_path, "whole")
    older = made_run(tmp_path, "older")
    _flip(older.checkpoint_info(0).path / "model.safetensors")
    ruined = made_run(tmp_path, "ruined")
    for step in (0, 8):
        _flip(ruined.checkpoint_info(step).path / "model.safetensors")
    made_run(tmp_path, "unread").database.unlink()
    (made_run(tmp_path, "unopened").path / "manifest.json").write_text("{[")
    (made_run(tmp_path, "unset").path / "config.toml").write_text("preset = [")
    code, found = _runs_found_by_doctor(tmp_path)
    assert code == 1
    assert {name for name, (ok, _) in found.items() if ok} == {"run whole"}
    assert found["run whole"][1].endswith("newest valid checkpoint at step 8")
    assert "valid checkpoint at step 8" in found["run older"][1]
    assert "step-000000000/model.safetensors has sha256" in found["run older"][1]
    assert "no checkpoint that can be resumed from" in found["run ruined"][1]
    assert found["run ruined"][1].count("does not verify") == 2
    assert "run.db" in found["run unread"][1]
    assert "manifest.json" in found["run unopened"][1]
    assert "config.toml" in found["run unset"][1]
    assert whole.checkpoint_info().step == 8  # nothing was moved


def test_doctor_tells_of_quarantined_checkpoints_and_damaged_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = made_run(tmp_path, "fox")
    _flip(run.checkpoint_info(8).path / "model.safetensors")
    checkpoint.newest_valid(run.checkpoints_folder, repair=True)
    ok, text = _runs_found_by_doctor(tmp_path)[1]["run fox"]
    assert ok and "1 damaged checkpoint put aside" in text and "at step 0" in text
    monkeypatch.setattr("lab.records.Records.problems", lambda records: ["row 3 missing from index"])
    ok, text = _runs_found_by_doctor(tmp_path)[1]["run fox"]
    assert not ok and "run.db is damaged: row 3 missing from index" in text


def test_doctor_tells_checkpoints_of_weights_alone_from_none(tmp_path: Path) -> None:
    run, empty = made_run(tmp_path, "fox"), made_run(tmp_path, "owl")
    for info in checkpoint.list_checkpoints(run.checkpoints_folder):
        keep_weights_only(info.path)
    shutil.rmtree(empty.checkpoints_folder)
    ok, text = of_run(tmp_path, "fox").ok, of_run(tmp_path, "fox").text
    assert ok and "2 checkpoints of weights alone, newest at step 8: can be read, not resumed from" in text
    assert "no checkpoint yet" not in text and "no checkpoint yet" in of_run(tmp_path, "owl").text


def test_a_run_without_records_does_not_hide_the_others(tmp_path: Path) -> None:
    made_run(tmp_path, "fox")
    made_run(tmp_path, "wolf").database.unlink()
    rows = {row["name"]: row for row in json.loads(lab("ls", "--json", runs=tmp_path).stdout)}
    assert (rows["fox"]["state"], rows["fox"]["step"]) == ("finished", 8)
    assert (rows["wolf"]["state"], rows["wolf"]["step"]) == ("broken", None) and "run.db" in rows["wolf"]["error"]
    done = lab("ls", runs=tmp_path)
    assert done.returncode == 0 and "broken" in done.stdout and "finished" in done.stdout and "run.db" in done.stderr


def test_generation_names_the_step_it_sampled_although_a_newer_checkpoint_appears(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_run(tmp_path, "fox")
    load = Run.model

    def load_while_training(run: Run, step: int | None = None) -> GPT:
        model = load(run, step)
        checkpoint.save(run.checkpoints_folder, 12, model.state_dict(), {}, {"step": 12})
        return model

    monkeypatch.setattr(Run, "model", load_while_training)
    done = lab("generate", "fox", "--prompt", "the", "--max-tokens", "2", "--json", runs=tmp_path)
    assert json.loads(done.stdout)["step"] == 8
    assert Run.open(tmp_path / "fox").checkpoint_info().step == 12


def test_status_shows_the_horizon_that_the_newest_checkpoint_goes_to(tmp_path: Path) -> None:
    run = made_run(tmp_path, "fox")

    def shown() -> int:
        return int(json.loads(lab("status", "fox", "--json", runs=tmp_path).stdout)["horizon"])

    assert shown() == run.config.train.steps  # made_run's checkpoints name none
    checkpoint.save(run.checkpoints_folder, 12, run.model().state_dict(), {}, {"step": 12, "horizon": 4000})
    assert shown() == 4000
    _flip(run.checkpoint_info(12).path / "state.json")
    assert shown() == run.config.train.steps


def test_a_short_demo_shrinks_its_warm_up_and_ends_well_without_probes(tmp_path: Path, overrides: list[str]) -> None:
    small = ("model.n_layers=1", "model.d_model=32", "model.n_ctx=32", "train.batch=2", "evaluation.tokens=512",
             "probing.every=0")  # fmt: skip
    settings = [word for setting in small for word in ("--set", setting)]
    done = lab("demo", "--steps", "20", "--name", "short", *overrides, *settings, runs=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no probes in this run" in done.stdout and "lab probe short" in done.stdout
    config = Run.open(tmp_path / "short").config
    assert (config.train.steps, config.optimizer.warmup_steps) == (20, 4)
