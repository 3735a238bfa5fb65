"""Training curves as Vega-Lite: the rows and the specification, both plain Python.

Vega-Lite and not Plotly, because a chart that is refreshed every few seconds must keep its zoom, and Streamlit mounts
a Plotly chart anew at each refresh. The specification therefore never depends on the data. No Streamlit in here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.figures import GREY, SEGMENT_COLOURS

Point = tuple[int, int, float]
"""(segment, step, value), as `Records.series` returns them."""


@dataclass(frozen=True)
class Metric:
    title: str
    unit: str
    number: str = ",.3f"  # d3 format of a value


METRICS: dict[str, Metric] = {
    "train/loss": Metric("Training loss", "nats per token"),
    "validation/bits_per_byte": Metric("Validation", "bits per byte"),
    "train/lr": Metric("Learning rate", "per step", ".2~e"),
    "train/gradient_norm": Metric("Gradient norm, before clipping", "norm"),
    "train/tokens_per_second": Metric("Speed", "tokens per second", ",.0f"),
}
"""The curves shown first; any other stored metric is drawn under its own name."""


def metric(name: str) -> Metric:
    return METRICS.get(name, Metric(name, name.rsplit("/", 1)[-1].replace("_", " "), ",.4~g"))


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
    table: dict[str, list[Any]] = {"kind": [], "step": [], "raw": [], "smooth": [], "segment": []}

    def add(kind: str, step: int, raw: float | None, smoothed: float | None, segment: str) -> None:
        for column, entry in zip(table, (kind, step, raw, smoothed, segment), strict=True):
            table[column].append(entry)

    for (segment, step, value), smoothed in zip(points, smooth([p[2] for p in points], weight), strict=True):
        add("curve", step, _drawable(value, log), _drawable(smoothed, log), f"segment {segment}")
    for segment, step, value in overtaken:
        add("overtaken", step, _drawable(value, log), None, f"segment {segment}")
    for step in resumes:
        add("resume", step, None, None, "")
    return table


def specification(name: str, smoothed: bool, log: bool, height: int = 220) -> dict[str, Any]:
    """Vega-Lite: raw faint under its moving average, colour = segment, rules where training was resumed."""
    shown = metric(name)
    x = {"field": "step", "type": "quantitative", "title": "step", "axis": {"format": ",d", "tickMinStep": 1}}
    scale = {"type": "log"} if log else {"zero": False}
    y = {"field": "raw", "type": "quantitative", "title": shown.unit, "scale": scale}
    colour = {
        "field": "segment",
        "type": "nominal",
        "scale": {"range": list(SEGMENT_COLOURS)},
        "legend": {"orient": "top", "title": None},
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
                    "name": "zoom",
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
                    {"field": "raw", "type": "quantitative", "title": shown.unit, "format": shown.number},
                    *([{"field": "smooth", "type": "quantitative", "format": shown.number}] if smoothed else []),
                    {"field": "segment", "type": "nominal"},
                ],
            },
        },
    ]
    if smoothed:
        line = {"mark": {"type": "line", "strokeWidth": 2.5}, "transform": [curve]}
        layers.insert(2, {**line, "encoding": {"x": x, "y": {**y, "field": "smooth"}, "color": colour}})
    return {
        "title": {"text": shown.title, "anchor": "start"},
        "height": height,
        "layer": layers,
    }


def describe(name: str, points: Sequence[Point]) -> str:
    """The curve in one sentence, for a screen reader."""
    shown = metric(name)
    if not points:
        return f"{shown.title}: nothing recorded yet."
    (_, first, start), (_, last, end) = points[0], points[-1]
    return f"{shown.title} in {shown.unit}: from {start:.4g} at step {first} to {end:.4g} at step {last}."


def _drawable(value: float, log: bool) -> float | None:
    return value if math.isfinite(value) and (value > 0 or not log) else None
