"""Training curves as Vega-Lite: the rows and the specification, both plain Python.

Vega-Lite and not Plotly, because a chart that is refreshed every few seconds must keep its zoom, and Streamlit mounts
a Plotly chart anew at each refresh. The specification therefore never depends on the data. No Streamlit in here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.figures import GREY, OKABE_ITO

ZOOM = "zoom"
Point = tuple[int, int, float]
"""(segment, step, value), as `Records.series` returns them."""


@dataclass(frozen=True)
class Metric:
    title: str
    unit: str = ""
    form: str = ",.3f"  # of a value, in Python and in d3 alike


METRICS: dict[str, Metric] = {
    "train/loss": Metric("Training loss", "nats per token"),
    "validation/bits_per_byte": Metric("Validation", "bits per byte"),
    "train/lr": Metric("Learning rate", form=".2e"),
    "train/gradient_norm": Metric("Gradient norm, before clipping"),
    "train/tokens_per_second": Metric("Speed", "tokens per second", ",.0f"),
}
"""The curves shown first; any other stored metric is drawn under its own name."""


def metric(name: str) -> Metric:
    return METRICS.get(name, Metric(name, form=",.4g"))


def heading(name: str, points: Sequence[Point]) -> str:
    """What a curve shows, and its newest value, as plain words."""
    shown = metric(name)
    newest = f": {points[-1][2]:{shown.form}} at step {points[-1][1]:,}" if points else ""
    return f"{shown.title}{', ' if shown.unit else ''}{shown.unit}{newest}"


def smooth(values: Sequence[float], weight: float) -> list[float]:
    """Exponential moving average, corrected at the start (Kingma and Ba 2015, section 3); 0 = as it is.

    A value that is not finite leaves the average where it was.

    >>> smooth([1.0, 3.0], 0.5)
    [1.0, 2.3333333333333335]
    """
    total, norm, out = 0.0, 0.0, []
    for value in values:
        if math.isfinite(value):
            total = weight * total + (1 - weight) * value
            norm = weight * norm + (1 - weight)
        out.append(total / norm if norm else math.nan)
    return out


def rows(
    points: Sequence[Point],
    resumes: Sequence[int] = (),
    overtaken: Sequence[Point] = (),
    weight: float = 0.0,
    log: bool = False,
) -> dict[str, list[Any]]:
    """The columns that `specification` draws: kind, step, raw, smooth, segment.

    Args:
        points: the lineage, ascending; at most 2,000 are wanted.
        resumes: steps at which a later segment begins.
        overtaken: history that a resume or a rewind has left behind.
        weight: of the moving average, 0..1.
        log: leave out what a logarithm cannot show.
    """
    smoothed = smooth([value for _, _, value in points], weight)
    drawn = [*points, *overtaken]
    return {
        "kind": ["curve"] * len(points) + ["overtaken"] * len(overtaken) + ["resume"] * len(resumes),
        "step": [*(step for _, step, _ in drawn), *resumes],
        "raw": [*(_drawable(value, log) for _, _, value in drawn), *(None for _ in resumes)],
        "smooth": [*(_drawable(value, log) for value in smoothed), *(None for _ in [*overtaken, *resumes])],
        "segment": [*(f"segment {segment}" for segment, _, _ in drawn), *("" for _ in resumes)],
    }


def specification(name: str, smoothed: bool, log: bool, height: int, legend: bool, overtaken: bool) -> dict[str, Any]:
    """Vega-Lite: raw faint under its moving average, colour = segment, rules where training was resumed."""
    shown = metric(name)
    x = {"field": "step", "type": "quantitative", "title": "step", "axis": {"format": ",d", "tickMinStep": 1}}
    scale = {"type": "log"} if log else {"zero": False}
    y = {"field": "raw", "type": "quantitative", "title": None, "scale": scale}
    colour = {
        "field": "segment",
        "type": "nominal",
        "scale": {"range": list(OKABE_ITO)},
        "legend": {"orient": "top", "title": None, "symbolOpacity": 1} if legend else None,
    }
    curve, tooltip = {"filter": "datum.kind == 'curve'"}, {"field": "step", "type": "quantitative", "format": ",d"}
    layers: list[dict[str, Any]] = [
        {
            "transform": [{"filter": "datum.kind == 'overtaken'"}],
            "mark": {"type": "line", "color": GREY, "strokeDash": [3, 3], "opacity": 0.7},
            "encoding": {"x": x, "y": y, "detail": {"field": "segment"}},
        },
        {
            "transform": [curve],
            "mark": {"type": "line", "strokeWidth": 1 if smoothed else 2, "opacity": 0.35 if smoothed else 1},
            "encoding": {"x": x, "y": y, "color": colour},
        },
        {
            "transform": [{"filter": "datum.kind == 'resume'"}],
            "mark": {"type": "rule", "strokeDash": [6, 4], "color": GREY, "strokeWidth": 1.5},
            "encoding": {"x": x, "tooltip": [{**tooltip, "title": "resumed at step"}]},
        },
        {
            "params": [  # wheel alone must scroll the page; a pinch arrives as ctrl + wheel
                {
                    "name": ZOOM,
                    "select": {"type": "interval", "encodings": ["x"], "zoom": "wheel![event.ctrlKey || event.altKey]"},
                    "bind": "scales",
                }
            ],
            "transform": [curve],
            "mark": {"type": "circle", "opacity": 0, "size": 90},
            "encoding": {
                "x": x,
                "y": y,
                "tooltip": [
                    tooltip,
                    {"field": "raw", "type": "quantitative", "title": "value", "format": shown.form},
                    *([{"field": "smooth", "type": "quantitative", "format": shown.form}] if smoothed else []),
                    {"field": "segment", "type": "nominal"},
                ],
            },
        },
    ]
    if smoothed:
        line = {"mark": {"type": "line", "strokeWidth": 2.5}, "transform": [curve]}
        layers.insert(2, {**line, "encoding": {"x": x, "y": {**y, "field": "smooth"}, "color": colour}})
    return {"height": height, "layer": layers if overtaken else layers[1:]}


def describe(name: str) -> str:
    """Name for a screen reader. It must not hold a number: a chart whose name changes is drawn anew, zoom lost."""
    shown = metric(name)
    return f"{shown.title}{', ' if shown.unit else ''}{shown.unit}, over training steps"


def _drawable(value: float, log: bool) -> float | None:
    return value if math.isfinite(value) and (value > 0 or not log) else None
