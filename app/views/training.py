"""Training: curves over steps, live, with segments and the places where training was resumed. The look is in the URL."""

from typing import NamedTuple

import streamlit as st

from app import curves, header, queries
from app.header import Top
from app.queries import Opened
from lab.records import Records

MOST_SMOOTHING = 0.98
MOST_POINTS = (queries.MOST_POINTS, queries.MOST_POINTS)
LIVE_POINTS = (1000, 500)  # a point a pixel, of the wide curve and of the others: half the cost of a refresh


class Look(NamedTuple):
    """How the curves are to be drawn."""

    weight: float
    log: bool
    overtaken: bool


@header.in_words
def page(top: Top) -> None:
    opened, records = top.records_or_stop()
    names = records.metric_names()
    if not names:
        st.info("This run has recorded no curves yet. They begin with its first logged step.")
        top.keep_fresh(lambda: _wait(records))
        return
    usual = [name for name in curves.METRICS if name in names]
    others = [name for name in names if name not in curves.METRICS]
    with st.container(horizontal=True, vertical_alignment="center", gap="large"):
        live = st.toggle(
            "Live",
            value=True,
            key="live",
            bind="query-params",
            help="Refresh every 3 s while the run trains; zoom is kept.",
        )
        log = st.toggle(
            "Logarithmic", key="log", bind="query-params", help="Values that are zero or negative are left out."
        )
        overtaken = st.toggle(
            "Overtaken steps",
            key="overtaken",
            bind="query-params",
            help="Steps that a resume or a rewind left behind, dashed grey.",
        )
        weight = st.slider(
            "Smoothing", 0.0, MOST_SMOOTHING, 0.8, 0.02, key="smoothing", bind="query-params", width=260,
            help="Weight of an exponential moving average over the points drawn; the raw curve stays, faint.",
        )  # fmt: skip
        if "more" in st.session_state:  # another run may lack what was chosen before
            st.session_state["more"] = [name for name in st.session_state["more"] if name in others]
        more = st.multiselect("More curves", others, key="more", bind="query-params", width=360) if others else []
    look, names = Look(weight, log, overtaken), usual + more
    if live:
        training = header.state_of(opened) in header.LIVE_STATES
        top.keep_fresh(lambda: _curves(opened, names, look, *(LIVE_POINTS if training else MOST_POINTS)))
    else:
        _curves(opened, names, look, *MOST_POINTS)
        top.keep_fresh(lambda: None)
    st.caption(
        f"At most {queries.MOST_POINTS:,} points a curve ({LIVE_POINTS[0]:,} while live): of a longer one, the smallest "
        "and the largest value of each stretch. Dashed vertical lines: training was resumed. Drag to pan, pinch or "
        "Ctrl + wheel to zoom, double-click to reset."
    )


@header.in_words
def _curves(opened: Opened, names: list[str], look: Look, wide: int, narrow: int) -> None:
    _curve(opened, names[:1], look, wide, height=320, first=True)
    left, right = st.columns(2)
    for side, some in ((left, names[1::2]), (right, names[2::2])):
        with side:
            _curve(opened, some, look, narrow, height=230, first=False)


@header.in_words
def _wait(records: Records) -> None:
    if records.metric_names():
        st.rerun(scope="app")


def _curve(opened: Opened, names: list[str], look: Look, most: int, height: int, first: bool) -> None:
    assert opened.records is not None
    resumes = queries.resume_steps(opened.records)
    for name in names:
        points = queries.series(opened.records, name, most=most)
        # a few evaluations, or a schedule, are no noise: smoothing them would only move them
        weight = look.weight if len(points) > 30 and name != "train/lr" else 0.0
        left_behind = queries.series(opened.records, name, overtaken=True, most=most) if look.overtaken else []
        legend = first and len({segment for segment, _, _ in points}) > 1
        st.text(curves.heading(name, points))  # not Markdown: a name may come out of a stranger's database
        st.vega_lite_chart(
            curves.rows(points, resumes, left_behind, weight, look.log),
            curves.specification(name, weight > 0, look.log, height, legend, bool(left_behind)),
            width="stretch",
            key=f"curve {name}",
            on_select="rerun",  # a zoom that Python does not know of is cleared as soon as the rows change
            selection_mode=curves.ZOOM,
            alt=curves.describe(name),
        )
