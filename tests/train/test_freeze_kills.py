"""SIGKILL while concepts are held, then `lab resume`: weights, optimizer, λ, strengths and losses, bit for bit.

Children are forked from a warm parent that has everything imported; it is a process of its own (this file, run as a script),
because the test process may have threads.
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
START, STEPS = 6, 24


@pytest.mark.slow  # `test_freeze` stops and resumes in the default run; this is the kill itself
def test_a_killed_branch_goes_on_bit_for_bit_as_if_it_had_not_been_killed(tmp_path: Path, text_file: Path) -> None:
    kills = 6
    command = [sys.executable, str(Path(__file__).resolve()), str(tmp_path), str(text_file), str(kills)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    outcomes = json.loads(done.stdout)
    assert len(outcomes) == kills
    assert [outcome for outcome in outcomes if outcome["differs"]] == []
    assert max(outcome["nrmse"] for outcome in outcomes) <= 1e-5


def forked(work: Callable[[], object]) -> int:
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

    from lab.concepts import Concept
    from lab.config import load_config
    from lab.run import Run
    from tests.train.digest import digest, losses
    from tests.train.freezing import SETTINGS, documents, drifts, parent_run, request
    from train.branch import branch, go_on
    from train.session import Session

    torch.set_num_threads(1)
    source = f'data.sources=[{{name="story", kind="text", path="{text}"}}]'
    more = ("train.threads=1", "model.d_vocab=400", "data.tokenizer_bytes=200000", "data.validation_share=0.1")
    phases = "data.phases=[{from_step=0, weights={story=1.0}}]"
    config = load_config("tiny", None, [source, phases, *more, *SETTINGS, "checkpoint.every=5"])

    def begin() -> None:
        parent_run(config, folder, stop_at=START)

    assert os.waitpid(forked(begin), 0)[1] == 0
    parent = Run.open(folder / "parent")
    asked = (
        request("top-0", "pin"),
        request("top-1", "write+anchor"),
        request("top-2", "pin", until=START + 8, fade_steps=12),
    )

    def train(name: str, tell: int) -> None:
        def say(session: Session) -> None:
            os.write(tell, session.step.to_bytes(4, "little"))

        go_on(Run.open(folder / name), report=say)

    sink = os.open(os.devnull, os.O_WRONLY)
    reference = branch(parent, "reference", steps=STEPS, freeze=asked)
    assert os.waitpid(forked(lambda: train("reference", sink)), 0)[1] == 0
    generator, concept = random.Random(kills), Concept.load(parent, "top-0")
    outcomes: list[dict[str, object]] = []
    for index in range(kills):
        name, moment = f"killed-{index}", START + generator.randrange(1, STEPS - 1)
        run = branch(parent, name, steps=STEPS, freeze=asked)
        listen, tell = os.pipe()
        child = forked(lambda name=name, tell=tell: train(name, tell))  # type: ignore[misc]
        os.close(tell)
        step = 0
        while step < moment and (word := os.read(listen, 4)):
            step = int.from_bytes(word, "little")
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(listen)
        assert os.waitpid(forked(lambda name=name: train(name, sink)), 0)[1] == 0  # type: ignore[misc]
        theirs, ours = digest(reference), digest(run)
        differs = [key for key in theirs if theirs[key] != ours.get(key)]
        if losses(run) != losses(reference):
            differs.append("losses")
        nrmse = max(drifts(parent.model(), run.model(), concept, documents(parent)[:10]))
        outcomes.append({"killed_at": step, "differs": differs, "nrmse": nrmse})
    return outcomes


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))))
