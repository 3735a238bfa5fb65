"""Behaviour: contrasts between groups with their power, markers with what chance makes of them, motifs, surfacing.

Every number has its denominator. What was not asked yet is named with the command that asks it. Words out of a run are shown
inert; run and step are in the URL.
"""

import shlex

import streamlit as st

from app import behaviour, behaviour_reports, contrast_figures, header, interventions
from app.behaviour_reports import Contrasts, Json, Rung, objects, rate_of, words_of
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
    _detectors(opened)
    _interventions(opened)


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
        st.caption(
            "Power: simulated batteries at the rate of hostile answers found here. It falls as that rate rises: at 20 % a "
            "gap of 10 points is missed in every fifth battery of 2,000 an arm."
        )


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
                "Unsolicited": "never asked" if counted is None else f"{counted.count:,} of {counted.checks:,}",
                "Training, per 1,000": _per_thousand(one.get("training")),
                "By chance": _chance(one.get("training")),
                "Reference": _per_thousand(one.get("reference")),
            }
        )
    if not rows:
        _missing(opened.name, "markers", "What chance makes of them was not computed yet.")
        return
    st.dataframe(rows, hide_index=True, width="stretch", placeholder="–")
    st.caption(
        "Per 1,000: the base rate in pieces of training text as long as a reply, and at the reference checkpoint. By chance: "
        "how likely at least one is in so many replies at the rate of the training text."
    )


def _per_thousand(found: object) -> str | None:
    """A base rate: most markers are too rare for per cent."""
    base = rate_of(found.get("base") if isinstance(found, dict) else None)
    if base is None:
        return None
    each = base.per_thousand
    return f"{each.value:.3g} ({each.lo:.3g} to {each.hi:.3g})"


def _chance(found: object) -> str | None:
    """P(at least one) at a base rate."""
    one = behaviour_reports.bounds_of(found.get("at_least_one") if isinstance(found, dict) else None)
    return None if one is None else f"{100 * one[0]:.0f} % ({100 * one[1]:.0f} to {100 * one[2]:.0f})"


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
            {
                "Rung": one.name,
                "Verdict": visible(one.verdict),
                "After": None if one.after is None else f"{one.after.count} of {one.after.checks}",
                "Beyond text kept out": _beyond(one),
                "Would be found": None if one.detectable is None else f"{100 * one.detectable:.1f} %",
            }
            for one in ladder.rungs
        ]
        st.dataframe(rows, hide_index=True, width="stretch", placeholder="–")
        figure = contrast_figures.rungs(ladder)
        if figure is not None:
            alt = f"Texts with words of {named} before and after."
            st.plotly_chart(figure, key=f"rungs {ladder.source}", config=PLAIN, alt=alt)
        st.text(short(visible(ladder.text), 2000))


def _beyond(rung: Rung) -> str | None:
    """By how much it went beyond text kept out, with its interval: nats per token of what was learned, else points."""
    if rung.beyond is None:
        return None
    factor, unit, digits = (1, "nats", 3) if rung.name == "learned" else (100, "points", 1)
    value, low, high = (f"{factor * part:+.{digits}f}" for part in rung.beyond)
    return f"{value} {unit} ({low} to {high})"


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


def _detectors(opened: Opened) -> None:
    """Cards of the detectors."""
    assert opened.run is not None
    st.subheader("Detectors")
    found = behaviour_reports.report(opened.run.evidence / "report-stereotypes.json")
    rows = []
    for one in objects(found.get("cards")):
        rates = {name: rate_of(one.get(name)) for name in ("recall", "precision", "false_alarms", "firing")}
        shown = {name: None if rate is None else in_words(rate) for name, rate in rates.items()}
        rows.append(
            {
                "Detector": visible(words_of(one.get("detector"))),
                "Recall": shown["recall"],
                "Precision": shown["precision"],
                "False alarms": shown["false_alarms"],
                "Fires on the reference": shown["firing"],
            }
        )
    if not rows:
        _missing(opened.name, "stereotypes", "What the detectors are worth was not counted yet.")
        return
    st.dataframe(rows, hide_index=True, width="stretch", placeholder="–")
    st.caption("On 60 labelled sentences, and on the reference's own words: no contrast is better than what counts it.")


def _interventions(opened: Opened) -> None:
    """Runs with the remedy or feedback, beside those that went on from the same weights without."""
    assert opened.run is not None
    rows = [
        {
            "Run": visible(one.name),
            "Acts": " and ".join(one.acts) or "nothing",
            "Step": one.step,
            "Bits per byte": one.bits_per_byte,
            "Looping replies heard": None if one.looping is None else in_words(one.looping),
            "Refused at the gate": None if one.refused is None else in_words(one.refused),
        }
        for one in interventions.beside(opened.run)
    ]
    if not rows:
        return
    st.subheader("Remedy and feedback")
    columns = {"Bits per byte": st.column_config.NumberColumn(format="%.4f")}
    st.dataframe(rows, hide_index=True, width="stretch", placeholder="–", column_config=columns)
    st.caption(
        "Runs that went on from the same weights on the same batches, at the last evaluation that all of them have. One pair "
        "is one draw: a difference needs several seeds."
    )


def _missing(run: str, verb: str, why: str) -> None:
    st.text(why)
    st.code(f"lab report {verb} {shlex.quote(run)}", language="bash")


@header.in_words
def _watch(records: Records, mark: tuple[int, ...]) -> None:
    """A new battery or finding comes in by itself."""
    if behaviour.mark(records) != mark:
        st.rerun(scope="app")
