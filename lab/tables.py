"""The tables of `run.db` as classes. No queries and no files: `records` reads and writes them.

Rows that follow training are keyed by (segment, step): a resume or a rewind opens a new segment, so no row is ever
overwritten. Changing a column means a new `records.VERSION` and a migration there.
"""

from typing import Any, dataclass_transform

from sqlalchemy import JSON, CheckConstraint, Float, ForeignKey, Index, TypeDecorator
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column

SEVERITIES = ("info", "watch", "alert", "critical")


def _known_severity() -> CheckConstraint:
    return CheckConstraint(f"severity IN {SEVERITIES}", name="severity_is_known")


class Number(TypeDecorator[float]):
    """A float that may be NaN. SQLite stores NaN as NULL, and a loss that diverged must come back as what it was."""

    impl = Float
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> float:
        return float("nan") if value is None else float(value)


@dataclass_transform(kw_only_default=True, field_specifiers=(mapped_column,))  # type checkers do not inherit kw_only
class Base(MappedAsDataclass, DeclarativeBase, kw_only=True):
    """A row. Rows are plain carriers: what is added is copied, and what is read belongs to no session."""

    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012 (read by DeclarativeBase)


class Segment(Base):
    """One uninterrupted stretch of training; its first row is at `from_step + 1`, or `from_step` if it continues none."""

    __tablename__ = "segments"
    id: Mapped[int] = mapped_column(primary_key=True, default=None)
    from_step: Mapped[int]
    resumed_from: Mapped[int | None] = mapped_column(ForeignKey("segments.id"), default=None)  # the segment before
    config_hash: Mapped[str]
    started_at: Mapped[float]  # unix seconds, as every time here
    end_step: Mapped[int | None] = mapped_column(default=None)
    ended_at: Mapped[float | None] = mapped_column(default=None)  # None: running, or killed
    reason: Mapped[str | None] = mapped_column(default=None)
    __table_args__ = (CheckConstraint("resumed_from < id", name="history_goes_back"),)


class Regime(Base):
    """The exact protocol behind a series; any change opens a new one, and plots break there."""

    __tablename__ = "regimes"
    id: Mapped[int] = mapped_column(primary_key=True, default=None)
    name: Mapped[str]
    step: Mapped[int]
    protocol: Mapped[dict[str, Any]]
    hash: Mapped[str]


class Metric(Base):
    """A number about training, `train/loss` for example. NaN allowed."""

    __tablename__ = "metrics"
    name: Mapped[str] = mapped_column(primary_key=True)
    segment: Mapped[int] = mapped_column(ForeignKey("segments.id"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[float] = mapped_column(Number, nullable=True)
    # The key is the table: a series is one range of it, in order, without a second index.
    __table_args__ = ({"sqlite_with_rowid": False},)


class Reading(Base):
    """What a probe reads at one layer: usable bits per word, its 95 % interval, words, and the random twin's value."""

    __tablename__ = "readings"
    task: Mapped[str] = mapped_column(primary_key=True)
    reading: Mapped[str] = mapped_column(primary_key=True)  # decode, decide or use
    segment: Mapped[int] = mapped_column(ForeignKey("segments.id"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    layer: Mapped[int] = mapped_column(primary_key=True)  # 0 = embedding sum, l = after block l
    regime: Mapped[int] = mapped_column(ForeignKey("regimes.id"))
    value: Mapped[float] = mapped_column(Number, nullable=True)
    lo: Mapped[float] = mapped_column(Number, nullable=True)
    hi: Mapped[float] = mapped_column(Number, nullable=True)
    n: Mapped[int]
    baseline: Mapped[float | None] = mapped_column(default=None)
    __table_args__ = ({"sqlite_with_rowid": False},)


class Finding(Base):
    """What an instrument saw."""

    __tablename__ = "findings"
    id: Mapped[int] = mapped_column(primary_key=True, default=None)
    segment: Mapped[int] = mapped_column(ForeignKey("segments.id"))
    step: Mapped[int]
    instrument: Mapped[str]
    rule: Mapped[str]
    version: Mapped[str]
    severity: Mapped[str]
    text: Mapped[str]
    value: Mapped[float | None] = mapped_column(default=None)
    lo: Mapped[float | None] = mapped_column(default=None)
    hi: Mapped[float | None] = mapped_column(default=None)
    evidence: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)
    __table_args__ = (_known_severity(), Index("findings_by_step", "segment", "step"))


class Entry(Base):
    """Text of the journal, by the model or by a person."""

    __tablename__ = "entries"
    id: Mapped[int] = mapped_column(primary_key=True, default=None)
    step: Mapped[int]
    author: Mapped[str]
    kind: Mapped[str]
    text: Mapped[str]
    created_at: Mapped[float]
    segment: Mapped[int | None] = mapped_column(ForeignKey("segments.id"), default=None)
    prompt: Mapped[str | None] = mapped_column(default=None)
    checkpoint: Mapped[str | None] = mapped_column(default=None)
    seed: Mapped[int | None] = mapped_column(default=None)
    temperature: Mapped[float | None] = mapped_column(default=None)


class Claim(Base):
    """A testable reading of one journal sentence."""

    __tablename__ = "claims"
    id: Mapped[str] = mapped_column(primary_key=True)
    entry: Mapped[int] = mapped_column(ForeignKey("entries.id"))
    text: Mapped[str]
    kind: Mapped[str]
    a: Mapped[str]
    b: Mapped[str | None] = mapped_column(default=None)
    reading: Mapped[str]
    scope: Mapped[str]
    polarity: Mapped[str]
    data: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)


class Verdict(Base):
    """What testing a claim said; a new test is a new row."""

    __tablename__ = "verdicts"
    id: Mapped[int] = mapped_column(primary_key=True, default=None)
    claim: Mapped[str] = mapped_column(ForeignKey("claims.id"))
    step: Mapped[int]
    verdict: Mapped[str]
    created_at: Mapped[float]
    data: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)


class Episode(Base):
    """One conversation: of self-play, or a check-in."""

    __tablename__ = "episodes"
    id: Mapped[int] = mapped_column(primary_key=True, default=None)
    segment: Mapped[int] = mapped_column(ForeignKey("segments.id"))
    step: Mapped[int]
    kind: Mapped[str]
    regime: Mapped[int | None] = mapped_column(ForeignKey("regimes.id"), default=None)
    data: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)
    __table_args__ = (Index("episodes_by_step", "kind", "segment", "step"),)


class Item(Base):
    """One benchmark item and how it was scored."""

    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True, default=None)
    step: Mapped[int]
    task: Mapped[str]
    item: Mapped[str]
    data: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)
    __table_args__ = (Index("items_by_task", "task", "step"),)


class Latch(Base):
    """A reason to stand still, held now. Releasing deletes the row and writes an event."""

    __tablename__ = "latches"
    owner: Mapped[str] = mapped_column(primary_key=True)
    reason: Mapped[str]
    since: Mapped[float]
    step: Mapped[int]
    severity: Mapped[str] = mapped_column(default="info")
    __table_args__ = (_known_severity(),)


class Command(Base):
    """A verb someone sent; the same id twice is refused, so a command is obeyed once."""

    __tablename__ = "commands"
    id: Mapped[str] = mapped_column(primary_key=True)
    verb: Mapped[str]
    arguments: Mapped[dict[str, Any]]
    received_at: Mapped[float]
    acknowledged_step: Mapped[int | None] = mapped_column(default=None)
    changed: Mapped[bool | None] = mapped_column(default=None)
    result: Mapped[str | None] = mapped_column(default=None)


class Event(Base):
    """Something that happened to the run, in words."""

    __tablename__ = "events"
    id: Mapped[int] = mapped_column(primary_key=True, default=None)
    kind: Mapped[str]
    text: Mapped[str]
    at: Mapped[float]
    segment: Mapped[int | None] = mapped_column(ForeignKey("segments.id"), default=None)
    step: Mapped[int | None] = mapped_column(default=None)
    data: Mapped[dict[str, Any]] = mapped_column(default_factory=dict)
