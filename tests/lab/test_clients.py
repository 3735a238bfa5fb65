"""nnsight and lm-eval on an exported folder, nnsight on the live object too: the readers that come as extras."""

from pathlib import Path

import pytest
import torch

from lab.exports import export
from lab.run import Run
from tests.made_runs import assert_same_logits, made_run, some_tokens


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    run = made_run(tmp_path_factory.mktemp("runs"), kv=2)
    return run, export(run, "hf")


def test_nnsight_reads_and_edits_the_live_object_as_our_hooks_do(exported: tuple[Run, Path]) -> None:
    nnsight = pytest.importorskip("nnsight")
    tokens = some_tokens()
    with torch.no_grad():
        _, cache = exported[0].model().run_with_cache(tokens)
        expected = (
            exported[0]
            .model()
            .run_with_hooks(tokens, fwd_hooks=[("blocks.1.attn.hook_z", lambda z, hook: torch.zeros_like(z))])
        )
    model = nnsight.NNsight(exported[0].model())
    with torch.no_grad(), model.trace(tokens):
        pattern = model.blocks[0].attn.hook_pattern.output.save()
        model.blocks[1].attn.hook_z.output[:] = 0
        edited = model.output.save()
    assert_same_logits(pattern, cache["pattern", 0])
    assert_same_logits(edited, expected)


def test_nnsight_sees_our_residual_stream_in_the_folder(exported: tuple[Run, Path]) -> None:
    nnsight = pytest.importorskip("nnsight")
    run, folder = exported
    tokens = some_tokens(1)
    with torch.no_grad():
        _, cache = run.model().run_with_cache(tokens)
    model = nnsight.LanguageModel(str(folder), dispatch=True)
    with torch.no_grad(), model.trace(tokens):
        stream = model.model.layers[0].output.save()
    found = stream[0] if isinstance(stream, tuple) else stream
    assert_same_logits(found.reshape(cache["resid_post", 0].shape), cache["resid_post", 0])


def test_lm_eval_gives_the_likelihood_that_our_model_gives(exported: tuple[Run, Path]) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    run, folder = exported
    context, continuation = "the dog ran after", " him while it rained"
    judge = HFLM(pretrained=str(folder), device="cpu", batch_size=1, dtype="float32", add_bos_token=False)
    (found, _), *_ = judge.loglikelihood([Instance("loglikelihood", {}, (context, continuation), 0)], disable_tqdm=True)
    words = run.tokenizer()
    ids, start = words.encode(context + continuation), len(words.encode(context))
    with torch.no_grad():
        logits = run.model()(torch.tensor([ids]))[0].log_softmax(-1)
    expected = sum(float(logits[at - 1, ids[at]]) for at in range(start, len(ids)))
    assert found == pytest.approx(expected, abs=1e-4)
