"""The notebook runs from top to bottom in a fresh process, stays short, and is committed with what it showed.

Its code is read from the JSON, so that the project needs no Jupyter. Training is cut to a few steps.
"""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "notebooks" / "first_steps.ipynb"
TEXT = FILE.read_text(encoding="utf8")
CELLS: list[dict[str, Any]] = json.loads(TEXT)["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_it_trains_hooks_probes_and_plots_in_under_40_lines() -> None:
    lines = [line for source in CODE for line in source.splitlines() if line.strip()]
    assert len(lines) < 40
    headings = re.findall(r"^## (\w+)", "\n".join("".join(c["source"]) for c in CELLS), flags=re.MULTILINE)
    assert headings == ["Train", "Hook", "Probe", "Plot"]


def test_every_code_cell_was_run_in_order_and_kept_its_output() -> None:
    cells = [cell for cell in CELLS if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell["outputs"] for cell in cells)
    kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    assert "error" not in kinds
    kind = "application/vnd.plotly.v1+json"
    (figure,) = [o["data"][kind] for c in cells for o in c["outputs"] if kind in o.get("data", {})]
    names = {trace.get("name") for trace in figure["data"]}
    assert names >= {"this run", "random-initialisation twin", "layer 0 (embedding)"}


def test_what_it_showed_is_small_and_names_no_machine() -> None:
    assert len(TEXT.encode()) < 300_000
    outputs = json.dumps([cell.get("outputs", []) for cell in CELLS])
    assert not re.search(r"""(?:^|[\s"'(])(?:/\w+/\w+|~/|[A-Z]:\\\\)""", outputs), "an absolute path"
    assert not any(o.get("name") == "stderr" for c in CELLS for o in c.get("outputs", []))


def showing(source: str) -> str:
    """The cell, printing the JSON of what its last line is; Jupyter would show that."""
    *before, last = ast.parse(source).body
    assert isinstance(last, ast.Expr), "every cell ends in something to look at"
    shown = f"print(json.dumps({ast.unparse(last)}, default=lambda value: value.to_plotly_json()))"
    return "\n".join([*map(ast.unparse, before), shown])


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> list[Any]:
    """What each code cell shows, run in one fresh process on twenty steps and a small text."""
    here = tmp_path_factory.mktemp("notebook")
    small = [
        "model.d_vocab=400",
        f'data.sources=[{{name="story", kind="text", path="{text_file}"}}]',
        "data.phases=[{from_step=0, weights={story=1.0}}]",
        "data.validation_share=0.1",
    ]
    cells = []
    for source in CODE:
        source = re.sub(r"^STEPS = \d+$", "STEPS = 20", source, flags=re.MULTILINE)
        source = re.sub(r'"probing\.sentences=\d+"\]', f'"probing.sentences=60", *{small!r}]', source)
        cells.append(showing(source))
    program = "\n".join(["import json", *cells])
    assert "STEPS = 20" in program and "story" in program, "what this test shortens is no longer there"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("LAB_RUNS", None)
    done = subprocess.run([sys.executable, "-c", program], cwd=here, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert [entry.name for entry in here.iterdir()] == ["runs"], "it writes runs and nothing else"
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_its_cells_run_from_top_to_bottom_in_a_fresh_process(ran: list[Any]) -> None:
    trained, costs, profile, figure = ran
    assert (trained["outcome"], trained["step"]) == ("finished", 20)
    assert len(costs) == 8
    assert any(costs.values()), "no edit changed the loss"
    assert "at step 20" in profile[0] and "class.next" in profile[1]
    assert len(profile) == 3 + 3, "a line for each of layers 0, 1 and 2"
    names = {trace.get("name") for trace in figure["data"]}
    assert names >= {"this run", "random-initialisation twin", "layer 0 (embedding)"}
