"""What a server costs the trainer beside it, as README shows it, from `serving.json`."""

from collections.abc import Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]
NAMES = {
    "nothing": "nothing",
    "idle": "an idle server",
    "serving": "{people} people at once, {tokens} tokens an answer",
}


def render(rows: Sequence[Json]) -> str:
    """The tables; "" without rows."""
    return "\n\n".join(_row(row) for row in rows)


def _row(row: Json) -> str:
    protocol, talk, waits = row["protocol"], row["talk"], row["talk"]["first_token_seconds"]
    lines = ["| beside the trainer | its step, wall | its step, CPU | wall ratio | CPU ratio | at most | windows |"]
    lines.append("|---|---|---|---|---|---|---|")
    lines += [_condition(name, row) for name in NAMES]
    what = (
        f"`{row['preset']}` shape on {row['cores']} cores: trainer {row['trainer']['threads']} thread, server "
        f"{row['server']['threads']} thread at priority {row['server']['nice']:+d}. {protocol['rounds']} rounds of blocks of "
        f"{protocol['nothing']:g}, {protocol['idle']:g} and {protocol['serving']:g} s in alternating order; medians over "
        f"windows of {protocol['window']:g} s with 95 % bootstrap intervals. Load of the machine before and after: "
        f"{row['load_average'][0]:.1f}, {row['load_average'][1]:.1f}."
    )
    said = (
        f"{talk['answers']:,} answers of {talk['checkpoints_that_answered']} checkpoints, {talk['tokens_per_second']:.0f} "
        f"tokens/s: {len(talk['errors'])} errors, {talk['refused_with_429']} refused with 429; first token after "
        f"{waits['median']:.2f} s (median), {waits['p95']:.2f} s (95 %), the wait in line included. "
        f"{talk['as_recorded']:,} of {talk['answers']:,} are as recorded; {talk['made_again_alike']} of "
        f"{talk['made_again']} made again with `lab.generate` are the same token for token."
    )
    return "\n".join([*lines, "", what, "", said])


def _condition(name: str, row: Json) -> str:
    steps, ratios, target = row["steps"][name], row["ratios"].get(name), row["targets"].get(name)
    cells = [NAMES[name].format(**row["protocol"])]
    for kind in ("wall", "cpu"):
        low, high = (1000 * one for one in steps[f"{kind}_interval"])
        cells.append(f"{1000 * steps[f'{kind}_seconds']:.1f} ms [{low:.1f}, {high:.1f}]")
    cells += [_ratio(ratios, kind) for kind in ("wall", "cpu")]
    cells.append(f"{target['at_most']:.2f}×: {'held' if target['held'] else 'missed'}" if target else "")
    return f"| {' | '.join([*cells, str(steps['windows'])])} |"


def _ratio(ratios: Json | None, kind: str) -> str:
    if ratios is None:
        return "1"
    low, high = ratios[f"{kind}_interval"]
    return f"{ratios[kind]:.3f}× [{low:.3f}, {high:.3f}]"
