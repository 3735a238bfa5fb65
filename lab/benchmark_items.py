"""Benchmark items: what is asked, what may follow, and which of it is right. Nothing here is ever trained on.

An item is a context for each of its options; most items have one context for all. Sets that the asset `benchmarks` ships are
read here, files of one's own in `benchmark_files`. Imports no torch: the app shows items too.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from lab.assets import installed
from lab.errors import LabError

ASSET, OWN = "benchmarks", "lab"
OWN_ITEMS = Path(__file__).with_name("benchmark_items.jsonl")
ANSWER = "Answer:"
_WITHOUT_CONTEXT = 1_000_000  # ids from here on repeat an item under a bare context; ours is made by `bare_context`


class UnknownTask(LabError):
    """No benchmark of that name."""


class BenchmarkBroken(LabError):
    """A set in the cache is not what its asset promises."""


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        contexts: what each option follows; all the same unless the options stand inside the sentence (WinoGrande).
        options: continuations, without the space before them. One alone: it is right when it is the likeliest text.
        delimiter: between context and option, " " or nothing.
        reason: why the gold option is right, in a person's words; "" where nobody wrote one.
        subject: items of one subject lend one another their reasons as controls; "" = the whole set is one.
    """

    task: str
    id: str
    contexts: tuple[str, ...]
    options: tuple[str, ...]
    gold: int
    delimiter: str = " "
    subject: str = ""
    reason: str = ""

    @property
    def bare_context(self) -> str:
        """The context with everything about this question taken out: what the zero-prompt baseline is asked."""
        return ANSWER if self.contexts[0].endswith(ANSWER) else ""

    @property
    def stem(self) -> str | None:
        """The question without the last line's "Answer:", where a rationale can stand; None for items of another form."""
        first = self.contexts[0]
        return first.removesuffix(ANSWER) if first.endswith(ANSWER) and len(set(self.contexts)) == 1 else None

    @property
    def chance(self) -> float:
        """Accuracy of guessing; 0 for the next word of a text."""
        return 1 / len(self.options) if len(self.options) > 1 else 0.0


@dataclass(frozen=True)
class Task:
    """A set of items.

    Attributes:
        errors: share of items whose label is wrong or not the best; None where nobody has counted.
    """

    name: str
    about: str
    licence: str
    file: str | None = None
    errors: float | None = None
    errors_source: str = ""


@cache
def tasks() -> dict[str, Task]:
    """Every benchmark that can be named, by name."""
    entries = tomllib.loads(Path(__file__).with_name("benchmark_tasks.toml").read_text(encoding="utf8"))
    return {name: Task(name=name, **entry) for name, entry in entries.items()}


def task(name: str) -> Task:
    """The entry of a name. Raises UnknownTask, naming those there are."""
    known = tasks()
    if name not in known:
        raise UnknownTask(f"{name!r} is no benchmark. Benchmarks are: {', '.join(known)}; your own file: --items FILE.")
    return known[name]


def load_items(name: str, limit: int | None = None) -> list[Item]:
    """The items of a benchmark in their lasting order, the first `limit` of them.

    Raises:
        UnknownTask
        AssetMissing: naming the command that fetches the items.
        BenchmarkBroken
    """
    entry = task(name)
    if entry.file is None:
        from lab.benchmark_files import read_items

        return in_order(read_items(OWN_ITEMS, name))[:limit]
    file = installed(ASSET) / entry.file
    try:
        found = list(_arrow_items(file) if file.suffix == ".arrow" else _request_items(name, file))
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise BenchmarkBroken(
            f"{file}: cannot be read ({error}). Delete its folder, then: lab data get {ASSET}"
        ) from error
    return in_order(found)[:limit]


def in_order(items: Iterable[Item]) -> list[Item]:
    """Items shuffled by the hash of their ids: the first n are a sample of all, and of the same items every time.

    Files are sorted by origin (HellaSwag's first 3,000 items are all from films), so their first n are no sample.
    """
    return sorted(items, key=lambda item: hashlib.sha256(f"{item.task}/{item.id}".encode()).digest())


def _request_items(name: str, file: Path) -> Iterator[Item]:
    """Items from requests, one line an option: {"request": {"context", "continuation"}, "doc_id", "label"}."""
    by_item: dict[int, list[dict[str, Any]]] = {}
    with gzip.open(file, "rt", encoding="utf8") as lines:
        for line in lines:
            row = json.loads(line)
            if row["doc_id"] < _WITHOUT_CONTEXT:
                by_item.setdefault(row["doc_id"], []).append(row)
    for number, rows in by_item.items():
        rows.sort(key=lambda row: row["idx"])
        label = rows[0]["label"]
        yield Item(
            task=name,
            id=str(number),
            contexts=tuple(row["request"]["context"] for row in rows),
            options=tuple(row["request"]["continuation"].removeprefix(" ") for row in rows),
            gold=label if isinstance(label, int) else 0,  # of LAMBADA the label is the word itself, the only option
        )


def _arrow_items(file: Path) -> Iterator[Item]:
    """COPA: the premise goes on with "because" or "therefore", as in Brown et al. 2020 (arXiv:2005.14165)."""
    import pyarrow

    with pyarrow.memory_map(str(file)) as source:
        rows = pyarrow.ipc.open_stream(source).read_all().to_pylist()
    for row in rows:
        joined = row["premise"].strip()[:-1] + {"cause": " because", "effect": " therefore"}[row["question"]]
        options = tuple(row[key][0].lower() + row[key][1:] for key in ("choice1", "choice2"))
        yield Item("copa", str(row["idx"]), (joined, joined), options, row["label"])
