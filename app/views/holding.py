"""What holds training, and asking for it to stand still or go on: the only part of these pages that changes anything.

A button sends a command as `lab pause` does: one typed file in the run's inbox. Whoever holds the run's lock obeys it at the
next step boundary; where nobody trains, waiting for the answer sees to it. Nothing that a model wrote gets here.
"""

import re
import shlex
import time
from typing import Any

import streamlit as st

from app import behaviour, header, transcript_html
from app.queries import Opened
from app.verdict_html import escaped, facts_block
from app.verdict_text import number, short, visible
from lab.errors import LabError
from lab.records import Latch, Records
from train import control
from train.commands import SELF_LIFTING

WAIT = 10.0  # seconds for an answer; a visit of an attachment may take longer than a step
OWNER = re.compile(r"[a-z][a-z0-9_-]{0,31}")  # what `unpause` takes; anything else is not put into a label


def latches(opened: Opened, records: Records) -> None:
    held = records.latches()
    st.subheader("What holds training")
    if not held:
        st.text("Nothing: no latch is held.")
    for latch in held:
        with st.container(border=True):
            _latch(opened, latch)
    if all(latch.owner != "user" for latch in held):
        with st.form("pause", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
            reason = st.text_input("Why training should stand still", max_chars=500, placeholder="to look at something")
            if st.form_submit_button("Pause"):
                _ask(opened, "pause", {"owner": "user", "reason": reason})
    if header.state_of(opened) not in header.LIVE_STATES:
        st.caption("No trainer runs. A latch can be set and lifted all the same; it holds the next `lab resume`.")


def _latch(opened: Opened, latch: Latch) -> None:
    when = header.clock(latch.since)
    since = f"{when:%Y-%m-%d %H:%M:%S}, {header.ago(time.time() - latch.since)} ago" if when else "an unknown time"
    st.html(
        f'<div class="bw-head"><strong>{escaped(short(latch.owner, 60))}</strong>'
        f"{transcript_html.severity_chip(latch.severity)}</div>"
        + facts_block([("Reason", short(latch.reason, 2000)), ("Since", since), ("Step", number(latch.step))])
    )
    if latch.owner == SELF_LIFTING:
        st.caption("It lifts itself as soon as the disk has room again.")
        return
    if not OWNER.fullmatch(latch.owner):
        st.caption("No command lifts it: its owner has no name of ours.")
        return
    needed = latch.severity == "critical"
    with st.form(f"unpause {latch.owner}", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
        label = "Why it may go on" + (" (a critical latch needs a reason)" if needed else "")
        reason = st.text_input(label, max_chars=500, placeholder="what was looked at, and what it was")
        if st.form_submit_button(f"Lift the {latch.owner} latch"):
            if needed and not reason.strip():
                st.error("Not sent: this latch is critical. Say why training may go on.")
            else:
                _ask(opened, "unpause", {"owner": latch.owner, "reason": reason})


def _ask(opened: Opened, verb: str, arguments: dict[str, Any]) -> None:
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
    st.rerun(scope="app")


def asked(opened: Opened, records: Records) -> None:
    """What became of the last command of this tab, and of the newest ones of anybody."""
    st.subheader("Commands")
    answer = st.session_state.get("answer")
    if answer and answer[0] == str(opened.path):
        _, verb, outcome, words = answer
        say = {"done": st.success, "unchanged": st.info, "waiting": st.warning}.get(outcome, st.error)
        say(f"{verb}: {'not answered yet' if outcome == 'waiting' else outcome}")
        st.text(visible(words).removeprefix(control.REFUSED))
    rows = behaviour.commands(records)
    if not rows:
        st.text("None was ever sent to this run.")
    else:
        table = [
            {
                "When": header.clock(one.received_at),
                "Verb": visible(one.verb),
                "Step": one.acknowledged_step,
                "Answer": visible(one.result or "not answered yet"),
            }
            for one in rows
        ]
        when = st.column_config.DatetimeColumn(format="MM-DD HH:mm:ss", width="small")
        st.dataframe(table, hide_index=True, width="stretch", placeholder="–", column_config={"When": when})
    with st.expander("The same in a terminal"):
        name = shlex.quote(opened.name)
        st.code(f'lab pause {name} --reason "…"\nlab unpause {name} --reason "…"\nlab status {name}', language="bash")
