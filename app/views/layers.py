"""Layers: what is linearly readable where and when; click a cell for its curve over layers and over steps.

Run, task, step and layer are in the URL, so a view is a link; so are the second run and step of a comparison.
"""

import shlex
from functools import partial
from typing import Any

import streamlit as st

from app import figures, header, queries
from app.figures import Cell
from app.header import Top
from app.queries import Opened
from app.views import layers_beside, second
from app.views.layers_beside import Shown
from app.views.second import NEWEST, keep
from lab.records import Records

Version = tuple[str, int, int, int, float | None]  # identity of the run, steps with readings, last write


@header.in_words
def page(top: Top) -> None:
    opened, records = top.records_or_stop()
    tasks = figures.task_order(records.tasks())
    steps = records.reading_steps()
    if not tasks or not steps:
        st.info(
            "This run has no probe readings yet. They come while it trains, at each visit of its probing attachment."
        )
        st.text("The same of a checkpoint that there is, as a file:")
        st.code(f"lab probe {shlex.quote(opened.name)} --html layers.html", language="bash")
        top.keep_fresh(lambda: _watch(records, len(steps), follow=True))
        return
    version = (*queries.identity(opened.path), len(steps), records.last_write_at())  # what is written changes no more
    lexical = _lexical(version, tuple(tasks), records)
    keep("task", tasks, tasks[0])
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        task = st.selectbox("Task", tasks, key="task", bind="query-params", width=420)  # as in tables and commands
        st.text(figures.task_title(task))
        if task in lexical:
            st.badge(
                "lexical",
                color="orange",
                help="Layer 0 already has it: it says something about the words, not the layers.",
            )
        other = second.run(opened)
    cells = _cells(version, task, records)
    if not cells:
        st.info("No readings of this task yet.")
        return
    notches = [str(step) for step in figures.steps_of(cells)]
    layers = [str(layer) for layer in figures.layers_of(cells)]
    keep("step", [*notches, NEWEST], NEWEST)
    keep("layer", layers, layers[-1])
    left, right = st.columns([3, 1])
    with left:
        notch = st.select_slider("Step", [*notches, NEWEST], NEWEST, key="step", bind="query-params")
    with right:
        layer = int(
            st.select_slider("Layer", layers, layers[-1], key="layer", bind="query-params")
            if len(layers) > 1
            else layers[0]
        )
    step = int(notches[-1] if notch == NEWEST else notch)
    top.keep_fresh(lambda: _watch(records, len(steps), follow=notch == NEWEST))
    if other is None:
        _draw(task, task in lexical, cells, step, layer)
        return
    beside = _other_side(other, task)
    if beside is not None:
        layers_beside.draw(task, task in lexical, Shown("A", opened, records, cells, step), beside, layer, clicked)


def _other_side(other: Opened, task: str) -> Shown | None:
    """Side B: the same task in the chosen run, at the step of a slider of its own."""
    assert other.records is not None
    written = (*queries.identity(other.path), len(other.records.reading_steps()), other.records.last_write_at())
    cells = _cells(written, task, other.records)
    if not cells:
        st.info("The run beside it has no readings of this task, so there is nothing to compare.")
        return None
    return Shown("B", other, other.records, cells, second.step("Step of B", figures.steps_of(cells)))


def _draw(task: str, lexical: bool, cells: list[Cell], step: int, layer: int) -> None:
    alt = figures.describe(task, cells, step)
    st.plotly_chart(
        figures.heat_map(cells, step, layer),
        key="map",
        on_select=partial(clicked, "map", "step"),
        selection_mode="points",
        config={"displayModeBar": False},
        alt=f"Heat map, layer by step. {alt}",
    )
    _say(cells, step, layer)
    left, right = st.columns(2)
    with left:
        st.markdown(f"**Over layers, at step {step:,}**")
        st.plotly_chart(
            figures.over_layers(cells, step, layer), key="over layers", config={"displayModeBar": False}, alt=alt
        )
    with right:
        st.markdown(f"**Over steps, at layer {layer}**")
        st.plotly_chart(
            figures.over_steps(cells, step, layer),
            key="over steps",
            config={"displayModeBar": False},
            alt=f"{figures.task_title(task)} at layer {layer} over {len(figures.steps_of(cells))} steps.",
        )
    st.caption(figures.caption(task, cells, step))
    if lexical:
        st.caption(
            "Lexical: without layer 0 subtracted, the embedding alone holds nine tenths or more of what the best layer "
            "has. Where this label can be read says nothing about what the layers do."
        )


def _say(cells: list[Cell], step: int, layer: int) -> None:
    found = [cell for cell in cells if (cell.step, cell.layer) == (step, layer)]
    if not found:
        st.info(f"There is no reading of layer {layer} at step {step:,}.")
        return
    cell, zero = found[0], [c.value for c in cells if (c.step, c.layer) == (step, 0)]
    twin = "" if cell.baseline is None else f"; random-initialisation twin {cell.baseline:.3f}"
    first = f"; layer 0 {zero[0]:.3f}" if zero else ""
    st.markdown(
        f"Step **{step:,}**, layer **{layer}**: **{cell.value:.3f} bits per word** "
        f"(95 % {cell.lo:.3f} to {cell.hi:.3f}, n = {cell.n:,} words{twin}{first})"
    )


def chosen_cell(points: list[Any]) -> tuple[int, int] | None:
    """Step and layer of the clicked marker; None for an empty selection."""
    return (int(points[0]["customdata"][0]), int(points[0]["customdata"][1])) if points else None


def clicked(map_: str, step: str) -> None:
    """The cell clicked in a map becomes the view. A second click on the same cell arrives as an empty selection.

    Args:
        map_: key of the chart; step: key of the slider that says which step it shows.
    """
    last = f"last cell of {map_}"
    cell = chosen_cell(st.session_state[map_]["selection"]["points"]) or st.session_state.get(last)
    if cell:
        st.session_state[last] = cell
        st.session_state[step], st.session_state["layer"] = str(cell[0]), str(cell[1])


@header.in_words
def _watch(records: Records, known: int, follow: bool) -> None:
    """While training: follow new readings, or offer them when an older step is being looked at."""
    fresh = len(records.reading_steps()) - known
    if fresh <= 0:
        return
    if follow or st.button(f"Load {fresh} newer step{'s' if fresh > 1 else ''}"):
        st.rerun(scope="app")


@st.cache_data(max_entries=32, show_spinner=False)
def _cells(version: Version, task: str, _records: Records) -> list[Cell]:
    return queries.cells(_records, task)


@st.cache_data(max_entries=32, show_spinner=False)
def _lexical(version: Version, tasks: tuple[str, ...], _records: Records) -> set[str]:
    return queries.lexical_tasks(_records, tasks)
