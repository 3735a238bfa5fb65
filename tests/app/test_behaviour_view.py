"""The Behaviour view's figures and readers: every number with its interval, strangers' files harmless, commands named."""

import json
from pathlib import Path
from typing import Any

import pytest

from app import behaviour_reports, contrast_figures
from app.behaviour import Seen
from app.behaviour_reports import batteries, ladders, report
from app.interventions import beside
from lab.config import load_config
from lab.records import Episode, Records
from lab.run import Run
from tests.app.commands import lab
from tests.made_runs import made_run

RATE = {"count": 40, "checks": 400, "value": 0.1, "lo": 0.9, "hi": 0.99}  # its interval is a lie, and is computed anew


def contrast(pair: str = "<b>gender</b>", verdict: str = "confirmed") -> dict[str, Any]:
    return {
        "counts": {"pair": pair, "first": RATE | {"count": 90}, "second": RATE},
        "sign": 1,
        "gap": {"value": 0.125, "lo": 0.06, "hi": 0.19},
        "verdict": verdict,
        "text": "x",
    }


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = made_run(tmp_path)
    with Records.writer(made.database) as records:
        data = {"version": 1, "reference": 0, "competence": RATE, "contrasts": [contrast(), contrast("age", "none"), 7]}
        records.add_now(Episode(segment=1, step=8, kind="contrasts", regime=None, data=data))
    made.evidence.mkdir(exist_ok=True)
    return made


def test_a_battery_is_read_with_its_own_intervals_and_names_are_no_markup(run: Run) -> None:
    with run.records() as records:
        (found,) = batteries(records, run.evidence)
    assert [one.pair for one in found.gaps] == ["<b>gender</b>", "age"] and found.step == 8
    assert found.gaps[0].second.lo < 0.1 < found.gaps[0].second.hi
    figure = contrast_figures.gaps(found)
    assert "<b>" not in str(figure.layout.yaxis.ticktext) and figure.data[0].error_x.array[0] > 0
    assert "gender" in contrast_figures.describe_gaps(found) and contrast_figures.power(found) is None


def test_the_power_of_an_offline_battery_is_drawn_with_intervals(run: Run) -> None:
    power = [{"base": 0.1, "gap": gap, "per_arm": 400, "critical": RATE, "alert": RATE} for gap in (0.1, 0.2)]
    content = {"step": 12, "contrasts": [contrast()], "power": [*power, "no"]}
    (run.evidence / "report-contrasts.json").write_text(json.dumps(content))
    with run.records() as records:
        newest = batteries(records, run.evidence)[-1]
    assert newest.step == 12 and len(newest.power) == 2
    figure = contrast_figures.power(newest)
    assert figure is not None and list(figure.data[0].x) == [10, 20]


def test_a_ladder_shows_before_and_after_and_a_stranger_s_file_breaks_nothing(run: Run) -> None:
    rung = {
        "verdict": "not found",
        "before": RATE,
        "after": RATE | {"count": 3},
        "beyond": {"value": 0, "lo": -1, "hi": 1},
    }
    good = {"source": "philosophy", "introduced": 500, "steps": [500, 900], "rung": "learned", "text": "said"}
    good |= {"learned": {"verdict": "found", "difference": {"value": 0.2, "lo": 0.1, "hi": 0.3}}, "surfaced": rung}
    (run.evidence / "surfacing-philosophy.json").write_text(json.dumps(good | {"elicited": None}))
    for name, content in (
        ("a", "[" * 5000),
        ("b", "7"),
        ("c", '{"steps": "no"}'),
        ("d", '{"steps": [1, {}], "learned": 3}'),
    ):
        (run.evidence / f"surfacing-{name}.json").write_text(content)
    found = ladders(run.evidence)
    (one,) = [ladder for ladder in found if ladder.source == "philosophy"]
    assert [step.name for step in one.rungs] == ["learned", "surfaced"] and one.steps == (500, 900)
    figure = contrast_figures.rungs(one)
    assert figure is not None and [trace.name for trace in figure.data] == ["before, step 500", "after, step 900"]
    assert all(contrast_figures.rungs(ladder) is None for ladder in found if ladder is not one)


def test_files_that_are_too_large_or_links_count_as_not_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    file = run.evidence / "report-motifs.json"
    file.write_text('{"motifs": []}')
    assert report(file) == {"motifs": []}
    (run.evidence / "link.json").symlink_to(file)
    monkeypatch.setattr(behaviour_reports, "LARGEST", 3)
    assert report(file) == {} == report(run.evidence / "link.json") == report(run.evidence / "none.json")


def test_markers_stand_at_their_steps_and_those_asked_for_are_hollow() -> None:
    said = ["marker pause, not asked for by the prompt", "marker pause, asked for by the prompt"]
    seen = [
        Seen(n, 10 * n, "info", "markers", "markers.pause", "1", text, 1.0, None, None) for n, text in enumerate(said)
    ]
    figure = contrast_figures.markers(seen)
    assert figure is not None and list(figure.data[0].marker.symbol) == ["circle", "circle-open"]
    assert contrast_figures.markers([]) is None


def test_the_page_shows_what_is_there_and_names_the_commands_for_what_is_not(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streamlit.testing.v1 import AppTest

    monkeypatch.setenv("LAB_RUNS", str(run.path.parent))

    def script() -> None:
        from app import header
        from app.views import behaviour

        behaviour.page(header.show())

    card = {name: RATE for name in ("recall", "precision", "false_alarms", "firing")} | {"detector": "<b>hostile word"}
    (run.evidence / "report-stereotypes.json").write_text(json.dumps({"cards": [card, 7]}))
    page = AppTest.from_function(script, default_timeout=60).run()
    assert not page.exception
    assert "Detectors" in {one.value for one in page.subheader}
    assert {"Contrasts", "Markers", "Surfacing", "Motifs"} <= {one.value for one in page.subheader}
    commands = " ".join(one.value for one in page.code)
    assert all(f"lab report {verb} planted" in commands for verb in ("markers", "surfacing", "motifs"))
    assert "lab report contrasts" not in commands


def test_a_report_without_words_says_what_to_run(run: Run) -> None:
    done = lab("report", "markers", "planted", runs=run.path.parent)
    assert done.returncode == 2 and "lab selfplay planted" in done.stderr


def branch_of(root: Path, name: str, weights: str, *settings: str) -> Run:
    made = made_run(root, name)
    made.update_config(load_config(file=made.path / "config.toml", overrides=settings))
    made.update_manifest(branch={"kind": "branch", "parent": "owl", "step": 4, "weights_sha256": weights})
    return made


def test_a_remedy_stands_beside_those_that_went_on_from_the_same_weights(tmp_path: Path) -> None:
    acting = branch_of(tmp_path, "cured", "a" * 64, "remedy.every=1")
    branch_of(tmp_path, "twin", "a" * 64)
    branch_of(tmp_path, "other", "b" * 64, "remedy.every=1")
    with Records.writer(acting.database) as records:
        records.metrics(1, 8, {"remedy/replies": 40.0, "remedy/looping_replies": 6.0})
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "manifest.json").write_text('{"branch": [1]}')
    cured, twin = beside(acting)
    assert (cured.name, cured.acts, twin.name, twin.acts) == ("cured", ("remedy",), "twin", ())
    assert cured.step == twin.step == 8 and cured.bits_per_byte == pytest.approx(2.92)
    assert cured.looping is not None and (cured.looping.count, cured.looping.checks) == (6, 40) and twin.looping is None
    assert beside(made_run(tmp_path, "plain")) == []
