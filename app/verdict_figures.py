"""From a verdict's readings to figures: differences of depth with the margin, and profiles of A and B.

Pure functions on the stored JSON; no Streamlit, no file. Blue circles are A, orange squares B, dashes the
random-initialisation twin. Words out of a run are escaped: Plotly reads a little HTML in labels, links among it.
"""

import html
import math
from collections.abc import Sequence

import plotly.graph_objects as go

from app.figures import BLUE, GREY, ORANGE, thin
from app.verdict_text import Json, interval, margin, number, readings, short, visible

SIDES = {"a": (BLUE, "circle", "0,114,178"), "b": (ORANGE, "square", "213,94,0")}
AXES = {
    "decode": "usable bits per word",
    "decide": "nats of KL still to go",
    "use": "cost of erasing, nats",
}
"""What stands on the vertical axis when the curve itself does not say."""


def plain(text: str, most: int = 48) -> str:
    """Untrusted words for a figure: nothing in them is markup, and none pushes the plot out of its frame."""
    return html.escape(short(visible(text), most), quote=False)


def differences(verdict: Json) -> go.Figure | None:
    """Depth of B less depth of A in every reading and by every other route, with the margin of "the same depth".

    Thick: 90 % (the interval of the equivalence test); thin: 95 %. None when no reading has a difference.
    """
    rows: list[tuple[str, Json, bool, bool]] = []  # label, interval, whether a reading of its own, whether primary
    for name, evidence in readings(verdict):
        primary = name == verdict["primary"]
        if evidence["delta"] is not None:
            rows.append((f"<b>{plain(name)}</b>" if primary else plain(name), evidence["delta"], True, primary))
        rows += [(f"· {plain(each['name'])}", each, False, False) for each in evidence["variants"]]
    if not any(own for _, _, own, _ in rows):
        return None
    wide = margin(verdict)
    figure = go.Figure()
    figure.add_vrect(x0=-wide, x1=wide, fillcolor=GREY, opacity=0.18, line_width=0, layer="below")
    figure.add_vline(x=0, line={"color": GREY, "width": 1})
    for at, (label, found, own, primary) in enumerate(rows):
        colour = BLUE if own else GREY
        said = f"{label}<br>{interval(found, signed=True)}<extra></extra>"
        for low, high, thick in (("lo", "hi", 2.0), ("lo90", "hi90", 6.0)):
            if low in found:
                _line(figure, [_finite(found[low]), _finite(found[high])], at, colour, thick)
        figure.add_trace(
            go.Scatter(
                x=[_finite(found["value"])],
                y=[at],
                mode="markers",
                name=label,
                showlegend=False,
                hovertemplate=said,
                marker={
                    "symbol": "diamond" if primary else "circle" if own else "circle-open",
                    "size": 14 if primary else 10 if own else 8,
                    "color": colour,
                    "line": {"color": colour, "width": 2},
                },
            )
        )
    ends = [_finite(found[key]) for _, found, _, _ in rows for key in ("lo", "hi")]
    reach = 1.08 * max([2 * wide, *(abs(end) for end in ends if end is not None)])
    title = "Δ: depth of B less depth of A<br>(right: A comes first)"  # in two lines: half a narrow page holds them
    figure.update_xaxes(title_text=title, range=[-reach, reach], zeroline=False)
    _rows_on(figure, [label for label, _, _, _ in rows])
    return _sized(figure, height=112 + 26 * len(rows))


def positions(verdict: Json) -> go.Figure | None:
    """For a claim about A alone: its depth in every reading, and the region that was claimed. None without any depth."""
    rows = [(name, evidence["a"]["depth"]) for name, evidence in readings(verdict) if evidence["a"]["depth"]]
    if not rows:
        return None
    figure = go.Figure()
    region = claimed_region(verdict)
    if region is not None:
        figure.add_vrect(x0=region[0], x1=region[1], fillcolor=GREY, opacity=0.18, line_width=0, layer="below")
    for at, (name, depth) in enumerate(rows):
        primary = name == verdict["primary"]
        _line(figure, [_finite(depth["lo"]), _finite(depth["hi"])], at, BLUE, 2.0)
        figure.add_trace(
            go.Scatter(
                x=[_finite(depth["value"])],
                y=[at],
                mode="markers",
                name=plain(name),
                showlegend=False,
                marker={"symbol": "diamond" if primary else "circle", "size": 14 if primary else 10, "color": BLUE},
                hovertemplate=f"{plain(name)}<br>depth {interval(depth)}<extra></extra>",
            )
        )
    title = "relative depth of A (shaded: the region claimed)"
    figure.update_xaxes(title_text=title, range=[-0.03, 1.03], zeroline=False)
    _rows_on(figure, [f"<b>{plain(n)}</b>" if n == verdict["primary"] else plain(n) for n, _ in rows])
    return _sized(figure, height=96 + 26 * len(rows))


def claimed_region(verdict: Json) -> tuple[float, float] | None:
    """The claim's region in relative depth, as `probes.claims.outcomes.relative_region` tests it; None: it names none."""
    where, layers = verdict["claim"].get("where"), int(verdict["n_layers"])
    if where is None:
        return None
    first, last = float(where["first"]), where["last"]
    if where["unit"] == "depth":
        return first, 1.0 if last is None else float(last)
    if where["unit"] == "top":
        low, high = layers - first, layers - float(last or 0)
    else:
        low, high = first, float(layers if last is None else last)
    return max(0.0, (low - 0.5) / layers), min(1.0, (high + 0.5) / layers)


def profiles(evidence: Json, n_layers: int) -> go.Figure | None:
    """A and B along the layers with their 95 % bands, their twins dashed, and their depths as upright lines.

    Of the reading "use" these are the cost curves of erasing. None when neither side has a curve.
    """
    figure = go.Figure()
    unit = ""
    for letter in SIDES:
        side = evidence[letter]
        if side is None or side["curve"] is None:
            continue
        unit = unit or str(side["curve"]["unit"])
        _profile(figure, side, letter)
        if side["depth"]:
            other = evidence["b" if letter == "a" else "a"]
            beyond = (
                other is not None and other["depth"] is not None and other["depth"]["value"] < side["depth"]["value"]
            )
            _depth(figure, side["depth"], letter, n_layers, right=beyond)
    if not unit:
        return None
    figure.update_xaxes(
        title_text="layer (0 = embedding)", tickvals=thin(list(range(n_layers + 1))), range=[-0.2, n_layers + 0.2]
    )
    figure.update_yaxes(title_text=plain(unit) if unit else AXES.get(evidence["reading"], ""))
    if evidence["reading"] == "use":
        figure.add_hline(y=0, line={"color": GREY, "width": 1})
    return _sized(figure, height=330)


def over_checkpoints(evidence: Json) -> go.Figure | None:
    """Bits of the best layer of A and of B at every checkpoint read, with 95 % bars. None when it is no series."""
    series = evidence["settings"].get("series")
    if not series:
        return None
    figure = go.Figure()
    for (subject, points), (colour, symbol, _) in zip(series.items(), SIDES.values(), strict=False):
        bits = [point["bits"] for point in points]
        figure.add_trace(
            go.Scatter(
                x=[point["step"] for point in points],
                y=[_finite(one["value"]) for one in bits],
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [one["hi"] - one["value"] for one in bits],
                    "arrayminus": [one["value"] - one["lo"] for one in bits],
                },
                mode="lines+markers",
                name=plain(subject, 28),
                line={"color": colour, "width": 2.5},
                marker={"symbol": symbol, "size": 8},
                customdata=[interval(one) for one in bits],
                hovertemplate="step %{x:,}: %{customdata}<extra></extra>",
            )
        )
    figure.update_xaxes(title_text="step")
    figure.update_yaxes(title_text="usable bits per word, best layer", rangemode="tozero")
    return _sized(figure, height=330)


def describe(verdict: Json) -> str:
    """The figure of differences in one sentence, for a screen reader."""
    said = [
        f"{name} {interval(evidence['delta'], signed=True)}"
        for name, evidence in readings(verdict)
        if evidence["delta"] is not None
    ]
    wide = number(margin(verdict))
    return visible(f"Depth of B less depth of A: {'; '.join(said) or 'none'}. The same depth is within {wide}.")


def _profile(figure: go.Figure, side: Json, letter: str) -> None:
    colour, symbol, rgb = SIDES[letter]
    curve, name = side["curve"], f"{letter.upper()}: {plain(side['subject'], 28)}"
    layers = list(curve["layers"])
    for bound, fill in (("hi", None), ("lo", "tonexty")):
        figure.add_trace(
            go.Scatter(
                x=layers,
                y=[_finite(value) for value in curve[bound]],
                mode="lines",
                line={"width": 0},
                fill=fill,
                fillcolor=f"rgba({rgb},0.2)",
                showlegend=False,
                hoverinfo="skip",
            )
        )
    figure.add_trace(
        go.Scatter(
            x=layers,
            y=[_finite(value) for value in curve["value"]],
            mode="lines+markers",
            name=name,
            line={"color": colour, "width": 2.5},
            marker={"symbol": symbol, "size": 7},
            customdata=[
                [number(value), number(lo), number(hi)]
                for value, lo, hi in zip(curve["value"], curve["lo"], curve["hi"], strict=True)
            ],
            hovertemplate=f"{name}<br>layer %{{x}}: %{{customdata[0]}}"
            "<br>95 % %{customdata[1]} to %{customdata[2]}<extra></extra>",
        )
    )
    if curve["baseline"] is not None:
        figure.add_trace(
            go.Scatter(
                x=layers,
                y=[_finite(value) for value in curve["baseline"]],
                mode="lines",
                name=f"{letter.upper()}, never-trained twin",
                line={"color": colour, "width": 1.5, "dash": "dash"},
                customdata=[number(value) for value in curve["baseline"]],
                hovertemplate="layer %{x}: twin %{customdata}<extra></extra>",
            )
        )


def _depth(figure: go.Figure, depth: Json, letter: str, n_layers: int, right: bool) -> None:
    """The upright of a depth; its letter stands on the side away from the other's, which may be near."""
    colour, _, rgb = SIDES[letter]
    value, lo, hi = (_finite(depth[key]) for key in ("value", "lo", "hi"))
    if value is None or lo is None or hi is None:
        return
    figure.add_vrect(x0=lo * n_layers, x1=hi * n_layers, fillcolor=f"rgba({rgb},0.12)", line_width=0, layer="below")
    figure.add_vline(
        x=value * n_layers,
        line={"color": colour, "width": 1.5, "dash": "dot"},
        annotation={
            "text": letter.upper(),
            "font": {"color": colour, "size": 14},
            "yanchor": "top",
            "xanchor": "left" if right else "right",
            "xshift": 2 if right else -2,
        },
    )


def _line(figure: go.Figure, ends: Sequence[float | None], at: int, colour: str, thick: float) -> None:
    figure.add_trace(
        go.Scatter(
            x=list(ends),
            y=[at, at],
            mode="lines",
            line={"color": colour, "width": thick},
            showlegend=False,
            hoverinfo="skip",
        )
    )


def _rows_on(figure: go.Figure, labels: Sequence[str]) -> None:
    figure.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=list(labels),
        range=[len(labels) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )


def _sized(figure: go.Figure, height: int) -> go.Figure:
    legend = {"orientation": "h", "yanchor": "bottom", "y": 1.02, "xanchor": "left", "x": 0, "traceorder": "normal"}
    figure.update_layout(height=height, margin={"l": 10, "r": 10, "t": 10, "b": 10}, legend=legend, dragmode=False)
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    return figure


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
