"""Holding concepts while training goes on: what is held, from when to when, and everything a checkpoint must know of it.

An intervention that is always there. Without a concept it adds no loss, touches no gradient and changes no bit. How each mode
holds is in `freeze_modes`; what makes a model pinned for its readers too, in `lab.pins`. A freeze begins and ends between two
steps only, and every begin and end is a `Change` that the session records.
What a checkpoint keeps of each is an item (`freeze_items`).
"""

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lab.concepts import Concept
from lab.corpus import Batch, Corpus
from lab.lower_copy import LowerCopy, write_lower
from lab.model import GPT
from lab.pins import Pin, is_pinned, pins_of, read_copy, set_pins
from lab.run import Run
from lab.sections import FreezeConfig, FreezeRequest
from train.freeze_items import Change, FreezeRefused, copies_within, new_item, public, text_of, where_found
from train.freeze_jump import measure_jump
from train.freeze_modes import Anchor, Dictionary, Still

__all__ = ["Change", "Freeze", "FreezeRefused", "FreezeRequest"]

STABLE_CHECKPOINTS = 4
States = Callable[[Run, str], Sequence[tuple[int, str]]]  # (step, state) of a concept at each checkpoint, ascending


class Freeze:
    """The concepts that are held in one run.

    Args:
        config: what the configuration asks for; begun by `between_steps` when due.
        dtype: that training's products run in, for measuring a pin's jump.
    """

    name = "freeze"

    def __init__(
        self,
        config: FreezeConfig,
        model: GPT,
        optimizer: torch.optim.Optimizer,
        run: Run,
        corpus: Corpus,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.items: list[dict[str, Any]] = []
        self.states: States = _states_of_shimmer
        self._requests = config.concepts
        self._model, self._optimizer, self._run, self._corpus, self._dtype = model, optimizer, run, corpus, dtype
        self._anchors: list[tuple[dict[str, Any], Anchor]] = []  # each with the item that it is of
        self._pins: list[tuple[dict[str, Any], Pin]] = []
        self._dictionary: Dictionary | None = None
        self._still: Still | None = None
        self._looked: dict[
            str, int
        ] = {}  # concept -> when the statistics were written that shimmer was asked about, in ns

    # ------------------------------------------------------------------------------------------------- what it does

    def loss(self, model: GPT, batch: Batch) -> Tensor | None:
        """The terms of all anchors on the batch that the model has just seen; None without any."""
        if not self._anchors:
            return None
        terms = [anchor.loss(batch.tokens[:, :-1]) for _, anchor in self._anchors]
        return torch.stack(terms).sum()

    def before_step(self) -> None:
        if self._still is not None:
            self._still.before_step()
        if self._dictionary is not None:
            self._dictionary.before_step()

    def after_step(self) -> None:
        if self._dictionary is not None:
            self._dictionary.after_step()
        for item, anchor in self._anchors:
            anchor.after_step()
            item["lambda"] = anchor.weight

    def again(self) -> None:
        for _, anchor in self._anchors:
            anchor.again()

    def between_steps(self, step: int) -> list[Change]:
        """Begin what is due, let go of what has ended, let pins fade; what changed."""
        changes = [self.release(item["concept"], step) for item in self._ended(step)]
        changes += [self.add(request, step, asked="configuration") for request in self._due(step)]
        for item, pin in [(item, pin) for item, pin in self._pins if item["status"] == "fading"]:
            item["strength"] = pin.strength = max(0.0, 1 - (step - item["released_step"]) / item["fade_steps"])
            if item["strength"] == 0:
                item["status"] = "released"
                self._build()
                text = (
                    f"{item['concept']}: its pin has faded out at step {step}; the frozen lower copy is no longer used"
                )
                changes.append(Change("faded", text, public(item)))
        return changes

    # ------------------------------------------------------------------------------------------------- on request

    def add(self, request: FreezeRequest, step: int, asked: str = "command") -> Change:
        """Hold a concept of this run from this step on.

        Raises:
            FreezeRefused: it is held already, or was found in weights that are not this run's.
            ConceptMissing, BadConcept: there is none, or it does not fit this model or tokenizer.
            LowerCopyNotWritten: the disk refused; nothing is frozen.
        """
        held = self.held(request.concept)
        if held is not None:
            raise FreezeRefused(
                f"{request.concept}: is {held['status']} already (mode {held['mode']}, since step {held['from_step']}). "
                f"Release it first: lab release {self._run.name} {request.concept}. Weights and drift: mode write+anchor."
            )
        if request.until is not None and request.until <= step:
            raise FreezeRefused(
                f"{request.concept}: until = {request.until}, but this is step {step}. Give a later one."
            )
        concept = Concept.load(self._run, request.concept)
        found = where_found(self._run, concept, step)
        # A pin of this very step is not beneath: it holds what the model does by itself now.
        beneath = [
            copy.deepcopy(item)
            for item in self.items
            if is_pinned(item) and item["layer"] <= concept.layer and item["from_step"] < step
        ]
        written = write_lower(self._run.path, concept, self._model, step)
        item = new_item(request, concept, step, written, asked, beneath)
        self.items.append(item)
        self._build()
        tied = self._model.cfg.tie_embeddings
        data = public(item) | {"memory_bytes": self.bytes, "found": found, "tied": tied}
        return Change("freeze", text_of(item, found, tied), data)

    def release(self, concept: str, step: int, fade_steps: int | None = None) -> Change:
        """Let go of a concept: anchor, write and lower at once, without a jump; a pin over `fade_steps`.

        Args:
            fade_steps: 0 lets go of a pin at once; None: as the freeze said.

        Raises:
            FreezeRefused: it is not held, or is fading out already.
        """
        item = self.held(concept)
        if item is None:
            held = ", ".join(each["concept"] for each in self.items if each["status"] == "holding") or "nothing"
            raise FreezeRefused(f"{concept}: is not frozen, so it cannot be released. Held now: {held}.")
        if item["status"] == "fading":
            raise FreezeRefused(
                f"{concept}: was released at step {item['released_step']} and fades out over {item['fade_steps']} steps."
            )
        item["released_step"] = step
        if item["mode"] != "pin":
            item["status"] = "released"
            self._build()
            text = f"{concept} is released at step {step}: mode {item['mode']} let go without a jump"
            return Change("freeze-release", text, public(item) | {"jump": None})
        pin = next(pin for each, pin in self._pins if each is item)
        jump = measure_jump(self._model, pin, self._corpus, self._dtype)
        item["fade_steps"] = item["fade_steps"] if fade_steps is None else fade_steps
        item["status"] = "fading" if item["fade_steps"] else "released"
        item["strength"] = 1.0 if item["fade_steps"] else 0.0
        self._build()
        text = (
            f"{concept} is released at step {step}: its pin fades out over {item['fade_steps']} steps. Let go at once, the "
            f"held-out loss goes from {jump['loss_held']:.4f} to {jump['loss_free']:.4f} nats and the coordinates move by "
            f"{jump['nrmse']:.3f} of their spread"
        )
        return Change("freeze-release", text, public(item) | {"jump": jump})

    # ------------------------------------------------------------------------------------------------------- state

    @property
    def bytes(self) -> int:
        """Memory that frozen lower copies take now; they are kept for anchors and pins alone."""
        return sum(each.bytes for each in {id(each): each for each in copies_within(self._kept())}.values())

    def numbers(self) -> dict[str, float]:
        """Metrics of the newest step: drift and weight of each anchor, strength of each pin."""
        values: dict[str, float] = {}
        for item, anchor in self._anchors:
            name = f"freeze/{item['concept']}"
            values |= {f"{name}/nrmse": anchor.nrmse, f"{name}/lambda": anchor.weight}
        return values | {f"freeze/{item['concept']}/strength": pin.strength for item, pin in self._pins}

    def protocol(self) -> dict[str, Any]:
        """What is held now, for the regime."""
        keys = ("concept", "sha256", "mode", "layer", "from_step", "target", "status", "file_sha256")
        return {"held": [{key: item[key] for key in keys} for item in self.items if item["status"] != "released"]}

    def state_dict(self) -> dict[str, Any]:
        return {"frozen": copy.deepcopy(self.items)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Raises:
            LowerCopyDamaged: a frozen lower copy is not there any more, or is another one.
        """
        self.items = copy.deepcopy(state["frozen"])
        self._build()

    def _build(self) -> None:
        """Make anchors, pins and the rest from the items: the same from files after a kill as at the moment of the freeze."""
        for _, anchor in self._anchors:
            anchor.remove()
        read: dict[str, tuple[Tensor, LowerCopy]] = {}
        self._anchors, self._pins = [], []
        written: list[tuple[int, Tensor, Mapping[str, Tensor]]] = []
        still = [item["layer"] for item in self.items if item["status"] == "holding" and item["mode"] == "lower"]
        for item in self.items:
            mode = item["mode"]
            if item["status"] == "released" or mode == "lower":
                continue
            basis, lower = read_copy(self._run.path, item, self._model, read)
            if mode == "pin":
                self._pins.append((item, Pin(item["concept"], item["layer"], basis, lower, item["strength"])))
            if "anchor" in mode:
                self._anchors.append((item, Anchor(self._model, basis, lower, item["target"], item["lambda"])))
            if "write" in mode:
                written.append((item["layer"], basis, lower.weights))
        if self._pins or pins_of(self._model):
            set_pins(self._model, [pin for _, pin in self._pins])
        self._still = Still(self._model, self._optimizer, max(still)) if still else None
        spared = self._still.parameters if self._still else ()
        self._dictionary = Dictionary(self._model, self._optimizer, written, spared) if written else None

    def _kept(self) -> list[LowerCopy]:
        return [anchor.copy for _, anchor in self._anchors] + [pin.copy for _, pin in self._pins]

    def held(self, concept: str) -> dict[str, Any] | None:
        """The item of a concept that is holding or fading; None if it is not frozen."""
        return next((item for item in self.items if item["concept"] == concept and item["status"] != "released"), None)

    # --------------------------------------------------------------------------------------------- what is due when

    def _ended(self, step: int) -> list[dict[str, Any]]:
        holding = [item for item in self.items if item["status"] == "holding"]
        return [item for item in holding if item["until"] is not None and item["until"] <= step]

    def _due(self, step: int) -> list[FreezeRequest]:
        """Requests of the configuration whose time has come; one that was begun ever, is not begun again."""
        begun = {item["concept"] for item in self.items if item["asked"] == "configuration"}
        waiting = [
            request
            for request in self._requests
            if request.concept not in begun
            and request.from_step <= step
            and (request.until is None or step < request.until)
            and self.held(request.concept) is None
        ]
        stable = self._stable(step, [request.concept for request in waiting if request.when == "stable"])
        return [request for request in waiting if request.when == "step" or request.concept in stable]

    def _stable(self, step: int, concepts: Sequence[str]) -> set[str]:
        """Those that were STABLE at the newest checkpoints; asked only when there are new statistics to go by."""
        if not concepts or not self._run.statistics.is_dir():
            return set()
        written = os.stat(self._run.statistics).st_mtime_ns
        found = set()
        for concept in concepts:
            if self._looked.get(concept) == written:
                continue
            self._looked[concept] = written
            newest = [state for at, state in self.states(self._run, concept) if at <= step][-STABLE_CHECKPOINTS:]
            if len(newest) == STABLE_CHECKPOINTS and set(newest) == {"STABLE"}:
                found.add(concept)
        return found


def _states_of_shimmer(run: Run, concept: str) -> Sequence[tuple[int, str]]:
    from train import shimmer  # its figures and tables are not for every training step

    return shimmer.states(run, concept)
