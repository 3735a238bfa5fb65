"""A long run watched from outside, as README shows it, from `soak.json`."""

from collections.abc import Mapping, Sequence
from typing import Any

Json = Mapping[str, Any]


def render(rows: Sequence[Json]) -> str:
    """A table and what it is of; "" without rows."""
    return "\n\n".join(_row(row) for row in rows)


def _row(row: Json) -> str:
    every = ", ".join(f"{name.replace('_', '-')} {steps:,}" for name, steps in row["every"].items())
    samples, minutes = row["samples"], row["samples"][-1]["seconds"] / 60
    said = (
        f"{row['steps']:,} steps of `{row['preset']}` with everything attached (batch {row['batch']}; steps between visits: "
        f"{every}), {minutes:.0f} minutes, one thread; {len(samples)} samples from outside, judged from step "
        f"{row['from_step']:,} on."
    )
    resident, rows, (early, late) = row["resident"], row["rows"], row["rows_per_step_by_half"]
    flat = "flat" if row["resident_is_flat"] else "not flat"
    halves = f"{early:.3f} a step in the first half, {late:.3f} in the second"
    lines = [
        "| what | measured |",
        "|---|---|",
        f"| resident size of the trainer, first to last step | {resident['mean_bytes'] / 1e6:.0f} MB, {_growth(resident)}: "
        f"{flat} within 5 % |",
        f"| of that, what is no mapped file | {_growth(row['anonymous'])} |",
        f"| rows of the database | {halves}; exponent {_exponent(rows)} |",
        f"| size of the database | {row['bytes_per_row']:.0f} bytes a row, {samples[-1]['database_bytes'] / 1e6:.0f} MB |",
    ]
    for bounded, title in ((True, "an answer of bounded size"), (False, "a list of everything")):
        found = [_query(name, one) for name, one in row["queries"].items() if one["bounded"] == bounded]
        span = f"from {rows['first']:,} to {rows['last']:,} rows"
        lines.append(f"| {title}, {span}: CPU time, and its exponent over rows | {'; '.join(found)} |")
    return "\n".join([said, "", *lines])


def _query(name: str, one: Json) -> str:
    return f"{name} {one['first_ms']:.1f} → {one['last_ms']:.1f} ms, {_exponent(one)}"


def _growth(found: Json) -> str:
    low, high = found["interval"]
    return f"{found['growth']:+.1%} [{low:+.1%}, {high:+.1%}], spread {found['spread']:.1%}"


def _exponent(found: Json) -> str:
    low, high = found["interval"]
    return f"{found['exponent']:.2f} [{low:.2f}, {high:.2f}]"
