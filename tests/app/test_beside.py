"""Two steps or two runs side by side: differences as they must be, the same scales, and pages that say how they were made."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from streamlit.testing.v1 import AppTest

from app import beside, beside_figures, figures
from app.figures import Cell
from app.shimmer_rows import Gains, gains
from lab.checkpoint_format import name_of
from lab.run import Run
from tests.app.planted import LAYERS, STEPS, make_run, planted
from tests.app.planted_concepts import BITS, SE, SHA, make_concepts
from tests.app.test_views import words

Opener = Callable[..., AppTest]
SENTENCES = 400


def made_gains(mean: float, seed: int = 0, protocol: str = "p", layers: tuple[int, ...] = (0, 1, 2)) -> Gains:
    """What 400 sentences of ten words gave: a part that a sentence always gives, one of the checkpoint's own, and a mean."""
    words = np.full(SENTENCES, 10)
    lasting = np.random.default_rng(99).normal(0, 5, SENTENCES)
    own = np.random.default_rng(seed).normal(0, 0.5, (len(layers), SENTENCES))
    return Gains(protocol, None, layers, 10 * mean + lasting + own, words, np.arange(SENTENCES))


def write_gains(run: Run, step: int, name: str, found: Gains, concept: str | None = None) -> None:
    """A statistics file with one tracked name, as `train.snapshot_files` writes it, and a probe set to go by."""
    card = {"layers": list(found.layers)} | ({"concept": concept} if concept else {})
    about = {"step": step, "segment": 1, "protocol": found.protocol, "cards": {name: card}, "untestable": {}}
    tensors = {f"{name}/gain": found.gain.astype(np.float32), f"{name}/words": found.words.astype(np.int32)}
    run.statistics.mkdir(exist_ok=True)
    save_file(tensors, run.statistics / f"{name_of(step)}.safetensors", {"about": json.dumps(about)})
    documents = {"documents": [f"d{at}" for at in range(SENTENCES)]}
    (run.statistics / "probe_set.json").write_text(json.dumps(documents))


# ------------------------------------------------------------------------------------------------------------ differences


def test_a_paired_difference_is_that_of_the_means_and_as_narrow_as_what_is_not_shared() -> None:
    a, b = made_gains(0.2, seed=1), made_gains(0.3, seed=2)
    found = beside.paired(a, b)
    assert found is not None and found.paired and [one.layer for one in found.layers] == [0, 1, 2]
    for at, one in enumerate(found.layers):
        assert one.value == pytest.approx((b.gain[at] - a.gain[at]).sum() / 4000)
        spread = (b.gain[at] - a.gain[at]).std(ddof=1) / 10 / math.sqrt(SENTENCES)  # all sentences are of ten words
        assert one.hi - one.value == pytest.approx(1.96 * spread, rel=0.01)
        assert one.lo < 0.1 < one.hi  # unpaired, the part that sentences always give would make it ten times as wide


def test_words_that_are_not_the_same_are_not_paired() -> None:
    a = made_gains(0.2)
    other_words = Gains(a.protocol, None, a.layers, a.gain, a.words + 1, a.unit)
    assert beside.paired(a, other_words) is None
    assert beside.paired(a, made_gains(0.2, protocol="q")) is None
    assert beside.paired(a, made_gains(0.2, layers=(4, 5))) is None
    assert beside.paired(a, None) is None


def test_two_intervals_alone_give_the_interval_of_independent_sides() -> None:
    a, b = Cell(1, 3, 0.2, 0.1, 0.3, 50), Cell(2, 3, 0.5, 0.4, 0.7, 60)
    one = beside.apart(a, b)
    assert (one.layer, one.n) == (3, 50)
    assert (one.value, one.lo, one.hi) == pytest.approx((0.3, 0.3 - math.hypot(0.1, 0.1), 0.3 + math.hypot(0.2, 0.1)))


def test_an_interval_of_independent_sides_holds_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        values = generator.normal(0.2, 0.03), generator.normal(0.3, 0.01)
        sides = [Cell(0, 0, v, v - 1.96 * se, v + 1.96 * se, 9) for v, se in zip(values, (0.03, 0.01), strict=True)]
        one = beside.apart(*sides)
        held += one.lo <= 0.1 <= one.hi
    assert 0.935 < held / 2000 < 0.965


def test_gains_of_a_left_history_or_an_older_subspace_are_not_taken(tmp_path: Path) -> None:
    run = make_concepts(tmp_path, "fox")
    with run.records() as records:
        write_gains(run, 512, "concept.weather", made_gains(0.3, layers=(3,)), SHA)
        assert gains(run, records, 512, "concept.weather") is not None
        write_gains(run, 512, "concept.weather", made_gains(0.3, layers=(3,)), "9" * 64)  # found anew since
        assert gains(run, records, 512, "concept.weather") is None
        write_gains(run, 1050, "class.next", made_gains(0.3))  # segment 1 was left at step 1,000
        assert gains(run, records, 1050, "class.next") is None
        assert gains(run, records, 256, "class.next") is None  # no file


# ---------------------------------------------------------------------------------------------------------------- layers


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("two")
    make_run(root, "fox")
    run = make_run(root, "wolf", steps=STEPS[:9], tasks=("class.next",))
    write_gains(Run.open(root / "fox"), 16, "class.next", made_gains(0.2, layers=tuple(range(LAYERS))))
    write_gains(Run.open(root / "fox"), 512, "class.next", made_gains(0.3, seed=3, layers=tuple(range(LAYERS))))
    assert run.name == "wolf"
    return root


def test_two_runs_stand_side_by_side_on_one_scale_with_their_difference(two: Path, open_app: Opener) -> None:
    url = {"run": "fox", "task": "class.next", "step": "512", "layer": "3", "run2": "wolf", "step2": "64"}
    shown = open_app(two, "layers", **url)
    assert not shown.exception and not shown.error
    found = [json.loads(element.proto.spec) for element in shown.get("plotly_chart")]
    assert len(found) == 7
    scales = {(trace["zmin"], trace["zmax"]) for one in found for trace in one["data"] if trace["type"] == "heatmap"}
    assert len(scales) == 1
    assert found[1]["layout"]["yaxis"]["range"] == found[4]["layout"]["yaxis"]["range"]  # over layers, A and B
    assert found[2]["layout"]["xaxis"]["range"] == found[5]["layout"]["xaxis"]["range"]  # over steps
    points = found[6]["data"][0]
    expected = [planted("class.next", 64, at).value - planted("class.next", 512, at).value for at in range(LAYERS)]
    assert points["y"] == pytest.approx(expected)
    assert points["error_y"]["array"] == pytest.approx([math.hypot(0.03, 0.02)] * LAYERS)
    said = words(shown)
    assert f"**{expected[3]:+.3f} bits per word**" in said and "not paired" in said
    assert "as if the sides were independent" in said and "One run a side says nothing about another seed" in said
    assert shown.query_params["run2"] in ("wolf", ["wolf"]) and shown.query_params["step2"] in ("64", ["64"])


def test_two_steps_with_statistics_are_compared_word_by_word(two: Path, open_app: Opener) -> None:
    shown = open_app(two, "layers", run="fox", task="class.next", step="16", run2="fox", step2="512", layer="2")
    assert not shown.exception
    assert "taken word by word: both sides read the same n = 4,000 words" in words(shown)
    assert ", paired)" in words(shown)


def test_the_same_step_twice_and_a_run_of_another_depth_say_why_there_is_no_difference(
    two: Path, tmp_path: Path, open_app: Opener
) -> None:
    shown = open_app(two, "layers", run="fox", task="class.next", run2="fox")
    assert "the same step of the same run" in words(shown) and len(shown.get("plotly_chart")) == 6
    shown = open_app(two, "layers", run="fox", task="supersense.next", run2="wolf")
    assert not shown.exception and "no readings of this task" in words(shown)


@pytest.mark.parametrize("gone", ["no-such-run", "../../etc", "<img src=x>"])
def test_a_link_to_a_second_run_that_is_not_here_shows_one_side(two: Path, gone: str, open_app: Opener) -> None:
    shown = open_app(two, "layers", run="fox", task="class.next", run2=gone)
    assert not shown.exception and len(shown.get("plotly_chart")) == 3


def test_a_second_run_that_cannot_be_read_is_said_in_words(broken_root: Path, tmp_path: Path, open_app: Opener) -> None:
    shutil.copytree(broken_root, tmp_path / "runs")
    make_run(tmp_path / "runs", "well", steps=STEPS[:9], tasks=("class.next",))
    shown = open_app(tmp_path / "runs", "layers", run="well", run2="ruin")
    assert not shown.exception and shown.error[0].value == "This run cannot be shown."
    assert len(shown.get("plotly_chart")) == 3


def test_labels_of_a_shared_axis_do_not_touch() -> None:
    cells = [planted("class.next", step, 2) for step in (*STEPS, 1500)]
    long, small = (figures.over_steps(cells, 1500, 2), figures.over_steps(cells[:3], 2, 2))
    beside_figures.one_scale(long, small, steps=True)
    ticks = sorted(long.layout.xaxis.tickvals)
    left, right = long.layout.xaxis.range
    assert all(b - a >= 0.1 * (right - left) for a, b in pairwise(ticks))
    assert small.layout.xaxis.range == long.layout.xaxis.range


# -------------------------------------------------------------------------------------------------------------- concepts


@pytest.fixture(scope="module")
def concepts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("concepts")
    make_concepts(root, "fox")
    make_concepts(root, "wolf")
    return root


def test_a_concept_at_two_steps_has_both_readings_and_their_difference(concepts: Path, open_app: Opener) -> None:
    url = {"run": "fox", "concept": "weather", "run2": "fox", "step": "512", "step2": "8"}
    shown = open_app(concepts, "concepts", **url)
    assert not shown.exception and not shown.error
    assert "**-0.300 bits per word**" in words(shown) and "not paired" in words(shown)  # .30 at step 512, 0 at step 8
    half = 1.959964 * SE * math.sqrt(2)
    assert f"(95 % {-0.30 - half:+.3f} to {-0.30 + half:+.3f}" in words(shown)
    tracks = next(json.loads(e.proto.spec) for e in shown.get("plotly_chart") if e.proto.alt.startswith("Usable bits"))
    assert next(trace for trace in tracks["data"] if trace.get("name") == "A and B")["y"] == list(BITS)


def test_concepts_of_two_runs_have_their_cards_on_one_axis(concepts: Path, open_app: Opener) -> None:
    shown = open_app(concepts, "concepts", run="fox", concept="weather", run2="wolf", concept2="weather")
    assert not shown.exception and not shown.error
    axes = [
        json.loads(element.proto.spec)["layout"]["yaxis"]["range"]
        for element in shown.get("plotly_chart")
        if element.proto.alt.startswith(("A: Bits", "B: Bits"))
    ]
    assert len(axes) == 2 and axes[0] == axes[1]
    assert "Both cards are of one and the same subspace." in words(shown)
    bare = open_app(concepts, "concepts", run="fox", concept="weather", run2="wolf", concept2="bare")
    assert not bare.exception and "B has not been followed over checkpoints yet." in words(bare)
    assert "lab shimmer wolf --concept bare" in words(bare)
    ruin = open_app(concepts, "concepts", run="fox", concept="weather", run2="wolf", concept2="ruin")
    assert not ruin.exception and "beside it cannot be shown" in ruin.error[0].value
