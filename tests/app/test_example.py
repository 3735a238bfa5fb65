"""The example run: small, whole, without a trace of the machine it was made on, never written to where it is installed."""

from __future__ import annotations

import getpass
import os
import re
import signal
import subprocess
import time
import urllib.request
import zipfile
from importlib import resources
from pathlib import Path

import pytest

from app import queries
from app.example import ARCHIVE, NAME, unpack
from lab.checkpoint import list_checkpoints
from lab.records import Entry, Finding, Item, Verdict
from lab.run import Run
from scripts.make_example import CONCEPT, KEPT, LEFT_OUT, SEED, STEPS
from tests.app.commands import command, environment, lab

LARGEST = 2_000_000  # bytes in the repository
PLACES = re.compile(rb"(/home/|/root/|/Users/|/tmp/|/var/folders/|[A-Z]:\\Users)[\w.-]+")
READ = (".json", ".toml", ".md", ".db", ".jsonl")  # weights are random bytes, where four letters come by chance


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run.open(unpack(tmp_path_factory.mktemp("example")))


def test_the_archive_is_small_and_says_nothing_of_the_machine_that_made_it() -> None:
    archive = resources.files("app").joinpath(ARCHIVE)
    with archive.open("rb") as file, zipfile.ZipFile(file) as opened:
        names = opened.namelist()
        assert sum(entry.compress_size for entry in opened.infolist()) <= LARGEST
        for name in names:
            assert not name.startswith(("/", "..")) and not set(Path(name).parts) & set(LEFT_OUT), name
            found = opened.read(name)
            if name.endswith(READ):
                assert not PLACES.findall(found), name
                for secret in (str(Path.home()), os.getcwd(), f'"{getpass.getuser()}"'):
                    assert secret.encode() not in found, (name, secret)


def test_it_holds_something_for_every_page(run: Run) -> None:
    opened = queries.open_run(run.path)
    assert opened.problem is None and opened.records is not None
    records = opened.records
    assert queries.summarise(opened).state == "finished" and queries.summarise(opened).step == STEPS
    assert {info.step for info in list_checkpoints(run.checkpoints_folder)} == {*KEPT}
    assert len(records.tasks()) >= 4 and records.rows(Finding) and records.rows(Item)
    assert len(records.segments()) == 2 and records.readings(reading="shimmer")
    assert (run.concepts / CONCEPT / "card.json").is_file()
    assert (run.path.parent / f"{NAME}--{CONCEPT}-anchor" / "evidence").is_dir()
    assert queries.run_names(run.path.parent)[0] == NAME, "what an app shows first"
    records.close()


def test_the_seed_sentence_is_an_entry_of_the_log_and_has_its_verdict(run: Run) -> None:
    with run.records() as records:
        [entry] = [one for one in records.rows(Entry) if one.author == "log"]
        verdicts = [row.data for row in records.rows(Verdict) if row.data["author"] == "log"]
    assert entry.text == SEED and len(verdicts) == 1
    assert verdicts[0]["claim"]["a"] == "function words" and verdicts[0]["step"] == STEPS
    assert set(verdicts[0]["readings"]) == {"decide", "decode.next", "decode.current", "use"}


def test_its_newest_weights_answer(run: Run) -> None:
    done = lab("generate", NAME, "--prompt", "The old", "--max-tokens", "4", "--json", runs=run.path.parent)
    assert done.returncode == 0 and f'"step": {STEPS}' in done.stdout


def test_a_folder_of_runs_beside_the_example_is_refused(tmp_path: Path) -> None:
    done = lab("app", "--example", "--runs", str(tmp_path), runs=tmp_path)
    assert done.returncode == 2 and "Leave --runs out" in done.stderr


def test_the_app_opens_a_copy_without_any_run_of_ones_own_and_takes_it_away_again(tmp_path: Path) -> None:
    kept = resources.files("app").joinpath(ARCHIVE).read_bytes()
    there = environment(tmp_path / "no-runs") | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        command("app", "--example", "--no-browser"), env=there, cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    said = iter(process.stderr.readline, "")
    address = next(re.findall(r"http://127\.0\.0\.1:\d+", line)[0] for line in said if "the app is at" in line)
    copy = Path(next(line for line in said if "lab serve" in line).split()[-1])
    assert Run.open(copy).name == NAME and tmp_path in copy.parents
    with urllib.request.urlopen(f"{address}/_stcore/health", timeout=10) as answer:
        assert answer.status == 200
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    deadline = time.monotonic() + 10
    while copy.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not copy.exists() and not (tmp_path / "no-runs").exists()
    assert resources.files("app").joinpath(ARCHIVE).read_bytes() == kept
