"""Journal: what was written about the model at left, and at right what its activations say about each claim.

The text is the model's or a person's, never evidence: it is shown inert, with its claims marked and numbered. The card at
right is `claim_card`'s. Run, entry, claim, reading and filters are in the URL, so a disputed sentence is a link.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import streamlit as st

from app import header, queries, verdict_html
from app.header import Top
from app.journal_rows import EntryRow, with_verdicts
from app.verdict_text import NO_VERDICT, VERDICTS, number, short, visible
from app.views import claim_card, note
from lab.records import Records

EVERYONE, EVERY_STEP = "everyone", "every step"
PER_PAGE = 8
EXCERPT = 1500  # characters of an entry that is not the chosen one
MOST_BUTTONS = 6  # of one entry
# from 900 px on there are two columns: the text stays in sight while the evidence at right is read
STYLE = """
@media (min-width: 900px) {
  [data-testid=stColumn]:has(.st-key-chosen_entry) { position: sticky; top: 4rem; align-self: flex-start;
    max-height: calc(100vh - 5rem); overflow-y: auto; } }
"""


@header.in_words
def page(top: Top, layers: Any) -> None:
    """Draw the page; `layers` is the page that readings link to."""
    opened, records = top.records_or_stop()
    evidence = opened.path / "evidence"
    mark, seen = queries.journal_mark(records, evidence), _activity(records, evidence)
    entries = _journal((*queries.identity(opened.path), *mark), records, evidence)
    top.keep_fresh(lambda: _watch(records, evidence, mark, seen))
    st.html(f"<style>{verdict_html.STYLE}{STYLE}</style>")
    note.forget()
    if not entries:
        _nothing_written(opened.name)
        note.field(opened)
        return
    shown = _filtered(entries)
    if not shown:
        st.info("No entry is left by these filters.")
        return
    chosen = with_verdicts(records, evidence, _chosen(shown, entries))
    claim = claim_card.chosen(chosen)
    left, right = st.columns([5, 7], gap="large")
    with left:
        note.said(opened)
        _entries(shown, chosen, claim)
        note.field(opened)
    with right:
        claim_card.show(opened.name, chosen, claim, layers, records)


def _nothing_written(run: str) -> None:
    st.info("Nothing is written in this run's journal yet. A sentence of yours is tested just like the model's:")
    name = shlex.quote(run)
    st.code(
        f'lab journal add {name} --author you --text "Function words are settled at lower layers than content words."\n'
        f"lab verify {name}          # tests every claim of the journal against the model's activations",
        language="bash",
    )


def _filtered(entries: Sequence[EntryRow]) -> list[EntryRow]:
    """Entries that the filters of verdict, step and author leave."""
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


def _entries(shown: Sequence[EntryRow], chosen: EntryRow, claim: str | None) -> None:
    pages = -(-len(shown) // PER_PAGE)
    at = 1
    if pages > 1:
        st.caption(f"{number(len(shown))} entries, the newest first")
        ids = [entry.id for entry in shown]
        at = st.pagination(pages, default=ids.index(chosen.id) // PER_PAGE + 1, key="journal page")
    for entry in shown[(at - 1) * PER_PAGE : at * PER_PAGE]:
        whole = entry.id == chosen.id
        with st.container(border=True, key="chosen_entry" if whole else None):
            st.html(_entry_block(entry, whole))
            if untestable := claim_card.none_testable(entry):
                st.caption(untestable)
            _evidence_of(entry, claim if whole else None)


def _evidence_of(entry: EntryRow, shown: str | None) -> None:
    """One button for each claim: its evidence is one click away."""
    if not entry.claims:
        return
    with st.container(horizontal=True, gap="small"):
        for at, claim in enumerate(entry.claims[:MOST_BUTTONS], 1):
            here = claim.id == shown
            st.button(
                f"Evidence{f' {at}' if len(entry.claims) > 1 else ''}",
                key=f"entry {entry.id} claim {claim.id}",
                type="primary" if here else "secondary",
                help="At right" if here else f"What was measured for claim {at}, beside the text",
                on_click=claim_card.choose,
                args=(entry.id, claim.id),
            )
        if len(entry.claims) > MOST_BUTTONS:
            st.caption(f"and {number(len(entry.claims) - MOST_BUTTONS)} more, at right once one is shown")


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


@header.in_words
def _watch(records: Records, evidence: Path, known: tuple[int, ...], seen: tuple[float | None, int]) -> None:
    """New entries and verdicts come in by themselves; a run that nobody wrote to is not asked."""
    if _activity(records, evidence) != seen and queries.journal_mark(records, evidence) != known:
        st.rerun(scope="app")


def _activity(records: Records, evidence: Path) -> tuple[float | None, int]:
    return records.last_write_at(), queries.changed_at(evidence)


@st.cache_data(max_entries=8, show_spinner=False)
def _journal(mark: tuple[str | int, ...], _records: Records, _evidence: Path) -> list[EntryRow]:
    return queries.journal(_records, _evidence, data=False)
