"""Imported weights train on like any other run, in their own tokens, and the reference they began as stays."""

import json
from pathlib import Path

import pytest
import torch

from lab.checkpoint import list_checkpoints
from lab.exports import export
from lab.hf_tokenizer import HFTokenizer
from lab.imports import import_run
from lab.run import Run
from tests.made_runs import made_run
from train.__main__ import run_again
from train.journal import write_now
from train.probing import NoReadings, probe_run, stored_profiles


def _guest(root: Path, text: Path, *more: str, n_ctx: int = 64) -> Run:
    """A run of weights whose tokenizer is not the lab's, as far as the folder shows."""
    folder = export(made_run(root, n_ctx=n_ctx), "hf", out=root / "folder")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["lab_sha256"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    data = [
        f'data.sources=[{{name="story", kind="text", path="{text}"}}]',
        "data.phases=[{from_step=0, weights={story=1.0}}]",
        "data.validation_share=0.1",
    ]
    small = ["train.steps=12", "optimizer.warmup_steps=2", "train.threads=1", "probing.every=0", "checkpoint.every=6"]
    return import_run(
        str(folder), "guest", root, overrides=[*data, *small, "evaluation.every=6", "evaluation.tokens=500", *more]
    )


def test_imported_weights_train_on_from_where_they_were(tmp_path: Path, text_file: Path) -> None:
    run = _guest(tmp_path, text_file)
    before = run.model(0).state_dict()
    assert isinstance(run.tokenizer(), HFTokenizer)
    run, outcome = run_again(run)
    assert outcome.exit_code == 0
    assert [info.step for info in list_checkpoints(run.checkpoints_folder)] == [0, 1, 2, 4, 6, 8, 12]
    after, first = run.model().state_dict(), run.model(0).state_dict()
    assert all(torch.equal(first[name], before[name]) for name in before)
    moved = float((after["embed.W_E"] - before["embed.W_E"]).abs().max())
    assert 0 < moved < 0.1
    with run.records() as records:
        losses = records.series("train/loss")
        assert [step for _, step, _ in losses] == list(range(1, 13))
        assert [piece[:2] for piece in records.lineage()] == [(2, 0)]
        assert [step for _, step, _ in records.series("validation/loss")] == [0, 6, 12]  # step 0 is the reference
    assert run.manifest["data"]["tokenizer"] == run.tokenizer().sha256


def test_an_imported_run_that_was_trained_resumes_as_any_other(tmp_path: Path, text_file: Path) -> None:
    run, _ = run_again(_guest(tmp_path, text_file))
    run, outcome = run_again(run, extend_to=14)
    assert outcome.exit_code == 0
    assert run.checkpoint_info().step == 14


def test_an_informed_entry_of_weights_that_nobody_probed_probes_them_first(tmp_path: Path, text_file: Path) -> None:
    probing = ("probing.every=100", "probing.sentences=60", "probing.tasks=['class.next']")
    run = _guest(tmp_path, text_file, *probing, n_ctx=512)
    with pytest.raises(NoReadings):
        stored_profiles(run)
    (entry,) = write_now(run, kinds=["informed"])
    assert "bits per word, at layer" in entry["prompt"]
    recorded, again = (found.profiles["class.next"].value for found in (stored_profiles(run), probe_run(run, 0)))
    assert recorded == again
    assert write_now(run, kinds=["informed"])[0]["prompt"] == entry["prompt"]
