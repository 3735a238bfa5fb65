"""Conversations: what the model said to itself and in check-ins, what was found in it, and how often, beside the reference.

Text of the model is untrusted and shown inert. Run, kind, step, episode and prompt are in the URL, so a turn is a link.
"""

import shlex

import streamlit as st

from app import behaviour, behaviour_figures, header, queries, transcript_html
from app.behaviour import CHECK_IN, KINDS, RATE_NAMES, SELF_PLAY, Json, Talk
from app.behaviour_figures import Point
from app.behaviour_text import compared, protocol
from app.header import Top
from app.queries import Opened
from app.verdict_html import facts_block
from app.verdict_text import Facts, number, short, visible
from app.views import check_ins, linked
from lab.records import Records
from probes.behaviour.rates import Rate

NEWEST = "newest"
TURNS_PER_PAGE = 30
LEAST_STEP = 512  # of the reference checkpoint, unless configured
PLAIN = {"displayModeBar": False}


@header.in_words
def page(top: Top) -> None:
    opened, records = top.records_or_stop()
    mark = behaviour.mark(records)
    top.keep_fresh(lambda: _watch(records, mark))
    everything = _talks((*queries.identity(opened.path), *mark), records)
    if not everything:
        _nothing_said(opened.name)
        return
    st.html(f"<style>{transcript_html.SHEET}</style>")
    kind, step, talk = _chosen(everything)
    here = [one for one in everything if one.kind == kind]
    reference = _reference(opened, here, talk)
    _rates(here, kind, step, talk, reference)
    data = behaviour.episode(records, talk.id)
    if kind == SELF_PLAY:
        _self_play(talk, data, reference)
    else:
        check_ins.show(opened, records, talk, data)


def _nothing_said(run: str) -> None:
    st.info("Nobody has talked with this run's model yet. Self-play and check-ins come by themselves, or now:")
    name = shlex.quote(run)
    st.code(
        f"lab selfplay {name}     # two voices of the model converse\nlab checkin {name}      # the fixed questions\n"
        "lab train --set self_play.every=500 --set check_ins.every=500     # both, while training",
        language="bash",
    )


# ------------------------------------------------------------------------------------------------------------- choosing


def _chosen(everything: list[Talk]) -> tuple[str, int, Talk]:
    """Kind, step and conversation: what the URL names, else the newest."""
    kinds = [kind for kind in KINDS if any(talk.kind == kind for talk in everything)]
    _keep("kind", kinds, kinds[0])
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        kind = st.segmented_control("Kind", kinds, default=kinds[0], required=True, key="kind", bind="query-params")
        of_kind = [talk for talk in everything if talk.kind == (kind or kinds[0])]
        notches = [str(step) for step in sorted({talk.step for talk in of_kind})]
        _keep("step", [*notches, NEWEST], NEWEST)
        notch = st.select_slider("Step", [*notches, NEWEST], NEWEST, key="step", bind="query-params", width=420)
        step = int(notches[-1] if notch == NEWEST else notch)
        here = {str(talk.id): talk for talk in of_kind if talk.step == step}
        id = linked.pick("Episode", list(here), "episode", lambda id: _title(here[id]))
    return str(kind or kinds[0]), step, here[id]


def _title(talk: Talk) -> str:
    if talk.kind == CHECK_IN:
        return f"{talk.id} · {'with' if talk.system else 'no'} system prompt"
    return f"{talk.id} · {short(visible(talk.topic), 60)}"


def _reference(opened: Opened, here: list[Talk], talk: Talk) -> tuple[int, dict[str, Rate]] | None:
    """The reference checkpoint's rates: as a check-in kept them, else those of the conversations held at that step."""
    assert opened.run is not None
    if talk.kind == CHECK_IN:
        of_regime = [one for one in here if one.regime == talk.regime and one.reference]
        found = talk.reference or (of_regime[-1].reference if of_regime else None)
        return (found[0], dict(found[1])) if found else None
    step = opened.run.config.reference.step
    if (
        step is None
    ):  # as `train.references` chooses: the first milestone of at least 512, or the weights that were imported
        step = 0 if opened.run.manifest.get("imported") else LEAST_STEP
    if opened.run.config.train.steps < step:
        step = min(one.step for one in here)
    there = [one for one in here if one.step == step]
    rates = {name: rate for name in RATE_NAMES if (rate := behaviour.pooled(there, name)) is not None}
    return (step, rates) if rates else None


# ---------------------------------------------------------------------------------------------------------------- rates


def _rates(here: list[Talk], kind: str, step: int, talk: Talk, reference: tuple[int, dict[str, Rate]] | None) -> None:
    for name, column in zip(RATE_NAMES, st.columns(2, gap="large"), strict=True):
        points = _points(here, name)
        level = (reference[0], reference[1][name]) if reference and name in reference[1] else None
        with column:
            title = f"Share of {behaviour.UNITS[kind]}: {RATE_NAMES[name]}"
            st.markdown(f"**{title}**")
            if not points:
                st.text("No rate was recorded.")
                continue
            figure = behaviour_figures.over_steps(points, (step, talk.regime), level)
            st.plotly_chart(
                figure, key=f"rate {name}", config=PLAIN, alt=behaviour_figures.describe(title, points, level)
            )
    st.caption(_caption(kind, talk, reference))


def _points(here: list[Talk], name: str) -> list[Point]:
    """One point for each step and regime; conversations of one step under one regime are pooled."""
    groups: dict[tuple[int, int | None, bool], list[Talk]] = {}
    for talk in here:
        groups.setdefault((talk.step, talk.regime, talk.system), []).append(talk)
    found = []
    for (step, regime, system), talks in groups.items():
        rate = behaviour.pooled(talks, name)
        if rate is not None:
            found.append(Point(step, regime, rate, system))
    return found


def _caption(kind: str, talk: Talk, reference: tuple[int, dict[str, Rate]] | None) -> str:
    said = (
        "Bars: 95 % Wilson intervals, as if texts were independent; turns of one conversation are not. Dotted: a "
        "new regime begins, and points of two regimes are not joined."
    )
    if reference:
        return f"{said} Green: the reference checkpoint, step {reference[0]:,}, under the chosen episode's protocol."
    if kind == CHECK_IN:
        return f"{said} There is no reference to compare with yet."
    return f"{said} No self-play was held at the reference checkpoint: `lab selfplay RUN --step …` holds one."


# ------------------------------------------------------------------------------------------------------------ self-play


def _self_play(talk: Talk, data: Json, reference: tuple[int, dict[str, Rate]] | None) -> None:
    left, right = st.columns([7, 4], gap="large")
    said = behaviour.turns(data)
    with left:
        st.subheader(f"Self-play at step {talk.step:,}")
        st.html(f'<div class="bw-head">{transcript_html.MODEL_BADGE}</div>')
        if not said:
            st.text("This episode holds no turns that can be shown.")
            return
        pages, at = -(-len(said) // TURNS_PER_PAGE), 1
        if pages > 1:
            if st.session_state.setdefault("turns of", talk.id) != talk.id or st.session_state.get("turns", 1) > pages:
                st.session_state["turns of"], st.session_state["turns"] = talk.id, 1
            at = st.pagination(pages, key="turns", bind="query-params")
        st.html("".join(map(transcript_html.turn_block, said[(at - 1) * TURNS_PER_PAGE : at * TURNS_PER_PAGE])))
    with right:
        st.subheader("What was found in it")
        facts: Facts = [("Turns", f"{number(len(said))}, the topic among them")]
        facts += compared(talk, reference, "turns")
        facts += protocol(data)
        st.html(facts_block(facts))
        found = [(turn.number, mark) for turn in said for mark in turn.marks]
        if not found:
            st.text("No rule fired on any turn.")
            return
        st.html(transcript_html.places_block([(f"turn {at:,}", mark) for at, mark in found]))


def _keep(key: str, options: list[str], otherwise: str) -> None:
    """Another run, kind or step may lack what was chosen before; a widget would refuse it."""
    if key in st.session_state and st.session_state[key] not in options:
        st.session_state[key] = otherwise


@header.in_words
def _watch(records: Records, mark: tuple[int, ...]) -> None:
    """A new conversation comes in by itself."""
    if behaviour.mark(records) != mark:
        st.rerun(scope="app")


@st.cache_data(max_entries=8, show_spinner=False)
def _talks(mark: tuple[str | int, ...], _records: Records) -> list[Talk]:
    return behaviour.talks(_records)
