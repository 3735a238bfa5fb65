"""Collected activations are those of run_with_cache, in shards that survive an interruption."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lab.collecting import BadCollection, collect, collect_run, hook_of_layer, stop_layer, windows
from lab.model import GPT
from lab.run import Run
from lab.tokenizer import Tokenizer
from tests.made_runs import made_run, tokenizer

HOOKS = ("blocks.1.hook_resid_post", "blocks.0.attn.hook_pattern", "hook_embed", "blocks.0.attn.hook_z")
TEXTS = [f"the dog ran after him {n} times while it rained in spring" for n in range(60)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs")
    text = folder / "story.txt"
    text.write_text("\n\n".join(f"{text}, {n}" for n in range(40) for text in TEXTS))
    return made_run(folder, text=text, n_layers=3, n_ctx=32, kv=2)


@pytest.fixture(scope="module")
def model(run: Run) -> GPT:
    return run.model()


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return tokenizer()


def _shards(folder: Path) -> list[dict[str, torch.Tensor]]:
    return [load_file(file) for file in sorted(folder.glob("shard-*.safetensors"))]


def test_what_is_collected_is_what_run_with_cache_gives(model: GPT, words: Tokenizer, tmp_path: Path) -> None:
    done = collect(model, words, TEXTS, HOOKS, tmp_path / "out", dtype="float32", batch=4, shard_bytes=200_000)
    shards = _shards(done.folder)
    assert len(shards) > 2
    for shard in shards:
        with torch.no_grad():
            _, cache = model.run_with_cache(shard["tokens"].long(), names_filter=list(HOOKS))
        for name in HOOKS:
            torch.testing.assert_close(shard[name], cache[name], rtol=0, atol=2e-6)


def test_every_token_of_the_text_is_there_once_and_in_order(model: GPT, words: Tokenizer, tmp_path: Path) -> None:
    done = collect(model, words, TEXTS, HOOKS[:1], tmp_path / "out", shard_bytes=20_000, batch=2)
    found = [int(token) for shard in _shards(done.folder) for token in shard["tokens"].reshape(-1)]
    assert found == [token for text in TEXTS for token in [words.bos, *words.encode(text)]]
    assert done.manifest["tokens"] == len(found)


def test_the_manifest_says_what_the_shards_are(run: Run, tmp_path: Path) -> None:
    done = collect_run(run, HOOKS[:2], tmp_path / "out", step=0, tokens=320, batch=4)
    manifest = json.loads((done.folder / "manifest.json").read_text())
    assert manifest == done.manifest
    assert manifest["tokens"] == 320
    assert manifest["source"]["weights_sha256"] == run.checkpoint_info(0).weights_sha256
    assert manifest["hooks"]["blocks.1.hook_resid_post"] == {"shape": ["window", "pos", 32], "dtype": "float16"}
    assert manifest["hooks"]["blocks.0.attn.hook_pattern"]["shape"][2:] == [32, 32]
    assert manifest["stop_at_layer"] == 2
    assert "blocks.0.hook_resid_pre" in manifest["layers"]
    for shard in manifest["shards"]:
        assert hashlib.sha256((done.folder / shard["file"]).read_bytes()).hexdigest() == shard["sha256"]


def test_an_interrupted_collection_goes_on_and_ends_with_the_same_bytes(
    model: GPT, words: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"shard_bytes": 30_000, "batch": 2}
    whole = collect(model, words, TEXTS, HOOKS[:1], tmp_path / "whole", **options)  # type: ignore[arg-type]
    forward, calls = GPT.forward, 0

    def killed(self: GPT, *args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        if calls > 9:
            raise KeyboardInterrupt
        return forward(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(GPT, "forward", killed)
    with pytest.raises(KeyboardInterrupt):
        collect(model, words, TEXTS, HOOKS[:1], tmp_path / "cut", **options)  # type: ignore[arg-type]
    monkeypatch.undo()
    assert not (tmp_path / "cut" / "manifest.json").exists()
    assert 0 < len(list((tmp_path / "cut").glob("shard-*"))) < len(whole.manifest["shards"])
    assert list(model.hook_dict["blocks.1.hook_resid_post"].fwd_hooks) == []
    again = collect(model, words, TEXTS, HOOKS[:1], tmp_path / "cut", **options)  # type: ignore[arg-type]
    assert again.manifest == whole.manifest
    assert sorted(file.name for file in again.folder.iterdir()) == sorted(file.name for file in whole.folder.iterdir())


def test_opt_in_hooks_are_switched_on_for_the_time(model: GPT, words: Tokenizer, tmp_path: Path) -> None:
    name = "blocks.0.attn.hook_result"
    done = collect(model, words, TEXTS[:3], [name], tmp_path / "out", dtype="float32")
    assert done.manifest["hooks"][name]["shape"] == ["window", "pos", 4, 32]
    assert not model.cfg.use_attn_result


def test_the_pass_stops_at_the_last_layer_that_is_asked_for() -> None:
    assert stop_layer(["hook_embed"]) == 0
    assert stop_layer(["blocks.0.attn.hook_q", "blocks.2.hook_resid_pre"]) == 3
    assert stop_layer(["blocks.0.attn.hook_q", "ln_final.hook_scale"]) is None
    assert [hook_of_layer(layer, 2) for layer in (0, 1, 2)] == [
        "blocks.0.hook_resid_pre",
        "blocks.0.hook_resid_post",
        "blocks.1.hook_resid_post",
    ]


@pytest.mark.parametrize("tokens", [1, 7, 8, 9, 40, 10_000])
def test_windows_give_exactly_as_many_tokens_as_asked(tokens: int, words: Tokenizer) -> None:
    everything = sum(len(words.encode(text)) + 1 for text in TEXTS)
    rows = list(windows(TEXTS, words, context=8, tokens=tokens))
    assert sum(map(len, rows)) == min(tokens, everything)
    assert all(len(row) == 8 for row in rows[:-1])


def test_bad_requests_are_refused_with_the_way_out(run: Run, model: GPT, words: Tokenizer, tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "notes.txt").write_text("mine")
    collect(model, words, TEXTS[:3], HOOKS[:1], tmp_path / "done")
    with pytest.raises(BadCollection, match=r"no such hook.*blocks\.1\.hook_resid_post"):
        collect(model, words, TEXTS, ["blocks.1.hook_resid_pots"], tmp_path / "a")
    with pytest.raises(BadCollection, match="at least one"):
        collect(model, words, TEXTS, [], tmp_path / "a")
    with pytest.raises(BadCollection, match=r"context of 1\.\.32"):
        collect(model, words, TEXTS, HOOKS[:1], tmp_path / "a", context=33)
    with pytest.raises(BadCollection, match="not empty"):
        collect(model, words, TEXTS, HOOKS[:1], used)
    with pytest.raises(BadCollection, match=r"txt/x: cannot be made \(Not a directory\)\. Choose another --out\."):
        collect(model, words, TEXTS[:3], HOOKS[:1], used / "notes.txt" / "x")
    with pytest.raises(BadCollection, match=r"another collection.*dtype"):
        collect(model, words, TEXTS[:3], HOOKS[:1], tmp_path / "done", dtype="float32")
    with pytest.raises(BadCollection, match=r"layers 0\.\.3"):
        hook_of_layer(4, 3)
    with pytest.raises(BadCollection, match="holds no token"):
        collect(model, words, [], HOOKS[:1], tmp_path / "b")


def test_a_value_beyond_float16_is_refused_by_its_hook(model: GPT, words: Tokenizer, tmp_path: Path) -> None:
    with torch.no_grad():
        model.embed.W_E[words.bos, 0] = 1e6
    try:
        with pytest.raises(BadCollection, match=r"hook_embed.*float32"):
            collect(model, words, TEXTS[:2], ["hook_embed"], tmp_path / "out")
    finally:
        with torch.no_grad():
            model.embed.W_E[words.bos, 0] = 0.0


def test_a_device_that_is_not_there_is_refused_before_a_folder_is_made(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device, words in {"cuda": "this machine has none", "cuda:7": "has none", "quantum": "is no device",
                          "meta": "none that collecting runs on"}.items():  # fmt: skip
        with pytest.raises(BadCollection, match=f"--device {device}: .*{words}"):
            collect_run(run, HOOKS[:1], tmp_path / "out", device=device)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", ['{"format": 1, "name": "an app"}', "[1, 2]", "{[", '{"hooks": 3, "shards": []}'])
@pytest.mark.parametrize("name", ["manifest.json", "collecting.json"])
def test_a_manifest_of_something_else_is_refused_and_kept(
    name: str, content: str, model: GPT, words: Tokenizer, tmp_path: Path
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BadCollection, match=rf"{name}: .*Choose another --out"):
        collect(model, words, TEXTS, HOOKS[:1], tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == content
