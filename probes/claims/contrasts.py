"""Statements of one sentence that rank their subjects ("early … late", "first … then") as one order of the two."""

from __future__ import annotations

from collections.abc import Sequence

from probes.claims.statements import Statement, Unread


def contrast(found: Sequence[Statement | Unread]) -> list[Statement | Unread]:
    """Statements that rank their subjects by words alone ("early … late", "first … then") become one order of the two.

    A place given by number says more than the order, so it stays a band; a turn ("first") with nothing to compare is no
    claim.
    """
    joined: list[Statement | Unread] = []
    previous: Statement | None = None
    previous_at = -1
    used: set[int] = set()
    for at, item in enumerate(found):
        if (
            not isinstance(item, Statement)
            or item.rank is None
            or not item.positive
            or item.kind not in ("band", "turn", "emergence")
        ):
            previous = None
            continue
        if previous is not None and previous.a != item.a and previous.rank is not None and previous.rank != item.rank:
            a, b = (previous, item) if previous.rank < item.rank else (item, previous)
            trained = previous.in_training or item.in_training
            joined.append(
                Statement(
                    "emergence" if trained else "depth_order", a.a, min(a.start, b.start), max(a.end, b.end), b.a,
                    reading=a.reading or b.reading,
                )
            )  # fmt: skip
            used |= {at, previous_at}
        previous, previous_at = item, at
    rest: list[Statement | Unread] = []
    for at, item in enumerate(found):
        if at in used:
            continue
        if isinstance(item, Statement) and item.kind == "turn":
            item = Unread("compares with nothing that the sentence names", item.start, item.end)
        rest.append(item)
    return sorted([*joined, *rest], key=lambda item: item.start)
