"""Talking with a run in a terminal: one conversation, the answer as it comes, Ctrl-C ends the answer and nothing else.

A client of the run's server where one answers, else the same code in this process. Nothing that is typed is a command.
"""

import contextlib
import http.client
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from app.server_process import Found
from lab.errors import LabError
from lab.run import Run

PATIENCE = 600.0  # seconds for a queue to move


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


class Partner(Protocol):
    """Who answers."""

    where: str

    def step(self, model: str) -> int | None:
        """Of the weights that would answer now."""

    def ask(self, wish: Wish, messages: list[dict[str, str]], answered: Answered) -> Iterator[str]:
        """The answer in pieces; closing the iterator ends it."""

    def close(self) -> None: ...


@dataclass
class Remote:
    """A server that answers at `found`."""

    found: Found
    where: str = field(init=False)

    def __post_init__(self) -> None:
        self.where = f"the server at {self.found.url}"

    def step(self, model: str) -> int | None:
        with self._asked("GET", f"/v1/models/{model}", None) as answer:
            return int(json.loads(answer.read())["step"])

    def ask(self, wish: Wish, messages: list[dict[str, str]], answered: Answered) -> Iterator[str]:
        with self._asked("POST", "/v1/chat/completions", wish.body(messages)) as answer:
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

    def close(self) -> None:
        pass

    @contextlib.contextmanager
    def _asked(self, method: str, path: str, body: dict[str, Any] | None) -> Iterator[http.client.HTTPResponse]:
        place = urlsplit(self.found.url)
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=PATIENCE)
        headers = {"Authorization": f"Bearer {self.found.token}"}
        try:
            if body is None:
                connection.request(method, path, headers=headers)
            else:
                headers["Content-Type"] = "application/json"
                connection.request(method, path, json.dumps(body).encode(), headers)
            answer = connection.getresponse()
            if answer.status != 200:
                raise NotAnswered(str(json.loads(answer.read())["error"]["message"]))
            yield answer
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            raise NotAnswered(f"{self.where}: the connection broke ({error or type(error).__name__}).") from None
        finally:
            connection.close()


class Here:
    """The same code as the server's, in this process."""

    where = "this process (no server runs)"

    def __init__(self, run: Run, system_prompt: str | None) -> None:
        from app.server_answers import ChatBook, Talk
        from app.server_weights import Published

        self.talk = Talk(Published(run.path, True), ChatBook(), system_prompt)
        self.talk.chats.of(run)  # refused now rather than after a first question was typed

    def step(self, model: str) -> int | None:
        from app.server_weights import newest

        run, step = self.talk.published.find(model)
        found = newest(run)
        return step if step is not None else found.step if found else None

    def ask(self, wish: Wish, messages: list[dict[str, str]], answered: Answered) -> Iterator[str]:
        from app.server_errors import checked
        from app.server_requests import ChatRequest

        answer = self.talk.begin(checked(ChatRequest, wish.body(messages)).ask("lab chat"))
        answered.id, answered.step = answer.id, answer.loaded.step
        for piece in answer.pieces():
            answered.text += piece.text
            yield piece.text
        answered.finish_reason = answer.generation.finish_reason

    def close(self) -> None:
        self.talk.chats.close()


def converse(
    partner: Partner,
    wish: Wish,
    read: Callable[[str], str],
    write: Callable[[str], None],
    say: Callable[[str], None],
    system: str | None = None,
) -> list[dict[str, str]]:
    """Ask and answer until the input ends.

    Args:
        read: gets the prompt line, gives what was typed; EOFError ends, KeyboardInterrupt drops the line.
        write: shows a piece of an answer. say: shows a word of ours.

    Returns:
        The conversation; an answer that was stopped stands in it as far as it came.
    """
    from app.server_guard import Problem

    messages = [{"role": "system", "content": system}] if system else []
    while True:
        try:
            step = partner.step(wish.model)
            typed = read(f"{wish.model.split('@')[0]}@step-{step}> ").strip()
        except EOFError:
            return messages
        except KeyboardInterrupt:
            say("(the input's end, Ctrl-D, ends the chat)")
            continue
        if not typed:
            continue
        asked = [*messages, {"role": "user", "content": typed}]
        answered = Answered()
        try:
            with contextlib.closing(partner.ask(wish, asked, answered)) as pieces:  # type: ignore[type-var]
                for piece in pieces:
                    write(piece)
            write("\n")
            if answered.finish_reason == "length":
                say("(cut at the most tokens it may take)")
        except KeyboardInterrupt:
            write("\n")
            say("(stopped)")
        except (LabError, Problem) as error:
            write("\n" if answered.text else "")
            say(f"not answered: {error}")
            continue
        messages = [*asked, {"role": "assistant", "content": answered.text}]


def partner_for(run: Run, system_prompt: str | None) -> tuple[Partner, str]:
    """Who answers for a run now, and what the run is called there.

    Raises:
        ChatsUnwritable: no server is found, and yet somebody keeps the record.
    """
    from app.server_process import NOTE_FILE, find
    from app.server_weights import ONE_RUN

    found = find(run.path)
    if found is None:
        return Here(run, system_prompt), ONE_RUN
    alone = _is_note_of(run.path / NOTE_FILE, found.url)
    return Remote(found), ONE_RUN if alone else run.name


def _is_note_of(note: Path, url: str) -> bool:
    try:
        return bool(json.loads(note.read_bytes())["url"] == url)
    except (OSError, ValueError, KeyError, TypeError):
        return False
