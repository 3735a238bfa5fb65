"""Asking for a freeze in the app: what it will take, the exact command, a server's job, a live trainer's answer."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app import freeze_plan, jobs_client, server_jobs
from app.freeze_plan import TARGET, Choice
from app.server import create
from app.server_guard import Policy
from app.server_process import NOTE_FILE, Found
from app.views.freeze_dialog import live_command
from lab.checkpoint_format import WEIGHTS
from lab.lower_copy import lower_weights
from lab.records import Command, Records
from lab.run import Run
from tests.app.commands import lab
from tests.app.planted_concepts import SHA, branch, held, planted_card, planted_proof, write_card
from tests.app.serving import TOKEN, loopback
from tests.app.test_views import words
from tests.made_runs import made_run
from train import control

Opener = Callable[..., AppTest]
PATIENCE = 120.0


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Two layers × 32, checkpoints at steps 0 and 8, two seconds a step, with a concept at layer 1."""
    made = made_run(tmp_path, "fox")
    write_card(made, planted_card("weather", 1))
    with Records.writer(made.database) as records:
        records.metrics(1, 8, {"cost/train_seconds": 16.0})
    return made


@contextmanager
def answered(run: Run) -> Iterator[Found]:
    """A server of this process that the app finds as it finds `lab serve`."""
    (run.path / "server.token").write_text(TOKEN)
    (run.path / "server.token").chmod(0o600)
    server = create(run.path, Policy(TOKEN))
    with loopback(server) as url:
        (run.path / NOTE_FILE).write_text(json.dumps({"url": url, "id": server.lab.id}))
        yield Found(url, TOKEN)


def opened(open_app: Opener, run: Run) -> AppTest:
    page = open_app(run.path.parent, "concepts", run="fox", concept="weather", mode="pin")
    assert not page.exception
    page.button(key="freeze").click().run()
    assert not page.exception
    return page


# ------------------------------------------------------------------------------------------------------ what it will take


def test_a_choice_says_the_same_as_options_of_a_job_and_as_a_command(run: Run) -> None:
    choice = Choice("weather", "write+anchor", 8, 40, ("unfrozen", "random"), 0.2)
    told = shlex.split(choice.command("fox"))
    assert told[:4] == ["lab", "freeze", "fox", "weather"]
    typed = dict(zip(told[4::2], told[5::2], strict=True))
    assert typed == {
        "--mode": "write+anchor",
        "--step": "8",
        "--steps": "40",
        "--twins": "unfrozen,random",
        "--target": "0.2",
    }
    asked = server_jobs.command_line("freeze", run, choice.options())  # refuses what the verb does not take
    assert {f"{name}={value}" for name, value in typed.items()} <= set(asked)
    assert lab(*told[1:], runs=run.path.parent).returncode == 2  # understood: there is a card, and no subspace
    assert Choice("weather", "pin", 8, twins=()).options()["twins"] == "none"


def test_the_estimate_is_the_run_s_own_pace_times_every_run_s_mode(run: Run) -> None:
    [_, start] = freeze_plan.starts(run)
    with run.records() as records:
        cost = freeze_plan.cost(run, records, Choice("weather", "pin", 8, 100), 1, start)
        assert cost.runs == 4 and cost.seconds == pytest.approx(2 * 100 * (1.13 + 1.00 + 1.13 + 1.00))
        lower = freeze_plan.cost(run, records, Choice("weather", "lower", 8, 100), 1, start)
        assert lower.runs == 3  # a lower branch is its own upper bound
        alone = freeze_plan.cost(run, records, Choice("weather", "write", 8, 100, ()), 1, start)
        assert (alone.runs, alone.seconds) == (1, pytest.approx(200))
        assert cost.disk > alone.disk > start.bytes
    for layer in (0, 1, 2):
        copied = sum(p.numel() * p.element_size() for p in lower_weights(run.model(8), layer).values())
        assert freeze_plan.below(start.path / WEIGHTS, layer) == copied


def test_without_a_measured_pace_or_a_readable_file_nothing_is_made_up(tmp_path: Path) -> None:
    run = made_run(tmp_path, "fox")
    [_, start] = freeze_plan.starts(run)
    with run.records() as records:
        assert freeze_plan.cost(run, records, Choice("weather", "pin", 8), 1, start).seconds is None
    (tmp_path / "short").write_bytes(b"\xff\xff\xff\xff\xff\xff\xff\xffno header")
    assert freeze_plan.below(tmp_path / "short", 1) == freeze_plan.below(tmp_path / "absent", 1) == 0


def test_a_second_freeze_in_a_mode_gets_a_name_of_its_own_and_the_same_one_goes_on(run: Run) -> None:
    choice = Choice("weather", "pin", 8, 40)
    assert freeze_plan.named(run, choice, SHA) == choice
    made = branch(run.path.parent, "fox", "fox--weather-pin", "pin", step=8)
    held_there = {"steps": 40, "concept_sha256": {"weather": SHA}}
    held_there |= {"frozen": [{"concept": "weather", "mode": "pin", "target": 0.1}]}
    made.update_manifest(branch=made.manifest["branch"] | held_there)
    assert freeze_plan.named(run, choice, SHA) == choice
    for other in (dataclasses.replace(choice, steps=41), dataclasses.replace(choice, step=0)):
        assert freeze_plan.named(run, other, SHA).name == "fox--weather-pin-2"
    found_anew = freeze_plan.named(run, choice, "8" * 64)
    assert found_anew.command("fox").endswith("--name fox--weather-pin-2")
    assert "--name=fox--weather-pin-2" in server_jobs.command_line("freeze", run, found_anew.options())


def test_the_command_for_a_run_in_training_says_all_that_was_chosen() -> None:
    assert live_command("fox", "weather", "pin", 0.3) == "lab freeze fox weather --mode pin --live"
    assert live_command("fox", "weather", "anchor", TARGET) == "lab freeze fox weather --mode anchor --live"
    told = shlex.split(live_command("my run; ls", "weather", "write+anchor", 0.28))
    assert told == ["lab", "freeze", "my run; ls", "weather", "--mode", "write+anchor", "--live", "--target", "0.28"]


# ------------------------------------------------------------------------------------------------------------ the dialog


def test_without_a_server_the_dialog_gives_the_exact_command_and_no_confirm(run: Run, open_app: Opener) -> None:
    page = opened(open_app, run)
    page.number_input(key="freeze steps").set_value(40).run()
    page.multiselect(key="freeze twins").set_value(["unfrozen"]).run()
    assert not page.exception
    command = "lab freeze fox weather --mode pin --step 8 --steps 40 --twins unfrozen"
    assert command in [code.value for code in page.code]
    assert "No server answers for this run" in words(page) and "lab serve" in words(page)
    assert [one.key for one in page.button if one.key == "freeze confirm"] == []
    metrics = {one.label: one.value for one in page.metric}
    assert metrics["Training time, about"] == freeze_plan.in_time(2 * 40 * 2.13)
    assert "layer 1 of 2" in words(page) and "means nothing at another" in words(page)
    assert (run.path / "inbox").is_dir() and not list(run.inbox.iterdir())


def test_confirming_asks_the_server_and_shows_the_job_and_what_became_of_it(
    run: Run, open_app: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import sys; print('1 of 4: fox--weather-pin', file=sys.stderr); sys.exit('lab: no room on the disk')"
    monkeypatch.setattr(server_jobs, "command_line", lambda *_: [sys.executable, "-S", "-c", program])
    with answered(run) as found:
        page = opened(open_app, run)
        page.button(key="freeze confirm").click().run()
        assert not page.exception and page.success[0].value.startswith("Asked for") and "is asked for" in words(page)
        [job] = jobs_client.of_run(found, "fox", "freeze")
        assert job.options == Choice("weather", "pin", 8).options()
        waiting = jobs_client.ask(found, "fox", "freeze", Choice("weather", "write", 8, 5).options())
        assert jobs_client.cancel(found, waiting.id).state == "cancelled"
        deadline = time.monotonic() + PATIENCE
        while jobs_client.of_run(found, "fox", "freeze")[-1].state not in ("failed", "done"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        page.run()
        assert not page.exception
        assert "write, 5 steps" in words(page) and "pin, 500 steps" in words(page)  # newest first, and of any tab
        assert "lab: no room on the disk" in words(page) and "1 of 4: fox--weather-pin" in words(page)
        assert "the same freeze again goes on there" in words(page)


def test_a_freeze_that_ends_shows_its_own_proof_and_not_that_of_the_branch_looked_at_before(
    run: Run, open_app: Opener, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for mode in ("pin", "write"):
        made = branch(run.path.parent, "fox", f"fox--weather-{mode}", mode, step=8)
        proof = json.dumps(planted_proof("fox", made.name, mode))
        (made.evidence / f"freeze-{made.name}.json").write_text(proof)
    program = "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.05)"
    end = tmp_path / "end"
    monkeypatch.setattr(server_jobs, "command_line", lambda *_: [sys.executable, "-S", "-c", program, str(end)])
    with answered(run) as found:
        jobs_client.ask(found, "fox", "freeze", Choice("weather", "write", 8, 5).options())
        page = open_app(run.path.parent, "concepts", run="fox", concept="weather", branch="fox--weather-pin")
        assert not page.exception and "rank 2, mode pin" in words(page)
        end.touch()
        deadline = time.monotonic() + PATIENCE
        while jobs_client.of_run(found, "fox", "freeze")[0].state != "done":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        page.run()
        assert not page.exception and page.selectbox(key="branch").value == "fox--weather-write"
        assert "rank 2, mode write" in words(page) and "Its proof stands above." in words(page)
        page.selectbox(key="branch").select("fox--weather-pin").run()
        assert "Its branch is fox--weather-write; above stands another." in words(page)
        next(one for one in page.button if one.label == "Show its proof").click().run()
        assert not page.exception and "rank 2, mode write" in words(page)


def test_what_the_server_refuses_is_said_in_its_words(run: Run) -> None:
    with answered(run) as found:
        with pytest.raises(jobs_client.JobRefused, match="takes no 'html'"):
            jobs_client.ask(found, "fox", "freeze", {"html": "/etc/passwd"})
        with pytest.raises(jobs_client.JobRefused):
            jobs_client.ask(Found(found.url, "4" * 48), "fox", "freeze", {"concept": "weather"})


def test_a_server_that_is_gone_or_is_none_of_ours_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(jobs_client.ServerSilent, match="does not answer"):
        jobs_client.of_run(Found("http://127.0.0.1:9", TOKEN), "fox", "freeze")


@pytest.mark.parametrize("verb", ["freeze", "release"])
def test_a_run_in_training_is_asked_through_its_inbox_and_its_answer_shown(
    verb: str, run: Run, open_app: Opener
) -> None:
    stop = threading.Event()

    def trainer() -> None:
        with Records.writer(run.database) as records:
            obeyed = control.Control(records, run.inbox)
            while not stop.is_set():
                obeyed.obey(8, None)  # has no session, so it refuses, which is an answer too
                time.sleep(0.05)

    if verb == "release":
        with Records.writer(run.database) as records:
            records.add_now(held(8, "weather", "anchor"))
    with run.lock("train"):
        other = threading.Thread(target=trainer)
        other.start()
        try:
            if verb == "release":
                page = open_app(run.path.parent, "concepts", run="fox", concept="weather")
                page.button(key="release").click().run()
            else:
                page = opened(open_app, run)
                page.radio(key="freeze where").set_value("this run, while it trains").run()
                assert "There will be no twins of it" in words(page)
                page.button(key="freeze confirm").click().run()
            assert not page.exception and page.error[0].value == "Not done."
        finally:
            stop.set()
            other.join()
    with run.records() as records:
        [sent] = records.rows(Command)
    assert sent.verb == verb and sent.arguments["concept"] == "weather"
    assert sent.result.removeprefix(control.REFUSED) in words(page)
