"""What every page has on top, and how a page gets at the chosen run: picker, state, last write, latches, pause and unpause.

Text out of a run folder is shown as plain text, never as Markdown: a run may come from a stranger.
"""

import contextlib
import functools
import logging
import os
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, ParamSpec

import streamlit as st

from app import asking, queries
from app.launch import ELSEWHERE
from app.queries import Opened
from app.verdict_text import short, visible
from lab.records import Latch, Records
from lab.run import default_root

COMMANDS = (  # the three paths of a user
    (
        "1. Train with probes attached",
        "lab demo                      # a small model on bundled text, a few minutes on a CPU\n"
        "lab train --preset laptop     # a longer run; lab train --print-config shows what can be set",
    ),
    ("2. Explore it, while it trains or after", "lab app                       # this app, for the runs in ./runs"),
    (
        "3. Freeze a concept and resume",
        "lab concept add latest function --task class.next\n"
        "lab freeze latest function    # trains on with it held, beside twins without; lab prove says what stayed",
    ),
)
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
MOST_LATCHES = 4  # in the header; owners are few, but a copied run may bring any number
LIVE, IDLE = "3s", "20s"  # a tab that refreshes every second costs a tenth of a core
# Streamlit leaves a tenth of the screen empty above a page, and wide lines of text on a wide screen
STYLE = """<style>.stMainBlockContainer { padding-top: 4.5rem; max-width: 100rem; margin: 0 auto; }
.st-key-latches [data-testid=stText] { border-left: 4px solid #D55E00; padding-left: .6rem; }
[data-testid=stPageLink-NavLink] p { text-decoration: underline; text-underline-offset: .2em; }</style>"""


@dataclass(frozen=True)
class Top:
    """The header as a page sees it: the chosen run (None: there is none)."""

    opened: Opened | None

    def keep_fresh(self, draw: Callable[[], None]) -> None:
        """Draw the page's live part, again every few seconds."""
        st.fragment(draw, run_every=LIVE if _is_live(self.opened) else IDLE)()

    def records_or_stop(self) -> tuple[Opened, Records]:
        """The run and its records; without a run, or with one that cannot be read, says so and ends the page."""
        if self.opened is None:
            self.keep_fresh(empty_state)
            st.stop()
        if self.opened.records is None:
            path, problem = self.opened.path, self.opened.problem or "This run cannot be read."

            def say_so() -> None:
                if open_cached(path).problem is None:  # it was half made or half copied, and is whole now
                    st.rerun(scope="app")
                complain(problem)

            self.keep_fresh(say_so)
            st.stop()
        return self.opened, self.opened.records


def show() -> Top:
    """Draw the header: the picker, and the status of the chosen run."""
    root = default_root()
    names = queries.run_names(root)
    if not names:
        _watch(None, _Known.of(None, names))
        return Top(None)
    wanted = st.query_params.get("run")
    if st.session_state.get("run") not in names:
        st.session_state["run"] = wanted if wanted in names else names[0]
    else:
        st.session_state["run"] = st.session_state["run"]  # set by code each time: so the URL always names the run
    st.html(STYLE)
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        # no default among the options: a link without a run would show another one as soon as a newer run is made
        st.selectbox(
            "Run", names, None, key="run", bind="query-params", required=True, width=420, label_visibility="collapsed"
        )
        # A part of its own: a live part that draws into a place outside itself can leave the browser with an empty
        # page ("Cannot set a node at a delta path", streamlit/streamlit#16281 and its kin).
        opened = open_cached(root / (st.session_state["run"] or names[0]))
        known = _Known.of(opened, names)
        _watch(opened, known)
        if opened.run is not None and known.state != "unreadable":
            if asking.can_be_asked(opened):
                asking.buttons(opened, known.latches, known.state in LIVE_STATES)
            else:
                st.badge(
                    "read-only", color="gray", help="Nothing can be asked of this copy, and nothing written into it."
                )
    _say_held(known.latches)
    asking.say_trouble(opened)
    if wanted and wanted not in names:
        st.warning("The link names a run that is not here; another one is shown.")
        st.text(f"asked for: {wanted}")
    return Top(opened)


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


def empty_state() -> None:
    st.subheader("No run here yet")
    st.write("The app reads run folders; it trains nothing itself. Three commands, in a terminal:")
    for what, command in COMMANDS:
        st.markdown(f"**{what}**")
        st.code(command, language="bash")
    st.text(f"Looked in {default_root().resolve()}. LAB_RUNS, or lab app --runs, names another folder.")
    mention_foreign()


def say_where() -> None:
    """Under a page: what a terminal needs first, when the commands on it are about runs that it would not find."""
    if os.environ.get(ELSEWHERE):
        st.caption("`lab` in your terminal looks for runs in another folder. Before a command of these pages:")
        st.code(f"export LAB_RUNS={shlex.quote(str(default_root()))}", language="bash")


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


def _is_live(opened: Opened | None) -> bool:
    """Whether to look often. Without a run: its first may be on its way; one that cannot be read may be half made."""
    return opened is None or opened.records is None or state_of(opened) in LIVE_STATES


@dataclass(frozen=True)
class _Known:
    """What the header was drawn with; when it is otherwise, the whole page is drawn anew."""

    live: bool
    state: str
    latches: tuple[Latch, ...]
    owners: tuple[str, ...]
    names: frozenset[str]

    @classmethod
    def of(cls, opened: Opened | None, names: list[str]) -> "_Known":
        state = state_of(opened) if opened is not None else "none"
        live = opened is None or opened.records is None or state in LIVE_STATES
        latches: tuple[Latch, ...] = ()
        if opened is not None and opened.records is not None:
            with contextlib.suppress(*queries.UNREADABLE):
                latches = tuple(opened.records.latches())
        return cls(live, state, latches, tuple(latch.owner for latch in latches), frozenset(names))

    def same(self, other: "_Known") -> bool:
        return (self.state, self.owners, self.names) == (other.state, other.owners, other.names)


def _watch(opened: Opened | None, known: _Known) -> None:
    """The run's status, kept fresh; and the whole page anew when its state, latches or the list of runs are others."""

    def part() -> None:
        now = _Known.of(opened, queries.run_names(default_root()))
        if opened is not None:
            _status(opened, now.state)
        if not now.same(known):
            st.rerun(scope="app")

    st.fragment(part, run_every=LIVE if known.live else IDLE)()


def _status(opened: Opened, state: str) -> None:
    """State chip and last write."""
    words, colour = BADGES.get(state, (state, "gray"))
    with st.container(horizontal=True, vertical_alignment="center", gap="small", width="content"):
        st.badge(words, color=colour)
        if opened.records is None or state == "unreadable":
            return
        try:
            at = opened.records.last_write_at()
        except queries.UNREADABLE:
            st.text("its records cannot be read just now")
            return
        st.text("nothing written yet" if at is None else f"last write {ago(time.time() - at)} ago")


def _say_held(latches: tuple[Latch, ...]) -> None:
    if latches:
        with st.container(key="latches", gap="xsmall"):
            for latch in latches[:MOST_LATCHES]:
                st.text(f"held by {short(visible(latch.owner), 32)}: {short(visible(latch.reason), 160)}")
            if len(latches) > MOST_LATCHES:
                st.text(f"and {len(latches) - MOST_LATCHES:,} more; Understanding has them all")


def clock(at: Any) -> datetime | None:
    """A stored time (unix seconds or ISO text) as local time for a table; None when it is neither."""
    try:
        return datetime.fromtimestamp(float(at)) if not isinstance(at, str) else datetime.fromisoformat(at)
    except (TypeError, ValueError, OverflowError, OSError):
        return None
