"""Shimmer as a figure: bits of every track over log steps, with births, deaths, flips and change points marked.

Pure functions from what `lab shimmer --json` prints to Plotly: no Streamlit, no file, no torch. States differ in symbol and
word, not in colour alone. Names out of a run are escaped: Plotly reads a little HTML in labels.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from app.figures import log_ticks
from app.verdict_figures import plain

Json = Mapping[str, Any]
MARKS = {  # what is marked -> (symbol, words)
    "births": ("triangle-up", "born: lower 95 % bound above .05 bits at two checkpoints in a row"),
    "deaths": ("triangle-down", "died: upper 95 % bound below .02 bits"),
    "flips": ("x", "direction turned round"),
    "changes": ("line-ns", "level changes (found in at least half of the bootstrap series)"),
}
LETTERS = {"ABSENT": "", "BORN": "B", "GROWING": "↗", "STABLE": "–", "FADING": "↘", "FLICKER": "~", "DEAD": "†"}
STABLE_ENOUGH = 0.5  # share of bootstrap series for a change point to be drawn


def title(track: Json) -> str:
    """`class.next @ 3`, inert."""
    return f"{plain(str(track['name']))} @ {track['layer']}"


def heat_map(tracks: Sequence[Json]) -> go.Figure:
    """Track by log step, colour = usable bits per word; a letter in each cell is its state, marks are events.

    Args:
        tracks: `Shimmering.to_dict()["tracks"]`; those at the top are drawn at the top.
    """
    steps = sorted({point["step"] for track in tracks for point in track["points"]})
    place = {step: math.log10(1 + step) for step in steps}
    rows = list(range(len(tracks)))[::-1]  # Plotly counts upwards
    known = [p["bits"] for track in tracks for p in track["points"] if p["bits"] is not None]
    bits: list[list[float | None]] = []
    letters: list[list[str]] = []
    told: list[list[str]] = []
    for track in tracks:
        at = {point["step"]: point for point in track["points"]}
        bits.append([at[step]["bits"] if step in at else None for step in steps])
        letters.append([LETTERS[at[step]["state"]] if step in at else "" for step in steps])
        told.append([_told(track, at[step]) if step in at else "no reading" for step in steps])
    figure = go.Figure(
        go.Heatmap(
            z=bits,
            x=[place[step] for step in steps],
            y=rows,
            zmin=min([0.0, *known]),
            zmax=max([0.05, *known]),  # a map of noise around zero must not look like a map of findings
            colorscale="Cividis",
            colorbar={"title": {"text": "bits per word", "side": "right"}, "thickness": 14},
            ygap=2,
            text=letters,
            texttemplate="%{text}",
            customdata=told,
            hovertemplate="%{customdata}<extra></extra>",
        )
    )
    for what, (symbol, words) in MARKS.items():
        spots = [(x, row) for row, track in zip(rows, tracks, strict=True) for x in _events(track, what, place)]
        if spots:
            figure.add_trace(
                go.Scatter(
                    x=[x for x, _ in spots],
                    y=[row + (0.0 if what == "changes" else 0.32) for _, row in spots],
                    mode="markers",
                    name=words,
                    hoverinfo="skip",
                    marker={
                        "symbol": symbol,
                        "size": 18 if what == "changes" else 10,
                        "color": "white",
                        "line": {"color": "white" if what == "changes" else "black", "width": 2},
                    },
                )
            )
    ticks = log_ticks(steps)
    figure.update_xaxes(
        title_text="step (log scale)",
        tickvals=[math.log10(1 + t) for t in ticks],
        ticktext=[f"{t:,}" for t in ticks],
        range=_ends([place[step] for step in steps]),
        showgrid=False,
        zeroline=False,
        automargin=True,
    )
    figure.update_yaxes(
        tickvals=rows,
        ticktext=[f"{title(track)}  {track['state']}" for track in tracks],
        range=[-0.5, len(tracks) - 0.5],
        showgrid=False,
        zeroline=False,
        automargin=True,
    )
    figure.update_layout(
        height=min(1600, 190 + 34 * len(tracks)),
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        plot_bgcolor="#444",
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "xanchor": "left", "x": 0, "bgcolor": "#999"},
    )
    return figure


def caption(found: Json) -> str:
    """What the map says and does not say.

    Args:
        found: `Shimmering.to_dict()`.
    """
    steps = found["steps"]
    words = sorted({track["n"] for track in found["tracks"]})
    n = " to ".join(f"{each:,}" for each in (words if len(words) < 2 else [words[0], words[-1]])) or "no"
    return (
        f"Usable bits per word of each label at each layer, read out of fold from n = {n} words of one fixed probe set, "
        f"over {len(steps)} checkpoints ({_span(steps)}). Letters: B born, too few checkpoints for a trend; ↗ growing; "
        f"– stable; ↘ fading (Mann-Kendall over the newest {found['window']} checkpoints at 5 %, and worth at least .02 "
        "bits); ~ flicker: died and was born again within that many checkpoints; † dead; none: not there yet. Standard "
        "errors are of the sampling of sentences; the same sentences are read every time, so neighbours share most of "
        "theirs, and one run says nothing about another seed. A bright cell is linearly readable, not used; stable bits do "
        "not mean an unmoved direction."
    )


def describe(found: Json) -> str:
    """The figure in words, for a screen reader."""
    states: dict[str, list[str]] = {}
    for track in found["tracks"]:
        states.setdefault(track["state"], []).append(title(track))
    parts = [f"{state}: {', '.join(names)}" for state, names in states.items()]
    return f"States at step {found['steps'][-1]:,}. " + "; ".join(parts) + "." if found["steps"] else "No checkpoints."


def _events(track: Json, what: str, place: Mapping[int, float]) -> list[float]:
    """Where on the axis; a change of level lies between two checkpoints."""
    if what != "changes":
        return [place[step] for step in track[what]]
    stable = [one for one in track["change_points"] if one["stability"] >= STABLE_ENOUGH]
    return [(place[one["before"]] + place[one["step"]]) / 2 for one in stable]


def _ends(places: Sequence[float]) -> list[float] | None:
    """Where the first cell begins and the last one ends, as Plotly draws them: edges lie in the middle."""
    if len(places) < 2:
        return None
    return [(3 * places[0] - places[1]) / 2, (3 * places[-1] - places[-2]) / 2]


def _told(track: Json, point: Json) -> str:
    lines = [f"{title(track)}, step {point['step']:,}: {point['state']}"]
    if point["bits"] is not None and point["se"] is not None:
        lines.append(f"{point['bits']:.3f} ± {point['se']:.3f} bits per word, n = {track['n']:,}")
    if point["cosine"] is not None and point["turning"] is not None:
        lines.append(
            f"cosine with the one before {point['cosine']:.3f}: {point['turning']:.0f}° per doubling of the step"
        )
    if point["excess_churn"] is not None:
        lines.append(f"decisions changed beyond noise: {point['excess_churn']:.1%}")
    return "<br>".join(lines)


def _span(steps: Sequence[int]) -> str:
    return f"steps {steps[0]:,} to {steps[-1]:,}" if steps else "no steps"
