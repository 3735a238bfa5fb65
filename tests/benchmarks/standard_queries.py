"""What the app's pages ask of a run, timed: CPU time of this thread, on the run's real database."""

import statistics
import time
from collections.abc import Callable

from app import behaviour, queries
from lab.records import Records
from lab.run import Run

Query = Callable[[Run, Records], object]
# By what it is for. The first six have an answer of bounded size; a list is as long as what it lists.
BOUNDED: dict[str, Query] = {
    "summary": lambda run, records: queries.summarise(queries.Opened(run.name, run.path, run, records)),
    "curve": lambda run, records: queries.series(records, "train/loss"),
    "metric names": lambda run, records: records.metric_names(),
    "events": lambda run, records: queries.happenings(records),
    "journal changed": lambda run, records: queries.journal_mark(records, run.path / "evidence"),
    "behaviour changed": lambda run, records: behaviour.mark(records),
}
LISTS: dict[str, Query] = {
    "readings": lambda run, records: queries.cells(records, "class.next"),
    "journal": lambda run, records: queries.journal(records, run.path / "evidence", data=False),
    "findings": lambda run, records: behaviour.findings(records),
    "conversations": lambda run, records: behaviour.talks(records),
    "alarms": lambda run, records: behaviour.alarms(records),
}
QUERIES = BOUNDED | LISTS


def seconds(run: Run, records: Records, query: Query, repeats: int = 5) -> float:
    """The median of several calls, after one that warms SQLite's page cache."""
    query(run, records)
    return statistics.median(once(run, records, query) for _ in range(repeats))


def once(run: Run, records: Records, query: Query) -> float:
    started = time.thread_time()
    query(run, records)
    return time.thread_time() - started
