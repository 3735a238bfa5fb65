"""Standing still and stopping: latches by owner, commands out of the inbox, and the signals a person or the system sends.

Read at step boundaries only. Training moves while no latch is held; lifting one owner's latch never lifts another's.
`send` and `wait` are the other end: they ask a run for something, whether or not a trainer lives. No torch.
"""

import hashlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from lab.checkpoint import newest_first
from lab.errors import LabError
from lab.records import Command, Event, Records, RecordsUnwritable, Regime
from lab.run import Run, RunLocked
from lab.run_lock import TRAINING
from train import commands
from train.commands import Checkpoint, Freeze, Inbox, Message, Note, Order, Pause, Release, SetInterval, Stop, Unpause

if TYPE_CHECKING:
    from train.attachments import Attachment
    from train.session import Session

POLL_SECONDS = 0.2
LOOK_SECONDS = 0.001  # a look costs 5 µs, so at most half a percent of the time; a step takes longer than this
REFUSED = "refused: "
VISITS = {"checkin": "check_ins", "selfplay": "self_play", "journal": "journal"}  # verb -> attachment


class NotAcknowledged(LabError):
    """Nobody has said yet what became of a command."""

    exit_code = 1


@dataclass(frozen=True)
class Acknowledgement:
    """What became of a command: at which step, whether it changed anything, and in words."""

    id: str
    step: int
    changed: bool
    result: str

    @property
    def refused(self) -> bool:
        """Not done, and `result` says why; a command that found things as it wants them is not refused."""
        return self.result.startswith(REFUSED)


@dataclass(frozen=True)
class Trainer:
    """What the verbs that need a live trainer may use of it, between two steps."""

    session: "Session"
    visit: "Callable[[Session, list[Attachment]], None]"
    save: "Callable[[Session], None]"

    def save_anew(self) -> str:
        """A checkpoint of this step although there may be one: an attachment's state has changed. In words."""
        self.session.saved_step = None
        return self.save_now()

    def save_now(self) -> str:
        self.save(self.session)
        saved = self.session.saved_step == self.session.step
        return f"step {self.session.step} is saved" if saved else "not saved: there is no room on the disk"


Result = tuple[bool, str]  # changed, in words


class Control:
    """The latches, commands and stop requests of one segment, for the holder of the run's lock."""

    def __init__(self, records: Records, inbox: Path) -> None:
        self.records = records
        self.held: dict[str, str] = {latch.owner: latch.reason for latch in records.latches()}
        self.stop_reason: str | None = None
        self._inbox = Inbox(inbox, self._tell_put_aside)
        self._looked = 0.0

    def hold(self, owner: str, reason: str, step: int, severity: str = "critical") -> bool:
        """Hold the owner's latch, durably. Holding it again changes nothing: False, and the first reason stays."""
        held = self.records.hold(owner, reason, step, severity=severity)
        if held:
            self.held[owner] = reason
        return held

    def release(self, owner: str, step: int, reason: str = "") -> bool:
        """Lift the owner's latch; False if it holds none."""
        return self.held.pop(owner, None) is not None and self.records.release(owner, step, reason)

    # ---------------------------------------------------------------------------------------------------- commands

    def has_mail(self) -> bool:
        """Whether something lies in the inbox: one listing, 5 µs, at most once a millisecond."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return False
        self._looked = now
        return not self._inbox.is_empty()

    def obey(self, step: int, trainer: Trainer | None, sent_before: float | None = None) -> None:
        """Carry out what lies in the inbox, oldest first, and acknowledge each in `commands`.

        A command is recorded, carried out, acknowledged, and only then taken out of the inbox: a kill in between
        repeats it, which for these verbs is harmless, and an acknowledged id is never obeyed again.

        Args:
            trainer: None: nobody trains, so only latches move and the other verbs are refused in words.
            sent_before: unix seconds; leave what was sent later.
        """
        try:
            for message in self._inbox.messages():
                if sent_before is None or message.sent_at < sent_before:
                    self._take(message, step, trainer)
        except RecordsUnwritable:  # a full disk: the files stay, and the next look tries again
            return

    def _take(self, message: Message, step: int, trainer: Trainer | None) -> None:
        known: list[Command] = self.records.rows(Command, id=message.id)
        if not known:
            arguments = message.order.model_dump()
            self.records.add_now(
                Command(id=message.id, verb=message.verb, arguments=arguments, received_at=time.time())
            )
        if not known or known[0].acknowledged_step is None:
            changed, result = self._carry_out(message.verb, message.order, step, trainer)
            self.records.acknowledge(message.id, step, changed, result)
        self._inbox.remove(message)

    def _carry_out(self, verb: str, order: Order, step: int, trainer: Trainer | None) -> Result:
        match order:
            case Pause():
                return self._pause(order, step, trainer)
            case Unpause():
                return self._unpause(order, step)
            case Note():
                return self._note(order)
        if trainer is None:
            return False, f"{REFUSED}no trainer was running. Start it with lab resume, then ask again"
        match order:
            case Stop():
                return self._stop(trainer)
            case Checkpoint():
                changed = trainer.session.saved_step != step
                return changed, trainer.save_now()
            case SetInterval():
                return self._set_interval(order, trainer)
            case Freeze() | Release():
                from train.freeze_orders import carry_out  # with torch, which a trainer has loaded

                return carry_out(order, trainer)
        return self._visit(VISITS[verb], trainer)

    def _pause(self, order: Pause, step: int, trainer: Trainer | None) -> Result:
        if not self.hold(order.owner, order.reason or "no reason given", step, order.severity):
            return False, f"{order.owner} holds training already: {self.held[order.owner]}"
        saved = f"; {trainer.save_now()}" if trainer else ""
        return True, f"{order.owner} holds training at step {step}{saved}"

    def _unpause(self, order: Unpause, step: int) -> Result:
        owner = order.owner
        if owner == commands.SELF_LIFTING and owner in self.held:
            return False, f"{REFUSED}the {owner} latch lifts itself as soon as there is room: {self.held[owner]}"
        severity = {latch.owner: latch.severity for latch in self.records.latches()}.get(owner)
        if severity == "critical" and not order.reason:
            return (
                False,
                f"{REFUSED}{owner} holds for a critical reason ({self.held[owner]}). Say why it may go: --reason",
            )
        released = self.release(owner, step, order.reason)
        rest = "".join(f"; held by {other}: {reason}" for other, reason in self.held.items())
        return released, (f"{owner} released at step {step}" if released else f"{owner} held nothing") + rest

    def _note(self, order: Note) -> Result:
        from train.entries import BadEntry, take  # with the grammar of claims

        try:
            number, new = take(self.records, order)
        except BadEntry as error:
            return False, f"{REFUSED}{error}"
        return new, f"entry {number} of the journal"

    def _stop(self, trainer: Trainer) -> Result:
        step = trainer.session.step
        if self.stop_reason is not None:
            return False, f"training stops already at step {step}"
        self.stop_reason = "stop"
        self._tell(trainer, "stop", "stopped on request")
        return True, f"training stops at step {step}; {trainer.save_now()}"

    def _set_interval(self, order: SetInterval, trainer: Trainer) -> Result:
        """Every `every` steps from now on; a new regime, and a checkpoint, so that no kill takes it back."""
        session, name, every = trainer.session, order.name, order.every
        attachment = self._attachment(name, trainer)
        if attachment is None:
            return False, self._missing(name, trainer)
        before = attachment.every
        if before == every:
            return False, f"{name} looks every {every} steps already"
        own = getattr(attachment, "set_every", None)
        if own is not None:
            try:
                own(session.step, every)
            except LabError as error:
                return False, f"{REFUSED}{error}"
        else:
            attachment.every = every
            protocol = {"every": every}
            digest = hashlib.sha256(json.dumps(protocol).encode()).hexdigest()
            self.records.add_now(Regime(name=name, step=session.step, protocol=protocol, hash=digest))
        text = f"{name} looks every {every} steps, not {before}"
        self._tell(trainer, "interval", text, {"attachment": name, "before": before, "every": every})
        return True, f"{text}; {trainer.save_anew()}"

    def _visit(self, name: str, trainer: Trainer) -> Result:
        step = trainer.session.step
        attachment = self._attachment(name, trainer)
        if attachment is None:
            return False, self._missing(name, trainer)
        if trainer.session.visited.get(name) == step:  # it draws from (seed, name, step): the same again, word for word
            return False, f"{name} has looked at step {step} already"
        trainer.visit(trainer.session, [attachment])
        self._tell(trainer, "visit", f"{name} looked on request", {"attachment": name})
        return True, f"{name} looked at step {step}; {trainer.save_anew()}"

    def _attachment(self, name: str, trainer: Trainer) -> "Attachment | None":
        return next((a for a in trainer.session.attachments if a.name == name), None)

    def _missing(self, name: str, trainer: Trainer) -> str:
        there = ", ".join(a.name for a in trainer.session.attachments) or "nothing"
        return (
            f"{REFUSED}{name} is not attached to this run ({there} is). A run takes it along when it starts with it: "
            f"lab train --set {name}.every=500"
        )

    def _tell(self, trainer: Trainer, kind: str, text: str, data: dict[str, Any] | None = None) -> None:
        at, segment, step = time.time(), trainer.session.segment, trainer.session.step
        self.records.add_now(Event(kind=kind, text=text, at=at, segment=segment, step=step, data=data or {}))

    def _tell_put_aside(self, name: str, reason: str) -> None:
        text = f"inbox/{name} {reason}: put aside, not obeyed"
        self.records.add(Event(kind="quarantine", text=text, at=time.time(), data={"name": name}))

    # ----------------------------------------------------------------------------------------------------- signals

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Within, the first SIGINT or SIGTERM asks training to save and stop; a second one aborts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, _: FrameType | None) -> None:
            if self.stop_reason is not None:
                raise KeyboardInterrupt
            self.stop_reason = signal.Signals(number).name

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


# ------------------------------------------------------------------------------------------------------ the other end


def send(run: Run, verb: str, arguments: dict[str, Any] | None = None) -> str:
    """Ask a run for something; the id to `wait` for.

    Raises:
        BadCommand: no verb of ours, arguments that are not its own, or an inbox that cannot be written to.
    """
    return commands.post(run.inbox, verb, arguments or {})


def wait(run: Run, id: str, seconds: float = 30.0) -> Acknowledgement:
    """What became of a command that was sent. Where nobody trains, this takes the run's lock for a moment and sees to it.

    Raises:
        NotAcknowledged: not within `seconds`, or the file was put aside. A file that is still there will be obeyed.
    """
    deadline = time.monotonic() + seconds
    file = run.inbox / f"command-{id}.json"
    with run.records() as records:
        while True:
            waits = file.exists()  # asked before the records: it is taken out after they know
            for row in records.rows(Command, id=id):
                if row.acknowledged_step is not None:
                    return Acknowledgement(id, row.acknowledged_step, bool(row.changed), row.result or "")
            if not waits:
                raise NotAcknowledged(
                    f"{run.name}: command {id} was not obeyed and is not in the inbox any more; `lab status {run.name}` "
                    "shows why it was put aside."
                )
            if time.monotonic() >= deadline:
                raise NotAcknowledged(_still_waiting(run, seconds))
            if not is_trained(run):
                _obey_without_trainer(run)
            else:
                time.sleep(min(0.05, POLL_SECONDS))


def is_trained(run: Run) -> bool:
    """Whether a trainer has the run now, and so obeys what is sent."""
    return str((run.holder() or {}).get("purpose", "")).startswith(TRAINING)


def _obey_without_trainer(run: Run) -> None:
    try:
        with run.lock("control"), Records.writer(run.database) as records:
            newest = newest_first(run.checkpoints_folder)
            Control(records, run.inbox).obey(newest[0].step if newest else 0, None)
    except RunLocked:  # a trainer has come, or another verb has the run for a moment
        time.sleep(POLL_SECONDS)


def _still_waiting(run: Run, seconds: float) -> str:
    who = run.holder()
    busy = f" ({who['purpose']}, process {who['pid']}, has the run)" if who else ""
    return (
        f"{run.name}: not acknowledged within {seconds:g} s{busy}. The command stays in the inbox and is obeyed at the "
        "next step boundary; a visit of an attachment may take longer than a step. Wait longer with --wait."
    )
