"""What was said before, out of `chats.db`; and under an answer what probes read on its tokens, where a server answers.

An exchange is traced with the very tokens that the model read and wrote, so the readings are those of the answer itself.
"""

from collections.abc import Sequence
from typing import Any

import streamlit as st
from sqlalchemy.exc import SQLAlchemyError

from app import strip_html, text_readings
from app.header import clock
from app.queries import Opened
from app.server_client import NotAnswered, Remote
from app.text_readings import Json
from app.verdict_html import STYLE, facts_block
from app.verdict_text import short, visible
from app.views import inert, tracing
from app.views.linked import pick
from lab.chats import Chats, ChatsMissing, Exchange
from lab.checkpoint import list_checkpoints
from lab.errors import LabError

UNREADABLE = (LabError, SQLAlchemyError, OSError, ValueError)
MOST_LISTED = 200
MOST_SHOWN = 256  # positions that the server shows at once
STATES = {
    "begun": "being answered now",
    "done": "answered",
    "abandoned": "stopped: nobody waited any more",
    "failed": "failed",
    "interrupted": "cut short: the server was killed",
}


def section(opened: Opened, remote: Remote | None) -> None:
    """The newest exchanges of anybody with this run, one of them in full."""
    st.subheader("Past chats")
    try:
        with Chats.reader(opened.path) as chats:
            count, records = chats.count(), chats.exchanges(MOST_LISTED)
    except ChatsMissing:
        st.text("Nobody has talked with this run yet.")
        return
    except UNREADABLE as error:
        st.error("chats.db of this run cannot be read.")
        st.text(short(visible(str(error)), 300))
        return
    if not records:
        st.text("Nobody has talked with this run yet.")
        return
    by_id = {record.id: record for record in records}
    chosen = by_id[pick("Exchange", list(by_id), "exchange", lambda id: _title(by_id[id]), width=720)]
    st.caption(
        f"{count:,} exchanges are recorded"
        + (f"; the newest {MOST_LISTED} are listed." if count > MOST_LISTED else ".")
    )
    _exchange(opened, remote, chosen)


def _title(record: Exchange) -> str:
    when = clock(record.begun_at)
    asked = record.asked[-1]["content"] if record.asked else ""
    start = f"{when:%Y-%m-%d %H:%M:%S}" if when else "?"
    return f"{start} · step {record.step:,} · {short(visible(asked).replace(chr(10), ' '), 60)}"


def _exchange(opened: Opened, remote: Remote | None, record: Exchange) -> None:
    st.html(f"<style>{STYLE}</style>")
    left, right = st.columns([3, 2], gap="large")
    with left:
        if record.system_prompt:
            _said("system", record.system_prompt, "the server's system prompt")
        for message in record.asked:
            _said(message.get("role", ""), message.get("content", ""))
        with st.chat_message("assistant"):
            st.text(visible(record.text) or "(nothing)")
            place = st.container()
    with right:
        settings = ", ".join(f"{name} {visible(str(value))}" for name, value in sorted(record.settings.items()))
        st.html(
            facts_block(
                [
                    ("State", STATES.get(record.state, record.state)),
                    ("Weights", f"step {record.step:,}, sha256 {record.checkpoint[:12]}…"),
                    ("Seed", str(record.seed)),
                    ("Settings", short(settings, 300)),
                    ("Tokens", f"{len(record.prompt_ids):,} read, {len(record.ids):,} written"),
                    ("Client", short(record.client, 80)),
                    ("Record", record.id),
                ]
            )
        )
        with st.expander("Make it again"):
            st.code(
                "from lab.chats import Chats, reproduce\nfrom lab import load\n\n"
                f"run = load({opened.name!r}, root={str(opened.path.parent)!r})\n"
                f"with Chats.reader(run.path) as chats:\n    exchange = chats.exchange({record.id!r})\n"
                "reproduce(run, exchange).text  # the same tokens, however the first answer ended",
                language="python",
            )
    if remote is not None and record.ids:
        with place:
            pickers = st.container(horizontal=True, vertical_alignment="bottom", gap="medium")
            found = trace(opened, remote, record)
        draw([] if found is None else [(place, found)], pickers)


def _said(role: str, text: str, about: str = "") -> None:
    with st.chat_message("assistant" if role == "assistant" else "user" if role == "user" else "system"):
        if role not in ("assistant", "user"):
            inert.caption(about or role)
        st.text(visible(text))


# ----------------------------------------------------------------------------------------------------- what probes read


def trace(opened: Opened, remote: Remote, record: Exchange) -> Json | None:
    """What the layers held of an answer's tokens, after the very prompt; says in words why not, and gives None."""
    assert opened.run is not None
    if not record.ids:
        return None
    infos = {info.step: info for info in list_checkpoints(opened.run.checkpoints_folder)}
    info = infos.get(record.step)
    if info is None or info.weights_sha256 != record.checkpoint:
        st.text("Its weights are not in the run any more, so nothing can be read on it.")
        return None
    start = len(record.prompt_ids)
    tokens = [*record.prompt_ids, *record.ids[:MOST_SHOWN]][: opened.run.config.model.n_ctx]
    if start >= len(tokens):
        return None
    try:
        return tracing.trace(opened, remote, info, {"tokens": tokens, "start": start, "lens": "none"}, st.empty())
    except NotAnswered as error:
        st.text(f"Nothing could be read on it: {short(visible(str(error)), 300)}")
        return None


def draw(found: Sequence[tuple[Any, Json]], pickers: Any) -> None:
    """A strip under each answer, of the reading that the pickers choose, at the layer where it can be read best."""
    if not found:
        return
    kinds = [kind for kind in text_readings.kinds(found[0][1]) if kind in ("probe", "concept")]
    if not kinds:
        with found[0][0]:
            tracing.say_problems(found[0][1])
        return
    with pickers:
        first, chosen = tracing.choose(found[0][1], kinds)
    for place, one in found:
        grid = tracing.same_reading(one, chosen)
        with place:
            if grid is None:
                st.text("These weights have no such reading.")
                continue
            layer = grid.layer or 0
            values = grid.values[layer]
            known = [value for value in values if value is not None]
            st.html(
                strip_html.strip(text_readings.labels(one), values, grid.highest)
                + strip_html.scale(f"{visible(grid.title)}, {grid.unit}, layer {layer}", grid.highest)
            )
            st.caption(
                f"Mean {sum(known) / len(known):.3f} over {len(known):,} tokens of the answer, read at layer {layer} of step "
                f"{one['step']:,}."
            )
    with found[0][0], st.expander("What these numbers are"):
        inert.caption(first.caption)
