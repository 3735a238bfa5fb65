"""Freezing and releasing on request while a run trains: carried out between two steps, saved before it is acknowledged."""

from lab.errors import LabError
from lab.sections import FreezeRequest
from train.commands import Freeze, Release
from train.control import REFUSED, Result, Trainer


def carry_out(order: Freeze | Release, trainer: Trainer) -> Result:
    """Whether anything changed, and in words. A kill before the acknowledgement repeats it, which then changes nothing."""
    session = trainer.session
    item = session.freeze.held(order.concept)
    if isinstance(order, Freeze) and item is not None and (item["mode"], item["status"]) == (order.mode, "holding"):
        return False, f"{order.concept} is frozen already, mode {item['mode']}, since step {item['from_step']}"
    if isinstance(order, Release) and item is not None and item["status"] == "fading":
        return False, f"{order.concept} was released at step {item['released_step']} and fades out already"
    try:
        if isinstance(order, Freeze):
            change = session.freeze.add(FreezeRequest(from_step=session.step, **order.model_dump()), session.step)
        else:
            change = session.freeze.release(order.concept, session.step, order.fade_steps)
    except (LabError, ValueError) as refusal:  # a ValueError is the request's: until is not after this step
        return False, f"{REFUSED}{refusal}"
    session.note(change)
    return True, f"{change.text}; {trainer.save_anew()}"
