"""From stored readings and metrics to figures: Plotly for what is inspected, Vega-Lite for what moves while training.

Pure functions: no Streamlit, no file, no database, so a notebook or a report draws the same picture.
Layers are 0..L everywhere: 0 is the embedding sum, l the residual stream after block l, before the final norm.
Colours are Okabe and Ito's, those of them that keep a contrast of 3:1 on white and on the dark theme alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from probes.layers import lexical

BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#8A8F98"
OKABE_ITO = (BLUE, ORANGE, GREEN, PINK)
MOST_TICKS = 14
EDGE = 0.58  # of a cell, from its middle to the end of a map's axis: a frame around the last cell is drawn whole

TASKS: dict[str, tuple[str, str]] = {
    "class.current": ("class of the current word", "function or content word, beyond what layer 0 already tells"),
    "class.next": ("class of the next word", "whether the next word is a function or a content word"),
    "supersense.current": ("supersense of the current word", "WordNet supersense, beyond what layer 0 already tells"),
    "supersense.next": ("supersense of the next word", "WordNet supersense of the next word"),
    "class.current.raw": ("class of the current word, raw", "function or content word, layer 0 not subtracted"),
    "supersense.current.raw": ("supersense of the current word, raw", "WordNet supersense, layer 0 not subtracted"),
}
"""Task name -> (short title, what is read), in the order in which a picker shows them."""


@dataclass(frozen=True)
class Cell:
    """One stored reading: usable bits per word of one task at one step and layer, with its 95 % interval."""

    step: int
    layer: int
    value: float
    lo: float
    hi: float
    n: int
    baseline: float | None = None
    regime: int | None = None


def task_title(task: str) -> str:
    """Words for a task; a task this version does not know is shown by its own name."""
    return TASKS[task][0] if task in TASKS else task


def task_order(tasks: Sequence[str]) -> list[str]:
    """Known tasks in the picker's order, then the others by name."""
    return [task for task in TASKS if task in tasks] + sorted(set(tasks) - set(TASKS))


def steps_of(cells: Sequence[Cell]) -> list[int]:
    return sorted({cell.step for cell in cells})


def layers_of(cells: Sequence[Cell]) -> list[int]:
    return sorted({cell.layer for cell in cells})


def is_lexical(cells: Sequence[Cell]) -> bool:
    """Whether layer 0 already has what the best layer has, at the newest step of an unconditional (raw) profile.

    Such a profile says something about the words, not about the layers. False when nothing is readable anywhere.
    """
    if not cells:
        return False
    newest = max(cell.step for cell in cells)
    return lexical.is_lexical({cell.layer: cell.value for cell in cells if cell.step == newest})


def heat_map(cells: Sequence[Cell], step: int, layer: int) -> go.Figure:
    """Layer by step, colour = usable bits per word; the chosen cell is framed.

    Steps are spaced evenly, because readings are log-spaced at first and regular later. Invisible square markers
    lie over the cells: Streamlit reports no click on a Plotly heat map, but it does on markers; `customdata` is
    `[step, layer, value, lo, hi, n]`, in lists because typed arrays come back as dictionaries.
    """
    steps, layers = steps_of(cells), layers_of(cells)
    column = {s: i for i, s in enumerate(steps)}
    row = {at: i for i, at in enumerate(layers)}
    values: list[list[float | None]] = [[None] * len(steps) for _ in layers]
    for cell in cells:
        values[row[cell.layer]][column[cell.step]] = _finite(cell.value)
    known = [v for line in values for v in line if v is not None]
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=list(range(len(steps))),
            y=layers,
            zmin=min([0.0, *known]),
            zmax=max([0.05, *known]),  # a map of noise around zero must not look like a map of findings
            colorscale="Cividis",
            colorbar={"title": {"text": "bits per word", "side": "right"}, "thickness": 14},
            xgap=1,
            ygap=1,
            hoverinfo="skip",
        )
    )
    figure.add_trace(
        go.Scatter(
            x=[column[cell.step] for cell in cells],
            y=[cell.layer for cell in cells],
            mode="markers",
            showlegend=False,
            customdata=[[c.step, c.layer, c.value, c.lo, c.hi, c.n] for c in cells],
            marker={"symbol": "square", "size": 24, "color": "rgba(0,0,0,0)"},
            selected={"marker": {"opacity": 0}},
            unselected={"marker": {"opacity": 0}},
            hovertemplate="step %{customdata[0]:,}, layer %{customdata[1]}<br>%{customdata[2]:.3f} bits per word"
            "<br>95 % %{customdata[3]:.3f} to %{customdata[4]:.3f}, n = %{customdata[5]:,}<extra></extra>",
        )
    )
    if step in column and layer in row:
        frame = {
            "type": "rect",
            "x0": column[step] - 0.5,
            "x1": column[step] + 0.5,
            "y0": layer - 0.5,
            "y1": layer + 0.5,
        }
        figure.add_shape(frame, line={"color": "black", "width": 5})
        figure.add_shape(frame, line={"color": "white", "width": 2})
    shown = thin(steps)
    figure.update_xaxes(
        title_text="step (readings evenly spaced)",
        tickvals=[column[s] for s in shown],
        ticktext=[f"{s:,}" for s in shown],
        tickangle=0,
        showgrid=False,
        zeroline=False,
        range=[-EDGE, len(steps) - 1 + EDGE],
    )
    figure.update_yaxes(
        title_text="layer",
        range=[layers[0] - EDGE, layers[-1] + EDGE] if layers else None,
        tickvals=thin(layers),
        ticktext=["0 (embedding)" if at == 0 else str(at) for at in thin(layers)],
        showgrid=False,
        zeroline=False,
    )
    # hoverdistance -1: any spot of a cell answers with its own marker, however wide the cell is drawn
    figure.update_layout(dragmode=False, hovermode="closest", hoverdistance=-1, clickmode="event+select")
    return _sized(figure, height=min(620, 150 + 30 * len(layers)))


def over_layers(cells: Sequence[Cell], step: int, layer: int) -> go.Figure:
    """The profile at one step: curve with its 95 % band, the random-initialisation twin, and the layer-0 value."""
    here = sorted((cell for cell in cells if cell.step == step), key=lambda cell: cell.layer)
    figure = go.Figure()
    _band(figure, [c.layer for c in here], list(here), name="this run")
    twin = [c for c in here if _finite(c.baseline) is not None]
    if twin:
        figure.add_trace(
            go.Scatter(
                x=[c.layer for c in twin],
                y=[c.baseline for c in twin],
                mode="lines",
                name="random-initialisation twin",
                line={"color": ORANGE, "dash": "dash", "width": 2},
                hovertemplate="layer %{x}: twin %{y:.3f}<extra></extra>",
            )
        )
    at_zero = [c.value for c in here if c.layer == 0]
    if at_zero:
        figure.add_trace(
            go.Scatter(
                x=[here[0].layer, here[-1].layer],
                y=[at_zero[0]] * 2,
                mode="lines",
                name="layer 0 (embedding)",
                line={"color": GREEN, "dash": "dot", "width": 2},
                hovertemplate="layer 0: %{y:.3f}<extra></extra>",
            )
        )
    _mark(figure, [(c.layer, c) for c in here if c.layer == layer])
    figure.update_xaxes(title_text="layer (0 = embedding)", tickvals=thin([c.layer for c in here]))
    figure.update_yaxes(title_text="bits per word")
    return _sized(figure, height=340)


def over_steps(cells: Sequence[Cell], step: int, layer: int) -> go.Figure:
    """One layer through training: curve with band and twin; the line breaks where the regime changes."""
    here = sorted((cell for cell in cells if cell.layer == layer), key=lambda cell: cell.step)
    figure = go.Figure()
    where = {c.step: math.log10(c.step + 1) for c in here}
    drawn: list[Cell | None] = []
    for before, cell in zip([None, *here], here, strict=False):
        if before is not None and before.regime != cell.regime:
            drawn.append(None)  # another protocol: not the same series any more
        drawn.append(cell)
    xs = [None if c is None else where[c.step] for c in drawn]
    _band(figure, xs, drawn, name=f"layer {layer}")
    if any(_finite(c.baseline) is not None for c in here):
        figure.add_trace(
            go.Scatter(
                x=xs,
                y=[None if c is None else c.baseline for c in drawn],
                mode="lines",
                name="random-initialisation twin",
                line={"color": ORANGE, "dash": "dash", "width": 2},
                hoverinfo="skip",
            )
        )
    _mark(figure, [(where[c.step], c) for c in here if c.step == step])
    ticks = log_ticks(list(where))
    figure.update_xaxes(
        title_text="step (log scale)",
        tickvals=[math.log10(t + 1) for t in ticks],
        ticktext=[f"{t:,}" for t in ticks],
        tickangle=0,
    )
    figure.update_yaxes(title_text="bits per word")
    return _sized(figure, height=340)


def caption(task: str, cells: Sequence[Cell], step: int) -> str:
    """What the figures of a task say and do not say, for the step shown."""
    words = sorted({c.n for c in cells if c.step == step})
    n = " to ".join(f"{n:,}" for n in (words if len(words) < 2 else [words[0], words[-1]])) or "no"
    what = TASKS[task][1] if task in TASKS else "a label"
    return (
        f"Reading: decode, in bits per word, of {what}. What a linear probe saves over the base rates on sentences "
        f"it was not fitted on; n = {n} words at step {step:,}; band = 95 % bootstrap over documents where there are 50 "
        "or more, else over sentences. "
        "Layer 0 is the embedding sum, layer l the residual stream after block l, before the final norm. "
        "Dashed: the same probe on the random-initialisation twin. Dotted: the layer-0 value. "
        "Linearly readable is not used: only erasing it would show what it is worth to the model."
    )


def describe(task: str, cells: Sequence[Cell], step: int) -> str:
    """The figure in one sentence, for a screen reader."""
    here = [c for c in cells if c.step == step and _finite(c.value) is not None]
    if not here:
        return f"{task_title(task)}: no reading at step {step}."
    best = max(here, key=lambda c: c.value)
    return (
        f"{task_title(task)} at step {step}: highest at layer {best.layer} with {best.value:.3f} bits per word, "
        f"95 % {best.lo:.3f} to {best.hi:.3f}, over layers {here[0].layer} to {max(c.layer for c in here)}."
    )


def _band(figure: go.Figure, xs: Sequence[float | None], cells: Sequence[Cell | None], name: str) -> None:
    for bound, fill in (("hi", None), ("lo", "tonexty")):
        figure.add_trace(
            go.Scatter(
                x=xs,
                y=[None if c is None else _finite(getattr(c, bound)) for c in cells],
                mode="lines",
                line={"width": 0},
                fill=fill,
                fillcolor="rgba(0,114,178,0.25)",
                name="95 % interval",
                showlegend=fill is not None,
                hoverinfo="skip",
            )
        )
    figure.add_trace(
        go.Scatter(
            x=xs,
            y=[None if c is None else _finite(c.value) for c in cells],
            mode="lines+markers",
            name=name,
            line={"color": BLUE, "width": 2.5},
            marker={"size": 6},
            customdata=[[None] * 5 if c is None else [c.step, c.layer, c.lo, c.hi, c.n] for c in cells],
            hovertemplate="step %{customdata[0]:,}, layer %{customdata[1]}<br>%{y:.3f} bits per word"
            "<br>95 % %{customdata[2]:.3f} to %{customdata[3]:.3f}, n = %{customdata[4]:,}<extra></extra>",
        )
    )


def _mark(figure: go.Figure, chosen: Sequence[tuple[float, Cell]]) -> None:
    for x, cell in chosen:
        figure.add_trace(
            go.Scatter(
                x=[x],
                y=[_finite(cell.value)],
                mode="markers",
                showlegend=False,
                hoverinfo="skip",
                marker={"size": 14, "color": "rgba(0,0,0,0)", "line": {"color": PINK, "width": 3}},
            )
        )


def _sized(figure: go.Figure, height: int) -> go.Figure:
    figure.update_layout(
        height=height,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "xanchor": "left", "x": 0, "traceorder": "normal"},
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    return figure


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def log_ticks(steps: Sequence[int]) -> list[int]:
    """Steps to label on an axis of log10(1 + step): powers of ten and both ends; of a short stretch, steps of its own.

    >>> log_ticks([0, 3, 100, 1500]), log_ticks([512, 600, 700, 1000])
    ([0, 1, 10, 100, 1500], [512, 600, 700, 1000])
    """
    if not steps:
        return []
    first, last = min(steps), max(steps)
    powers = [0, *(10**e for e in range(len(str(last))))]
    inside = [step for step in powers if first <= step < last]
    wanted = sorted({first, *inside, last} if len(inside) > 1 else set(steps), reverse=True)
    apart = max(0.05 * math.log10((last + 1) / (first + 1)), 1e-9)
    kept = wanted[:1]
    for step in wanted[1:]:
        if math.log10((kept[-1] + 1) / (step + 1)) > apart:
            kept.append(step)
    return kept[::-1]


def thin(numbers: Sequence[int]) -> list[int]:
    """At most 14 of the numbers for tick labels: evenly spread up to the last, and the first."""
    every = max(1, math.ceil(len(numbers) / MOST_TICKS))
    kept = list(numbers[::-1][::every][::-1])
    return [numbers[0], *kept[1:]] if len(kept) > 1 else kept
