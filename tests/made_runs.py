"""Small runs whose weights are random but planted: what the tests of exports, imports and collecting start from."""

from pathlib import Path

import torch
from torch import Tensor

from lab import checkpoint
from lab.config import load_config
from lab.model import GPT, GPTConfig
from lab.records import Reading, Records, Regime
from lab.run import Run
from lab.tokenizer import Tokenizer
from tests.contract import randomise

VOCABULARY = 320
BOUND = 1e-5  # times max(1, max |logit|), as everywhere in this project


def tokenizer() -> Tokenizer:
    text = "the old farmer walked to the market and the dog ran after him while it rained all day in spring "
    return Tokenizer.train([text[at:] + text[:at] for at in range(0, len(text), 5)] * 3, VOCABULARY)


def made_run(
    root: Path,
    name: str = "planted",
    kv: int | None = None,
    tied: bool = False,
    steps: tuple[int, ...] = (0, 8),
    text: Path | None = None,
    n_layers: int = 2,
    n_ctx: int = 96,
) -> Run:
    """A run with a checkpoint per step, each with weights of its own, and a few records."""
    shape = [
        f"model.n_layers={n_layers}",
        "model.d_model=32",
        "model.n_heads=4",
        f"model.n_ctx={n_ctx}",
        f"model.d_vocab={VOCABULARY}",
        f"model.tie_embeddings={str(tied).lower()}",
        *([f"model.n_key_value_heads={kv}"] if kv else []),
        "train.steps=20",
    ]
    if text:
        shape += [
            f'data.sources=[{{name="story", kind="text", path="{text}"}}]',
            "data.phases=[{from_step=0, weights={story=1.0}}]",
            "data.validation_share=0.3",
        ]
    config = load_config("tiny", None, shape)
    run = Run.create(root, name, config)
    tokenizer().save(run.tokenizer_folder)
    with Records.writer(run.database) as records:
        segment = records.new_segment(from_step=0, resumed_from=None, config_hash=config.hash())
        regime = Regime(name="probing", step=0, protocol={}, hash="x")
        records.add_now(regime)
        for step in steps:
            records.metrics(
                segment, step, {"train/loss": 5.0 - step / 10, "validation/bits_per_byte": 3.0 - step / 100}
            )
            for layer in range(n_layers + 1):
                records.add(
                    Reading(
                        task="class.next", reading="decode", segment=segment, step=step, layer=layer, regime=regime.id,
                        value=0.25 * layer, lo=0.2 * layer, hi=0.3 * layer, n=400, baseline=0.01,
                    )
                )  # fmt: skip
        records.end_segment(segment, steps[-1], "finished")
    for step in steps:
        model = GPT(GPTConfig.from_config(config.model))
        randomise(model, seed=step, gains=True)
        state = {"step": step, "segment": segment, "config_hash": config.hash()}
        checkpoint.save(run.checkpoints_folder, step, model.state_dict(), {}, state)
    return run


def assert_same_logits(found: Tensor, expected: Tensor) -> None:
    worst, bound = float((found - expected).abs().max()), BOUND * max(1.0, float(expected.abs().max()))
    assert worst <= bound, f"logits differ by {worst:.2e}, bound {bound:.2e}"


def some_tokens(batch: int = 2, pos: int = 24) -> Tensor:
    return torch.randint(VOCABULARY - 7, (batch, pos), generator=torch.Generator().manual_seed(5))
