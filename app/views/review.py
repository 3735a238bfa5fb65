"""Review: answers with reasons rated blind, one at a time, into the same sheet as `lab review --rater`.

Neither the gold option nor a score is shown while rating; what the ratings come to stands behind a switch. The sheet is the
one thing this page writes, after every rating, so that closing the browser loses none. Question, options and rationale are
strangers' text and shown inert; task, step, rater and item are in the URL.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from app import header
from app.bench_text import rate
from app.header import Top
from app.review import (
    KINDS,
    QUESTIONS,
    BadReview,
    Drawn,
    Rated,
    Rating,
    agree,
    draw,
    file_of,
    keep,
    read_ratings,
    sheets,
    summarise,
    words_of,
)
from app.verdict_html import STYLE, escaped
from app.verdict_text import short, visible
from app.views import linked
from lab.records import Records
from train.benchmark_records import benched, reasoned

SAMPLE, SEED = 40, 0  # as `lab review` draws unless told otherwise, so that the sheets go together
YES_NO = ("yes", "no")


@header.in_words
def page(top: Top) -> None:
    opened, records = top.records_or_stop()
    where = _with_reasons(records)
    if not where:
        st.info("There are no answers with reasons to rate yet. They come with:")
        st.code(f"lab bench {shlex.quote(opened.name)} --tasks arc_easy --with-reasons", language="bash")
        return
    st.html(f"<style>{STYLE}</style>")
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        task = linked.pick("Benchmark", list(where), "task", lambda name: short(visible(name), 60))
        step = int(linked.pick("Step", [str(one) for one in where[task]], "step", lambda name: f"{int(name):,}"))
        rater = st.text_input("Your name", key="rater", bind="query-params", max_chars=40, width=240)
    drawn = draw(records, task, step, SAMPLE, SEED)
    st.caption(
        f"{len(drawn)} answers: as many right as wrong, of each as many whose rationale a scorer calls good as bad, in an "
        "order that tells nothing. You see what the model chose and why, not whether it was right."
    )
    evidence = opened.path / "evidence"
    if rater.strip():
        _rate(evidence, drawn, rater)
    else:
        st.text("Your name begins a sheet of your own, or goes on with it.")
    if sheets(evidence, drawn[0]) and st.toggle("Show what the ratings come to (no longer blind)", key="outcome"):
        _outcome(evidence, drawn)


def _with_reasons(records: Records) -> dict[str, list[int]]:
    """Steps with reasons of each benchmark that has any, the newest first."""
    found = {
        task: [step for step in steps[::-1] if reasoned(records, task, step)]
        for task, steps in benched(records).items()
    }
    return {task: steps for task, steps in found.items() if steps}


# --------------------------------------------------------------------------------------------------------------- rating


def _rate(evidence: Path, drawn: Sequence[Drawn], rater: str) -> None:
    file = file_of(evidence, drawn[0], rater)
    ratings = dict(read_ratings(file, drawn).ratings) if file.exists() else {}
    st.progress(len(ratings) / len(drawn), text=f"{len(ratings)} of {len(drawn)} rated")
    order = sorted(drawn, key=lambda one: one.item.id in ratings)  # stable: those without a rating come first
    numbers = {one.item.id: number for number, one in enumerate(drawn, start=1)}
    by_id = {one.item.id: one for one in order}

    def title(id: str) -> str:
        return f"{numbers[id]} of {len(drawn)}{', rated' if id in ratings else ''}"

    id = linked.pick("Answer", list(by_id), "item", title)
    rating = _form(by_id[id], ratings.get(id), f"{file.name}/{id}")
    if rating is not None:
        ratings[id] = rating
        keep(evidence, drawn[0], rater, _rows(drawn, ratings))
        left = [one.item.id for one in drawn if one.item.id not in ratings]
        if left:
            st.session_state.pop("item", None)
            st.query_params["item"] = left[0]
        st.rerun()
    if ratings:
        st.download_button("Your sheet as CSV", file.read_bytes(), file_name=file.name, mime="text/csv")


def _form(one: Drawn, before: Rating | None, key: str) -> Rating | None:
    """What the rater says of one answer once all three questions are answered; None until then."""
    shown = words_of(one, None)
    st.html(f'<div class="bw-text">{escaped(shown["question"])}</div>')
    for number, option in enumerate(one.item.options, start=1):
        st.text(f"{number}  {short(visible(option), 600)}{'   ← chosen' if number == one.chosen + 1 else ''}")
    st.text(f"The model's reason: {short(visible(one.rationale), 1200) or '(nothing)'}")
    numbers = [str(number) for number in range(1, len(one.item.options) + 1)]
    said = words_of(one, before)
    with st.form(key, border=True):
        answers = {
            name: st.radio(
                QUESTIONS[name],
                choices,
                index=list(choices).index(said[name]) if said[name] else None,
                horizontal=True,
                key=f"{key}/{name}",
            )
            for name, choices in (("defensible", YES_NO), ("supports", YES_NO), ("best", numbers))
        }
        sent = st.form_submit_button("Keep", type="primary")
    if not sent:
        return None
    if None in answers.values():
        st.text("Answer all three questions.")
        return None
    return Rating(answers["defensible"] == "yes", answers["supports"] == "yes", int(answers["best"] or 1) - 1)


def _rows(drawn: Sequence[Drawn], ratings: Mapping[str, Rating]) -> list[dict[str, str]]:
    return [words_of(one, ratings.get(one.item.id)) for one in drawn]


# -------------------------------------------------------------------------------------------------------------- outcome


def _outcome(evidence: Path, drawn: Sequence[Drawn]) -> None:
    """What each rater's sheet comes to, and how far raters agree; a sheet of another sample is named and left out."""
    rated: list[Rated] = []
    for file in sheets(evidence, drawn[0]):
        try:
            rated.append(read_ratings(file, drawn))
        except BadReview as error:
            st.text(visible(str(error)))
    rows: list[dict[str, Any]] = [
        {"Rater": short(visible(found["rater"]), 80), "Rated": found["items"], "Of": kind, "Share": rate(share)}
        for one in rated
        for found in (summarise(one, drawn),)
        for kind, share in found["kinds"].items()
    ]
    st.dataframe(rows, hide_index=True, width="stretch")
    st.caption(
        "; ".join(f"{kind}: {about}" for kind, about in KINDS.items())
        + ". Shares of the wrong answers in this sample, 95 % Wilson intervals, good and bad rationales apart: they were not "
        "drawn in proportion."
    )
    for name, found in agree(rated).items():
        said = "nothing varies" if found is None else f"{found:.2f}"
        st.text(f"Krippendorff's alpha, {name}: {said} ({len(rated)} raters)")
