"""Chat: a conversation through the run's server, recorded and read by probes; and what is shown where no server answers."""

import contextlib
import json
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app.server_answers import Ask, ChatBook, Talk
from app.server_client import Answered, NotAnswered, Remote, Wish, reach
from app.server_process import Found
from app.server_weights import Published
from app.verdict_text import visible
from app.views import tracing
from lab.chats import Chats, reproduce
from lab.run import Run
from tests.app.hostile import LABEL, TASK
from tests.app.serving import noted, talkative, until
from tests.app.test_views import as_markdown, words
from tests.made_runs import made_run
from train.probing import Bench

Opener = Callable[..., AppTest]
SETTINGS = {"tokens": "9", "seed": "7", "temperature": "1"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Iterator[Run]:
    """A run with a probe set, whose server answers."""
    run = made_run(tmp_path_factory.mktemp("chat"), text=text_file)
    texts = text_file.read_text(encoding="utf8").split("\n\n")
    Bench.open(run, run.config.probing, run.tokenizer(), lambda: texts)
    with noted(run):
        yield run


def say(page: AppTest, text: str) -> AppTest:
    return page.chat_input[0].set_value(text).run()


def html(page: AppTest) -> str:
    return "\n".join(one.proto.body for one in page.get("html"))


def test_without_a_server_the_command_is_named_and_what_was_said_can_be_read(tmp_path: Path, open_app: Opener) -> None:
    run = made_run(tmp_path)
    shown = open_app(tmp_path, "chat", run=run.name)
    assert not shown.exception and not shown.error
    assert "No server answers" in words(shown) and f"lab serve {run.name}" in words(shown)
    assert "Nobody has talked" in words(shown) and not shown.chat_input
    talk = Talk(Published(run.path, True), ChatBook(), "be kind")
    asked = ({"role": "user", "content": "<b>who</b> are you?"},)
    answer = talk.begin(Ask("chat", "lab", asked, max_tokens=5, seed=3, client="a test"))
    text = "".join(piece.text for piece in answer.pieces())
    talk.chats.close()
    shown = open_app(tmp_path, "chat", run=run.name, exchange=answer.id)
    assert not shown.exception and not shown.error
    assert "<b>who</b> are you?" in words(shown) and visible(text).strip() in words(shown) and "be kind" in words(shown)
    assert "step 8" in html(shown) and "a test" in html(shown) and "reproduce(run, exchange)" in words(shown)


def test_who_said_something_is_never_markdown(tmp_path: Path, open_app: Opener) -> None:
    run = made_run(tmp_path)
    talk = Talk(Published(run.path, True), ChatBook())
    answer = talk.begin(Ask("chat", "lab", ({"role": "user", "content": "who?"},), max_tokens=2, seed=3))
    assert list(answer.pieces())
    talk.chats.close()
    with contextlib.closing(sqlite3.connect(run.path / "chats.db")) as database, database:
        database.execute("UPDATE exchanges SET asked = ?", (json.dumps([{"role": LABEL, "content": "who?"}]),))
    shown = open_app(tmp_path, "chat", run=run.name, exchange=answer.id)
    assert not shown.exception and not shown.error and "t32" in html(shown)
    assert "evil" not in as_markdown(shown)


def test_a_probe_under_an_answer_is_explained_without_markdown(
    run: Run, open_app: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tracing.trace

    def hostile(*asked: Any) -> Any:
        found = json.loads(json.dumps(trace(*asked)))
        name, one = next(iter(found["concepts"].items())) if found.get("concepts") else (TASK, None)
        found["concepts"] = {} if one is None else {name: one}
        found["probes"] = {TASK: next(iter(found["probes"].values())) | {"classes": [LABEL, "content"]}}
        return found

    monkeypatch.setattr(tracing, "trace", hostile)
    shown = say(open_app(run.path.parent, "chat", run=run.name, **SETTINGS), "The dog")
    assert not shown.exception and not shown.error
    assert "t31" in html(shown) and "t32" in html(shown) and "Probability that a" in html(shown)
    assert "evil" not in as_markdown(shown)


def test_a_damaged_record_of_chats_is_said_and_the_page_stays(tmp_path: Path, open_app: Opener) -> None:
    run = made_run(tmp_path)
    (run.path / "chats.db").write_bytes(b"this is not SQLite" * 500)
    shown = open_app(tmp_path, "chat", run=run.name)
    assert not shown.exception and "chats.db of this run cannot be read" in shown.error[0].value
    assert f"lab serve {run.name}" in words(shown)


def test_a_conversation_is_answered_recorded_read_by_probes_and_goes_on(run: Run, open_app: Opener) -> None:
    shown = open_app(run.path.parent, "chat", run=run.name, **SETTINGS)
    assert not shown.exception and "not used for training" in words(shown)
    shown.text_area(key="system").input("be kind")
    say(shown, "the old <i>dog</i>")
    assert not shown.exception and not shown.error
    with Chats.reader(run.path) as chats:
        first = chats.exchanges()[0]
    assert first.client == "lab app" and first.seed == 7 and first.settings["max_tokens"] == 9 and first.step == 8
    assert [one["content"] for one in first.asked] == ["be kind", "the old <i>dog</i>"]
    assert reproduce(run, first).text == first.text and visible(first.text).strip() in words(shown)
    assert "step 8 · seed 7" in html(shown) and "the old <i>dog</i>" in words(shown)
    assert html(shown).count('class="bw-strip"') == 1 and "Mean 0." in words(shown)
    say(shown, "and then?")
    with Chats.reader(run.path) as chats:
        second = chats.exchanges()[0]
    roles = [(one["role"], one["content"]) for one in second.asked]
    assert roles == [
        ("system", "be kind"),
        ("user", "the old <i>dog</i>"),
        ("assistant", first.text),
        ("user", "and then?"),
    ]
    assert html(shown).count('class="bw-strip"') == 2
    shown.selectbox(key="task").set_value("class.current").run()
    assert "Probe class.current" in html(shown) and shown.query_params["task"] in ("class.current", ["class.current"])
    next(one for one in shown.button if one.label == "Begin anew").click().run()
    assert "Nothing has been said yet" in words(shown)


def test_a_chosen_step_answers_and_the_past_is_beside_the_talk(run: Run, open_app: Opener) -> None:
    shown = open_app(run.path.parent, "chat", run=run.name, step="0", strips="false", **SETTINGS)
    say(shown, "the king")
    assert "step 0 · seed 7" in html(shown) and 'bw-strip"' not in html(shown)
    shown = open_app(run.path.parent, "chat", run=run.name, view="past chats")
    assert not shown.exception and not shown.error
    assert "the king" in words(shown) and 'class="bw-strip"' in html(shown)


def test_a_refusal_is_said_in_words_and_is_no_part_of_the_conversation(run: Run, open_app: Opener) -> None:
    shown = open_app(run.path.parent, "chat", run=run.name, strips="false", **SETTINGS)
    say(shown, "market " * 300)
    assert not shown.exception and shown.error[0].value == "Not answered." and "Shorten" in words(shown)
    say(shown, "the dog")
    with Chats.reader(run.path) as chats:
        assert [one["content"] for one in chats.exchanges()[0].asked] == ["the dog"]


def test_whoever_leaves_frees_the_server_even_from_the_line(tmp_path: Path) -> None:
    """One answer runs, and is left; one waits for its turn, and is left before it began."""
    run = talkative(tmp_path)
    with noted(run) as server:
        first, second = reach(run.path, "a"), reach(run.path, "b")
        assert first is not None and second is not None
        wish, messages = Wish("lab", 0.0, 1.0, 2000, 1), [{"role": "user", "content": "the dog"}]
        pieces = first.ask(wish, messages, Answered())
        next(pieces)
        waited: list[float] = []

        def leave() -> None:
            waited.append(time.monotonic())
            if len(waited) == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            next(second.ask(wish, messages, Answered(), leave))
        until(lambda: server.lab.turns.waiting == 0, "nobody waits")
        assert server.lab.turns.busy
        pieces.close()
        until(lambda: not server.lab.turns.busy, "the server is free")
        with Chats.reader(run.path) as chats:
            records = chats.exchanges()
        assert [one.state for one in records] == ["abandoned"] and len(records[0].ids) < 2000


def test_a_server_that_dies_halfway_is_a_broken_connection_in_words(tmp_path: Path) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]

    def half() -> None:
        connection, _ = listening.accept()
        with contextlib.closing(connection):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\ndata:")

    threading.Thread(target=half, daemon=True).start()
    remote = Remote(Found(f"http://127.0.0.1:{port}", "5" * 48))
    with contextlib.closing(listening), pytest.raises(NotAnswered, match="connection broke"):
        list(remote.ask(Wish("lab", 1.0, 1.0, 9, 1), [{"role": "user", "content": "x"}], Answered()))


def test_the_client_brings_no_torch_and_no_streamlit() -> None:
    code = "import sys, app.server_client; print([m for m in ('torch', 'streamlit', 'openai') if m in sys.modules])"
    done: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
