"""The rules of the understanding module in words, for people who want to know what would stop their run.

As `train.health.RULES`, which cannot be imported here: it brings torch, and the app loads none. A test holds them equal.
"""

from probes.behaviour.fallback import FALLBACK
from probes.behaviour.findings import Rule, Severity


def _health(id: str, severity: Severity, definition: str, version: str = "1") -> Rule:
    return Rule("health", f"health.{id}", version, severity, definition)


HEALTH = (
    _health(
        "non-finite", "critical", "loss or gradient norm is not finite: not applied, the run saves and ends with exit 3"
    ),
    _health(
        "loss-spike",
        "watch",
        "the loss of a step is more than 6 robust deviations (of changes from step to step) over the median of the 128 "
        "steps before",
        "2",
    ),
    _health(
        "gradient-spike",
        "watch",
        "the gradient norm of a step, before clipping, is more than 6 robust deviations (of changes from step to step) over "
        "the median of the 128 steps before",
        "2",
    ),
    _health("loss-spikes", "alert", "3 or more loss spikes in 100 steps", "2"),
    _health("gradient-spikes", "watch", "3 or more gradient spikes in 100 steps", "2"),
    _health(
        "worse-than-uniform",
        "alert",
        "a loss spike above ln(vocabulary), what knowing nothing costs: a text of random tokens costs at least that",
        "2",
    ),
    _health(
        "divergence",
        "critical",
        "the loss averaged over 32 steps is more than 1.05 times that over 512 for 200 steps on end",
    ),
    _health(
        "dead-units",
        "alert",
        "over 10% of a layer's MLP units vary less than 0.001 of their layer's median (now, or over the last 8 visits) on "
        "the probe text, or 5% more than at any visit of the last 1000 steps",
    ),
    _health(
        "entropy-collapse",
        "alert",
        "entropy of the next token on the probe text is under 50% of its median over the last 8 visits (3 or more), and "
        "the loss there did not fall: less doubt without more knowledge",
    ),
    _health("disk", "alert", "the disk has room for less than 4 checkpoints; below 2 the run stands still"),
    Rule(
        "loops",
        "loops.rate",
        "1",
        "alert",
        "at two visits on end, 20% more generations end in a loop (`loops.tail-cycle`) than at the reference checkpoint, "
        "with Fisher's exact p below 0.05",
    ),
)
RULES = (*HEALTH, FALLBACK)
ENDS = "health.non-finite"  # it does not hold: a step that cannot be applied ends the process
NEWEST = {  # rule -> the metric that it looks at, and its unit
    "health.dead-units": ("understanding/dead_share", "of a layer's units"),
    "health.entropy-collapse": ("understanding/entropy", "nats"),
    "loops.rate": ("understanding/loop_rate", "of generations"),
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
