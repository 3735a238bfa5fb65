"""Text: the page shows what the server reads, in numbers; its figures are the trace's; its code makes them again."""

import html
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from plotly.colors import sample_colorscale
from streamlit.testing.v1 import AppTest

from app import strip_html, text_code, text_figures, text_readings
from app.text_figures import Point
from app.text_readings import STRENGTH
from app.views import tracing
from lab.concepts import Concept
from lab.run import Run
from tests.app.hostile import LABEL, TASK
from tests.app.serving import noted, served
from tests.app.test_views import as_markdown, words
from tests.made_runs import made_run
from train.probing import Bench

Opener = Callable[..., AppTest]
EVIL = "<img src=http://evil.example/a.png>"
TEXT = "The king saw the house in the morning."


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Run:
    """Two checkpoints, a probe set, and a concept with two classes."""
    run = made_run(tmp_path_factory.mktemp("text"), text=text_file)
    texts = text_file.read_text(encoding="utf8").split("\n\n")
    Bench.open(run, run.config.probing, run.tokenizer(), lambda: texts)
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(32, 2, generator=generator)).Q
    Concept(
        "farm", 1, basis, torch.zeros(32), torch.randn(2, 2, generator=generator), torch.zeros(2), ("no", "yes"),
        {"step": 8, "sha256": "x"}, run.tokenizer().sha256,
    ).save(run)  # fmt: skip
    return run


@pytest.fixture(scope="module")
def trace(run: Run) -> Any:
    with served(run.path) as (client, _):
        body = {"text": TEXT, "lens": "ridge", "top_k": 4, "attention": {"block": 1, "head": 2}}
        answer = client.post("/lab/v1/trace", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def serving(run: Run) -> Iterator[Run]:
    with noted(run):
        yield run


def drawn_words(page: AppTest) -> str:
    """What stands in blocks of HTML, as a person reads it."""
    return html.unescape("\n".join(block.proto.body for block in page.get("html")))


def maps(page: AppTest) -> list[dict[str, Any]]:
    return [json.loads(one.proto.spec) for one in page.get("plotly_chart")]


def flat(rows: Any) -> list[float]:
    return [value for row in rows for value in row]


# --------------------------------------------------------------------------------------------------------------- the page


def test_without_a_server_the_page_says_so_and_names_the_command(tmp_path: Path, open_app: Opener) -> None:
    run = made_run(tmp_path)
    shown = open_app(tmp_path, "text", run=run.name, text=TEXT)
    assert not shown.exception and not shown.error
    assert "No server answers" in words(shown) and f"lab serve {run.name}" in words(shown)
    assert shown.text_area(key="typed").value == TEXT


def test_a_link_restores_text_step_reading_and_cell(serving: Run, trace: Any, open_app: Opener) -> None:
    link = {
        "text": TEXT,
        "step": "8",
        "show": "probe",
        "task": "class.next",
        "class": "function",
        "layer": "1",
        "pos": "3",
    }
    shown = open_app(serving.path.parent, "text", run=serving.name, **link)
    assert not shown.exception and not shown.error
    drawn = maps(shown)[0]["data"]
    grid = text_readings.probe_grid(trace, "class.next", "function")
    assert flat(drawn[0]["z"]) == pytest.approx(flat(grid.values), abs=1e-4)
    assert "Layer 1, position 3" in words(shown) and "Probe class.next: function" in drawn_words(shown)
    for name, value in link.items():
        assert shown.query_params[name] in (value, [value])
    shown.session_state["map"] = {"selection": {"points": [{"customdata": [2, 5, "", "", ""]}]}}
    shown.run()
    assert "Layer 1, position 3" in words(shown)  # only a click of a person calls back


def test_a_class_of_a_stranger_s_probes_is_never_markdown(
    serving: Run, trace: Any, open_app: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = json.loads(json.dumps(trace))
    hostile["probes"] = {TASK: hostile["probes"]["class.next"] | {"classes": [LABEL, "content"]}}
    hostile["lens"]["name"] += LABEL
    monkeypatch.setattr(tracing, "trace", lambda *_: hostile)
    for show, seen in (("probe", {"t31", "t32"}), ("lens", {"t32"})):
        shown = open_app(
            serving.path.parent, "text", run=serving.name, text=TEXT, show=show, beside="0", history="true"
        )
        assert not shown.exception and not shown.error
        assert "evil" not in as_markdown(shown)
        assert seen <= {name for name in seen if name in drawn_words(shown)}


def test_steps_stand_side_by_side_and_a_cell_has_its_history_and_a_head_its_pattern(
    serving: Run, trace: Any, open_app: Opener
) -> None:
    link = {"text": TEXT, "step": "8", "show": "lens", "beside": "0", "history": "true", "head": "1.2", "layer": "2"}
    shown = open_app(serving.path.parent, "text", run=serving.name, **link)
    assert not shown.exception and not shown.error
    first, second, over_steps, attention = maps(shown)
    grid = text_readings.lens_grid(trace)
    assert flat(first["data"][0]["z"]) == pytest.approx(flat(grid.values), abs=1e-4)
    assert second["data"][0]["z"] != first["data"][0]["z"]
    assert first["data"][0]["zmax"] == second["data"][0]["zmax"] == 1
    line = over_steps["data"][0]
    last = len(trace["tokens"]) - 1
    assert [point[0] for point in line["customdata"]] == [0, 8]
    assert line["y"] == pytest.approx([second["data"][0]["z"][2][last], first["data"][0]["z"][2][last]])
    for query, row in enumerate(attention["data"][0]["z"]):
        assert row[: query + 1] == pytest.approx(trace["attention"][query][: query + 1])
        assert row[query + 1 :] == [None] * (last - query)
    top = [one["p"] for one in trace["lens"]["top"][2][last]]
    assert shown.dataframe[0].value["Probability"].tolist()[:4] == pytest.approx(top)


def test_a_text_that_is_too_long_is_refused_in_words_and_kept_out_of_the_link(serving: Run, open_app: Opener) -> None:
    shown = open_app(serving.path.parent, "text", run=serving.name)
    shown.text_area(key="typed").input("market " * 200)
    next(one for one in shown.button if one.label == "Read it").click()
    shown.run()
    assert not shown.exception
    assert "did not answer" in shown.error[0].value and "Shorten it" in words(shown)
    assert "text" not in shown.query_params


# ------------------------------------------------------------------------------------------------------- data and figures


def test_the_copied_code_makes_the_shown_numbers_again(run: Run, trace: Any) -> None:
    layer, pos, head = 1, 3, (1, 2)
    probe = text_readings.probe_grid(trace, "class.current", "content").values[layer][pos]
    strength = text_readings.concept_grid(trace, "farm", STRENGTH).values[layer][pos]
    score = text_readings.concept_grid(trace, "farm", "yes").values[layer][pos]
    for reading, value in (
        (("probe", "class.current", "content"), probe),
        (("concept", "farm", STRENGTH), strength),
        (("concept", "farm", "yes"), score),
    ):
        names = _ran(run, layer, pos, True, reading, head)
        assert float(names["reading"][layer, pos]) == pytest.approx(value, rel=1e-3, abs=2e-4)
        assert names["pattern"][pos].tolist() == pytest.approx(trace["attention"][pos], abs=2e-4)
    names = _ran(run, layer, pos, True, ("lens", "", ""), None)
    shown = trace["lens"]["top"][layer][pos]
    assert [word for word, _ in names["top"]] == [one["text"] for one in shown]
    assert [share for _, share in names["top"]] == pytest.approx([one["p"] for one in shown], abs=2e-4)
    assert names["p_next"] == pytest.approx(trace["lens"]["next"][layer][pos], abs=2e-4)
    raw = _ran(run, 2, pos, False, ("next", "", ""), None)
    assert raw["p_next"] == pytest.approx(float(raw["logits"][0, pos].softmax(-1)[raw["ids"][pos + 1]]), abs=1e-5)


def _ran(run: Run, layer: int, pos: int, ridge: bool, reading: tuple[str, str, str], head: Any) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(text_code.python(run.path, 8, TEXT, layer, pos, ridge, reading, 4, head), names)
    return names


def test_tokens_and_a_start_give_the_same_readings_as_the_text_they_are_of(run: Run, trace: Any) -> None:
    ids, start = [one["id"] for one in trace["tokens"]], 5
    with served(run.path) as (client, _):
        found = client.post("/lab/v1/trace", json={"tokens": ids, "start": start, "top_k": 4}).json()
        wrongs: list[dict[str, Any]] = [{"tokens": ids, "text": TEXT}, {}, {"tokens": []}, {"tokens": [10**6]}]
        for wrong in [*wrongs, {"tokens": [-1]}, {"tokens": ids, "start": len(ids)}]:
            assert client.post("/lab/v1/trace", json=wrong).status_code == 400, wrong
        bare = client.post("/lab/v1/trace", json={"tokens": ids, "lens": "none", "probes": False}).json()
    assert found["start"] == start and found["tokens"] == trace["tokens"][start:]
    assert found["lens"]["top"][2] == trace["lens"]["top"][2][start:]
    assert found["lens"]["next"][1] == trace["lens"]["next"][1][start:] and found["lens"]["next"][1][-1] is None
    for layer in range(3):
        shares = trace["probes"]["class.next"]["probability"][layer][start:]
        assert torch.tensor(found["probes"]["class.next"]["probability"][layer]).allclose(
            torch.tensor(shares), atol=1e-4
        )
    assert "lens" not in bare and "probes" not in bare and set(bare["concepts"]) == {"farm"}


def test_the_probability_of_the_token_that_comes_is_the_models_own_at_the_last_layer(run: Run, trace: Any) -> None:
    ids = [one["id"] for one in trace["tokens"]]
    with torch.no_grad():
        shares = run.model(8)(torch.tensor([ids]))[0].softmax(-1)
    truth = [float(shares[at, id]) for at, id in enumerate(ids[1:])]
    assert trace["lens"]["next"][-1][:-1] == pytest.approx(truth, abs=2e-5)


def test_every_cell_of_the_map_answers_with_its_layer_position_and_value(trace: Any) -> None:
    grid, labels = text_readings.lens_grid(trace), text_readings.labels(trace)
    figure = text_figures.heat_map(grid, labels, 1, 2)
    overlay = figure.data[-1]
    assert len(overlay.customdata) == len(labels) * 3
    for layer, pos, value, label, word in overlay.customdata:
        assert value == f"{grid.values[layer][pos]:.3f}" and html.unescape(label) == labels[pos][:48]
        assert grid.words is not None and html.unescape(word) == f"{grid.words[layer][pos]}: "
    frame = figure.layout.shapes[0]
    assert (frame.x0, frame.x1, frame.y0, frame.y1) == (1.5, 2.5, 0.5, 1.5)


def luminance(colour: str) -> float:
    """Relative, of "rgb(r, g, b)" (WCAG 2.2)."""
    channels = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_word_of_the_map_is_written_once_in_ink_that_can_be_read() -> None:
    values = [[at / 50 for at in range(18)], [1 - at / 50 for at in range(17)] + [None]]
    grid = text_readings.Grid("t", "u", values, "c", [["w"] * 18] * 2)
    written = [trace for trace in text_figures.heat_map(grid, ["a"] * 18, 0, 0).data if trace.text]
    assert [trace.textfont.color for trace in written] == ["white", "black"]
    for row, cells in enumerate(values):
        for column, value in enumerate(cells):
            inks = [trace.textfont.color for trace in written if trace.text[row][column]]
            assert len(inks) == (value is not None)
            assert inks == [trace.textfont.color for trace in written if trace.z[row][column] is not None]
            for ink in inks:
                colour = sample_colorscale("Cividis", [value / grid.highest], colortype="rgb")[0]
                low, high = sorted((luminance(colour.replace(".0", "")), 1.0 if ink == "white" else 0.0))
                assert (high + 0.05) / (low + 0.05) >= 4.5


def test_a_hostile_token_is_text_in_strip_and_figure() -> None:
    grid = text_readings.Grid("t", "u", [[0.5, None]], "c", [[EVIL, EVIL]])
    strip = strip_html.strip([EVIL, "\u202e"], grid.values[0], 1.0, 0)
    assert "<img" not in strip and "&lt;img" in strip and "\u202e" not in strip and "no value" in strip
    figure = json.dumps(json.loads(text_figures.heat_map(grid, [EVIL, "b"], 0, 0).to_json()))
    history = json.dumps(json.loads(text_figures.history([Point(0, 0.5, EVIL), Point(8, None)], grid, 0).to_json()))
    assert "<img" not in figure + history


def test_few_steps_hold_the_first_the_last_and_the_chosen_one() -> None:
    steps = [0, *(2**power for power in range(12))]
    for chosen in steps:
        found = text_readings.few(steps, chosen, 6)
        assert (
            len(found) <= 6 and found[0] == 0 and found[-1] == 2048 and chosen in found and found == sorted(set(found))
        )
    assert text_readings.few([5], 5, 6) == [5]


def test_what_cannot_be_read_is_said_once(open_app: Opener, tmp_path: Path) -> None:
    run = made_run(tmp_path)
    with noted(run):
        shown = open_app(tmp_path, "text", run=run.name, text="the dog")
    assert not shown.exception and not shown.error
    assert words(shown).count("lab probe") == 1 and "logit lens" in drawn_words(shown)
