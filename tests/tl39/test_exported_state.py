"""`lab export --to hooked` opens in HookedTransformer 3.9.0 as its model card says, and computes the same."""

import json
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformer_lens import HookedTransformer, HookedTransformerConfig

from lab.exports import export
from lab.hooked_format import CONSTANTS
from tests.made_runs import assert_same_logits, made_run, some_tokens


@pytest.mark.parametrize(("kv", "tied"), [(None, False), (2, True)])
def test_hooked_transformer_loads_the_export_and_computes_our_logits(
    kv: int | None, tied: bool, tmp_path: Path
) -> None:
    run = made_run(tmp_path, kv=kv, tied=tied)
    folder = export(run, "hooked")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        oracle = HookedTransformer(HookedTransformerConfig(**json.loads((folder / "config.json").read_text())))
    missing, unexpected = oracle.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    assert unexpected == []
    assert all(name.endswith(CONSTANTS) for name in missing)
    with torch.no_grad():
        assert_same_logits(oracle(some_tokens()), run.model()(some_tokens()))
