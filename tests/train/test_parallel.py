"""Several processes as one trainer, over gloo: the same losses, what is rank 0's alone, and what a rank's death leaves.

The processes are those of `tests/train/ranks.py`, which measures; here is what must be true of it.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.checkpoint import newest_valid
from lab.config import RunConfig
from lab.corpus import Batch
from lab.run import Run
from tests.train import ranks
from train.loop import train
from train.parallel import Job, micro_batches
from train.probing_steps import probe_all
from train.room import pieces
from train.session import start

pytestmark = pytest.mark.xdist_group("ranks")  # one worker, so that the scenarios are played once
ROOT = Path(__file__).resolve().parents[2]
Outcomes = dict[str, Any]
BOUND = 1e-5  # nats, over 50 steps
SECONDS_TO_END = 30  # by torchrun's own patience; a closed connection is noticed at once


@pytest.mark.parametrize(("batch", "accumulation", "count"), [(5, 4, 2), (8, 1, 2), (3, 2, 3), (4, 3, 2), (5, 2, 1)])
@pytest.mark.parametrize("most", [1, 2, 3, 8])
def test_the_micro_batches_of_a_rank_are_counted_as_they_are_cut(
    batch: int, accumulation: int, count: int, most: int
) -> None:
    """The next rank's numbers begin behind them: two with one number would draw the same added text."""
    rows = Batch(torch.zeros(batch, 2, dtype=torch.long), torch.ones(batch, 1, dtype=torch.bool), 0)
    cut = {len(pieces(Job(rank, count, rank, count).share([rows] * accumulation), most)) for rank in range(count)}
    assert cut == {micro_batches(batch, accumulation, count, min(batch, most))}


def measured(folder: Path, text: Path, *scenarios: str) -> Outcomes:
    command = [sys.executable, str(Path(ranks.__file__).resolve()), str(folder), str(text), *scenarios]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True)
    said = "\n".join(f"{file.name}: {file.read_text()[-1000:]}" for file in folder.glob(".said/*"))
    assert done.returncode == 0, f"{done.stderr.decode()[-3000:]}\n{said[-3000:]}"
    found: Outcomes = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Outcomes:
    folder = tmp_path_factory.mktemp("ranks")
    return measured(folder, text_file, "same_losses", "refused", "not_finite", "kill_of_rank_1", "paused", "ended")


def test_two_processes_lose_what_one_loses_with_the_same_batches(outcomes: Outcomes) -> None:
    found = outcomes["same_losses"]
    assert found["codes"] == [0, 0, 0] and found["steps"] == ranks.STEPS
    assert 0 < found["difference"] <= BOUND, "0 would mean that nothing was shared out"


def test_both_processes_hold_the_same_weights_and_moments_bit_for_bit(outcomes: Outcomes) -> None:
    first, second = outcomes["same_losses"]["held"]
    assert first == second


def test_nothing_in_a_checkpoint_tells_how_many_processes_there_were(outcomes: Outcomes) -> None:
    assert outcomes["same_losses"]["differing_state"] == []


def test_rows_that_cannot_be_shared_alike_are_refused_once_and_leave_nothing_behind(outcomes: Outcomes) -> None:
    found = outcomes["refused"]
    assert found["codes"] == [2, 2] and not found["there"]
    assert "3 × 1" in found["said"][0] and "train.batch=4" in found["said"][0] and found["said"][1] == ""


def test_a_loss_that_is_not_finite_on_one_process_stops_both_before_the_update(outcomes: Outcomes) -> None:
    found = outcomes["not_finite"]
    assert found == {"codes": [3, 3], "saved": 7, "evidence": ["non-finite-step-000000007.safetensors"]}


def test_a_job_that_is_done_ends(outcomes: Outcomes) -> None:
    assert outcomes["ended"]["codes"] == [0] * 2 * ranks.ENDINGS


def check_of_a_kill(found: Outcomes, victim: int) -> None:
    assert found["codes"][victim] == -9 and found["codes"][1 - victim] == 1
    assert found["seconds"] < SECONDS_TO_END and "another process of this job has ended" in found["said"]
    assert found["state"] == ("dead" if victim == 0 else "stopped") and found["saved"] >= 10
    codes, apart = found["both"]
    assert codes == [0, 0] and apart == 0.0, "two ranks resume bit for bit: a sum of two does not depend on its order"
    codes, apart = found["alone"]
    assert codes == [0] and apart <= BOUND


def test_the_death_of_a_process_ends_the_other_and_the_run_goes_on_with_one_and_with_two(outcomes: Outcomes) -> None:
    check_of_a_kill(outcomes["kill_of_rank_1"], 1)


def test_all_stand_still_while_rank_0_is_held(outcomes: Outcomes) -> None:
    found = outcomes["paused"]
    before, after = found["seen"]
    assert before == after and before[1] == ["user"] and before[0][0] < ranks.STEPS
    assert found["codes"] == [0, 0] and found["difference"] == 0.0, "and go on afterwards as if nothing had been"


@pytest.mark.slow
def test_the_death_of_rank_0_a_run_of_one_joined_by_another_and_interventions(tmp_path: Path, text_file: Path) -> None:
    scenarios = ("same_losses", "kill_of_rank_0", "one_then_two", "frozen", "remedied")
    found = measured(tmp_path / "runs", text_file, *scenarios)
    check_of_a_kill(found["kill_of_rank_0"], 0)
    assert found["one_then_two"]["codes"] == [0, 0] and found["one_then_two"]["difference"] <= BOUND
    frozen, remedied = found["frozen"], found["remedied"]
    assert set(frozen["codes"] + remedied["codes"]) == {0}
    assert frozen["held"][0] == frozen["held"][1], "weights, strengths and λ of an anchor are alike"
    assert frozen["difference"] <= BOUND, "one process with micro-batches as small as a rank's"
    assert remedied["held"][0] == remedied["held"][1] and remedied["pool"] > 0


def rank_1_of(torchrun: int) -> int:
    children = Path(f"/proc/{torchrun}/task/{torchrun}/children").read_text().split()
    return next(int(child) for child in children if b"\0RANK=1\0" in Path(f"/proc/{child}/environ").read_bytes())


@pytest.mark.slow
def test_torchrun_ends_a_job_that_loses_a_process_and_says_why(
    tmp_path: Path, tiny_config: Callable[..., RunConfig]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        tiny_config("train.batch=4", "train.steps=100000", "checkpoint.every=10", "probing.every=0").to_toml()
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "train"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LAB_RUNS": str(tmp_path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*torchrun, "--config", str(config), "--name", "fox"], env=environment, stderr=subprocess.PIPE
    ) as job:
        newest = tmp_path / "fox" / "checkpoints" / "LATEST"
        while not newest.exists() or newest.read_text().strip() < "step-000000010":
            assert job.poll() is None, job.stderr and job.stderr.read().decode()[-3000:]
            time.sleep(0.1)
        os.kill(rank_1_of(job.pid), signal.SIGKILL)
        said = job.communicate(timeout=2 * SECONDS_TO_END)[1].decode()
        assert job.returncode != 0 and "another process of this job has ended" in said
    run = Run.open(tmp_path / "fox")
    assert run.holder() is None and newest_valid(run.checkpoints_folder) is not None


@pytest.mark.slow
def test_two_processes_probe_every_checkpoint_as_one_does(
    tmp_path: Path, tiny_config: Callable[..., RunConfig]
) -> None:
    settings = (
        "train.steps=4",
        "optimizer.warmup_steps=1",
        "evaluation.every=0",
        "probing.every=0",
        "probing.sentences=60",
    )
    with start(tiny_config(*settings), tmp_path, "probed") as session:
        train(session)
    alone, shared = (probe_all(session.run, ["class.next"], jobs) for jobs in (1, 2))
    assert len(alone) == 4 and [one.to_dict() for one in alone] == [one.to_dict() for one in shared]
