"""Contrasts and their power, markers over steps and the rungs of surfacing, as figures: pure functions of data.

Words out of a run are escaped: Plotly reads a little HTML in labels. No rate without its interval.
"""

from collections.abc import Sequence

import plotly.graph_objects as go

from app.behaviour import Seen
from app.behaviour_figures import sized
from app.behaviour_reports import Contrasts, Ladder
from app.behaviour_text import in_words
from app.figures import BLUE, GREEN, GREY, ORANGE, PINK
from app.verdict_figures import plain
from probes.behaviour.contrasts import ALERT, CRITICAL

COLOURS = {"confirmed": PINK, "to confirm": ORANGE, "contrast": ORANGE}
SIZES = (BLUE, GREEN, ORANGE)


def gaps(battery: Contrasts) -> go.Figure:
    """The gap of every pair in points, with its Holm-corrected interval; dotted: 3 points alert, 5 may be critical."""
    rows = sorted(battery.gaps, key=lambda one: one.gap[0])
    figure = go.Figure(
        go.Scatter(
            x=[100 * one.gap[0] for one in rows],
            y=list(range(len(rows))),
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [100 * (one.gap[2] - one.gap[0]) for one in rows],
                "arrayminus": [100 * (one.gap[0] - one.gap[1]) for one in rows],
                "color": GREY,  # markers of several colours leave bars black, which a dark page swallows
                "thickness": 1.5,
                "width": 4,
            },
            mode="markers",
            marker={"size": 10, "color": [COLOURS.get(one.verdict, BLUE) for one in rows]},
            customdata=[[plain(one.verdict), in_words(one.first), in_words(one.second)] for one in rows],
            hovertemplate="%{x:+.1f} points: %{customdata[0]}<br>first phrase %{customdata[1]}"
            "<br>second phrase %{customdata[2]}<extra></extra>",
            showlegend=False,
        )
    )
    for limit in (ALERT, CRITICAL):
        figure.add_vline(x=100 * limit, line={"color": GREY, "width": 1, "dash": "dot"})
    figure.add_vline(x=0, line={"color": GREY, "width": 1})
    names = [plain(one.pair) for one in rows]
    figure.update_xaxes(title_text="more hostile answers after one phrase than the other, points", zeroline=False)
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=names, range=[-0.6, len(rows) - 0.4], zeroline=False)
    return sized(figure, 120 + 30 * len(rows))


def power(battery: Contrasts) -> go.Figure | None:
    """How often a gap of this size would have been critical, at the base rate that was found; None where nobody asked."""
    if not battery.power:
        return None
    figure = go.Figure()
    for at, size in enumerate(sorted({size for _, size, _ in battery.power})):
        points = sorted((gap, rate) for gap, own, rate in battery.power if own == size)
        figure.add_trace(
            go.Scatter(
                x=[100 * gap for gap, _ in points],
                y=[rate.value for _, rate in points],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [rate.hi - rate.value for _, rate in points],
                    "arrayminus": [rate.value - rate.lo for _, rate in points],
                },
                mode="lines+markers",
                name=f"{size:,} answers an arm",
                line={"color": SIZES[at % len(SIZES)], "width": 2},
                customdata=[[in_words(rate)] for _, rate in points],
                hovertemplate="a gap of %{x:.0f} points: %{customdata[0]}<extra></extra>",
            )
        )
    figure.update_xaxes(title_text="planted gap, points", rangemode="tozero")
    figure.update_yaxes(title_text="found critical", tickformat=".0%", range=[-0.03, 1.05], zeroline=False)
    figure.update_layout(showlegend=True)
    return sized(figure, 260)


def markers(found: Sequence[Seen]) -> go.Figure | None:
    """Where each marker was seen; None where none was."""
    rows = [one for one in found if one.instrument == "markers"]
    if not rows:
        return None
    names = sorted({one.rule for one in rows}, reverse=True)
    figure = go.Figure(
        go.Scatter(
            x=[one.step for one in rows],
            y=[names.index(one.rule) for one in rows],
            mode="markers",
            marker={
                "size": 10,
                "symbol": ["circle" if "not asked for" in one.text else "circle-open" for one in rows],
                "color": BLUE,
            },
            customdata=[[plain(one.text)] for one in rows],
            hovertemplate="step %{x:,}: %{customdata[0]}<extra></extra>",
            showlegend=False,
        )
    )
    figure.update_xaxes(title_text="step", tickformat=",d", rangemode="tozero", zeroline=False)
    ticks = [plain(name) for name in names]
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=ticks, range=[-0.6, len(names) - 0.4], zeroline=False
    )
    return sized(figure, 110 + 30 * len(names))


def rungs(ladder: Ladder) -> go.Figure | None:
    """Texts with words that only the introduced text has, before and after, with Wilson intervals; None without rates."""
    shown = [one for one in ladder.rungs if one.after is not None]
    if not shown:
        return None
    figure = go.Figure()
    for shift, colour, words, pick in ((-0.15, GREY, "before", "before"), (0.15, BLUE, "after", "after")):
        rates = [(at, rate) for at, one in enumerate(shown) if (rate := getattr(one, pick)) is not None]
        figure.add_trace(
            go.Scatter(
                x=[at + shift for at, _ in rates],
                y=[rate.value for _, rate in rates],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [rate.hi - rate.value for _, rate in rates],
                    "arrayminus": [rate.value - rate.lo for _, rate in rates],
                    "thickness": 1.5,
                    "width": 4,
                },
                mode="markers",
                name=f"{words}, step {ladder.steps[0 if pick == 'before' else 1]:,}",
                marker={"size": 10, "color": colour},
                customdata=[[in_words(rate)] for _, rate in rates],
                hovertemplate="%{customdata[0]}<extra></extra>",
            )
        )
    figure.update_xaxes(tickvals=list(range(len(shown))), ticktext=[one.name for one in shown], zeroline=False)
    top = max(rate.hi for one in shown for rate in (one.before, one.after) if rate is not None)
    figure.update_yaxes(tickformat=".0%", range=[-0.05 * top, 1.1 * top], zeroline=False)  # a point at 0 is seen whole
    figure.update_layout(showlegend=True)
    return sized(figure, 260)


def describe_gaps(battery: Contrasts) -> str:
    """The figure in a sentence, for a screen reader."""
    most = max(battery.gaps, key=lambda one: one.gap[0])
    value, low, high = (100 * part for part in most.gap)
    return (
        f"{len(battery.gaps)} pairs at step {battery.step:,}; the largest gap is {plain(most.pair)}: {value:+.1f} points "
        f"({low:+.1f} to {high:+.1f}), {plain(most.verdict)}."
    )
