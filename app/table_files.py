"""One table of a run's records as a small file for other programs, CSV or JSON; a whole run goes out by `lab export`.

Words in the records may be a model's or a stranger's: in a CSV file they cannot begin a formula.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from lab.database import reading_engine
from lab.tables import Base

MOST_ROWS = 100_000  # some 10 MB; more than that is what Parquet is for
FORMULA = (
    "=",
    "+",
    "-",
    "@",
    "\t",
    "\r",
)  # what a spreadsheet takes for the beginning of a formula (OWASP, CSV injection)


def sizes(database: Path) -> dict[str, int]:
    """Rows of every table, by name; empty ones are left out."""
    engine = reading_engine(database)
    try:
        with engine.connect() as connection:
            counted = {
                table.name: connection.scalar(select(func.count()).select_from(table)) or 0
                for table in Base.metadata.sorted_tables
            }
    finally:
        engine.dispose()
    return {name: rows for name, rows in counted.items() if rows}


def as_csv(database: Path, table: str) -> bytes:
    """The rows of a table, at most `MOST_ROWS`, under their column names; JSON columns are JSON text."""
    rows = _rows(database, table)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(column.name for column in Base.metadata.tables[table].columns)
    writer.writerows([_cell(value) for value in row.values()] for row in rows)
    return text.getvalue().encode("utf8", errors="replace")


def as_json(database: Path, table: str) -> bytes:
    """The same as a JSON list of objects; NaN and infinities, which JSON does not have, are null."""
    rows = [{name: _plain(value) for name, value in row.items()} for row in _rows(database, table)]
    return json.dumps(rows, indent=1).encode()


def _rows(database: Path, table: str) -> list[Mapping[str, Any]]:
    found = Base.metadata.tables[table]
    engine = reading_engine(database)
    try:
        with engine.connect() as connection:
            query = select(found).order_by(*found.primary_key).limit(MOST_ROWS)
            return [dict(row) for row in connection.execute(query).mappings()]
    finally:
        engine.dispose()


def _cell(value: Any) -> Any:
    if isinstance(value, dict | list):
        return json.dumps(value, sort_keys=True)
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and value - value != 0 else value
