"""Two steps side by side in a real Chromium: a click in B's map chooses B's step, and the link brings both sides back."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from app.launch import App, start
from tests.app.planted import STEPS, make_run, planted
from tests.app.test_browser import PIXEL, Watched

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    root: Path = tmp_path_factory.mktemp("runs")
    make_run(root, "fox", tasks=("class.next",))
    app = start(root, quiet=True)
    yield app
    app.stop()


def test_a_click_on_the_other_side_changes_its_step_and_the_link_restores_both(browser: Any, app: App) -> None:
    watched = Watched(browser, app)
    page = watched.page
    page.goto(f"{app.url}/layers?run=fox&task=class.next&step=512&layer=6&run2=fox&step2=64")
    watched.sees(difference(512, 64, 6))
    page.locator(".js-plotly-plot .heatmaplayer image").nth(1).wait_for()
    at = PIXEL.replace("document.querySelector('.js-plotly-plot')", "document.querySelectorAll('.js-plotly-plot')[3]")
    for _ in range(6):  # a click while a busy machine is still drawing is lost
        page.mouse.click(*page.evaluate(at, [STEPS.index(1100), 4]))
        with contextlib.suppress(PlaywrightTimeout):
            page.get_by_text(difference(512, 1100, 4)).wait_for(timeout=5_000)
            break
    watched.sees(difference(512, 1100, 4))
    page.wait_for_url(re.compile(r"step2=1100(&|$)"))
    assert re.search(r"step=512(&|$)", page.url) and "run2=fox" in page.url and re.search(r"layer=4(&|$)", page.url)
    second = Watched(browser, app)
    second.page.goto(page.url)
    second.sees(difference(512, 1100, 4))
    watched.close()
    second.close()


def difference(a: int, b: int, layer: int) -> str:
    value = planted("class.next", b, layer).value - planted("class.next", a, layer).value
    return f"At layer {layer}: {value:+.3f} bits per word"
