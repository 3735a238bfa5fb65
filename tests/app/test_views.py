"""Every page on no runs, an empty run, a small run and a broken one: numbers as planted, errors in words."""

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app import queries
from tests.app.planted import LAYERS, PLANTED, STEPS, make_run, planted

Opener = Callable[..., AppTest]
PAGES = ("", "training", "layers")


def words(page: AppTest) -> str:
    kinds = (page.text, page.markdown, page.info, page.error, page.warning, page.caption, page.code, page.subheader)
    return "\n".join(str(element.value) for kind in kinds for element in kind)


def as_markdown(page: AppTest) -> str:
    """Every word on a page that Streamlit takes for Markdown: a picture in it would be fetched."""
    blocks = (page.markdown, page.caption, page.title, page.header, page.subheader)
    boxes = (page.info, page.error, page.warning, page.success)
    labels = (page.button, page.expander, page.metric, page.tabs, page.toggle, page.radio, page.button_group)
    values = [str(element.value) for kind in (*blocks, *boxes) for element in kind]
    return "\n".join([*values, *(str(element.label) for kind in labels for element in kind)])


def plotly(page: AppTest, index: int) -> dict[str, Any]:
    return json.loads(page.get("plotly_chart")[index].proto.spec)


def trace(figure: dict[str, Any], name: str) -> dict[str, Any]:
    return next(drawn for drawn in figure["data"] if drawn.get("name") == name)


def frame(page: AppTest, column: str) -> Any:
    """A column of the first table that has it."""
    return next(table.value[column] for table in page.dataframe if column in table.value)


@pytest.mark.parametrize("page", PAGES)
def test_without_any_run_the_three_commands_are_named(tmp_path: Path, page: str, open_app: Opener) -> None:
    (tmp_path / "holiday").mkdir()
    shown = open_app(tmp_path / "nowhere", page)
    assert not shown.exception
    for command in ("lab demo", "lab train --preset laptop", "lab app", "lab freeze latest"):
        assert command in words(shown)
    assert "holiday" in words(open_app(tmp_path, page))


@pytest.mark.parametrize("page", PAGES)
def test_a_run_that_recorded_nothing_says_so(tmp_path: Path, page: str, open_app: Opener) -> None:
    make_run(tmp_path, "new", steps=())
    shown = open_app(tmp_path, page)
    assert not shown.exception and not shown.error
    assert any(phrase in words(shown) for phrase in ("nothing yet", "no curves yet", "no probe readings yet"))


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("name", ["ruin", "half"])
def test_a_broken_run_is_an_error_in_words(broken_root: Path, name: str, page: str, open_app: Opener) -> None:
    shown = open_app(broken_root, page, run=name)
    assert not shown.exception
    assert shown.error[0].value == "This run cannot be shown."
    assert name in words(shown) and "Traceback" not in words(shown)


def test_broken_and_foreign_folders_do_not_hide_the_run_that_is_well(
    broken_root: Path, tmp_path: Path, open_app: Opener
) -> None:
    shutil.copytree(broken_root, tmp_path / "runs")
    make_run(tmp_path / "runs", "well", steps=STEPS[:12], tasks=("class.next",))
    shown = open_app(tmp_path / "runs", "", run="well")
    assert not shown.exception and not shown.error
    assert set(frame(shown, "Run")) == {"well", "ruin", "half"}
    assert "holiday-photos" in words(shown)


def test_home_shows_the_newest_numbers_and_every_run(small_root: Path, open_app: Opener) -> None:
    shown = open_app(small_root)
    assert not shown.exception
    assert (shown.metric[0].label, shown.metric[0].value) == ("Step of 2,000", "1,898")
    assert shown.metric[2].label == "Validation, bits per byte" and float(shown.metric[2].value) < 1.8
    assert list(frame(shown, "Run")) == ["fox"]
    assert "resumed <b>at</b> 1000" in set(frame(shown, "Text"))


def test_the_header_tells_state_and_last_write(small_root: Path, open_app: Opener) -> None:
    for page in PAGES:
        shown = open_app(small_root, page)
        assert shown.selectbox(key="run").value == "fox"
        assert "last write" in words(shown)


def test_training_draws_the_five_curves_with_segments_and_the_resume(small_root: Path, open_app: Opener) -> None:
    shown = open_app(small_root, "training")
    assert not shown.exception
    charts = [element.proto for element in shown.get("vega_lite_chart")]
    assert len(charts) == 5
    assert charts[0].alt == "Training loss, nats per token, over training steps"
    assert "Training loss, nats per token: 4." in words(shown)
    assert all(len(json.loads(chart.spec)["layer"]) >= 3 for chart in charts)


def test_a_long_curve_is_at_most_two_thousand_points(tmp_path: Path) -> None:
    from lab.records import Records

    run = make_run(tmp_path, "long", steps=())
    writer = Records.writer(run.database)
    segment = writer.new_segment(0, None, "0" * 64)
    for step in range(1, 6001):
        writer.metrics(segment, step, {"train/loss": 9.0 if step == 3333 else 1.0})
    writer.close()
    points = queries.series(run.records(), "train/loss")
    assert len(points) <= 2000 and (points[0][1], points[-1][1]) == (1, 6000)
    assert max(value for _, _, value in points) == 9.0  # a spike survives


def test_overtaken_steps_are_those_that_the_resume_left_behind(small_root: Path) -> None:
    records = queries.open_run(small_root / "fox").records
    assert records is not None
    overtaken = queries.series(records, "train/loss", overtaken=True)
    assert overtaken and all(segment == 1 and step > 1000 for segment, step, _ in overtaken)
    assert queries.resume_steps(records) == [1000]
    kept = [step for _, step, _ in queries.series(records, "train/loss")]
    assert kept == sorted(set(kept))


def test_layers_opens_on_the_newest_step_with_the_planted_profile(small_root: Path, open_app: Opener) -> None:
    shown = open_app(small_root, "layers", task="supersense.next")
    assert not shown.exception
    profile = trace(plotly(shown, 1), "this run")
    expected = [planted("supersense.next", STEPS[-1], layer).value for layer in range(LAYERS)]
    assert profile["y"] == pytest.approx(expected)
    assert shown.select_slider(key="step").value == "newest"
    assert "highest at layer 6" in shown.get("plotly_chart")[1].proto.alt
    assert "readable is not used" in words(shown) and "n = 5,120 words" in words(shown)


def test_a_deep_link_restores_task_step_and_layer(small_root: Path, open_app: Opener) -> None:
    shown = open_app(small_root, "layers", run="fox", task="class.next", step="256", layer="2")
    cell = planted("class.next", 256, 2)
    assert shown.selectbox(key="task").value == "class.next"
    assert f"**{cell.value:.3f} bits per word** (95 % {cell.lo:.3f} to {cell.hi:.3f}" in words(shown)
    steps = trace(plotly(shown, 2), "layer 2")
    assert steps["y"] == pytest.approx([planted("class.next", step, 2).value for step in STEPS])


@pytest.mark.parametrize("url", [{"step": "257"}, {"layer": "99"}, {"task": "<img src=x>"}, {"run": "../../etc"}])
def test_a_link_to_what_is_not_there_falls_back(small_root: Path, url: dict[str, str], open_app: Opener) -> None:
    shown = open_app(small_root, "layers", **url)
    assert not shown.exception and not shown.error
    assert len(shown.get("plotly_chart")) == 3
    if "run" in url:
        assert "names a run that is not here" in words(shown)


def test_the_sliders_choose_the_cell_too(small_root: Path, open_app: Opener) -> None:
    shown = open_app(small_root, "layers", task="class.next")
    shown.select_slider(key="step").set_value("512")
    shown.select_slider(key="layer").set_value("3").run()
    assert f"**{planted('class.next', 512, 3).value:.3f} bits per word**" in words(shown)


def test_a_task_that_layer_zero_already_has_is_called_lexical(small_root: Path, open_app: Opener) -> None:
    for task in PLANTED:
        shown = open_app(small_root, "layers", task=task)
        assert ("Lexical: " in words(shown)) == task.startswith("class.current"), task


def test_looking_at_every_page_changes_no_byte_of_the_run(tmp_path: Path, open_app: Opener) -> None:
    run = make_run(tmp_path, "still", steps=STEPS[:12], tasks=("class.next",))
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path.suffix != ".db-shm"}
    for page in PAGES:
        assert not open_app(tmp_path, page).exception
    assert {path: path.read_bytes() for path in before} == before
    made = {path.name for path in run.path.rglob("*") if path.is_file() and path not in before}
    assert made <= {"run.db-shm", "run.db-wal"}  # SQLite's own, to read a log that another process may write


def test_a_run_copied_while_its_trainer_lived_can_be_read(tmp_path: Path, open_app: Opener) -> None:
    """The write-ahead log holds the newest rows; a plain copy of the folder takes it along."""
    from lab.records import Records

    run = make_run(tmp_path / "here", "alive", steps=())
    writer = Records.writer(run.database)
    segment = writer.new_segment(0, None, "0" * 64)
    writer.metrics(segment, 7, {"train/loss": 3.25})
    writer.flush()
    shutil.copytree(run.path, tmp_path / "there" / "alive", ignore=shutil.ignore_patterns("run.lock"))
    writer.close()
    shown = open_app(tmp_path / "there")
    assert not shown.exception
    assert shown.metric[1].value == "3.250"


def test_text_from_a_stranger_s_run_is_never_markdown(tmp_path: Path, open_app: Opener) -> None:
    hostile = "![x](http://evil.example/a.png) <script>alert(1)</script>"
    run = make_run(tmp_path, "stranger", steps=STEPS[:12], tasks=(hostile,))
    with sqlite3.connect(run.database) as database:
        database.execute("UPDATE metrics SET name = ? WHERE name = 'train/gradient_norm'", (hostile,))
    for page, url in (("layers", {}), ("training", {"more": hostile}), ("", {})):
        shown = open_app(tmp_path, page, **url)
        assert not shown.exception
        assert "evil" not in as_markdown(shown)


def test_a_link_restores_the_look_of_the_curves(small_root: Path, open_app: Opener) -> None:
    url = {"live": "false", "log": "true", "overtaken": "true", "smoothing": "0.4"}
    shown = open_app(small_root, "training", run="fox", **url)
    assert not shown.exception
    assert [shown.toggle(key=key).value for key in ("live", "log", "overtaken")] == [False, True, True]
    assert shown.slider(key="smoothing").value == 0.4
    other = open_app(small_root, "training", run="fox", smoothing="7", more="nothing of ours")
    assert not other.exception and len(other.get("vega_lite_chart")) == 5
