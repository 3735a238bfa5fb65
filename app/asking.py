"""Asking a run for something from a page, as `lab pause` does: one typed file in its inbox, and what became of it.

Whoever holds the run's lock obeys at the next step boundary; where nobody trains, waiting for the answer sees to it.
Nothing that a model wrote gets here.
"""

import os
from collections.abc import Sequence
from typing import Any

import streamlit as st

from app.queries import Opened
from app.verdict_text import visible
from lab.errors import LabError
from lab.records import Latch
from train import control

WAIT = 10.0  # seconds for an answer; a visit of an attachment may take longer than a step
USER = "user"  # the owner of the latch that a person holds
PAUSE_HELP = "Stand still at the next step: saved, the weights in memory. The same as `lab pause`."
UNPAUSE_HELP = "Lift the latch that a person holds; training goes on when no other is held. The same as `lab unpause`."


def can_be_asked(opened: Opened) -> bool:
    """Whether a command can be left in the run's inbox: not in a copy on a read-only disk."""
    if opened.run is None:
        return False
    inbox = opened.run.inbox
    return os.access(inbox if inbox.is_dir() else opened.path, os.W_OK)


def buttons(opened: Opened, latches: Sequence[Latch], live: bool) -> None:
    """Pause while it trains, unpause while a person holds it; other owners' latches are lifted on Understanding."""
    if any(latch.owner == USER for latch in latches):
        if st.button("Unpause", key="unpause", type="primary", help=UNPAUSE_HELP):
            ask(opened, "unpause", {"owner": USER, "reason": "asked for in the app"})
    elif live and st.button("Pause", key="pause", help=PAUSE_HELP):
        ask(opened, "pause", {"owner": USER, "reason": "asked for in the app"})


def ask(opened: Opened, verb: str, arguments: dict[str, Any]) -> None:
    """Send a command, wait for its acknowledgement, and let the page show it."""
    assert opened.run is not None
    try:
        with st.spinner("Waiting for the run's answer"):
            answer = control.wait(opened.run, control.send(opened.run, verb, arguments), WAIT)
        said = ("refused" if answer.refused else "done" if answer.changed else "unchanged", answer.result)
    except control.NotAcknowledged as error:
        said = ("waiting", str(error))
    except (LabError, OSError) as error:
        said = ("refused", str(error))
    st.session_state["answer"] = (str(opened.path), verb, *said)
    st.session_state["answer is new"] = True
    st.rerun(scope="app")


def say_answer(opened: Opened) -> None:
    """What became of the last command of this tab on this run; nothing where none was sent, or the header says it."""
    if not st.session_state.get("answer stands above"):
        _say(opened)


def say_trouble(opened: Opened) -> None:
    """For the header: the answer, once, where the latches and the state chip do not show it already."""
    new = st.session_state.pop("answer is new", False)
    st.session_state["answer stands above"] = new and st.session_state["answer"][2] in ("refused", "waiting")
    if st.session_state["answer stands above"]:
        _say(opened)


def _say(opened: Opened) -> None:
    answer = st.session_state.get("answer")
    if answer and answer[0] == str(opened.path):
        _, verb, outcome, words = answer
        say = {"done": st.success, "unchanged": st.info, "waiting": st.warning}.get(outcome, st.error)
        say(f"{verb}: {'not answered yet' if outcome == 'waiting' else outcome}")
        st.text(visible(words).removeprefix(control.REFUSED))
