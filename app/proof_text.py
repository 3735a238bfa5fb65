"""A proof of a freeze in words and columns: the verdict, why, what is held, and each measurement by model.

Pure functions from the proof's JSON to lines, shared by the terminal, the HTML file and the app. Names are a stranger's,
so control characters are shown and not obeyed.
"""

import shutil
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from app.verdict_text import visible

Json = Mapping[str, Any]
Facts = list[tuple[str, str]]
MODELS = ("parent", "branch", "unfrozen", "random", "lower")
TITLES = {
    "parent": "at the freeze",
    "branch": "branch",
    "unfrozen": "twin, unfrozen",
    "random": "twin, random V",
    "lower": "twin, lower frozen",
}
HEADER = (
    "model",
    "V'W drift",
    "NRMSE (95 %)",
    "worst doc",
    "churn",
    "accuracy",
    "outside V",
    "used, nats",
    "ΔCE (95 %)",
)
NOTE = (
    "V'W drift: largest relative change of what a weight writes into the concept. NRMSE: drift of the concept on held-out "
    "text, in units of its spread. Churn: decisions of the frozen probe that changed. Outside V: accuracy of a new probe "
    "with the concept's subspace projected out. Used: what setting the subspace to its mean costs the concept's tokens. "
    "ΔCE: the branch's loss less this model's, nats per token."
)


def headline(proof: Json) -> str:
    """Verdict and flags."""
    flags = "".join(f"  {flag}" for flag in proof["flags"])
    return f"{proof['verdict']}{flags}"


def subject(proof: Json) -> str:
    """What was frozen, where, how and for how long."""
    concept = proof["concept"]
    rank = f"rank {concept['rank']}"
    steps = proof["to_step"] - proof["from_step"]
    held = f"mode {proof['mode']}" if proof["mode"] != "none" else "no freeze"
    return visible(
        f"{concept['name']}, layer {concept['layer']} of {proof['n_layers']}, {rank}, {held}: step {proof['from_step']} of "
        f"{proof['parent']} to step {proof['to_step']} of {proof['branch']} ({steps} steps)"
    )


def facts(proof: Json) -> Facts:
    """Label and text of what a reader needs besides the table."""
    found: Facts = [("why", visible(reason)) for reason in proof["reasons"]]
    found += [("not decided", visible(f"{what}: {why}")) for what, why in sorted(proof["undecided"].items())]
    text = proof["text"]
    found += [
        ("holds", visible(proof["says"])),
        (
            "held-out text",
            visible(
                f"{text['documents']} documents, {text['tokens']:,} tokens, {text['labelled_words']:,} labelled words in "
                f"{text['labelled_documents']} documents ({text['source']}; labels: {text['labels']})"
            ),
        ),
    ]
    drift = proof["drift"]["branch"]
    parts = ", ".join(f"{name} {value:.2g}" for name, value in drift["parts"].items())
    found.append(("drift, squared", f"{drift['raw']['value'] ** 2:.2g} = {parts}"))
    found.append(("as RMSNorm sees it", f"NRMSE {interval(drift['normed'])}, rms × {drift['rms_ratio']:.3f}"))
    if proof["drift"]["ratio"]:
        found.append(("against the twin", f"{interval(proof['drift']['ratio'])} of the unfrozen twin's drift"))
    if proof["refound"]:
        again = proof["refound"]["branch"]
        angles = ", ".join(f"{angle:.0f}°" for angle in again["angles"][:6])
        found.append(
            (
                "found again",
                f"overlap {again['overlap']:.3f}, noise alone {again['floor']:.3f} (lowest 2.5 %: {again['floor_low']:.3f}), "
                f"random {again['chance']:.3f}; angles to V: {angles}",
            )
        )
    if proof["leak"] and proof["leak"]["excess"]:
        layers = zip(proof["leak"]["layers"], proof["leak"]["excess"], strict=True)
        found.append(
            ("leak above the twin", "; ".join(f"layer {layer}: {interval(one, signed=True)}" for layer, one in layers))
        )
    return found + _resources(proof["resources"])


def rows(proof: Json) -> list[tuple[str, ...]]:
    """The table, its header first: one row a model."""
    table: list[tuple[str, ...]] = [HEADER]
    at = None
    if proof["leak"]:
        at = proof["leak"]["layers"].index(proof["concept"]["layer"])
    for name in MODELS:
        if name not in proof["decisions"]:
            continue
        decided, drift = proof["decisions"][name], proof["drift"].get(name)
        accuracy = decided["accuracy"]
        outside = proof["leak"]["models"][name]["outside"]["accuracy"][at] if at is not None else None
        used = proof["use"][name]["now"] if proof["use"] else None
        cost = proof["cost"].get(name)
        table.append(
            (
                TITLES[name],
                f"{proof['weights'][name]['largest']:.1e}" if name in proof["weights"] else "0",
                "0" if drift is None else interval(drift["raw"]),
                "" if drift is None else f"{drift['worst']:.2g}",
                "" if drift is None else f"{decided['churn']['value']:.1%}",
                "–" if accuracy is None else f"{accuracy['value']:.3f}",
                "–" if outside is None else f"{outside:.3f}",
                "–" if used is None else f"{used['value']:+.3f}",
                "" if cost is None else interval(cost, signed=True),
            )
        )
    return table


def to_text(proof: Json, width: int | None = None) -> str:
    """A proof for a terminal, wrapped to `width` characters (default: the terminal's, at most 120)."""
    width = width or min(120, shutil.get_terminal_size((100, 24)).columns)
    lines = [headline(proof), *textwrap.wrap(subject(proof), width), ""]
    table = rows(proof)
    widths = [max(len(row[column]) for row in table) for column in range(len(HEADER))]
    lines += ["  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]
    lines += ["", *textwrap.wrap(NOTE, width, initial_indent="  ", subsequent_indent="  "), ""]
    for label, text in facts(proof):
        lines += textwrap.wrap(f"{label}: {text}", width, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)


def interval(found: Mapping[str, float], signed: bool = False) -> str:
    """A value with its 95 % interval; as many digits as tell it from 0.

    >>> interval({"value": 0.054, "lo": 0.05, "hi": 0.058})
    '0.054 [0.050, 0.058]'
    """
    largest = max(abs(found[key]) for key in ("value", "lo", "hi"))
    form = ("+" if signed else "") + (".3f" if largest >= 0.001 or largest == 0 else ".1e")
    return f"{found['value']:{form}} [{found['lo']:{form}}, {found['hi']:{form}}]"


def missing(proof: Json) -> Sequence[str]:
    """Twins that are not there, each with the reason."""
    return [visible(text) for text in proof["missing"].values()]


def _resources(found: Json) -> Facts:
    parts = []
    for name, seconds in found["seconds_per_step"].items():
        times = found["times_unfrozen"].get(name)
        beside = f" ({times:.2f} × unfrozen)" if times and name != "unfrozen" else ""
        parts.append(f"{TITLES[name]} {1000 * seconds:.0f} ms{beside}")
    facts = [("a step took", ", ".join(parts))] if parts else []
    if found["frozen_copy_bytes"]:
        facts.append(("memory", f"{found['frozen_copy_bytes'] / 1e6:.1f} MB for the frozen lower copy"))
    return facts
