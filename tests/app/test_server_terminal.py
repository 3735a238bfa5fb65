"""`lab serve`, `lab chat` and `lab up` as a person meets them."""

import io
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app import chat_terminal
from app.chat_terminal import Here, Remote, Wish, converse, partner_for
from app.server import create
from app.server_guard import Policy
from app.server_process import Found, find
from lab.chats import Chats, reproduce
from lab.run import Run
from tests.app.commands import command, environment, lab
from tests.app.serving import PATIENCE, TOKEN, loopback, really_served, until
from tests.made_runs import made_run

WISH = Wish("lab", 1.0, 1.0, 9, 7)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return made_run(tmp_path)


def typing(*lines: str) -> Callable[[str], str]:
    """Types these lines, keeps the prompts it was shown, then ends the input."""
    left: Iterator[str] = iter(lines)
    prompts: list[str] = []

    def read(prompt: str) -> str:
        prompts.append(prompt)
        for line in left:
            return line
        raise EOFError

    read.prompts = prompts  # type: ignore[attr-defined]
    return read


def test_the_server_and_this_process_say_the_same_and_remember_the_conversation(run: Run) -> None:
    told: list[list[dict[str, str]]] = []
    here, _ = partner_for(run, None)
    assert isinstance(here, Here)
    read = typing("the old dog", "", "/pause", "stop")
    told.append(converse(here, WISH, read, lambda _: None, lambda _: None))
    here.close()
    assert read.prompts[0] == "lab@step-8> "  # type: ignore[attr-defined]
    with loopback(create(run.path, Policy(TOKEN))) as url:
        remote = Remote(Found(url, TOKEN))
        shown: list[str] = []
        told.append(converse(remote, WISH, typing("the old dog", "", "/pause", "stop"), shown.append, lambda _: None))
    assert told[0] == told[1] and [m["role"] for m in told[0]] == ["user", "assistant"] * 3
    assert "".join(shown) == "".join(m["content"] + "\n" for m in told[1] if m["role"] == "assistant")
    with Chats.reader(run.path) as chats:
        records = chats.exchanges()
    assert len(records) == 6 and all(one.state == "done" and reproduce(run, one).ids == one.ids for one in records)
    assert list(run.inbox.iterdir()) == []  # "/pause" and "stop" were words


def test_interrupting_stops_the_answer_and_nothing_else(run: Run) -> None:
    here, _ = partner_for(run, None)
    pieces: list[str] = []
    said: list[str] = []

    def write(text: str) -> None:
        pieces.append(text)
        if len(pieces) == 2:
            raise KeyboardInterrupt

    told = converse(here, WISH, typing("the old dog", "and then"), write, said.append)
    here.close()
    assert said[0] == "(stopped)" and len(told) == 4 and told[1]["content"] == "".join(pieces[:2])
    with Chats.reader(run.path) as chats:
        assert [one.state for one in chats.exchanges()] == ["done", "abandoned"]


def test_a_refusal_is_said_and_the_conversation_goes_on(run: Run) -> None:
    here, _ = partner_for(run, None)
    said: list[str] = []
    told = converse(here, WISH, typing("market " * 300, "dog"), lambda _: None, said.append)
    assert said[0].startswith("not answered: ") and told[0]["content"] == "dog"
    here.close()
    with loopback(create(run.path, Policy(TOKEN))) as url:
        remote = Remote(Found(url, TOKEN))
        said.clear()
        converse(remote, WISH, typing("market " * 300), lambda _: None, said.append)
        with pytest.raises(chat_terminal.NotAnswered, match="token is missing or wrong"):
            Remote(Found(url, "6" * 48)).step("lab")
    assert "Shorten" in said[0]


def test_chat_through_a_pipe_gives_answers_alone_and_inert(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("the old dog\n"))
    words = ("chat", run.name, "--seed", "3", "--max-tokens", "30", "--temperature", "2")
    done = lab(*words, runs=run.path.parent)
    assert done.returncode == 0, done.stderr
    with Chats.reader(run.path) as chats:
        record = chats.exchanges()[0]
    assert record.seed == 3 and record.client == "lab chat" and "lab@step-8> " in done.stderr
    assert done.stdout.strip() and not any(ord(c) < 32 and c not in "\n\t" for c in done.stdout)


def test_serve_answers_privately_says_where_and_leaves_nothing_behind(run: Run) -> None:
    with really_served(run.path, "--system-prompt", "be kind") as real:
        assert (run.path / "server.token").stat().st_mode & 0o777 == 0o600
        assert (run.path / "server.json").stat().st_mode & 0o777 == 0o600
        found = find(run.path)
        assert found is not None and found.url == real.url and found.token == real.token
        assert real.ask("/lab/v1/status")["server"]["system_prompt"] == "be kind"
        assert real.process is not None
        listening = Path(f"/proc/{real.process.pid}/net/tcp").read_text()
        port = f"{int(real.url.rsplit(':', 1)[1]):04X}"
        second = lab("serve", run.name, "--port", "0", runs=run.path.parent)
        assert second.returncode == 1 and "another server or chat" in second.stderr
        assert f"0100007F:{port}" in listening and f"00000000:{port}" not in listening
        partner, name = partner_for(run, None)
        assert isinstance(partner, Remote) and name == "lab" and partner.step("lab") == 8
        real.stop()
        output = (real.process.stderr.read() if real.process.stderr else b"").decode()
    assert real.token not in output and "answers at" in output
    assert not (run.path / "server.json").exists() and find(run.path) is None


def test_wrong_options_are_said_before_anything_starts(run: Run) -> None:
    assert lab("serve", run.name, "--host-name", "x", runs=run.path.parent).returncode == 2
    assert lab("serve", "nobody", runs=run.path.parent).returncode == 2
    (run.path / "server.token").write_text("short")
    done = lab("serve", run.name, "--port", "0", runs=run.path.parent)
    assert done.returncode == 2 and "Delete it" in done.stderr


@pytest.mark.slow
def test_up_starts_all_says_when_each_answers_and_one_interrupt_stops_all(run: Run) -> None:
    words = command("up", run.name)
    process = subprocess.Popen(
        words, env=environment(run.path.parent), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    assert process.stderr is not None
    lines: list[str] = []
    deadline = time.monotonic() + PATIENCE
    while not any("the app answers" in line for line in lines):
        assert process.poll() is None and time.monotonic() < deadline, lines
        lines.append(process.stderr.readline().decode())
    places = [word.rstrip(";") for line in lines for word in line.split() if word.startswith("http://")]
    assert find(run.path) is not None
    pid = json.loads((run.path / "server.json").read_bytes())["pid"]
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE) == 0
    assert find(run.path) is None and len(places) >= 2

    def gone() -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False

    until(gone, "the server has ended")
