"""`lab shimmer` and its figure: tables and JSON on stdout, one HTML file, refusals by name; names out of a run stay inert."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app import shimmer_figures
from app.cli_shimmer import to_text
from lab.config import RunConfig
from probes.concepts.states import STATES, life
from probes.concepts.track import Point, assembled
from tests.app.commands import lab
from train.loop import train
from train.session import start
from train.shimmer import Shimmering

STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
EVIL = "<img src=x onerror=alert(1)>\u202e"


def found(*series: tuple[str, list[float]]) -> dict[str, Any]:
    tracks = []
    for name, bits in series:
        se = [0.005] * len(bits)
        lived = life(STEPS, bits, se)
        points = [Point(*row) for row in zip(STEPS, bits, se, lived.states, strict=False)]
        tracks.append(assembled(name, 2, 400, points, lived))
    result = Shimmering("fox", STEPS, tuple(tracks), (math.nan,) * len(tracks), {"class.next": EVIL}, (6,), None)
    return result.to_dict()


FLICKERING = ("class.next", [0.0, 0.0, 0.2, 0.2, 0.0, 0.2, 0.2, 0.0, 0.2, 0.2, 0.2, 0.2])
JUMPING = ("concept.fox", [0.1] * 6 + [0.4] * 6)


def test_the_map_has_a_row_a_track_and_marks_where_lives_begin_and_end() -> None:
    data = found(FLICKERING, JUMPING)
    figure = shimmer_figures.heat_map(data["tracks"])
    heat, *marks = figure.data
    assert list(heat.z[0]) == FLICKERING[1] and list(heat.y) == [1, 0], "the first track is drawn at the top"
    assert [round(10**x - 1) for x in heat.x] == list(STEPS)
    assert heat.text[0][-1] == "~" and heat.text[1][-1] == "–"
    by_name = {trace.name: trace for trace in marks}
    births = by_name[shimmer_figures.MARKS["births"][1]]
    assert [round(10**x - 1) for x, y in zip(births.x, births.y, strict=True) if y > 1] == data["tracks"][0]["births"]
    changes = by_name[shimmer_figures.MARKS["changes"][1]]
    (change,) = (x for x, y in zip(changes.x, changes.y, strict=True) if y == 0)
    assert math.log10(17) < change < math.log10(33), "a level changes between two checkpoints"


def test_a_map_of_nothing_does_not_look_like_a_finding() -> None:
    figure = shimmer_figures.heat_map(found(("class.next", [0.001] * 12))["tracks"])
    assert figure.data[0].zmax >= 0.05 and len(figure.data) == 1


def test_every_state_has_a_letter_and_the_caption_says_what_is_not_shown() -> None:
    assert set(shimmer_figures.LETTERS) == set(STATES)
    data = found(FLICKERING, JUMPING)
    words = shimmer_figures.caption(data)
    assert "n = 400 words" in words and "not used" in words and "one run says nothing about another seed" in words
    assert "FLICKER: class.next @ 2; STABLE: concept.fox @ 2" in shimmer_figures.describe(data)


def test_names_out_of_a_run_are_inert() -> None:
    data = found((EVIL, [0.3] * 12))
    page = shimmer_figures.heat_map(data["tracks"]).to_json() + shimmer_figures.describe(data)
    assert "<img" not in page and "\u202e" not in page
    assert "\u202e" not in to_text(data)


def test_the_table_names_state_events_and_what_was_left_out() -> None:
    lines = to_text(found(FLICKERING, JUMPING)).splitlines()
    assert lines[0] == "12 checkpoints, steps 0 to 1,000"
    assert lines[2].split()[:3] == ["class.next", "2", "FLICKER"] and "0.200 ± 0.005" in lines[2]
    assert "32 (100%)" in lines[3] and lines[3].split()[2] == "STABLE"
    assert any("untestable" in line for line in lines) and any("left out" in line and "6" in line for line in lines)


@pytest.fixture(scope="module")
def runs(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    off = [f"{part}.every=0" for part in ("evaluation", "understanding", "probing")]
    short = ["train.steps=4", "optimizer.warmup_steps=1", "checkpoint.every=2", "checkpoint.log_spaced=false"]
    probed = ["probing.sentences=60", 'probing.tasks=["class.next"]', "probing.layers=[0, 2]"]
    root = tmp_path_factory.mktemp("runs")
    with start(tiny_config(*off, *short, *probed), root, "fox") as session:
        outcome = train(session)
        session.records.end_segment(session.segment, session.step, outcome.reason)
    return root


def test_a_run_without_live_visits_is_followed_over_its_checkpoints(runs: Path, tmp_path: Path) -> None:
    page = tmp_path / "shimmer.html"
    done = lab("shimmer", "fox", "--json", "--html", str(page), runs=runs)
    assert done.returncode == 0, done.stderr
    data = json.loads(done.stdout)
    assert data["steps"] == [0, 2, 4] and [(t["name"], t["layer"]) for t in data["tracks"]] == [
        ("class.next", 0),
        ("class.next", 2),
    ]
    written = page.read_text()
    assert "Shimmer of fox" in written and "usable per word" in written and 'id="shimmer"' in written
    table = lab("shimmer", "fox", "--task", "class.next", "--layer", "2", runs=runs)
    assert table.stdout.splitlines()[0] == "3 checkpoints, steps 0 to 4" and "100%" not in table.stdout


def test_what_there_is_not_is_refused_in_a_sentence(runs: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (("--task", "class.nxt"), "class.nxt"),
        (("--concept", "ghost"), "no concept 'ghost'"),
        (("--layer", "1"), "read at layers 0, 2"),
        (("--html", str(tmp_path / "no" / "x.html")), "there is no folder"),
    ):
        done = lab("shimmer", "fox", *arguments, runs=runs)
        assert done.returncode == 2 and words in done.stderr and done.stdout == "", arguments
