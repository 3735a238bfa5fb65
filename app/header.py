"""What every page has on top, and how a page gets at the chosen run: picker, state chip, held latches, last write.

Text out of a run folder is shown as plain text, never as Markdown: a run may come from a stranger.
"""

import functools
import logging
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, ParamSpec

import streamlit as st

from app import queries
from app.queries import Opened
from lab.records import Records
from lab.run import default_root

P = ParamSpec("P")
log = logging.getLogger(__name__)
BADGES: dict[str, tuple[str, Any]] = {
    "training": ("▶ training", "green"),
    "held": ("‖ held", "orange"),
    "finished": ("✓ finished", "blue"),
    "stopped": ("■ stopped", "gray"),
    "dead": ("✕ dead", "red"),
    "new": ("○ new", "gray"),
    "unreadable": ("! unreadable", "red"),
}
LIVE_STATES = ("training", "held")
LIVE, IDLE = "3s", "20s"  # a tab that refreshes every second costs a tenth of a core


def show() -> Opened | None:
    """Draw the header; None when there is no run at all."""
    root = default_root()
    names = queries.run_names(root)
    if not names:
        return None
    wanted = st.query_params.get("run")
    if st.session_state.get("run") not in names:
        st.session_state["run"] = wanted if wanted in names else names[0]
    else:
        st.session_state["run"] = st.session_state["run"]  # set by code each time: so the URL always names the run
    st.html(
        "<style>.stMainBlockContainer { padding-top: 4.5rem; }</style>"
    )  # the default leaves a tenth of a screen empty
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        # no default among the options: a link without a run would show another one as soon as a newer run is made
        st.selectbox(
            "Run",
            names,
            index=None,
            key="run",
            bind="query-params",
            required=True,
            width=420,
            label_visibility="collapsed",
        )
        name = st.session_state["run"] or names[0]
        opened = open_cached(root / name)
        live = opened.run is not None and state_of(opened) in LIVE_STATES
        with st.container(width="stretch"):
            st.fragment(_status, run_every=LIVE if live else IDLE)(str(root), name, names)
    if wanted and wanted not in names:
        st.warning("The link names a run that is not here; another one is shown.")
        st.text(f"asked for: {wanted}")
    return opened


def open_cached(path: Path) -> Opened:
    """One read-only connection per run and server, however many tabs are open."""
    found = _opened(*queries.identity(path))
    if found.problem:
        _opened.clear()  # a broken run may be mended, a half-copied one completed
    return found


@st.cache_resource(max_entries=16, show_spinner=False)
def _opened(path: str, inode: int, configured: int) -> Opened:
    return queries.open_run(Path(path))


def state_of(opened: Opened) -> str:
    try:
        return opened.run.state() if opened.run else "unreadable"
    except queries.UNREADABLE:
        return "unreadable"


def records_or_stop(opened: Opened | None) -> tuple[Opened, Records]:
    """The records of the chosen run; without a run, or with one that cannot be read, says so and ends the page."""
    if opened is None:
        empty_state()
        st.stop()
    if opened.records is None:
        complain(opened.problem or "This run cannot be read.")
        st.stop()
    return opened, opened.records


def chosen() -> Opened | None:
    """The run of the picker; `show` came first."""
    name = st.session_state.get("run")
    return open_cached(default_root() / str(name)) if name else None


def empty_state() -> None:
    st.subheader("No run here yet")
    st.write("The app reads run folders; it trains nothing itself. In a terminal:")
    st.code(
        "lab demo                      # trains a small model on bundled text, a few minutes on a CPU\n"
        "lab train --preset laptop     # a longer run with probes attached\n"
        "lab app                       # this app, for the runs in ./runs",
        language="bash",
    )
    st.text(f"Looked in {default_root().resolve()}. LAB_RUNS, or lab app --runs, names another folder.")
    mention_foreign()


def mention_foreign() -> None:
    foreign = queries.foreign_names(default_root())
    if foreign:
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        st.text(f"Not runs of this lab, left alone: {', '.join(foreign[:5])}{more}.")


def complain(problem: str) -> None:
    """An error in words; its text is shown as text, since it may quote a file."""
    st.error("This run cannot be shown.")
    st.text(problem)


def in_words(draw: Callable[P, None]) -> Callable[P, None]:
    """A page or a live part that meets a bad record says so instead of failing; the next refresh tries again."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            draw(*args, **kwargs)
        except queries.UNREADABLE as error:
            log.exception("the app could not show a page")  # a defect of ours would look like a bad run otherwise
            complain(queries.in_words(str(st.session_state.get("run") or "run"), error))

    return wrapped


def ago(seconds: float) -> str:
    """A span for people.

    >>> ago(42), ago(240), ago(7200)
    ('42 s', '4 min', '2 h')
    """
    for size, unit, most in ((1, "s", 120), (60, "min", 7200), (3600, "h", 172800)):
        if seconds < most:
            return f"{max(0, int(seconds // size))} {unit}"
    return f"{int(seconds // 86400)} days"


def number(value: float | None, form: str = ",.3f") -> str:
    return "–" if value is None else format(value, form)


@in_words
def _status(root: str, name: str, names: list[str]) -> None:
    if set(queries.run_names(Path(root))) != set(names):
        st.rerun(scope="app")  # a run came or went: the picker is outside this part
    opened = open_cached(Path(root) / name)
    words, colour = BADGES.get(state_of(opened), (state_of(opened), "gray"))
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.badge(words, color=colour)
        if opened.records is not None:
            at = opened.records.last_write_at()
            st.text("nothing written yet" if at is None else f"last write {ago(time.time() - at)} ago")
            for latch in opened.records.latches():
                st.text(f"held by {latch.owner}: {latch.reason}")


def clock(at: Any) -> datetime | None:
    """A stored time (unix seconds or ISO text) as local time for a table; None when it is neither."""
    try:
        return datetime.fromtimestamp(float(at)) if not isinstance(at, str) else datetime.fromisoformat(at)
    except (TypeError, ValueError, OverflowError, OSError):
        return None
