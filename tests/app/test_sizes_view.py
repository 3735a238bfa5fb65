"""Every page on a run of every size: what comes to the browser stays small, and nothing fails, however much is recorded."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app import main, queries
from app.views import journal
from tests.app.planted import make_run
from tests.app.planted_huge import HUGE, TENTH, Size, make_huge

Opener = Callable[..., AppTest]
MOST_BYTES = 3_000_000  # of one page
PAGES = tuple(re.findall(r'url_path="([a-z]+)"', Path(main.__file__).read_text(encoding="utf8")))


@pytest.fixture(scope="module")
def empty_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("empty")
    make_run(root, "new", steps=())
    return root


def payload(page: AppTest) -> int:
    """Bytes of all elements that a page sends."""

    def within(block: Any) -> Iterator[int]:
        for child in getattr(block, "children", {}).values():
            proto = getattr(child, "proto", None)
            yield proto.ByteSize() if proto is not None else 0
            yield from within(child)

    return sum(within(page._tree))


def every_page_is_small(root: Path, size: Size, open_app: Opener) -> None:
    for name in PAGES:
        shown = open_app(root, "" if name == "home" else name)
        assert not shown.exception and not shown.error, name
        assert payload(shown) <= MOST_BYTES, name
    with queries.open_run(root / "big").run.records() as records:  # type: ignore[union-attr]
        assert len(queries.series(records, "train/loss")) <= queries.MOST_POINTS
        light = queries.journal(records, root / "big" / "evidence", data=False)
    assert len(light) == size.entries
    assert all(not data for entry in light for claim in entry.claims for _, _, data in claim.verdicts)


def test_no_page_is_missing_here() -> None:
    assert len(PAGES) == len(set(PAGES)) >= 10 and {"home", "journal", "layers", "text", "runs"} <= set(PAGES)


def test_pages_of_a_large_run_stay_small(tmp_path: Path, open_app: Opener) -> None:
    size = Size(20_000, 30, 12, 31, 2, 200, 100, 8)
    make_huge(tmp_path, "big", size)
    every_page_is_small(tmp_path, size, open_app)


@pytest.mark.slow
@pytest.mark.parametrize("size", [TENTH, HUGE], ids=["tenth", "huge"])
def test_pages_of_a_huge_run_stay_small(tmp_path: Path, size: Size, open_app: Opener) -> None:
    make_huge(tmp_path, "big", size)
    every_page_is_small(tmp_path, size, open_app)


@pytest.mark.parametrize("page", PAGES)
def test_every_page_says_in_words_what_an_empty_or_a_broken_run_lacks(
    empty_root: Path, broken_root: Path, page: str, open_app: Opener
) -> None:
    path = "" if page == "home" else page
    empty = open_app(empty_root, path)
    assert not empty.exception and not empty.error
    for name in ("ruin", "half"):
        shown = open_app(broken_root, path, run=name)
        said = " ".join(str(one.value) for one in (*shown.error, *shown.text, *shown.info, *shown.warning))
        assert not shown.exception and name in said and "Traceback" not in said


def test_a_link_to_the_oldest_of_many_entries_opens_its_page_of_the_list(tmp_path: Path, open_app: Opener) -> None:
    make_huge(tmp_path, "big", Size(1_000, 30, 2, 3, 1, 10, 10, 2))
    shown = open_app(tmp_path, "journal", entry="3")
    assert any("Entry 0003." in one.proto.body for one in shown.get("html"))
    drawn = [one for one in shown.get("html") if 'class="bw-text"' in one.proto.body]
    assert len(drawn) <= journal.PER_PAGE
