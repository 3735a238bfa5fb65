"""What a trace of a text says, as numbers to draw and rows to show: one value for each layer and position.

Pure functions over the JSON of `/lab/v1/trace` (`app.server_replies.Traced`). Layers are 0..L: 0 is the embedding sum, l the
residual stream after block l, before the final norm. Positions are the trace's own, from its `start` on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.verdict_text import short, visible

Json = Mapping[str, Any]
Row = dict[str, str | float | int | None]
MARKS = str.maketrans({" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍"})  # what would look like nothing
STRENGTH = "strength"
KINDS = {
    "lens": "the lens's first token",
    "next": "the token that does come next",
    "probe": "a probe",
    "concept": "a concept",
}
LAYERS = "Layer 0 is the embedding sum, layer l the residual stream after block l, before the final norm."
NOT_USED = "Linearly readable is not used: only erasing it would show what it is worth to the model."


@dataclass(frozen=True)
class Grid:
    """One reading of a text.

    Attributes:
        values: [layer][position]; None where there is nothing to read.
        words: [layer][position], what stands in a cell, where that is more than its number.
        unit: of the values; top: the most that they can be, None where nothing bounds them.
        layer: where it can be read best; None where no layer stands out.
        caption: what it says and does not say.
    """

    title: str
    unit: str
    values: Sequence[Sequence[float | None]]
    caption: str
    words: Sequence[Sequence[str]] | None = None
    top: float | None = 1.0
    layer: int | None = None

    @property
    def highest(self) -> float:
        """The end of its scale; two grids beside each other share the larger one."""
        return self.top or max([1e-6, *(value for row in self.values for value in row if value is not None)])


def token(text: str, spelled: Sequence[int] = ()) -> str:
    """A token for people: blanks are shown, and bytes that are no whole character are spelled out.

    >>> token(" cat"), token("\\n"), token("\\ufffd", [226, 128])
    ('·cat', '↵', '‹e2 80›')
    """
    if "\ufffd" in text and spelled:
        return f"‹{bytes(spelled).hex(' ')}›"
    return visible(text.translate(MARKS)) or "‹empty›"


def labels(trace: Json) -> list[str]:
    return [token(one["text"], one["bytes"]) for one in trace["tokens"]]


def kinds(trace: Json) -> list[str]:
    """Which of `KINDS` this trace can show."""
    there = {
        "lens": bool(trace.get("lens")),
        "next": bool(trace.get("lens")) and len(trace["tokens"]) > 1,
        "probe": bool(trace.get("probes")),
        "concept": bool(concepts(trace)),
    }
    return [kind for kind in KINDS if there[kind]]


def concepts(trace: Json) -> list[str]:
    """Concepts that could be scored."""
    return [name for name, found in (trace.get("concepts") or {}).items() if not found.get("problem")]


def lens_grid(trace: Json) -> Grid:
    """The likeliest next token under the lens, and its probability."""
    top = trace["lens"]["top"]
    return Grid(
        f"First token of the {trace['lens']['name']}",
        "probability",
        [[cell[0]["p"] for cell in row] for row in top],
        f"{_lens(trace)} In a cell: the token that would come next if the model stopped at that layer. {LAYERS}",
        [[token(cell[0]["text"]) for cell in row] for row in top],
        layer=len(top) - 1,
    )


def next_grid(trace: Json) -> Grid:
    """The probability, under the lens, of the token that the text goes on with."""
    values = trace["lens"]["next"]
    return Grid(
        f"Token that comes next, under the {trace['lens']['name']}",
        "probability",
        values,
        f"{_lens(trace)} The last position has no next token. {LAYERS}",
        layer=len(values) - 1,
    )


def probe_grid(trace: Json, task: str, label: str) -> Grid:
    """The probability that a probe gives to one class."""
    found = trace["probes"][task]
    at, bits = found["classes"].index(label), [one or 0.0 for one in found["usable_bits"]]
    best = max(range(len(bits)), key=bits.__getitem__)
    return Grid(
        f"Probe {task}: {label}",
        "probability",
        [[cell[at] for cell in row] for row in found["probability"]],
        f"Probability that a closed-form linear probe gives to the class, fitted on n = {found['n']:,} words of the run's "
        f"probe set at this checkpoint; on held-out words it saves {bits[0]:.3f} bits per word at layer 0 and most, "
        f"{bits[best]:.3f}, at layer {best}. It was fitted on whole words and is shown at every token. One text, so no "
        f"interval. {LAYERS} {NOT_USED}",
        layer=best,
    )


def concept_grid(trace: Json, name: str, label: str) -> Grid:
    """How strongly a concept's subspace is written to, or what its probe reads there."""
    found = trace["concepts"][name]
    about = (
        f"Concept {name}, found at layer {found['layer']}, step {found['found_at_step']}: it was measured there, and other "
        f"layers are read through the same subspace. One text, so no interval. {LAYERS}"
    )
    if label == STRENGTH:
        values = found["strength"]
        title = f"Concept {name}: distance from its mean, inside the subspace"
        return Grid(title, "length of Vᵀ(h − mean)", values, about, top=None, layer=found["layer"])
    at = found["classes"].index(label)
    values = [[cell[at] for cell in row] for row in found["probability"]]
    return Grid(f"Concept {name}: {label}", "probability", values, about, layer=found["layer"])


def concept_labels(trace: Json, name: str) -> list[str]:
    """What of a concept can be shown: its classes, and its strength."""
    found = trace["concepts"][name]
    return [*(found["classes"] or [] if found.get("probability") else []), STRENGTH]


# ----------------------------------------------------------------------------------------------------- one cell in rows


def top_rows(trace: Json, layer: int, at: int) -> list[Row]:
    """The lens's likeliest next tokens at a cell."""
    return [
        {"Next token": token(one["text"]), "Id": one["id"], "Probability": one["p"]}
        for one in trace["lens"]["top"][layer][at]
    ]


def reading_rows(trace: Json, layer: int, at: int) -> list[Row]:
    """What every probe and concept says at a cell: its likeliest class, and how much to believe it."""
    rows: list[Row] = []
    for name, found in (trace.get("probes") or {}).items():
        label, share = _likeliest(found["classes"], found["probability"][layer][at])
        bits = found["usable_bits"][layer]
        rows.append(
            {"Reading": name, "Likeliest class": label, "Probability": share, "Usable bits": bits, "Words": found["n"]}
        )
    for name in concepts(trace):
        found = trace["concepts"][name]
        row: Row = {"Reading": f"concept {name}", "Strength": found["strength"][layer][at]}
        if found.get("probability"):
            row["Likeliest class"], row["Probability"] = _likeliest(found["classes"], found["probability"][layer][at])
        rows.append(row)
    return rows


def problems(trace: Json) -> list[str]:
    """Why something could not be read, in words."""
    said = list(dict.fromkeys((trace.get("untestable") or {}).values()))  # lens and probes often lack the same thing
    said += [found["problem"] for found in (trace.get("concepts") or {}).values() if found.get("problem")]
    return [short(visible(words), 400) for words in said]


def few(steps: Sequence[int], chosen: int, most: int) -> list[int]:
    """At most so many of the stored steps: the first, the last, the chosen one, and others evenly spread over the list.

    >>> few([0, 1, 2, 4, 8, 16, 32, 64], 8, 4)
    [0, 4, 8, 64]
    """
    known = sorted(set(steps))
    if len(known) <= most:
        return known
    spread = [known[round(i * (len(known) - 1) / (most - 1))] for i in range(most)]
    if chosen in known and chosen not in spread:
        near = min(spread[1:-1], key=lambda step: abs(known.index(step) - known.index(chosen)))
        spread[spread.index(near)] = chosen
    return sorted(set(spread))


def _likeliest(classes: Sequence[str], shares: Sequence[float]) -> tuple[str, float]:
    at = max(range(len(shares)), key=shares.__getitem__)
    return visible(classes[at]), shares[at]


def _lens(trace: Json) -> str:
    name = trace["lens"]["name"]
    how = "each layer mapped to the last by least squares, fitted on other text; it is not the model."
    if name.startswith("logit"):
        how = "a layer read with the model's own head, unadjusted; early layers do not speak its language."
    return f"{name.capitalize()}: {how}"
