"""Concepts: what a subspace holds, how it came and went over training, what was frozen of it, and how to freeze it.

Reads cards, records, statistics and proofs; changes nothing. Run, concept, branch and mode, and the other side of a
comparison, are in the URL, so a view is a link. Words out of a run are shown as text.
"""

import shlex

import streamlit as st

from app import (
    behaviour,
    concept_card,
    concept_figures,
    concept_html,
    concepts,
    header,
    queries,
    shimmer_figures,
    shimmer_rows,
)
from app.concept_card import Card
from app.header import Top
from app.queries import Opened
from app.shimmer_rows import CONCEPT, Json
from app.verdict_html import STYLE, facts_block
from app.verdict_text import number, short, visible
from app.views import concepts_beside, freezes, inert
from app.views.linked import pick
from lab.concepts import names
from lab.records import Records
from lab.run import Run

PLAIN = {"displayModeBar": False}
Seen = tuple[tuple[int, ...], tuple[int, ...], str]


@header.in_words
def page(top: Top) -> None:
    opened, records = top.records_or_stop()
    assert opened.run is not None
    seen = _seen(opened, records)
    top.keep_fresh(lambda: _watch(opened, records, seen))
    st.html(f"<style>{STYLE}{concept_html.SHEET}</style>")
    there = names(opened.run)
    if not there:
        _none_yet(opened.name)
        return
    wanted = st.query_params.get("concept")
    if wanted is not None and wanted not in there and st.session_state.get("concept") not in there:
        st.warning("The link names a concept that is not here; another one is shown.")
        st.text(f"asked for: {short(visible(wanted), 60)}")
    name = pick("Concept", there, "concept", str)
    try:
        card = concept_card.card(opened.run, name)
    except concept_card.CardBroken as error:
        _broken(opened.name, name, str(error))
        card = None
    if card is not None:
        _card(card)
    _shimmer(opened, _tracks(opened), name, None if card is None else card.layer)
    concepts_beside.section(opened, records, name, card, _tracks)
    freezes.section(opened, records, name, card)


def _none_yet(run: str) -> None:
    st.info("This run has no concepts yet. A concept is a subspace of one layer that holds what tells words apart.")
    name = shlex.quote(run)
    st.code(
        f"lab concept add {name} function --task class.next                    # from a label of the probes\n"
        f'lab concept add {name} weather --words "rain,snow,wind" "table,chair,shelf"   # from two word lists\n'
        f"lab concept add {name} settled --from-claim ID                       # from a claim of the journal",
        language="bash",
    )


def _broken(run: str, name: str, problem: str) -> None:
    st.error("The card of this concept cannot be shown.")
    st.text(short(visible(problem), 600))
    quoted = shlex.quote(run)
    st.code(
        f"lab concept rm {quoted} {name}\nlab concept add {quoted} {name} --task class.next   # or as it was found before",
        language="bash",
    )


# ------------------------------------------------------------------------------------------------------------- the card


def _card(card: Card) -> None:
    details, step = card.details, card.checkpoint.step
    rank = "" if details.columns is None else f", rank **{details.columns.kept}**"
    st.markdown(
        f"Layer **{card.layer}**{rank}, found at step **{number(step)}**. {concept_figures.LAYERS.capitalize()}."
    )
    facts = concept_html.card_facts(card)
    if facts:
        st.html(facts_block(facts))
    if not (details.profile or details.histogram or details.examples or details.tokens):
        st.info("Its card holds the subspace alone: it was not found by `lab concept add`, which measures the rest.")
    left, right = st.columns(2, gap="large")
    if details.histogram is not None:
        with left:
            st.markdown("**Its classes along the first coordinate**")
            st.plotly_chart(
                concept_figures.histogram(details.histogram),
                key="histogram",
                config=PLAIN,
                alt=concept_figures.describe_histogram(details.histogram),
            )
            st.caption(concept_figures.histogram_caption(card))
    if details.profile is not None:
        with right:
            st.markdown("**Where along the layers it can be read**")
            st.plotly_chart(
                concept_figures.profile(details.profile, step or 0, card.layer),
                key="profile",
                config=PLAIN,
                alt=concept_figures.describe_profile(details.profile),
            )
            st.caption(concept_figures.profile_caption(card))
    measured = concept_html.floor_facts(card)
    if measured:
        st.html(facts_block(measured))
    _tokens(card)
    if any(details.examples.values()):
        st.markdown("**Held-out words by their place along the first coordinate**")
        every = st.toggle("Every example that the card holds", key="examples", bind="query-params")
        shown = details.examples if every else concept_html.fewer(details.examples)
        st.html(concept_html.words_block(shown))
        n = sum(map(len, shown.values()))
        st.caption(
            f"n = {number(n)} words shown: both ends, and around the quantiles between them, where most words are. Layer "
            f"{card.layer}, step {number(step)}; at right the class that the label gives, – where it gives none."
        )


def _tokens(card: Card) -> None:
    if not card.details.tokens:
        return
    st.markdown("**Tokens that a step along it promotes and demotes**")
    first, *others = card.details.tokens
    st.text(short(visible(first.direction), 120))
    st.html(concept_html.tokens_block(first))
    if others:
        with st.expander(f"The directions of {len(others)} classes"):
            for effect in others:
                st.text(short(visible(effect.direction), 120))
                st.html(concept_html.tokens_block(effect))
    st.caption(
        "Change of the logit for one unit along the direction, less its mean over the vocabulary: first order, through the "
        f"final norm's gain and the unembedding, later blocks left out. Layer {card.layer}, step "
        f"{number(card.checkpoint.step)}; the {concept_html.TOKENS_SHOWN} strongest either way."
    )


# -------------------------------------------------------------------------------------------------------------- shimmer


def _shimmer(opened: Opened, found: Json, name: str, layer: int | None) -> None:
    st.subheader("Shimmer")
    own = CONCEPT + name
    rows = [track for track in found["tracks"] if track["name"].startswith(CONCEPT)]
    rows.sort(key=lambda track: track["name"] != own)
    labels = [track for track in found["tracks"] if track["layer"] == layer and track not in rows]
    quoted = shlex.quote(opened.name)
    if not rows or rows[0]["name"] != own:
        st.info("This concept has not been followed over checkpoints yet. From the checkpoints that there are:")
        st.code(f"lab shimmer {quoted} --concept {name}", language="bash")
        st.caption(
            "Live, at every so many steps: train or resume with --set shimmer.every=100. Rows of the concepts that were "
            "in the run by then are shown here."
        )
        if own in found["untestable"]:
            st.text(f"not read: {short(visible(found['untestable'][own]), 400)}")
    if labels and st.toggle("With the labels of the probes at this layer", key="labels", bind="query-params"):
        rows += labels
    if not rows:
        return
    shown = found | {"tracks": rows, "steps": sorted({p["step"] for track in rows for p in track["points"]})}
    st.plotly_chart(
        concept_figures.readable(shimmer_figures.heat_map(rows)),
        key="shimmer",
        config=PLAIN,
        alt=shimmer_figures.describe(shown),
    )
    if rows[0]["name"] == own:
        st.html(facts_block([(name, _history(rows[0]))]))
    st.caption(shimmer_figures.caption(shown))
    inert.caption(f"How far its direction turned and which decisions changed: lab shimmer {quoted} --concept {name}")


def _history(track: Json) -> str:
    """The newest state of a track, with its births, deaths and changes of level."""
    newest = track["points"][-1]
    parts = [
        f"{track['state']} at step {number(newest['step'])}, {number(newest['bits'])} ± {number(newest['se'])} bits per word"
    ]
    for what, steps in (("born", track["births"]), ("died", track["deaths"])):
        if steps:
            parts.append(f"{what} at step {', '.join(map(number, steps))}")
    parts += [
        f"level changes at step {number(one['step'])} by {number(one['rise'], signed=True)} bits (in "
        f"{one['stability']:.0%} of bootstrap series)"
        for one in track["change_points"]
    ]
    return "; ".join(parts)


def _seen(opened: Opened, records: Records) -> Seen:
    root = opened.path.parent
    return behaviour.mark(records), concepts.mark(root, opened, records), header.state_of(opened)


@header.in_words
def _watch(opened: Opened, records: Records, seen: Seen) -> None:
    """A new concept, reading, branch or proof comes in by itself."""
    if _seen(opened, records) != seen:
        st.rerun(scope="app")


def _tracks(opened: Opened) -> Json:
    """Everything that is followed in a run; made anew when a card, a statistics file or a reading is."""
    assert opened.run is not None and opened.records is not None
    mark = concepts.mark(opened.path.parent, opened, opened.records)
    return _followed((*queries.identity(opened.path), *mark), opened.run, opened.records)


@st.cache_data(max_entries=8, show_spinner=False)
def _followed(mark: tuple[str | int, ...], _run: Run, _records: Records) -> Json:
    return shimmer_rows.followed(_run, _records)
