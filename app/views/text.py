"""Text: what every layer of a checkpoint holds of a text that somebody types; click a cell for what stands there.

Asks the run's server, which reads published weights; loads no model itself. Run, step, layer, position, reading and a short
text are in the URL, so a view is a link.
"""

import functools
from typing import Any

import streamlit as st

from app import strip_html, text_code, text_figures, text_readings
from app.header import Top, in_words
from app.queries import Opened
from app.server_client import NotAnswered, Remote
from app.text_figures import Point
from app.text_readings import Grid, Json
from app.verdict_text import visible
from app.views import inert, tracing
from app.views.linked import pick
from lab.checkpoint import CheckpointInfo, list_checkpoints

NEWEST, NONE = "newest", "none"
PLAIN = {"displayModeBar": False}
EXAMPLE = "The old farmer walked to the market and bought a brown horse."
LONGEST_IN_LINK = 300  # characters
MOST_STEPS = 8  # of a history: each may take a fit of lens and probes, seconds on an idle processor
TOP_K = 10
LENSES = {"ridge": "ridge lens (fitted)", "logit": "logit lens (raw)"}
Chosen = tuple[str, str, str]


@in_words
def page(top: Top) -> None:
    opened, _ = top.records_or_stop()
    remote = tracing.reach(opened)
    top.keep_fresh(lambda: tracing.watch_server(opened, remote is not None))
    st.html(f"<style>{strip_html.SHEET}</style>")
    text = _typed()
    if remote is None:
        tracing.no_server(opened, "no text can be read")
        return
    infos = {info.step: info for info in list_checkpoints(opened.path / "checkpoints")}
    if not infos:
        st.info("This run has no checkpoint yet. The first is written when training starts.")
        return
    if not text:
        st.text("Type a text and press Read it: every layer's readings of every token come here.")
        return
    step, other, body = _asked(sorted(infos), text)
    place = st.empty()
    try:
        found = tracing.trace(opened, remote, infos[step], body, place)
        beside = None if other is None else tracing.trace(opened, remote, infos[other], body, place)
    except NotAnswered as error:
        tracing.refused(error)
        return
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        grid, chosen = tracing.choose(found, text_readings.kinds(found))
    layer, pos = _cell(found, grid)
    _maps(found, beside, grid, chosen, layer, pos)
    _readings(found, beside, layer, pos)
    _history(opened, remote, infos, body, chosen, grid, (step, other, layer, pos))
    head = _attention(opened, remote, infos[step], text, found, pos)
    with st.expander("Copy as Python"):
        st.caption("Makes the numbers of the chosen cell again, in a notebook, from the run's folder alone.")
        ridge = found["lens"]["name"].startswith("ridge")
        st.code(text_code.python(opened.path, step, text, layer, pos, ridge, chosen, TOP_K, head), language="python")


# ------------------------------------------------------------------------------------------------------------- choosing


def _typed() -> str:
    """The text that is read: what was typed, else what the link names."""
    linked = st.query_params.get("text", "")
    if "typed" not in st.session_state:
        st.session_state["typed"] = st.session_state.get("read") or linked or EXAMPLE
    with st.form("text", border=False):
        typed = st.text_area("Text", key="typed", height=90, max_chars=8000)
        if st.form_submit_button("Read it", type="primary"):
            st.session_state["read"] = typed
    text = str(st.session_state.setdefault("read", linked))
    if text and len(text) <= LONGEST_IN_LINK:
        st.query_params["text"] = text
    elif "text" in st.query_params:
        del st.query_params["text"]
    if len(text) > LONGEST_IN_LINK:
        st.caption(f"A text of more than {LONGEST_IN_LINK} characters is not put into the link.")
    return text


def _asked(steps: list[int], text: str) -> tuple[int, int | None, dict[str, Any]]:
    """Step, the step beside it, and what to ask the server at both."""
    notches, others = [str(step) for step in steps], [NONE, *map(str, steps)]
    tracing.keep("step", [*notches, NEWEST], NEWEST)
    tracing.keep("beside", others, NONE)
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        notch = st.select_slider("Step", [*notches, NEWEST], NEWEST, key="step", bind="query-params", width=560)
        other = st.selectbox("Beside it, step", others, key="beside", bind="query-params", width=160)
        lens = pick("Lens", list(LENSES), "lens", LENSES.__getitem__, width=220)
    step = steps[-1] if notch == NEWEST else int(notch)
    return step, None if other == NONE else int(other), {"text": text, "lens": lens, "top_k": TOP_K}


def _cell(found: Json, grid: Grid) -> tuple[int, int]:
    layers, places = [str(at) for at in range(len(grid.values))], [str(at) for at in range(len(found["tokens"]))]
    tracing.keep("layer", layers, layers[-1])
    tracing.keep("pos", places, places[-1])
    left, right = st.columns(2, gap="large")
    with left:
        layer = st.select_slider("Layer", layers, layers[-1], key="layer", bind="query-params")
    with right:
        pos = st.select_slider("Position", places, places[-1], key="pos", bind="query-params")
    return int(layer), int(pos)


def _clicked(key: str) -> None:
    """The clicked cell becomes the view. A second click on the same cell arrives as an empty selection."""
    points = st.session_state[key]["selection"]["points"]
    cell = tuple(points[0]["customdata"][:2]) if points else st.session_state.get("last token")
    if cell:
        st.session_state["last token"] = cell
        st.session_state["layer"], st.session_state["pos"] = str(int(cell[0])), str(int(cell[1]))


# --------------------------------------------------------------------------------------------------------------- drawing


def _maps(found: Json, beside: Json | None, grid: Grid, chosen: Chosen, layer: int, pos: int) -> None:
    """Strip and map of the step, and of the one beside it on the same scale."""
    second = None if beside is None else tracing.same_reading(beside, chosen)
    highest = max(grid.highest, second.highest if second else 0.0)
    inert.heading(grid.title)
    st.html(strip_html.scale(f"{grid.unit}, at layer {layer}", highest))
    if beside is None:
        _map("map", found, grid, layer, pos, True, highest)
    else:
        left, right = st.columns(2, gap="medium")
        with left:
            _map("map", found, grid, layer, pos, False, highest)
        with right:
            if second is None:
                st.text(f"Step {beside['step']:,} has no such reading.")
            else:
                _map("map beside", beside, second, layer, pos, False, highest)
    inert.caption(grid.caption)
    tracing.say_problems(found)


def _map(key: str, found: Json, grid: Grid, layer: int, pos: int, wide: bool, highest: float) -> None:
    labels = text_readings.labels(found)
    st.markdown(f"**Step {found['step']:,}**")
    st.html(strip_html.strip(labels, grid.values[layer], highest, pos))
    st.plotly_chart(
        text_figures.heat_map(grid, labels, layer, pos, wide, highest),
        key=key,
        on_select=functools.partial(_clicked, key),
        selection_mode="points",
        config=PLAIN,
        alt=text_figures.describe(grid, labels, found["step"]),
    )


def _readings(found: Json, beside: Json | None, layer: int, pos: int) -> None:
    """Everything that is read at the chosen cell."""
    st.subheader(f"Layer {layer}, position {pos}")
    st.text(f"The text up to here: {_context(found, pos)}")
    shown = [found] if beside is None else [found, beside]
    columns = st.columns(2, gap="medium")
    for at, one in enumerate(shown):
        with columns[at]:
            inert.strong(f"Step {one['step']:,}: what would come next, {one['lens']['name']}")
            st.dataframe(
                text_readings.top_rows(one, layer, pos), hide_index=True, width="stretch", column_config=TOP_COLUMNS
            )
        with columns[at if beside else 1]:
            rows = text_readings.reading_rows(one, layer, pos)
            if rows:
                st.markdown(f"**Step {one['step']:,}: what probes and concepts read**")
                st.dataframe(rows, hide_index=True, width="stretch", placeholder="–", column_config=COLUMNS)


TOP_COLUMNS = {"Probability": st.column_config.ProgressColumn(format="%.3f", min_value=0, max_value=1)}
COLUMNS = {
    "Probability": st.column_config.NumberColumn(format="%.3f"),
    "Usable bits": st.column_config.NumberColumn(
        format="%.3f", help="Per word, on held-out words at this layer: how much to believe it."
    ),
    "Words": st.column_config.NumberColumn(format="localized", help="It was fitted on."),
    "Strength": st.column_config.NumberColumn(format="%.3f", help="Length of Vᵀ(h − mean)."),
}


def _context(found: Json, pos: int) -> str:
    labels = text_readings.labels(found)[: pos + 1]
    return ("… " if len(labels) > 12 else "") + "".join(labels[-12:])


def _history(
    opened: Opened,
    remote: Remote,
    infos: dict[int, CheckpointInfo],
    body: dict[str, Any],
    chosen: Chosen,
    grid: Grid,
    view: tuple[int, int | None, int, int],
) -> None:
    """The chosen cell over a few stored checkpoints, traced on demand."""
    step, other, layer, pos = view
    steps = text_readings.few(list(infos), step, MOST_STEPS)
    label = f"Its history over {len(steps)} of {len(infos)} stored checkpoints"
    if len(steps) < 2 or not st.toggle(label, key="history", bind="query-params"):
        return
    points, place = [], st.empty()
    said = st.empty()
    for done, at in enumerate(steps):
        place.progress(done / len(steps), f"Step {at:,}, {done} of {len(steps)} read")
        try:
            reading = tracing.same_reading(tracing.trace(opened, remote, infos[at], body, said), chosen)
        except NotAnswered as error:  # a trainer may have rotated this one away
            st.text(f"Step {at:,} was not read: {visible(str(error))}")
            continue
        value = None if reading is None else reading.values[layer][pos]
        word = reading.words[layer][pos] if reading is not None and reading.words else ""
        points.append(Point(at, value, word))
    place.empty()
    if all(point.value is None for point in points):
        st.text("None of these checkpoints has this reading here.")
        return
    st.plotly_chart(
        text_figures.history(points, grid, step, other),
        key="over steps",
        config=PLAIN,
        alt=f"{grid.title} at layer {layer}, position {pos}, over {len(points)} checkpoints.",
    )
    fitted = " Lens and probes are fitted anew at each checkpoint." if chosen[0] in ("lens", "next", "probe") else ""
    inert.caption(
        f"{grid.title}, at layer {layer}, position {pos}; ringed: the steps shown above. Points are joined for the "
        f"eye; nothing is known between them. One text, so no interval.{fitted}"
    )


def _attention(
    opened: Opened, remote: Remote, info: CheckpointInfo, text: str, found: Json, pos: int
) -> tuple[int, int] | None:
    """Where a head looks, if one is chosen; that head."""
    assert opened.run is not None
    shape = opened.run.config.model
    heads = [f"{block}.{head}" for block in range(shape.n_layers) for head in range(shape.n_heads)]
    name = pick("Attention of a head", [NONE, *heads], "head", _head_in_words, width=260)
    if name == NONE:
        return None
    block, head = map(int, name.split("."))
    body = {
        "text": text,
        "lens": "none",
        "probes": False,
        "concepts": False,
        "attention": {"block": block, "head": head},
    }
    try:
        pattern = tracing.trace(opened, remote, info, body, st.empty())["attention"]
    except NotAnswered as error:
        tracing.refused(error)
        return None
    labels = text_readings.labels(found)
    st.plotly_chart(
        text_figures.attention(pattern, labels, pos),
        key="attention",
        config=PLAIN,
        alt=f"Attention of {_head_in_words(name)}: {len(labels)} tokens by {len(labels)}, step {info.step}.",
    )
    st.caption(
        f"{_head_in_words(name).capitalize()} at step {info.step:,}: each row sums to 1. Block b stands between layers b and "
        f"b + 1. Framed: position {pos}. Where a head looks does not say what it moves from there."
    )
    return block, head


def _head_in_words(name: str) -> str:
    return NONE if name == NONE else "block {}, head {}".format(*name.split("."))
