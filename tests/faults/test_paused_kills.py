"""Pause, then unpause, with and without SIGKILL in between: weights, state and losses of a run that was never paused.

Commands go the way a person's do, through the inbox, from another process than the trainer's. Children are forked from a
warm parent, a process of its own (this file, run as a script), because the test process may have threads.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STEPS, LATEST_PAUSE = 60, 25
PATIENCE = 120.0  # seconds; a machine may be busy


@pytest.mark.parametrize("points", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_a_paused_run_goes_on_as_the_run_that_was_never_paused(tmp_path: Path, text_file: Path, points: int) -> None:
    command = [sys.executable, str(Path(__file__).resolve()), str(tmp_path), str(text_file), str(points)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    outcomes = json.loads(done.stdout)
    assert len(outcomes) == 2 * points
    for outcome in outcomes:
        kill = outcome["killed"]
        assert outcome["differs"] == [], outcome
        assert outcome["stood_still"] and outcome["saved"], outcome
        assert outcome["steps_until_acknowledged"] <= 2, outcome
        assert outcome["segments"] == (2 if kill else 1), outcome
        assert outcome["states"] == (["held", "dead", "held", "finished"] if kill else ["held", "finished"]), outcome
        assert outcome["unpaused_at"] == outcome["paused_at"], outcome


class Steps:
    """The steps that a trainer tells of through a pipe."""

    def __init__(self) -> None:
        self.listen, self.tell = os.pipe()
        self.newest = 0

    def wait_for(self, step: int) -> None:
        while self.newest < step:
            word = os.read(self.listen, 4)
            assert word, "training ended before it was asked to pause"
            self.newest = int.from_bytes(word, "little")

    def now(self) -> int:
        """The newest step told of so far."""
        os.set_blocking(self.listen, False)
        with contextlib.suppress(BlockingIOError):
            while word := os.read(self.listen, 4):
                self.newest = int.from_bytes(word, "little")
        return self.newest


def main(folder: Path, text: Path, points: int) -> list[dict[str, object]]:
    import torch

    from lab.config import load_config
    from lab.run import Run
    from tests.faults.test_training_kills import forked
    from tests.train.digest import digest, losses
    from train.control import send, wait
    from train.loop import train
    from train.session import Session, prepare_corpus, resume, start

    torch.set_num_threads(1)
    config = load_config(
        "tiny",
        None,
        [
            f'data.sources=[{{name="story", kind="text", path="{text}"}}]',
            "data.phases=[{from_step=0, weights={story=1.0}}, {from_step=25, weights={story=0.5}}]",
            f"train.steps={STEPS}",
            "train.threads=1",
            "checkpoint.every=20",
            "checkpoint.log_spaced=false",
            "model.d_vocab=400",
            "data.tokenizer_bytes=200000",
            "data.validation_share=0.1",
            "probing.every=0",
            "evaluation.every=10",
        ],
    )
    prepare_corpus(config, folder)

    def finish(session: Session) -> None:
        outcome = train(session)
        session.records.end_segment(session.segment, session.step, outcome.reason)

    def begin(name: str, tell: int | None) -> None:
        def say(session: Session) -> None:
            if tell is not None:
                os.write(tell, session.step.to_bytes(4, "little"))
                time.sleep(0.02)  # so that the run has not ended before the command is on disk

        with start(config, folder, name) as session:
            session.report = say
            finish(session)

    def go_on(name: str) -> None:
        with resume(Run.open(folder / name)) as session:
            finish(session)

    assert os.waitpid(forked(lambda: begin("reference", None)), 0)[1] == 0
    reference = Run.open(folder / "reference")
    generator = random.Random(points)
    outcomes: list[dict[str, object]] = []
    for index in range(2 * points):
        name, steps, kill = f"paused-{index}", Steps(), bool(index % 2)
        child = forked(lambda name=name, tell=steps.tell: begin(name, tell))  # type: ignore[misc]
        os.close(steps.tell)
        steps.wait_for(generator.randrange(1, LATEST_PAUSE))
        run = Run.open(folder / name)
        command = send(run, "pause", {"reason": "lunch"})
        sent_at = steps.now()
        paused = wait(run, command, PATIENCE)
        states = [run.state()]
        time.sleep(0.5)
        stood_still = steps.now() == paused.step
        saved = run.checkpoint_info().step == paused.step
        if kill:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            states.append(run.state())
            child = forked(lambda name=name: go_on(name))  # type: ignore[misc]
            deadline = time.monotonic() + PATIENCE
            while run.state() != "held" or len(_segments(run)) < 2:
                assert time.monotonic() < deadline, f"resumed, the run is {run.state()}, not held"
                time.sleep(0.05)
            time.sleep(0.5)
            states.append(run.state())
            stood_still = stood_still and losses(run)[-1][0] == paused.step
        unpaused = wait(run, send(run, "unpause"), PATIENCE)
        assert os.waitpid(child, 0)[1] == 0
        os.close(steps.listen)
        states.append(run.state())
        theirs, ours = digest(reference), digest(run)
        differs = [key for key in theirs if theirs[key] != ours.get(key)]
        if losses(run) != losses(reference):
            differs.append("losses")
        outcomes.append(
            {
                "killed": kill,
                "differs": differs,
                "stood_still": stood_still,
                "saved": saved,
                "steps_until_acknowledged": paused.step - sent_at,
                "paused_at": paused.step,
                "unpaused_at": unpaused.step,
                "segments": len(_segments(run)),
                "states": states,
            }
        )
    return outcomes


def _segments(run: "Run") -> list[object]:  # type: ignore[name-defined]
    with run.records() as records:
        return list(records.segments())


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))))
