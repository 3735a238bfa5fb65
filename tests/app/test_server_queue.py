"""One answer at a time, a bounded line, and a place that is free as soon as its client has left."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from app import server_answers
from app.chat_terminal import Here, partner_for
from app.server import create
from app.server_client import Remote, reach
from app.server_guard import Policy
from app.server_process import find, forget, listening, url_of
from lab import checkpoint
from lab.chats import Chats
from lab.generate import Generation
from lab.run import Run
from tests.app.serving import BASE, TOKEN, chat, events, loopback, served, until
from tests.made_runs import made_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made_run(tmp_path_factory.mktemp("queue"))


class Slow:
    """Stands in for sampling: says "a" every few milliseconds, and may be held up."""

    def __init__(self) -> None:
        self.go, self.begun, self.ended, self.together, self.most_together = threading.Event(), 0, 0, 0, 0
        self.endless = False

    def __call__(self, model: Any, _: Any, __: Any, ___: Any, generation: Generation) -> Iterator[str]:
        import torch

        self.begun, self.together = self.begun + 1, self.together + 1
        self.most_together = max(self.most_together, self.together)
        try:
            assert self.go.wait(60)
            while self.endless or len(generation.ids) < 3:
                model(torch.tensor([[1]]))  # where a client that has left is noticed
                generation.ids.append(1)
                yield "a"
                time.sleep(0.002)
            generation.finish_reason = "stop"
        finally:
            self.together, self.ended = self.together - 1, self.ended + 1


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Slow:
    found = Slow()
    monkeypatch.setattr(server_answers, "stream", found)
    return found


def test_one_is_answered_two_may_wait_and_the_next_is_told_to_come_again(run: Run, slow: Slow) -> None:
    with served(run.path, most_waiting=2) as (client, server), ThreadPoolExecutor(8) as pool:
        first = pool.submit(chat, client)
        until(lambda: server.lab.turns.busy, "the first is being answered")
        waiting = [pool.submit(chat, client) for _ in range(2)]
        until(lambda: server.lab.turns.waiting == 2, "two wait")
        for refused in (chat(client), chat(client, stream=True), client.post("/lab/v1/trace", json={"text": "a"})):
            assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["type"] == "rate_limit_error"
        assert client.get("/health").status_code == 200  # what needs no model does not wait
        assert client.get("/lab/v1/status").json()["server"]["waiting"] == 2
        slow.go.set()
        answers = [future.result().json()["choices"][0]["message"]["content"] for future in (first, *waiting)]
    assert answers == ["aaa"] * 3 and slow.most_together == 1 and slow.begun == 3


class Line:
    """A client on a bare socket, that can leave."""

    def __init__(self, url: str, stream: bool = True) -> None:
        place = urlsplit(url)
        self.connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)
        body = {"model": "lab", "stream": stream, "messages": [{"role": "user", "content": "a"}]}
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        self.connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)

    def leave(self) -> None:
        if self.connection.sock is not None:
            self.connection.sock.close()
        self.connection.close()


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_whose_client_has_left_ends_and_is_recorded_so(run: Run, slow: Slow, stream: bool) -> None:
    slow.endless = True
    slow.go.set()
    server = create(run.path, Policy(TOKEN))
    with loopback(server) as url:
        line = Line(url, stream)
        if stream:
            assert line.connection.getresponse().readline().startswith(b"data: ")
        until(lambda: slow.begun == 1, "it is being answered")
        line.leave()
        until(lambda: slow.ended == 1 and not server.lab.turns.busy, "its place is free")
        slow.endless = False
        again = Line(url, stream=False)
        assert json.loads(again.connection.getresponse().read())["choices"][0]["finish_reason"] == "stop"
    with Chats.reader(run.path) as chats:
        assert [one.state for one in chats.exchanges(2)] == ["done", "abandoned"]


def test_who_leaves_while_waiting_is_never_begun(run: Run, slow: Slow) -> None:
    server = create(run.path, Policy(TOKEN), most_waiting=1)
    with loopback(server) as url:
        first = Line(url)
        until(lambda: slow.begun == 1, "the first is being answered")
        second = Line(url)
        until(lambda: server.lab.turns.waiting == 1, "the second waits")
        second.leave()
        until(lambda: server.lab.turns.waiting == 0, "its place is free")
        third = Line(url)
        until(lambda: server.lab.turns.waiting == 1, "the third may wait")
        slow.go.set()
        texts = [line.connection.getresponse().read().decode() for line in (first, third)]
    assert all(events(text) for text in texts) and slow.begun == 2


def test_a_server_that_stops_tells_who_is_answered_who_waits_and_who_comes(run: Run, slow: Slow) -> None:
    slow.endless = True
    slow.go.set()
    server = create(run.path, Policy(TOKEN))
    with loopback(server) as url:
        first = Line(url).connection.getresponse()
        assert first.readline().startswith(b"data: ")
        second, third = Line(url), Line(url, stream=False)
        until(lambda: server.lab.turns.waiting == 2, "two wait")
        server.stop()
        cut = first.read().decode()
        assert "[DONE]" not in cut and json.loads(cut.rstrip().split("data: ")[-1])["error"]["code"] == "stopping"
        for line in (second, third, Line(url)):
            answer = line.connection.getresponse()
            assert answer.status == 503 and json.loads(answer.read())["error"]["code"] == "stopping"
    with Chats.reader(run.path) as chats:
        assert chats.exchanges(1)[0].state == "abandoned" and slow.begun == 1


def test_nothing_said_for_long_is_bridged_by_a_comment(run: Run, slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.server_openai.PING_SECONDS", 0.05)
    timer = threading.Timer(0.5, slow.go.set)
    with served(run.path) as (client, _):
        timer.start()
        text = chat(client, stream=True).text
    assert ": ping\n\n" in text and events(text)


# ---------------------------------------------------------------------------------------------------- weights that change


def answers_while(run: Run, change: Callable[[int], None], changes: int, clients: int = 4) -> list[dict[str, Any]]:
    """Everything that was answered while checkpoints changed beneath; the last requests come after the last change."""
    found: list[dict[str, Any]] = []
    over = threading.Event()
    with served(run.path) as (client, _), ThreadPoolExecutor(clients) as pool:

        def talk() -> None:
            last = False
            while not last:
                last = over.is_set()
                answer = chat(client, seed=None, max_tokens=8)
                assert answer.status_code == 200, answer.text
                found.append(answer.json())

        talking = [pool.submit(talk) for _ in range(clients)]
        for number in range(changes):
            before = len(found)
            change(number)
            until(lambda before=before: len(found) > before + 1 or any(one.done() for one in talking), "it is answered")  # type: ignore[misc]
        over.set()
        for one in talking:
            one.result()
    return found


@pytest.mark.parametrize("swaps", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_newer_weights_are_taken_up_between_requests_and_none_fails(tmp_path: Path, swaps: int) -> None:
    from lab.chats import reproduce

    run = made_run(tmp_path, steps=(0, 8))
    weights = {"even": run.model(0).state_dict(), "odd": run.model(8).state_dict()}

    def publish(number: int) -> None:
        step = 9 + number
        checkpoint.save(run.checkpoints_folder, step, weights["odd" if number % 2 else "even"], {}, {"step": step})
        checkpoint.rotate(run.checkpoints_folder, 2, lambda step: False)

    found = answers_while(run, publish, swaps)
    steps = {answer["system_fingerprint"] for answer in found}
    assert len(steps) >= min(swaps, 3) and f"step-{8 + swaps}" in steps
    with Chats.reader(run.path) as chats:
        records = [chats.exchange(answer["id"]) for answer in found]
    kept = [one for one in records if one.step == 8 + swaps]
    assert kept and all(reproduce(run, one).ids == one.ids for one in kept[:5])


def test_a_damaged_newest_checkpoint_is_passed_over_and_one_without_numbers_is_the_last_choice(tmp_path: Path) -> None:
    run = made_run(tmp_path, steps=(0, 8, 9))
    weights = run.checkpoint_info(9).path / "model.safetensors"
    with weights.open("r+b") as file:
        file.seek(-5, 2)
        file.write(b"\xff")
    hollow = {name: tensor * float("nan") for name, tensor in run.model(8).state_dict().items()}
    with served(run.path) as (client, _):
        assert chat(client).json()["system_fingerprint"] == "step-8"
        asked = chat(client, model="lab@step-9")
        assert asked.status_code == 503 and asked.json()["error"]["code"] == "no_weights"
        hollow |= {
            name: tensor * 0
            for name, tensor in run.model(8).state_dict().items()
            if name.split(".")[-1].startswith("b_")
        }
        checkpoint.save(run.checkpoints_folder, 10, hollow, {}, {"step": 10}, healthy=False)
        assert chat(client).json()["system_fingerprint"] == "step-8"


def test_a_run_without_weights_says_so_and_is_served_when_it_has_some(tmp_path: Path) -> None:
    run = made_run(tmp_path, steps=(0,))
    hidden = tmp_path / "hidden"
    run.checkpoint_info(0).path.rename(hidden)
    with served(run.path) as (client, _):
        answer = chat(client)
        assert answer.status_code == 503 and answer.json()["error"]["code"] == "no_weights"
        assert client.get("/v1/models").json()["data"] == [] and client.get("/v1/models/lab").status_code == 503
        assert client.get("/health").json()["weights_step"] is None
        hidden.rename(run.checkpoints_folder / "step-000000000")
        assert chat(client).status_code == 200


def test_few_checkpoints_are_kept_in_memory(tmp_path: Path) -> None:
    run = made_run(tmp_path, steps=(0, 1, 2, 3, 4))
    with served(run.path) as (client, server):
        for step in (0, 1, 2, 3, 4, 0):
            assert chat(client, model=f"lab@step-{step}", max_tokens=1).json()["system_fingerprint"] == f"step-{step}"
        assert len(server.lab.talk.published._memory) == 3


def test_a_folder_of_runs_is_served_by_name_and_nothing_outside_it(tmp_path: Path) -> None:
    root = tmp_path / "root"
    made_run(root, "fox")
    made_run(root, "owl", steps=(0,))
    outside = made_run(tmp_path, "outside")
    (root / "link").symlink_to(outside.path)
    with served(root) as (client, _):
        names = [model["id"] for model in client.get("/v1/models").json()["data"]]
        assert names == ["fox", "fox@step-8", "fox@step-0", "owl", "owl@step-0"]
        assert chat(client, model="owl").json()["system_fingerprint"] == "step-0"
        for wrong in ("lab", "link", "../outside", "root", "latest", "fo"):
            assert chat(client, model=wrong).status_code == 404, wrong
        assert client.get("/health").json()["runs"] == 3  # the link counts, but is never opened
        assert client.get("/lab/v1/timeline").status_code == 404  # several: name one
        assert client.get("/lab/v1/timeline", params={"run": "fox"}).json()["run"] == "fox"
        for wrong in ("../outside", "FOX", "a/b", "con"):
            assert client.get("/lab/v1/timeline", params={"run": wrong}).status_code in (400, 404)
    assert (root / "fox" / "chats.db").exists() is False and (root / "owl" / "chats.db").exists()
    assert not (outside.path / "chats.db").exists()


def test_a_note_that_a_kill_left_does_not_lead_to_whoever_has_the_port_now(run: Run, tmp_path: Path) -> None:
    killed, other = create(run.path, Policy(TOKEN)), create(run.path, Policy("6" * 48))
    assert killed.lab.id != other.lab.id
    run = made_run(tmp_path)
    with loopback(other) as url:
        for server, here in ((other, True), (killed, False)):
            (run.path / "server.json").write_text(json.dumps({"url": url, "pid": 1, "id": server.lab.id}))
            (run.path / "server.token").unlink(missing_ok=True)
            assert (find(run.path) is not None) == here
            assert (run.path / "server.token").exists() == here  # nothing was even read that could be sent
        partner, _ = partner_for(run, None)
        assert isinstance(partner, Here) and reach(run.path, "a test") is None
        about = {"url": url, "pid": 1, "id": other.lab.id}
        (tmp_path / "server.json").write_text(json.dumps(about))  # the server of the folder has the port now
        partner, name = partner_for(run, None)
        assert isinstance(partner, Remote) and name == run.name


def test_where_it_listens(run: Run, tmp_path: Path) -> None:
    with listening("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        taken.listen()
        from app.server_process import ServerDidNotStart

        with pytest.raises(ServerDidNotStart, match=str(port)):
            listening("127.0.0.1", port)
    assert url_of("0.0.0.0", 5) == "http://127.0.0.1:5" and url_of("::1", 5) == "http://[::1]:5"
    (tmp_path / "run").mkdir()
    note = tmp_path / "run" / "server.json"
    assert find(tmp_path / "run") is None
    for url in ("http://attacker.example/", "file:///etc/passwd", f"{BASE}:1", f"{BASE}:80@attacker.example"):
        note.write_text(json.dumps({"url": url, "pid": 1}))
        assert find(tmp_path / "run") is None
    with loopback(create(run.path, Policy(TOKEN))) as url:
        note.write_text(json.dumps({"url": url, "pid": 1}))
        assert find(tmp_path / "run") is None  # of a version before ids
    forget(tmp_path / "run", 2)
    assert note.exists()
    forget(tmp_path / "run", 1)
    assert not note.exists()
