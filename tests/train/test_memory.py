"""Memory that is predicted beside memory that is counted, operation by operation, in real steps."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.config import RunConfig, load_config
from lab.corpus import Batch
from lab.lower_copy import LowerCopy, lower_weights
from lab.model import GPT, GPTConfig
from tests.live_bytes import LiveBytes
from train.budget import BadSize, Fit, fits, reserve, size_in_bytes
from train.freeze_modes import Anchor
from train.loop import accumulate
from train.memory import predict, product_bytes
from train.optimizer import build_optimizer
from train.parallel import Ranks

ALONE = ("evaluation.every=0", "probing.every=0", "understanding.every=0")
BOUND = 0.15


@dataclass(frozen=True)
class Case:
    """A configuration over the preset `tiny`; `anchored`: the layer of a concept that an anchor holds."""

    settings: str
    anchored: int | None = None
    dtype: torch.dtype = torch.float32

    @property
    def config(self) -> RunConfig:
        return load_config("tiny", None, [*ALONE, *self.settings.split()])

    @property
    def predicted(self) -> int:
        size = 2 if self.dtype == torch.bfloat16 else 4
        return predict(self.config, "cpu", size, [] if self.anchored is None else [self.anchored]).peak.bytes

    def measured(self) -> int:
        """The peak of two steps, of the model's making on; the second has all moments of the optimizer."""
        config = self.config
        with LiveBytes() as live:
            model = GPT(GPTConfig.from_config(config.model)).train()
            model.checkpoint_blocks(config.train.checkpoint_blocks)
            optimizer = build_optimizer(model, config.optimizer)
            session: Any = SimpleNamespace(
                model=model,
                dtype=self.dtype,
                forward=model,
                interventions=self._held(model),
                ranks=Ranks(),
                micro_batch=None,
            )
            rows, context = config.train.batch, config.model.n_ctx
            for _ in range(2):
                tokens = [
                    torch.randint(model.cfg.d_vocab, (rows, context + 1)) for _ in range(config.train.accumulation)
                ]
                accumulate(session, [Batch(one, torch.ones(rows, context, dtype=torch.bool), 0) for one in tokens])
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        return int(live.peak)

    def _held(self, model: GPT) -> list[Any]:
        if self.anchored is None:
            return []
        copy = LowerCopy(model.cfg, self.anchored, lower_weights(model, self.anchored))
        anchor = Anchor(model, torch.linalg.qr(torch.randn(model.cfg.d_model, 4))[0], copy, 0.1, 1.0)
        return [SimpleNamespace(loss=lambda _, batch: anchor.loss(batch.tokens[:, :-1]))]


# None of these was looked at while the terms were derived; they were, on other shapes.
CASES = {
    "few tokens": Case("model.n_layers=3 model.d_model=128 model.n_heads=2 train.batch=1 model.n_ctx=48"),
    "many tokens": Case(
        "model.n_layers=5 model.d_model=48 model.n_heads=2 train.batch=12 model.n_ctx=96 model.d_vocab=700"
    ),
    "a large vocabulary": Case("model.d_vocab=12000 model.d_model=32 model.n_heads=2 train.batch=4 model.n_ctx=40"),
    "blocks run again": Case(
        "model.n_layers=7 model.d_model=48 model.n_heads=4 train.batch=6 model.n_ctx=160 train.checkpoint_blocks=true"
    ),
    "Muon, a wide model": Case("model.n_layers=3 model.d_model=192 model.n_heads=6 train.batch=2 optimizer.kind=muon"),
    "Muon, grouped heads, accumulation": Case(
        "model.n_layers=4 model.d_model=80 model.n_heads=8 model.n_key_value_heads=2 train.batch=5 train.accumulation=2 "
        "optimizer.kind=muon model.d_vocab=900"
    ),
    "an anchor": Case("model.n_layers=4 model.d_model=64 train.batch=6 model.n_ctx=200 model.d_vocab=500", anchored=3),
    "an anchor, blocks run again, Muon": Case(
        "model.n_layers=5 model.d_model=64 train.batch=4 model.n_ctx=256 model.d_vocab=500 optimizer.kind=muon "
        "train.checkpoint_blocks=true train.accumulation=2",
        anchored=2,
    ),
}
MORE = {
    "bfloat16": Case("model.n_layers=3 model.d_model=96 train.batch=6 model.n_ctx=128", dtype=torch.bfloat16),
    "bfloat16, blocks run again": Case(
        "model.n_layers=6 model.d_model=96 train.batch=6 model.n_ctx=128 train.checkpoint_blocks=true",
        dtype=torch.bfloat16,
    ),
    "tied embeddings": Case("model.d_vocab=9000 model.d_model=48 train.batch=2 model.tie_embeddings=true"),
    "tied embeddings, accumulation": Case(
        "model.d_vocab=9000 model.d_model=48 train.batch=2 train.accumulation=2 model.tie_embeddings=true"
    ),
    "a narrow MLP": Case("model.d_model=64 model.d_mlp=24 train.batch=8 model.n_ctx=256 train.checkpoint_blocks=true"),
    "demo, half as deep": Case("model.n_layers=3 model.d_model=128 model.n_ctx=128 train.batch=32"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_predicted_peak_is_within_15_percent_of_the_one_that_is_counted(name: str) -> None:
    case = CASES[name]
    assert abs(case.predicted / case.measured() - 1) <= BOUND


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_so_it_is_with_other_types_and_shapes(name: str) -> None:
    case = MORE[name]
    assert abs(case.predicted / case.measured() - 1) <= BOUND


@settings(max_examples=30, deadline=None)
@given(
    batch=st.sampled_from([1, 2, 6, 8, 12]),
    accumulation=st.sampled_from([1, 2, 5]),
    budget=st.integers(700_000_000, 4_000_000_000),
    device=st.sampled_from(["cpu", "cuda"]),
    again=st.booleans(),
)
def test_what_is_said_to_fit_does_and_a_larger_one_does_not(
    batch: int, accumulation: int, budget: int, device: str, again: bool
) -> None:
    config = load_config(
        "laptop",
        None,
        [f"train.batch={batch}", f"train.accumulation={accumulation}", f"train.checkpoint_blocks={str(again).lower()}"],
    )
    fit = fits(config, budget, device)

    def needed(one: RunConfig) -> int:
        peak = predict(one, device, product_bytes(one, device)).peak.bytes
        return peak + reserve(peak, device)

    def changed(rows: int, times: int, blocks: bool, context: int = config.model.n_ctx) -> RunConfig:
        train = config.train.model_copy(update={"batch": rows, "accumulation": times, "checkpoint_blocks": blocks})
        model = config.model.model_copy(update={"n_ctx": context})
        return config.model_copy(update={"train": train, "model": model})

    whole = batch * accumulation
    if fit.batch:
        assert fit.batch * fit.accumulation == whole
        assert needed(changed(fit.batch, fit.accumulation, fit.checkpoint_blocks)) <= budget
        larger = [n for n in range(fit.batch + 1, whole + 1) if whole % n == 0]
        assert not larger or needed(changed(larger[0], whole // larger[0], fit.checkpoint_blocks)) > budget
        assert (
            fit.checkpoint_blocks == again or needed(changed(1, whole, False)) > budget
        )  # only where nothing else helps
        set_ = load_config("laptop", None, [*_written(config), *(flag.removeprefix("--set ") for flag in fit.flags)])
        assert needed(set_) <= budget
    if fit.context:
        assert needed(changed(batch, accumulation, again, fit.context)) <= budget
        assert needed(changed(batch, accumulation, again, fit.context + 64)) > budget
    assert fit.context_of_one >= fit.context
    assert fit.fits == (needed(config) <= budget)


def _written(config: RunConfig) -> list[str]:
    train = config.train
    return [
        f"train.batch={train.batch}",
        f"train.accumulation={train.accumulation}",
        f"train.checkpoint_blocks={str(train.checkpoint_blocks).lower()}",
    ]


def test_the_preset_for_8_gb_is_predicted_to_take_7_and_a_half_at_most() -> None:
    fit: Fit = fits(load_config("8gb"), 7_500_000_000, "cuda")
    assert fit.fits and fit.batch == load_config("8gb").train.batch  # and no larger micro-batch would


def test_every_attachment_and_intervention_is_counted() -> None:
    bare = load_config("tiny", None, ALONE)
    everything = load_config(
        "tiny",
        None,
        ["self_play.every=5", "check_ins.every=5", "journal.every=5", "remedy.every=1", "feedback.every=1"],
    )
    names = {instant.name for instant in predict(everything).instants} - {i.name for i in predict(bare).instants}
    assert names == {
        "evaluation", "probing", "understanding", "self-play", "check-in", "journal", "remedy and feedback",
    }  # fmt: skip
    held = load_config("tiny", None, ['freeze.concepts=[{concept="a"}, {concept="b", mode="lower"}]'])
    copies = predict(held).peak.items["frozen lower copies"]
    cfg = _shape(held)
    copy = LowerCopy(cfg, 2, _weights(cfg)).model
    assert copies == sum(tensor.nbytes for tensor in (*copy.parameters(), *copy.buffers()))


def _shape(config: RunConfig) -> GPTConfig:
    return GPTConfig.from_config(config.model)


def _weights(cfg: GPTConfig) -> dict[str, torch.Tensor]:
    return lower_weights(GPT(cfg), cfg.n_layers)


@pytest.mark.parametrize(
    ("text", "size"), [("8GB", 8 * 10**9), ("7.5GiB", 8053063680), (" 512 mb", 512 * 10**6), ("9", 9)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert size_in_bytes(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "0GB", "8 gigs", "1e9", "inf", "nanGB", "8GB8", "٨GB"])
def test_what_says_no_size_is_refused(text: str) -> None:
    with pytest.raises(BadSize, match="no amount of memory"):
        size_in_bytes(text)
