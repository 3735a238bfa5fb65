"""Journal: what was written about the model at left, and at right what its activations say about each claim.

The text is the model's or a person's, never evidence: it is shown inert, with its claims marked and numbered. A card shows
what was measured. Run, entry, claim and filters are in the URL, so a disputed sentence is a link.
"""

import logging
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from app import figures, header, queries, verdict_figures, verdict_html
from app.header import Top
from app.queries import ClaimRow, EntryRow
from app.verdict_text import (
    ADJUSTED,
    NO_VERDICT,
    VERDICTS,
    Facts,
    Json,
    card_facts,
    margin,
    method_facts,
    number,
    reading_facts,
    readings,
    short,
    visible,
)
from lab.records import Records

log = logging.getLogger(__name__)
EVERYONE, EVERY_STEP = "everyone", "every step"
PER_PAGE = 8
EXCERPT = 1500  # characters of an entry that is not the chosen one
PLAIN = {"displayModeBar": False}


@header.in_words
def page(top: Top, layers: Any) -> None:
    """Draw the page; `layers` is the page that readings link to."""
    opened, records = top.records_or_stop()
    evidence = opened.path / "evidence"
    mark, seen = queries.journal_mark(records, evidence), _activity(records, evidence)
    entries = _journal((*queries.identity(opened.path), *mark), records, evidence)
    top.keep_fresh(lambda: _watch(records, evidence, mark, seen))
    if not entries:
        _nothing_written(opened.name)
        return
    st.html(f"<style>{verdict_html.STYLE}</style>")
    shown = _filtered(entries)
    if not shown:
        st.info("No entry is left by these filters.")
        return
    chosen = _chosen(shown, entries)
    left, right = st.columns([5, 7], gap="large")
    with left:
        _entries(shown, chosen)
    with right:
        _cards(opened.name, chosen, layers, records)


def _nothing_written(run: str) -> None:
    st.info("Nothing is written in this run's journal yet. A sentence of yours is tested just like the model's:")
    name = shlex.quote(run)
    st.code(
        f'lab journal add {name} --author you --text "Function words are settled at lower layers than content words."\n'
        f"lab verify {name}          # tests every claim of the journal against the model's activations",
        language="bash",
    )


def _filtered(entries: Sequence[EntryRow]) -> list[EntryRow]:
    verdicts = {claim.verdict or NO_VERDICT for entry in entries for claim in entry.claims}
    authors = [EVERYONE, *sorted({entry.author for entry in entries})]
    steps = [EVERY_STEP, *(str(step) for step in sorted({entry.step for entry in entries}, reverse=True))]
    names = [name for name in (*VERDICTS, NO_VERDICT) if name in verdicts]
    for key, options in (("author", authors), ("written", steps)):
        if st.session_state.get(key, options[0]) not in options:  # another run may lack what was chosen before
            st.session_state[key] = options[0]
    st.session_state["verdict"] = [name for name in st.session_state.get("verdict", []) if name in names]
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        author = st.selectbox("Author", authors, key="author", bind="query-params", width=220, format_func=_shown)
        step = st.selectbox("Step", steps, key="written", bind="query-params", width=160)
        wanted = st.multiselect(
            "Verdict", names, key="verdict", bind="query-params", width=420, placeholder="any verdict"
        )
    return [
        entry
        for entry in entries
        if author in (EVERYONE, entry.author)
        and step in (EVERY_STEP, str(entry.step))
        and (not wanted or any((claim.verdict or NO_VERDICT) in wanted for claim in entry.claims))
    ]


def _shown(author: str) -> str:
    return short(visible(author), 40)


def _chosen(shown: Sequence[EntryRow], entries: Sequence[EntryRow]) -> EntryRow:
    """The entry that the URL names, else the newest with a claim."""
    wanted = st.query_params.get("entry")
    for entry in shown:
        if str(entry.id) == wanted:
            return entry
    if wanted and all(str(entry.id) != wanted for entry in entries):
        st.warning("The link names an entry that is not here; another one is shown.")
    return next((entry for entry in shown if entry.claims), shown[0])


def _entries(shown: Sequence[EntryRow], chosen: EntryRow) -> None:
    pages = -(-len(shown) // PER_PAGE)
    at = 1
    if pages > 1:
        at = st.pagination(pages, default=shown.index(chosen) // PER_PAGE + 1, key="journal page")
    for entry in shown[(at - 1) * PER_PAGE : at * PER_PAGE]:
        whole = entry.id == chosen.id
        with st.container(border=True, key="chosen_entry" if whole else None):
            st.html(_entry_block(entry, whole))
            claims = f"{number(len(entry.claims))} claim{'' if len(entry.claims) == 1 else 's'}"
            if not entry.claims:
                st.caption("No claim about the layers was found in it.")
            elif whole:
                st.caption(f"{claims}, at right")
            else:
                st.button(f"Show {claims}", key=f"entry {entry.id}", on_click=_choose, args=(entry.id, None))


def _entry_block(entry: EntryRow, whole: bool) -> str:
    text = entry.text if whole else entry.text[:EXCERPT]
    spans = [(claim.data["start"], claim.data["end"], claim.verdict) for claim in entry.claims]
    when = header.clock(entry.created_at)
    where = f"step {number(entry.step)}" + (f" · {when:%Y-%m-%d %H:%M}" if when else "")
    head = (
        f'<div class="bw-head">{verdict_html.badge(entry.author, entry.kind)}<span class="bw-dim">{where}</span></div>'
    )
    more = "" if len(text) == len(entry.text) else f"… ({number(len(entry.text) - len(text))} characters more)"
    return head + verdict_html.marked(text, spans) + (f'<div class="bw-dim">{more}</div>' if more else "")


def _choose(entry: int, claim: str | None) -> None:
    st.query_params["entry"] = str(entry)
    if claim is None:
        st.query_params.pop("claim", None)
    else:
        st.query_params["claim"] = claim


def _cards(run: str, entry: EntryRow, layers: Any, records: Records) -> None:
    if not entry.claims:
        st.info("This entry says nothing about the model's layers that could be tested.")
        return
    wanted = st.query_params.get("claim")
    known = {claim.id for claim in entry.claims}
    first = next((claim.id for claim in entry.claims if claim.verdicts), entry.claims[0].id)
    chosen = wanted if wanted in known else first
    for at, claim in enumerate(entry.claims, 1):
        with st.container(border=True):
            _card(run, entry, at, claim, claim.id == chosen, layers, records)


def _card(run: str, entry: EntryRow, at: int, claim: ClaimRow, whole: bool, layers: Any, records: Records) -> None:
    try:
        _drawn_card(run, entry, at, claim, whole, layers, records)
    except (*queries.UNREADABLE, AttributeError):  # a copied run may bring a file of another version, or a forged one
        log.exception("a verdict could not be shown")
        st.error("This verdict cannot be shown.")
        st.text("Its record is damaged or of another version. This makes it again:")
        st.code(_command(run, entry), language="bash")


def _drawn_card(
    run: str, entry: EntryRow, at: int, claim: ClaimRow, whole: bool, layers: Any, records: Records
) -> None:
    verdict: Json | None = claim.verdicts[0][2] if claim.verdicts else None
    st.html(verdict_html.card_head(at, claim.data, verdict))
    if not whole:
        st.button(f"Show claim {at}", key=f"claim {claim.id}", on_click=_choose, args=(entry.id, claim.id))
        return
    if verdict is None:
        st.text("It has not been tested. This tests every claim of the entry:")
        st.code(_command(run, entry), language="bash")
        return
    delta = verdict_figures.differences(verdict)
    figure = delta or verdict_figures.positions(verdict)
    if figure is not None:
        alt = verdict_figures.describe(verdict) if delta else "Depth of A in every reading, and the region claimed."
        st.plotly_chart(figure, key=f"differences {claim.id}", config=PLAIN, alt=alt)
        if delta:
            same = f"grey band, ±{number(margin(verdict))}: the same depth"
            st.caption(f"Thick: 90 %, thin: 95 % interval; hollow: the same by another route; {same}.")
    _facts(card_facts(verdict))
    if verdict["readings"]:
        _reading(verdict, claim)
    _links(run, verdict, layers, records)
    with st.expander("How it was measured"):
        _facts(method_facts(verdict))
        older = [f"{visible(name)} at step {number(step)}" for step, name, _ in claim.verdicts[1:]]
        if older:
            st.text(f"Tested before: {', '.join(older)}")
    st.code(_command(run, entry, verdict["step"]), language="bash")


def _reading(verdict: Json, claim: ClaimRow) -> None:
    """One reading at a time: the profiles of A and B, and its numbers."""
    found = dict(readings(verdict))
    names = list(found)
    name = st.segmented_control(
        "Profiles of A and B",
        range(len(names)),
        default=0,
        required=True,
        key=f"reading {claim.id}",
        format_func=lambda at: names[at] if names[at].replace(".", "").isalpha() else f"reading {at + 1}",
    )
    chosen = names[name if isinstance(name, int) else 0]
    evidence = found[chosen]
    series = verdict_figures.over_checkpoints(evidence)
    if series is not None:
        st.plotly_chart(series, key=f"series {claim.id}", config=PLAIN, alt="Bits of A and of B over the checkpoints.")
    figure = None if series is not None else verdict_figures.profiles(evidence, verdict["n_layers"])
    if figure is not None:
        st.plotly_chart(
            figure,
            key=f"profiles {claim.id} {chosen}",
            config=PLAIN,
            alt=f"Profiles of A and B over the layers, reading {visible(chosen)}.",
        )
        twin = " Dashes: a never-trained twin." if any(_twin(evidence, side) for side in ("a", "b")) else ""
        adjusted = f" {ADJUSTED}" if evidence["reading"] == "decide" else ""
        st.caption(f"Bands: 95 %. Dotted uprights: the depth of A and of B, shaded 95 %.{twin}{adjusted}")
    _facts(reading_facts(chosen, evidence, chosen == verdict["primary"]))


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


@header.in_words
def _watch(records: Records, evidence: Path, known: tuple[int, ...], seen: tuple[float | None, int]) -> None:
    """New entries and verdicts come in by themselves; a run that nobody wrote to is not asked."""
    if _activity(records, evidence) != seen and queries.journal_mark(records, evidence) != known:
        st.rerun(scope="app")


def _activity(records: Records, evidence: Path) -> tuple[float | None, int]:
    return records.last_write_at(), queries.changed_at(evidence)


@st.cache_data(max_entries=8, show_spinner=False)
def _journal(mark: tuple[str | int, ...], _records: Records, _evidence: Path) -> list[EntryRow]:
    return queries.journal(_records, _evidence)
