"""What a reading of the layers found about A, or about A against B: plain numbers, made by `compare`, `lens` and `erase`.

`probes.claims.verdict` decides from these; files, tables and figures show them. Depths are relative: 0 = the embedding
sum, 1 = after the last block, before the final norm. Nothing here computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

ReadingName = Literal["decide", "decode", "use"]
Target = Literal["current", "next"]


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    lo: float
    hi: float


@dataclass(frozen=True)
class Curve:
    """A quantity along the layers, with its 95 % band and, where there is one, the random-initialisation twin's."""

    unit: str
    layers: tuple[int, ...]
    value: tuple[float, ...]
    lo: tuple[float, ...]
    hi: tuple[float, ...]
    baseline: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Side:
    """What one reading found about one subject.

    Attributes:
        subject: canonical name of the claim's subject ("function words").
        label: the label that was read ("class.next"), or the word group that was measured ("function").
        depth: relative depth with interval; None where it has none (see the evidence's `untestable`).
        half_gain, peak: relative depth of half the gain, and of the largest selectivity (decode) or cost (use).
        gain: how much there is to place: bits (decode), nats of KL (decide), nats of cost (use); its guard reads `lo`.
        selectivity: best bits of the task less bits of its control task (Hewitt & Liang 2019); decode only.
        twin_share: share of the gain that a never-trained twin has; decode only.
    """

    subject: str
    label: str
    words: int
    sentences: int
    documents: int
    curve: Curve | None = None
    depth: Interval | None = None
    half_gain: float | None = None
    peak: float | None = None
    gain: Interval | None = None
    selectivity: Interval | None = None
    twin_share: float | None = None


@dataclass(frozen=True)
class Difference:
    """Depth of B less depth of A: positive = A is reached first. Paired over the resampled units.

    Attributes:
        lo90, hi90: for two one-sided tests at 5 % (equivalence).
        p: two-sided bootstrap p-value of no difference, never below 1 / (replicates + 1).
        unit: what was resampled, "document" or "sentence"; `units`: how many there were.
        method: "refit" (probes fitted again in every replicate) or "fixed".
    """

    value: float
    lo: float
    hi: float
    lo90: float
    hi90: float
    p: float
    unit: str
    units: int
    replicates: int
    method: str


@dataclass(frozen=True)
class Variant:
    """The same difference by another route ("half n", "without twin", "hard depth"): a change of sign matters."""

    name: str
    value: float
    lo: float
    hi: float


@dataclass(frozen=True)
class Evidence:
    """One reading of one claim.

    Attributes:
        target: whether words were labelled themselves or by the word that comes next; None where it makes no difference.
        delta: None for a claim about A alone, or where something in `untestable` prevented it.
        p_in_region: for a claim about A alone: share of replicates in which A's depth lies in the region claimed.
        variants: among them, of the decide reading, "raw" (unadjusted); its `delta` is the adjusted difference.
        untestable: reasons why this reading cannot decide; empty = it can.
        notes: counts and remarks a reader must know (clipped, dropped, subsets).
        settings: sizes and seeds it was made with.
    """

    reading: ReadingName
    target: Target | None
    a: Side
    b: Side | None = None
    delta: Difference | None = None
    p_in_region: float | None = None
    variants: tuple[Variant, ...] = ()
    untestable: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """ "decide", "decode.current", "decode.next" or "use"."""
        return self.reading if self.target is None else f"{self.reading}.{self.target}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
