"""Pausing, changing and stopping a run from the command line, as a person does it beside a trainer of its own."""

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from lab.run import Run
from tests.app.commands import command, environment, lab
from tests.made_runs import made_run

STEPS = 4000  # half a minute of `tiny`; nobody waits for the end of it


def asked(runs: Path, *arguments: str, code: int = 0) -> dict[str, Any]:
    done = lab(*arguments, "--wait", "120", "--json", runs=runs)
    assert done.returncode == code, done.stderr + done.stdout
    return dict(json.loads(done.stdout))


def until(true: Any, what: str) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, f"not so after two minutes: {what}"
        time.sleep(0.05)


def test_a_run_is_paused_changed_and_stopped_from_the_command_line(tmp_path: Path, text_file: Path) -> None:
    overrides = [
        f'data.sources=[{{name="story", kind="text", path="{text_file}"}}]',
        "data.phases=[{from_step=0, weights={story=1.0}}]",
        "model.d_vocab=400", "data.tokenizer_bytes=200000", "data.validation_share=0.1", "train.threads=1",
        f"train.steps={STEPS}", "checkpoint.every=4000", "probing.every=0",
    ]  # fmt: skip
    words = [word for setting in overrides for word in ("--set", setting)]

    def process(*arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            command(*arguments), env=environment(tmp_path), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )

    trainer = process("train", "--preset", "tiny", "--name", "fox", *words)
    until(lambda: (tmp_path / "fox" / "checkpoints" / "step-000000002").exists() or trainer.poll(), "it trains")

    paused = asked(tmp_path, "pause", "fox", "--reason", "lunch")
    assert paused["changed"] and "is saved" in paused["result"]
    run = Run.open(tmp_path / "fox")
    assert run.checkpoint_info().step == paused["step"] and run.state() == "held"
    assert not asked(tmp_path, "pause", "fo")["changed"]  # a unique beginning is enough, and twice is once
    assert asked(tmp_path, "set-interval", "fox", "evaluation", "7")["changed"]
    missing = asked(tmp_path, "checkin", "fox", code=1)
    assert missing["refused"] and "check_ins.every" in missing["result"]
    assert not asked(tmp_path, "checkpoint", "fox")["changed"]
    unpaused = asked(tmp_path, "unpause", "fox")
    assert unpaused["changed"] and unpaused["step"] == paused["step"]
    stopped = asked(tmp_path, "stop", "latest")
    assert stopped["changed"] and stopped["step"] >= paused["step"]
    _, errors = trainer.communicate(timeout=120)
    assert trainer.returncode == 130 and "lunch" in errors and "lab resume fox" in errors

    assert asked(tmp_path, "pause", "fox", "--owner", "check-in")["changed"]  # nobody trains: the latch waits
    trainer = process("resume", "fox")
    until(lambda: run.state() == "held" or trainer.poll(), "it is resumed")
    stopped_again = asked(tmp_path, "stop", "fox")
    _, errors = trainer.communicate(timeout=120)
    assert stopped_again["step"] == stopped["step"], "it trained although a latch was held"
    assert f"stands still at step {stopped['step']}, held by check-in" in errors
    assert "lab unpause fox --owner check-in" in errors


def test_without_a_trainer_live_verbs_fail_in_words_and_latches_move(tmp_path: Path) -> None:
    made_run(tmp_path, "fox")
    for arguments in (["stop"], ["checkpoint"], ["set-interval"], ["command"]):
        rest = {"set-interval": ["probing", "5"], "command": ["journal"]}.get(arguments[0], [])
        done = lab(arguments[0], "fox", *rest, runs=tmp_path)
        assert (done.returncode, done.stdout) == (1, "") and "no trainer was running" in done.stderr
    done = lab("pause", "fox", "--reason", "not today", runs=tmp_path)
    assert (done.returncode, done.stderr) == (0, "") and "holds training" in done.stdout
    status = json.loads(lab("status", "fox", "--json", runs=tmp_path).stdout)
    assert status["latches"] == [{"owner": "user", "reason": "not today"}]
    assert asked(tmp_path, "unpause", "fox", "--owner", "understanding")["changed"] is False
    assert asked(tmp_path, "unpause", "fox")["changed"] is True


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["pause", "wolf"], "wolf"),
        (["pause"], "RUN"),
        (["pause", "fox", "--owner", "root"], "owner = 'root'"),
        (["pause", "fox", "--reason", "a\nb"], "one line"),
        (["unpause", "fox", "--owner", "../fox"], "owner"),
        (["set-interval", "fox", "__class__", "3"], "name"),
        (["set-interval", "fox", "probing", "-3"], "-3"),
        (["command", "fox", "shell"], "'shell' is no verb"),
        (["pause", "fox", "--wait", "-1"], "--wait"),
    ],
)
def test_bad_usage_ends_with_2_and_sends_nothing(tmp_path: Path, arguments: list[str], says: str) -> None:
    run = made_run(tmp_path, "fox", steps=(0,))
    done = lab(*arguments, runs=tmp_path)
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert list(run.inbox.iterdir()) == []
