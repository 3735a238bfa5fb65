"""A claim's evidence: verdict, profiles over the layers, differences of depth, and every number of the stored verdict.

Laid out here, worded by `verdict_text`, drawn by `verdict_figures`: a card, a report and a terminal cannot disagree.
"""

import logging
import shlex
from typing import Any

import streamlit as st

from app import figures, queries, verdict_figures, verdict_html
from app.journal_rows import ClaimRow, EntryRow
from app.verdict_text import (
    ADJUSTED,
    Facts,
    Json,
    card_facts,
    margin,
    method_facts,
    number,
    reading_facts,
    readings,
    visible,
)
from app.views import linked
from lab.records import Records
from probes.claims.grammar import PARSED
from probes.claims.sentences import sentences

log = logging.getLogger(__name__)
PLAIN = {"displayModeBar": False}
MOST_COUNTED = 20_000  # characters; sentences of a longer entry are not counted for the page


def choose(entry: int, claim: str) -> None:
    """The claim becomes the view, in the URL too."""
    st.query_params["entry"], st.query_params["claim"] = str(entry), claim


def chosen(entry: EntryRow) -> str | None:
    """The claim of the entry that the URL names, else the first with a verdict; None: it has no claim."""
    wanted = st.query_params.get("claim")
    if not entry.claims:
        return None
    first = next((claim.id for claim in entry.claims if claim.verdicts), entry.claims[0].id)
    return next((claim.id for claim in entry.claims if claim.id == wanted), first)


def none_testable(entry: EntryRow) -> str | None:
    """The honest line for an entry of which nothing can be tested; None for any other."""
    if any(claim.data.get("status", PARSED) == PARSED for claim in entry.claims):
        return None
    count = sum(1 for _ in sentences(entry.text)) if len(entry.text) <= MOST_COUNTED else 0
    of = (
        "No sentence of it"
        if not count
        else f"None of its {number(count)} sentences"
        if count > 1
        else "Its one sentence"
    )
    verb = "makes no" if count == 1 else "makes a"
    if not entry.claims:
        return f"{of} {verb} claim about the layers that can be tested."
    return f"{of} {verb} claim that can be tested; what comes near one is named with the reason."


def show(run: str, entry: EntryRow, claim: str | None, layers: Any, records: Records) -> None:
    """A card for each claim of the entry, the chosen one whole."""
    if claim is None:
        st.info(none_testable(entry) or "")
        st.caption(
            "A claim says what is settled, readable, used or erased at which layers, or when in training. The grammar reads "
            "no more than that, and guesses nothing."
        )
    for at, one in enumerate(entry.claims, 1):
        with st.container(border=True):
            try:
                _card(run, entry, at, one, one.id == claim, layers, records)
            except (
                *queries.UNREADABLE,
                AttributeError,
            ):  # a copied run may bring another version's file, or a forged one
                log.exception("a verdict could not be shown")
                st.error("This verdict cannot be shown.")
                st.text("Its record is damaged or of another version. This makes it again:")
                st.code(_command(run, entry), language="bash")


def _card(run: str, entry: EntryRow, at: int, claim: ClaimRow, whole: bool, layers: Any, records: Records) -> None:
    verdict: Json | None = claim.verdicts[0][2] if claim.verdicts else None
    st.html(verdict_html.card_head(at, claim.data, verdict))
    if not whole:
        st.button(f"Show claim {at}", key=f"claim {claim.id}", on_click=choose, args=(entry.id, claim.id))
        return
    if verdict is None:
        st.text("It has not been tested. This tests every claim of the entry:")
        st.code(_command(run, entry), language="bash")
        return
    facts = _profiles(verdict, claim) if verdict["readings"] else []
    _differences(verdict, claim)
    _facts(card_facts(verdict))
    if facts:
        st.markdown("**The reading shown**")
        _facts(facts)
    _links(run, verdict, layers, records)
    with st.expander("How it was measured"):
        _facts(method_facts(verdict))
        older = [f"{visible(name)} at step {number(step)}" for step, name, _ in claim.verdicts[1:]]
        if older:
            st.text(f"Tested before: {', '.join(older)}")
    st.code(_command(run, entry, verdict["step"]), language="bash")


def _differences(verdict: Json, claim: ClaimRow) -> None:
    delta = verdict_figures.differences(verdict)
    figure = delta or verdict_figures.positions(verdict)
    if figure is None:
        return
    st.markdown("**Difference of depth, in every reading**" if delta else "**Depth of A, in every reading**")
    alt = verdict_figures.describe(verdict) if delta else "Depth of A in every reading, and the region claimed."
    st.plotly_chart(figure, key=f"differences {claim.id}", config=PLAIN, alt=alt)
    if delta:
        same = f"grey band, ±{number(margin(verdict))}: the same depth"
        st.caption(f"Thick: 90 %, thin: 95 % interval; hollow: the same by another route; {same}.")


def _profiles(verdict: Json, claim: ClaimRow) -> Facts:
    """One reading at a time: A and B over the layers, or over checkpoints. Returns its numbers in words."""
    found = dict(readings(verdict))
    names = list(found)

    def in_words(name: str) -> str:
        known = name.replace(".", "").isalpha()  # a label is Markdown, and a verdict may come from a stranger
        return name if known else f"reading {names.index(name) + 1}"

    st.markdown("**A and B over the layers**")
    chosen = linked.choose("Reading", names, "reading", in_words)
    evidence = found[chosen]
    series = verdict_figures.over_checkpoints(evidence)
    figure = None if series is not None else verdict_figures.profiles(evidence, verdict["n_layers"])
    if series is not None:
        st.plotly_chart(series, key=f"series {claim.id}", config=PLAIN, alt="Bits of A and of B over the checkpoints.")
    elif figure is not None:
        alt = f"Profiles of A and B over the layers, reading {visible(chosen)}."
        st.plotly_chart(figure, key=f"profiles {claim.id} {chosen}", config=PLAIN, alt=alt)
        twin = " Dashes: a never-trained twin." if any(_twin(evidence, side) for side in ("a", "b")) else ""
        adjusted = f" {ADJUSTED}" if evidence["reading"] == "decide" else ""
        n = f"step {number(verdict['step'])}; layer 0 is the embedding sum, layer l comes after block l"
        st.caption(
            f"Bands: 95 %. Dotted uprights: the depth of A and of B, shaded 95 %.{twin}{adjusted} {n.capitalize()}."
        )
    else:
        st.text("This reading has no curve.")
    return reading_facts(chosen, evidence, chosen == verdict["primary"])


def _twin(evidence: Json, letter: str) -> bool:
    side = evidence[letter]
    return bool(side and side["curve"] and side["curve"]["baseline"] is not None)


def _links(run: str, verdict: Json, layers: Any, records: Records) -> None:
    """To Layers, for every label of the readings that has a stored profile."""
    sides = [e[letter] for _, e in readings(verdict) for letter in ("a", "b") if e[letter] is not None]
    tasks = set(records.tasks()) & {str(side["label"]).partition(":")[0] for side in sides}  # "class.next: function"
    if not tasks:
        return
    with st.container(horizontal=True, gap="medium"):
        for task in figures.task_order(sorted(tasks)):
            if task in figures.TASKS:  # a label is Markdown to Streamlit: only names of ours
                target = {"run": run, "task": task, "step": str(verdict["step"])}
                st.page_link(layers, label=f"Layers: {task} at step {number(verdict['step'])}", query_params=target)


def _facts(facts: Facts) -> None:
    st.html(verdict_html.facts_block(facts))


def _command(run: str, entry: EntryRow, step: int | None = None) -> str:
    """What makes the verdicts of an entry, or makes them again."""
    at = "" if step is None else f" --step {int(step)}"
    return f"lab verify {shlex.quote(run)} --entry {entry.id}{at}"
