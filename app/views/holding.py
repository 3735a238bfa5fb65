"""What holds training, owner by owner, and lifting it with a reason. `asking` sends the commands."""

import re
import shlex
import time

import streamlit as st

from app import behaviour, header, transcript_html
from app.asking import USER, ask, can_be_asked, say_answer
from app.queries import Opened
from app.verdict_html import escaped, facts_block
from app.verdict_text import number, short, visible
from lab.records import Latch, Records
from train.commands import SELF_LIFTING

OWNER = re.compile(r"[a-z][a-z0-9_-]{0,31}")  # what `unpause` takes; anything else is not put into a label


def latches(opened: Opened, records: Records) -> None:
    held = records.latches()
    st.subheader("What holds training")
    if not held:
        st.text("Nothing: no latch is held.")
    for latch in held:
        with st.container(border=True):
            _latch(opened, latch)
    if not can_be_asked(opened):
        st.caption("This copy of the run is read-only: nothing can be asked of it here.")
        return
    if all(latch.owner != USER for latch in held):
        with st.form("pause", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
            reason = st.text_input("Why training should stand still", max_chars=500, placeholder="to look at something")
            if st.form_submit_button("Pause for this reason"):
                ask(opened, "pause", {"owner": USER, "reason": reason})
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
    if not can_be_asked(opened):
        return
    needed = latch.severity == "critical"
    with st.form(f"unpause {latch.owner}", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
        label = "Why it may go on" + (" (a critical latch needs a reason)" if needed else "")
        reason = st.text_input(label, max_chars=500, placeholder="what was looked at, and what it was")
        if st.form_submit_button(f"Lift the {latch.owner} latch"):
            if needed and not reason.strip():
                st.error("Not sent: this latch is critical. Say why training may go on.")
            else:
                ask(opened, "unpause", {"owner": latch.owner, "reason": reason})


def asked(opened: Opened, records: Records) -> None:
    """What became of the last command of this tab, and of the newest ones of anybody."""
    st.subheader("Commands")
    say_answer(opened)
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
