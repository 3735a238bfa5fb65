"""Sixteen people talk with a run while it trains: refused is only what the bound refuses, and what is said is right."""

import json
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from app.chats import Chats, reproduce
from tests.app.serving import PATIENCE, Real, start, training

PEOPLE, TOKENS = 16, 64


class Person(threading.Thread):
    """Asks again and again until it is time to go; asks once more when told to come again."""

    def __init__(self, real: Real, seed: int, until: float) -> None:
        super().__init__(daemon=True)
        self.real, self.seed, self.until = real, seed, until
        self.first_token: list[float] = []
        self.ids: list[str] = []
        self.refused, self.errors = 0, list[str]()

    def run(self) -> None:
        while time.monotonic() < self.until:
            try:
                self.ask()
            except urllib.error.HTTPError as error:
                if error.code == 429:
                    self.refused += 1
                    time.sleep(0.05)
                else:
                    self.errors.append(f"{error.code}: {error.read()[:300]!r}")
            except Exception as error:
                self.errors.append(repr(error))

    def ask(self) -> None:
        self.seed += 1
        body: dict[str, Any] = {"model": "lab", "stream": True, "seed": self.seed, "max_tokens": TOKENS}
        body["messages"] = [{"role": "user", "content": "The old farmer"}]
        asked, told, id = time.monotonic(), False, ""
        with urllib.request.urlopen(self.real.request("/v1/chat/completions", body), timeout=PATIENCE) as answer:
            for line in answer:
                if line.startswith(b"data: {"):
                    event = json.loads(line[6:])
                    id = event["id"]
                    if not told and event["choices"][0]["delta"].get("content"):
                        told = True
                        self.first_token.append(time.monotonic() - asked)
            assert line.strip() == b"" and id
        self.ids.append(id)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [60])
def test_sixteen_talk_for_a_minute_beside_training(tmp_path: Path, text_file: Path, seconds: int) -> None:
    with training(tmp_path, text_file) as run:
        real = start(run.path)
        try:
            end = time.monotonic() + seconds
            people = [Person(real, 1000 * place, end) for place in range(PEOPLE)]
            for person in people:
                person.start()
            for person in people:
                person.join(seconds + PATIENCE)
            health = real.ask("/health")
        finally:
            real.stop()
    errors = [error for person in people for error in person.errors]
    assert errors == [] and health["training"] == "training"
    ids = [id for person in people for id in person.ids]
    with Chats.reader(run.path) as chats:
        records = [chats.exchange(id) for id in ids]
    assert all(record.state == "done" for record in records) and len({record.step for record in records}) > 1
    kept = [one for one in records if (run.checkpoints_folder / f"step-{one.step:09d}").is_dir()]
    assert kept and all(reproduce(run, one).ids == one.ids for one in kept[:: max(1, len(kept) // 50)])
    waits = sorted(wait for person in people for wait in person.first_token)
    figures = {
        "answers": len(ids), "seconds": seconds, "refused": sum(person.refused for person in people),
        "first_token_median_s": round(median(waits), 3), "first_token_95_s": round(waits[int(0.95 * len(waits))], 3),
        "steps_served": len({record.step for record in records}),
    }  # fmt: skip
    print(json.dumps(figures))
