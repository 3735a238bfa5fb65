"""Runs: every run of the folder with its family and its disk use, what two of them were made with, export, and doctor.

Reads folders only. A run that cannot be read is listed with its problem. The run that is compared is `other` in the URL.
"""

import shlex
from functools import partial
from pathlib import Path
from typing import Any

import streamlit as st

from app import doctor, header, queries, run_queries, table_files
from app.freeze_plan import in_bytes
from app.header import Top
from app.queries import Opened, Summary
from app.run_queries import Descent
from app.verdict_text import number, short, visible
from app.views.linked import pick
from lab.run import default_root

TITLES = {"checkpoints": "Checkpoints", "records": "Records", "evidence": "Evidence", "concepts": "Concepts"}
TITLES |= {"exports": "Exports", "other": "Other"}
EXPORTS = (
    ("hf", "a Llama folder of the newest checkpoint: transformers, nnsight, lm-eval"),
    ("hooked", "a state dict for HookedTransformer 3.9"),
    ("parquet", "every table of the records"),
    ("tensorboard", "the curves as TensorBoard events"),
)
FIRST = ("metrics", "readings", "findings", "events", "entries", "claims", "verdicts")  # tables that people ask for
FORMS = {"csv": ("CSV", "text/csv", table_files.as_csv), "json": ("JSON", "application/json", table_files.as_json)}


@header.in_words
def page(top: Top) -> None:
    if top.opened is None:
        top.records_or_stop()  # says what to do, and ends the page
        return
    opened = top.opened
    st.subheader("Runs")
    top.keep_fresh(_list)
    _changes(opened)
    _export(opened)
    _doctor(opened)


# ------------------------------------------------------------------------------------------------------------- the list


@header.in_words
def _list() -> None:
    root = default_root()
    family = run_queries.family(root, queries.run_names(root))
    found = [queries.summarise(header.open_cached(root / place.name)) for place in family]
    used = [_disk(*queries.identity(root / place.name), one.step) for place, one in zip(family, found, strict=True)]
    names = ["\u2003" * place.depth + ("└ " if place.depth else "") + place.name for place in family]
    _table([_row(root, *one) for one in zip(names, family, found, strict=True)])
    for one in found:
        if one.problem is not None:
            st.text(short(visible(one.problem), 400))
    _disk_use(root, names, used)
    header.mention_foreign()


def _row(root: Path, name: str, place: Descent, summary: Summary) -> dict[str, Any]:
    words, _ = header.BADGES.get(summary.state, (summary.state, ""))
    return {
        "Run": name,
        "State": [words],
        "Kind": _kind(place),
        "Preset and shape": _shape(header.open_cached(root / place.name)),
        "Step": summary.step,
        "of": place.stop or summary.steps,
    }


def _table(rows: list[dict[str, Any]]) -> None:
    states = st.column_config.MultiselectColumn(
        options=[words for words, _ in header.BADGES.values()], color=[colour for _, colour in header.BADGES.values()]
    )
    steps = st.column_config.NumberColumn(format="localized")
    columns = {"Kind": st.column_config.TextColumn(width=190), "State": states, "Step": steps, "of": steps}
    st.dataframe(
        rows,
        hide_index=True,
        placeholder="–",
        width="stretch",
        height=_height(rows),
        column_config={"Run": st.column_config.TextColumn(pinned=True, width=300), **columns},
    )


def _disk_use(root: Path, names: list[str], used: list[dict[str, int]]) -> None:
    st.markdown("**Disk use, MB**")
    rows = [
        {"Run": name, "All": sum(one.values()) / 1e6} | {TITLES[kind]: size / 1e6 for kind, size in one.items()}
        for name, one in zip(names, used, strict=True)
    ]
    sizes = {title: st.column_config.NumberColumn(format="%.1f") for title in ("All", *TITLES.values())}
    columns = {"Run": st.column_config.TextColumn(pinned=True, width=300), **sizes}
    st.dataframe(rows, hide_index=True, width="stretch", height=_height(rows), column_config=columns)
    free, total = doctor.free_bytes(root), sum(sum(one.values()) for one in used)
    st.caption(
        f"{number(len(rows))} runs take {in_bytes(total)}{'' if free is None else f'; {in_bytes(free)} are free'}. Branches "
        "and twins stand under the run that they began from. Evidence: verdicts, proofs and statistics of the probes. "
        "Training thins superseded checkpoints itself; a run is one folder, and deleting that deletes the run."
    )


def _height(rows: list[dict[str, Any]]) -> int:
    return 38 + 35 * min(16, len(rows))


def _kind(place: Descent) -> str | None:
    """What it is to its parent, in words; a parent that is not here is named."""
    if place.parent is None:
        return None
    kinds = {"freeze": "freeze", "branch": "branch"}
    kind = place.kind or "branch"
    words = kinds.get(kind, f"{kind} twin")
    since = "" if place.step is None else f" from step {number(place.step)}"
    return short(visible(f"{words}{since}" + ("" if place.depth else f" of {place.parent}, which is not here")), 120)


def _shape(opened: Opened) -> str | None:
    if opened.run is None:
        return None
    try:
        preset, model = opened.run.config.preset, opened.run.config.model
    except queries.UNREADABLE:
        return None
    return f"{preset}, {model.n_layers} × {model.d_model}, context {model.n_ctx}"


@st.cache_data(max_entries=256, ttl=60, show_spinner=False)
def _disk(path: str, inode: int, configured: int, step: int | None) -> dict[str, int]:
    """By kind; anew when a number was recorded, or a minute has passed."""
    return run_queries.disk_use(Path(path))


# ------------------------------------------------------------------------------------------------------ what differs


def _changes(opened: Opened) -> None:
    st.subheader("What differs")
    names = [name for name in queries.run_names(opened.path.parent) if name != opened.name]
    if not names:
        st.text("There is no other run here to compare this one's configuration with.")
        return
    parents = {place.name: place.parent for place in run_queries.family(opened.path.parent, [opened.name])}
    parent = parents.get(opened.name)
    names.sort(key=lambda name: name != parent)  # what a branch is first compared with
    other = pick("The other run", names, "other", lambda name: name)
    found = run_queries.changes(opened.path, opened.path.parent / other)
    if not found:
        st.text("Nothing: both were made with the same configuration, of the same text, by the same versions.")
        return
    table = [
        {"Key": visible(one.key), opened.name: _value(one.a), f"{other} (other)": _value(one.b)}
        for one in found[: run_queries.MOST_DIFFERENCES]
    ]
    st.dataframe(table, hide_index=True, placeholder="not there", width="stretch", height=38 + 35 * min(14, len(table)))
    more = len(found) - len(table)
    st.caption(
        f"{number(len(found))} keys differ{f'; {number(more)} more are not shown' if more else ''}. Keys of `config.toml` as "
        "it was resolved, then of `manifest.json` (versions, machine, hashes of the text). All others are equal."
    )


def _value(text: str | None) -> str | None:
    return None if text is None else short(visible(text), 300)


# -------------------------------------------------------------------------------------------------------------- export


def _export(opened: Opened) -> None:
    st.subheader("Export")
    if opened.run is None or opened.records is None:
        st.text("This run cannot be read, so nothing can be exported.")
        st.text(short(visible(opened.problem or ""), 600))
        return
    name = shlex.quote(opened.name)
    width = max(len(f"lab export {name} --to {form}") for form, _ in EXPORTS)
    st.code(
        "\n".join(f"{f'lab export {name} --to {form}':<{width}}   # {words}" for form, words in EXPORTS),
        language="bash",
    )
    sizes = _sizes(*queries.identity(opened.path), opened.records.last_write_at(), opened.run.database)
    known = sorted(sizes, key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    small = [table for table in known if sizes[table] <= table_files.MOST_ROWS]
    if not small:
        st.text("No table of its records is small enough, or filled, to be had as a file here.")
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        table = pick("A table of its records", small, "table", lambda one: f"{one}, {sizes[one]:,} rows", width=320)
        for form, (title, mime, write) in FORMS.items():
            st.download_button(
                f"Download {title}",
                partial(write, opened.run.database, table),  # made when it is asked for
                f"{opened.name}-{table}.{form}",
                mime,
                key=f"download {form}",
                on_click="ignore",
            )
    large = [table for table in sizes if table not in small]
    if large:
        st.caption(
            f"Too large for a file here: {', '.join(f'{one} ({sizes[one]:,} rows)' for one in large)}. Use Parquet."
        )


@st.cache_data(max_entries=16, show_spinner=False)
def _sizes(path: str, inode: int, configured: int, written: float | None, _database: Path) -> dict[str, int]:
    return table_files.sizes(_database)


# -------------------------------------------------------------------------------------------------------------- doctor


def _doctor(opened: Opened) -> None:
    st.subheader("Doctor")
    findings = doctor.machine(opened.path.parent)
    wrong = [one for one in findings if not one.ok]
    if st.button("Examine this run", key="examine", help="Reads every checkpoint and compares it with its hashes."):
        with st.spinner("Reading its checkpoints"):
            st.session_state["examined"] = (str(opened.path), doctor.of_run(opened.path.parent, opened.name))
    path, finding = st.session_state.get("examined", (None, None))
    if finding is not None and path == str(opened.path):
        (st.success if finding.ok else st.error)("This run is whole." if finding.ok else "This run is not whole.")
        st.text(short(visible(finding.text), 1500))
    for one in wrong:
        st.error("Something here needs looking at.")
        st.text(f"{one.name}: {visible(one.text)}")
    with st.expander("This machine"):
        st.dataframe(
            [{"": "ok" if one.ok else "NO", "What": one.name, "Found": visible(one.text)} for one in findings],
            hide_index=True,
            width="stretch",
        )
    st.caption("Nothing is changed. `lab doctor` says the same of every run, and of the device.")
