"""A concept at two steps or in two runs, side by side: cards on the same scales, what was read through each, what differs."""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st

from app import beside, beside_figures, concept_card, concept_figures, concept_html, header, shimmer_rows
from app.concept_card import Card
from app.figures import Cell
from app.queries import Opened
from app.shimmer_rows import CONCEPT, Json
from app.verdict_html import facts_block
from app.verdict_text import number, short, visible
from app.views import second
from app.views.linked import pick
from lab.concepts import names
from lab.records import Records
from lab.run import Run
from probes.concepts.states import Z95

PLAIN = {"displayModeBar": False}


@dataclass(frozen=True)
class Shown:
    """One side: a concept of a run, with its card and its track where there are any."""

    letter: str
    run: Run
    records: Records
    name: str
    card: Card | None
    track: Json | None


@header.in_words
def section(opened: Opened, records: Records, name: str, card: Card | None, followed: Callable[[Opened], Json]) -> None:
    """Pickers for the other side, and both sides; the pickers alone while no run is picked.

    Args:
        followed: every track of a run, as `shimmer_rows.followed` gives them.
    """
    assert opened.run is not None
    st.subheader("Beside another step or run")
    other = second.run(opened)
    if other is None:
        return
    assert other.run is not None and other.records is not None
    a = Shown("A", opened.run, records, name, card, _track(followed(opened), name))
    if other.path == opened.path:
        _readings(a, Shown("B", a.run, a.records, name, card, a.track))
        return
    there = names(other.run)
    if not there:
        st.info("The run beside it has no concepts, so there is nothing to compare.")
        return
    theirs = pick("Concept of B", sorted(there, key=lambda one: one != name), "concept2", str)
    try:
        card_b = concept_card.card(other.run, theirs)
    except concept_card.CardBroken as error:
        st.error("The card of the concept beside it cannot be shown.")
        st.text(short(visible(str(error)), 600))
        card_b = None
    b = Shown("B", other.run, other.records, theirs, card_b, _track(followed(other), theirs))
    _cards(a, b)
    _readings(a, b)


def _track(found: Json, name: str) -> Json | None:
    return next((track for track in found["tracks"] if track["name"] == CONCEPT + name), None)


# ---------------------------------------------------------------------------------------------------------------- cards


def _cards(a: Shown, b: Shown) -> None:
    """What each card says of it, and its profiles with the same axis."""
    found = [
        concept_figures.profile(one.card.details.profile, one.card.checkpoint.step or 0, one.card.layer)
        if one.card is not None and one.card.details.profile is not None
        else None
        for one in (a, b)
    ]
    beside_figures.one_scale(*(figure for figure in found if figure is not None))
    for column, one, figure in zip(st.columns(2, gap="large"), (a, b), found, strict=True):
        with column:
            st.markdown(f"**{one.letter}**")
            st.text(f"{one.name} in {one.run.name}")
            if one.card is None:
                continue
            st.html(facts_block([("Layer", str(one.card.layer)), *concept_html.card_facts(one.card)]))
            if figure is not None and one.card.details.profile is not None:
                words = concept_figures.describe_profile(one.card.details.profile)
                st.plotly_chart(figure, key=f"profile {one.letter}", config=PLAIN, alt=f"{one.letter}: {words}")
                st.caption(concept_figures.profile_caption(one.card))
    if a.card is not None and b.card is not None:
        same = a.card.sha256 == b.card.sha256
        st.caption(
            "Both cards are of one and the same subspace."
            if same
            else "Two subspaces, each found in weights of its own: where each lies and what it reads can be compared, not "
            f"its coordinates.{'' if a.card.classes == b.card.classes else ' They were found from different labels.'}"
        )


# ------------------------------------------------------------------------------------------------------------- readings


def _readings(a: Shown, b: Shown) -> None:
    """Bits read through it at the step of either side, and the difference."""
    st.markdown("**What was read through it**")
    missing = [one for one in (a, b) if one.track is None]
    if missing:
        for one in missing:
            st.info(f"{one.letter} has not been followed over checkpoints yet.")
            st.code(f"lab shimmer {shlex.quote(one.run.name)} --concept {one.name}", language="bash")
        return
    assert a.track is not None and b.track is not None
    left, right = st.columns(2, gap="large")
    with left:
        step_a = second.step("Step of A", [point["step"] for point in a.track["points"]], "step")
    with right:
        step_b = second.step("Step of B", [point["step"] for point in b.track["points"]])
    chosen = [(a, a.track, step_a), (b, b.track, step_b)]
    st.html(facts_block([(one.letter, _point(one, track, step)) for one, track, step in chosen]))
    figure = beside_figures.tracks([(track, step) for _, track, step in chosen])
    words = "; ".join(f"{one.letter}: {_point(one, track, step)}" for one, track, step in chosen)
    st.plotly_chart(figure, key="tracks", config=PLAIN, alt=f"Usable bits over steps. {words}.")
    st.caption(
        "Usable bits per word read out of fold through the concept at each checkpoint, bands 95 % of drawing other documents "
        f"or sentences; ringed: the chosen steps. Readable is not used. {beside_figures.CONVENTION}"
    )
    _difference(a, step_a, b, step_b)


def _point(one: Shown, track: Json, step: int) -> str:
    point = next(point for point in track["points"] if point["step"] == step)
    return (
        f"{one.name} @ layer {track['layer']} in {one.run.name}, step {number(step)}: {number(point['bits'])} ± "
        f"{number(point['se'])} bits per word, n = {number(track['n'])}, {point['state']}"
    )


def _difference(a: Shown, step_a: int, b: Shown, step_b: int) -> None:
    st.markdown("**Difference, B less A**")
    if (a.run.path, a.name, step_a) == (b.run.path, b.name, step_b):
        st.info("Both sides are the same reading. Choose another step, or another run, for one of them.")
        return
    assert a.track is not None and b.track is not None
    found = beside.of_tracks(
        shimmer_rows.gains(a.run, a.records, step_a, CONCEPT + a.name),
        shimmer_rows.gains(b.run, b.records, step_b, CONCEPT + b.name),
        _cell(a, step_a),
        _cell(b, step_b),
    )
    if found is None:
        st.info("One of the two has no finite reading at its step.")
        return
    [one] = found.layers
    st.markdown(
        f"**{one.value:+.3f} bits per word** (95 % {one.lo:+.3f} to {one.hi:+.3f}, n = {one.n:,} words, "
        f"{'paired' if found.paired else 'not paired'})"
    )
    st.caption(beside_figures.caption(found))


def _cell(one: Shown, step: int) -> Cell:
    """The stored reading of a step, as a cell with its interval."""
    assert one.track is not None
    point = next(point for point in one.track["points"] if point["step"] == step)
    value, se = point["bits"], point["se"]
    value, half = (math.nan, 0.0) if value is None or se is None else (value, Z95 * se)
    return Cell(step, one.track["layer"], value, value - half, value + half, one.track["n"])
