"""From rates to figures: rates over steps with their Wilson intervals, broken where the protocol changes; alarms by rule.

Pure functions: no Streamlit, no file, no database. A rate is never drawn without its interval, and points of two regimes are
never joined. Words out of a run are escaped: Plotly reads a little HTML in labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from app.behaviour import Alarms
from app.behaviour_text import in_words
from app.figures import BLUE, GREEN, GREY, ORANGE, PINK
from app.verdict_figures import plain
from probes.behaviour.rates import Rate

LOOKS = {False: (BLUE, "circle", 9, "no system prompt"), True: (ORANGE, "square-open", 13, "with system prompt")}
SERIES = (BLUE, ORANGE, GREEN, PINK)
SYMBOLS = ("circle", "square", "diamond", "triangle-up")
LEAST_TOP = 0.1  # of the axis: a rate of 1 % must not look like a tower


@dataclass(frozen=True)
class Point:
    """One rate at one step, under one regime; `system`: it was asked with a system prompt."""

    step: int
    regime: int | None
    rate: Rate
    system: bool = False


def over_steps(
    points: Sequence[Point], chosen: tuple[int, int | None] | None = None, reference: tuple[int, Rate] | None = None
) -> go.Figure:
    """One rate through training: bars are 95 % Wilson intervals, uprights are new regimes, the band is the reference.

    Args:
        chosen: step and regime of the point that is ringed.
        reference: the reference checkpoint's step and rate under the same protocol.
    """
    figure = go.Figure()
    regimes: dict[int | None, list[Point]] = {}
    for point in sorted(points, key=lambda one: one.step):
        regimes.setdefault(point.regime, []).append(point)
    first = min((point.step for point in points), default=0)
    if reference is not None:
        _level(figure, *reference)
    for step in sorted({found[0].step for found in regimes.values()} - {first}):
        figure.add_vline(x=step, line={"color": GREY, "width": 1, "dash": "dot"})
    both = len({point.system for point in points}) > 1
    named: set[bool] = set()
    for regime, found in regimes.items():
        colour, symbol, size, words = LOOKS[found[0].system]
        figure.add_trace(
            go.Scatter(
                x=[point.step for point in found],
                y=[point.rate.value for point in found],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [point.rate.hi - point.rate.value for point in found],
                    "arrayminus": [point.rate.value - point.rate.lo for point in found],
                    "thickness": 1.5,
                    "width": 4,
                },
                mode="lines+markers",
                name=words,
                legendgroup=words,
                showlegend=both and found[0].system not in named,
                line={"color": colour, "width": 2},
                marker={"symbol": symbol, "size": size, "line": {"width": 2 if found[0].system else 0}},
                customdata=[[in_words(point.rate), "–" if regime is None else regime] for point in found],
                hovertemplate="step %{x:,}: %{customdata[0]}<br>regime %{customdata[1]}<extra></extra>",
            )
        )
        named.add(found[0].system)
    ringed = [point for point in points if (point.step, point.regime) == chosen]
    figure.add_trace(
        go.Scatter(
            x=[point.step for point in ringed],
            y=[point.rate.value for point in ringed],
            mode="markers",
            name="chosen",
            showlegend=False,
            hoverinfo="skip",
            marker={"size": 17, "color": "rgba(0,0,0,0)", "line": {"color": PINK, "width": 3}},
        )
    )
    highest = [point.rate.hi for point in points] + ([reference[1].hi] if reference else [])
    top = min(1.0, max([LEAST_TOP, *highest]))
    last = max((point.step for point in points), default=0)
    figure.update_xaxes(title_text="step", tickformat=",d", range=[-0.03 * last - 1, 1.04 * last + 1], zeroline=False)
    figure.update_yaxes(tickformat=".0%", range=[-0.06 * top, 1.05 * top], zeroline=False)
    return sized(figure, 290)


def alarms_by_rule(found: Sequence[Alarms]) -> go.Figure | None:
    """Alarms per 1,000 checks, one row a rule, one mark an interval; None where nothing was checked."""
    if not found:
        return None
    rules = sorted({one.rule for one in found}, reverse=True)
    intervals = sorted({one.every for one in found})
    figure = go.Figure()
    for at, every in enumerate(intervals):
        here = [one for one in found if one.every == every]
        colour, symbol = SERIES[at % len(SERIES)], SYMBOLS[at % len(SYMBOLS)]
        shift = (at - (len(intervals) - 1) / 2) * 0.7 / max(1, len(intervals))
        rates = [one.rate.per_thousand for one in here]
        figure.add_trace(
            go.Scatter(
                x=[rate.value for rate in rates],
                y=[rules.index(one.rule) - shift for one in here],
                error_x={
                    "type": "data",
                    "symmetric": False,
                    "array": [rate.hi - rate.value for rate in rates],
                    "arrayminus": [rate.value - rate.lo for rate in rates],
                    "thickness": 1.5,
                    "width": 4,
                },
                mode="markers",
                name=f"every {every:,} steps",
                marker={"symbol": symbol, "size": 9, "color": colour},
                customdata=[
                    [plain(one.rule), one.rate.count, one.rate.checks, r.lo, r.hi]
                    for one, r in zip(here, rates, strict=True)
                ],
                hovertemplate="%{customdata[0]}: %{x:.1f} (95 % %{customdata[3]:.1f} to %{customdata[4]:.1f})"
                "<br>%{customdata[1]:,} of %{customdata[2]:,} checks<extra></extra>",
            )
        )
    figure.update_xaxes(title_text="alarms per 1,000 checks", rangemode="tozero", zeroline=False)
    figure.update_yaxes(
        tickvals=list(range(len(rules))),
        ticktext=[plain(rule) for rule in rules],
        range=[-0.6, len(rules) - 0.4],
        zeroline=False,
    )
    figure.update_layout(showlegend=True)
    return sized(figure, 110 + 30 * len(rules))


def describe(name: str, points: Sequence[Point], reference: tuple[int, Rate] | None = None) -> str:
    """The figure in a sentence or two, for a screen reader."""
    if not points:
        return f"{name}: no rate yet."
    newest = max(points, key=lambda one: one.step)
    regimes = len({point.regime for point in points})
    beside = "" if reference is None else f" At the reference, step {reference[0]:,}: {in_words(reference[1])}."
    return (
        f"{name}, newest at step {newest.step:,}: {in_words(newest.rate)}. {len(points)} points under {regimes} "
        f"regime{'' if regimes == 1 else 's'}.{beside}"
    )


def _level(figure: go.Figure, step: int, rate: Rate) -> None:
    figure.add_hrect(y0=rate.lo, y1=rate.hi, fillcolor=GREEN, opacity=0.16, line_width=0, layer="below")
    figure.add_hline(
        y=rate.value,
        line={"color": GREEN, "width": 2, "dash": "dash"},
        annotation={"text": f"reference, step {step:,}", "font": {"color": GREEN}},
        annotation_position="top left",
    )


def sized(figure: go.Figure, height: int) -> go.Figure:
    """The margins, legend and hovering that figures of rates share."""
    figure.update_layout(
        height=height,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        hovermode="closest",
        dragmode=False,
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "xanchor": "left", "x": 0},
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    return figure
