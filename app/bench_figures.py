"""From benchmark reports to figures: accuracy over steps beside chance, good reasons by source, and the headline over steps.

Pure functions: no Streamlit, no file, no database. Words out of a run are escaped: Plotly reads a little HTML in labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from app.behaviour_figures import sized
from app.figures import BLUE, GREEN, GREY, ORANGE, PINK
from app.verdict_figures import plain
from lab.benchmarks import METRICS
from probes.behaviour.two_by_two import OWN, SOURCES

Json = Mapping[str, Any]
LINES = {"acc": (BLUE, "circle"), "acc_norm": (ORANGE, "square"), "acc_unconditional": (GREEN, "diamond")}
SIDES = (("wrong", "after a wrong answer", ORANGE, "square"), ("right", "after a right answer", BLUE, "circle"))
SHORT = {
    OWN: "own rationale",
    "same-subject": "another item's",
    "word-shuffled": "own words shuffled",
    "echo": "question echoed",
    "reference": "reference model's",
    "forced": "for a random answer",
}


def over_steps(reports: Sequence[Json]) -> go.Figure:
    """Accuracy of one task through training by three ways of counting, Wilson intervals, with chance and the zero prompt."""
    figure = go.Figure()
    steps = [one["step"] for one in reports]
    for metric, (colour, symbol) in LINES.items():
        here = [one for one in reports if metric in one["accuracy"]]
        if here:
            rates = [one["accuracy"][metric] for one in here]
            figure.add_trace(_line([one["step"] for one in here], rates, METRICS[metric], colour, symbol))
    bare = [one for one in reports if "zero_prompt" in one["accuracy"]]
    if bare:
        values = [one["accuracy"]["zero_prompt"]["value"] for one in bare]
        figure.add_trace(
            go.Scatter(
                x=[one["step"] for one in bare],
                y=values,
                mode="lines",
                name="without the question",
                line={"color": PINK, "width": 2, "dash": "dot"},
                hovertemplate="step %{x:,}, without the question: %{y:.1%}<extra></extra>",
            )
        )
    if reports:
        chance = [one["chance"] for one in reports]
        figure.add_trace(
            go.Scatter(
                x=steps,
                y=chance,
                mode="lines",
                name="chance",
                line={"color": GREY, "width": 2, "dash": "dash"},
                hovertemplate="chance: %{y:.1%}<extra></extra>",
            )
        )
    figure.update_xaxes(title_text="step", tickformat=",d", zeroline=False)
    figure.update_yaxes(title_text="accuracy", tickformat=".0%", rangemode="tozero", zeroline=False)
    return sized(figure, 340)


def good_by_source(table: Json) -> go.Figure:
    """P(good | wrong) and P(good | right) of every source of one scorer's table, 95 % Wilson intervals."""
    rows = list(table["rows"])[::-1]
    figure = go.Figure()
    for at, (side, words, colour, symbol) in enumerate(SIDES):
        found = [(place, row[side]) for place, row in enumerate(rows) if row[side]]
        figure.add_trace(
            go.Scatter(
                x=[rate["value"] for _, rate in found],
                y=[place + 0.16 - 0.32 * at for place, _ in found],
                error_x=_bars([rate for _, rate in found]),
                mode="markers",
                name=words,
                marker={"color": colour, "symbol": symbol, "size": 9},
                customdata=[[rate["count"], rate["checks"], plain(rows[place]["source"])] for place, rate in found],
                hovertemplate="%{customdata[2]}, "
                + words
                + ": %{x:.1%}<br>%{customdata[0]:,} of %{customdata[1]:,}<extra></extra>",
            )
        )
    names = [SHORT.get(row["source"], plain(row["source"])) for row in rows]
    figure.update_xaxes(title_text="called good", tickformat=".0%", range=[-0.03, 1.03], zeroline=False)
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=names, range=[-0.6, len(rows) - 0.4], zeroline=False)
    return sized(figure, 120 + 34 * len(rows))


def headline_over_steps(reports: Sequence[Json], scorer: str) -> go.Figure | None:
    """Good reasons of wrong answers beyond another item's, beside the accuracy; None below two steps with reasons.

    Did reasoning improve while scores stood still? Then one line rises and the other does not.
    """
    heads, steps = [], []
    for one in reports:
        tables = one["reasons"]["tables"] if one["reasons"] else []
        found = next((table["headline"] for table in tables if table["scorer"] == scorer), None)
        if found:
            heads.append(found)
            steps.append(one["step"])
    if len(heads) < 2:
        return None
    figure = go.Figure()
    figure.add_hline(y=0, line={"color": GREY, "width": 1})
    figure.add_trace(_line(steps, heads, "good and wrong, beyond another item's", ORANGE, "square"))
    rates = [one["accuracy"]["acc"] for one in reports]
    figure.add_trace(_line([one["step"] for one in reports], rates, "accuracy", BLUE, "circle"))
    figure.update_xaxes(title_text="step", tickformat=",d", zeroline=False)
    figure.update_yaxes(tickformat=".0%", zeroline=False)
    return sized(figure, 300)


def describe(report: Json) -> str:
    """The accuracy figure in a sentence, for a screen reader."""
    rate = report["accuracy"]["acc"]
    return (
        f"{report['task']} at step {report['step']:,}: accuracy {rate['value']:.1%}, 95 % {rate['lo']:.1%} to "
        f"{rate['hi']:.1%}, {rate['checks']:,} items; chance is {report['chance']:.1%}."
    )


def describe_table(table: Json) -> str:
    """The figure of sources in words."""
    said = [
        f"{SOURCES.get(row['source'], row['source'])} {row['wrong']['value']:.0%} of {row['wrong']['checks']}"
        for row in table["rows"]
        if row["wrong"]
    ]
    return f"Called good by {table['scorer']} after wrong answers: {'; '.join(said)}."


def _line(steps: Sequence[int], found: Sequence[Json], name: str, colour: str, symbol: str) -> go.Scatter:
    return go.Scatter(
        x=list(steps),
        y=[one["value"] for one in found],
        error_y=_bars(found),
        mode="lines+markers",
        name=name,
        line={"color": colour, "width": 2},
        marker={"symbol": symbol, "size": 8},
        customdata=[[one["lo"], one["hi"], one.get("checks", one.get("items"))] for one in found],
        hovertemplate="step %{x:,}, "
        + name
        + ": %{y:.1%} (%{customdata[0]:.1%} to %{customdata[1]:.1%}, n %{customdata[2]:,})<extra></extra>",
    )


def _bars(found: Sequence[Json]) -> dict[str, Any]:
    return {
        "type": "data",
        "symmetric": False,
        "array": [one["hi"] - one["value"] for one in found],
        "arrayminus": [one["value"] - one["lo"] for one in found],
        "thickness": 1.5,
        "width": 4,
    }
