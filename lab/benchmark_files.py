"""Items from a file of one's own: JSONL, checked line by line, refused by line and reason. Imports no torch.

    {"id": "sky", "question": "What colour is a clear sky?", "options": ["blue", "green"], "gold": 0}
    {"id": "cat", "context": "The cat sat on the", "options": ["mat", "moon"], "gold": 0}
    {"id": "end", "context": "It was raining, so I took my", "options": ["umbrella"], "gold": 0}

A question becomes "Question: …\\nAnswer:", a context stands as it is. One option alone counts as right when it is what the
model would write. `subject` and `reason` may be added. BLiMP's lines (sentence_good, sentence_bad) are read as they come;
those whose two sentences are the same (line 325 of its passive_1 is one) ask nothing and are passed over.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lab.benchmark_items import ANSWER, Item
from lab.errors import LabError

MOST_BYTES, MOST_ITEMS, MOST_OPTIONS, LONGEST = 256_000_000, 200_000, 26, 20_000
LONGEST_LINE = 1_000_000
_KEYS = {"id", "question", "context", "options", "gold", "subject", "reason"}
_PAIR = {"sentence_good", "sentence_bad"}


class BadItems(LabError):
    """A file of items that cannot be used; the message names the line, what is wrong and the way out."""


def read_items(path: Path, task: str | None = None) -> list[Item]:
    """The items of a JSONL file, or of every `*.jsonl` in a folder (a subject each).

    Args:
        task: their benchmark's name; by default that of the file or folder.

    Raises:
        BadItems: nothing is used of a file with one bad line.
    """
    name = task or path.name.removesuffix(".jsonl")
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise BadItems(f"{path}: the folder has no .jsonl file. Name a file, or a folder that has some.")
    items: list[Item] = []
    places: dict[str, str] = {}
    for file in files:
        for number, row in _lines(file):
            where = f"{file.name}: line {number}" if len(files) > 1 else f"{file}: line {number}"
            item = _item(row, name, file.stem if len(files) > 1 else "", where, number)
            if item is None:
                continue
            if item.id in places:
                raise BadItems(f"{where}: the id {item.id!r} is that of {places[item.id]} too. Give each item its own.")
            places[item.id] = f"line {number}"
            items.append(item)
            if len(items) > MOST_ITEMS:
                raise BadItems(f"{where}: more than {MOST_ITEMS:,} items. Split the file.")
    if not items:
        raise BadItems(f"{path}: holds no items. Write one JSON object a line.")
    return items


def _lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered objects of a file; empty lines are passed over."""
    try:
        size = file.stat().st_size
        if size > MOST_BYTES:
            raise BadItems(f"{file}: {size / 1e6:.0f} MB, but at most {MOST_BYTES // 10**6} MB are read. Split it.")
        raw = file.read_bytes()
    except OSError as error:
        raise BadItems(f"{file}: cannot be read ({error.strerror or error}). Name a JSONL file.") from error
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise BadItems(f"{file}: line 1: is UTF-16. Save it as UTF-8.")
    if raw[:2] == b"\x1f\x8b":
        raise BadItems(f"{file}: line 1: is compressed. Unpack it first: gunzip {file.name}")
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        where = f"{file}: line {number}"
        if len(line) > LONGEST_LINE:
            raise BadItems(f"{where}: {len(line):,} bytes, but a line has at most {LONGEST_LINE:,}. Cut the item.")
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf8"), object_pairs_hook=_once, parse_constant=_no_constant)
        except UnicodeDecodeError as error:
            raise BadItems(f"{where}: is not UTF-8 (byte {error.start}). Save the file as UTF-8.") from None
        except RecursionError:
            raise BadItems(f"{where}: is nested too deeply. An item is one flat object.") from None
        except ValueError as error:
            raise BadItems(f"{where}: is not JSON ({error}). Write one JSON object a line.") from None
        if not isinstance(row, dict):
            raise BadItems(f'{where}: is a {type(row).__name__}, not an object. Write {{"id": …, "question": …}}.')
        yield number, row


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands there twice")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")


def _item(row: dict[str, Any], task: str, subject: str, where: str, number: int) -> Item | None:
    if _PAIR & row.keys():
        return _pair(row, task, where, number)
    unknown = sorted(row.keys() - _KEYS)
    if unknown:
        raise BadItems(f"{where}: has {unknown[0]!r}. Keys are: {', '.join(sorted(_KEYS))}.")
    if ("question" in row) == ("context" in row):
        what = "both question and context" if "question" in row else "neither question nor context"
        raise BadItems(f"{where}: has {what}. Give one of them.")
    asked = "question" in row
    text = _text(
        row["question"] if asked else row["context"], "question" if asked else "context", where, may_be_empty=not asked
    )
    options = row.get("options")
    if not isinstance(options, list):
        raise BadItems(f'{where}: options must be a list of texts, not {_kind(options)}. Write ["one", "two"].')
    if not 1 <= len(options) <= MOST_OPTIONS or (asked and len(options) < 2):
        least = 2 if asked else 1
        raise BadItems(f"{where}: {len(options)} options, but an item has {least} to {MOST_OPTIONS}. Change them.")
    words = tuple(_text(option, f"option {at}", where) for at, option in enumerate(options))
    if len(set(words)) < len(words):
        twice = next(word for word in words if words.count(word) > 1)
        raise BadItems(f"{where}: the option {twice[:40]!r} stands there twice. Take one out.")
    context = f"Question: {text}\n{ANSWER}" if asked else text
    return Item(
        task=task,
        id=_id(row.get("id"), where),
        contexts=(context,) * len(words),
        options=words,
        gold=_gold(row, len(words), where),
        delimiter=" " if context and not context[-1].isspace() else "",
        subject=_text(row.get("subject", ""), "subject", where, may_be_empty=True) or subject,
        reason=_text(row.get("reason", ""), "reason", where, may_be_empty=True),
    )


def _pair(row: dict[str, Any], task: str, where: str, number: int) -> Item | None:
    """BLiMP (arXiv:1912.00582): which of two sentences that differ in a word or two is likelier."""
    good, bad = (_text(row.get(key), key, where) for key in ("sentence_good", "sentence_bad"))
    if good == bad:
        return None
    paradigm = str(row.get("UID", task))
    id = f"{paradigm}-{row.get('pairID', number)}"
    return Item(task, id, ("", ""), (good, bad), 0, "", str(row.get("linguistics_term", paradigm)))


def _gold(row: dict[str, Any], options: int, where: str) -> int:
    if "gold" not in row:
        raise BadItems(f"{where}: has no gold. Give the number of the right option, 0 for the first.")
    gold = row["gold"]
    if type(gold) is not int:
        raise BadItems(f"{where}: gold is {_kind(gold)}, not a whole number. Give 0 for the first option.")
    if not 0 <= gold < options:
        raise BadItems(f"{where}: gold = {gold}, but there are options 0 to {options - 1}. Count from 0.")
    return gold


def _id(value: Any, where: str) -> str:
    if type(value) is int:
        return str(value)
    if value is None:
        raise BadItems(f"{where}: has no id. Give each item a short name of its own.")
    if not isinstance(value, str) or not value.strip() or len(value) > 200 or not value.isprintable():
        raise BadItems(f"{where}: the id {str(value)[:40]!r} is no short printable text. Give 1 to 200 characters.")
    return value


def _text(value: Any, name: str, where: str, may_be_empty: bool = False) -> str:
    if not isinstance(value, str):
        raise BadItems(f"{where}: {name} is {_kind(value)}, not a text. Write it in quotes.")
    if not value.strip() and not (may_be_empty and not value):
        raise BadItems(f"{where}: {name} is empty. Write it, or take the item out.")
    if len(value) > LONGEST:
        raise BadItems(f"{where}: {name} has {len(value):,} characters, but at most {LONGEST:,} are read. Cut it.")
    if any(0xD800 <= ord(letter) < 0xE000 for letter in value):
        raise BadItems(f"{where}: {name} has half of a surrogate pair, which is no character. Replace it.")
    if any(letter < " " and letter not in "\n\t" for letter in value):
        raise BadItems(f"{where}: {name} has a control character. Take it out.")
    return value


def _kind(value: Any) -> str:
    names = {type(None): "missing", bool: "true or false", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), "an object" if isinstance(value, dict) else "a text")
