"""The record of exchanges: nothing is lost, nobody else writes, and an answer can be made again from it alone."""

import os
import re
import sqlite3
from pathlib import Path

import pytest

from app.server_answers import Ask, ChatBook, Talk
from app.server_weights import Published
from lab import checkpoint
from lab.chats import Chats, ChatsMissing, ChatsUnwritable, Irreproducible, reproduce
from lab.run import Run
from tests.made_runs import made_run

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made_run(tmp_path_factory.mktemp("chats"))


def asked(text: str = "the old dog", **more: object) -> Ask:
    return Ask("chat", "lab", ({"role": "user", "content": text},), max_tokens=9, seed=4, **more)  # type: ignore[arg-type]


def test_an_exchange_is_on_disk_with_all_that_decides_it_before_its_first_token(run: Run) -> None:
    book = ChatBook()
    answer = Talk(Published(run.path, True), book).begin(asked())
    with Chats.reader(run.path) as chats:
        found = chats.exchange(answer.id)
    assert (found.state, found.ids, found.step, found.seed) == ("begun", [], 8, 4)
    book.close()  # as a kill leaves it: begun, and nobody writes any more
    whole = reproduce(run, found)
    with Chats.writer(run.path) as chats:
        assert chats.exchange(answer.id).state == "interrupted"
    said = "".join(piece.text for piece in Talk(Published(run.path, True), ChatBook()).begin(asked()).pieces())
    assert said == whole.text and whole.ids


def test_an_answer_is_made_again_from_its_record_token_for_token(run: Run) -> None:
    book = ChatBook()
    talk = Talk(Published(run.path, True), book, system_prompt="be the farmer")
    answer = talk.begin(asked(temperature=1.3, top_p=0.9, stop=("zz",)))
    text = "".join(piece.text for piece in answer.pieces())
    found = book.of(run).exchange(answer.id)
    assert (found.state, found.text, found.ids) == ("done", text, answer.generation.ids)
    assert found.system_prompt == "be the farmer" and found.heard == 1
    again = reproduce(run, found)
    assert (again.ids, again.text, again.finish_reason) == (found.ids, text, found.finish_reason)
    book.close()


def test_an_answer_of_weights_that_were_replaced_is_refused(tmp_path: Path) -> None:
    run, book = made_run(tmp_path), ChatBook()
    answer = Talk(Published(run.path, True), book).begin(asked())
    list(answer.pieces())
    found = book.of(run).exchange(answer.id)
    book.close()
    weights = run.model(0).state_dict()
    checkpoint.save(run.checkpoints_folder, 8, weights, {}, {"step": 8})
    with pytest.raises(Irreproducible, match="other weights"):
        reproduce(run, found)


def test_an_answer_that_nobody_reads_to_its_end_is_recorded_as_far_as_it_came(run: Run) -> None:
    book = ChatBook()
    answer = Talk(Published(run.path, True), book).begin(asked())
    pieces = answer.pieces()
    first = next(pieces).text
    pieces.close()  # type: ignore[attr-defined]
    found = book.of(run).exchange(answer.id)
    assert found.state == "abandoned" and found.text == first and found.finish_reason is None
    assert reproduce(run, found).ids[: len(found.ids)] == found.ids
    book.close()


def test_two_never_write_at_once_and_a_reader_never_does(run: Run) -> None:
    with Chats.writer(run.path), pytest.raises(ChatsUnwritable, match="another server or chat"):
        Chats.writer(run.path)
    with Chats.writer(run.path), Chats.reader(run.path) as reader, pytest.raises(ChatsUnwritable, match="recorded"):
        reader.end("x", "done", [], "", None)


def test_the_file_is_private_and_a_link_or_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(ChatsMissing, match="lab chat"):
        Chats.reader(tmp_path)
    Chats.writer(tmp_path).close()
    assert os.stat(tmp_path / "chats.db").st_mode & 0o777 == 0o600
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    with sqlite3.connect(foreign / "chats.db") as connection:
        connection.execute("CREATE TABLE theirs (a)")
    before = (foreign / "chats.db").read_bytes()
    with pytest.raises(ChatsUnwritable, match="another program"):
        Chats.writer(foreign)
    assert (foreign / "chats.db").read_bytes() == before
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "chats.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ChatsUnwritable):
        Chats.writer(linked)
    assert not (tmp_path / "elsewhere").exists()


def test_one_part_of_training_alone_knows_of_chats() -> None:
    """They enter by `data.chats` or not at all: no kind of source reads the file, and no attachment does."""
    knows = {
        file.name
        for floor in ("lab", "probes", "train")
        for file in (ROOT / floor).rglob("*.py")
        if re.search(r"\"chats\.db\"|lab\.chats|from lab import .*chats", file.read_text(encoding="utf8"))
    }
    assert knows == {"chats.py", "chat_training.py"}
