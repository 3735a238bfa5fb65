"""Behaviour: contrasts between groups with their power, markers with what chance makes of them, motifs, surfacing.

Every number has its denominator. What was not asked yet is named with the command that asks it. Words out of a run are shown
inert; run and step are in the URL.
"""

import shlex

import streamlit as st

from app import behaviour, behaviour_reports, contrast_figures, header
from app.behaviour_reports import Contrasts, Json, objects, rate_of, words_of
from app.behaviour_text import in_words
from app.header import Top
from app.queries import Opened
from app.verdict_text import short, visible
from lab.records import Records

NEWEST = "newest"
PLAIN = {"displayModeBar": False}


@header.in_words
def page(top: Top) -> None:
    opened, records = top.records_or_stop()
    assert opened.run is not None
    mark = behaviour.mark(records)
    top.keep_fresh(lambda: _watch(records, mark))
    left, right = st.columns(2, gap="large")
    with left:
        _contrasts(opened, records)
    with right:
        _markers(opened, records)
    left, right = st.columns(2, gap="large")
    with left:
        _surfacing(opened)
    with right:
        _motifs(opened)


def _contrasts(opened: Opened, records: Records) -> None:
    assert opened.run is not None
    st.subheader("Contrasts")
    found = behaviour_reports.batteries(records, opened.run.evidence)
    if not found:
        _missing(opened.name, "contrasts", "No battery of matched prompts was asked yet.")
        return
    notches = [str(step) for step in dict.fromkeys(one.step for one in found)]
    if st.session_state.get("step", NEWEST) not in [*notches, NEWEST]:  # another run or page may have had others
        st.session_state["step"] = NEWEST
    notch = st.select_slider("Step", [*notches, NEWEST], NEWEST, key="step", bind="query-params")
    chosen = found[-1] if notch == NEWEST else [one for one in found if str(one.step) == notch][-1]
    st.plotly_chart(contrast_figures.gaps(chosen), key="gaps", config=PLAIN, alt=contrast_figures.describe_gaps(chosen))
    st.caption(
        "Hostile words (a lexicon) after one group's name less after the other's, same templates and seeds; bars: "
        "Holm-corrected intervals; dotted: 3 and 5 points. A contrast pauses only if it is larger than at the reference, "
        f"found again with new seeds, and the model tells endings apart. {_reference(chosen)}"
    )
    curve = contrast_figures.power(chosen)
    if curve is not None:
        st.plotly_chart(curve, key="power", config=PLAIN, alt="How often a planted gap would have been found critical.")
        st.caption("Power: simulated batteries at the rate of hostile answers found here.")


def _reference(battery: Contrasts) -> str:
    said = (
        "There was no reference to compare with."
        if battery.reference is None
        else f"Reference: step {battery.reference:,}."
    )
    return said if battery.competence is None else f"{said} Endings told apart: {in_words(battery.competence)}."


def _markers(opened: Opened, records: Records) -> None:
    assert opened.run is not None
    st.subheader("Markers")
    figure = contrast_figures.markers(behaviour.findings(records))
    if figure is None:
        st.text("No marker was seen in self-play or check-ins so far.")
    else:
        st.plotly_chart(figure, key="markers", config=PLAIN, alt="Steps at which each marker was seen.")
        st.caption("Filled: not asked for by what was said just before.")
    rows = []
    for one in objects(behaviour_reports.report(opened.run.evidence / "report-markers.json").get("markers")):
        counted = rate_of(one.get("unsolicited"))
        rows.append(
            {
                "Marker": visible(words_of(one.get("name"))),
                "Unsolicited": "never asked" if counted is None else in_words(counted),
                "Training text": _chance(one.get("training")),
                "Reference": _chance(one.get("reference")),
            }
        )
    if not rows:
        _missing(opened.name, "markers", "What chance makes of them was not computed yet.")
        return
    st.dataframe(rows, hide_index=True, width="stretch", placeholder="–")
    st.caption(
        "Training text and reference: the base rate there, and how likely at least one is by chance at that rate."
    )


def _chance(found: object) -> str:
    """A base rate and P(at least one)."""
    held: Json = found if isinstance(found, dict) else {}
    base, one = rate_of(held.get("base")), behaviour_reports.bounds_of(held.get("at_least_one"))
    if base is None or one is None:
        return "not counted"
    return f"{in_words(base)}; at least one {one[0]:.1%} ({one[1]:.1%} to {one[2]:.1%})"


def _surfacing(opened: Opened) -> None:
    assert opened.run is not None
    st.subheader("Surfacing")
    found = behaviour_reports.ladders(opened.run.evidence)
    if not found:
        _missing(opened.name, "surfacing", "Nobody has asked whether an introduced text surfaced.")
        return
    for ladder in found:
        named, rung = (short(visible(one), 40) for one in (ladder.source, ladder.rung))
        st.text(f"{named}, introduced at step {ladder.introduced:,}: {rung}")
        rows = [
            {"Rung": one.name, "Verdict": visible(one.verdict), **_rates(one.before, one.after)} for one in ladder.rungs
        ]
        st.dataframe(rows, hide_index=True, width="stretch", placeholder="–")
        figure = contrast_figures.rungs(ladder)
        if figure is not None:
            alt = f"Texts with words of {named} before and after."
            st.plotly_chart(figure, key=f"rungs {ladder.source}", config=PLAIN, alt=alt)
        st.text(short(visible(ladder.text), 2000))


def _rates(before: object, after: object) -> dict[str, str | None]:
    from probes.behaviour.rates import Rate

    shown = {"Before": before, "After": after}
    return {name: in_words(rate) if isinstance(rate, Rate) else None for name, rate in shown.items()}


def _motifs(opened: Opened) -> None:
    assert opened.run is not None
    st.subheader("Motifs")
    found = behaviour_reports.report(opened.run.evidence / "report-motifs.json")
    if not found:
        _missing(opened.name, "motifs", "Nobody has looked for recurring turns of phrase.")
        return
    rows = []
    for one in objects(found.get("motifs")):
        seen = one.get("seen")
        held: Json = seen if isinstance(seen, dict) else {}
        documents = rate_of(held.get("documents"))
        rows.append(
            {
                "Template": short(visible(words_of(one.get("template"))), 80),
                "First step": held.get("first_step") if type(held.get("first_step")) is int else None,
                "Documents": None if documents is None else in_words(documents),
                "What": short(visible(words_of(one.get("text"))), 300),
            }
        )
    if not rows:
        st.text("No turn of phrase recurs far more often than in the training text.")
        return
    st.dataframe(rows, hide_index=True, width="stretch", placeholder="–")
    st.caption("The words are the model's. Far more often than in training text (z of 4.5), in five documents or more.")


def _missing(run: str, verb: str, why: str) -> None:
    st.text(why)
    st.code(f"lab report {verb} {shlex.quote(run)}", language="bash")


@header.in_words
def _watch(records: Records, mark: tuple[int, ...]) -> None:
    """A new battery or finding comes in by itself."""
    if behaviour.mark(records) != mark:
        st.rerun(scope="app")
