"""What the records keep of a change in what is held: an event, a finding and a regime."""

import hashlib
import json
import time
from typing import Any

from lab.records import Base, Event, Finding, Regime
from probes.behaviour.findings import Rule
from train.freeze_items import Change

RULES = {
    "freeze": Rule("freeze", "freeze.begun", "1", "info", "a concept is held from this step on"),
    "freeze-release": Rule("freeze", "freeze.released", "1", "info", "a concept is let go at this step"),
    "faded": Rule("freeze", "freeze.faded", "1", "info", "a released pin has reached strength 0"),
}


def rows_of(change: Change, protocol: dict[str, Any], segment: int, step: int) -> list[Base]:
    """The rows of one change.

    Args:
        protocol: what is held after it.
    """
    data = dict(change.data)
    jump = data.get("jump")
    value = jump["nrmse"] if jump else None
    digest = hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()
    finding = RULES[change.kind].finding(change.text, value, evidence=data).to_row()
    return [
        Event(kind=change.kind, text=change.text, at=time.time(), segment=segment, step=step, data=data),
        Finding(segment=segment, step=step, **finding),
        Regime(name="freeze", step=step, protocol=protocol, hash=digest),
    ]
