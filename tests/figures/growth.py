"""How costs grow, as README shows it, from `growth.json`."""

from collections.abc import Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]


def render(rows: Sequence[Json]) -> str:
    """The table; "" without rows."""
    if not rows:
        return ""
    lines = [
        "| quantity | operation | sizes | CPU time, smallest and largest | exponent k over all sizes | k of a + b·nᵏ |"
    ]
    lines.append("|---|---|---|---|---|---|")
    lines += [_row(row) for row in rows]
    return "\n".join(lines)


def _row(row: Json) -> str:
    sizes, seconds, beside = row["sizes"], row["cpu_seconds"], row["beside_constant"]
    span = f"{sizes[0]:,} to {sizes[-1]:,} ({len(sizes)})"
    cells = [row["quantity"], row["operation"], span, f"{_time(seconds[0])} → {_time(seconds[-1])}"]
    cells += [_exponent(row["power_law"]), _beside(beside, row["at_most"])]
    return f"| {' | '.join(cells)} |"


def _beside(found: Json, at_most: float) -> str:
    if found["exponent"] is None:
        return "flat"
    constant = found["constant_share"]
    share = f"{constant:.0%} of the smallest" if constant >= 0.005 else "none"
    worse = f"; **more than the {at_most:g} it should be**" if found["interval"][0] > at_most else ""
    return f"{_exponent(found)}; constant: {share}{worse}"


def _exponent(found: Json) -> str:
    low, high = found["interval"]
    return f"{found['exponent']:.2f} [{low:.2f}, {high:.2f}]"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.3g} ms"
