"""Concepts in a real Chromium: a concept, its branch and the command are chosen, stand in the link, and come back with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from app.launch import App
from tests.app.browsing import Watched, choose
from tests.app.planted_concepts import make_concepts

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("concepts")
    make_concepts(root, "fox")
    return root


def test_a_chosen_concept_is_shown_is_in_the_link_and_comes_back_with_it(watched: Watched, app: App) -> None:
    page = watched.page
    page.goto(f"{app.url}/concepts?run=fox")
    watched.sees("holds the subspace alone")  # "bare" comes first
    choose(page, "Concept", "weather")
    page.wait_for_url(re.compile(r"concept=weather"))
    page.locator(".bw-words mark").first.wait_for()
    choose(page, "Branch", "fox--weather-write")
    page.wait_for_url(re.compile(r"branch=fox--weather-write(&|$)"))
    page.get_by_text("flag: COSTLY").wait_for()
    choose(page, "Mode", "pin: exact")
    page.get_by_text("lab freeze fox weather --mode pin").first.wait_for()
    link = page.url
    page.goto(f"{app.url}/layers?run=fox")
    page.get_by_text("bits per word").first.wait_for()
    page.goto(link)
    page.get_by_text("lab freeze fox weather --mode pin").first.wait_for()
    page.get_by_text("flag: COSTLY").wait_for()
    page.locator(".js-plotly-plot .heatmaplayer image").first.wait_for()
    assert page.locator(".bw-words mark").first.inner_text() == "w0"
    made = page.evaluate("() => document.querySelectorAll('.bw-words img, .bw-facts img, .bw-table img').length")
    assert made == 0, "hostile text made an element"


def test_no_label_of_the_figures_is_cut_and_no_block_is_wider_than_the_page(watched: Watched, app: App) -> None:
    page = watched.page
    page.set_viewport_size({"width": 1280, "height": 4000})
    page.goto(f"{app.url}/concepts?run=fox&concept=weather&branch=fox--weather-write&labels=true")
    page.get_by_text("flag: COSTLY").wait_for()
    page.wait_for_function("() => document.querySelectorAll('.js-plotly-plot .xtick').length >= 12")
    page.wait_for_timeout(500)  # Plotly moves labels once more after its margins are known
    assert page.evaluate(CUT) == []


CUT = """() => {
  const out = [];
  for (const figure of document.querySelectorAll('.js-plotly-plot')) {
    const frame = figure.getBoundingClientRect();
    for (const label of figure.querySelectorAll('.xtick text, .ytick text, .xtitle, .ytitle, .legendtext')) {
      const box = label.getBoundingClientRect();
      const beside = box.left < frame.left - 1 || box.right > frame.right + 1;
      if (beside || box.top < frame.top - 1 || box.bottom > frame.bottom + 1) out.push(label.textContent);
    }
  }
  for (const block of document.querySelectorAll('.bw-words, .bw-table, .bw-tokens, .bw-facts'))
    if (block.getBoundingClientRect().right > document.documentElement.clientWidth) out.push(block.className);
  return out;
}"""
