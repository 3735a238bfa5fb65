"""What a job makes, and how far it is: read off the words of its verb, which say it to a person. No torch is used."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TRAINED = 0.9  # share of a freeze that is done when all its runs are trained; the rest is their proof
_SHARE = re.compile(r"(\d{1,3})\s?%")
_RUN = re.compile(r"(\d{1,3}) of (\d{1,3}): \S")  # "2 of 4: fox--weather-pin--twin-random"
_STEP = re.compile(r"step (\d{1,9})/(\d{1,9})\b")


@dataclass
class Progress:
    """The share of a job that is done; of a freeze over all its runs, so that it never goes back.

    Attributes:
        steps: for which each run of a freeze is trained; None of other jobs.
        share: 0..1; None as long as nothing is said of it.
    """

    steps: int | None = None
    share: float | None = None
    _run: tuple[int, int] | None = None  # which of how many is being trained, from 1
    _trained: bool = False

    def hear(self, line: str) -> None:
        """Take in one line of the verb's messages."""
        if self.steps is not None and (found := _RUN.match(line)):
            self._run = int(found[1]), int(found[2])
            self._training(0.0)
        elif self._run is not None and (found := _STEP.match(line)):
            self._training(1 - (int(found[2]) - int(found[1])) / max(1, self.steps or 0))
        elif (shares := _SHARE.findall(line)) and (self._run is None or self._trained):
            share = min(1.0, int(shares[-1]) / 100)
            self.share = round(TRAINED + (1 - TRAINED) * share, 3) if self._trained else share

    def _training(self, share: float) -> None:
        assert self._run is not None
        number, runs = self._run
        self.share = round(TRAINED * (number - 1 + min(1.0, max(0.0, share))) / max(1, runs), 3)
        self._trained = number == runs and share >= 1


def progress_of(kind: str, options: Mapping[str, Any]) -> Progress:
    """For a job that has said nothing yet."""
    from app.cli_freeze import STEPS

    steps = options.get("steps", STEPS)
    return Progress(steps if kind == "freeze" and isinstance(steps, int) else None)


def branch_of(kind: str, run: str, options: Mapping[str, Any]) -> str | None:
    """The run that a freeze makes (its twins are named after it); None of other jobs, and of one that is live.

    >>> branch_of("freeze", "fox", {"concept": "weather", "mode": "write+anchor"})
    'fox--weather-write-anchor'
    """
    if kind != "freeze" or options.get("live"):
        return None
    concept = options.get("concept") or f"claim-{options.get('from_claim')}".lower()
    mode = str(options.get("mode", "anchor")).replace("+", "-")
    return str(options.get("name") or f"{run}--{concept}-{mode}")
