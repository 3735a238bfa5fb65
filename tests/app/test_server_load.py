"""Sixteen people talk with a run while it trains: refused is only what the bound refuses, and what is said is right."""

import json
from pathlib import Path
from statistics import median

import pytest

from lab.chats import Chats, reproduce
from tests.app.serving import start, training
from tests.benchmarks.talkers import talk

PEOPLE, TOKENS = 16, 64


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [60])
def test_sixteen_talk_for_a_minute_beside_training(tmp_path: Path, text_file: Path, seconds: int) -> None:
    with training(tmp_path, text_file) as run:
        real = start(run.path)
        try:
            said = talk(real.url, real.token, PEOPLE, TOKENS, seconds)
            health = real.ask("/health")
        finally:
            real.stop()
    assert said["errors"] == [] and health["training"] == "training"
    told = {answer["id"]: answer["text"] for answer in said["answers"]}
    with Chats.reader(run.path) as chats:
        records = [chats.exchange(id) for id in told]
    assert all(record.state == "done" and record.text == told[record.id] for record in records)
    assert len({record.step for record in records}) > 1
    kept = [one for one in records if (run.checkpoints_folder / f"step-{one.step:09d}").is_dir()]
    assert kept and all(reproduce(run, one).ids == one.ids for one in kept[:: max(1, len(kept) // 50)])
    waits = sorted(answer["first_seconds"] for answer in said["answers"] if answer["first_seconds"] is not None)
    figures = {
        "answers": len(told), "seconds": seconds, "refused": said["refused"],
        "first_token_median_s": round(median(waits), 3), "first_token_95_s": round(waits[int(0.95 * len(waits))], 3),
        "steps_served": len({record.step for record in records}),
    }  # fmt: skip
    print(json.dumps(figures))
