"""A run's exploration server as its clients meet it: answers streamed and stopped, traces, how server and run do.

HTTP alone, past the machine's proxies: no torch, no Streamlit. The app and `lab chat` stand on it.
"""

import contextlib
import http.client
import json
import selectors
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from app.server_process import NOTE_FILE, Found, find
from lab.errors import LabError

PATIENCE = 600.0  # seconds for a queue to move
WAIT_SECONDS = 0.2  # between two signs of life while nothing has come yet


class NotAnswered(LabError):
    """The server refused, or the connection broke."""

    exit_code = 1


@dataclass(frozen=True)
class Wish:
    """How answers are to be."""

    model: str
    temperature: float
    top_p: float
    max_tokens: int | None
    seed: int | None

    def body(self, messages: list[dict[str, str]]) -> dict[str, Any]:
        wanted = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
        }
        given = {name: value for name, value in wanted.items() if value is not None}
        return {"model": self.model, "messages": messages, "stream": True, **given}


@dataclass
class Answered:
    """What came of one question, filled while it streams."""

    step: int | None = None
    id: str | None = None
    text: str = ""
    finish_reason: str | None = None


def _patiently() -> None:
    """Nothing to do while waiting."""


@dataclass
class Remote:
    """A server that answers at `found`.

    Attributes:
        client: what its record of exchanges is to call us.
    """

    found: Found
    client: str = "lab chat"
    where: str = field(init=False)

    def __post_init__(self) -> None:
        self.where = f"the server at {self.found.url}"

    def step(self, model: str) -> int | None:
        """Of the weights that would answer now. Raises NotAnswered."""
        return int(self._json("GET", f"/v1/models/{quote(model, safe='@')}", None)["step"])

    def ask(
        self,
        wish: Wish,
        messages: list[dict[str, str]],
        answered: Answered,
        waiting: Callable[[], None] = _patiently,
    ) -> Generator[str, None, None]:
        """The answer in pieces; closing the iterator ends it, and frees the server before its next token.

        Args:
            waiting: called every 0.2 s until the server begins to answer; what it raises ends the question.

        Raises:
            NotAnswered
        """
        with self._asked("POST", "/v1/chat/completions", wish.body(messages), waiting) as answer:
            for line in answer:
                if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                    continue
                event = json.loads(line[6:])
                if "error" in event:
                    raise NotAnswered(event["error"]["message"])
                answered.id = event["id"]
                answered.step = int(event["system_fingerprint"].removeprefix("step-"))
                for choice in event["choices"]:
                    answered.finish_reason = choice["finish_reason"] or answered.finish_reason
                    if text := choice["delta"].get("content"):
                        answered.text += text
                        yield text

    def trace(self, body: dict[str, Any], waiting: Callable[[], None] = _patiently) -> dict[str, Any]:
        """What the layers hold of a text: `app.server_trace.TraceRequest` as JSON, `app.server_replies.Traced` back.

        Raises:
            NotAnswered
        """
        return self._json("POST", "/lab/v1/trace", body, waiting)

    def standing(self, run: Path) -> dict[str, Any]:
        """How server and run do: `app.server_replies.Status` of this run alone. Raises NotAnswered."""
        alone = is_note_of(run / NOTE_FILE, self.found)  # a server of this run needs no name, whatever it is
        return self._json("GET", "/lab/v1/status" + ("" if alone else f"?run={quote(run.name)}"), None)

    def close(self) -> None:
        pass

    def _json(
        self, method: str, path: str, body: dict[str, Any] | None, waiting: Callable[[], None] = _patiently
    ) -> dict[str, Any]:
        with self._asked(method, path, body, waiting) as answer:
            found = json.loads(answer.read())
            if not isinstance(found, dict):
                raise TypeError("not an object")
            return found

    @contextlib.contextmanager
    def _asked(
        self, method: str, path: str, body: dict[str, Any] | None, waiting: Callable[[], None] = _patiently
    ) -> Iterator[http.client.HTTPResponse]:
        place = urlsplit(self.found.url)
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=PATIENCE)
        headers = {"Authorization": f"Bearer {self.found.token}", "User-Agent": self.client}
        try:
            if body is None:
                connection.request(method, path, headers=headers)
            else:
                headers["Content-Type"] = "application/json"
                connection.request(method, path, json.dumps(body).encode(), headers)
            _await(connection, waiting)
            answer = connection.getresponse()
            if answer.status != 200:
                raise NotAnswered(str(json.loads(answer.read())["error"]["message"]))
            yield answer
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            raise NotAnswered(f"{self.where}: the connection broke ({error or type(error).__name__}).") from None
        finally:
            connection.close()


def _await(connection: http.client.HTTPConnection, waiting: Callable[[], None]) -> None:
    """Until the server begins to answer. Nothing is read yet, so `waiting` may leave by raising."""
    deadline = time.monotonic() + PATIENCE
    with selectors.DefaultSelector() as ready:
        ready.register(connection.sock, selectors.EVENT_READ)
        while not ready.select(WAIT_SECONDS):
            if time.monotonic() > deadline:
                raise TimeoutError(f"no answer within {PATIENCE:.0f} s")
            waiting()


def reach(run: Path, client: str) -> Remote | None:
    """The server that answers for a run now, its own or its folder's; None where none does."""
    found = find(run)
    return None if found is None else Remote(found, client)


def is_note_of(note: Path, found: Found) -> bool:
    """Whether this server wrote this note: it serves the folder that the note lies in."""
    try:
        about = json.loads(note.read_bytes())
        return bool(about["url"] == found.url and found.id in ("", about["id"]))
    except (OSError, ValueError, KeyError, TypeError):
        return False
