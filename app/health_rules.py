"""The rules of the understanding module in words, for people who want to know what would stop their run."""

from probes.behaviour import contrasts
from probes.behaviour.fallback import FALLBACK
from probes.behaviour.findings import Rule
from train import health

RULES = (*health.RULES, FALLBACK, *contrasts.RULES)
ENDS = health.NON_FINITE.id  # it does not hold: a step that cannot be applied ends the process
NEWEST = {  # rule -> the metric that it looks at, and its unit
    health.DEAD_UNITS.id: ("understanding/dead_share", "of a layer's units"),
    health.ENTROPY_COLLAPSE.id: ("understanding/entropy", "nats"),
    health.LOOP_RATE.id: ("understanding/loop_rate", "of generations"),
}


def would_pause(rule: Rule, every: int, observe_only: bool) -> str:
    """When a rule stops training, in words.

    Args:
        every: steps between two looks; 0 = off.
        observe_only: as configured: record what is critical, but do not pause.
    """
    if rule.id == ENDS:
        return "ends training at once: saved, exit 3"
    if rule.severity != "critical":
        return "never; it is noted"
    if every <= 0:
        return "never: nobody looks (understanding.every = 0)"
    if observe_only:
        return "never: observe-only is on"
    return f"at its next look, every {every:,} steps; held until someone lifts it"
