"""Journal text and verdicts as HTML: blocks for the app, and one file that needs nothing else.

Every word that comes out of a run passes `escaped`; a verdict's colour is looked up by its name in our own table, so
that no text chooses how it is judged. Colours are Okabe and Ito's; each verdict differs in its underline and is named too.
"""

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from app import figures, verdict_figures
from app.verdict_text import (
    MODEL_WRITTEN,
    NO_VERDICT,
    Facts,
    Json,
    byline,
    card_facts,
    claim_facts,
    method_facts,
    number,
    reading_facts,
    readings,
    short,
    visible,
)

if TYPE_CHECKING:
    from train.profiles import Profiles


class Look(NamedTuple):
    """Colour of a verdict, ink that can be read on it, and the underline that tells it without colour."""

    rgb: tuple[int, int, int]
    ink: str
    line: str


BLACK, WHITE = "#111", "#fff"
LOOKS = {
    "SUPPORTED-STRONG": Look((0, 114, 178), WHITE, "4px double"),
    "SUPPORTED-WEAK": Look((86, 180, 233), BLACK, "2px solid"),
    "REFUTED-REVERSED": Look((213, 94, 0), BLACK, "4px double"),
    "REFUTED-EQUIVALENT": Look((230, 159, 0), BLACK, "2px solid"),
    "FREQUENCY-EXPLAINED": Look((204, 121, 167), BLACK, "2px solid"),
    "INCONCLUSIVE": Look((138, 143, 152), BLACK, "2px dashed"),
    "UNTESTABLE": Look((138, 143, 152), BLACK, "2px dotted"),
    "UNPARSED": Look((138, 143, 152), BLACK, "1px dotted"),
}
UNJUDGED = Look((240, 228, 66), BLACK, "1px dashed")

STYLE = """
.bw-text { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 26rem; overflow: auto; line-height: 1.75; }
.bw-text, .bw-quote { unicode-bidi: isolate; }
.bw-text mark { color: inherit; padding: 1px 2px; border-radius: 3px; }
.bw-chip { display: inline-block; padding: 0 .5em; border-radius: .8em; font-size: .72rem; font-weight: 600;
  line-height: 1.6; white-space: nowrap; }
.bw-model { color: #111; background: #E69F00; }
.bw-person { border: 1px solid #8A8F98; max-width: 20rem; overflow: hidden; text-overflow: ellipsis; }
.bw-head { display: flex; flex-wrap: wrap; gap: .5rem; align-items: center; margin-bottom: .35rem; }
.bw-dim { opacity: .75; font-size: .85rem; }
.bw-quote { overflow-wrap: anywhere; font-style: italic; max-height: 9rem; overflow: auto; }
.bw-wording { font-weight: 600; margin: .4rem 0; overflow-wrap: anywhere; }
dl.bw-facts.bw-facts { display: grid; grid-template-columns: minmax(6.5rem, max-content) 1fr; gap: .2rem .9rem;
  margin: .3rem 0; padding: 0; font-size: .875rem; }
.bw-facts dt { margin: 0; font-weight: 400; opacity: .75; max-width: 11rem; overflow-wrap: anywhere; }
.bw-facts dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.st-key-chosen_entry { border: 2px solid #0072B2; }
"""


def escaped(text: str) -> str:
    """Words out of a run, inert: no markup, no control character.

    >>> escaped("<img src=x>\\u202e")
    '&lt;img src=x&gt;·'
    """
    return html.escape(visible(text))


def look(verdict: str | None) -> Look:
    return LOOKS.get(verdict or "", UNJUDGED)


def chip(verdict: str | None, before: str = "") -> str:
    """A verdict's name on its colour."""
    style = look(verdict)
    colour = f"background:rgb{style.rgb};color:{style.ink}"
    return f'<span class="bw-chip" style="{colour}">{escaped(before)}{escaped(verdict or NO_VERDICT)}</span>'


def badge(author: str, kind: str) -> str:
    """Who wrote it, in two styles that cannot be taken for each other."""
    words = byline(author, kind)
    return f'<span class="bw-chip {"bw-model" if words == MODEL_WRITTEN else "bw-person"}">{escaped(short(words, 60))}</span>'


def facts_block(facts: Facts) -> str:
    rows = "".join(f"<dt>{escaped(label)}</dt><dd>{escaped(text)}</dd>" for label, text in facts)
    return f'<dl class="bw-facts">{rows}</dl>'


def marked(text: str, claims: Sequence[tuple[Any, Any, str | None]]) -> str:
    """An entry's text with its claims marked and numbered as their cards are.

    Args:
        claims: start, end and verdict of each, in order; spans that overlap share a mark, impossible ones have none.
    """
    groups: list[tuple[int, int, list[int]]] = []
    for at in sorted((i for i, c in enumerate(claims) if _within(c[0], c[1], text)), key=lambda i: claims[i][0]):
        start, end, _ = claims[at]
        if groups and start < groups[-1][1]:
            groups[-1] = (groups[-1][0], max(end, groups[-1][1]), [*groups[-1][2], at])
        else:
            groups.append((start, end, [at]))
    done, parts = 0, []
    for start, end, members in groups:
        style = look(claims[members[0]][2])
        colour = f"background:rgba{(*style.rgb, 0.22)};border-bottom:{style.line} rgb{style.rgb}"
        labels = " ".join(chip(claims[at][2], f"{at + 1} · ") for at in members)
        parts += [escaped(text[done:start]), f'<mark style="{colour}">{escaped(text[start:end])}</mark> {labels}']
        done = end
    return f'<div class="bw-text" dir="auto">{"".join(parts)}{escaped(text[done:])}</div>'


def card_head(at: int, claim: Json, verdict: Json | None) -> str:
    """Number, chip, the quoted sentence and the plain wording of a claim card."""
    name = verdict["verdict"] if verdict else None
    causal = ""
    if verdict and verdict["readings"]:
        causal = f'<span class="bw-chip bw-person">causal: {escaped(verdict["causal"])}</span>'
    head = f'<div class="bw-head"><strong>Claim {number(at)}</strong>{chip(name)}{causal}</div>'
    head += f'<div class="bw-quote" dir="auto">“{escaped(short(claim["text"], 2000))}”</div>'
    if verdict is None:
        return head + facts_block(claim_facts(claim))
    return head + f'<div class="bw-wording">{escaped(verdict["wording"])}</div>'


def report(verdicts: Sequence[Json], title: str) -> str:
    """Verdicts as one HTML file, figures and Plotly inside; byte for byte the same for the same verdicts."""
    sections = [
        f"{card_head(at, verdict['claim'], verdict)}{badge(verdict['author'], '')}{verdict_block(verdict, f'claim-{at}')}"
        for at, verdict in enumerate(verdicts, 1)
    ]
    return document(title, sections)


def verdict_block(verdict: Json, name: str) -> str:
    """Everything a verdict says below the head of its card: facts, figures, each reading, and how it was measured.

    Args:
        name: of its figures' elements; ours, and another for each verdict of a page.
    """
    first = verdict_figures.differences(verdict) or verdict_figures.positions(verdict)
    body = [facts_block(card_facts(verdict)), _drawn(first, name)]
    for at, (reading, evidence) in enumerate(readings(verdict), 1):
        body.append(facts_block(reading_facts(reading, evidence, reading == verdict["primary"])))
        body.append(_drawn(_of_reading(evidence, verdict["n_layers"]), f"{name}-{at}"))
    body.append(f"<details><summary>How it was measured</summary>{facts_block(method_facts(verdict))}</details>")
    return "".join(body)


def probe_report(run: str, probed: "Sequence[Profiles]") -> str:
    """Heat map over checkpoints where there are several, and each task's newest profile."""
    cells: dict[str, list[figures.Cell]] = {}
    for one in probed:
        for task, p in one.profiles.items():
            twin = p.baseline or (None,) * len(p.layers)
            rows = zip(p.layers, p.value, p.low, p.high, twin, strict=True)
            cells.setdefault(task, []).extend(
                figures.Cell(one.step, layer, value, low, high, p.n, base) for layer, value, low, high, base in rows
            )
    sections: list[str] = []
    for task in figures.task_order(list(cells)):
        found = cells[task]
        step, layer = max(figures.steps_of(found)), max(figures.layers_of(found))
        parts = [f"<h2>{escaped(figures.task_title(task))}</h2>"]
        if len(figures.steps_of(found)) > 1:
            parts.append(figure_block(figures.heat_map(found, step, layer), f"map-{len(sections)}"))
        parts.append(figure_block(figures.over_layers(found, step, layer), f"profile-{len(sections)}"))
        sections.append("".join([*parts, f"<p>{escaped(figures.caption(task, found, step))}</p>"]))
    refused = {(task, reason): one.step for one in probed for task, reason in one.untestable.items()}
    for (task, reason), step in refused.items():
        sections.append(f"<p>{escaped(f'{task}, step {step}: untestable: {reason}')}</p>")
    return document(f"Layers of {run}", sections)


def document(title: str, sections: Sequence[str], style: str = "") -> str:
    """One file that needs no other and no network: style, Plotly and the sections.

    Args:
        sections: HTML of escaped words and `figure_block`s; nothing else may come in.
        style: more rules, ours.
    """
    from plotly.offline import get_plotlyjs

    body = "".join(f"<section>{section}</section>" for section in sections)
    page = (
        "body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#111;background:#fff}"
        "section{border:1px solid #8A8F98;border-radius:.5rem;padding:1rem;margin:1rem 0}"
    )
    # no address may be asked for anything: what the file shows is in the file
    policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escaped(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}"><style>{page}{STYLE}{style}</style>'
        f"<script>{get_plotlyjs()}</script></head><body><h1>{escaped(title)}</h1>{body}</body></html>\n"
    )


def figure_block(figure: Any, name: str) -> str:
    """A figure's place and the call that draws it; `name` is the element's id and must be ours."""
    config = {"displayModeBar": False, "responsive": True}
    text: str = figure.to_html(full_html=False, include_plotlyjs=False, div_id=name, config=config)
    return text


def _of_reading(evidence: Json, n_layers: int) -> Any:
    return verdict_figures.over_checkpoints(evidence) or verdict_figures.profiles(evidence, n_layers)


def _drawn(figure: Any, name: str) -> str:
    if figure is None:
        return ""
    figure.update_layout(template="plotly_white")
    return figure_block(figure, name)


def _within(start: Any, end: Any, text: str) -> bool:
    return type(start) is int and type(end) is int and 0 <= start < end <= len(text)
