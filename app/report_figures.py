"""A training curve as a Plotly figure, for a report that stands still: raw faint, its moving average, resumes marked.

The app draws the same points with Vega-Lite (`curves`), which keeps its zoom while a run trains. Pure: data in, figure out.
"""

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from app.curves import Point, metric, smooth
from app.figures import BLUE, GREY

FEW = 40  # points; fewer are drawn as they are, each with its marker
NOISY = (
    "train/loss",
    "train/gradient_norm",
    "train/tokens_per_second",
)  # a schedule is smooth, an average would bend it


def curve(name: str, points: Sequence[Point], resumes: Sequence[int], weight: float = 0.9) -> go.Figure:
    """One metric over steps.

    Args:
        points: (segment, step, value), ascending along the newest history.
        resumes: steps whose weights a later segment began with, each a dashed upright.
        weight: of the moving average over many points of a noisy metric, 0..1.
    """
    shown, many, noisy = metric(name), len(points) > FEW, name in NOISY and len(points) > FEW
    steps = [step for _, step, _ in points]
    values = [value if math.isfinite(value) else None for _, _, value in points]
    about = f"step %{{x:,}}: %{{y:{shown.form}}}<extra></extra>"
    figure = go.Figure()
    figure.add_trace(
        go.Scatter(
            x=steps,
            y=values,
            mode="lines" if many else "lines+markers",
            name="as recorded",
            line={"color": BLUE, "width": 1 if noisy else 2},
            opacity=0.35 if noisy else 1,
            hovertemplate=about,
        )
    )
    if noisy:
        smoothed = smooth([value for _, _, value in points], weight)
        line = {"color": BLUE, "width": 2.5}
        label = f"moving average, weight {weight:g}"
        figure.add_trace(go.Scatter(x=steps, y=smoothed, mode="lines", name=label, line=line, hovertemplate=about))
    for step in resumes:
        figure.add_vline(x=step, line={"color": GREY, "dash": "dash", "width": 1.5}, annotation_text="resumed")
    figure.update_xaxes(title_text="step", tickformat=",d")
    figure.update_yaxes(title_text=shown.unit or shown.title)
    figure.update_layout(
        height=300,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "xanchor": "left", "x": 0},
        showlegend=noisy,
    )
    return figure.update_xaxes(automargin=True).update_yaxes(automargin=True)
