"""What a second process buys, and what a tab costs, as README shows them, from `parallel.json` and `live_tab.json`."""

from collections.abc import Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]


def parallel(rows: Sequence[Json]) -> str:
    """Speeds and their ratios; "" without rows."""
    return "\n\n".join(_parallel(row) for row in rows)


def live_tab(rows: Sequence[Json]) -> str:
    """One paragraph; "" without rows."""
    return "\n\n".join(_live_tab(row) for row in rows)


def _parallel(row: Json) -> str:
    lines = ["| trainer | tokens a second, wall |", "|---|---|"]
    for name, speed in row["tokens_per_second"].items():
        low, high = speed["interval"]
        lines.append(f"| {name} | {speed['median']:,.0f} [{low:,.0f}, {high:,.0f}] |")
    ratios = [
        f"{name}: {ratio['median']:.2f}× [{ratio['interval'][0]:.2f}, {ratio['interval'][1]:.2f}]"
        for name, ratio in row["ratio_of_speeds"].items()
    ]
    what = f"`{row['preset']}` shape on two cores, nothing attached, {row['rounds']} rounds in turns; 95 % intervals."
    return "\n".join([*lines, "", f"{'; '.join(ratios)}. {what}"])


def _live_tab(row: Json) -> str:
    ratio, app, protocol = row["ratio"], row["app"], row["protocol"]
    low, high = ratio["cpu_interval"]
    loads = " and ".join(f"{load:.1f}" for load in row["load_average"])
    return (
        f"One tab that is open on a run in training costs its trainer {ratio['cpu']:.3f}× [{low:.3f}, {high:.3f}] of a "
        f"step's CPU time, and {100 * app['share_of_a_core']:.1f} % of a core in the app ({protocol['rounds']} rounds of "
        f"{protocol['nothing']:g} s with and without, `{row['preset']}` shape; load before and after: {loads})."
    )
