"""Layers of two steps or two runs side by side: the same figures on the same scales, and their difference."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import streamlit as st

from app import beside, beside_figures, figures
from app.beside import Side
from app.figures import Cell
from app.queries import Opened
from lab.records import Records

PLAIN = {"displayModeBar": False}


@dataclass(frozen=True)
class Shown:
    """One side as it is drawn: the run, its readings of the task, the step that is looked at."""

    letter: str
    opened: Opened
    records: Records
    cells: list[Cell]
    step: int

    @property
    def side(self) -> Side:
        assert self.opened.run is not None
        return Side(self.opened.run, self.records, self.step)


def draw(task: str, lexical: bool, a: Shown, b: Shown, layer: int, clicked: Callable[[str, str], None]) -> None:
    """Both sides and the difference; a click on a cell of either side chooses its step, and the layer of both.

    Args:
        clicked: told the key of the map, and of the slider that says which step it shows.
    """
    maps = [figures.heat_map(one.cells, one.step, layer) for one in (a, b)]
    over_layers = [figures.over_layers(one.cells, one.step, layer) for one in (a, b)]
    over_steps = [figures.over_steps(one.cells, one.step, layer) for one in (a, b)]
    beside_figures.one_colour_scale(*maps)
    beside_figures.one_scale(*over_layers)
    beside_figures.one_scale(*over_steps, steps=True)
    columns = st.columns(2, gap="medium")
    for column, one, map_, by_layer, by_step in zip(columns, (a, b), maps, over_layers, over_steps, strict=True):
        with column:
            st.markdown(f"**{one.letter}**, at step **{one.step:,}**")
            st.text(one.opened.name)
            key, step = f"map {one.letter}", "step" if one.letter == "A" else "step2"
            st.plotly_chart(
                map_,
                key=key,
                on_select=partial(clicked, key, step),
                selection_mode="points",
                config=PLAIN,
                alt=f"Heat map of {one.letter}, layer by step. {figures.describe(task, one.cells, one.step)}",
            )
            st.markdown(f"**Over layers, {one.letter}**")
            alt = f"{one.letter}: {figures.describe(task, one.cells, one.step)}"
            st.plotly_chart(by_layer, key=f"over layers {one.letter}", config=PLAIN, alt=alt)
            st.markdown(f"**Over steps at layer {layer}, {one.letter}**")
            count = len(figures.steps_of(one.cells))
            alt = f"{one.letter}: {figures.task_title(task)} at layer {layer} over {count} steps."
            st.plotly_chart(by_step, key=f"over steps {one.letter}", config=PLAIN, alt=alt)
    _difference(task, a, b, layer)
    st.caption(f"A: {figures.caption(task, a.cells, a.step)} B: read in the same way; both sides have the same scales.")
    if lexical:
        st.caption("Lexical: the embedding alone holds nine tenths or more of what the best layer of A has.")


def _difference(task: str, a: Shown, b: Shown, layer: int) -> None:
    st.markdown("**Difference, B less A**")
    if beside.is_same(a.side, b.side):
        st.info("Both sides are the same step of the same run. Choose another step, or another run, for one of them.")
        return
    depths = [one.side.run.config.model.n_layers for one in (a, b)]
    if depths[0] != depths[1]:
        st.info(
            f"A has {depths[0]} layers and B {depths[1]}: a layer of one is none of the other, so no difference is drawn."
        )
        return
    found = beside.of_task(task, a.side, b.side, a.cells, b.cells)
    if found is None:
        st.info("The two sides have no layer in common that was read at these steps.")
        return
    here = [one for one in found.layers if one.layer == layer]
    if here:
        st.markdown(
            f"At layer **{layer}**: **{here[0].value:+.3f} bits per word** (95 % {here[0].lo:+.3f} to {here[0].hi:+.3f}, "
            f"n = {here[0].n:,} words, {'paired' if found.paired else 'not paired'})"
        )
    st.plotly_chart(
        beside_figures.differences(found, layer), key="difference", config=PLAIN, alt=beside_figures.describe(found)
    )
    st.caption(beside_figures.caption(found))
