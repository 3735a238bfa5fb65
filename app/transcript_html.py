"""What a model said, as HTML: places that were found are marked, and what changed from one answer to another is shown.

Every word out of a run passes `escaped`; a colour is looked up by severity in our own table, so that no text chooses how it
looks. Each severity has its own underline too, and a removed word is struck through, so colour is never the only sign.
"""

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher

from app.behaviour import Mark, Said
from app.verdict_html import BLACK, STYLE, WHITE, Look, escaped
from app.verdict_text import MODEL_WRITTEN, short
from lab.tables import SEVERITIES
from probes.behaviour.findings import Rule

MOST_WORDS = 1500  # of a text that is compared word by word: in the worst case the time grows with their square
MOST_CHARACTERS = 20_000
Range = tuple[int, int]

LOOKS: Mapping[str, Look] = {
    "info": Look((138, 143, 152), BLACK, "2px dotted"),
    "watch": Look((86, 180, 233), BLACK, "2px solid"),
    "alert": Look((230, 159, 0), BLACK, "3px solid"),
    "critical": Look((213, 94, 0), WHITE, "4px double"),
}
UNKNOWN = LOOKS["info"]
MODEL_BADGE = f'<span class="bw-chip bw-model">{MODEL_WRITTEN}</span>'

SHEET = f"""{STYLE}
.bw-text ins {{ text-decoration: none; background: rgba(0,158,115,.22);
  border-radius: 3px; box-shadow: inset 0 -2px #009E73; }}
.bw-text del {{ background: rgba(213,94,0,.16); border-radius: 3px; }}
.bw-text {{ max-height: 20rem; }}
.bw-turn {{ display: grid; grid-template-columns: 2.2rem 1fr; gap: .2rem .6rem; margin: .55rem 0; }}
.bw-turn-head {{ margin-bottom: 0; }}
.bw-voice {{ width: 1.9rem; height: 1.9rem; border-radius: 50%; text-align: center; line-height: 1.9rem; font-weight: 600;
  border: 2px solid #0072B2; }}
.bw-voice-b {{ border: 2px dashed #D55E00; }}
.bw-found {{ margin: .15rem 0 0; font-size: .82rem; overflow-wrap: anywhere; }}
.bw-rules {{ overflow-x: auto; }}
.bw-rules table {{ width: 100%; border-collapse: collapse; font-size: .84rem; }}
.bw-rules th {{ text-align: left; font-weight: 600; opacity: .8; }}
.bw-rules th, .bw-rules td {{ padding: .3rem .6rem .3rem 0; border: 0; border-bottom: 1px solid rgba(138,143,152,.35);
  vertical-align: top; font-variant-numeric: tabular-nums; }}
.bw-rules code {{ white-space: nowrap; }}
"""


def severity_chip(severity: str, words: str = "") -> str:
    """A severity, or other words on its colour."""
    style = LOOKS.get(severity, UNKNOWN)
    text = words or (severity if severity in SEVERITIES else "unknown")
    return (
        f'<span class="bw-chip" style="background:rgb{style.rgb};color:{style.ink}">{escaped(short(text, 60))}</span>'
    )


def text_block(text: str, marks: Sequence[Mark] = (), changed: Sequence[Range] = (), tag: str = "ins") -> str:
    """A text with its findings marked and named, and with the ranges that changed inside `tag` (ins or del)."""
    shown = text[:MOST_CHARACTERS]
    parts, done = [], 0
    for start, end, members in _groups(shown, marks):
        worst = max(members, key=lambda one: SEVERITIES.index(one.severity) if one.severity in SEVERITIES else -1)
        style = LOOKS.get(worst.severity, UNKNOWN)
        look = f"background:rgba{(*style.rgb, 0.22)};border-bottom:{style.line} rgb{style.rgb}"
        names = " ".join(
            severity_chip(severity, rule) for rule, severity in dict.fromkeys((m.rule, m.severity) for m in members)
        )
        inside = _changed(shown, start, end, changed, tag)
        parts += [_changed(shown, done, start, changed, tag), f'<mark style="{look}">{inside}</mark> {names}']
        done = end
    parts.append(_changed(shown, done, len(shown), changed, tag))
    more = (
        "" if len(shown) == len(text) else f'<div class="bw-dim">… ({len(text) - len(shown):,} characters more)</div>'
    )
    nothing = "" if text.strip() else '<span class="bw-dim">(nothing)</span>'
    return f'<div class="bw-text" dir="auto">{"".join(parts)}{nothing}</div>{more}'


def found_block(marks: Sequence[Mark]) -> str:
    """What was found in a text, one line a finding."""
    lines = dict.fromkeys((mark.severity, mark.rule, mark.text) for mark in marks)
    return "".join(
        f'<div class="bw-found">{severity_chip(severity)} <code>{escaped(short(rule, 60))}</code> '
        f"{escaped(short(text, 400))}</div>"
        for severity, rule, text in lines
    )


def places_block(found: Sequence[tuple[str, Mark]]) -> str:
    """Where a rule fired, one line a place and rule; the places are words of ours."""
    lines = dict.fromkeys((place, mark.severity, mark.rule) for place, mark in found)
    return "".join(
        f'<div class="bw-found">{escaped(place)} {severity_chip(severity)} <code>{escaped(short(rule, 60))}</code></div>'
        for place, severity, rule in lines
    )


def turn_block(turn: Said) -> str:
    """One turn of a conversation: its voice, its text, what was found in it."""
    voice = "bw-voice" if turn.who == "A" else "bw-voice bw-voice-b"
    given = '<span class="bw-chip bw-person">topic, given by the lab</span>' if turn.given else ""
    head = f'<div class="bw-head bw-turn-head"><span class="bw-dim">turn {turn.number:,}</span>{given}</div>'
    body = f"<div>{head}{text_block(turn.text, turn.marks)}{found_block(turn.marks)}</div>"
    return f'<div class="bw-turn"><div class="{voice}">{escaped(turn.who[:1] or "?")}</div>{body}</div>'


def changes(before: str, after: str) -> tuple[list[Range], list[Range]]:
    """Characters of `before` that are gone and characters of `after` that are new, word by word.

    >>> changes("a red fox", "a blue fox")
    ([(2, 6)], [(2, 7)])
    """
    old, new = _words(before), _words(after)
    if len(old) > MOST_WORDS or len(new) > MOST_WORDS:
        return ([(0, len(before))], [(0, len(after))]) if before != after else ([], [])
    matcher = SequenceMatcher(a=[word for word, _ in old], b=[word for word, _ in new], autojunk=False)
    gone, come = [], []
    for kind, i1, i2, j1, j2 in matcher.get_opcodes():
        if kind != "equal":
            gone += [(old[i1][1], old[i2 - 1][1] + len(old[i2 - 1][0]))] if i2 > i1 else []
            come += [(new[j1][1], new[j2 - 1][1] + len(new[j2 - 1][0]))] if j2 > j1 else []
    return gone, come


def rules_block(rows: Sequence[tuple[Rule, str, str, str]]) -> str:
    """Rules as a table: (rule, when it would pause, alarms of checks, when it last fired)."""
    head = "".join(f"<th>{title}</th>" for title in ("Rule", "Fires when", "Pauses training", "Alarms", "Last fired"))
    body = "".join(
        f"<tr><td><code>{escaped(rule.id)}</code><br>{severity_chip(rule.severity)} "
        f'<span class="bw-dim">version {escaped(rule.version)}</span></td><td>{escaped(rule.definition)}</td>'
        + "".join(f"<td>{escaped(words)}</td>" for words in rest)
        + "</tr>"
        for rule, *rest in rows
    )
    return f'<div class="bw-rules"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _groups(text: str, marks: Sequence[Mark]) -> list[tuple[int, int, list[Mark]]]:
    """Places with the findings at them; those that overlap share one, impossible ones have none."""
    groups: list[tuple[int, int, list[Mark]]] = []
    for mark in sorted(marks, key=lambda one: one.start or 0):
        start, end = mark.start, min(mark.end or 0, len(text))
        if start is None or not 0 <= start < end:
            continue
        if groups and start < groups[-1][1]:
            groups[-1] = (groups[-1][0], max(end, groups[-1][1]), [*groups[-1][2], mark])
        else:
            groups.append((start, end, [mark]))
    return groups


def _changed(text: str, start: int, end: int, ranges: Sequence[Range], tag: str) -> str:
    """A slice, escaped, with those parts of it that lie in a range inside the tag."""
    parts, done = [], start
    for low, high in ranges:
        low, high = max(low, done), min(high, end)
        if low < high:
            parts += [escaped(text[done:low]), f"<{tag}>{escaped(text[low:high])}</{tag}>"]
            done = high
    return "".join([*parts, escaped(text[done:end])])


def _words(text: str) -> list[tuple[str, int]]:
    """Words with the space behind them and where each begins, so that a changed sentence is one range."""
    return [(found[0], found.start()) for found in re.finditer(r"\w+\s*|[^\w\s]\s*|\s+", text)]
