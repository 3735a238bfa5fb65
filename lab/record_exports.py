"""The records of a run for other programs: every table as Parquet, numbers as TensorBoard events.

Both read one consistent snapshot and hold no more than a batch of rows in memory, so a live run can be exported.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import JSON, Boolean, Float, Integer, Table, select

from lab.database import reading_engine
from lab.errors import LabError
from lab.tables import Base, Reading, Segment

if TYPE_CHECKING:
    from lab.run import Run

ROWS = 50_000  # per batch: a few MB
_EVERY_POINT = 1 << 40  # no thinning: an export is the whole series


class TensorBoardMissing(LabError):
    """The package that writes TensorBoard's files is not installed."""


def to_parquet(run: "Run", folder: Path) -> None:
    """One `<table>.parquet` per table, empty ones too, typed as the database is; JSON columns are JSON text."""
    import pyarrow
    from pyarrow import parquet

    engine = reading_engine(run.database)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql("BEGIN")  # one snapshot over all tables, though the trainer goes on writing
            for table in Base.metadata.sorted_tables:
                schema = pyarrow.schema([(column.name, _arrow(pyarrow, column.type)) for column in table.columns])
                text = [column.name for column in table.columns if isinstance(column.type, JSON)]
                with parquet.ParquetWriter(folder / f"{table.name}.parquet", schema, compression="zstd") as writer:
                    result = connection.execution_options(yield_per=ROWS).execute(_ordered(table))
                    for rows in result.mappings().partitions(ROWS):
                        columns = {name: [row[name] for row in rows] for name in schema.names}
                        for name in text:
                            columns[name] = [json.dumps(value, sort_keys=True) for value in columns[name]]
                        writer.write_table(pyarrow.Table.from_pydict(columns, schema=schema))
    finally:
        engine.dispose()


def _ordered(table: Table) -> Any:
    return select(table).order_by(*table.primary_key)


def _arrow(pyarrow: Any, kind: Any) -> Any:
    if isinstance(kind, Boolean):
        return pyarrow.bool_()
    if isinstance(kind, Integer):
        return pyarrow.int64()
    return pyarrow.float64() if isinstance(getattr(kind, "impl_instance", kind), Float) else pyarrow.string()


def to_tensorboard(run: "Run", folder: Path) -> None:
    """Event files: the newest history in `history/`, steps that a resume or rewind overtook in `overtaken-segment-n/`.

    Each is one file with rising steps. TensorBoard would draw overlapping steps as a zigzag, and drops points by
    `purge_step` only when it reads files in the order they were written; apart, neither can happen. Every file has a
    suffix of its own: two writers opened in one second would otherwise share a name.

    Raises:
        TensorBoardMissing: naming the extra to install.
    """
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise TensorBoardMissing(
            "writing TensorBoard files needs tensorboardX. Run: pip install 'brightwoven-lab[tensorboard]'"
        ) from None
    with run.records() as records:
        pieces = records.lineage()
        times = {segment.id: segment for segment in records.segments()}
        kept = {segment: (first, last) for segment, first, last in pieces}
        values: dict[str, list[tuple[str, int, int, float]]] = {"history": []}
        for name in records.metric_names():
            for segment, step, value in records.series(name, _EVERY_POINT, lineage_only=False):
                values.setdefault(_place(kept, segment, step), []).append((name, segment, step, value))
        for one in records.rows(Reading):
            tag = f"readings/{one.reading}/{one.task}/layer-{one.layer:02d}"
            values.setdefault(_place(kept, one.segment, one.step), []).append((tag, one.segment, one.step, one.value))
    for place, points in values.items():
        with SummaryWriter(str(folder / place), filename_suffix=f".{place}", purge_step=None) as writer:
            for name, segment, step, value in sorted(points, key=lambda point: (point[0], point[2])):
                writer.add_scalar(name, value, step, walltime=_when(times[segment], step))


def _place(kept: dict[int, tuple[int, int | None]], segment: int, step: int) -> str:
    first, last = kept.get(segment, (1, 0))
    return "history" if first <= step and (last is None or step <= last) else f"overtaken-segment-{segment}"


def _when(segment: Segment, step: int) -> float:
    """About when a step was: metrics have no time of their own, a segment has a beginning and an end."""
    if segment.ended_at is None or not segment.end_step or segment.end_step <= segment.from_step:
        return segment.started_at
    share = min(1.0, max(0.0, (step - segment.from_step) / (segment.end_step - segment.from_step)))
    return segment.started_at + share * (segment.ended_at - segment.started_at)
