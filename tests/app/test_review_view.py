"""The Review page: blind, one answer at a time, into the sheet that the command reads, with the agreement of two raters."""

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.review import draw, keep, read_ratings, sheet
from lab.run import Run
from tests.app.test_bench_cli import planted
from tests.made_runs import made_run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    planted(tmp_path)
    return tmp_path


def said(page: AppTest) -> str:
    return " ".join([*(one.value for one in (*page.text, *page.info)), *(one.proto.body for one in page.get("html"))])


def test_ratings_go_into_the_sheet_that_the_command_reads_and_the_next_answer_comes(
    root: Path, open_app: Callable[..., AppTest]
) -> None:
    page = open_app(root, "review", task="lab", step="16", rater="anna")
    assert not page.exception and not page.error
    assert "gold" not in said(page).lower() and "<img" not in said(page) and not page.toggle
    first = page.query_params["item"]
    for radio, answer in zip(page.radio, ("no", "yes", "2"), strict=True):
        radio.set_value(answer)
    page.button[0].click().run()
    assert not page.exception and page.query_params["item"] != first
    run = Run.open(root / "asked")
    with run.records() as records:
        drawn = draw(records, "lab", 16, 40, 0)
    found = read_ratings(run.evidence / "review-lab-16-anna.csv", drawn)
    ((id, rating),) = found.ratings.items()
    assert (id, rating.defensible, rating.supports, rating.best) == (first, False, True, 1)


def test_an_answer_without_all_three_questions_is_not_kept(root: Path, open_app: Callable[..., AppTest]) -> None:
    page = open_app(root, "review", task="lab", step="16", rater="anna")
    page.radio[0].set_value("no")
    page.button[0].click().run()
    assert "Answer all three questions." in said(page) and not list((root / "asked").glob("evidence/review-*"))


def test_two_raters_have_an_outcome_with_alpha_behind_a_switch(root: Path, open_app: Callable[..., AppTest]) -> None:
    run = Run.open(root / "asked")
    with run.records() as records:
        drawn = draw(records, "lab", 16, 40, 0)
    rows = [
        row | {"defensible": "yes" if at % 2 else "no", "supports": "no", "best": "1"}
        for at, row in enumerate(sheet(drawn))
    ]
    for rater in ("anna", "ben"):
        keep(run.evidence, drawn[0], rater, rows)
    page = open_app(root, "review", task="lab", step="16", rater="anna")
    assert "alpha" not in said(page)
    page.toggle[0].set_value(True).run()
    assert not page.exception and "Krippendorff's alpha, defensible: 1.00 (2 raters)" in said(page)
    assert "alpha, supports: nothing varies" in said(page)
    assert len(page.dataframe[0].value) == 8, "four kinds a rater: all planted rationales are good ones"


def test_a_run_without_reasons_names_the_command(tmp_path: Path, open_app: Callable[..., AppTest]) -> None:
    made_run(tmp_path, "silent")
    page = open_app(tmp_path, "review")
    assert not page.exception and page.code[0].value == "lab bench silent --tasks arc_easy --with-reasons"
