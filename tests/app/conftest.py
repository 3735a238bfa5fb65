"""Roots with a small run and with broken ones, and `open_app`, which runs a page without a browser."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest
from streamlit.util import calc_hash

from app.launch import App, start
from tests.app.planted import make_run

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]
MAIN = Path(__file__).parents[2] / "app" / "main.py"


class OpenApp:
    """`open_app(root, page="layers", step="100")` -> the page as AppTest sees it, already run once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def __call__(self, root: Path, page: str = "", **url: str) -> AppTest:
        self.monkeypatch.setenv("LAB_RUNS", str(root))
        test = AppTest.from_file(str(MAIN), default_timeout=20)
        for name, value in url.items():
            test.query_params[name] = value
        test._page_hash = calc_hash(page)  # switch_page knows pages that are files only; ours are functions
        return test.run()


@pytest.fixture(scope="session")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("small")
    make_run(root, "fox")
    return root


@pytest.fixture(scope="session")
def broken_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A damaged run, a damaged configuration, and a folder that is nobody's run."""
    root = tmp_path_factory.mktemp("broken")
    run = make_run(root, "ruin", steps=(0, 1, 2), tasks=("class.next",))
    for leftover in ("run.db-wal", "run.db-shm"):
        (run.path / leftover).unlink(missing_ok=True)
    run.database.write_bytes(b"this is not SQLite" * 500)
    foreign = root / "holiday-photos"
    foreign.mkdir()
    (foreign / "note.txt").write_text("not a run")
    half = root / "half"
    half.mkdir()
    (half / "config.toml").write_text("preset = [")
    (half / "manifest.json").write_text(json.dumps({}))
    return root


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not CHROMIUM.exists():  # a failure under LAB_STRICT=1
        pytest.skip(f"{CHROMIUM} is missing: apt-get install chromium, or run make setup as root")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def app(root: Path) -> Iterator[App]:
    """The app over `root`, which the module says."""
    app = start(root, quiet=True)
    yield app
    app.stop()


@pytest.fixture
def watched(browser: Any, app: App) -> Iterator[Any]:
    """A page of the app on which nothing happened that must not, when the test is over."""
    from tests.app.browsing import Watched

    watched = Watched(browser, app)
    yield watched
    watched.close()


@pytest.fixture
def open_app(monkeypatch: pytest.MonkeyPatch) -> OpenApp:
    return OpenApp(monkeypatch)
