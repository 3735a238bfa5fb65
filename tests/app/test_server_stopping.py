"""Ctrl-C ends the server at once, whoever is connected, and what was said until then is recorded."""

import asyncio
import http.client
import json
import os
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from app.server_queue import Stopping, Turns
from lab.chats import Chats, reproduce
from lab.run import Run
from tests.app.serving import Real, really_served
from tests.made_runs import made_run

SECONDS = 2.0  # a person's patience, on a machine that has no more to do than it has processors; it took 0.5 s
STREAMS = 6  # answers of hundreds of tokens, one after another: at Ctrl-C one is being given and others wait


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return made_run(tmp_path, n_ctx=1024)


def connect(real: Real) -> http.client.HTTPConnection:
    place = urlsplit(real.url)
    return http.client.HTTPConnection(place.hostname or "", place.port, timeout=60)


def ask(real: Real, seed: int) -> http.client.HTTPConnection:
    connection = connect(real)
    body = {"model": "lab", "stream": True, "messages": [{"role": "user", "content": "a"}], "seed": seed}
    headers = {"Authorization": f"Bearer {real.token}", "Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body | {"max_tokens": 900}), headers)
    return connection


def test_ctrl_c_with_an_idle_client_kept_alive_and_streams_open_ends_at_once_and_loses_no_record(run: Run) -> None:
    with really_served(run.path) as real:
        idle = connect(real)
        idle.request("GET", "/v1/models", headers={"Authorization": f"Bearer {real.token}"})
        assert idle.getresponse().read()
        asked = [ask(real, seed) for seed in range(STREAMS)]
        stream = asked[0].getresponse()
        told = [json.loads(stream.readline()[6:])]
        assert real.process is not None and idle.sock is not None  # kept alive by both sides
        begin, busy = time.monotonic(), max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
        real.stop()
        assert time.monotonic() - begin < SECONDS * busy and real.process.returncode == 130
        said = (real.process.stderr.read() if real.process.stderr else b"").decode()
        assert "Traceback" not in said and "Cancel" not in said, said
        lines = [line[6:] for line in stream.read().decode().split("\n") if line.startswith("data: {")]
    told += [json.loads(line) for line in lines]
    assert told.pop()["error"]["code"] == "stopping"
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in told)
    assert not (run.path / "server.json").exists()
    with Chats.reader(run.path) as chats:
        records = {record.id: record for record in chats.exchanges()}
    cut = records[told[0]["id"]]
    assert cut.state == "abandoned" and cut.ended_at is not None and cut.text == text
    assert reproduce(run, cut).ids[: len(cut.ids)] == cut.ids
    assert {record.state for record in records.values()} <= {"done", "abandoned"} and len(records) < STREAMS


def test_a_line_that_has_stopped_takes_nothing_more_on() -> None:
    turns = Turns()
    turns.close()

    async def come() -> None:
        with pytest.raises(Stopping, match="Ask again"):
            turns.take(lambda gone: iter(()))

    asyncio.run(come())
