"""`lab report RUN` on the example run: one file, its numbers those of the verdicts, and words where something is damaged."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from app.example import NAME, unpack
from app.verdict_text import number
from lab.records import Entry, Records, Verdict
from lab.run import Run
from tests.app.commands import lab, real_lab
from tests.app.hostile import TEXTS
from tests.app.planted import make_run

NUMBERS = re.compile(r"[+-]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?")
LEVELS = {"95", "90"}  # of intervals, per cent
PARTS = ("Training", "Layers", "Journal", "Concepts", "Findings", "Timeline", "Benchmarks")


class Cards(HTMLParser):
    """What stands in the facts of the page's cards, and every tag and address of the page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.facts: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.inside = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]
        if tag == "dd":
            self.inside += 1
            self.facts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside -= tag == "dd"

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.facts[-1] += data


def as_shown(value: Any) -> Iterator[str]:
    """Every way in which a verdict's JSON may show a number of it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from NUMBERS.findall(str(key))
            yield from as_shown(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from as_shown(inner)
    elif isinstance(value, str):
        yield from NUMBERS.findall(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from (number(value), number(value, signed=True), str(value))


def of_journal(page: str) -> str:
    return page[page.index('<h2 id="journal">') : page.index('<h2 id="concepts">')]


def numbers_stem_from(page: str, verdicts: list[dict[str, Any]]) -> None:
    """Every number of the page's cards is one of the verdicts', and every depth and difference of theirs is there."""
    known, cards = {*as_shown(verdicts)} | LEVELS, Cards(of_journal(page))
    shown = {found for fact in cards.facts for found in NUMBERS.findall(fact)}
    assert len(shown) > 20 and shown <= known, sorted(shown - known)
    deltas = [one["delta"] for verdict in verdicts for one in verdict["readings"].values() if one["delta"]]
    sides = [one[at] for verdict in verdicts for one in verdict["readings"].values() for at in "ab" if one[at]]
    wanted = {number(delta[key], signed=True) for delta in deltas for key in ("value", "lo", "hi", "lo90", "hi90")}
    wanted |= {number(side["depth"][key]) for side in sides if side["depth"] for key in ("value", "lo", "hi")}
    wanted |= {number(side[key]) for side in sides for key in ("words", "sentences", "documents")}
    assert wanted <= shown, sorted(wanted - shown)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run.open(unpack(tmp_path_factory.mktemp("example")))


@pytest.fixture(scope="module")
def page(run: Run) -> str:
    done = lab("report", NAME, runs=run.path.parent)
    assert (done.returncode, done.stdout.strip()) == (0, str(run.exports / "report.html")), done.stderr
    return (run.exports / "report.html").read_text(encoding="utf8")


def test_every_part_of_the_example_is_in_the_report(page: str) -> None:
    for part in PARTS:
        assert f'<h2 id="{part.lower()}">{part}</h2>' in page
    assert "Nothing is recorded here" not in page and "cannot be shown" not in page
    drawn = set(re.findall(r'<div id="([a-z0-9-]+)" class="plotly-graph-div"', page))
    begin = {name.split("-")[0] for name in drawn}
    assert begin == {"curve", "layers", "claim", "concept", "benchmark"}
    assert len(drawn) == len(re.findall(r'class="plotly-graph-div"', page)), "two figures share a place"


def test_every_number_of_a_claim_card_is_one_of_its_verdict(run: Run, page: str) -> None:
    with run.records() as records:
        verdicts = [row.data for row in records.rows(Verdict)]
    files = [json.loads(file.read_text()) for file in sorted(run.evidence.glob("verdict-*.json"))]
    assert {one["claim"]["id"]: one for one in files} == {one["claim"]["id"]: one for one in verdicts}
    numbers_stem_from(page, verdicts)


def test_the_report_is_one_file_that_asks_for_nothing_and_comes_out_the_same_again(run: Run, page: str) -> None:
    cards = Cards(of_journal(page))
    assert cards.addresses == [] and "default-src 'none'" in page
    assert page.count("plotly.js v") == 1, "the library is in it once"
    again = lab("report", "page", NAME, "--html", str(run.path.parent / "again.html"), runs=run.path.parent)
    assert again.returncode == 0 and (run.path.parent / "again.html").read_text(encoding="utf8") == page


def test_hostile_entries_become_no_tag_no_address_and_no_control_character(tmp_path: Path) -> None:
    run = make_run(tmp_path, "fox", steps=(0, 1, 2), tasks=("class.next",))
    with Records.writer(run.database) as records:
        for text in TEXTS:
            records.add_now(Entry(step=1, author=text[:50], kind="note", text=text, created_at=1.79e9))
    done = lab("report", "fox", "--html", str(tmp_path / "r.html"), runs=tmp_path)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "r.html").read_text(encoding="utf8")
    written = of_journal(page)
    cards = Cards(written)
    assert {*cards.tags} <= {"h2", "div", "span", "p", "section"} and cards.addresses == []
    assert not {c for c in written if ord(c) < 32} - {"\n", "\t"} and "\u202e" not in written
    assert "characters more)" in page and len(page) < 6_000_000  # an entry of a megabyte is cut, and that is said


def test_a_damaged_record_costs_its_part_alone_and_is_said(tmp_path: Path) -> None:
    run = Run.open(unpack(tmp_path))
    (run.concepts / "person" / "card.json").write_text('{"name": 7', encoding="utf8")
    with Records.writer(run.database) as records:
        claim = records.rows(Verdict)[0].claim
        broken = Verdict(claim=claim, step=5000, verdict="SUPPORTED-STRONG", created_at=1.0, data={"claim": 3})
        records.add_now(broken)
    done = lab("report", NAME, "--html", str(tmp_path / "r.html"), runs=tmp_path)
    page = (tmp_path / "r.html").read_text(encoding="utf8")
    assert done.returncode == 0 and "its verdict is damaged" in page
    assert 'id="layers-0-map"' in page and 'id="benchmark-0"' in page and "NOT FROZEN" in page


def test_a_report_loads_no_torch_and_refuses_a_place_that_cannot_be_written(run: Run, tmp_path: Path) -> None:
    done = lab("report", NAME, "--html", str(tmp_path / "no" / "r.html"), runs=run.path.parent)
    assert done.returncode == 2 and "there is no folder" in done.stderr
    done = lab("report", "no-such-run", runs=run.path.parent)
    assert done.returncode == 2 and "no run is called 'no-such-run'" in done.stderr
    assert "lab report RUN" in lab("report", "--help", runs=run.path.parent).stdout
    program = "import sys, app.report_html; print([m for m in ('torch', 'streamlit') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout.strip() == "[]", found.stderr


@pytest.mark.slow
def test_a_report_shows_the_numbers_that_verify_has_just_printed(tmp_path: Path) -> None:
    run = Run.open(unpack(tmp_path))
    with run.records() as records:
        seed = next(entry.id for entry in records.rows(Entry) if entry.author == "log")
        others = [row.data for row in records.rows(Verdict) if row.data["author"] != "log"]
    done = real_lab("verify", NAME, "--entry", str(seed), "--quick", "--json", runs=tmp_path)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert real_lab("report", NAME, "--html", str(tmp_path / "r.html"), runs=tmp_path).returncode == 0
    numbers_stem_from((tmp_path / "r.html").read_text(encoding="utf8"), [*printed, *others])
