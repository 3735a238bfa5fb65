"""What is kept of each concept that is held, in checkpoints and events, and what is said of it.

An item is a JSON object in the state of every checkpoint (`lab.pins.frozen_items`): concept, sha256 (of the concept), mode,
layer, rank, from_step, until, target, lambda, fade_steps, file, file_sha256, bytes, status (holding, fading, released),
released_step, strength, asked (configuration, command, or parent: it came with the checkpoint of a branch) and beneath: the
items of the pins that were part of the model when its lower copy was made.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.checkpoint import list_checkpoints
from lab.concepts import Concept
from lab.errors import LabError
from lab.lower_copy import FrozenFile, LowerCopy
from lab.pins import pins_of
from lab.run import Run
from lab.sections import FreezeRequest
from train.freeze_modes import FIRST_WEIGHT

HOLDS = {
    "anchor": "its drift is pulled to the target on text like the training text; nothing is exact",
    "pin": "its coordinates are exact for every input while the pin is part of the model; the layers below move freely",
    "write": "what the layers up to it write is exact in the weights; the concept still moves with what they are fed",
    "write+anchor": "what the layers up to it write is exact in the weights, and its drift is pulled to the target",
    "lower": "no parameter up to its layer moves, so everything up to there is exact",
}


class FreezeRefused(LabError):
    """A concept cannot be frozen or released as asked."""


@dataclass(frozen=True)
class Change:
    """Something that is held from now on, or is not any more: kind "freeze", "freeze-release" or "faded"."""

    kind: str
    text: str
    data: Mapping[str, Any]


def new_item(
    request: FreezeRequest,
    concept: Concept,
    step: int,
    written: FrozenFile,
    asked: str,
    beneath: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The item of a concept that is held from this step on."""
    return {
        "concept": concept.name,
        "sha256": concept.sha256,
        "mode": request.mode,
        "layer": concept.layer,
        "rank": concept.rank,
        "from_step": step,
        "until": request.until,
        "target": request.target,
        "lambda": FIRST_WEIGHT,
        "fade_steps": request.fade_steps,
        "file": written.file,
        "file_sha256": written.sha256,
        "bytes": written.bytes,
        "status": "holding",
        "released_step": None,
        "strength": 1.0,
        "asked": asked,
        "beneath": list(beneath),
    }


def text_of(item: Mapping[str, Any], found: str, tied: bool) -> str:
    """The freeze in words: where, how, what that holds, and what goes with it."""
    where = f"{item['concept']} is frozen at layer {item['layer']} from step {item['from_step']}"
    text = f"{where}, mode {item['mode']}: {HOLDS[item['mode']]}"
    if tied and item["mode"] not in ("anchor", "pin"):
        text += ". Embeddings are tied, so the unembedding is held with them"
    return f"{text}. {found}" if found else text


def public(item: Mapping[str, Any]) -> dict[str, Any]:
    """An item for an event: without what lies beneath it."""
    return {key: value for key, value in item.items() if key != "beneath"}


def where_found(run: Run, concept: Concept, step: int) -> str:
    """In words, if a concept was found elsewhere than in the weights it is frozen in; "" if in these.

    Raises:
        FreezeRefused: the run has that step, with other weights.
    """
    found, sha256 = concept.checkpoint.get("step"), concept.checkpoint.get("sha256")
    branched = int(run.manifest.get("branch", {}).get("step", 2**62))
    there = {info.step: info.weights_sha256 for info in list_checkpoints(run.checkpoints_folder)}
    if found in there and there[found] != sha256 and found <= branched:
        raise FreezeRefused(
            f"{concept.name}: was found in weights that are not this run's step {found} (sha256 {str(sha256)[:12]}…, here "
            f"{there[found][:12]}…), so it is a subspace of another model. Find it again: lab concept add {run.name}"
        )
    if found == step:
        return ""
    unseen = "" if found in there else ", which is not kept any more"
    return f"It was found at step {found}{unseen}, {abs(step - int(found or 0))} steps away"


def copies_within(copies: Iterable[LowerCopy]) -> list[LowerCopy]:
    """These and the copies that pins within them stand on."""
    found = []
    for each in copies:
        found += [each, *copies_within(pin.copy for pin in pins_of(each.model))]
    return found
