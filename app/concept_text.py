"""A concept's card as text for a terminal: where it lies, what it promotes, how its classes part, what erasing it costs.

Pure functions from the card (plain data) to lines. Words are the run's own text or a stranger's, so control characters
are shown and not obeyed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

from app.verdict_text import short, visible

Json = Mapping[str, Any]
BARS = " ▁▂▃▄▅▆▇█"
SHOWN = 6  # examples at either end
AT_QUANTILE = 2
WIDTH = 120


def to_text(card: Json) -> str:
    """Everything of a card, a section after another."""
    details: Json = card["details"]
    sections = [
        _head(card),
        _notes(details),
        _profile(details.get("profile"), card["layer"]),
        _floor(details.get("noise_floor")),
        _use(details.get("use"), details.get("variance")),
        _tokens(details.get("tokens", [])),
        _histogram(details.get("histogram"), card["classes"]),
        _examples(details.get("examples", {})),
    ]
    return "\n\n".join("\n".join(lines) for lines in sections if lines)


def row(card: Json) -> dict[str, Any]:
    """One line of a listing."""
    details: Json = card["details"]
    bits = details.get("bits")
    return {
        "name": card["name"],
        "layer": card["layer"],
        "rank": details.get("columns", {}).get("kept"),
        "classes": list(card["classes"]),
        "step": card["checkpoint"].get("step"),
        "bits": bits["value"] if bits else None,
        "source": source_in_words(details.get("source", {})),
    }


def source_in_words(source: Json) -> str:
    """What it was found from, in a few words."""
    kind, origin = source.get("kind"), source.get("origin", {})
    claim = f" (claim {origin['claim']})" if "claim" in origin else ""
    if kind == "task":
        only = f", {' against '.join(source['classes'])}" if source.get("classes") else ""
        return f"labels {source['task']}{only}{claim}"
    if kind == "groups":
        return f"{source['target']} words, {' against '.join(source['names'])}{claim}"
    if kind == "words":
        return f"words {' against '.join(source['names'])}"
    if kind == "sentences":
        return f"sentences {' against '.join(source['names'])}"
    if kind == "prompts":
        return f"{len(source['pairs'])} pairs of prompts"
    if kind == "file":
        at = "" if source.get("row") is None else f", row {source['row']}"
        return f"file {', '.join(source['files'])}: {source['tensor']}{at}"
    return "unknown"


def _head(card: Json) -> list[str]:
    details: Json = card["details"]
    columns, text = details.get("columns", {}), details.get("text", {})
    lines = [
        f"{card['name']}: {columns.get('kept')} dimensions at layer {card['layer']}, step {card['checkpoint'].get('step')}",
        f"from {visible(source_in_words(details.get('source', {})))}; {details.get('layers', '')}",
    ]
    if details.get("counts"):
        counts = ", ".join(f"{visible(name)} {details['counts'][name]}" for name in card["classes"])
        lines.append(f"words: {counts} (in {text.get('sentences')} sentences of {text.get('documents')} documents)")
    if details.get("bits"):
        bits = details["bits"]
        lines.append(
            f"readable inside: {_interval(bits)} bits per word of {bits['of']:.3f} (out of fold, n {bits['n']})"
        )
    return lines


def _notes(details: Json) -> list[str]:
    notes = (wrap(f"note: {visible(note)}", WIDTH, subsequent_indent="      ") for note in details.get("notes", []))
    return [line for lines in notes for line in lines]


def _profile(profile: Json | None, chosen: int) -> list[str]:
    if not profile:
        return []
    most = max(*profile["value"], 1e-9)
    lines = ["usable bits by layer (0 = embedding sum), out of fold, with 95 % interval:"]
    for at, layer in enumerate(profile["layers"]):
        value, low, high = (profile[key][at] for key in ("value", "low", "high"))
        mark = " <-" if layer == chosen else ""
        lines.append(f"  {layer:3d}  {value:6.3f} [{low:.3f}, {high:.3f}]  {_bar(value / most, 20):20}{mark}")
    return lines


def _floor(floor: Json | None) -> list[str]:
    if not floor:
        return []
    angles = ", ".join(f"{angle:.0f}°" for angle in floor["angles_degrees"][:8])
    return [
        f"noise floor ({floor['splits']} splits of {floor['units']} {floor['unit']}s in half): angles {angles}; "
        f"overlap {floor['overlap_median']:.3f}, rarely below {floor['overlap']:.3f}; "
        f"random subspaces {floor['random_overlap']:.3f}"
    ]


def _use(use: Json | None, variance: Json | None) -> list[str]:
    if not use:
        return []
    share = f" ({variance['share']:.1%} of the layer's variance)" if variance else ""
    lines = [
        f"erasing it{share}, nats per token, against {use['subspaces']} random subspaces of equal rank and variance:"
    ]
    for which in ("concept", "all"):
        if which in use:
            cost = use[which]
            verdict = "used" if cost["used"] else "not shown to be used"
            costs = f"{cost['erased']:+.4f}, random {cost['random']:+.4f}; more by {_interval(cost['net'], 4)}"
            n = f"{cost['tokens']} tokens, {cost['sentences']} sentences"
            lines.append(f"  {which:8} tokens: {costs} ({verdict}; {n})")
    if "untestable" in use:
        lines.append(f"  not told: {visible(use['untestable'])}")
    return lines


def _tokens(effects: Sequence[Json]) -> list[str]:
    lines = (
        ["tokens that a step along it promotes and demotes (first order, straight to the logits):"] if effects else []
    )
    for one in effects:
        lines.append(f"  {visible(one['direction'])}")
        for way in ("promoted", "demoted"):
            shown = "  ".join(f"{_quoted(token['token'])} {token['logit']:+.2f}" for token in one[way][:8])
            lines.append(f"    {way:8}  {shown}")
    return lines


def _histogram(histogram: Json | None, classes: Sequence[str]) -> list[str]:
    if not histogram:
        return []
    edges, counts = histogram["edges"], histogram["counts"]
    lines = [f"first coordinate, {edges[0]:.2f} to {edges[-1]:.2f}, each class on its own scale:"]
    width = max(len(visible(name)) for name in counts)
    for name in classes or counts:
        most = max(*counts[name], 1)
        bars = "".join(BARS[-(-8 * count // most)] for count in counts[name])
        lines.append(f"  {visible(name):{width}}  |{bars}|  n {sum(counts[name])}")
    return lines


def _examples(examples: Mapping[str, Sequence[Json]]) -> list[str]:
    if not examples:
        return []
    lines = ["held-out words by their place along the first coordinate:"]
    for where in ("top", *sorted(set(examples) - {"top", "bottom"}, key=float, reverse=True), "bottom"):
        end, found = where in ("top", "bottom"), examples[where]
        lines.append(f"  {where if end else 'quantile ' + where}")
        for one in found[: SHOWN if end else AT_QUANTILE]:
            known = f"  ({visible(one['class'])})" if one.get("class") else ""
            context = f"{visible(one['before'])[-40:]}[{visible(one['word'])}]{visible(one['after'])[:30]}"
            lines.append(f"    {one['at']:+7.2f}  {' '.join(context.split())}{known}")
    return lines


def _interval(found: Json, digits: int = 3) -> str:
    return f"{found['value']:.{digits}f} [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"


def _bar(share: float, width: int) -> str:
    return "█" * max(0, min(width, round(share * width)))


def _quoted(token: str) -> str:
    return repr(short(visible(token), 16))
