"""`lab plan`: the table, what fits, the flags, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.app.commands import lab


def plan(tmp_path: Path, *words: str) -> Any:
    done = lab("plan", *words, "--json", runs=tmp_path)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_items_add_up_and_nothing_is_made(tmp_path: Path) -> None:
    found = plan(tmp_path, "--preset", "laptop")
    assert sum(found["items"].values()) == found["peak"] == found["instants"][found["peak_at"]]
    assert found["needed"] == found["peak"] + found["reserve"] and found["fits"]
    assert found["peak"] == max(found["instants"].values())
    done = lab("plan", "--preset", "laptop", runs=tmp_path)
    assert done.returncode == 0 and not done.stderr and not list(tmp_path.iterdir())
    for item, size in found["items"].items():
        (row,) = [line for line in done.stdout.splitlines() if line.startswith(f"| {item} ")]
        assert f"{size / 1e6:,.1f} |" in row
    assert "It fits 8.00 GB." in done.stdout


def test_the_flags_make_what_did_not_fit_fit(tmp_path: Path) -> None:
    words = ["--preset", "8gb", "--memory", "5GB"]
    before = plan(tmp_path, *words)
    assert not before["fits"] and before["device"] == "cuda" and before["products"] == "bfloat16"
    flags = [word for flag in before["flags"] for word in flag.split(" ", 1)]
    after = plan(tmp_path, *words, *flags)
    assert after["fits"] and not after["flags"]
    assert after["configured"]["batch"] * after["configured"]["accumulation"] == 64
    none = plan(tmp_path, *words[:-1], "1GB")
    assert not none["flags"] and none["largest"]["batch"] == 0 and not none["fits"]
    said = lab("plan", *words[:-1], "1GB", runs=tmp_path).stdout
    assert "It does not fit 1.00 GB." in said and "Not even one sequence" in said


def test_a_file_and_the_layer_of_what_is_frozen_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('preset = "tiny"\n[[freeze.concepts]]\nconcept = "wood"\n')
    low, high = (plan(tmp_path, "--config", str(file), "--layer", layer)["items"] for layer in ("0", "2"))
    assert 0 < low["frozen lower copies"] < high["frozen lower copies"]
    assert plan(tmp_path, "--config", str(file))["items"] == high  # the last layer where none is named


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--memory", "much"], "'much': is no amount of memory. Write 8GB"),
        (["--device", "tpu"], "--device 'tpu' is none. Use cpu, cuda, mps"),
        (["--layer", "9", "--preset", "tiny"], "the model has layers 0..2"),
        (["--preset", "huge"], "Presets are"),
        (["--set", "model.d_model=65"], "not divisible"),
        (["--config", "nowhere.toml"], "no such configuration file"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_a_sentence(tmp_path: Path, words: list[str], said: str) -> None:
    done = lab("plan", *words, runs=tmp_path)
    assert done.returncode == 2 and said in done.stderr and not done.stdout
