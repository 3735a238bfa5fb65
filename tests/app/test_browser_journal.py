"""The journal in a real Chromium: entries and cards, links that restore them, hostile text, a report opened as a file."""

import re
from pathlib import Path

import pytest

from app.launch import App
from app.verdict_html import report
from lab.records import Entry, Records
from lab.run import Run
from tests.app.browsing import Watched
from tests.app.planted_verdicts import make_journal, stored

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("journals")
    make_journal(root, "fox")
    return root


def test_an_entry_and_a_claim_are_chosen_by_clicks_and_restored_by_their_link(watched: Watched, app: App) -> None:
    page = watched.page
    page.goto(f"{app.url}/journal?run=fox&entry=1")
    page.locator("mark", has_text="Function words at lower layers").first.wait_for()
    page.get_by_text("+0.214 (95 % +0.144 to +0.287)").first.wait_for()
    page.locator(".js-plotly-plot .main-svg").first.wait_for()
    page.get_by_role("button", name="Evidence 2").first.click()
    page.wait_for_url(re.compile(r"entry=3(&|$)"))
    page.get_by_text("-0.187 (95 % -0.257 to -0.114)").first.wait_for()
    page.wait_for_url(re.compile(r"claim=\w+"))
    link = page.url
    page.goto(f"{app.url}/journal?run=fox&entry=1")
    page.get_by_text("+0.214 (95 % +0.144 to +0.287)").first.wait_for()
    page.goto(link)
    page.get_by_text("-0.187 (95 % -0.257 to -0.114)").first.wait_for()
    page.get_by_role("link", name="Layers: supersense.next at step 1,900").click()
    page.get_by_text("Step 1,900, layer").wait_for()
    assert "task=supersense.next" in page.url and watched.offences == []


def test_hostile_text_makes_no_element_no_request_and_no_dialog(watched: Watched, app: App) -> None:
    page = watched.page
    page.goto(f"{app.url}/journal?run=fox&entry=4")
    page.get_by_text("alert(2)").first.wait_for()
    page.get_by_text("lab verify fox --entry 4").first.wait_for()
    made = page.evaluate("() => [...document.querySelectorAll('.bw-text *')].map(e => e.tagName)")
    assert set(made) <= {"MARK", "SPAN"} and watched.offences == []


def test_a_new_entry_comes_in_by_itself_while_training(watched: Watched, app: App, root: Path) -> None:
    run = make_journal(root, "live")
    page = watched.page
    with run.lock("train"):
        page.goto(f"{app.url}/journal?run=live")
        page.get_by_text("Nothing to report today.").wait_for()
        writer = Records.writer(run.database)
        writer.add_now(Entry(step=1900, author="Ada", kind="note", text="A word while you watch.", created_at=1.8e9))
        page.get_by_text("A word while you watch.").wait_for()
        writer.close()
    assert watched.offences == []


def test_a_report_draws_its_figures_from_the_file_alone(watched: Watched, root: Path, tmp_path: Path) -> None:
    file = tmp_path / "verdicts.html"
    verdicts = stored(Run.open(root / "fox"))
    file.write_text(report(verdicts, "Verdicts"), encoding="utf8")
    watched.page.goto(file.as_uri())
    watched.page.locator("#claim-1 .main-svg").first.wait_for()
    assert watched.offences == []
