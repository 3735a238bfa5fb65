"""What may be asked of a run: a closed set of verbs with typed arguments, each one JSON file in the run's `inbox/`.

A command is a file that `post` wrote, and nothing else is: chat, prompts, journal entries and whatever a model says are
never read here. What is in the inbox and is no command is put aside, with a reason, and never obeyed. No torch.
"""

import os
import re
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from lab.durable import replace_file
from lab.errors import LabError
from lab.sections import ConceptName, FreezeMode

MOST_BYTES = 65_536
MOST_AT_ONCE = 64  # files of one look: a flood is worked off over several step boundaries, not at one
QUARANTINE = "quarantine"
SELF_LIFTING = "disk"  # the one latch that no command lifts: it goes when there is room again
_ID = re.compile(r"[0-9]{20}-[0-9a-f]{8}")
_FILE = re.compile(rf"command-({_ID.pattern})\.json")
_STALE_SECONDS = 3600  # an unfinished file this old was left by a sender that was killed


class BadCommand(LabError):
    """No verb of ours, or arguments that it does not take."""


def _plain(text: str) -> str:
    if not all(letter.isprintable() or letter in "\u200c\u200d" for letter in text):  # those two join letters
        raise ValueError("must be one line of printable text")
    return text.strip()


Reason = Annotated[str, Field(max_length=500), AfterValidator(_plain)]


class Order(BaseModel):
    """What a command asks for, checked."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Pause(Order):
    """Stand still until this owner's latch is lifted."""

    owner: Literal["user", "understanding", "check-in"] = "user"
    reason: Reason = ""
    severity: Literal["info", "watch", "alert", "critical"] = "info"


class Unpause(Order):
    """Lift this owner's latch, no other's; a critical one only with a reason."""

    owner: str = Field("user", pattern=r"^[a-z][a-z0-9_-]{0,31}$")
    reason: Reason = ""


class Checkpoint(Order):
    """Save now."""


class Stop(Order):
    """Save and end."""


class SetInterval(Order):
    """Let an attachment look every so many steps; 0 = off."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")
    every: int = Field(ge=0, le=10**9)


class CheckIn(Order):
    """One check-in at the next step boundary."""


class SelfPlay(Order):
    """One self-play at the next step boundary."""


class Journal(Order):
    """One journal entry by the model at the next step boundary."""


class Note(Order):
    """A person's entry for the journal. Kept as text; nothing in it is obeyed."""

    author: str = Field(min_length=1, max_length=80)
    text: str = Field(min_length=1, max_length=16_000)  # a file of at most 64 KiB holds it in any script
    step: int = Field(ge=0)
    written_at: float = Field(ge=0)  # unix seconds; with author and text it tells a repeated command from a second note


class Freeze(Order):
    """Hold a concept of this run from the next step boundary on."""

    concept: ConceptName
    mode: FreezeMode = "anchor"
    target: float = Field(0.1, gt=0, lt=1)  # of anchor: the NRMSE to steer to
    until: int | None = Field(None, ge=1)
    fade_steps: int = Field(100, ge=0, le=10**6)  # of pin, when it is released


class Release(Order):
    """Let go of a concept; a pin fades out, over as many steps as the freeze said unless told otherwise."""

    concept: ConceptName
    fade_steps: int | None = Field(None, ge=0, le=10**6)


VERBS: dict[str, type[Order]] = {
    "pause": Pause,
    "unpause": Unpause,
    "checkpoint": Checkpoint,
    "stop": Stop,
    "set-interval": SetInterval,
    "checkin": CheckIn,
    "selfplay": SelfPlay,
    "journal": Journal,
    "note": Note,
    "freeze": Freeze,
    "release": Release,
}


def order(verb: str, arguments: dict[str, Any]) -> Order:
    """The checked form of a verb and its arguments.

    Raises:
        BadCommand: naming the verb, the argument and what it must be.
    """
    if verb not in VERBS:
        raise BadCommand(f"{verb[:80]!r} is no verb. Verbs are: {', '.join(VERBS)}.")
    try:
        return VERBS[verb].model_validate(arguments)
    except ValidationError as error:
        wrong = error.errors()[0]
        name = ".".join(map(str, wrong["loc"]))
        said = wrong["msg"].removeprefix("Value error, ")
        known = ", ".join(VERBS[verb].model_fields) or "none"
        raise BadCommand(
            f"{verb}: {name} = {str(wrong['input'])[:80]!r}: {said[0].lower()}{said[1:]}. Arguments of it are: {known}."
        ) from None


class _Envelope(BaseModel):
    """A command's file."""

    model_config = ConfigDict(extra="forbid", strict=True)
    version: Literal[1]
    id: str
    verb: str
    arguments: dict[str, Any]


@dataclass(frozen=True)
class Message:
    """A well-formed command in the inbox."""

    id: str
    verb: str
    order: Order
    path: Path

    @property
    def sent_at(self) -> float:
        """Unix seconds."""
        return int(self.id.split("-")[0]) / 1e9


def post(inbox: Path, verb: str, arguments: dict[str, Any]) -> str:
    """Put one command into an inbox, whole or not at all (mode 0600), and give back its id.

    Raises:
        BadCommand: the arguments are not the verb's, or the inbox cannot be written to.
    """
    asked = order(verb, arguments)
    id = _name()
    letter = _Envelope(version=1, id=id, verb=verb, arguments=asked.model_dump())
    try:
        inbox.mkdir(mode=0o700, exist_ok=True)  # a copy of a run may have lost its empty folders
        if inbox.is_symlink():
            raise BadCommand(f"{inbox}: is a link. Put a folder in its place; commands are not sent through links.")
        replace_file(inbox / f"command-{id}.json", letter.model_dump_json().encode())
    except OSError as error:
        raise BadCommand(f"{inbox}: cannot be written to ({error}). Make the run's folder writable.") from error
    return id


class Inbox:
    """The receiving end, for the holder of the run's lock."""

    def __init__(self, folder: Path, put_aside: Callable[[str, str], None]) -> None:
        """`put_aside(name, reason)` hears of each thing that is no command, once."""
        self.folder = folder
        self._put_aside = put_aside
        self._immovable: set[str] = set()
        for name in self._names(".tmp-command-"):
            path = folder / name
            if time.time() - path.lstat().st_mtime > _STALE_SECONDS:
                path.unlink(missing_ok=True)

    def is_empty(self) -> bool:
        """One listing of a folder: 5 µs."""
        try:
            return not set(os.listdir(self.folder)) - {QUARANTINE}
        except OSError:
            return True

    def messages(self) -> list[Message]:
        """The commands that are there, oldest first. What is none is quarantined; hidden files (`.nfs…`) are left alone."""
        found = []
        for name in self._names()[:MOST_AT_ONCE]:
            try:
                found.append(_read(self.folder / name))
            except FileNotFoundError:
                continue
            except (OSError, ValueError, LabError) as error:
                self._quarantine(name, str(error))
        return found

    def remove(self, message: Message) -> None:
        """Take a command out, once the records have it and what became of it."""
        message.path.unlink(missing_ok=True)

    def _names(self, beginning: str = "") -> list[str]:
        try:
            if self.folder.is_symlink():  # of a run from a stranger: what lies behind it is not ours to move
                return []
            names = os.listdir(self.folder)
        except OSError:
            return []
        if beginning:
            return [name for name in names if name.startswith(beginning)]
        return sorted(n for n in names if n[0] != "." and n != QUARANTINE and n not in self._immovable)

    def _quarantine(self, name: str, reason: str) -> None:
        """Move it out of the way, a link as a link, under a name of ours; if it cannot be moved it is not looked at again."""
        aside = self.folder / QUARANTINE
        try:
            aside.mkdir(mode=0o700, exist_ok=True)
            if aside.is_symlink():
                raise OSError("the quarantine is a link")
            os.rename(self.folder / name, aside / _name())
        except OSError:
            self._immovable.add(name)
        self._put_aside(ascii(name)[1:-1][:120], ascii(reason)[1:-1][:500])


def _name() -> str:
    """Unique, and sorted as things were sent."""
    return f"{time.time_ns():020d}-{os.urandom(4).hex()}"


def _read(path: Path) -> Message:
    """The command in a file. Raises OSError, ValueError or BadCommand: it is none."""
    named = _FILE.fullmatch(path.name)
    if named is None:
        raise ValueError("is not named as commands are")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not block
    with os.fdopen(descriptor, "rb") as file:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("is no file")
        if about.st_uid not in (os.geteuid(), path.parent.stat().st_uid):
            raise ValueError(f"belongs to user {about.st_uid}, who is not the run's owner")
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"is larger than {MOST_BYTES} bytes")
    try:
        letter = _Envelope.model_validate_json(content)
    except ValidationError as error:
        wrong = error.errors()[0]
        raise ValueError(f"is no command: {'.'.join(map(str, wrong['loc']))} {wrong['msg']}") from None
    if letter.id != named[1]:
        raise ValueError("has another id inside than in its name")
    return Message(letter.id, letter.verb, order(letter.verb, letter.arguments), path)
