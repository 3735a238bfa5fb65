"""`lab bench`, `lab review` and the Benchmarks page: controls beside every number, text of a model inert, ratings blind."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app import bench_figures, bench_trend
from app.bench_report import everything
from app.bench_text import to_text
from app.review import (
    Drawn,
    Rated,
    Rating,
    agree,
    alpha,
    ask,
    draw,
    kinds_of,
    read_ratings,
    sheet,
    summarise,
    write_csv,
)
from lab.benchmark_items import Item, load_items
from lab.benchmarks import Answer
from lab.records import Item as Row
from lab.records import Records
from lab.run import Run
from probes.behaviour.reasoning import SCORERS, SEED, admit
from probes.behaviour.two_by_two import SOURCES
from tests.app.commands import lab
from tests.app.hostile import TASK
from tests.app.test_views import as_markdown
from tests.figures import bench as benched
from tests.made_runs import made_run
from train.benchmark_records import ADMISSION, REASONS, Reasons, answered
from train.benchmarking import Result

HOSTILE = "<img src=x onerror=alert(1)>\x1b[31m=HYPERLINK(1)"
STEPS = (0, 4, 8, 16)


def planted(root: Path, name: str = "asked") -> Run:
    """Sixteen items at four steps: half right, all rationales good by `seed`, all of them no better than another item's."""
    run = made_run(root, name, steps=(0, 8), n_ctx=160)
    items = load_items("lab", 16)
    with Records.writer(run.database) as records:
        for step in STEPS:
            for at, item in enumerate(items):
                chosen = item.gold if at % 2 else (item.gold + 1) % 4
                likelihood = tuple(-1.0 if option == chosen else -3.0 for option in range(4))
                answer = Answer(item, likelihood, (-2.0,) * 4, ((-1.0,),) * 4, (False,) * 4)
                reasons = Reasons(
                    item=item.id,
                    subject=item.subject,
                    chosen=chosen,
                    gold=item.gold,
                    forced=(chosen + 2) % 4,
                    rationales=dict.fromkeys(SOURCES, HOSTILE if at == 0 else f"because {at}, so it is."),
                    scores={scorer: dict.fromkeys(SOURCES, 1.0 if scorer == "seed" else -0.1) for scorer in SCORERS},
                    first="first this",
                    first_choice=chosen,
                    reference="step 4",
                )
                records.add(
                    Row(step=step, task="lab", item=item.id, data={"key": "k", "answer": answer.to_json()}),
                    Row(step=step, task="lab" + REASONS, item=item.id, data={"key": "k", "reasons": reasons.to_json()}),
                )
            test = {"key": "k", "admission": admit(SEED, load_items("lab")).to_json()}
            records.add_now(Row(step=step, task=ADMISSION, item="seed", data=test))
    return run


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("benched")
    planted(root)
    return root


# ---------------------------------------------------------------------------------------------------------- lab bench


def test_bench_answers_prints_and_answers_nothing_twice(tmp_path: Path) -> None:
    made_run(tmp_path, "one", n_ctx=160)
    first = lab("bench", "one", "--limit", "6", runs=tmp_path)
    assert first.returncode == 0 and "n 6" in first.stdout and "25.0%" in first.stdout and "chance" in first.stdout
    again = lab("bench", "one", "--limit", "6", "--json", runs=tmp_path)
    assert "nothing was asked again" in again.stderr
    (found,) = json.loads(again.stdout)["benchmarks"]
    assert (found["task"], found["items"], found["accuracy"]["acc"]["checks"]) == ("lab", 6, 6)
    steps = lab("bench", "one", "--limit", "6", "--every-checkpoint", "--json", runs=tmp_path)
    assert [one["step"] for one in json.loads(steps.stdout)["benchmarks"]] == [0, 8]
    shown = lab("bench", "one", "--show", runs=tmp_path)
    assert "against step 0, the same 6 items" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--tasks", "arc_hard"), "is no benchmark"),
        (("--harness", "helm"), "Use lm-eval"),
        (("--step", "3"), "no checkpoint of step 3"),
        (("--step", "8", "--every-checkpoint"), "Leave one of them out"),
        (("--items", "nowhere.jsonl"), "cannot be read"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_way_out(
    tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    made_run(tmp_path, "one")
    done = lab("bench", "one", *arguments, runs=tmp_path)
    assert done.returncode == 2 and reason in done.stderr and not done.stdout


def test_a_file_of_ones_own_is_asked(tmp_path: Path) -> None:
    made_run(tmp_path, "one")
    file = tmp_path / "mine.jsonl"
    file.write_text('{"id": "a", "question": "Why?", "options": ["so", "not so"], "gold": 0}\n')
    done = lab("bench", "one", "--items", str(file), "--json", runs=tmp_path)
    assert [one["task"] for one in json.loads(done.stdout)["benchmarks"]] == ["mine"]


def test_the_text_has_every_control_and_says_that_the_seed_heuristic_measures_no_reasoning(root: Path) -> None:
    done = lab("bench", "asked", "--show", runs=root)
    assert done.returncode == 0
    part = done.stdout[done.stdout.index("reasons for lab at step 16") :]
    assert all(about in part for about in SOURCES.values())
    assert "scorer seed: does not measure reasoning: " in part and "word-shuffled 40/40" in part
    assert "+0.0 points" in part and "(this scorer does not measure reasoning)" in part
    assert "P(good | wrong)" in part and "100.0% (68 to 100, n 8)" in part


def test_lm_eval_beside_ours_counts_every_item_alike(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    made_run(tmp_path, "one", n_ctx=160)
    done = lab("bench", "one", "--limit", "20", "--harness", "lm-eval", "--json", runs=tmp_path)
    (side,) = json.loads(done.stdout)["lm-eval"]
    assert side["differing"] == {"acc": 0, "acc_norm": 0, "acc_bytes": 0}
    assert side["ours"]["acc_norm"]["checks"] == 20 and side["largest"] < 1e-3


def test_reading_benchmarks_loads_no_torch() -> None:
    code = (
        "import sys, app.bench_report, app.bench_text, app.bench_figures, app.review; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ------------------------------------------------------------------------------------------------------------- figures


def test_the_figures_have_intervals_chance_and_a_headline_over_steps(root: Path) -> None:
    with Run.open(root / "asked").records() as records:
        reports = everything(records)
    assert [one["step"] for one in reports] == list(STEPS) and "lab" in to_text(reports)
    lines = {trace.name: trace for trace in bench_figures.over_steps(reports).data}
    assert list(lines["chance"].y) == [0.25] * 4 and lines["likeliest option, sum over its tokens"].error_y.array
    table = reports[-1]["reasons"]["tables"][0]
    assert [len(trace.x) for trace in bench_figures.good_by_source(table).data] == [6, 6]
    head = bench_figures.headline_over_steps(reports, "seed")
    assert head is not None and list(head.data[0].y) == [0.0] * 4 and list(head.data[1].y) == [0.5] * 4
    assert bench_figures.headline_over_steps(reports[:1], "seed") is None
    assert "50.0%" in bench_figures.describe(reports[0]) and "echo" not in bench_figures.describe_table(table)


def moving(root: Path, name: str, good: int, right: int) -> list[dict[str, Any]]:
    """Reports of four steps, 60 items: at the first no good reason and none right; at the last so many of each."""
    run = made_run(root, name, steps=(0, 8), n_ctx=160)
    items = [Item("t", str(at), ("Question: q?\nAnswer:",) * 2, ("a", "b"), 0) for at in range(60)]
    with Records.writer(run.database) as records:
        for share, step in enumerate(STEPS):
            for at, item in enumerate(items):
                chosen = 0 if at < right * share / 3 else 1
                likelihood = (-1.0, -3.0) if chosen == 0 else (-3.0, -1.0)
                answer = Answer(item, likelihood, (-2.0,) * 2, ((-1.0,),) * 2, (False,) * 2)
                scores = dict.fromkeys(SOURCES, 0.0) | {"own": 1.0 if at >= 60 - good * share / 3 else 0.0}
                reasons = Reasons(
                    item.id,
                    "",
                    chosen,
                    0,
                    1 - chosen,
                    dict.fromkeys(SOURCES, "so"),
                    {"seed": scores},
                    "so",
                    chosen,
                    "step 0",
                )
                records.add(Row(step=step, task="t", item=item.id, data={"key": "k", "answer": answer.to_json()}))
                records.add_now(
                    Row(step=step, task="t" + REASONS, item=item.id, data={"key": "k", "reasons": reasons.to_json()})
                )
    with run.records() as records:
        return everything(records)


def test_readmes_tables_are_empty_without_figures_and_have_every_control_with_them(root: Path) -> None:
    assert all(benched.render(name, []) == "" for name in benched.MEASURES)
    with Run.open(root / "asked").records() as records:
        rows = json.loads(json.dumps(everything(records)))
    table = benched.render("bench_reasons", rows[-1:])
    assert all(about in table for about in SOURCES.values()) and "word-shuffled 40/40" in table
    assert "does not measure reasoning" in table and "wrong 100.0% (68 to 100, n 8)" in table
    assert "| lab | 25% |" in benched.render("bench_smollm2", rows)
    steps = benched.render("bench_blimp", rows).splitlines()
    assert len(steps) == 8 and steps[-1].startswith("| 16 | 50.0% (28 to 72, n 16) | +0.0 points (")


@pytest.mark.parametrize(
    ("good", "right", "said"),
    [
        (30, 0, "Reasons improved while scores stood still"),
        (0, 0, "Neither reasons nor scores moved beyond their intervals"),
        (0, 30, "Scores improved, reasons did not move beyond their interval"),
        (20, 30, "Reasons improved; scores improved"),
    ],
)
def test_whether_reasons_improved_while_scores_stood_still_is_said_with_intervals(
    tmp_path: Path, good: int, right: int, said: str
) -> None:
    reports = moving(tmp_path, "moves", good, right)
    found = bench_trend.trend(reports, "seed")
    assert found is not None and found["steps"] == list(STEPS) and found["accuracy"]["step"] == 0
    words = bench_trend.in_words(found)
    assert words.startswith(f"{said}: from step 0 to 16 (4 checkpoints)") and "does not measure reasoning" in words
    assert f"accuracy {100 * right / 60:+.1f} points (" in words and "on the same 60 items" in words
    assert words in to_text(reports) and bench_trend.trend(reports[:3], "seed") is None


def test_bench_says_once_whether_reasons_improved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moving(tmp_path, "moves", 30, 0)
    with Run.open(tmp_path / "moves").records() as records:
        asked = [Result(step, "t", tuple(answered(records, "t", step)), 0, 60) for step in STEPS]
    monkeypatch.setattr("train.benchmarking.bench", lambda *_, **__: asked)
    done = lab("bench", "moves", "--with-reasons", "--every-checkpoint", runs=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Reasons improved while scores stood still") == 1


# ---------------------------------------------------------------------------------------------------------------- view


def texts(page: AppTest) -> str:
    return " ".join(
        [*(block.proto.body for block in page.get("html")), *(one.value for one in (*page.text, *page.warning))]
    )


def test_the_page_shows_table_reasons_and_item_inert(root: Path, open_app: Callable[..., AppTest]) -> None:
    first = load_items("lab", 1)[0]
    page = open_app(root, "benchmarks", task="lab", step="16", scorer="seed", item=first.id)
    assert not page.exception and not page.error
    assert "does not measure reasoning" in texts(page)
    assert "<img" not in texts(page) and "word-shuffled 40/40" in page.code[0].value
    assert len(page.get("plotly_chart")) == 3
    assert page.dataframe[0].value["Items"].tolist() == [16]
    assert "Rationale before the answer: first this" in texts(page)


def test_the_name_of_a_benchmark_is_never_markdown(tmp_path: Path, open_app: Callable[..., AppTest]) -> None:
    run = made_run(tmp_path, "stranger", n_ctx=160)
    item = load_items("lab", 1)[0]
    answer = Answer(item, (-1.0,) * 4, (-2.0,) * 4, ((-1.0,),) * 4, (False,) * 4)
    with Records.writer(run.database) as records:
        records.add_now(Row(step=8, task=TASK, item=item.id, data={"key": "k", "answer": answer.to_json()}))
    page = open_app(tmp_path, "benchmarks")
    assert not page.exception and "t31" in texts(page)
    assert "evil" not in as_markdown(page)


def test_a_run_that_was_asked_nothing_names_the_command(tmp_path: Path, open_app: Callable[..., AppTest]) -> None:
    made_run(tmp_path, "silent")
    page = open_app(tmp_path, "benchmarks")
    assert not page.exception and "lab bench silent" in page.code[0].value


# -------------------------------------------------------------------------------------------------------------- review


def test_a_sheet_is_blind_stratified_and_no_formula(root: Path, tmp_path: Path) -> None:
    with Run.open(root / "asked").records() as records:
        drawn = draw(records, None, None, 10, 0)
    assert sum(one.right for one in drawn) == 5 and drawn[0].step == 16
    file = tmp_path / "sheet.csv"
    write_csv(file, sheet(drawn))
    with file.open(newline="", encoding="utf8") as opened:
        rows = list(csv.DictReader(opened))
    assert rows[0].keys() == {"id", "question", "options", "chosen", "rationale", "defensible", "supports", "best"}
    assert not any(cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())
    assert "gold" not in file.read_text() and all(row["best"] == "" for row in rows)


def rated(drawn: list[Drawn], name: str, *answers: tuple[bool, bool, int]) -> Rated:
    return Rated(name, {one.item.id: Rating(*answer) for one, answer in zip(drawn, answers, strict=True)})


def test_a_filled_in_sheet_becomes_kinds_with_intervals(root: Path, tmp_path: Path) -> None:
    file, sheets = tmp_path / "anna.csv", tmp_path / "sheet.csv"
    assert lab("review", "asked", "--out", str(sheets), "--sample", "8", runs=root).returncode == 0
    with sheets.open(newline="", encoding="utf8") as opened:
        rows = list(csv.DictReader(opened))
    write_csv(file, [row | {"defensible": "no", "supports": "Yes", "best": "1"} for row in rows])
    done = lab("review", "asked", "--sample", "8", "--ratings", str(file), "--ratings", str(file), "--json", runs=root)
    outcome = json.loads(done.stdout)
    kinds = outcome["raters"][0]["kinds"]
    assert kinds["wrong, good rationale: interpretation mismatch"]["count"] == 4
    assert kinds["wrong, good rationale: valid alternative"]["checks"] == 4
    assert outcome["agreement"] == {
        "defensible": None,
        "supports": None,
        "best": None,
    }  # nothing varies: nothing to agree on


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"best": "5"}, "best is '5'"),
        ({"supports": "maybe"}, "supports is 'maybe'"),
        ({"id": "nobody"}, "is not in this sample"),
    ],
)
def test_a_bad_sheet_is_refused_by_line(root: Path, tmp_path: Path, change: dict[str, str], reason: str) -> None:
    with Run.open(root / "asked").records() as records:
        drawn = draw(records, "lab", 8, 4, 0)
    file = tmp_path / "bad.csv"
    filled = [row | {"defensible": "yes", "supports": "no", "best": "2"} for row in sheet(drawn)]
    write_csv(file, [filled[0], filled[1] | change])
    with pytest.raises(Exception, match="line 3") as refused:
        read_ratings(file, drawn)
    assert reason in str(refused.value)


def test_asking_takes_answers_until_they_are_answers() -> None:
    item = Item("t", "i", ("Question: q?\nAnswer:",) * 2, ("a", "b"), 0)
    given = iter(["perhaps", "y", "no", "3", "2"])
    said: list[str] = []
    (row,) = ask([Drawn("t", 1, item, 1, "because\x1b[2J", True)], lambda question: next(given), said.append)
    assert (row["defensible"], row["supports"], row["best"]) == ("yes", "no", "2")
    assert said.count("that is no answer to it") == 2 and "\x1b" not in "".join(said)


def test_kinds_of_answers() -> None:
    item = Item("t", "i", ("q",) * 2, ("a", "b"), 0)
    wrong, right = Drawn("t", 1, item, 1, "", True), Drawn("t", 1, item, 0, "", True)
    assert kinds_of(wrong, Rating(True, False, 1)) == ["valid alternative", "the key is not best"]
    assert kinds_of(wrong, Rating(False, True, 0)) == ["interpretation mismatch"]
    assert kinds_of(wrong, Rating(False, False, 0)) == ["reasoning failure"]
    assert kinds_of(right, Rating(True, True, 0)) == []
    found = summarise(rated([wrong], "anna", (False, False, 0)), [wrong])
    assert found["kinds"]["wrong, good rationale: reasoning failure"]["count"] == 1


def test_alpha_is_krippendorffs() -> None:
    """The nominal example of Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: alpha .743."""
    by_rater = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, None, None, None],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, None, 3],
        [None, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, None],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, None],
    ]
    units = [[value for value in unit if value is not None] for unit in zip(*by_rater, strict=True)]
    assert alpha(units) == pytest.approx(0.743, abs=5e-4)
    assert alpha([[1, 1], [1]]) is None


def test_raters_who_agree_at_random_have_an_alpha_near_zero() -> None:
    item = Item("t", "i", ("q",) * 2, ("a", "b"), 0)
    drawn = [Drawn("t", 1, Item("t", str(at), item.contexts, item.options, 0), 1, "", True) for at in range(400)]
    one = rated(drawn, "a", *[(at % 2 == 0, at % 2 == 0, 0) for at in range(400)])
    two = rated(drawn, "b", *[(at // 2 % 2 == 0, at % 2 == 0, 1) for at in range(400)])
    found = agree([one, two])
    assert found["defensible"] == pytest.approx(0, abs=0.01) and found["supports"] == 1.0
    assert agree([one]) == {}


def test_a_job_of_the_server_cannot_name_a_file_of_items(root: Path) -> None:
    from app.server_jobs import BadJob, command_line

    run = Run.open(root / "asked")
    assert "--tasks=lab" in command_line("bench", run, {"tasks": "lab", "step": 8})
    for name in ("items", "files"):
        with pytest.raises(BadJob):
            command_line("bench", run, {name: "/etc/passwd"})
