"""Every checkpoint of a run probed, several at a time: what `lab probe --all` shows."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

from lab.checkpoint import list_checkpoints
from lab.errors import LabError
from lab.run import Run
from train.probing import probe_run
from train.profiles import Profiles


class ProbingEnded(LabError):
    """One of several probing processes is gone."""

    exit_code = 1


def probe_all(
    run: Run,
    tasks: Sequence[str] | None = None,
    jobs: int = 1,
    progress: Callable[[str, float], None] | None = None,
) -> list[Profiles]:
    """Profiles of all checkpoints, in order of step.

    Args:
        jobs: processes; each holds one checkpoint and the activations of the probe set.

    Raises:
        LabError: fewer than one job, or a checkpoint that cannot be probed; UnknownTask; ProbingEnded.
    """
    if jobs < 1:
        raise LabError(f"--jobs {jobs}: give at least 1.")
    steps = [info.step for info in list_checkpoints(run.checkpoints_folder)]
    if not steps:
        run.checkpoint_info(None)  # which says that there is none
    report = progress or (lambda what, share: None)
    found = {steps[0]: probe_run(run, steps[0], tasks)}  # first and alone: it makes the probe set and the twin
    report(f"step {steps[0]:,}", 1 / len(steps))
    probe_step = partial(_probe, str(run.path), tasks=tuple(tasks) if tasks is not None else None)
    if jobs == 1:
        for number, step in enumerate(steps[1:], start=2):
            found[step] = probe_step(step)
            report(f"step {step:,}", number / len(steps))
    else:
        try:
            # Not forked: torch's threads do not survive it.
            with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
                waiting = {pool.submit(probe_step, step): step for step in steps[1:]}
                for future in as_completed(waiting):
                    found[waiting[future]] = future.result()
                    report(f"step {waiting[future]:,}", len(found) / len(steps))
        except BrokenProcessPool:
            raise ProbingEnded(
                f"{run.name}: one of {jobs} probing processes ended without an answer, as one does that the system ends "
                f"when memory runs out. Use fewer: --jobs {jobs // 2}."
            ) from None
    return [found[step] for step in steps]


def _probe(path: str, step: int, tasks: tuple[str, ...] | None) -> Profiles:
    return probe_run(Run.open(Path(path)), step, tasks)
