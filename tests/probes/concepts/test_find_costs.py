"""What erasing a planted concept costs: much where the model needs it, nothing where it only could be read."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from probes.concepts.costs import Cost, ablation_cost, ablations, mean_ablation, norm_limit
from probes.concepts.find import find
from probes.layers.collect import collect
from probes.layers.fit import assign_folds
from probes.layers.probe_set import ProbeSet
from probes.layers.problem import Untestable
from tests.probes.settling import DECOYS, SIGNS, Settling

SETTLED = 4  # the layer from which on nothing needs the signs
REPEATS, WORDS = 5, 10


def balanced() -> tuple[Settling, ProbeSet]:
    """A model with one decoy, and a text with every word equally often: no label tells anything of another.

    By chance a sign and a kind go together a little in random text, and then erasing the one takes some of the other, which
    is a fact about the text and not about the model.
    """
    model = Settling([SETTLED] * 3)
    words = model._words()
    decoys = slice(model.kinds + SIGNS, model.kinds + SIGNS + DECOYS)
    model.embed.weight.data[:, decoys] = 0.0
    model.embed.weight.data[1 : 1 + model.read, model.kinds + SIGNS] = torch.tensor(
        [1.0 if copy % 2 else -1.0 for *_, copy in words]
    )
    generator = torch.Generator().manual_seed(0)
    tokens = (torch.randperm(model.read * REPEATS, generator=generator) % model.read + 1).view(-1, WORDS).tolist()
    every = [token for row in tokens for token in row]
    text = ProbeSet(
        sentences=tuple(f"text {i}" for i in range(len(tokens))),
        documents=tuple(f"document {i}" for i in range(len(tokens))),
        tokens=tuple((0, *(t for token in row for t in (token, model.follower(token)))) for row in tokens),
        word_sentence=tuple(i for i in range(len(tokens)) for _ in range(WORDS)),
        word_position=tuple(1 + 2 * j for _ in tokens for j in range(WORDS)),
        labels={
            "sign": tuple(int(words[token - 1][1] > 0) for token in every),
            "decoy": tuple(words[token - 1][-1] % 2 for token in every),
        },
        classes={"sign": ("minus", "plus"), "decoy": ("minus", "plus")},
    )
    return model, text


MODEL, TEXT = balanced()
EVERY = torch.ones(TEXT.words, dtype=torch.bool)


def cost_of(name: str, layer: int) -> tuple[float, Cost]:
    """Bits that are readable there, and what setting the subspace to its mean costs the tokens that follow."""
    values, label = collect(MODEL, TEXT, [layer]).values[0], torch.tensor(TEXT.labels[name])
    folds = assign_folds(len(TEXT.sentences), 5)
    found = find(
        values, label, torch.tensor(TEXT.word_sentence), folds, ("minus", "plus"), unit=torch.tensor(TEXT.units)
    )
    erasers = ablations(values, found.basis, 5, torch.Generator().manual_seed(0))
    cost = ablation_cost(MODEL, TEXT, EVERY, layer, erasers, norm_limit(values), replicates=300)
    return float(found.probe.decoding.bits[0]), cost


def test_erasing_what_the_model_needs_costs_what_it_is_worth() -> None:
    bits, cost = cost_of("sign", 1)
    assert bits > 0.9
    assert cost.erased == pytest.approx(0.69, abs=0.1)  # one of two products is lost: one in two, in nats
    assert cost.used and cost.tokens == TEXT.words and cost.sentences == 96
    assert cost.loss < 0.05


@pytest.mark.parametrize("layer", [1, 6])
def test_what_can_be_read_and_is_never_used_costs_nothing(layer: int) -> None:
    bits, cost = cost_of("decoy", layer)
    assert bits > 0.9, "as readable as what is used"
    assert abs(cost.erased) < 0.03 and not cost.used


def test_behind_the_last_reader_the_same_concept_costs_nothing() -> None:
    bits, cost = cost_of("sign", 6)
    assert bits > 0.9
    assert abs(cost.erased) < 0.03 and not cost.used


def test_an_ablation_sets_the_coordinates_to_the_mean_and_leaves_the_rest() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(500, 12, generator=generator) @ torch.randn(12, 12, generator=generator)
    basis = torch.linalg.qr(torch.randn(12, 3, generator=generator, dtype=torch.float64)).Q
    mean = torch.randn(12, generator=generator).double()
    after = mean_ablation(basis, mean, 0.0).apply(values.double())
    torch.testing.assert_close(after @ basis, (mean @ basis).expand(500, 3))
    outside = torch.eye(12).double() - basis @ basis.T
    torch.testing.assert_close(after @ outside, values.double() @ outside)
    erasers = ablations(values, basis, 4, generator)
    assert [one.rank for one in erasers] == [3] * 5
    for one in erasers[1:]:
        assert one.removed == pytest.approx(erasers[0].removed, rel=1e-3)


def test_too_few_tokens_to_tell_a_cost_are_refused_with_their_number() -> None:
    values = collect(MODEL, TEXT, [0]).values[0]
    erasers = ablations(values, torch.eye(values.shape[1])[:, :1].double(), 2, torch.Generator())
    few = EVERY & (torch.arange(TEXT.words) < 7)
    with pytest.raises(Untestable, match="7 tokens in 1 sentences"):
        ablation_cost(MODEL, TEXT, few, 0, erasers, norm_limit(values))
    ends = replace(TEXT, tokens=tuple(row[:2] for row in TEXT.tokens), word_position=(1,) * TEXT.words)
    with pytest.raises(Untestable, match="0 tokens"):
        ablation_cost(MODEL, ends, EVERY, 0, erasers, norm_limit(values))
