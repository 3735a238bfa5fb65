"""Train 2N = train N, SIGKILL, resume: weights, optimizer, generators, cursor, attachments and losses, bit for bit.

Children are forked from a warm parent that has everything imported and has run no parallel torch operation; it is a process
of its own (this file, run as a script), because the test process may have threads.
"""

import json
import os
import random
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STEPS = 40


@pytest.mark.parametrize("kills", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_a_killed_and_resumed_run_is_bit_for_bit_the_run_that_was_never_killed(
    tmp_path: Path, text_file: Path, kills: int
) -> None:
    command = [sys.executable, str(Path(__file__).resolve()), str(tmp_path), str(text_file), str(kills)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    outcomes = json.loads(done.stdout)
    assert len(outcomes) == kills
    assert [outcome for outcome in outcomes if outcome["differs"]] == []
    assert all(outcome["killed_at"] < STEPS for outcome in outcomes)


def forked(work: Callable[[], None]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def main(folder: Path, text: Path, kills: int) -> list[dict[str, object]]:
    import torch

    from lab.config import load_config
    from lab.run import Run
    from tests.train.digest import digest, losses
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
            "checkpoint.every=6",
            "model.d_vocab=400",
            "data.tokenizer_bytes=200000",
            "data.validation_share=0.1",
            "probing.every=15",
            "probing.log_spaced=false",
            "probing.sentences=40",
            "evaluation.every=10",
        ],
    )
    prepare_corpus(config, folder)

    def begin(name: str, tell: int) -> None:
        def say(session: Session) -> None:
            os.write(tell, session.step.to_bytes(4, "little"))

        with start(config, folder, name) as session:
            session.report = say
            outcome = train(session)
            session.records.end_segment(session.segment, session.step, outcome.reason)

    def go_on(name: str) -> None:
        with resume(Run.open(folder / name)) as session:
            outcome = train(session)
            session.records.end_segment(session.segment, session.step, outcome.reason)

    sink = os.open(os.devnull, os.O_WRONLY)
    assert os.waitpid(forked(lambda: begin("reference", sink)), 0)[1] == 0
    reference = Run.open(folder / "reference")
    generator = random.Random(kills)
    outcomes: list[dict[str, object]] = []
    for index in range(kills):
        name, moment = f"killed-{index}", generator.randrange(1, STEPS - 1)
        listen, tell = os.pipe()
        child = forked(lambda name=name, tell=tell: begin(name, tell))  # type: ignore[misc]
        os.close(tell)
        step = 0
        while step < moment and (word := os.read(listen, 4)):
            step = int.from_bytes(word, "little")
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(listen)
        assert os.waitpid(forked(lambda name=name: go_on(name)), 0)[1] == 0  # type: ignore[misc]
        run = Run.open(folder / name)
        theirs, ours = digest(reference), digest(run)
        differs = [key for key in theirs if theirs[key] != ours.get(key)]
        if losses(run) != losses(reference):
            differs.append("losses")
        outcomes.append({"killed_at": step, "differs": differs})
    return outcomes


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))))
