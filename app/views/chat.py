"""Chat: talk with the run's published weights, while it trains or not; every turn with what the probes read on it.

A client of the run's server: this page loads no model. Without one it shows what was said before, out of `chats.db`. What a
model wrote is shown as plain text. Run, step and settings are in the URL.
"""

import contextlib
import time
from dataclasses import dataclass
from typing import Any

import streamlit as st

from app import strip_html
from app.header import Top, ago, in_words
from app.queries import Opened
from app.server_client import Answered, NotAnswered, Remote, Wish
from app.text_readings import Json
from app.verdict_text import short, visible
from app.views import inert, past_chats, tracing
from lab.chats import Chats, Exchange, use
from lab.checkpoint import list_checkpoints

NEWEST = "newest"
TALK, PAST = "talk", "past chats"
REDRAW_SECONDS = 0.05  # a browser shows no more
NOTICE = "Recorded in the run's chats.db, with weights and seed. Nothing that is typed is a command."
ENDS = {"stop": "ended by itself", "length": "cut at the most tokens it may take", None: "stopped"}


@dataclass
class Turn:
    """A question and what came of it; `problem`: why nothing did."""

    question: str
    answered: Answered
    problem: str = ""


@in_words
def page(top: Top) -> None:
    opened, _ = top.records_or_stop()
    remote = tracing.reach(opened)
    there = remote is not None
    st.html(f"<style>{strip_html.SHEET}</style>")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        trained_on = opened.run is not None and opened.run.config.data.chats
        st.badge(use(trained_on), color="orange" if trained_on else "blue")
        st.text(NOTICE)
    top.keep_fresh(lambda: _standing(opened, there))
    if remote is None:
        tracing.no_server(opened, "nobody can be talked with just now; what was said before is below")
        past_chats.section(opened, None)
        return
    tracing.keep("view", [TALK, PAST], TALK)
    view = st.segmented_control("View", [TALK, PAST], default=TALK, key="view", bind="query-params", required=True)
    if view == PAST:
        past_chats.section(opened, remote)
    else:
        _talk(opened, remote)


@in_words
def _standing(opened: Opened, there: bool) -> None:
    """Who answers and how the run does, kept fresh."""
    tracing.watch_server(opened, there)
    remote = tracing.reach(opened)
    if remote is None:
        return
    try:
        found = remote.standing(opened.path)
        one, server = found["runs"][0], found["server"]
    except (NotAnswered, LookupError) as error:
        st.text(f"The server does not say how it does: {visible(str(error))}")
        return
    weights = "it has no weights yet"
    if one["weights_step"] is not None:
        weights = f"its newest weights are of step {one['weights_step']:,}, saved {ago(one['weights_age'])} ago"
    line = f"; it is answering, {server['waiting']} wait" if server["busy"] else ""
    held = "".join(f"; held by {visible(short(latch['owner'], 32))}" for latch in one["latches"])
    st.text(f"{remote.where.capitalize()} answers{line}. The run is {one['training']}{held}; {weights}.")


# ---------------------------------------------------------------------------------------------------------------- talking


def _talk(opened: Opened, remote: Remote) -> None:
    wish, system = _settings(opened, remote)
    turns: list[Turn] = st.session_state.setdefault("chat", {}).setdefault(str(opened.path), [])
    with st.container(horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        strips = st.toggle("What probes read on the answers", value=True, key="strips", bind="query-params")
        if turns and st.button("Begin anew"):
            turns.clear()
            st.rerun()
    pickers = st.container(horizontal=True, vertical_alignment="bottom", gap="medium")
    asked = st.chat_input("Say something to the model", submit_mode="disable")
    if not turns and not asked:
        st.text("Nothing has been said yet.")
    places = [_turn(opened, turn) for turn in turns]
    if asked:
        messages = [{"role": "system", "content": system}] if system else []
        for turn in turns:
            if not turn.problem:
                messages += [{"role": "user", "content": turn.question}]
                messages += [{"role": "assistant", "content": turn.answered.text}]
        _answer(remote, wish, [*messages, {"role": "user", "content": asked}], turns)
        st.rerun()
    if strips:
        _strips(opened, remote, [(place, record) for place, record in places if record is not None], pickers)


def _settings(opened: Opened, remote: Remote) -> tuple[Wish, str]:
    """Which weights answer, and how; the system prompt."""
    steps = [
        str(info.step) for info in sorted(list_checkpoints(opened.path / "checkpoints"), key=lambda info: info.step)
    ]
    tracing.keep("step", [*steps, NEWEST], NEWEST)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        step = st.select_slider(
            "Weights of step", [*steps, NEWEST], NEWEST, key="step", bind="query-params", width=420
        ) if steps else NEWEST  # fmt: skip
        temperature = st.number_input(
            "Temperature", 0.0, 2.0, 0.8, 0.1, key="temperature", bind="query-params", width=140
        )
        tokens = st.number_input("Most tokens", 1, 8192, 64, key="tokens", bind="query-params", width=140)
        seed = st.number_input(
            "Seed", 0, 2**53 - 1, None, key="seed", placeholder="drawn", bind="query-params", width=160,
            help="The same question, weights, settings and seed give the same answer. Empty: drawn, and recorded.",
        )  # fmt: skip
    with st.expander("System prompt"):
        system = st.text_area(
            "System prompt", key="system", max_chars=4000, label_visibility="collapsed",
            placeholder="None: the conversation begins with the first question.",
        )  # fmt: skip
        st.caption("Stands before the conversation; each record holds it.")
    try:
        base = tracing.model_name(opened, remote)
    except NotAnswered as error:
        tracing.refused(error)
        st.stop()
    model = base if step == NEWEST else f"{base}@step-{step}"
    return Wish(model, float(temperature), 1.0, int(tokens), None if seed is None else int(seed)), system.strip()


def _answer(remote: Remote, wish: Wish, messages: list[dict[str, str]], turns: list[Turn]) -> None:
    """One answer as it comes. Stop, or anything else that begins the script anew, closes the connection: then the server
    is free before its next token. What had come by then is kept."""
    turn, begun, drawn = Turn(messages[-1]["content"], Answered()), time.monotonic(), 0.0
    with st.chat_message("user"):
        st.text(visible(turn.question))
    with st.chat_message("assistant"):
        place = st.empty()
        st.button("Stop the answer")

        def waiting() -> None:
            place.text(f"waiting for the server, {time.monotonic() - begun:.0f} s")

        pieces = remote.ask(wish, messages, turn.answered, waiting)
        try:
            for _ in pieces:
                if time.monotonic() - drawn > REDRAW_SECONDS:
                    place.text(visible(turn.answered.text))
                    drawn = time.monotonic()
        except NotAnswered as error:
            turn.problem = str(error)
        finally:
            pieces.close()
            turns.append(turn)


def _turn(opened: Opened, turn: Turn) -> tuple[Any, Exchange | None]:
    """A turn, the place of its strip, and its record."""
    with st.chat_message("user"):
        st.text(visible(turn.question))
    with st.chat_message("assistant"):
        if turn.answered.text or not turn.problem:
            st.text(visible(turn.answered.text) or "(nothing)")
        if turn.problem:
            st.error("Not answered.")
            st.text(short(visible(turn.problem), 600))
        record = _record(opened, turn.answered.id)
        if record is not None:
            ended = ENDS.get(turn.answered.finish_reason, turn.answered.finish_reason or "")
            inert.caption(
                f"step {record.step:,} · seed {record.seed} · {len(record.ids):,} tokens · {ended} · {record.id}"
            )
        return st.container(), record


def _record(opened: Opened, id: str | None) -> Exchange | None:
    if id is None:
        return None
    with contextlib.suppress(*past_chats.UNREADABLE), Chats.reader(opened.path) as chats:
        return chats.exchange(id)
    return None


# ----------------------------------------------------------------------------------------------------------------- strips


def _strips(opened: Opened, remote: Remote, turns: list[tuple[Any, Exchange]], pickers: Any) -> None:
    """Under each answer what the chosen probe or concept reads on its tokens; the newest first, as it is waited for."""
    found: list[tuple[Any, Json]] = []
    for place, record in reversed(turns):
        with place:
            trace = past_chats.trace(opened, remote, record)
        if trace is not None:
            found.append((place, trace))
    past_chats.draw(found, pickers)
