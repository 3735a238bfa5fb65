"""What a figure says is what was stored; nothing is drawn that is not known."""

import json
import math
import subprocess
import sys
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as some

from app import curves, figures
from app.figures import Cell
from app.shimmer_rows import ENOUGH_DOCUMENTS

CELLS = [
    Cell(step, layer, 0.1 * layer + step / 1e4, 0.1 * layer - 0.05, 0.1 * layer + 0.2, 900, 0.02, 0)
    for step in (0, 1, 2, 4, 512, 1000)
    for layer in range(4)
]


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("ground", ["#ffffff", "#0e1117"])
@pytest.mark.parametrize("colour", [*figures.OKABE_ITO, figures.GREY])
def test_every_line_colour_has_three_to_one_on_light_and_on_dark_ground(colour: str, ground: str) -> None:
    light, dark = sorted((luminance(colour), luminance(ground)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3


def test_each_cell_of_the_heat_map_has_a_marker_that_carries_its_own_numbers_as_a_list() -> None:
    map_, markers = figures.heat_map(CELLS, 4, 2).data
    assert [list(row)[5] for row in map_.z] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    for x, y, data in zip(markers.x, markers.y, markers.customdata, strict=True):
        assert isinstance(data, list)
        assert map_.z[y][x] == data[2]
        assert (sorted({c.step for c in CELLS})[x], y) == (data[0], data[1])


def test_the_chosen_cell_is_framed_and_a_step_that_has_no_reading_is_not() -> None:
    frame = figures.heat_map(CELLS, 4, 2).layout.shapes[0]
    assert (frame.x0, frame.x1, frame.y0, frame.y1) == (2.5, 3.5, 1.5, 2.5)
    assert not figures.heat_map(CELLS, 3, 2).layout.shapes


def test_a_missing_cell_stays_empty_rather_than_zero() -> None:
    values = figures.heat_map([c for c in CELLS if (c.step, c.layer) != (4, 2)], 4, 1).data[0].z
    assert values[2][3] is None


def test_a_map_of_noise_around_zero_does_not_use_the_whole_colour_scale() -> None:
    noise = [Cell(0, layer, 0.001 * (-1) ** layer, -0.01, 0.01, 10) for layer in range(4)]
    assert figures.heat_map(noise, 0, 0).data[0].zmax == 0.05


def test_the_profile_shows_band_twin_and_layer_zero() -> None:
    figure = figures.over_layers(CELLS, 4, 2)
    drawn = {trace.name: trace for trace in figure.data if trace.showlegend is not False}
    assert set(drawn) == {"95 % interval", "this run", "random-initialisation twin", "layer 0 (embedding)"}
    assert list(drawn["this run"].y) == pytest.approx([0.0004, 0.1004, 0.2004, 0.3004])
    assert list(drawn["95 % interval"].y) == pytest.approx([-0.05, 0.05, 0.15, 0.25])
    assert set(drawn["layer 0 (embedding)"].y) == {0.0004}


def test_without_a_twin_none_is_drawn() -> None:
    alone = [Cell(0, layer, 0.1, 0.0, 0.2, 10) for layer in range(3)]
    assert "random-initialisation twin" not in {trace.name for trace in figures.over_layers(alone, 0, 1).data}


def test_the_line_over_steps_breaks_where_the_regime_changes() -> None:
    two = [Cell(step, 0, 0.1, 0.0, 0.2, 10, regime=step // 4) for step in (1, 2, 4, 5)]
    line = next(trace for trace in figures.over_steps(two, 1, 0).data if trace.name == "layer 0")
    assert list(line.y) == [0.1, 0.1, None, 0.1, 0.1]


def test_a_number_that_is_not_finite_is_not_drawn() -> None:
    broken = [Cell(0, 0, math.nan, math.nan, math.inf, 0), Cell(0, 1, 0.2, 0.1, 0.3, 10)]
    assert figures.heat_map(broken, 0, 0).data[0].z[0][0] is None
    json.loads(figures.over_layers(broken, 0, 0).to_json())
    assert "nan" not in figures.describe("class.next", broken, 0)


def test_lexical_means_that_layer_zero_already_has_nine_tenths() -> None:
    def profile(zero: float, best: float) -> list[Cell]:
        return [Cell(9, 0, zero, zero, zero, 10), Cell(9, 1, best, best, best, 10)]

    assert figures.is_lexical(profile(0.85, 0.88))
    assert not figures.is_lexical(profile(0.5, 0.88))
    assert not figures.is_lexical(profile(0.0, 0.0))
    assert not figures.is_lexical([])


def test_the_caption_states_reading_unit_n_step_convention_and_limit() -> None:
    words = figures.caption("class.next", CELLS, 1000)
    for part in ("decode", "bits per word", "n = 900", "step 1,000", "before the final norm", "readable is not used"):
        assert part in words
    assert f"over documents where there are {ENOUGH_DOCUMENTS} or more, else over sentences" in words


@given(some.lists(some.integers(0, 10**6), min_size=1, max_size=300, unique=True))
def test_at_most_fourteen_tick_labels_first_and_last_among_them(numbers: list[int]) -> None:
    kept = figures.thin(sorted(numbers))
    assert len(kept) <= 14 and kept[0] == min(numbers) and kept[-1] == max(numbers)
    assert all(a < b for a, b in pairwise(kept))


def test_smoothing_of_a_constant_is_that_constant_and_zero_weight_changes_nothing() -> None:
    assert curves.smooth([2.0] * 5, 0.9) == pytest.approx([2.0] * 5)
    assert curves.smooth([1.0, 5.0, math.nan], 0.0)[:2] == [1.0, 5.0]


def test_the_specification_does_not_depend_on_the_data_so_that_a_refresh_keeps_the_zoom() -> None:
    spec = json.dumps(curves.specification("train/loss", True, False, 200, True, True))
    assert "datasets" not in spec and '"values"' not in spec and '"domain"' not in spec


def test_rows_keep_raw_beside_smooth_and_mark_resumes() -> None:
    table = curves.rows([(1, 0, 4.0), (1, 1, 2.0), (2, 2, 2.0)], resumes=[2], overtaken=[(1, 2, 9.0)], weight=0.5)
    assert table["kind"] == ["curve"] * 3 + ["overtaken", "resume"]
    assert table["raw"][:3] == [4.0, 2.0, 2.0] and table["smooth"][1] == pytest.approx(8 / 3)
    assert table["segment"][:3] == ["segment 1", "segment 1", "segment 2"]


def test_a_logarithmic_curve_leaves_out_zero() -> None:
    assert curves.rows([(1, 0, 0.0), (1, 1, 1.0)], log=True)["raw"] == [None, 1.0]


def test_nothing_that_the_app_imports_loads_torch() -> None:
    names = "app.main, app.launch, app.views.home, app.views.training, app.views.layers, lab.config"
    code = f"import sys, {names}; sys.exit(' '.join(m for m in ('torch', 'transformer_lens') if m in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]
