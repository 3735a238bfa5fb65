"""The header that every page has: state, last write, latches, pause and unpause, and what a read-only copy can do."""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.launch import ELSEWHERE
from lab.records import Command, Records
from lab.run import Run
from tests.app.planted import make_run
from tests.app.test_views import words
from train.control import Control

Opener = Callable[..., AppTest]


def labels(page: AppTest) -> list[str]:
    return [button.label for button in page.button]


def obey(run: Run, until: threading.Event) -> None:
    """What a trainer does between two steps, as far as latches go."""
    with run.lock("train"), Records.writer(run.database) as records:
        control = Control(records, run.inbox)
        while not until.is_set():
            control.obey(1898, None)
            time.sleep(0.02)


def test_pause_and_unpause_stand_on_every_page_while_a_trainer_lives(tmp_path: Path, open_app: Opener) -> None:
    run = make_run(tmp_path, "live")
    done = threading.Event()
    trainer = threading.Thread(target=obey, args=(run, done))
    trainer.start()
    try:
        for page in ("", "journal"):
            shown = open_app(tmp_path, page)
            assert not shown.exception and "Pause" in labels(shown)
            shown.button(key="pause").click().run()
            assert "held by user: asked for in the app" in words(shown)
            assert "Unpause" in labels(shown) and "Pause" not in labels(shown)
            shown.button(key="unpause").click().run()
            assert "held by" not in words(shown) and "Pause" in labels(shown)
    finally:
        done.set()
        trainer.join()
    with run.records() as records:
        assert [row.verb for row in records.rows(Command)] == ["pause", "unpause"] * 2


def test_without_a_trainer_there_is_nothing_to_pause_but_a_latch_can_be_lifted(
    tmp_path: Path, open_app: Opener
) -> None:
    run = make_run(tmp_path, "dead")
    assert "Pause" not in labels(open_app(tmp_path))
    with Records.writer(run.database) as records:
        records.hold("user", "lunch", 1898)
        records.hold("understanding", "the loss <b>spikes</b>", 1898, severity="critical")
    shown = open_app(tmp_path, "training")
    assert "held by user: lunch" in words(shown) and "held by understanding: the loss <b>spikes</b>" in words(shown)
    shown.button(key="unpause").click().run()
    assert "held by user" not in words(shown) and "held by understanding" in words(shown)


def test_a_read_only_copy_says_so_and_offers_nothing_that_writes(
    tmp_path: Path, open_app: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, "copy")
    with Records.writer(run.database) as records:
        records.hold("user", "lunch", 1898)
    for folder, _, files in os.walk(run.path):
        for file in files:
            os.chmod(Path(folder) / file, 0o400)
        os.chmod(folder, 0o500)
    real = os.access  # root may write everywhere, so the modes alone are no read-only disk to it

    def access(path: str | Path, mode: int) -> bool:
        return real(path, mode) and not (mode & os.W_OK and Path(path).is_relative_to(run.path))

    monkeypatch.setattr(os, "access", access)
    for page in ("", "journal", "understanding", "training"):
        shown = open_app(tmp_path, page)
        assert not shown.exception and not shown.error
        offered = labels(shown)
        assert not {"Pause", "Unpause", "Pause for this reason", "Lift the user latch", "Add to the journal"} & set(
            offered
        )
        assert "read-only" in words(shown) and "held by user: lunch" in words(shown)
    for folder, _, _ in os.walk(run.path):
        os.chmod(folder, 0o700)


def test_commands_about_runs_that_a_terminal_would_not_find_come_with_what_it_needs_first(
    tmp_path: Path, open_app: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path, "fox", steps=())
    first = f"export LAB_RUNS={tmp_path}"
    assert first not in [code.value for code in open_app(tmp_path, "layers").code]
    monkeypatch.setenv(ELSEWHERE, "1")
    assert first in [code.value for code in open_app(tmp_path, "layers").code]
