"""Chat and Text in a real Chromium: an answer streams and is stopped, and a click on a cell is a link."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from app.launch import App, start
from app.server import Server
from lab.chats import Chats
from lab.run import Run
from tests.app.browsing import Watched
from tests.app.serving import noted, talkative, until
from tests.app.test_browser import PIXEL

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return talkative(tmp_path_factory.mktemp("talk"))


@pytest.fixture(scope="module")
def server(run: Run) -> Iterator[Server]:
    with noted(run) as server:
        yield server


@pytest.fixture(scope="module")
def app(run: Run, server: Server) -> Iterator[App]:
    app = start(run.path.parent, quiet=True)
    yield app
    app.stop()


def test_an_answer_streams_is_stopped_and_the_server_is_free_for_the_next(
    browser: Any, app: App, run: Run, server: Server
) -> None:
    watched = Watched(browser, app)
    page = watched.page
    page.goto(f"{app.url}/chat?run={run.name}&tokens=2000&seed=1&temperature=0&strips=false")
    box = page.get_by_placeholder("Say something to the model")
    box.fill("the old <b>dog</b>")
    box.press("Enter")
    stop = page.get_by_role("button", name="Stop the answer")
    answer = page.get_by_test_id("stChatMessage").nth(1)
    stop.wait_for()
    shown = answer.inner_text()
    until(lambda: len(answer.inner_text()) > len(shown) + 20, "the answer grows")
    stop.click()
    page.get_by_text(re.compile(r"step 9 · seed 1 · .* · stopped")).wait_for()
    until(lambda: not server.lab.turns.busy, "the server is free")
    with Chats.reader(run.path) as chats:
        records = chats.exchanges()
    assert [one.state for one in records] == ["abandoned"] and 0 < len(records[0].ids) < 2000
    assert page.get_by_text("the old <b>dog</b>").count() == 1
    box.fill("and then?")
    box.press("Enter")
    stop.wait_for()
    stop.click()
    page.get_by_text(re.compile(r"· stopped")).nth(1).wait_for()
    watched.close()


def test_a_click_on_a_cell_is_in_the_link_and_comes_back_with_it(browser: Any, app: App, run: Run) -> None:
    watched = Watched(browser, app)
    page = watched.page
    page.goto(f"{app.url}/text?run={run.name}&text=the+old+farmer+walked&show=next&step=8")
    watched.sees("Layer 2, position")
    page.locator(".js-plotly-plot .heatmaplayer image").first.wait_for()
    for _ in range(6):  # a click while a busy machine still draws the figure is lost
        page.mouse.click(*page.evaluate(PIXEL, [3, 1]))
        with contextlib.suppress(PlaywrightTimeout):
            page.get_by_text("Layer 1, position 3").wait_for(timeout=5_000)
            break
    page.wait_for_url(re.compile(r"layer=1(&|$)"))
    page.wait_for_url(re.compile(r"pos=3(&|$)"))
    second = Watched(browser, app)
    second.page.goto(page.url)
    second.sees("Layer 1, position 3")
    second.sees("Token that comes next, under the logit lens (raw)")
    assert "text=the" in second.page.url and "show=next" in second.page.url
    watched.close()
    second.close()
