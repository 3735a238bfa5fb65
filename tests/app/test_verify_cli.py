"""`lab verify`, `lab journal` and `lab probe` as a person meets them: what they print, write and refuse.

The measuring is a stub that gives planted verdicts: what is tested here is what becomes of them.
"""

import io
import json
import re
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.cli_verify import MOST_BYTES
from app.verdict_terminal import overview, to_text
from app.verdict_text import card_facts, number, reading_facts, readings
from lab.run import Run
from probes.claims.grammar import Claim, parse
from probes.layers.profile import Profile
from tests.app.commands import Done, lab
from tests.app.planted_verdicts import HOSTILE, SEED, make_journal, stored, verdict_of
from train.profiles import Profiles


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    make_journal(root, "fox")
    return root


@dataclass
class Stub:
    """Stands for `train.verifying`; keeps what it was asked."""

    verdicts: list[dict[str, Any]]
    asked: dict[str, Any] = field(default_factory=dict)

    def verify(self, run: Run, **options: Any) -> list[dict[str, Any]]:
        for share in (0.0, 0.5, 1.0):
            options["progress"]("reading the activations\n\x1b[2J", share)
        self.asked = options
        return self.verdicts

    def add_entry(self, run: Run, text: str, author: str, step: int | None = None, kind: str = "note") -> Any:
        self.asked = {"text": text, "author": author, "step": step}
        return 7, parse(text, 7)

    def entries(self, run: Run) -> list[dict[str, Any]]:
        claims: list[Claim] = parse(SEED, 1)
        row = {
            "id": 1,
            "step": 400,
            "author": "model",
            "kind": "check-in",
            "text": f"{HOSTILE}\n{SEED}",
            "created_at": 0.0,
        }
        return [row | {"claims": [claims[0].to_json() | {"verdict": "INCONCLUSIVE"}]}]

    def probe_all(self, run: Run, tasks: Any, jobs: int, progress: Any) -> list[Profiles]:
        self.asked = {"tasks": tasks, "jobs": jobs}
        progress("probing", 1.0)
        low, high, twin = (0.0, 0.4), (0.2, 0.6), (0.1, 0.11)
        profile = Profile("class.next", (0, 1), (0.1, 0.5), low, high, 4321, 400, baseline=twin)
        why = {"supersense.next": "too few <b>words</b>"}
        return [Profiles(run.name, step, {"class.next": profile}, why) for step in (0, 400)]


@pytest.fixture
def stub(runs: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    made = Stub(stored(Run.open(runs / "fox")))
    names = ("verify", "add_entry", "entries", "probe_all")
    monkeypatch.setitem(
        sys.modules, "train.verifying", SimpleNamespace(**{name: getattr(made, name) for name in names})
    )
    return made


def refused(done: Done) -> str:
    assert done.returncode == 2 and not done.stdout and "Traceback" not in done.stderr, done
    return done.stderr


def test_json_is_the_verdicts_and_nothing_else_on_stdout(runs: Path, stub: Stub) -> None:
    done = lab("verify", "fox", "--json", runs=runs)
    assert done.returncode == 0 and json.loads(done.stdout) == stub.verdicts
    assert done.stderr.count("reading the activations ·[2J: ") == 3  # plain lines, since this is no terminal
    assert done.stdout == lab("verify", "fox", "--json", runs=runs).stdout


def test_the_table_says_what_the_json_says(runs: Path, stub: Stub) -> None:
    text = " ".join(lab("verify", "fox", runs=runs).stdout.split())
    for verdict in stub.verdicts:
        assert f"{verdict['verdict']}: {verdict['wording']}" in text
        for _, said in card_facts(verdict):
            assert " ".join(said.split()) in text
        for name, evidence in readings(verdict):
            for _, said in reading_facts(name, evidence, name == verdict["primary"]):
                assert said in text
            if evidence["delta"]:
                assert number(evidence["delta"]["value"], signed=True) in text


def test_the_overview_puts_the_primary_reading_first(stub: Stub) -> None:
    rows = overview(stub.verdicts[0])
    assert [row[0] for row in rows] == ["reading", "decide *", "decode.next", "decode.current", "use"]
    assert rows[1][1:4] == ("+0.214 (+0.144 to +0.287)", "0.350", "0.564")
    assert overview(next(v for v in stub.verdicts if v["verdict"] == "UNPARSED")) == []


def test_every_option_reaches_the_measuring(runs: Path, stub: Stub, tmp_path: Path) -> None:
    gold = tmp_path / "gold.conllu"
    gold.write_text("# nothing")
    options = ["--step", "400", "--readings", "use, decode", "--sentences", "50", "--quick"]
    done = lab("verify", "fox", "--text", SEED, "--author", "Ada", "--conllu", str(gold), *options, runs=runs)
    assert done.returncode == 0
    del stub.asked["progress"]
    assert stub.asked == {
        "entry": None, "text": SEED, "author": "Ada", "step": 400, "readings": ("decode", "use"), "sentences": 50,
        "conllu": [gold], "streusle": (), "quick": True,
    }  # fmt: skip
    assert lab("verify", "fox", "--entry", "3", runs=runs).returncode == 0
    assert (stub.asked["entry"], stub.asked["author"]) == (3, "person")


def test_the_html_is_one_file_that_asks_for_nothing_and_is_the_same_again(
    runs: Path, stub: Stub, tmp_path: Path
) -> None:
    hostile = parse(SEED, 9)[0]
    bad = json.loads(json.dumps(verdict_of(hostile, "<i>Eve", "fox", 1900, "SUPPORTED-WEAK", 0.2)))
    bad["claim"]["text"] = bad["wording"] = bad["readings"]["decide"]["a"]["subject"] = f"</script>{HOSTILE}"
    stub.verdicts.append(bad)
    file = tmp_path / "verdicts.html"
    assert lab("verify", "fox", "--html", str(file), runs=runs).returncode == 0
    first = file.read_text(encoding="utf8")
    lab("verify", "fox", "--html", str(file), runs=runs)
    assert file.read_text(encoding="utf8") == first
    library = re.search(r"<script>.*?</script>", first, re.S)
    assert library and len(library.group()) > 1_000_000  # Plotly is inside
    rest = Tags(first.replace(library.group(), ""))
    assert rest.named <= {"html", "head", "meta", "title", "style", "body", "h1", "section", "div", "span", "strong", "dl",
                          "dt", "dd", "details", "summary", "script"}  # fmt: skip
    assert not rest.attributes & {"src", "href", "onerror", "srcset"}
    assert "<script>alert(2)</script>" in rest.words and "by <i>Eve" in rest.words
    assert "default-src 'none'" in first and not set(rest.words) & set("\u202e\u202c\x1b")


class Tags(HTMLParser):
    """What a browser would make of a page: its elements, their attributes, and its words outside scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.named: set[str] = set()
        self.attributes: set[str] = set()
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.named.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.words += data if self.lasttag != "script" else ""


def test_nothing_from_a_claim_reaches_the_terminal_as_a_command(stub: Stub) -> None:
    verdict = stub.verdicts[0]
    for key in ("wording", "scope", "causal"):
        verdict[key] = HOSTILE
    verdict["claim"]["text"] = verdict["claim"]["a"] = verdict["reasons"][0] = HOSTILE
    assert not set(to_text(verdict)) & set("\x1b\u202e\u202c")


def test_a_report_keeps_within_the_width_of_the_terminal(stub: Stub) -> None:
    assert max(len(line) for verdict in stub.verdicts for line in to_text(verdict, 80).splitlines()) <= 82


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["verify", "wolf"], "wolf"),
        (["verify", "fox", "--entry", "1", "--text", "x"], "--entry"),
        (["verify", "fox", "--text", "  \n "], "empty"),
        (["verify", "fox", "--text", "x" * (MOST_BYTES + 1)], "100 kB"),
        (["verify", "fox", "--author", "Ada"], "--author"),
        (["verify", "fox", "--text", SEED, "--author", " "], "--author"),
        (["verify", "fox", "--readings", "decode,devise"], "'devise' is no reading"),
        (["verify", "fox", "--readings", ","], "names no reading"),
        (["verify", "fox", "--sentences", "0"], "--sentences"),
        (["verify", "fox", "--conllu", "/nowhere.conllu"], "/nowhere.conllu"),
        (["verify", "fox", "--streusle", "/nowhere.json"], "no such file"),
        (["verify", "fox", "--html", "/nowhere/at/all.html"], "/nowhere/at"),
        (["verify", "fox", "--html", "/"], "is a folder"),
        (["verify", "fox", "--entry", "one"], "--entry"),
        (["probe", "fox", "--all", "--step", "4"], "--step"),
        (["probe", "fox", "--all", "--jobs", "0"], "--jobs"),
        (["probe", "fox", "--jobs", "2"], "--all"),
        (["probe", "fox", "--html", "/nowhere/at/all.html"], "/nowhere/at"),
        (["journal", "add", "fox", "--text", SEED], "--author"),
        (["journal", "add", "fox", "--author", "a" * 81, "--text", SEED], "--author"),
        (["journal", "add", "fox", "--author", "A\x1b[2J", "--text", SEED], "printable"),
        (["journal", "add", "fox", "--author", "Ada", "--text", ""], "empty"),
        (["journal", "add", "fox", "--author", "Ada", "--text", "a", "--file", "b"], "--file"),
        (["journal", "add", "fox", "--author", "Ada", "--file", "/nowhere.txt"], "/nowhere.txt"),
        (["journal", "add", "fox", "--author", "Ada", "--text", SEED, "--step", "-1"], "--step"),
        (["journal", "ls", "wolf"], "wolf"),
    ],
)
def test_bad_requests_are_refused_in_words(runs: Path, stub: Stub, arguments: list[str], says: str) -> None:
    assert says in refused(lab(*arguments, runs=runs)) and not stub.asked


@pytest.mark.parametrize(("raw", "says"), [(b"\xff\xfe", "UTF-8"), (b"", "empty"), (b"x" * 200_000, "100 kB")])
def test_bad_files_and_pipes_are_refused(
    runs: Path, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raw: bytes, says: str
) -> None:
    file = tmp_path / "entry.txt"
    file.write_bytes(raw)
    assert says in refused(lab("journal", "add", "fox", "--author", "Ada", "--file", str(file), runs=runs))
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw)))
    assert says in refused(lab("journal", "add", "fox", "--author", "Ada", runs=runs))


def test_an_entry_comes_from_an_option_a_file_or_a_pipe(
    runs: Path, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "entry.txt"
    file.write_text(SEED, encoding="utf8")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(SEED.encode())))
    for source in (["--text", SEED], ["--file", str(file)], []):
        done = lab("journal", "add", "fox", "--author", "Ada", "--step", "400", *source, runs=runs)
        assert stub.asked == {"text": SEED, "author": "Ada", "step": 400}
        assert done.stdout.startswith("entry 7: 1 claim\n  PARSED: function words")
        assert "lab verify fox --entry 7" in done.stderr


def test_the_journal_lists_entries_with_author_and_verdicts(runs: Path, stub: Stub) -> None:
    listed = lab("journal", "ls", "fox", runs=runs).stdout
    assert "model-written, not a measurement" in listed and "1. INCONCLUSIVE: function words" in listed
    assert not set(listed) & set("\x1b\u202e")
    assert json.loads(lab("journal", "ls", "fox", "--json", runs=runs).stdout) == stub.entries(Run.open(runs / "fox"))


def test_probing_every_checkpoint_gives_a_list_and_a_file(runs: Path, stub: Stub, tmp_path: Path) -> None:
    file = tmp_path / "layers.html"
    arguments = ["probe", "fox", "--all", "--jobs", "2", "--task", "class.next", "--html", str(file)]
    done = lab(*arguments, "--json", runs=runs)
    assert [one["step"] for one in json.loads(done.stdout)] == [0, 400]
    assert stub.asked == {"tasks": ["class.next"], "jobs": 2}
    page = file.read_text(encoding="utf8")
    assert page.count("Plotly.newPlot(") - page.split("<body>")[0].count("Plotly.newPlot(") == 2
    assert "too few &lt;b&gt;words" in page and "4,321 words at step 400" in page
    table = lab(*arguments, runs=runs).stdout
    assert "at step 0" in table and "at step 400" in table
