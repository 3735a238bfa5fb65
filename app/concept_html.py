"""A concept's card and the proof of a freeze as blocks of HTML and facts in words.

Every word out of a run passes `escaped`; colours are looked up in our own tables, and each thing that differs in colour
differs in its words too. Nothing here reads a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app import proof_text
from app.concept_card import Card, Cost, Effect, Example
from app.concept_text import AT_QUANTILE, SHOWN, source_in_words
from app.verdict_html import BLACK, WHITE, Look, escaped
from app.verdict_text import Facts, number, short, visible

CLASSES_SHOWN = 12  # counts named one by one; WordNet has 41 supersenses
TOKENS_SHOWN = 12
ENDS = ("top", "bottom")
UNKNOWN = Look((138, 143, 152), BLACK, "")
VERDICTS: Mapping[str, Look] = {
    "FROZEN-EXACT": Look((0, 114, 178), WHITE, ""),
    "FROZEN-FUNCTIONAL": Look((86, 180, 233), BLACK, ""),
    "FROZEN-WEIGHTS-ONLY": Look((230, 159, 0), BLACK, ""),
    "NOT FROZEN": Look((213, 94, 0), WHITE, ""),
    "UNDECIDED": UNKNOWN,
}
FLAG = Look((240, 228, 66), BLACK, "")
SHEET = """
.bw-words, .bw-table { overflow: auto; }
.bw-words { max-height: 60rem; }
.bw-words table, .bw-table table { width: 100%; border-collapse: collapse; font-size: .84rem; }
.bw-words th, .bw-words td, .bw-table th, .bw-table td { border: 0; border-bottom: 1px solid rgba(138,143,152,.35);
  padding: .22rem .6rem .22rem 0; font-variant-numeric: tabular-nums; text-align: left; white-space: nowrap; }
.bw-table th { font-weight: 600; opacity: .8; }
.bw-words table { table-layout: fixed; min-width: 40rem; }
.bw-words th { padding-top: .7rem; font-weight: 600; }
.bw-words col.bw-at { width: 4.4rem; } .bw-words col.bw-class { width: 9rem; }
.bw-words td { overflow: hidden; text-overflow: ellipsis; unicode-bidi: isolate; }
.bw-words td.bw-before { padding-right: 0; }
.bw-words td.bw-before > div { display: flex; justify-content: flex-end; overflow: hidden; white-space: pre; }
.bw-words td.bw-before span { flex: none; }
.bw-words td.bw-after { white-space: pre; }
.bw-words mark { color: inherit; background: rgba(0,114,178,.22); border-bottom: 2px solid #0072B2; border-radius: 3px;
  padding: 1px 2px; }
.bw-tokens { display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: .4rem 2rem; }
.bw-tokens ol { margin: 0; padding: 0; list-style: none; font-size: .84rem; }
.bw-tokens ol.bw-tokens { padding: 0; } .bw-tokens li { display: grid; grid-template-columns: 9rem 3.6rem 1fr;
  gap: .5rem; align-items: center; margin: 0; padding: .1rem 0; font-variant-numeric: tabular-nums; }
.bw-tokens code { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; font-size: .8rem; }
.bw-bar { height: .55rem; border-radius: 2px; }
"""


def chip(words: str, look: Look) -> str:
    return f'<span class="bw-chip" style="background:rgb{look.rgb};color:{look.ink}">{escaped(short(words, 60))}</span>'


def verdict_chips(proof: Mapping[str, Any]) -> str:
    """Verdict and flags of a proof."""
    name = str(proof["verdict"])
    flags = " ".join(chip(f"flag: {flag}", FLAG) for flag in proof["flags"])
    return f'<div class="bw-head">{chip(name, VERDICTS.get(name, UNKNOWN))} {flags}</div>'


# ------------------------------------------------------------------------------------------------------------- the card


def card_facts(card: Card) -> Facts:
    """What it was found from, and how much of it can be read."""
    found = card.details
    facts: Facts = [("found from", source_in_words(found.source))] if found.source else []
    if found.counts:
        named = [f"{name} {number(count)}" for name, count in found.counts.items()]
        more = f" and {len(named) - CLASSES_SHOWN} more classes" if len(named) > CLASSES_SHOWN else ""
        where = (
            found.text and f", in {number(found.text.sentences)} sentences of {number(found.text.documents)} documents"
        )
        facts.append(("words", f"{', '.join(named[:CLASSES_SHOWN])}{more}{where or ''}"))
    if found.bits:
        bits = found.bits
        facts.append(
            (
                "readable inside",
                f"{number(bits.value)} bits per word (95 % {number(bits.low)} to {number(bits.high)}) of {number(bits.of)} "
                f"in the labels; out of fold, n = {number(bits.n)} words",
            )
        )
    return [*facts, *(("note", note) for note in found.notes)]


def floor_facts(card: Card) -> Facts:
    """How far the subspace turns by noise alone, and what taking it out costs."""
    facts: Facts = []
    floor, use, share = card.details.noise_floor, card.details.use, card.details.variance
    if floor:
        angles = ", ".join(f"{angle:.0f}°" for angle in floor.angles_degrees[:8])
        facts.append(
            (
                "noise floor",
                f"found in one half of the text and again in the other ({number(floor.splits)} splits of "
                f"{number(floor.units)} {floor.unit}s), it overlaps itself by {number(floor.overlap_median)}, rarely below "
                f"{number(floor.overlap)}; angles {angles}. A random subspace of its rank: {number(floor.random_overlap)}. "
                "What turns by less than that may not have turned at all",
            )
        )
    if use:
        for label, cost in (("without it: its tokens", use.concept), ("without it: all tokens", use.every)):
            if cost:
                facts.append((label, _cost(cost, use.subspaces)))
        if use.untestable:
            facts.append(("use not told", use.untestable))
    if share:
        facts.append(("variance", f"{share.share:.1%} of what the layer's words vary by lies in it"))
    return facts


def _cost(cost: Cost, subspaces: int) -> str:
    verdict = "so it is used" if cost.used else "so it is not shown to be used"
    return (
        f"set to its mean, the loss changes by {number(cost.erased, signed=True)} nats per token; random subspaces of equal "
        f"rank and variance ({subspaces}): {number(cost.random, signed=True)}. More by {number(cost.net.value, signed=True)} "
        f"(95 % {number(cost.net.low, signed=True)} to {number(cost.net.high, signed=True)}; n = {number(cost.tokens)} "
        f"tokens of {number(cost.sentences)} sentences), {verdict}"
    )


def fewer(examples: Mapping[str, Sequence[Example]]) -> dict[str, Sequence[Example]]:
    """The first of each group, so that all groups can be seen at once."""
    return {where: row[: SHOWN if where in ENDS else AT_QUANTILE] for where, row in examples.items()}


def words_block(examples: Mapping[str, Sequence[Example]]) -> str:
    """Held-out words from the top of the first coordinate to its bottom, each marked in its context."""
    middle = sorted((where for where in examples if where not in ENDS), key=_quantile, reverse=True)
    rows = []
    for where in ("top", *middle, "bottom"):
        if examples.get(where):
            title = where if where in ENDS else f"quantile {where}"
            rows.append(f'<tr><th colspan="4">{escaped(short(title, 40))}</th></tr>')
            rows += [_word(one) for one in examples[where]]
    columns = '<col class="bw-at"><col><col><col class="bw-class">'
    return f'<div class="bw-words"><table><colgroup>{columns}</colgroup>{"".join(rows)}</table></div>'


def _word(one: Example) -> str:
    before, after = one.before.replace("\n", " "), one.after.replace("\n", " ")
    return (
        f'<tr><td>{one.at:+.2f}</td><td class="bw-before"><div><span>{escaped(before)}</span></div></td>'
        f'<td class="bw-after"><mark>{escaped(one.word)}</mark>{escaped(after)}</td>'
        f"<td>{escaped(one.klass or '–')}</td></tr>"
    )


def _quantile(where: str) -> float:
    try:
        return float(where)
    except ValueError:
        return 0.5  # no quantile of ours; shown somewhere


def tokens_block(effect: Effect) -> str:
    """Tokens whose logit a step along the direction raises, and those that it lowers, with bars on one scale."""
    shown = [*effect.promoted[:TOKENS_SHOWN], *effect.demoted[:TOKENS_SHOWN]]
    most = max((abs(one.logit) for one in shown), default=0.0) or 1.0
    lists = []
    for title, tokens, colour in (("promotes", effect.promoted, "#0072B2"), ("demotes", effect.demoted, "#D55E00")):
        rows = "".join(
            f"<li><code>{escaped(repr(short(visible(one.token), 24)))}</code><span>{one.logit:+.2f}</span>"
            f'<div class="bw-bar" style="background:{colour};width:{min(100, 100 * abs(one.logit) / most):.0f}%"></div></li>'
            for one in tokens[:TOKENS_SHOWN]
        )
        lists.append(f'<div><div class="bw-dim">{title}</div><ol>{rows}</ol></div>')
    return f'<div class="bw-tokens">{"".join(lists)}</div>'


# ------------------------------------------------------------------------------------------------------------ the proof


def proof_block(proof: Mapping[str, Any]) -> str:
    """The measurements by model: at the freeze, in the branch afterwards, and in each twin."""
    header, *body = proof_text.rows(proof)
    head = "".join(f"<th>{escaped(cell)}</th>" for cell in header)
    rows = "".join(f"<tr>{''.join(f'<td>{escaped(cell)}</td>' for cell in row)}</tr>" for row in body)
    return f'<div class="bw-table"><table><tr>{head}</tr>{rows}</table></div>'


def table_block(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A small table of plain text."""
    head = "".join(f"<th>{escaped(cell)}</th>" for cell in header)
    lines = "".join(f"<tr>{''.join(f'<td>{escaped(short(cell, 120))}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="bw-table"><table><tr>{head}</tr>{lines}</table></div>'
