"""A concept's card as the app trusts it: every part checked before a word of it is shown. No torch, no Streamlit.

A card may come from a stranger, or be half written. A part that is not there is None; one that does not hold together makes
the whole card broken, in words.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.concept_text import source_in_words
from lab.concepts import CARD as CARD_FILE
from lab.concepts import BadConcept, folder_of, read_card
from lab.errors import LabError
from lab.run import Run

LARGEST = 8_000_000  # bytes; a real card has some 20 kB
DAMAGED = (KeyError, TypeError, IndexError, AttributeError, ValueError, OverflowError)


class CardBroken(LabError):
    """A concept's card cannot be shown."""


class Part(BaseModel):
    """A part of a card; what a later version adds is left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True, populate_by_name=True)


class Interval(Part):
    value: float
    low: float
    high: float


class Bits(Interval):
    n: int
    of: float


class Profile(Part):
    layers: list[int]
    value: list[float]
    low: list[float]
    high: list[float]
    n: int

    @model_validator(mode="after")
    def has_a_value_for_every_layer(self) -> Self:
        if {len(self.value), len(self.low), len(self.high)} != {len(self.layers)} or not self.layers:
            raise ValueError("not a value and an interval for every layer")
        return self


class Floor(Part):
    angles_degrees: list[float]
    overlap: float
    overlap_median: float
    random_overlap: float
    splits: int
    units: int
    unit: str


class Cost(Part):
    erased: float
    random: float
    net: Interval
    used: bool
    tokens: int
    sentences: int


class Use(Part):
    subspaces: int
    concept: Cost | None = None
    every: Cost | None = Field(None, alias="all")
    untestable: str | None = None


class Variance(Part):
    share: float


class Token(Part):
    token: str
    logit: float


class Effect(Part):
    direction: str
    promoted: list[Token]
    demoted: list[Token]


class Histogram(Part):
    edges: list[float]
    counts: dict[str, list[int]]

    @model_validator(mode="after")
    def has_a_count_for_every_bin(self) -> Self:
        if len(self.edges) < 2 or any(len(row) != len(self.edges) - 1 for row in self.counts.values()):
            raise ValueError("not a count for every bin")
        return self


class Example(Part):
    before: str
    word: str
    after: str
    at: float
    klass: str | None = Field(None, alias="class")


class Text(Part):
    documents: int | None = None
    sentences: int | None = None


class Columns(Part):
    kept: int


class Details(Part):
    """What finding it measured; a concept that was not found by `lab concept add` may have none of it."""

    source: dict[str, Any] = {}
    layers: str = ""
    text: Text | None = None
    counts: dict[str, int] = {}
    columns: Columns | None = None
    bits: Bits | None = None
    profile: Profile | None = None
    noise_floor: Floor | None = None
    tokens: list[Effect] = []
    histogram: Histogram | None = None
    examples: dict[str, list[Example]] = {}
    use: Use | None = None
    variance: Variance | None = None
    notes: list[str] = []


class Found(Part):
    step: int | None = None
    sha256: str = ""


class Card(Part):
    """`concepts/<name>/card.json`, as `lab concept show --json` prints it."""

    name: str
    layer: int
    classes: list[str]
    checkpoint: Found
    sha256: str
    details: Details


def card(run: Run, name: str) -> Card:
    """
    Raises:
        CardBroken: it is missing, or does not hold together; in words.
    """
    try:
        if (folder_of(run, name) / CARD_FILE).stat().st_size > LARGEST:
            raise CardBroken(f"{name}: its card is larger than any real one ({LARGEST:,} bytes).")
        found = Card.model_validate(read_card(run, name))
        source_in_words(found.details.source)  # raises where that does not hold together
        return found
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the card"
        raise CardBroken(f"{name}: its card does not hold together ({where}: {first['msg']}).") from None
    except (BadConcept, OSError, RecursionError) as error:
        raise CardBroken(str(error)) from None
    except DAMAGED as error:
        raise CardBroken(f"{name}: its card does not hold together (details.source: {error!r}).") from None
