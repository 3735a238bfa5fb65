"""The other side of a comparison: a second run and a second step, in the URL as `run2` and `step2`."""

import streamlit as st

from app import header, queries
from app.queries import Opened

NEWEST = "newest"


def run(opened: Opened, key: str = "run2") -> Opened | None:
    """A picker for the run to put beside the shown one, which may be that run itself; None while nothing is picked.

    One that cannot be read is said so, and is None.
    """
    root = opened.path.parent
    names = [opened.name, *(name for name in queries.run_names(root) if name != opened.name)]
    if st.session_state.get(key) not in (None, *names):
        st.session_state[key] = None  # it is gone, and a widget would refuse it
    chosen = st.selectbox(
        "Beside it (B)",
        names,
        None,
        key=key,
        bind="query-params",
        width=420,
        placeholder="nothing; pick this run for another step, or another run",
    )
    if chosen is None:
        return None
    other = header.open_cached(root / chosen)
    if other.run is None or other.records is None:
        header.complain(other.problem or "This run cannot be read.")
        return None
    return other


def step(label: str, steps: list[int], key: str = "step2") -> int:
    """A slider over steps, which must not be empty: the newest unless another one was chosen."""
    options = [*map(str, steps), NEWEST]
    keep(key, options, NEWEST)
    chosen = st.select_slider(label, options, NEWEST, key=key, bind="query-params")
    return steps[-1] if chosen == NEWEST else int(chosen)


def keep(key: str, options: list[str], otherwise: str) -> None:
    """Another run or task may lack the step or layer that was chosen before; a widget would refuse it."""
    if key in st.session_state and st.session_state[key] not in options:
        st.session_state[key] = otherwise
