"""Home: the chosen run at a glance, the newest verdicts and findings, the timeline by steps, and every run in one table."""

import shlex
from typing import Any

import streamlit as st

from app import behaviour, concept_html, header, queries, verdict_html
from app.behaviour import Seen
from app.header import Top
from app.journal_rows import latest_verdicts
from app.queries import Opened
from app.verdict_html import escaped
from app.verdict_text import number, short, visible
from app.views import past
from lab.records import Records
from lab.run import default_root

SPARK_POINTS = 120
MOST_VERDICTS, MOST_FINDINGS = 3, 8
EXAMPLE = "Function words at lower layers, semantic concepts at higher layers."


@header.in_words
def page(top: Top, journal: Any, understanding: Any) -> None:
    """Draw the page; the others are those that a verdict and a finding link to."""
    if top.opened is None:
        top.keep_fresh(header.empty_state)
        return
    opened = top.opened
    top.keep_fresh(lambda: _newest(opened))
    if opened.records is not None:
        st.html(f"<style>{verdict_html.STYLE}{concept_html.SHEET}</style>")
        left, right = st.columns(2, gap="large")
        with left:
            _verdicts(opened, opened.records, journal)
        with right:
            _findings(opened, opened.records, understanding)
        past.section(opened)
    _all_runs()
    if opened.records is not None:
        _what_happened(opened)


@header.in_words
def _newest(opened: Opened) -> None:
    summary = queries.summarise(opened)
    if summary.problem or opened.records is None:
        header.complain(summary.problem or "This run cannot be read.")
        return
    of = f" of {summary.steps:,}" if summary.steps else ""
    cards = (
        (f"Step{of}", "", header.number(summary.step, ",d")),
        ("Loss, nats per token", "train/loss", header.number(summary.loss)),
        ("Validation, bits per byte", "validation/bits_per_byte", header.number(summary.bits_per_byte)),
        ("Tokens per second", "train/tokens_per_second", header.number(summary.tokens_per_second, ",.0f")),
    )
    loss = queries.series(opened.records, "train/loss", most=SPARK_POINTS)
    histories = [[float(step) for _, step, _ in loss], [value for _, _, value in loss]]
    for _, name, _ in cards[2:]:
        histories.append([value for _, _, value in queries.series(opened.records, name, most=SPARK_POINTS)])
    for column, (label, _, value), history in zip(st.columns(4), cards, histories, strict=True):
        with column:
            st.metric(label, value, chart_data=history or None, border=True, height="stretch")
    if summary.step is None:
        st.info("This run has recorded nothing yet. The first numbers come with its first logged step.")


def _verdicts(opened: Opened, records: Records, journal: Any) -> None:
    st.subheader("Latest verdicts")
    found = latest_verdicts(records, opened.path / "evidence", MOST_VERDICTS)
    if not found:
        st.text("No sentence about this model has been tested yet. One of yours:")
        st.code(f'lab verify {shlex.quote(opened.name)} --quick --text "{EXAMPLE}"', language="bash")
    for one in found:
        with st.container(border=True):
            st.html(
                f'<div class="bw-head">{verdict_html.chip(one.verdict)}{verdict_html.badge(one.author, "")}'
                f'<span class="bw-dim">step {number(one.step)}</span></div>'
                f'<div class="bw-quote" dir="auto">“{escaped(short(one.text, 300))}”</div>'
                f'<div class="bw-wording">{escaped(short(one.wording, 300))}</div>'
            )
            where = {"run": opened.name, "entry": str(one.entry), "claim": one.claim}
            st.page_link(journal, label=f"Its evidence, beside entry {one.entry}", query_params=where)


def _findings(opened: Opened, records: Records, understanding: Any) -> None:
    st.subheader("Latest findings")
    found = _newest_findings((*queries.identity(opened.path), *behaviour.mark(records)), records)
    if not found:
        st.text("The instruments that ride along have found nothing in this run so far.")
        return
    rows = [(number(one.step), one.severity, visible(one.rule), visible(one.text)) for one in found]
    st.html(concept_html.table_block(("step", "severity", "rule", "what"), rows))  # wraps; a grid would cut the words
    st.page_link(understanding, label="All findings, and when each rule would pause", query_params={"run": opened.name})


def _all_runs() -> None:
    root = default_root()
    st.subheader("Runs")
    found = [queries.summarise(header.open_cached(root / name)) for name in queries.run_names(root)]
    states = {state: words for state, (words, _) in header.BADGES.items()}
    table: list[dict[str, Any]] = [
        {
            "Run": s.name,
            "State": [states.get(s.state, s.state)],
            "Preset": s.preset,
            "Step": s.step,
            "of": s.steps,
            "Loss": s.loss,
            "Bits per byte": s.bits_per_byte,
            "Last write": header.clock(s.last_write),
            "Remark": s.problem,
        }
        for s in found
    ]
    if not any(s.problem for s in found):
        for row in table:
            del row["Remark"]
    st.dataframe(
        table,
        hide_index=True,
        placeholder="–",
        width="stretch",
        column_config={
            "State": st.column_config.MultiselectColumn(
                options=[words for words, _ in header.BADGES.values()],
                color=[colour for _, colour in header.BADGES.values()],
            ),
            "Step": st.column_config.NumberColumn(format="localized"),
            "of": st.column_config.NumberColumn(format="localized"),
            "Loss": st.column_config.NumberColumn("Loss, nats per token", format="%.3f"),
            "Bits per byte": st.column_config.NumberColumn("Validation, bits per byte", format="%.3f"),
            "Last write": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm:ss"),
        },
    )
    header.mention_foreign()


def _what_happened(opened: Opened) -> None:
    assert opened.records is not None
    events = queries.happenings(opened.records)
    if not events:
        return
    with st.expander(f"The newest {len(events)} events, as they were recorded"):
        table = [
            {
                "When": header.clock(e["at"]),
                "Step": e["step"],
                "What": e["kind"],
                "Text": short(visible(e["text"]), 600),
            }
            for e in events
        ]
        when = st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm:ss")
        st.dataframe(
            table,
            hide_index=True,
            placeholder="–",
            width="stretch",
            column_config={"When": when},
            alt="Events of this run, the newest first",
        )


@st.cache_data(max_entries=8, show_spinner=False)
def _newest_findings(mark: tuple[str | int, ...], _records: Records) -> list[Seen]:
    return behaviour.findings(_records)[:MOST_FINDINGS]
