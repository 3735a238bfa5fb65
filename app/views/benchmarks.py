"""Benchmarks: accuracies beside chance, over steps; reasons with all their controls; and every item to look into.

Items and rationales are strangers' text and shown inert. Run, task, step, scorer and item are in the URL.
"""

import shlex
from typing import Any

import streamlit as st

from app import bench_figures, bench_report, bench_trend, header, queries
from app.bench_text import points, rate, table_lines
from app.header import Top
from app.verdict_html import STYLE, escaped, facts_block
from app.verdict_text import Facts, short, visible
from app.views import inert, linked
from lab.benchmarks import METRICS, Answer
from lab.records import Records
from probes.behaviour.reasoning import echo
from probes.behaviour.two_by_two import SOURCES
from train.benchmark_records import Reasons, answered, mark, reasoned

PLAIN = {"displayModeBar": False}
WHICH = {"all": "all", "wrong": "answered wrong", "right": "answered right"}


@header.in_words
def page(top: Top) -> None:
    opened, records = top.records_or_stop()
    seen = mark(records)
    top.keep_fresh(lambda: _watch(records, seen))
    reports = _reports((*queries.identity(opened.path), seen), records)
    if not reports:
        _nothing(opened.name)
        return
    st.html(f"<style>{STYLE}</style>")
    _all_tasks(reports)
    tasks = list(dict.fromkeys(one["task"] for one in reports))
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        task = linked.pick("Benchmark", tasks, "task", lambda name: short(visible(name), 60))
        here = [one for one in reports if one["task"] == task]
        steps = [str(one["step"]) for one in here[::-1]]
        step = int(linked.pick("Step", steps, "step", lambda name: f"{int(name):,}"))
    chosen = next(one for one in here if one["step"] == step)
    _over_steps(here, chosen)
    if chosen["reasons"]:
        _reasons(here, chosen)
    _items(records, task, step)


def _nothing(run: str) -> None:
    st.info("This run was not asked anything yet. Benchmarks come by themselves while training, or now:")
    name = shlex.quote(run)
    st.code(
        f"lab bench {name}                                # 40 items of our own\n"
        "lab data get benchmarks                       # ARC, HellaSwag, PIQA and their like, 86 MB, once\n"
        f"lab bench {name} --tasks arc_easy,piqa --with-reasons\n"
        "lab train --set 'evaluation.benchmarks=[\"lab\"]' --set evaluation.benchmarks_every=500",
        language="bash",
    )


def _all_tasks(reports: list[bench_report.Json]) -> None:
    newest = {one["task"]: one for one in reports}  # ascending by step: the last one stays
    rows = [
        {
            "Benchmark": short(visible(one["task"]), 60),
            "Step": one["step"],
            "Items": one["items"],
            "Chance": f"{one['chance']:.1%}",
            **{metric: rate(one["accuracy"].get(metric)) for metric in METRICS},
            "Bad labels explain": "–" if one["error_bound"] is None else f"≤ {one['error_bound']:.0%} of the wrong",
        }
        for one in newest.values()
    ]
    st.dataframe(rows, hide_index=True, width="stretch", placeholder="–")
    ways = "; ".join(f"{metric}: {about}" for metric, about in METRICS.items())
    st.caption(f"At the newest step of each, with 95 % Wilson intervals. {ways}. The same as `lab bench RUN --show`.")


def _over_steps(here: list[bench_report.Json], chosen: bench_report.Json) -> None:
    inert.heading(f"{short(chosen['task'], 60)} at step {chosen['step']:,}")
    left, right = st.columns([7, 4], gap="large")
    with left:
        st.plotly_chart(
            bench_figures.over_steps(here), key="over steps", config=PLAIN, alt=bench_figures.describe(chosen)
        )
    facts: Facts = [("Items", f"{chosen['items']:,}")]
    if chosen["against"]:
        change = chosen["against"]
        facts.append((f"Against step {change['step']:,}", f"{points(change)} on the same {change['items']:,} items"))
    if chosen["error_bound"] is not None:
        facts.append(("Bad labels", f"explain ≤ {chosen['error_bound']:.0%} of the wrong; {chosen['errors_source']}"))
    if chosen["contaminated"]:
        facts.append(("In the training text", f"{rate(chosen['contaminated'])}, by 13-grams"))
    facts.append(("Truncated", f"{chosen['truncated']:,} items were longer than the model reads"))
    facts.append(("Close", f"{chosen['close']:,} items with two options less than {bench_report.CLOSE} nats apart"))
    with right:
        st.html(facts_block(facts))


# -------------------------------------------------------------------------------------------------------------- reasons


def _reasons(here: list[bench_report.Json], chosen: bench_report.Json) -> None:
    found = chosen["reasons"]
    st.subheader("Reasons")
    facts: Facts = [
        ("Answer first", rate(found["without"])),
        ("Rationale first", f"{rate(found['with'])}; {points(found['change'])}"),
        ("The same answer", rate(found["agreement"])),
    ]
    st.html(facts_block(facts))
    tables = {table["scorer"]: table for table in found["tables"]}
    best = sorted(tables, key=lambda name: not tables[name]["admitted"])  # one that measures something comes first
    scorer = linked.pick("Scorer", best, "scorer", lambda name: f"{name}: {short(tables[name]['verdict'], 90)}", 720)
    table = tables[scorer]
    if not table["admitted"]:
        st.warning(
            "This scorer does not measure reasoning: it fails its admission test. Its numbers are shown for comparison."
        )
    st.caption(table["about"])
    left, right = st.columns([6, 5], gap="large")
    with left:
        figure = bench_figures.good_by_source(table)
        st.plotly_chart(figure, key="sources", config=PLAIN, alt=bench_figures.describe_table(table))
    with right:
        head = bench_figures.headline_over_steps(here, scorer)
        if head is None:
            st.text("Reasons at one step only.")
        else:
            st.plotly_chart(head, key="headline", config=PLAIN, alt="Good reasons of wrong answers over steps.")
        moved = bench_trend.trend(here, scorer)
        st.text(
            bench_trend.in_words(moved)
            if moved
            else f"With reasons at {bench_trend.LEAST_STEPS} steps, a sentence here says whether they improved while scores "
            "stood still: lab bench RUN --with-reasons --every-checkpoint"
        )
    st.code("\n".join(table_lines(table, found["reference"])), language=None)
    st.caption(
        "Rating a blind sample by hand: the page Review, or `lab review RUN --rater NAME`, `--out FILE` for a sheet."
    )


# ---------------------------------------------------------------------------------------------------------------- items


def _items(records: Records, task: str, step: int) -> None:
    st.subheader("Items")
    answers = answered(records, task, step)
    reasons = {one.item: one for one in reasoned(records, task, step)}
    which = st.segmented_control("Show", list(WHICH), default="all", required=True, key="which", bind="query-params")
    kept = {one.item.id: one for one in answers if which == "all" or one.right() is (which == "right")}
    if not kept:
        st.text("No such item.")
        return
    id = linked.pick("Item", list(kept), "item", lambda id: _title(kept[id]), 720)
    _item(kept[id], reasons.get(id))


def _title(answer: Answer) -> str:
    words = " ".join(visible(echo(answer.item) or answer.item.options[answer.item.gold]).split())
    return f"{'✓' if answer.right() else '✕'} {short(words, 90)}"


def _item(answer: Answer, reasons: Reasons | None) -> None:
    item = answer.item
    st.html(f'<div class="bw-text">{escaped(item.contexts[0])}</div>')
    rows: list[dict[str, Any]] = [
        {
            "Option": short(visible(_option(answer, at)), 300),
            "Is": " · ".join(
                word for word, here in (("gold", at == item.gold), ("chosen", at == answer.choice())) if here
            ),
            "Log-likelihood": answer.likelihood[at],
            "per character": answer.likelihood[at] / len(option),
            "without the question": answer.bare[at],
        }
        for at, option in enumerate(item.options)
    ]
    numbers = {name: st.column_config.NumberColumn(format="%.3f") for name in list(rows[0])[2:]}
    st.dataframe(rows, hide_index=True, width="stretch", column_config=numbers)
    if reasons is None:
        return
    said: list[dict[str, Any]] = [
        {
            "Rationale": SOURCES.get(source, source),
            "Text": short(visible(text), 600),
            **{scorer: round(scores[source], 3) for scorer, scores in reasons.scores.items() if source in scores},
        }
        for source, text in reasons.rationales.items()
    ]
    st.dataframe(
        said, hide_index=True, width="stretch", column_config={"Text": st.column_config.TextColumn(width="large")}
    )
    st.text(f"Rationale before the answer: {short(visible(reasons.first), 600) or '(nothing)'}")
    again = (
        "the same answer"
        if reasons.agrees
        else f"another answer: {short(visible(item.options[reasons.first_choice]), 200)}"
    )
    st.text(f"After it, {again}.")


def _option(answer: Answer, at: int) -> str:
    """An option as people read it: with its own context where contexts differ (WinoGrande)."""
    item = answer.item
    return (
        item.options[at]
        if len(set(item.contexts)) == 1
        else f"{item.contexts[at][-60:]}{item.delimiter}{item.options[at]}"
    )


@header.in_words
def _watch(records: Records, seen: int) -> None:
    """New answers come in by themselves."""
    if mark(records) != seen:
        st.rerun(scope="app")


@st.cache_data(max_entries=8, show_spinner=False)
def _reports(seen: tuple[str | int, ...], _records: Records) -> list[bench_report.Json]:
    return bench_report.everything(_records)
