"""A freeze asked for in a real Chromium: the dialog says what it takes, a job trains the branch, and it can be cancelled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.launch import App, start
from lab.config import RunConfig
from lab.run import Run
from tests.app.serving import really_served, until
from tests.app.test_browser import Watched
from tests.train.frozen_runs import concept_run, folder_hash

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def run(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A trained run with a concept, and a server that answers for it."""
    run = concept_run(tiny_config, tmp_path_factory.mktemp("runs"))
    with really_served(run.path):
        yield run


@pytest.fixture(scope="module")
def app(run: Run) -> Iterator[App]:
    app = start(run.path.parent, quiet=True)
    yield app
    app.stop()


def ask(watched: Watched, app: App, mode: str, steps: int) -> None:
    """Open the dialog, ask for so many steps and the unfrozen twin alone, and confirm."""
    page = watched.page
    page.goto(f"{app.url}/concepts?run=fox&concept=function&mode={mode}")
    page.get_by_role("button", name="Freeze …").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_text("Training time, about").wait_for()
    dialog.get_by_label("Steps to train, each run").fill(str(steps))
    dialog.get_by_label("Steps to train, each run").press("Enter")
    dialog.get_by_text(f"--steps {steps} ").wait_for()
    for twin in ("lower", "random"):
        dialog.get_by_label(f"Remove {twin}", exact=False).first.click()
    dialog.get_by_text("--twins unfrozen", exact=False).wait_for()
    dialog.get_by_role("button", name="Confirm").click()
    watched.sees("is asked for")


def test_the_freeze_dialog_starts_a_branch_that_can_be_watched_and_cancelled(browser: Any, app: App, run: Run) -> None:
    before = folder_hash(run)
    watched = Watched(browser, app)
    ask(watched, app, "pin", 240_000)
    watched.sees("▶ running")
    made = run.path.parent / "fox--function-pin"
    until(lambda: (made / "manifest.json").is_file(), "the branch is made")
    watched.page.get_by_text("1 of 2: fox--function-pin").wait_for()
    watched.page.get_by_role("button", name="Cancel").click()
    watched.sees("■ cancelled")
    until(lambda: Run.open(made).state() != "training", "the branch stands still")
    assert Run.open(made).manifest["branch"]["parent"] == "fox"
    assert folder_hash(run) == before  # chats, jobs and branches leave the parent as it was
    watched.close()


@pytest.mark.slow
def test_a_freeze_asked_for_in_the_app_ends_with_its_proof_on_the_page(browser: Any, app: App, run: Run) -> None:
    watched = Watched(browser, app)
    watched.page.set_default_timeout(240_000)
    ask(watched, app, "lower", 8)
    watched.sees("✓ done")
    watched.page.locator(".bw-head, .bw-chips").get_by_text("FROZEN-EXACT").first.wait_for()
    watched.close()
