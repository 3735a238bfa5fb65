"""The timeline of a run as a section of a page: what happened at which step, each with how much was looked at."""

from typing import Any

import streamlit as st

from app import behaviour, queries
from app.queries import Opened
from app.timeline import Moment, timeline
from app.verdict_text import short, visible
from lab.run import Run

MOST_WORDS = 600  # characters of one row; a finding of a stranger's run may be a book


def moments(opened: Opened) -> list[Moment]:
    """Every row, ascending by step; read anew when something was recorded."""
    assert opened.run is not None and opened.records is not None
    return _moments((*queries.identity(opened.path), *behaviour.mark(opened.records)), opened.run)


def section(opened: Opened) -> None:
    """The timeline, the newest step first; nothing where nothing is recorded."""
    rows = moments(opened)
    if not rows:
        return
    st.subheader("Timeline")
    table(rows[::-1])
    st.caption(
        "Counted: how often something was found or done, of how much was looked at. A first occurrence is an extreme of "
        "chance: it says little without that. The same as `lab timeline`."
    )


def table(rows: list[Moment]) -> None:
    shown: list[dict[str, Any]] = [
        {"Step": row.step, "Kind": row.kind, "What": short(visible(row.text), MOST_WORDS), "Counted": counted(row)}
        for row in rows
    ]
    columns = {"Step": st.column_config.NumberColumn(format="localized", width=60)}  # widths in px: words take the rest
    columns |= {"Kind": st.column_config.TextColumn(width=90), "What": st.column_config.TextColumn(width=700)}
    height = 38 + 35 * min(12, len(shown))
    st.dataframe(shown, hide_index=True, width="stretch", height=height, placeholder="–", column_config=columns)


def counted(row: Moment) -> str | None:
    """How often, of how much, in words; None where nobody counted."""
    if row.count is None:
        return None
    if row.unit is None:
        return f"{row.count:,}, of how many was not counted"
    return f"{row.count:,}{'' if row.of is None else f' of {row.of:,}'} {row.unit}"


@st.cache_data(max_entries=8, show_spinner=False)
def _moments(mark: tuple[str | int, ...], _run: Run) -> list[Moment]:
    return timeline(_run)
