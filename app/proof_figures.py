"""Figures of a proof: drift by model with the target, loss above the twins, leak by layer. JSON in, Plotly out.

Pure functions: no Streamlit, no file, no database. Colours as in `figures`; each model differs in its marker too.
"""

from collections.abc import Mapping
from typing import Any

import plotly.graph_objects as go

from app.figures import BLUE, GREEN, GREY, ORANGE, PINK
from app.proof_text import MODELS, TITLES
from probes.concepts.rules import COSTLY_NATS, EXACT_NRMSE, HELD_NRMSE, LEAK_ACCURACY

Json = Mapping[str, Any]
LOOKS = {
    "parent": (GREY, "circle-open"),
    "branch": (BLUE, "circle"),
    "unfrozen": (ORANGE, "square"),
    "random": (PINK, "diamond"),
    "lower": (GREEN, "triangle-up"),
}
_FLOOR = EXACT_NRMSE / 100  # a logarithmic axis has no 0
AT_FLOOR = f"A drift of less, or of exactly 0, stands at {_FLOOR:.0e}."


def drift(proof: Json) -> go.Figure:
    """NRMSE of each model with its interval, on a log axis, beside what counts as held and the mode's own target."""
    figure = _empty("NRMSE of the concept", "of its spread", log=True)
    for name in MODELS:
        found = proof["drift"].get(name)
        if found is None:
            continue
        _point(figure, name, {key: max(found["raw"][key], _FLOOR) for key in ("value", "lo", "hi")})
    _line(figure, HELD_NRMSE, f"held: {HELD_NRMSE:g}")
    if proof["mode"] in ("anchor", "write+anchor") and proof["target"] not in (None, HELD_NRMSE):
        _line(figure, proof["target"], f"target: {proof['target']:g}")
    return figure


def cost(proof: Json) -> go.Figure | None:
    """The branch's loss less each twin's; None without twins."""
    if not any(name in proof["cost"] for name in MODELS):
        return None
    figure = _empty("loss of the branch less the twin's", "nats per token")
    for name in MODELS:
        if name in proof["cost"]:
            _point(figure, name, proof["cost"][name])
    _line(figure, COSTLY_NATS, f"costly: {COSTLY_NATS:g} above random V")
    figure.add_hline(y=0, line={"color": GREY, "width": 1})
    return figure


def leak(proof: Json) -> go.Figure | None:
    """Accuracy of new probes with V projected out, by layer and model; None where nothing was labelled."""
    if proof["leak"] is None:
        return None
    figure = _empty("accuracy outside the concept's subspace", "")
    layers = proof["leak"]["layers"]
    for name in MODELS:
        found = proof["leak"]["models"].get(name)
        if found is None:
            continue
        colour, symbol = LOOKS[name]
        figure.add_trace(
            go.Scatter(
                x=layers,
                y=found["outside"]["accuracy"],
                mode="lines+markers",
                name=TITLES[name],
                line={"color": colour, "dash": "dot" if name == "parent" else "solid"},
                marker={"symbol": symbol, "size": 9},
            )
        )
    figure.update_xaxes(title_text="layer", tickvals=layers)
    figure.update_layout(showlegend=True, legend={"orientation": "h", "y": -0.25})
    if proof["leak"]["excess"]:
        figure.update_layout(
            title_text=f"a leak is {LEAK_ACCURACY:g} above the unfrozen twin, surely", title_font_size=12
        )
    return figure


def _empty(title: str, unit: str, log: bool = False) -> go.Figure:
    axis = {"title": {"text": f"{title}, {unit}" if unit else title}} | (
        {"type": "log", "exponentformat": "power", "dtick": 1} if log else {}
    )
    return go.Figure(
        layout={
            "yaxis": axis,
            "showlegend": False,
            "height": 340,
            "margin": {"l": 60, "r": 20, "t": 40, "b": 40},
            "template": "plotly_white",
        }
    )


def _point(figure: go.Figure, name: str, found: Mapping[str, float]) -> None:
    colour, symbol = LOOKS[name]
    figure.add_trace(
        go.Scatter(
            x=[TITLES[name]],
            y=[found["value"]],
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [found["hi"] - found["value"]],
                "arrayminus": [found["value"] - found["lo"]],
            },
            mode="markers",
            name=TITLES[name],
            marker={"color": colour, "symbol": symbol, "size": 11},
        )
    )


def _line(figure: go.Figure, value: float, text: str) -> None:
    figure.add_hline(y=value, line={"color": GREY, "dash": "dash", "width": 1}, annotation_text=text)
