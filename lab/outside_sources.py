"""Sources that are no plain files: Wikipedia introductions (an asset), Parquet files, Hugging Face datasets.

Each gives documents in a fixed order and a fingerprint of its text, as `sources` does for files; `sources` asks here for
these kinds. No code of a data set runs. A column holds text, or conversations as lists of {role, content}.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.sections import Source
from lab.sources import ROLES, BadSource, Document

ROWS = 1000  # per batch that is decoded


def outside_documents(source: Source) -> Iterator[tuple[Document, float]]:
    """Documents, each with the share of the source that is read once it is out.

    Raises:
        BadSource: naming what is missing, and the remedy. AssetMissing: naming the command that fetches the asset.
    """
    found = False
    for value, place, share in _READERS[source.kind](source):
        document = _document(value, f"data.sources {source.name!r}: {place}")
        if document is not None:
            found = True
            yield document, share
    if not found:
        raise BadSource(f"data.sources {source.name!r}: {source.path or source.kind} holds no text. Put text in it.")


def outside_fingerprint(source: Source) -> str:
    """sha256 over what the source reads: bytes of files, and texts of a data set, whose files are not ours to find."""
    together = hashlib.sha256(json.dumps([source.column, sorted(source.topics)]).encode())
    if source.kind == "huggingface":
        for value, _, _ in _huggingface(source):
            together.update(json.dumps(value, sort_keys=True).encode() + b"\n")
    else:
        for file in [_wiki_file()] if source.kind == "wiki" else _parquet_files(source):
            with file.open("rb") as stream:
                together.update(hashlib.file_digest(stream, "sha256").digest())
    return together.hexdigest()


def _document(value: Any, place: str) -> Document | None:
    """A cell as a document; None for one that holds nothing."""
    if value is None or value == []:
        return None
    if isinstance(value, str):
        return Document(value) if value.strip() else None
    if isinstance(value, list) and all(isinstance(turn, dict) and {"role", "content"} <= turn.keys() for turn in value):
        for turn in value:
            if turn["role"] not in ROLES or not isinstance(turn["content"], str):
                raise BadSource(f"{place} has a message of role {turn['role']!r}. Roles are: {', '.join(ROLES)}.")
        messages = tuple((turn["role"], turn["content"]) for turn in value)
        return Document("\n".join(content for _, content in messages), messages)
    raise BadSource(f"{place} holds neither text nor a list of messages. Choose another column.")


def _wiki_file() -> Path:
    from lab.assets import installed

    return installed("wiki") / "summaries_en-us.json"


def _wiki(source: Source) -> Iterator[tuple[Any, str, float]]:
    """Introductions of Wikipedia's vital articles, in the order of their titles; `topics` chooses among twelve."""
    articles = json.loads(_wiki_file().read_text(encoding="utf8"))
    known = sorted({article["topic"] for article in articles.values()})
    wrong = [topic for topic in source.topics if topic not in known]
    if wrong:
        raise BadSource(
            f"data.sources {source.name!r}: topics has {wrong[0]!r}, which is none. Topics are: {', '.join(known)}."
        )
    chosen = [title for title in sorted(articles) if not source.topics or articles[title]["topic"] in source.topics]
    for number, title in enumerate(chosen, start=1):
        yield articles[title]["extract"], title, number / len(chosen)


def _parquet_files(source: Source) -> list[Path]:
    path = Path(source.path or "")
    files = sorted(path.rglob("*.parquet")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        raise BadSource(f"data.sources {source.name!r}: {path} is no Parquet file, and no folder with one. Check path.")
    return files


def _parquet(source: Source) -> Iterator[tuple[Any, str, float]]:
    import pyarrow
    from pyarrow import parquet

    files = _parquet_files(source)
    for index, path in enumerate(files):
        try:
            file = parquet.ParquetFile(path)
        except (pyarrow.ArrowException, OSError) as error:
            raise BadSource(f"data.sources {source.name!r}: {path} is no Parquet file ({error}). Check path.") from None
        _require_column(source, file.schema_arrow.names, str(path))
        rows, read = max(1, file.metadata.num_rows), 0
        for batch in file.iter_batches(batch_size=ROWS, columns=[source.column]):
            for value in batch.column(0).to_pylist():
                read += 1
                yield value, f"{path}, row {read}", (index + read / rows) / len(files)


def _huggingface(source: Source) -> Iterator[tuple[Any, str, float]]:
    """`path` is the name of a data set on the hub, or a folder with its files; it is fetched on the first call."""
    import datasets

    try:
        table: Any = datasets.load_dataset(source.path or "", name=source.subset, split=source.split)
    except Exception as error:  # no network, no such name, split or file: the library has a class for each
        raise BadSource(
            f"data.sources {source.name!r}: the data set {source.path!r} (split {source.split!r}) cannot be loaded "
            f"({type(error).__name__}: {(str(error) or 'no reason given').splitlines()[0]}). Check name, split and network."
        ) from error
    _require_column(source, table.column_names, str(source.path))
    rows = max(1, len(table))
    for start in range(0, rows, ROWS):
        for offset, value in enumerate(table[start : start + ROWS][source.column]):
            yield value, f"{source.path}, row {start + offset + 1}", (start + offset + 1) / rows


def _require_column(source: Source, columns: list[str], where: str) -> None:
    if source.column not in columns:
        raise BadSource(
            f"data.sources {source.name!r}: {where} has no column {source.column!r}. Columns are: {', '.join(columns)}."
        )


_READERS = {"wiki": _wiki, "parquet": _parquet, "huggingface": _huggingface}
