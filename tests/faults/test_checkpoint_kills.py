"""SIGKILL at random moments while checkpoints are saved back to back: what was saved stays, and the newest whole one loads.

The children are forked from a warm parent that has torch loaded and has run nothing in parallel; it is a process of its
own (this file, run as a script), because the test process may have threads.
"""

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
KEEP = 2


@pytest.mark.parametrize("kills", [5, pytest.param(40, marks=pytest.mark.slow)])
def test_a_kill_at_any_moment_of_saving_loses_nothing_that_was_saved(tmp_path: Path, kills: int) -> None:
    command = [sys.executable, str(Path(__file__).resolve()), str(tmp_path), str(kills)]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}, capture_output=True
    )
    assert done.returncode == 0, done.stderr.decode()
    outcomes = json.loads(done.stdout)
    assert len(outcomes) == kills
    assert [outcome for outcome in outcomes if outcome["wrong"]] == []
    assert sum(outcome["saved"] for outcome in outcomes) > 0  # the kills did not all come before the first save


def main(folder: Path, kills: int) -> list[dict[str, object]]:
    """Kill `kills` savers one after the other; each goes on where the last one can, as a resumed run does."""
    import torch

    from lab import checkpoint

    torch.set_num_threads(1)
    generator = random.Random(kills)
    outcomes: list[dict[str, object]] = []
    start = 0
    full = torch.zeros(256, 64)
    checkpoint.save(folder, 0, {"a": full, "b": full.clone()}, {"m": full}, {"step": 0, "segment": 0})
    for segment in range(1, kills + 1):
        acknowledged, saved = os.pipe()
        child = os.fork()
        if not child:
            os.close(acknowledged)
            save_back_to_back(folder, start, segment, saved)
        os.close(saved)
        os.read(acknowledged, 8)  # it is at work; now any moment is as good as another
        time.sleep(generator.uniform(0, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        rest = b""
        while block := os.read(acknowledged, 1 << 16):
            rest += block
        os.close(acknowledged)
        steps = [int.from_bytes(rest[i : i + 8], "little") for i in range(0, len(rest) - 7, 8)]
        last = steps[-1] if steps else start
        before = checkpoint.newest_valid(folder)  # a reader finds it too, without repairing anything
        found = checkpoint.newest_valid(folder, repair=True)
        wrong = ""
        if found is None or before is None:
            wrong = "no valid checkpoint is left"
        else:
            loaded = checkpoint.load(found.path)
            start = found.step
            if not last <= start <= last + 1 or before.step != start:
                wrong = f"step {last} was saved, but {before.step} was found, and {start} after repair"
            elif any(not torch.equal(w, torch.full((256, 64), float(start))) for w in loaded.weights.values()):
                wrong = f"step {start} has other weights than were saved"
            elif loaded.state["step"] != start:
                wrong = f"step {start} has the state of {loaded.state['step']}"
            elif list((folder / "quarantine").glob("*")):
                wrong = "something half-made had taken a checkpoint's name"
            elif list(folder.glob(".tmp-*")) or list(folder.glob("*.replaced")):
                wrong = "something was left behind"
        outcomes.append({"saved": len(steps), "last": last, "found": start, "wrong": wrong})
    return outcomes


def save_back_to_back(folder: Path, start: int, segment: int, saved: int) -> None:
    import torch

    from lab import checkpoint

    try:
        os.write(saved, bytes(8))
        # The step that it resumed from is saved again by the new segment: another state, so it is replaced.
        for step in range(start, start + 10_000):
            full = torch.full((256, 64), float(step))
            state = {"step": step, "segment": segment}
            checkpoint.save(folder, step, {"a": full, "b": full.clone()}, {"m": full}, state)
            os.write(saved, step.to_bytes(8, "little"))
            checkpoint.rotate(folder, KEEP, checkpoint.is_log_milestone)
    finally:
        os._exit(1)


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]) / "checkpoints", int(sys.argv[2]))))
