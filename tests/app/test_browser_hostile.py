"""Thirty hostile journal texts in a real Chromium, in the app and in a report: nothing runs, nothing calls out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.launch import App
from lab.benchmark_items import load_items
from lab.benchmarks import Answer
from lab.records import Entry, Item, Records
from probes.claims import grammar
from tests.app.browsing import Watched
from tests.app.commands import lab
from tests.app.hostile import CLAIM, EVIL, TASK, TEXTS
from tests.app.planted import STEPS, make_run
from train.entries import as_row

pytestmark = pytest.mark.browser
INERT = {"MARK", "SPAN"}
SEEN = "() => [...document.querySelectorAll('.bw-text')].map(e => e.textContent).join('\\n')"
MADE = "() => [...new Set([...document.querySelectorAll('.bw-text *, .bw-quote *')].map(e => e.tagName))]"
FOREIGN = f'() => [...document.querySelectorAll(\'[src*="{EVIL}"], [href*="{EVIL}"], [data*="{EVIL}"]\')].length'


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hostile")
    run = make_run(root, "fox", steps=(0, 1, 2), tasks=("class.next",))
    with Records.writer(run.database) as records:
        for at, text in enumerate(TEXTS):
            told = f"{CLAIM} {text}"
            entry = Entry(step=STEPS[1], author=text[:60], kind="note", text=told, created_at=1.79e9 + at)
            records.add_now(entry)
            for claim in grammar.parse(told[:2000], entry.id):
                records.add_now(as_row(claim, entry.id))
        item = load_items("lab", 1)[0]
        answer = Answer(item, (-1.0,) * 4, (-2.0,) * 4, ((-1.0,),) * 4, (False,) * 4)
        records.add_now(Item(step=STEPS[1], task=TASK, item=item.id, data={"key": "k", "answer": answer.to_json()}))
    return root


def is_inert(watched: Watched, texts: set[str]) -> None:
    page = watched.page
    assert set(page.evaluate(MADE)) <= INERT, "a text made an element"
    assert page.evaluate(FOREIGN) == 0
    shown = page.evaluate(SEEN)
    assert not {name for name in texts if name not in shown}, "not shown at all, so nothing was tested"
    assert watched.offences == []


def test_thirty_hostile_texts_do_nothing_in_the_journal(watched: Watched, app: App) -> None:
    assert len(TEXTS) == 30
    names, shown = [f"t{at:02d}" for at in range(1, 31)], set[str]()
    for first in range(30, 0, -8):  # the newest come first, eight a page
        watched.page.goto(f"{app.url}/journal?run=fox&entry={first}")
        watched.page.locator("mark", has_text="Function words").first.wait_for()
        watched.settles()
        is_inert(watched, {f"t{first:02d}"})
        text = watched.page.evaluate(SEEN)
        shown |= {name for name in names if name in text}
    assert shown == {*names}


def test_the_name_of_a_benchmark_calls_nobody(watched: Watched, app: App) -> None:
    watched.page.goto(f"{app.url}/benchmarks?run=fox")
    watched.page.get_by_role("heading", name="t31").wait_for()
    watched.settles()
    assert watched.page.evaluate(FOREIGN) == 0 and watched.offences == []


def test_thirty_hostile_texts_do_nothing_in_a_report_opened_offline(browser: Any, root: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    done = lab("report", "fox", "--html", str(file), runs=root)
    assert done.returncode == 0 and "\x1b" not in file.read_text(encoding="utf8")
    watched = Watched(browser, None, offline=True)
    watched.page.goto(file.as_uri())
    watched.page.locator(".main-svg").first.wait_for()
    is_inert(watched, {f"t{at:02d}" for at in range(1, 31)})
    watched.close()


def test_thirty_hostile_texts_reach_a_terminal_without_a_control_character(root: Path) -> None:
    done = lab("journal", "ls", "fox", runs=root)
    assert done.returncode == 0 and "t26" in done.stdout
    assert not {c for c in done.stdout if ord(c) < 32 or ord(c) == 127} - {"\n", "\t"}
