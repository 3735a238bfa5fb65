"""Figures of a concept's card: its classes along the first coordinate, and its bits over the layers. Data in, Plotly out.

Pure functions: no Streamlit, no file. Colours as in `figures`; classes differ in their dashes too. Names are escaped, since
Plotly reads a little HTML in labels.
"""

from __future__ import annotations

import plotly.graph_objects as go

from app.concept_card import Card, Histogram, Profile
from app.figures import OKABE_ITO, Cell, over_layers
from app.shimmer_figures import MARKS
from app.verdict_figures import plain
from app.verdict_text import number, visible

FEW = 4  # classes drawn as lines, each with a colour of its own; more become rows of a map
DASHES = ("solid", "dash", "dot", "dashdot")
FILLS = ("rgba(0,114,178,.18)", "rgba(213,94,0,.18)", "rgba(0,158,115,.18)", "rgba(204,121,167,.18)")
LAYERS = "layer 0 is the embedding sum, layer l the residual stream after block l, before the final norm"


def histogram(found: Histogram) -> go.Figure:
    """Where the words of each class lie along the first coordinate: the share of the class in each bin."""
    figure = _along(found) if len(found.counts) <= FEW else _map(found)
    figure.update_xaxes(title_text="first coordinate", showgrid=False, zeroline=False, automargin=True)
    figure.update_yaxes(automargin=True)
    figure.update_layout(
        height=340 if len(found.counts) <= FEW else min(900, 120 + 22 * len(found.counts)),
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "xanchor": "left", "x": 0},
    )
    return figure


def profile(found: Profile, step: int, layer: int) -> go.Figure:
    """Usable bits of the labels at every layer with their 95 % interval; the concept's own layer is ringed."""
    rows = zip(found.layers, found.value, found.low, found.high, strict=True)
    return over_layers([Cell(step, at, value, low, high, found.n) for at, value, low, high in rows], step, layer)


def readable(figure: go.Figure) -> go.Figure:
    """A shimmer map whose marks can be seen on bright cells as on dark ones, and its legend in either theme."""
    for trace in [one for one in figure.data if one.name == MARKS["changes"][1]]:
        halo = go.Scatter(trace).update(showlegend=False, marker_line_color="#111", marker_line_width=6)
        figure.add_trace(halo)
        figure.data = (*(one for one in figure.data if one is not trace), trace)  # drawn over its halo
    return figure.update_layout(legend_font_color="#111")


def fitted(figure: go.Figure) -> go.Figure:
    """A figure of a proof in a third of the page: titles that fit, and the legend above the axes."""
    figure.update_layout(height=400, title_text="", margin={"l": 10, "r": 10, "t": 30, "b": 10})
    figure.update_layout(legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "xanchor": "left", "x": 0})
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True, title_font_size=12)
    return figure


def histogram_caption(card: Card) -> str:
    found = card.details.histogram
    words = 0 if found is None else sum(sum(row) for row in found.counts.values())
    return (
        f"Words of the text it was found in, by their place along the first column of the subspace: each class on its own "
        f"scale, n = {number(words)} words, layer {card.layer}, step {number(card.checkpoint.step)}. What lies beyond the "
        "axis is in its outermost bins."
    )


def profile_caption(card: Card) -> str:
    n = 0 if card.details.profile is None else card.details.profile.n
    return (
        f"What a linear probe of the whole stream saves over the base rates, out of fold: n = {number(n)} words, step "
        f"{number(card.checkpoint.step)}, band = 95 %; {LAYERS}. Ringed: the layer that the concept was found at. Linearly "
        "readable is not used."
    )


def describe_histogram(found: Histogram) -> str:
    """In words, for a screen reader."""
    middles = []
    for name, row in found.counts.items():
        total, below = sum(row), 0
        for at, count in enumerate(row):
            below += count
            if total and 2 * below >= total:
                middles.append(
                    f"{visible(name)} about {(found.edges[at] + found.edges[at + 1]) / 2:.2f} (n = {total:,})"
                )
                break
    return f"Histogram along the first coordinate. Half of each class lies below: {', '.join(middles) or 'no words'}."


def describe_profile(found: Profile) -> str:
    best = max(range(len(found.layers)), key=lambda at: found.value[at])
    return (
        f"Bits per word over layers {found.layers[0]} to {found.layers[-1]}: most at layer {found.layers[best]}, "
        f"{found.value[best]:.3f}, 95 % {found.low[best]:.3f} to {found.high[best]:.3f}."
    )


def _along(found: Histogram) -> go.Figure:
    figure = go.Figure()
    for at, (name, row) in enumerate(found.counts.items()):
        total = sum(row)
        shares = [count / max(1, total) for count in row]
        figure.add_trace(
            go.Scatter(
                x=found.edges,
                y=[*shares, shares[-1]],
                customdata=[*row, row[-1]],
                mode="lines",
                line={"shape": "hv", "color": OKABE_ITO[at], "dash": DASHES[at], "width": 2},
                fill="tozeroy",
                fillcolor=FILLS[at],
                name=f"{plain(name)}, n = {total:,}",
                hovertemplate="from %{x:.2f}: %{customdata:,} words, %{y:.1%}<extra>%{fullData.name}</extra>",
            )
        )
    figure.update_yaxes(title_text="share of the class", tickformat=".0%", rangemode="tozero")
    return figure


def _map(found: Histogram) -> go.Figure:
    names = list(found.counts)
    totals = [sum(found.counts[name]) for name in names]
    figure = go.Figure(
        go.Heatmap(
            x=found.edges,
            y=list(range(len(names))),
            z=[[count / max(1, total) for count in found.counts[n]] for n, total in zip(names, totals, strict=True)],
            customdata=[found.counts[name] for name in names],
            colorscale="Cividis",
            zmin=0,
            ygap=1,
            colorbar={"title": {"text": "share of the class", "side": "right"}, "tickformat": ".0%", "thickness": 14},
            hovertemplate="%{x:.2f}: %{customdata:,} words, %{z:.1%}<extra></extra>",
        )
    )
    ticks = [f"{plain(name)}, n = {total:,}" for name, total in zip(names, totals, strict=True)]
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=ticks, showgrid=False, autorange="reversed")
    return figure
