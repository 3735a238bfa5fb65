"""A source's tokens on disk: written once in parts, verified whenever they are opened, read as memory maps.

`<cache>/<name>-<key>/` holds `part-00000/` … and, when all are there, `manifest.json`. A part is made under a temporary
name and renamed when it is on disk, so a kill loses at most the part in work and the next call goes on behind the last
one. The key covers the source's bytes, the tokenizer and the split: a folder with another key is another data set.
"""

import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from lab.durable import replace_file, sync_folder, write_file
from lab.errors import LabError
from lab.sections import Source
from lab.sources import Document, documents, fingerprint, position
from lab.tokenizer import Tokenizer
from lab.windows import Stream

FORMAT = 1
PART_BYTES = 8_000_000  # text per part, about 3 seconds of work on one core: what a kill can cost
CHUNK_BYTES = 1_000_000  # text per call of the tokenizer and per report of progress
SIDES = ("train", "validation")

Progress = Callable[[str, float], None]


class BadShards(LabError):
    """Shards on disk are not those that were written."""


@dataclass(frozen=True)
class Shards:
    """A source that is tokenised completely. The manifest says what it is; the streams are the tokens."""

    folder: Path
    manifest: dict[str, Any]
    train: Stream
    validation: Stream

    def validation_texts(self) -> Iterator[str]:
        """Raw text of the validation documents, in the source's order."""
        for part in self.manifest["parts"]:
            if "validation.jsonl" in part["sha256"]:
                with (self.folder / part["folder"] / "validation.jsonl").open(encoding="utf8", newline="\n") as file:
                    yield from (json.loads(line)["text"] for line in file)

    def digests(self, side: str) -> list[bytes]:
        """sha256 of every document of that side, in the source's order."""
        parts = [self.folder / part["folder"] for part in self.manifest["parts"]]
        share = self.manifest["validation_share"]
        return [digest for part in parts for digest in _read_digests(part) if _side(digest, share) == side]


def prepare_shards(
    source: Source, tokenizer: Tokenizer, validation_share: float, cache: Path, progress: Progress
) -> Shards:
    """Tokenise a source into the cache, going on where an earlier call stopped; open it if that is done already.

    Raises:
        BadSource: from reading; the folder of this source is then removed.
        BadShards: a file in the folder is not as it was written.
    """
    ingredients = {
        "format": FORMAT,
        "kind": source.kind,
        "source": fingerprint(source),
        "loss_roles": sorted(source.loss_roles),
        "tokenizer": tokenizer.sha256,
        "validation_share": validation_share,
    }
    key = hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()
    folder = cache / f"{source.name}-{key[:16]}"
    if not (folder / "manifest.json").exists():
        try:
            _tokenise(source, tokenizer, validation_share, folder, key, progress)
        except LabError as error:
            if not isinstance(error, BadShards):
                shutil.rmtree(folder, ignore_errors=True)
            raise
    return open_shards(folder)


def open_shards(folder: Path) -> Shards:
    """Open a finished folder, every file checked against the manifest's sha256.

    Raises:
        BadShards: naming the file and the remedy.
    """
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf8"))
        parts = manifest["parts"]
        dtype = np.dtype(manifest["dtype"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadShards(f"{folder / 'manifest.json'} is damaged ({error}). Delete {folder} to rebuild it.") from None
    for part in parts:
        _verify(folder, part)
    train, validation = (_stream(folder, parts, side, dtype) for side in SIDES)
    return Shards(folder, manifest, train, validation)


def _tokenise(
    source: Source, tokenizer: Tokenizer, validation_share: float, folder: Path, key: str, progress: Progress
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob("*.tmp"):
        shutil.rmtree(leftover)
    parts = [_read_part(path) for path in sorted(folder.glob("part-*"))]
    done = sum(sum(part["documents"].values()) for part in parts)
    remaining = itertools.islice(documents(source), done, None)
    while True:
        name = f"part-{len(parts):05d}"
        part = _write_part(source, tokenizer, validation_share, folder / name, remaining, progress)
        if part is None:
            break
        parts.append(part)
    known: dict[str, set[bytes]] = {side: set() for side in SIDES}
    for part in parts:
        for digest in _read_digests(folder / part["folder"]):
            known[_side(digest, validation_share)].add(digest)
    total = {
        what: {side: sum(part[what][side] for part in parts) for side in SIDES}
        for what in ("documents", "bytes", "tokens")
    }
    manifest = {
        "format": FORMAT,
        "name": source.name,
        "kind": source.kind,
        "key": key,
        "tokenizer": tokenizer.sha256,
        "dtype": _dtype(tokenizer).str,
        **total,
        "duplicates": sum(total["documents"].values()) - sum(len(digests) for digests in known.values()),
        "validation_share": validation_share,
        "validation_sha256": hashlib.sha256(b"".join(sorted(known["validation"]))).hexdigest(),
        "parts": parts,
    }
    replace_file(folder / "manifest.json", json.dumps(manifest, indent=1).encode())


def _read_part(path: Path) -> dict[str, Any]:
    """What an earlier call finished, checked before anything is built on it."""
    try:
        part: dict[str, Any] = json.loads((path / "part.json").read_text(encoding="utf8"))
    except (OSError, ValueError) as error:
        raise BadShards(f"{path / 'part.json'} is damaged ({error}). Delete {path.parent} to rebuild it.") from None
    _verify(path.parent, part)
    return part


def _write_part(
    source: Source,
    tokenizer: Tokenizer,
    validation_share: float,
    final: Path,
    remaining: Iterator[tuple[Document, float]],
    progress: Progress,
) -> dict[str, Any] | None:
    """Take documents until the part is full and put it on disk. None when there are none left."""
    tokens: dict[str, list[np.ndarray]] = {side: [] for side in SIDES}
    masks: dict[str, list[np.ndarray]] = {side: [] for side in SIDES}
    digests: list[bytes] = []
    raw: list[str] = []
    counts = {what: dict.fromkeys(SIDES, 0) for what in ("documents", "bytes", "tokens")}
    size = 0
    while size < PART_BYTES:
        chunk, share = _take(remaining)
        if not chunk:
            break
        for document, (ids, counted) in zip(chunk, _encode(tokenizer, chunk, source.loss_roles), strict=True):
            digest = document.digest
            side = _side(digest, validation_share)
            digests.append(digest)
            tokens[side].append(ids)
            masks[side].append(counted)
            length = len(document.text.encode())
            size += length
            counts["documents"][side] += 1
            counts["bytes"][side] += length
            counts["tokens"][side] += len(ids)
            if side == "validation":
                record = {"text": document.text} | ({"messages": document.messages} if document.messages else {})
                raw.append(json.dumps(record, ensure_ascii=False) + "\n")
        progress(f"tokenising {source.name}", share)
    if not digests:
        return None
    contents = {"documents.sha256": b"".join(digests)}
    for side in SIDES:
        if tokens[side]:
            contents[f"{side}.tokens"] = np.concatenate(tokens[side]).astype(_dtype(tokenizer)).tobytes()
            counted = np.concatenate(masks[side])
            if not counted.all():
                contents[f"{side}.mask"] = counted.astype(np.uint8).tobytes()
    if raw:
        contents["validation.jsonl"] = "".join(raw).encode()
    part = {
        "folder": final.name,
        **counts,
        "sha256": {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    }
    temporary = final.with_name(final.name + ".tmp")
    temporary.mkdir()
    for name, content in contents.items():
        write_file(temporary / name, content)
    write_file(temporary / "part.json", json.dumps(part).encode())
    sync_folder(temporary)
    temporary.rename(final)
    sync_folder(final.parent)
    return part


def _take(remaining: Iterator[tuple[Document, float]]) -> tuple[list[Document], float]:
    chunk: list[Document] = []
    characters, share = 0, 1.0
    for document, share in remaining:  # noqa: B007 the last share is the answer
        chunk.append(document)
        characters += len(document.text)
        if characters >= CHUNK_BYTES:
            break
    return chunk, share


def _encode(
    tokenizer: Tokenizer, chunk: list[Document], loss_roles: tuple[str, ...]
) -> Iterator[tuple[Int[np.ndarray, "token"], Bool[np.ndarray, "token"]]]:
    """Ids of each document, from `<|bos|>` on, and which of them count as targets: not the turns of other roles."""
    contents = iter(
        tokenizer.encode_batch(
            [content for doc in chunk for content in ([c for _, c in doc.messages] if doc.messages else [doc.text])]
        )
    )
    for document in chunk:
        if document.messages:
            roles = [role for role, _ in document.messages]
            ids, turns = tokenizer.lay_out(roles, list(itertools.islice(contents, len(roles))))
            counts = [role in ("", *loss_roles) for role, _ in turns]
            yield np.array(ids, dtype=np.int64), np.repeat(counts, [length for _, length in turns])
        else:
            ids = [tokenizer.bos, *next(contents)]
            yield np.array(ids, dtype=np.int64), np.ones(len(ids), dtype=bool)


def _side(digest: bytes, validation_share: float) -> str:
    return "validation" if position(digest) < validation_share else "train"


def _dtype(tokenizer: Tokenizer) -> np.dtype[Any]:
    return np.dtype("<u2") if tokenizer.vocab_size <= 1 << 16 else np.dtype("<u4")


def _read_digests(part: Path) -> list[bytes]:
    raw = (part / "documents.sha256").read_bytes()
    return [raw[start : start + 32] for start in range(0, len(raw), 32)]


def _verify(folder: Path, part: dict[str, Any]) -> None:
    for name, expected in part["sha256"].items():
        file = folder / part["folder"] / name
        try:
            with file.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise BadShards(f"{file} cannot be read ({error.strerror}). Delete {folder} to rebuild it.") from None
        if found != expected:
            raise BadShards(f"{file} is corrupted: its sha256 is not the manifest's. Delete {folder} to rebuild it.")


def _stream(folder: Path, parts: list[dict[str, Any]], side: str, dtype: np.dtype[Any]) -> Stream:
    tokens: list[np.ndarray] = []
    masks: list[np.ndarray | None] = []
    starts: list[int] = []
    length = 0
    for part in parts:
        if f"{side}.tokens" not in part["sha256"]:
            continue
        inside = folder / part["folder"]
        starts.append(length)
        # as plain arrays: slicing np.memmap itself costs ten times as much
        tokens.append(np.asarray(np.memmap(inside / f"{side}.tokens", dtype=dtype, mode="r")))
        masked = f"{side}.mask" in part["sha256"]
        masks.append(np.asarray(np.memmap(inside / f"{side}.mask", dtype=np.uint8, mode="r")) if masked else None)
        length += len(tokens[-1])
    return Stream(tuple(tokens), tuple(masks), tuple(starts), length)
