"""The app as a person meets it: a real Chromium, the real server, a run with planted truth."""

import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from app.launch import App
from lab.records import Records
from tests.app.browsing import Watched, until
from tests.app.planted import LAYERS, STEPS, make_run, planted

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    make_run(root, "fox")
    return root


class Layers(Watched):
    """The page with the heat map, and what a person does on it."""

    def click_cell(self, step: int, layer: int) -> None:
        """Where a person would click: the middle of the cell, asked of Plotly's own axes.

        Clicked again, as a person would, when nothing has happened for five seconds: a click while a busy machine is
        still drawing the figure is lost.
        """
        sentence = self.page.get_by_text(f"Step {step:,}, layer {layer}:")
        for _ in range(6):
            self.page.mouse.click(*self.page.evaluate(PIXEL, [STEPS.index(step), layer]))
            with contextlib.suppress(PlaywrightTimeout):
                sentence.wait_for(timeout=5_000)
                return

    def says(self, step: int, layer: int) -> None:
        cell = planted("class.next", step, layer)
        sentence = f"Step {step:,}, layer {layer}: {cell.value:.3f} bits per word"
        self.sees(sentence)

    def profile(self) -> list[float]:
        return list(self.page.evaluate(PROFILE))


PIXEL = """([column, layer]) => {
  const g = document.querySelector('.js-plotly-plot'), b = g.getBoundingClientRect(), f = g._fullLayout;
  return [b.left + f.xaxis._offset + f.xaxis.l2p(column), b.top + f.yaxis._offset + f.yaxis.l2p(layer)];
}"""
PROFILE = """() => {
  const figure = document.querySelectorAll('.js-plotly-plot')[1];
  const line = ((figure && figure._fullData) || []).find(t => t.name === 'this run');
  return line ? Array.from(line.y) : [];
}"""


def test_a_click_on_a_cell_changes_curve_and_url_and_the_link_restores_it(browser: Any, app: App) -> None:
    watched = Layers(browser, app)
    page = watched.page
    page.goto(f"{app.url}/layers?run=fox&task=class.next")
    watched.says(STEPS[-1], LAYERS - 1)
    page.locator(".js-plotly-plot .heatmaplayer image").first.wait_for()
    for step, layer in ((64, 4), (512, 2)):
        watched.click_cell(step, layer)
        watched.says(step, layer)
        page.wait_for_url(re.compile(rf"step={step}(&|$)"))
        page.wait_for_url(re.compile(rf"layer={layer}(&|$)"))
        profile = [planted("class.next", step, at).value for at in range(LAYERS)]
        until(lambda profile=profile: watched.profile() == pytest.approx(profile))
    page.get_by_role("slider").last.press("ArrowRight")
    watched.says(512, 3)
    watched.click_cell(512, 2)  # chosen already as far as Plotly knows, but not what is shown
    watched.says(512, 2)
    page.wait_for_url(re.compile(r"layer=2(&|$)"))
    second = Layers(browser, app)
    second.page.goto(page.url)
    second.says(512, 2)
    assert "run=fox" in page.url and "task=class.next" in page.url
    for name, proof in (("Training", "[data-testid=stVegaLiteChart]"), ("Home", "[data-testid=stMetric]")):
        second.page.get_by_role("link", name=name).click()
        second.page.locator(proof).first.wait_for()
        assert "run=fox" in second.page.url
    watched.close()
    second.close()


def test_a_live_run_moves_on_and_a_zoomed_curve_stays_zoomed(browser: Any, app: App, root: Path) -> None:
    run = make_run(root, "live", steps=())
    watched = Watched(browser, app)
    page = watched.page
    with run.lock("train"):
        writer = Records.writer(run.database)
        segment = writer.new_segment(0, None, "0" * 64)

        def train(first: int, last: int) -> None:
            for step in range(first, last):
                writer.metrics(segment, step, {"train/loss": 3 + 1 / (1 + step)})
            writer.flush()

        train(1, 200)
        page.goto(f"{app.url}/training?run=live")
        watched.sees("▶ training")
        curve = page.locator("[data-testid=stVegaLiteChart]").first
        curve.wait_for()
        watched.sees("at step 199")
        curve.locator(".role-axis-label text").first.wait_for()
        before = _ticks(curve)
        box = curve.bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        page.keyboard.down("Control")
        page.mouse.wheel(0, -600)
        page.keyboard.up("Control")
        until(lambda: _ticks(curve) != before)
        zoomed = _ticks(curve)
        train(200, 260)
        watched.sees("at step 259")
        page.wait_for_timeout(300)  # had the zoom been lost, the axis would show it by now
        assert _ticks(curve) == zoomed
        writer.close()
    watched.close()


def test_a_run_that_was_half_made_when_the_page_opened_appears_by_itself(
    browser: Any, app: App, tmp_path: Path, root: Path
) -> None:
    made = make_run(tmp_path, "late")
    (root / "late").mkdir()
    (root / "late" / "config.toml").write_bytes((made.path / "config.toml").read_bytes())
    watched = Watched(browser, app)
    watched.page.goto(f"{app.url}/training?run=late")
    watched.sees("This run cannot be shown.")
    for file in made.path.iterdir():
        if file.is_file():
            (root / "late" / file.name).write_bytes(file.read_bytes())
    watched.page.locator("[data-testid=stVegaLiteChart]").first.wait_for()
    watched.close()


def _ticks(curve: Any) -> set[str]:
    return set(curve.locator(".role-axis-label text").all_text_contents())
