"""SAELens trains on the live object and evaluates on it; it pins transformer-lens < 4, hence this environment."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from sae_lens import (
    ActivationsStore,
    LanguageModelSAERunnerConfig,
    LanguageModelSAETrainingRunner,
    LoggingConfig,
    StandardTrainingSAEConfig,
)
from sae_lens.evals import EvalConfig, run_evals
from sae_lens.training.activation_scaler import ActivationScaler

from lab.model import GPT
from tests.contract import Case, attached, disagreements, weights

CONTEXT, HOOK, WIDTH = 32, "blocks.0.hook_resid_post", 32
TOKENS = 8192


@pytest.fixture(scope="module")
def live() -> GPT:
    return Case(n_ctx=CONTEXT, d_model=WIDTH, n_key_value_heads=2).model()


@pytest.fixture(scope="module")
def corpus(live: GPT) -> Dataset:
    generator = torch.Generator().manual_seed(5)
    rows = torch.randint(live.cfg.d_vocab, (512, CONTEXT), generator=generator)
    return Dataset.from_dict({"tokens": rows.tolist()})


def runner_config(folder: Path) -> Any:
    return LanguageModelSAERunnerConfig(
        sae=StandardTrainingSAEConfig(d_in=WIDTH, d_sae=2 * WIDTH, l1_coefficient=0.01),
        model_name="local",
        hook_name=HOOK,
        dataset_path="local",
        is_dataset_tokenized=True,
        context_size=CONTEXT,
        training_tokens=TOKENS,
        lr=1e-2,
        lr_warm_up_steps=0,
        train_batch_size_tokens=512,
        store_batch_size_prompts=4,
        n_batches_in_buffer=32,
        device="cpu",
        prepend_bos=False,
        streaming=False,
        n_checkpoints=0,
        checkpoint_path=None,
        output_path=str(folder),
        logger=LoggingConfig(log_to_wandb=False),
    )


@pytest.fixture(scope="module")
def trained(live: GPT, corpus: Dataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, dict[str, Any]]:
    """A sparse autoencoder trained on our model, its configuration, and the weights from before."""
    before = weights(live)
    config = runner_config(tmp_path_factory.mktemp("sae"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sae = LanguageModelSAETrainingRunner(config, override_dataset=corpus, override_model=live).run()
    return sae, config, before


def test_sae_lens_trains_8k_tokens_on_the_live_object(live: GPT, trained: tuple[Any, Any, dict[str, Any]]) -> None:
    sae, _, before = trained
    assert sae.cfg.d_in == WIDTH
    with torch.no_grad():
        activations = live.run_with_cache(Case(n_ctx=CONTEXT).tokens(), names_filter=HOOK)[1][HOOK].reshape(-1, WIDTH)
        rebuilt = sae.decode(sae.encode(activations))
    assert bool(torch.isfinite(rebuilt).all())
    assert float((rebuilt - activations).pow(2).mean()) < float((activations - activations.mean(0)).pow(2).mean())
    assert attached(live) == {}
    assert disagreements(weights(live), before) == {}, "training an autoencoder moved the model's weights"


def test_run_evals_passes_and_splices_into_the_model(
    live: GPT, corpus: Dataset, trained: tuple[Any, Any, dict[str, Any]]
) -> None:
    sae, config, _ = trained
    store = ActivationsStore.from_config(live, config, override_dataset=corpus)
    metrics, _ = run_evals(
        sae,
        store,
        live,
        ActivationScaler(),
        eval_config=EvalConfig(
            n_eval_reconstruction_batches=2,
            n_eval_sparsity_variance_batches=2,
            compute_ce_loss=True,
            compute_kl=True,
            compute_l2_norms=True,
            compute_variance_metrics=True,
            compute_sparsity_metrics=True,
        ),
    )
    loss = metrics["model_performance_preservation"]
    clean, spliced, ablated = (loss[f"ce_loss_{kind}"] for kind in ("without_sae", "with_sae", "with_ablation"))
    assert abs(spliced - clean) > 1e-6, "the autoencoder was not spliced in: its hook did nothing"
    assert abs(ablated - clean) > 1e-6
    assert all(torch.isfinite(torch.tensor(value)) for value in loss.values())
    assert attached(live) == {}
