"""Understanding and Conversations in a real Chromium: pausing and going on with a reason, and a transcript with its marks."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.launch import App
from lab.records import Records
from lab.run import Run
from tests.app.browsing import Watched
from tests.app.planted import make_run
from tests.app.planted_behaviour import DIVERGES, LOOP, make_behaviour
from train.control import Control

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("behaviour")
    make_behaviour(root, "fox")
    return root


@pytest.fixture
def training(root: Path) -> Iterator[Run]:
    """A run whose commands somebody obeys, as the loop does between two steps."""
    run, done = make_run(root, "live"), threading.Event()
    begun = threading.Event()

    def train() -> None:
        with run.lock("training"), Records.writer(run.database) as records:
            control = Control(records, run.inbox)
            begun.set()
            while not done.wait(0.02):
                control.obey(1234, None)

    trainer = threading.Thread(target=train)
    trainer.start()
    begun.wait()
    yield run
    done.set()
    trainer.join()


def test_a_person_pauses_and_goes_on_from_the_page_each_with_a_reason(
    watched: Watched, app: App, training: Run
) -> None:
    page = watched.page
    page.goto(f"{app.url}/understanding?run=live")
    watched.sees("Nothing: no latch is held.")
    page.get_by_label("Why training should stand still").fill("to look at layer 2")
    page.get_by_role("button", name="Pause for this reason").click()
    watched.sees("pause: done")
    assert [(one.owner, one.reason) for one in training.records().latches()] == [("user", "to look at layer 2")]
    page.get_by_label("Why it may go on").fill("looked; it is fine")
    page.get_by_role("button", name="Lift the user latch").click()
    watched.sees("unpause: done")
    watched.sees("Nothing: no latch is held.")
    assert training.records().latches() == []


def test_a_critical_latch_asks_for_a_reason_before_it_lifts(watched: Watched, app: App, root: Path) -> None:
    page, run = watched.page, Run.open(root / "fox")
    page.goto(f"{app.url}/understanding?run=fox")
    page.get_by_text(DIVERGES.text).first.wait_for()
    lift = page.get_by_role("button", name="Lift the understanding latch")
    lift.click()
    watched.sees("Not sent: this latch is critical.")
    assert {one.owner for one in run.records().latches()} == {"understanding", "user"}
    page.get_by_label("a critical latch needs a reason").fill("one bad batch, looked at")
    lift.click()
    watched.sees("unpause: done")
    assert [one.owner for one in run.records().latches()] == ["user"], "another owner's latch is never lifted along"


def test_a_transcript_marks_what_was_found_and_its_link_opens_it_again(watched: Watched, app: App) -> None:
    page = watched.page
    page.goto(f"{app.url}/conversations?run=fox&step=1000")
    page.locator("mark", has_text=LOOP).first.wait_for()
    page.get_by_text("loops.tail-cycle").first.wait_for()
    episode = page.get_by_role("combobox", name=re.compile("Episode"))
    assert episode.count() == 1, "two conversations of this step are told apart"
    link = page.url
    page.goto(f"{app.url}/understanding?run=fox")
    page.get_by_text("Rules, and when each would pause").wait_for()
    page.goto(link)
    page.locator("mark", has_text=LOOP).first.wait_for()
    made = page.evaluate("() => [...new Set([...document.querySelectorAll('.bw-text *')].map(e => e.tagName))]")
    assert set(made) <= {"MARK", "SPAN", "INS", "DEL"}, "hostile text made an element"
