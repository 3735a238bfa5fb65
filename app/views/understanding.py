"""Understanding: what holds training, what would, and what the instruments found.

Reads records only; the buttons are in `holding`. Text out of a run is shown as text. Run, step and filters are in the URL.
"""

import json

import streamlit as st

from app import behaviour, behaviour_figures, header, health_rules, queries, transcript_html
from app.behaviour import Alarms, Seen
from app.header import Top
from app.queries import Opened
from app.verdict_html import facts_block
from app.verdict_text import number, short, visible
from app.views import holding, past
from lab.records import Records
from lab.tables import SEVERITIES
from probes.behaviour import contrasts
from probes.behaviour.findings import finite

NEWEST = "newest"
MOST_ROWS = 500  # findings in the table
LONGEST = 60_000  # characters of evidence on the page
COLUMNS = ("severity", "instrument", "rule")


@header.in_words
def page(top: Top) -> None:
    opened, records = top.records_or_stop()
    assert opened.run is not None
    seen = behaviour.mark(records), header.state_of(opened)
    top.keep_fresh(lambda: _watch(opened, records, seen))
    st.html(f"<style>{transcript_html.SHEET}</style>")
    left, right = st.columns([3, 2], gap="large")
    with left:
        holding.latches(opened, records)
    with right:
        holding.asked(opened, records)
    found = _findings((*queries.identity(opened.path), *seen[0]), records)
    step = _step(found)
    kept = [one for one in found if step is None or one.step <= step]
    tally = behaviour.alarms(records, step)
    _table(records, kept, step)
    _rules(opened, records, kept, tally)
    _regimes(opened, step)


# ---------------------------------------------------------------------------------------------------------------- rules


def _rules(opened: Opened, records: Records, found: list[Seen], tally: list[Alarms]) -> None:
    assert opened.run is not None
    config = opened.run.config.understanding
    st.subheader("Rules, and when each would pause")
    every = behaviour.interval(records, config.every)
    last: dict[str, int] = {}
    for one in found:
        last.setdefault(one.rule, one.step)
    rows = []
    for rule in health_rules.RULES:
        counts = [
            f"{number(a.rate.count)} of {number(a.rate.checks)} every {a.every:,}" for a in tally if a.rule == rule.id
        ]
        fired = f"step {number(last[rule.id])}" if rule.id in last else "never"
        newest = _newest(records, rule.id)
        looks = config.contrasts_every if rule in contrasts.RULES else every
        pauses = health_rules.would_pause(rule, looks, config.observe_only)
        rows.append((rule, pauses, "; ".join(counts) or "not checked yet", f"{fired}{newest}"))
    st.html(transcript_html.rules_block(rows))
    figure = behaviour_figures.alarms_by_rule(tally)
    if figure is not None:
        with st.expander("Alarms per 1,000 checks, by interval", expanded=True):
            most = max(tally, key=lambda one: one.rate.value)
            alt = f"Alarms per 1,000 checks of {len({a.rule for a in tally})} rules; most: {visible(most.rule)}, {most.rate}."
            st.plotly_chart(figure, key="alarms", config={"displayModeBar": False}, alt=alt)
            st.caption(
                "Bars: 95 % Wilson intervals. A check is a step for rules about loss and gradients (an alarm: a step at "
                "which one becomes true) and a visit for the others, so rates of one rule at two intervals can be "
                "compared, counts cannot."
            )


def _newest(records: Records, rule: str) -> str:
    """What the rule saw last, where it looks at one number."""
    metric, unit = health_rules.NEWEST.get(rule, ("", ""))
    found = records.newest(metric) if metric else None
    return "" if found is None else f"; now {number(found[1])} {unit}"


# ------------------------------------------------------------------------------------------------------------- findings


def _step(found: list[Seen]) -> int | None:
    """The step up to which the page looks back; None: the newest."""
    notches = [str(step) for step in sorted({one.step for one in found})]
    if not notches:
        return None
    if st.session_state.get("step", NEWEST) not in [*notches, NEWEST]:  # another run or page may have had others
        st.session_state["step"] = NEWEST
    notch = st.select_slider("Up to step", [*notches, NEWEST], NEWEST, key="step", bind="query-params")
    return None if notch == NEWEST else int(notch)


def _table(records: Records, found: list[Seen], step: int | None) -> None:
    st.subheader("Findings")
    shown = _filtered(found)
    if not shown:
        none = "No finding is left by these filters." if found else "Nothing was found in this run so far."
        st.info(none)
        return
    rows = [
        {
            "Step": one.step,
            "Severity": [one.severity],
            "Rule": visible(f"{one.rule} {one.version}"),
            "Value": one.value,
            "95 %": "" if one.lo is None and one.hi is None else f"{number(one.lo)} to {number(one.hi)}",
            "What": short(visible(one.text), 600),
        }
        for one in shown[:MOST_ROWS]
    ]
    colours = ["gray", "blue", "orange", "red"]
    ids = [one.id for one in shown[:MOST_ROWS]]
    wanted = st.query_params.get("finding", "")
    linked = [at for at, id in enumerate(ids) if str(id) == wanted][:1]
    picked = st.dataframe(
        rows,
        key=f"finding {hash(tuple(ids))}",  # a selection is a place in the table: in another table it would name another
        selection_default={"selection": {"rows": linked}},
        alt="Findings, the newest first; choose a row for its evidence",
        hide_index=True,
        width="stretch",
        placeholder="–",
        height=38 + 35 * min(10, len(rows)),
        on_select="rerun",
        selection_mode="single-row",
        column_config={
            "Step": st.column_config.NumberColumn(format="localized", width="small"),
            "Severity": st.column_config.MultiselectColumn(options=SEVERITIES, color=colours, width="small"),
            "Value": st.column_config.NumberColumn(format="%.4g", width="small"),
            "What": st.column_config.TextColumn(width="large"),
        },
    )
    until = "" if step is None else f" up to step {step:,}"
    more = "" if len(shown) <= MOST_ROWS else f"; the newest {MOST_ROWS} are shown"
    st.caption(f"{len(shown):,} of {len(found):,} findings{until}{more}. Choose a row for all that was kept of it.")
    rows_picked = picked["selection"]["rows"]
    if rows_picked and rows_picked[0] < len(rows):
        st.query_params["finding"] = str(ids[rows_picked[0]])
        _finding(records, shown[rows_picked[0]])
    else:
        st.query_params.pop("finding", None)


def _filtered(found: list[Seen]) -> list[Seen]:
    chosen = {}
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        for key in COLUMNS:
            there = {getattr(one, key) for one in found}
            names = [s for s in SEVERITIES[::-1] if s in there] if key == "severity" else sorted(there)
            if key in st.session_state:
                st.session_state[key] = [name for name in st.session_state[key] if name in names]
            chosen[key] = st.multiselect(
                key.capitalize(),
                names,
                key=key,
                bind="query-params",
                width=300,
                placeholder=f"any {key}",
                format_func=_name,
            )
    return [one for one in found if all(not chosen[key] or getattr(one, key) in chosen[key] for key in COLUMNS)]


def _finding(records: Records, one: Seen) -> None:
    kept = json.dumps(finite(behaviour.evidence(records, one.id)), indent=1, ensure_ascii=False)
    where = (
        f"{number(one.value)} (95 % {number(one.lo)} to {number(one.hi)})" if one.lo is not None else number(one.value)
    )
    with st.container(border=True):
        st.html(
            transcript_html.severity_chip(one.severity)
            + facts_block(
                [("Finding", f"{one.id}, step {number(one.step)}"), ("Rule", f"{one.rule}, version {one.version}")]
            )
            + facts_block([("What", one.text), ("Value", where)])
        )
        st.caption("Evidence, as it was recorded; text in it may be the model's.")
        st.code(visible(kept[:LONGEST]), language=None, wrap_lines=True, height=260)


def _regimes(opened: Opened, step: int | None) -> None:
    rows = [row for row in past.moments(opened) if row.kind == "regime" and (step is None or row.step <= step)]
    if rows:
        st.subheader("Regimes")
        past.table(rows[::-1])
        st.caption(
            "A regime is the exact protocol behind a series; any change opens a new one, and curves break there."
        )


def _name(words: str) -> str:
    return short(visible(words), 60)


@header.in_words
def _watch(opened: Opened, records: Records, seen: tuple[tuple[int, ...], str]) -> None:
    """A new finding, latch or answer comes in by itself."""
    if (behaviour.mark(records), header.state_of(opened)) != seen:
        st.rerun(scope="app")


@st.cache_data(max_entries=8, show_spinner=False)
def _findings(mark: tuple[str | int, ...], _records: Records) -> list[Seen]:
    return behaviour.findings(_records)
