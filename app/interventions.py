"""The loop remedy and feedback beside their twins: runs that went on from the same weights, as the Behaviour view shows them.

Read-only, without torch. Twins begin from the same checkpoint and read the same batches, so that what differs between them is
what was switched on. One pair at one step is one draw; which difference is large only several seeds tell.
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.behaviour_reports import report
from lab.errors import LabError
from lab.records import Records
from lab.run import Run
from probes.behaviour.rates import Rate, wilson

WHAT = ("remedy", "feedback")


@dataclass(frozen=True)
class Beside:
    """One of the runs.

    Attributes:
        acts: what is switched on: "remedy", "feedback", both or none.
        step, bits_per_byte: the newest evaluation up to the step that all of them have reached; None without one.
        looping: replies in the remedy's ear that ended in a loop, of those it heard.
        refused: texts that the gate of feedback refused, of those it was offered.
    """

    name: str
    acts: tuple[str, ...]
    step: int | None
    bits_per_byte: float | None
    looping: Rate | None
    refused: Rate | None


def beside(run: Run) -> list[Beside]:
    """This run and every branch from the same weights with the same settings otherwise, by name; [] where nothing acts."""
    own = _origin(run.path)
    if own is None:
        return [_read(run, None)] if _acts(run) else []
    runs = []
    for folder in sorted(run.path.parent.iterdir()):
        with contextlib.suppress(LabError, OSError):
            if not folder.name.startswith(".") and _origin(folder) == own:
                runs.append(Run.open(folder))
    if not any(_acts(one) for one in runs):
        return []
    reached = [step for one in runs if (step := _evaluated(one)) is not None]
    return [_read(one, min(reached, default=None)) for one in runs]


def _origin(folder: Path) -> tuple[str, int] | None:
    """Weights and step that a branch began from; None for any other folder."""
    about: Any = report(folder / "manifest.json").get("branch")
    if not isinstance(about, dict) or about.get("kind") != "branch":
        return None
    sha256, step = about.get("weights_sha256"), about.get("step")
    return (sha256, step) if isinstance(sha256, str) and type(step) is int else None


def _acts(run: Run) -> tuple[str, ...]:
    return tuple(name for name in WHAT if getattr(run.config, name).every)


def _evaluated(run: Run) -> int | None:
    with contextlib.suppress(LabError), run.records() as records:
        return (records.newest("validation/bits_per_byte") or (None,))[0]
    return None


def _read(run: Run, up_to: int | None) -> Beside:
    with contextlib.suppress(LabError), run.records() as records:
        points = [
            (step, value)
            for _, step, value in records.series("validation/bits_per_byte", max_points=sys.maxsize)
            if up_to is None or step <= up_to
        ]
        step, bits = points[-1] if points else (None, None)
        looping = _share(records, "remedy/looping_replies", "remedy/replies")
        refused = _share(records, "feedback/refused", "feedback/passed", of_both=True)
        return Beside(run.name, _acts(run), step, bits, looping, refused)
    return Beside(run.name, _acts(run), None, None, None, None)


def _share(records: Records, name: str, other: str, of_both: bool = False) -> Rate | None:
    first, second = records.newest(name), records.newest(other)
    if first is None or second is None:
        return None
    count, checks = int(first[1]), int(second[1]) + (int(first[1]) if of_both else 0)
    return wilson(count, checks) if 0 <= count <= checks and checks else None
