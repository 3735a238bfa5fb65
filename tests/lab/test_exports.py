"""Every reader of an exported checkpoint sees what our model computes."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from lab.checkpoint import list_checkpoints
from lab.exports import BadExport, export
from lab.generate import Sampling, sample_tokens
from lab.hooked_format import CONSTANTS
from lab.llama import DoesNotFit, to_llama
from lab.records import Records
from lab.run import CheckpointMissing, Run
from tests.made_runs import assert_same_logits, made_run, some_tokens

SHAPES = [(None, False), (None, True), (2, False), (1, True)]
SITES = ("attn.hook_attn_scores", "attn.hook_pattern", "attn.hook_rot_q", "attn.hook_q", "attn.hook_z", "mlp.hook_post",
         "ln1.hook_normalized")  # fmt: skip


@pytest.fixture(scope="module", params=SHAPES, ids=lambda p: f"kv{p[0] or 'all'}-{'tied' if p[1] else 'untied'}")
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    kv, tied = request.param
    run = made_run(tmp_path_factory.mktemp("runs"), kv=kv, tied=tied)
    return run, export(run, "hf")


def _transformers(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(folder), local_files_only=True).eval()


def test_transformers_computes_our_logits(exported: tuple[Run, Path]) -> None:
    run, folder = exported
    tokens = some_tokens()
    with torch.no_grad():
        assert_same_logits(_transformers(folder)(tokens).logits, run.model()(tokens))


def test_transformers_chooses_the_same_64_greedy_tokens(exported: tuple[Run, Path]) -> None:
    run, folder = exported
    prompt = some_tokens(1, 8)
    ours = list(sample_tokens(run.model(), prompt[0].tolist(), Sampling(max_tokens=64, temperature=0)))
    options = {"max_new_tokens": 64, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    theirs = _transformers(folder).generate(prompt, attention_mask=torch.ones_like(prompt), **options)
    assert ours == theirs[0, 8:].tolist()


def test_transformer_bridge_shows_the_same_activations_under_our_names(exported: tuple[Run, Path]) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    run, folder = exported
    bridge, model, tokens = TransformerBridge.boot_transformers(str(folder), device="cpu"), run.model(), some_tokens()
    with torch.no_grad():
        expected, ours = model.run_with_cache(tokens)
        logits, theirs = bridge.run_with_cache(tokens)
    assert_same_logits(logits, expected)
    for name in ours:
        assert name in theirs, f"{name} is no name in the bridge's cache"
        assert theirs[name].shape == ours[name].shape, name
        seen = ours[name].isfinite()  # scores of keys that may not be seen: -inf in ours, the lowest float32 there
        assert bool((theirs[name][~seen] < -1e38).all()), name
        assert_same_logits(theirs[name][seen], ours[name][seen])


@pytest.mark.filterwarnings("ignore:A forward hook edited:UserWarning")
def test_an_edit_in_the_bridge_has_the_effect_it_has_in_ours(exported: tuple[Run, Path]) -> None:
    from transformer_lens.model_bridge import TransformerBridge

    def nudge(activation: Tensor, hook: Any, noise: Tensor) -> Tensor:
        return activation + noise[..., : activation.shape[-2], : activation.shape[-1]]

    run, folder = exported
    bridge, model, tokens = TransformerBridge.boot_transformers(str(folder), device="cpu"), run.model(), some_tokens()
    with torch.no_grad():
        plain, cache = model.run_with_cache(tokens)
        for site in SITES:
            name = f"blocks.1.{site}"
            noise = torch.randn(cache[name].shape, generator=torch.Generator().manual_seed(3))
            hooks = [(name, partial(nudge, noise=noise))]
            ours, theirs = (one.run_with_hooks(tokens, fwd_hooks=hooks) for one in (model, bridge))
            assert float((ours - plain).abs().max()) > 1e-3, name
            assert_same_logits(theirs, ours)


def test_the_tokenizer_of_the_folder_is_the_runs(exported: tuple[Run, Path]) -> None:
    from transformers import AutoTokenizer

    run, folder = exported
    text = "the dog ran, naïvely, 12 days 日本"
    loaded = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    assert loaded.encode(text, add_special_tokens=False) == run.tokenizer().encode(text)
    config = json.loads((folder / "generation_config.json").read_text())
    assert config["eos_token_id"] == run.tokenizer().end


def test_the_card_has_the_probes_of_that_step_with_interval_and_n(exported: tuple[Run, Path]) -> None:
    text = (exported[1] / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: transformers\n")
    assert "| 2 | 0.500 | 0.400 to 0.600 | 400 | 0.010 |" in text
    assert "2.9200 bits per byte (step 8)" in text
    assert "## Limits" in text


def test_an_earlier_step_is_exported_as_it_was(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    folder = export(run, "hf", step=0)
    assert folder.name == "hf-step-0"
    with torch.no_grad():
        assert_same_logits(_transformers(folder)(some_tokens()).logits, run.model(0)(some_tokens()))
    assert "step 8" not in (folder / "README.md").read_text()


def test_a_hooked_export_has_every_bias_as_zeros_and_its_own_unembedding(tmp_path: Path) -> None:
    run = made_run(tmp_path, kv=2, tied=True)
    folder = export(run, "hooked")
    state, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    assert torch.equal(state["unembed.W_U"], state["embed.W_E"].T)
    biases = {re.sub(r"blocks\.\d+\.", "", name) for name in state if re.search(r"\._?b_", name)}
    assert biases == {"attn.b_Q", "attn._b_K", "attn._b_V", "attn.b_O", "mlp.b_in", "mlp.b_out", "unembed.b_U"}
    assert not any(bool(tensor.any()) for name, tensor in state.items() if re.search(r"\._?b_", name))
    assert not any(name.endswith(CONSTANTS) for name in state)
    assert config["rotary_adjacent_pairs"] is False
    assert config["rotary_dim"] == config["d_head"] == 8


def test_parquet_holds_every_row_of_every_table(tmp_path: Path) -> None:
    from pyarrow import parquet

    run = made_run(tmp_path)
    folder = export(run, "parquet")
    metrics = parquet.read_table(folder / "metrics.parquet").to_pylist()
    readings = parquet.read_table(folder / "readings.parquet").to_pylist()
    assert {row["value"] for row in metrics if row["name"] == "train/loss"} == {5.0, 4.2}
    assert len(readings) == 6
    assert readings[-1]["hi"] == pytest.approx(0.6)
    assert parquet.read_table(folder / "claims.parquet").num_rows == 0
    assert len(list(folder.iterdir())) == 13


def test_steps_that_a_rewind_overtook_lie_apart_in_tensorboard_files(tmp_path: Path) -> None:
    pytest.importorskip("tensorboardX")
    run = made_run(tmp_path, steps=(0, 1, 2, 4))
    with Records.writer(run.database) as records:
        second = records.new_segment(from_step=1, resumed_from=1, config_hash="x")
        records.metrics(second, 2, {"train/loss": 1.0})
    folder = export(run, "tensorboard")
    found = {place.name: _scalars(next(place.iterdir())) for place in folder.iterdir()}
    assert found["history"]["train/loss"] == [(0, 5.0), (1, pytest.approx(4.9)), (2, 1.0)]
    assert [step for step, _ in found["overtaken-segment-1"]["train/loss"]] == [2, 4]
    assert "readings/decode/class.next/layer-02" in found["history"]


def _scalars(file: Path) -> dict[str, list[tuple[int, float]]]:
    """Events of one file, read by its record format: length, two checksums, a protocol buffer."""
    from tensorboardX.proto.event_pb2 import Event

    data, at, out = file.read_bytes(), 0, {}
    while at < len(data):
        length = int.from_bytes(data[at : at + 8], "little")
        event = Event.FromString(data[at + 12 : at + 12 + length])
        at += 16 + length
        for value in event.summary.value:
            out.setdefault(value.tag, []).append((event.step, value.simple_value))
    return out


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    used = tmp_path / "used"
    used.mkdir()
    (used / "thesis.txt").write_text("mine")
    cases: list[tuple[type[Exception], str, dict[str, Any]]] = [
        (BadExport, "onnx.*hf, hooked", {"to": "onnx"}),
        (BadExport, "not an empty folder", {"to": "hf", "out": used}),
        (BadExport, "all steps", {"to": "parquet", "step": 8}),
        (CheckpointMissing, "step 3.*Use 0", {"to": "hf", "step": 3}),
    ]
    for error, words, arguments in cases:
        with pytest.raises(error, match=words):
            export(run, **arguments)
    assert not run.exports.exists() or not any(run.exports.iterdir())
    assert [file.name for file in used.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("to", ["hf", "parquet"])
def test_a_target_that_cannot_be_made_is_refused_with_the_way_out(tmp_path: Path, to: str) -> None:
    run = made_run(tmp_path)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(BadExport, match=r"file/x: cannot be made \(Not a directory\)\. Choose another with --out\."):
        export(run, to, out=tmp_path / "file" / "x")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failure_while_writing_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    run = made_run(tmp_path)
    monkeypatch.setattr("lab.exports.card", full)
    with pytest.raises(OSError, match="No space"):
        export(run, "hf", out=tmp_path / "out" / "folder")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_bias_that_is_not_zero_is_refused_by_name(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    weights = run.model().state_dict()
    weights["blocks.1.mlp.b_out"][3] = 0.5
    with pytest.raises(DoesNotFit, match=r"blocks\.1\.mlp\.b_out"):
        to_llama(weights, run.config.model)
    assert len(list_checkpoints(run.checkpoints_folder)) == 2
