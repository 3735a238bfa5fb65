"""Probe readings of one checkpoint as a table for people and as data for programs."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from probes.layers.cross_check import CrossCheck
from probes.layers.profile import Profile, profile_table

LAYERS = "layer 0 = embedding sum, layer l = after block l, before the final norm"
TWIN_IS = "twin: the same for a model that was never trained"
INTERVALS = "nominal 95 % intervals (about 92 % measured: probes are not refitted in the bootstrap)"


@dataclass(frozen=True)
class Profiles:
    """Readings of one checkpoint, for a terminal or for a program."""

    run: str
    step: int
    profiles: Mapping[str, Profile]
    untestable: Mapping[str, str]
    cross_checks: Mapping[str, CrossCheck] = field(default_factory=dict)
    lexical: tuple[str, ...] = ()  # tasks whose raw profile is lexical; told from layer 0, shown or not

    def to_dict(self) -> dict[str, Any]:
        return {
            "run": self.run,
            "step": self.step,
            "unit": f"usable bits per word, out of fold; low and high: {INTERVALS}",
            "layers": LAYERS,
            "profiles": {task: asdict(profile) for task, profile in self.profiles.items()},
            "lexical": list(self.lexical),
            "cross_checks": {label: check.to_dict() for label, check in self.cross_checks.items()},
            "untestable": dict(self.untestable),
        }

    def to_text(self) -> str:
        """A table over layers: value, [low, high], and the random-initialisation twin's value."""
        lines = [f"usable bits per word at step {self.step} ({LAYERS}); [low, high]: {INTERVALS}; {TWIN_IS}"]
        rows = [["layer", *self.profiles], ["words", *(str(p.n) for p in self.profiles.values())]]
        for row in profile_table(self.profiles) if self.profiles else []:
            rows.append([str(row["layer"]), *(_cell(row[task]) for task in self.profiles)])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        if self.profiles:
            lines += ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
        lexical = "lexical: layer 0 already has it, so its raw profile says nothing about depth; read it given layer 0"
        lines += [f"{task}: {lexical}" for task in self.lexical]
        lines += [f"{task}: untestable: {reason}" for task, reason in self.untestable.items()]
        for check in self.cross_checks.values():
            lines += ["", *check.to_lines()]
        return "\n".join(lines)


def _cell(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "-"
    twin = "" if found["baseline"] is None else f" twin {found['baseline']:+.3f}"
    return f"{found['value']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]{twin}"
