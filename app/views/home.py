"""Home: the chosen run at a glance, every run in one table, what happened last, and the timeline by steps."""

from typing import Any

import streamlit as st

from app import header, queries
from app.header import Top
from app.queries import Opened
from app.views import past
from lab.run import default_root

SPARK_POINTS = 120


@header.in_words
def page(top: Top) -> None:
    if top.opened is None:
        top.keep_fresh(header.empty_state)
        return
    opened = top.opened
    top.keep_fresh(lambda: _newest(opened))
    _all_runs()
    if opened.records is not None:
        _what_happened(opened)
        past.section(opened)


@header.in_words
def _newest(opened: Opened) -> None:
    summary = queries.summarise(opened)
    if summary.problem or opened.records is None:
        header.complain(summary.problem or "This run cannot be read.")
        return
    of = f" of {summary.steps:,}" if summary.steps else ""
    cards = (
        (f"Step{of}", "", header.number(summary.step, ",d")),
        ("Training loss, nats per token", "train/loss", header.number(summary.loss)),
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
    st.subheader("What happened")
    table = [{"When": header.clock(e["at"]), "Step": e["step"], "What": e["kind"], "Text": e["text"]} for e in events]
    st.dataframe(
        table,
        hide_index=True,
        placeholder="–",
        width="stretch",
        column_config={"When": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm:ss")},
    )
