"""Talking with a run in a terminal: one conversation, the answer as it comes, Ctrl-C ends the answer and nothing else.

A client of the run's server where one answers, else the same code in this process. Nothing that is typed is a command.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Protocol

from app.server_client import Answered, NotAnswered, Remote, Wish, is_note_of
from lab.errors import LabError
from lab.run import Run

__all__ = ["Answered", "Here", "NotAnswered", "Partner", "Remote", "Wish", "converse", "partner_for"]


class Partner(Protocol):
    """Who answers."""

    where: str

    def step(self, model: str) -> int | None:
        """Of the weights that would answer now."""

    def ask(self, wish: Wish, messages: list[dict[str, str]], answered: Answered) -> Iterator[str]:
        """The answer in pieces; closing the iterator ends it."""

    def close(self) -> None: ...


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
    alone = is_note_of(run.path / NOTE_FILE, found)
    return Remote(found), ONE_RUN if alone else run.name
