"""SIGKILL of server, trainer, or both, in the middle of a stream: no record is lost, nothing is damaged, all start again.

Trainer and server are children forked from a warm parent, a process of its own (this file, run as a script).
"""

import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 120.0  # seconds; a machine may be busy
STEPS = 1_000_000  # training never ends by itself here
VICTIMS = ("server", "trainer", "both")


@pytest.mark.parametrize("kills", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_a_kill_in_the_middle_of_a_stream_loses_no_record_and_damages_nothing(
    tmp_path: Path, text_file: Path, kills: int
) -> None:
    command = [sys.executable, str(Path(__file__).resolve()), str(tmp_path), str(text_file), str(kills)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    found = json.loads(done.stdout)
    outcomes = found["outcomes"]
    assert len(outcomes) == kills and found["problems"] == [] and found["inbox"] == []
    for outcome in outcomes:
        assert outcome["complete_before"] and outcome["began"], outcome
        if outcome["victim"] == "trainer":  # it goes on, and says so
            assert outcome["cut_is_whole"] and outcome["after_is_whole"] and outcome["said"] == "dead", outcome
        else:
            assert outcome["note_was_left"], outcome
        if outcome["victim"] != "server":
            assert outcome["valid_checkpoint"] and outcome["trains_again"], outcome
    assert len(found["records"]) >= 2 * kills
    for record in found["records"]:
        assert record["state"] in ("done", "interrupted"), record
        assert record["begins_as_told"], record
        assert record["made_again_as_told"] in (True, None), record  # None: that checkpoint has been rotated away
    assert any(record["made_again_as_told"] for record in found["records"])


class Place:
    """Where a server answers."""

    def __init__(self, run: Path, pid: int) -> None:
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError, ValueError):
                note = json.loads((run / "server.json").read_bytes())
                if note["pid"] == pid:
                    self.url, self.token = str(note["url"]), (run / "server.token").read_text()
                    return
            assert time.monotonic() < deadline, "the server did not answer in time"
            time.sleep(0.02)


class Stream:
    """One streamed answer, read piece by piece: what a client was told."""

    def __init__(self, place: Place, seed: int) -> None:
        at = urlsplit(place.url)
        self.connection = http.client.HTTPConnection(at.hostname or "", at.port, timeout=PATIENCE)
        messages = [{"role": "user", "content": "The old farmer"}]
        body: dict[str, Any] = {"model": "lab", "stream": True, "messages": messages, "seed": seed, "max_tokens": 40}
        headers = {"Authorization": f"Bearer {place.token}", "Content-Type": "application/json"}
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


def main(folder: Path, text: Path, kills: int) -> dict[str, Any]:
    import torch
    import uvicorn  # warm: what the children would import

    import app.server
    from app.server_process import serve
    from lab.chats import Chats, reproduce
    from lab.checkpoint import newest_valid
    from lab.config import load_config
    from lab.run import Run
    from tests.faults.test_training_kills import forked
    from train.loop import train
    from train.session import Session, prepare_corpus, resume, start

    torch.set_num_threads(1)
    assert uvicorn and app.server
    config = load_config(
        "tiny",
        None,
        [
            f'data.sources=[{{name="story", kind="text", path="{text}"}}]',
            "data.phases=[{from_step=0, weights={story=1.0}}]",
            f"train.steps={STEPS}",
            "train.threads=1",
            "checkpoint.every=50",
            "checkpoint.log_spaced=false",
            "model.d_vocab=400",
            "data.tokenizer_bytes=200000",
            "data.validation_share=0.1",
            "probing.every=0",
            "evaluation.every=0",
        ],
    )
    prepare_corpus(config, folder)

    def breathe(session: Session) -> None:
        time.sleep(0.003)  # two cores, and the server has to say something

    def begin() -> None:
        with start(config, folder, "fox") as session:
            session.report = breathe
            train(session)

    def go_on() -> None:
        with resume(Run.open(folder / "fox")) as session:
            session.report = breathe
            train(session)

    def until(true: Any) -> bool:
        deadline = time.monotonic() + PATIENCE
        while not true():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def kill(*children: int) -> None:
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)

    def serving() -> tuple[int, Place]:
        child = forked(lambda: serve(folder / "fox", port=0, nice=0))
        return child, Place(folder / "fox", child)

    training = forked(begin)
    assert until((folder / "fox" / "checkpoints" / "LATEST").exists)
    run = Run.open(folder / "fox")
    server, place = serving()
    generator = random.Random(kills)
    outcomes: list[dict[str, Any]] = []
    told: dict[str, str] = {}  # exchange -> what its client had read of it
    for number in range(kills):
        victim = VICTIMS[number % 3]
        finished = Stream(place, seed=number)
        finished.read()
        cut = Stream(place, seed=1000 + number)
        cut.read(generator.randrange(1, 8))
        time.sleep(generator.uniform(0, 0.01))
        kill(*{"server": [server], "trainer": [training], "both": [server, training]}[victim])
        cut.read()
        outcome: dict[str, Any] = {"victim": victim, "complete_before": finished.whole, "began": bool(cut.id)}
        told |= {finished.id: finished.text, cut.id: cut.text}
        if victim == "trainer":
            outcome |= {"cut_is_whole": cut.whole, "said": health(place)["training"]}
            after = Stream(place, seed=7)
            after.read()
            outcome["after_is_whole"] = after.whole
            told[after.id] = after.text
        if victim != "server":
            outcome["valid_checkpoint"] = newest_valid(run.checkpoints_folder) is not None
            training = forked(go_on)
            outcome["trains_again"] = until(lambda: run.state() == "training")
        if victim != "trainer":
            outcome["note_was_left"] = (run.path / "server.json").exists()  # and misleads nobody
            server, place = serving()
        outcomes.append(outcome)
    kill(training)
    os.kill(server, signal.SIGTERM)
    os.waitpid(server, 0)
    records = []
    with Chats.reader(run.path) as chats:
        for id, text_told in told.items():
            record = chats.exchange(id)
            whole = record.state != "done" or record.text.startswith(text_told)
            again = None
            if (run.checkpoints_folder / f"step-{record.step:09d}").is_dir():
                made = reproduce(run, record)
                again = made.text.startswith(text_told) and (record.state != "done" or made.ids == record.ids)
            records.append({"state": record.state, "begins_as_told": whole, "made_again_as_told": again})
    with run.records() as stored:
        problems = stored.problems()
    inbox = [path.name for path in run.inbox.iterdir()]
    return {"outcomes": outcomes, "records": records, "problems": problems, "inbox": inbox}


def health(place: Place) -> dict[str, Any]:
    import urllib.request

    with urllib.request.urlopen(f"{place.url}/health", timeout=PATIENCE) as answer:
        return dict(json.loads(answer.read()))


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))))
