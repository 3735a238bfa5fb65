"""SIGKILL of server, trainer, or both, in the middle of a stream: no record is lost, nothing is damaged, all start again."""

import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from app.chats import Chats, reproduce
from lab.checkpoint import newest_valid
from lab.run import Run
from tests.app.commands import command, environment
from tests.app.serving import PATIENCE, Real, start, until

STEPS = 100_000  # it never ends by itself here
VICTIMS = ("server", "trainer", "both")


def trainer(root: Path, *words: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command(*words),
        env=environment(root),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def kill(*processes: "subprocess.Popen[bytes]") -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    for process in processes:
        process.wait(30)


class Stream:
    """One streamed answer, read piece by piece: what a client was told."""

    def __init__(self, real: Real, seed: int) -> None:
        place = urlsplit(real.url)
        self.connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=PATIENCE)
        messages = [{"role": "user", "content": "The old farmer"}]
        body: dict[str, Any] = {"model": "lab", "stream": True, "messages": messages, "seed": seed, "max_tokens": 40}
        headers = {"Authorization": f"Bearer {real.token}", "Content-Type": "application/json"}
        self.connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        self.answer = self.connection.getresponse()
        self.id, self.text, self.whole = "", "", False

    def read(self, events: int | None = None) -> None:
        """So many events, or all that come before the connection ends or breaks."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            while events is None or events > 0:
                line = self.answer.readline()
                if not line:
                    return
                if not line.startswith(b"data: "):
                    continue
                if line.startswith(b"data: [DONE]"):
                    self.whole = True
                    return
                event = json.loads(line[6:])
                self.id = event["id"]
                self.text += event["choices"][0]["delta"].get("content") or ""
                events = None if events is None else events - 1


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_a_kill_in_the_middle_of_a_stream_loses_no_record_and_damages_nothing(
    tmp_path: Path, text_file: Path, kills: int
) -> None:
    overrides = [
        f'data.sources=[{{name="story", kind="text", path="{text_file}"}}]',
        "data.phases=[{from_step=0, weights={story=1.0}}]", "model.d_vocab=400", "data.tokenizer_bytes=200000",
        "data.validation_share=0.1", "train.threads=1", f"train.steps={STEPS}", "checkpoint.every=50", "probing.every=0",
        "checkpoint.log_spaced=false",
    ]  # fmt: skip
    words = [word for setting in overrides for word in ("--set", setting)]
    training = trainer(tmp_path, "train", "--preset", "tiny", "--name", "fox", *words)
    until(lambda: (tmp_path / "fox" / "checkpoints" / "LATEST").exists() or training.poll() is not None, "it trains")
    run = Run.open(tmp_path / "fox")
    real = start(run.path)
    generator = random.Random(kills)
    told: dict[str, str] = {}  # exchange -> what its client had read of it
    try:
        for number in range(kills):
            victim = VICTIMS[number % 3]
            finished = Stream(real, seed=number)
            finished.read()
            assert finished.whole
            told[finished.id] = finished.text
            cut = Stream(real, seed=1000 + number)
            cut.read(generator.randrange(1, 8))
            time.sleep(generator.uniform(0, 0.01))
            doomed = {"server": [real.process], "trainer": [training], "both": [real.process, training]}[victim]
            kill(*doomed)
            cut.read()
            assert cut.id
            told[cut.id] = cut.text
            if victim == "trainer":
                assert cut.whole and real.ask("/health")["training"] == "dead"  # it goes on, and says so
                after = Stream(real, seed=7)
                after.read()
                assert after.whole
                told[after.id] = after.text
            if victim != "server":
                assert newest_valid(run.checkpoints_folder) is not None
                training = trainer(tmp_path, "resume", "fox")
                until(lambda: run.state() == "training", "it trains again")
            if victim != "trainer":
                assert (run.path / "server.json").exists()  # a kill leaves the note, and nobody is misled by it
                real = start(run.path)
        with Chats.reader(run.path) as chats:
            records = {id: chats.exchange(id) for id in told}
    finally:
        kill(training)
        real.stop()
    for id, text in told.items():
        record = records[id]
        assert record.state in ("done", "interrupted", "begun")
        assert record.text.startswith(text) if record.state == "done" else text is not None
        if (run.checkpoints_folder / f"step-{record.step:09d}").is_dir():
            again = reproduce(run, record)
            assert again.text.startswith(text) and (record.state != "done" or again.ids == record.ids)
    with run.records() as found:
        assert found.problems() == []
    assert [path for path in run.inbox.iterdir()] == []
