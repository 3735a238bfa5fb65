"""Figures of two sides on one scale, and of their difference. Data in, Plotly out: no Streamlit, no file.

Side A is blue and solid, side B orange and dashed, here as everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from app.beside import Differences
from app.figures import BLUE, GREY, ORANGE, thin
from app.verdict_text import number

Json = Mapping[str, Any]
CONVENTION = "Layer 0 is the embedding sum, layer l the residual stream after block l, before the final norm."
FILLS = ("rgba(0,114,178,.20)", "rgba(213,94,0,.20)")
MARGIN = 0.05  # of the range, above and below
ROOM_OF_A_LABEL = 0.12  # of the axis: "100,000" in half a page of 1280 pixels


def one_colour_scale(*maps: go.Figure) -> None:
    """Heat maps whose colours mean the same numbers."""
    drawn = [trace for figure in maps for trace in figure.data if trace.type == "heatmap"]
    low, high = min(trace.zmin for trace in drawn), max(trace.zmax for trace in drawn)
    for trace in drawn:
        trace.update(zmin=low, zmax=high)


def one_scale(*figures: go.Figure, steps: bool = False) -> None:
    """Curves on the same axis of values; with `steps` also on the same axis of steps."""
    low, high = _span(value for figure in figures for trace in figure.data for value in trace.y or ())
    for figure in figures:
        figure.update_yaxes(range=[low, high])
    if steps:
        left, right = _span(value for figure in figures for trace in figure.data for value in trace.x or ())
        for figure in figures:
            figure.update_xaxes(range=[left, right])
            _thin_ticks(figure, ROOM_OF_A_LABEL * (right - left))


def differences(found: Differences, layer: int | None = None) -> go.Figure:
    """B less A at every layer, with the 95 % interval; zero is drawn, and the chosen layer is ringed."""
    rows = found.layers
    figure = go.Figure(
        go.Scatter(
            x=[one.layer for one in rows],
            y=[one.value for one in rows],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [one.hi - one.value for one in rows],
                "arrayminus": [one.value - one.lo for one in rows],
                "thickness": 2,
                "width": 6,
            },
            mode="markers",
            name="B less A",
            marker={
                "size": 10,
                "color": BLUE,
                "line": {"color": [ORANGE if one.layer == layer else BLUE for one in rows], "width": 3},
            },
            customdata=[[one.lo, one.hi, one.n] for one in rows],
            hovertemplate="layer %{x}: %{y:+.3f} bits per word<br>95 % %{customdata[0]:+.3f} to %{customdata[1]:+.3f}, "
            "n = %{customdata[2]:,}<extra></extra>",
        )
    )
    figure.add_hline(y=0, line={"color": GREY, "dash": "dot", "width": 2})
    figure.update_xaxes(title_text="layer (0 = embedding)", tickvals=thin([one.layer for one in rows]), automargin=True)
    figure.update_yaxes(title_text="bits per word, B less A", automargin=True, zeroline=False)
    figure.update_layout(height=320, margin={"l": 10, "r": 10, "t": 10, "b": 10}, showlegend=False)
    return figure


def tracks(sides: Sequence[tuple[Json, int]]) -> go.Figure:
    """Usable bits of one or two tracks over log steps with 95 % bands; the chosen step of each is ringed.

    Args:
        sides: a track as `shimmer_rows.followed` gives it and the step that is looked at; A, then B.
    """
    figure = go.Figure()
    one_track = len({id(track) for track, _ in sides}) < len(sides)
    for at, (track, step) in enumerate(sides):
        colour, name = (BLUE, ORANGE)[at], "AB"[at]
        points = [point for point in track["points"] if point["bits"] is not None]
        xs, ys = [math.log10(1 + point["step"]) for point in points], [point["bits"] for point in points]
        half = [1.96 * (point["se"] or 0.0) for point in points]
        if at == 0 or not one_track:
            figure.add_trace(
                go.Scatter(
                    x=[*xs, *xs[::-1]],
                    y=[
                        *(y + h for y, h in zip(ys, half, strict=True)),
                        *(y - h for y, h in zip(ys[::-1], half[::-1], strict=True)),
                    ],
                    fill="toself",
                    fillcolor=FILLS[at],
                    line={"width": 0},
                    hoverinfo="skip",
                    showlegend=False,
                )
            )
            figure.add_trace(
                go.Scatter(
                    x=xs,
                    y=ys,
                    mode="lines+markers",
                    name="A and B" if one_track else name,
                    line={"color": colour, "width": 2.5, "dash": "solid" if at == 0 else "dash"},
                    customdata=[[point["step"], point["se"] or 0.0] for point in points],
                    hovertemplate="step %{customdata[0]:,}: %{y:.3f} ± %{customdata[1]:.3f} bits per word<extra></extra>",
                )
            )
        chosen = [(x, y) for x, y, point in zip(xs, ys, points, strict=True) if point["step"] == step]
        figure.add_trace(
            go.Scatter(
                x=[x for x, _ in chosen],
                y=[y for _, y in chosen],
                mode="markers+text",
                text=[name] * len(chosen),
                textposition="top center",
                showlegend=False,
                hoverinfo="skip",
                marker={"size": 15, "color": "rgba(0,0,0,0)", "line": {"color": colour, "width": 3}},
            )
        )
    every = sorted({point["step"] for track, _ in sides for point in track["points"]})
    ticks = [step for at, step in enumerate(every) if at in (0, len(every) - 1) or step in (1, 10, 100, 1000, 10_000)]
    figure.update_xaxes(
        title_text="step (log scale)",
        tickvals=[math.log10(1 + step) for step in ticks],
        ticktext=[f"{step:,}" for step in ticks],
        tickangle=0,
        automargin=True,
    )
    figure.update_yaxes(title_text="bits per word", automargin=True)
    figure.update_layout(
        height=340,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "xanchor": "left", "x": 0},
    )
    return figure


def caption(found: Differences) -> str:
    """What the difference says, and how far it can be trusted."""
    n = number(found.layers[0].n)
    if found.paired:
        how = (
            f"taken word by word: both sides read the same n = {n} words; the 95 % interval is of drawing other documents "
            "(or sentences, where documents are few), closed form"
        )
    elif found.same_text:
        how = (
            f"n = {n} words, the same sentences on both sides, of which only the sums are kept: the 95 % interval is made as "
            "if the sides were independent, which is wider than it need be. `lab shimmer` keeps what a paired one needs"
        )
    else:
        how = (
            f"n = {n} words or more a side; the sides read different sentences, so part of the difference may be the text's. "
            "The 95 % interval takes them as independent"
        )
    other = "" if found.same_protocol else " The sides were read by different protocols: compare shapes, not heights."
    through = "" if found.same_subspace else " Each side is read through a subspace of its own."
    return (
        f"B less A, {how}.{other}{through} {CONVENTION} Intervals are a layer's own: with many layers one or another "
        "excludes zero by chance. One run a side says nothing about another seed."
    )


def describe(found: Differences) -> str:
    """The figure in one sentence, for a screen reader."""
    most = max(found.layers, key=lambda one: abs(one.value))
    return (
        f"Difference B less A over {len(found.layers)} layers: largest at layer {most.layer}, {most.value:+.3f} bits per "
        f"word, 95 % {most.lo:+.3f} to {most.hi:+.3f}."
    )


def _thin_ticks(figure: go.Figure, apart: float) -> None:
    """Leave out labels that would touch their right neighbour: an axis shared with a longer run has less room."""
    kept: list[tuple[float, str]] = []
    for at, label in sorted(zip(figure.layout.xaxis.tickvals, figure.layout.xaxis.ticktext, strict=True), reverse=True):
        if not kept or kept[-1][0] - at >= apart:
            kept.append((at, label))
    figure.update_xaxes(tickvals=[at for at, _ in kept], ticktext=[label for _, label in kept])


def _span(values: Iterable[float | None]) -> tuple[float, float]:
    known = [float(value) for value in values if value is not None and math.isfinite(value)]
    if not known:
        return 0.0, 1.0
    room = MARGIN * (max(known) - min(known)) or 0.05
    return min(known) - room, max(known) + room
