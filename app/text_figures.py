"""Figures of a traced text: layer by position, one cell over training, an attention head. Data in, Plotly out.

Pure functions: no Streamlit, no file, no server. Tokens are untrusted and escaped, since Plotly reads a little HTML. Cividis
keeps its order for the colour-blind; every cell answers with its number in words.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from app.figures import BLUE, EDGE, ORANGE, PINK, thin
from app.text_readings import Grid
from app.verdict_figures import plain
from app.verdict_text import short

MOST_WRITTEN = {True: 20, False: 9}  # positions whose cells can hold a token, over the page's width and over half of it
MOST_LABELLED = {True: 48, False: 24}  # positions that can all have a label
PIXELS = {True: 1000, False: 400}  # of a map's width; a character of size 11 takes 7
WRITTEN = 7  # characters beside a point


@dataclass(frozen=True)
class Point:
    """A cell at one checkpoint; `word` is what stood in it."""

    step: int
    value: float | None
    word: str = ""


def heat_map(
    grid: Grid, labels: Sequence[str], layer: int, pos: int, wide: bool = True, highest: float | None = None
) -> go.Figure:
    """Layer by position, colour = the reading; the chosen cell is framed.

    Invisible square markers lie over the cells: Streamlit reports no click on a Plotly heat map, but it does on markers;
    `customdata` begins with `[layer, position]`, in lists because typed arrays come back as dictionaries.

    Args:
        wide: over the whole page; else over half of it.
        highest: the end of the scale, where two maps share one.
    """
    layers, places = range(len(grid.values)), range(len(labels))
    words = grid.words if grid.words is not None and len(labels) <= MOST_WRITTEN[wide] else None
    most = PIXELS[wide] // (7 * len(labels))
    highest = highest or grid.highest
    colours = go.Heatmap(
        z=[list(row) for row in grid.values],
        x=list(places),
        y=list(layers),
        zmin=0,
        zmax=highest,
        colorscale="Cividis",
        colorbar={"title": {"text": plain(grid.unit), "side": "right"}, "thickness": 12},
        xgap=1,
        ygap=1,
        hoverinfo="skip",
    )
    figure = go.Figure(colours)
    if words:
        for ink in ("white", "black"):  # Plotly's own choice, white or a dark grey, is faint in Cividis' middle
            z = [[value if _ink(value, highest) == ink else None for value in row] for row in grid.values]
            text = [
                ["" if value is None else plain(short(word, most)) for value, word in zip(*row, strict=True)]
                for row in zip(z, words, strict=True)
            ]
            figure.add_trace(
                go.Heatmap(colours).update(
                    z=z,  # of the other ink's cells none, or it would hide their words
                    showscale=False,
                    text=text,
                    texttemplate="%{text}",
                    textfont={"size": 11, "color": ink},  # by itself Plotly shrinks all to what the longest needs
                )
            )
    cells = [(at, place) for at in layers for place in places]
    figure.add_trace(
        go.Scatter(
            x=[place for _, place in cells],
            y=[at for at, _ in cells],
            mode="markers",
            showlegend=False,
            customdata=[
                [at, place, _in_words(grid.values[at][place]), plain(labels[place]), _word(grid, at, place)]
                for at, place in cells
            ],
            marker={"symbol": "square", "size": 24, "color": "rgba(0,0,0,0)"},
            selected={"marker": {"opacity": 0}},
            unselected={"marker": {"opacity": 0}},
            hovertemplate="layer %{customdata[0]}, position %{customdata[1]}: %{customdata[3]}<br>"
            "%{customdata[4]}%{customdata[2]}<extra></extra>",
        )
    )
    if layer in layers and pos in places:
        frame = {"type": "rect", "x0": pos - 0.5, "x1": pos + 0.5, "y0": layer - 0.5, "y1": layer + 0.5}
        figure.add_shape(frame, line={"color": "black", "width": 5})
        figure.add_shape(frame, line={"color": "white", "width": 2})
    _positions(figure.update_xaxes, labels, wide, "position and token")
    figure.update_xaxes(range=[-EDGE, len(labels) - 1 + EDGE])
    figure.update_yaxes(
        title_text="layer",
        range=[-EDGE, len(grid.values) - 1 + EDGE],
        tickvals=thin(list(layers)),
        ticktext=["0 (embedding)" if at == 0 else str(at) for at in thin(list(layers))],
        showgrid=False,
        zeroline=False,
    )
    # hoverdistance -1: any spot of a cell answers with its own marker, however wide the cell is drawn
    figure.update_layout(dragmode=False, hovermode="closest", hoverdistance=-1, clickmode="event+select")
    return _sized(figure, min(760, 170 + 24 * len(grid.values)))


def _ink(value: float | None, highest: float) -> str:
    """Of the word on a cell: whichever contrasts more with its colour, at least 4.5 to 1."""
    return "black" if value is not None and value > 0.47 * highest else "white"


def history(points: Sequence[Point], grid: Grid, step: int, other: int | None = None) -> go.Figure:
    """One cell over the checkpoints that were traced; the steps that the page shows are ringed."""
    shown = [point for point in points if point.value is not None]
    where = {point.step: math.log10(point.step + 1) for point in points}
    figure = go.Figure(
        go.Scatter(
            x=[where[point.step] for point in points],
            y=[point.value for point in points],
            mode="lines+markers+text" if any(point.word for point in points) else "lines+markers",
            text=[plain(short(point.word, WRITTEN)) for point in points],
            textposition="top center",
            line={"color": BLUE, "width": 2.5},
            marker={"size": 7},
            showlegend=False,
            customdata=[[point.step, f"{plain(point.word)}: " if point.word else ""] for point in points],
            hovertemplate="step %{customdata[0]:,}<br>%{customdata[1]}%{y:.3f}<extra></extra>",
        )
    )
    for at, colour in ((step, PINK), (other, ORANGE)):
        ringed = [point for point in shown if point.step == at]
        figure.add_trace(
            go.Scatter(
                x=[where[point.step] for point in ringed],
                y=[point.value for point in ringed],
                mode="markers",
                showlegend=False,
                hoverinfo="skip",
                marker={"size": 15, "color": "rgba(0,0,0,0)", "line": {"color": colour, "width": 3}},
            )
        )
    ticks = [point.step for point in points]
    kept = [at for i, at in enumerate(ticks) if i in (0, len(ticks) - 1) or where[ticks[-1]] - where[at] > 0.15]
    figure.update_xaxes(
        title_text="step (log scale)",
        tickvals=[where[at] for at in kept],
        ticktext=[f"{at:,}" for at in kept],
        tickangle=0,
        zeroline=False,
    )
    figure.update_yaxes(title_text=plain(grid.unit), range=[0, 1.15] if grid.top == 1 else None, rangemode="tozero")
    return _sized(figure, 320)


def attention(pattern: Sequence[Sequence[float]], labels: Sequence[str], pos: int) -> go.Figure:
    """Where each token of a text looks: row = the token that looks, column = the token looked at. Later ones are blank."""
    size = len(labels)
    figure = go.Figure(
        go.Heatmap(
            z=[[row[key] if key <= query else None for key in range(size)] for query, row in enumerate(pattern)],
            customdata=[[[plain(labels[query]), plain(labels[key])] for key in range(size)] for query in range(size)],
            zmin=0,
            zmax=1,
            colorscale="Cividis",
            colorbar={"title": {"text": "share of the attention", "side": "right"}, "thickness": 12},
            xgap=1 if size <= 64 else 0,
            ygap=1 if size <= 64 else 0,
            hoverongaps=False,
            hovertemplate="%{y} %{customdata[0]} looks at %{x} %{customdata[1]}: %{z:.3f}<extra></extra>",
        )
    )
    frame = {"type": "rect", "x0": -0.5, "x1": pos + 0.5, "y0": pos - 0.5, "y1": pos + 0.5}
    figure.add_shape(frame, line={"color": PINK, "width": 2})
    _positions(figure.update_xaxes, labels, True, "looked at")
    _positions(figure.update_yaxes, labels, True, "looks")
    figure.update_xaxes(range=[-0.5, size - 0.5])
    figure.update_yaxes(range=[size - 0.5, -0.5], tickangle=0)
    return _sized(figure, min(900, 200 + 22 * size))


def describe(grid: Grid, labels: Sequence[str], step: int) -> str:
    """The map in one sentence, for a screen reader."""
    found = [
        (value, at, place) for at, row in enumerate(grid.values) for place, value in enumerate(row) if value is not None
    ]
    if not found:
        return f"{grid.title}: nothing to read at step {step}."
    value, at, place = max(found)
    return (
        f"{grid.title}, layer by position, at step {step}: {len(grid.values)} layers, {len(labels)} tokens; highest at layer "
        f"{at}, position {place} ({labels[place]}), with {value:.3f}."
    )


def _positions(update: object, labels: Sequence[str], wide: bool, title: str) -> None:
    every = math.ceil(len(labels) / MOST_LABELLED[wide])
    shown = list(range(0, len(labels), every))
    assert callable(update)
    update(
        title_text=title,
        tickvals=shown,
        ticktext=[f"{plain(short(labels[at], 12))} {at}" for at in shown],
        tickangle=-60,
        showgrid=False,
        zeroline=False,
    )


def _in_words(value: float | None) -> str:
    return "no value" if value is None else f"{value:.3f}"


def _word(grid: Grid, layer: int, place: int) -> str:
    return f"{plain(grid.words[layer][place])}: " if grid.words else ""


def _sized(figure: go.Figure, height: int) -> go.Figure:
    figure.update_layout(height=height, margin={"l": 10, "r": 10, "t": 10, "b": 10})
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    return figure
