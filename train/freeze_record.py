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
    "remedy": Rule(
        "remedy", "remedy.begun", "1", "info", "what the model loops over becomes unlikely from this step on"
    ),
    "feedback": Rule("feedback", "feedback.begun", "1", "info", "self-play is trained on from this step on"),
    "chats": Rule("chats", "chats.taken", "1", "info", "what people said to the model is trained on from this step on"),
    "feedback-stopped": Rule("feedback", "feedback.stopped", "1", "alert", "feedback did harm, and ended itself"),
}


def rows_of(change: Change, protocol: dict[str, Any], segment: int, step: int) -> list[Base]:
    """The rows of one change.

    Args:
        protocol: what is held after it; remedy and feedback bring their own along in `data`.
    """
    data = dict(change.data)
    jump = data.get("jump")
    value = jump["nrmse"] if jump else None
    rule = RULES[change.kind]
    if rule.instrument != "freeze":  # an intervention with a protocol of its own
        protocol = dict(data["protocol"])
    digest = hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()
    finding = rule.finding(change.text, value, evidence=data).to_row()
    return [
        Event(kind=change.kind, text=change.text, at=time.time(), segment=segment, step=step, data=data),
        Finding(segment=segment, step=step, **finding),
        Regime(name=rule.instrument, step=step, protocol=protocol, hash=digest),
    ]
