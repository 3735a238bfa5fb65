"""A run as one HTML file that needs nothing else: curves, layers, journal beside evidence, concepts, findings, benchmarks.

What the app's pages show, in the order in which one would look, drawn by the same functions, so that file and app cannot
disagree. Words out of a run pass `escaped`. Reads the run folder only, without torch; the same run gives the same bytes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from app import (
    behaviour,
    bench_figures,
    bench_report,
    concept_card,
    concept_html,
    curves,
    figures,
    queries,
    report_concepts,
    report_figures,
    verdict_html,
)
from app.bench_text import rate, remarks
from app.curves import METRICS
from app.journal_rows import ClaimRow, EntryRow, journal, with_verdicts
from app.report_pieces import drawn, log_table, paragraph, side_by_side
from app.timeline import timeline
from app.transcript_html import severity_chip
from app.verdict_html import escaped, facts_block
from app.verdict_text import Facts, number, short
from lab.records import Records
from lab.run import Run

log = logging.getLogger(__name__)
UNREADABLE = (*queries.UNREADABLE, *concept_card.DAMAGED)
MOST_ENTRIES, MOST_CARDS = 60, 40  # a card with its five figures takes 60 kB
MOST_CHARACTERS = 20_000  # of an entry
MOST_FINDINGS, MOST_MOMENTS = 100, 300
MOST_WORDS = 600  # characters of a row
SHEET = """
body { max-width: 78rem; } nav a { margin-right: 1.2rem; } h3 { margin: 1.4rem 0 .4rem; }
.bw-beside { display: grid; grid-template-columns: minmax(0, 5fr) minmax(0, 7fr); gap: 1.5rem; }
.bw-card { border: 1px solid #8A8F98; border-radius: .5rem; padding: .8rem; margin: 0 0 1rem; }
.bw-two { display: grid; grid-template-columns: repeat(auto-fit, minmax(26rem, 1fr)); gap: 1.5rem; }
.bw-two > *, .bw-beside > * { min-width: 0; }
.bw-beside > :first-child { position: sticky; top: 1rem; align-self: start; }
.bw-log { max-height: 40rem; overflow: auto; }
.bw-log table { width: 100%; border-collapse: collapse; font-size: .84rem; }
.bw-log th, .bw-log td { text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; overflow-wrap: anywhere;
  border-bottom: 1px solid rgba(138,143,152,.35); font-variant-numeric: tabular-nums; }
.bw-log td:first-child, .bw-log td:nth-child(2) { white-space: nowrap; overflow-wrap: normal; }
@media (max-width: 60rem) { .bw-beside { grid-template-columns: minmax(0, 1fr); } }
"""


def report(run: Run) -> str:
    """The whole file.

    Raises:
        RecordsMissing, RecordsBroken, RunBroken: what cannot be opened at all; a damaged part is said in its place.
    """
    with run.records() as records:
        parts: dict[str, Callable[[], Iterator[str]]] = {
            "Training": lambda: _training(records),
            "Layers": lambda: _layers(records),
            "Journal": lambda: _journal(run, records),
            "Concepts": lambda: report_concepts.blocks(run, records),
            "Findings": lambda: _findings(records),
            "Timeline": lambda: _timeline(run),
            "Benchmarks": lambda: _benchmarks(records),
        }
        links = "".join(f'<a href="#{name.lower()}">{name}</a>' for name in parts)
        sections = [f"{facts_block(_about(run, records))}<nav>{links}</nav>"]
        for name, draw in parts.items():
            heading = f'<h2 id="{name.lower()}">{name}</h2>'
            sections.append(heading + "".join(_in_words(run, draw)))
    return verdict_html.document(f"Report on {run.name}", sections, concept_html.SHEET + SHEET)


def _in_words(run: Run, draw: Callable[[], Iterator[str]]) -> list[str]:
    """What a part draws; a damaged record takes away the rest of its part and says so."""
    pieces: list[str] = []
    try:
        for piece in draw():
            pieces.append(piece)
    except UNREADABLE as error:
        log.exception("a part of the report could not be drawn")
        pieces.append(paragraph(f"The rest of this part cannot be shown. {queries.in_words(run.name, error)}"))
    return pieces or [paragraph("Nothing is recorded here.")]


def _about(run: Run, records: Records) -> Facts:
    summary = queries.summarise(queries.Opened(run.name, run.path, run, records))
    model, train = run.config.model, run.config.train
    shape = f"{model.n_layers} layers × {model.d_model}, {model.n_heads} heads, context {model.n_ctx}"
    facts = [
        ("Run", f"{run.name}, {summary.state} at step {number(summary.step)} of {number(summary.steps)}"),
        ("Model", f"{shape}, vocabulary {number(model.d_vocab)}; preset {summary.preset}, seed {train.seed}"),
        ("Loss", f"{number(summary.loss)} nats per token in training"),
        ("Validation", f"{number(summary.bits_per_byte)} bits per byte"),
    ]
    if summary.last_write:
        facts.append(("Last record", f"{datetime.fromtimestamp(summary.last_write, UTC):%Y-%m-%d %H:%M} UTC"))
    layers = "0 is the embedding sum, l the residual stream after block l, before the final norm"
    return [*facts, ("Layers", layers), ("Beside this", "the same, and more of it: lab app")]


# --------------------------------------------------------------------------------------------------- curves and layers


def _training(records: Records) -> Iterator[str]:
    there, resumes = set(records.metric_names()), queries.resume_steps(records)
    blocks = []
    for at, name in enumerate(name for name in METRICS if name in there):
        points = queries.series(records, name)
        heading = f"<h3>{escaped(curves.heading(name, points))}</h3>"
        blocks.append(heading + drawn(report_figures.curve(name, points, resumes), f"curve-{at}"))
    if blocks:
        yield side_by_side(*blocks)


def _layers(records: Records) -> Iterator[str]:
    """Each task: all readings as a map, then the newest step's profile and the best layer's course."""
    tasks = figures.task_order(records.tasks())
    lexical = queries.lexical_tasks(records, tasks)
    for at, task in enumerate(tasks):
        cells = queries.cells(records, task)
        if not cells:
            continue
        step = max(figures.steps_of(cells))
        best = max((cell for cell in cells if cell.step == step), key=lambda cell: cell.value).layer
        yield f"<h3>{escaped(figures.task_title(task))}</h3>"
        if task in lexical:
            yield paragraph("Lexical: layer 0 has it already, so its profile says nothing about depth.")
        if len(figures.steps_of(cells)) > 1:
            yield drawn(figures.heat_map(cells, step, best), f"layers-{at}-map")
        profile = drawn(figures.over_layers(cells, step, best), f"layers-{at}-profile")
        course = drawn(figures.over_steps(cells, step, best), f"layers-{at}-course")
        yield side_by_side(profile, course)
        yield paragraph(f"{figures.describe(task, cells, step)} At right, layer {best} over steps.")
        yield paragraph(figures.caption(task, cells, step))


# ------------------------------------------------------------------------------------------------------------- journal


def _journal(run: Run, records: Records) -> Iterator[str]:
    """Entries with a claim before the others, the newest first; the text at left, its claims' cards at right."""
    entries = sorted(journal(records, run.evidence, data=False), key=lambda entry: not entry.claims)
    cards = 0
    for bare in entries[:MOST_ENTRIES]:
        entry = with_verdicts(records, run.evidence, bare)
        fitting = entry.claims[: max(0, MOST_CARDS - cards)]
        blocks = [_card(run, claim, at, f"claim-{cards + at}") for at, claim in enumerate(fitting, 1)]
        cards += len(fitting)
        if len(fitting) < len(entry.claims):
            blocks.append(paragraph(f"{number(len(entry.claims) - len(fitting))} more claims: lab verify, or the app."))
        yield side_by_side(_entry(entry), "".join(blocks) or paragraph("No claim about the layers."), style="bw-beside")
    if len(entries) > MOST_ENTRIES:
        yield paragraph(f"{number(len(entries) - MOST_ENTRIES)} more entries: lab journal ls, or the app.")


def _entry(entry: EntryRow) -> str:
    text = entry.text[:MOST_CHARACTERS]
    spans = [(claim.data["start"], claim.data["end"], claim.verdict) for claim in entry.claims]
    badge = verdict_html.badge(entry.author, entry.kind)
    head = f'<div class="bw-head">{badge}<span class="bw-dim">step {number(entry.step)}</span></div>'
    cut = len(entry.text) - len(text)
    more = paragraph(f"… ({number(cut)} characters more)") if cut else ""
    return f'<div class="bw-card">{head}{verdict_html.marked(text, spans)}{more}</div>'


def _card(run: Run, claim: ClaimRow, at: int, name: str) -> str:
    try:
        verdict = claim.verdicts[0][2] if claim.verdicts else None
        body = verdict_html.card_head(at, claim.data, verdict)
        if verdict is None:
            body += paragraph("Not tested yet: lab verify tests it.")
        else:
            body += verdict_html.verdict_block(verdict, name)
    except UNREADABLE:
        log.exception("a verdict could not be drawn")
        body = paragraph(
            f"Claim {at}: its verdict is damaged or of another version. lab verify {run.name} makes it again."
        )
    return f'<div class="bw-card">{body}</div>'


# ------------------------------------------------------------------------------------------- findings, past, benchmarks


def _findings(records: Records) -> Iterator[str]:
    found = behaviour.findings(records)
    if not found:
        yield paragraph("No instrument found anything.")
        return
    rows = [
        (number(one.step), severity_chip(one.severity), escaped(one.rule), escaped(short(one.text, MOST_WORDS)))
        for one in found[:MOST_FINDINGS]
    ]
    yield log_table(("step", "severity", "rule", "what"), rows)
    if len(found) > MOST_FINDINGS:
        yield paragraph(f"The newest {MOST_FINDINGS} of {number(len(found))}.")


def _timeline(run: Run) -> Iterator[str]:
    moments = timeline(run)
    rows = []
    for one in moments[::-1][:MOST_MOMENTS]:
        of = "" if one.of is None else f" of {number(one.of)}"
        counted = "" if one.count is None else f"{number(one.count)}{of} {one.unit or ', of how many was not counted'}"
        text = escaped(short(one.text, MOST_WORDS))
        rows.append((number(one.step), escaped(one.kind), text, escaped(counted)))
    if rows:
        yield log_table(("step", "kind", "what", "counted"), rows)
        yield paragraph("A first occurrence is an extreme of chance: it says little without how much was looked at.")
    if len(moments) > MOST_MOMENTS:
        yield paragraph(f"The newest {MOST_MOMENTS} of {number(len(moments))}: lab timeline has all.")


def _benchmarks(records: Records) -> Iterator[str]:
    reports: dict[str, list[Mapping[str, Any]]] = {}
    for one in bench_report.everything(records):
        reports.setdefault(one["task"], []).append(one)
    for at, (task, here) in enumerate(reports.items()):
        yield f"<h3>{escaped(short(task, 60))}</h3>"
        yield drawn(bench_figures.over_steps(here), f"benchmark-{at}")
        ways = list(dict.fromkeys(way for one in here for way in one["accuracy"]))
        rows = [
            (
                number(one["step"]),
                number(one["items"]),
                f"{one['chance']:.1%}",
                *(rate(one["accuracy"].get(way)) for way in ways),
            )
            for one in here
        ]
        cells = [[escaped(cell) for cell in row] for row in rows]
        yield log_table(("step", "items", "chance", *(escaped(way) for way in ways)), cells)
        yield paragraph(f"95 % Wilson intervals. {' '.join(remarks(here[-1]).split())}")
