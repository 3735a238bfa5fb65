"""The refit bootstrap agrees with fitting on a drawn corpus outright, and its spread is the spread of new corpora."""

import math

import pytest
import torch
from torch import Tensor

from lab.errors import LabError
from probes.layers.calibrate import log_loss_bits
from probes.layers.discriminant import Alone, Block, Given
from probes.layers.fit import (
    Problem,
    Untestable,
    assign_folds,
    conditional_bits,
    log_prior,
    prepare,
    read_alone,
    read_given,
    usable_bits,
)
from probes.layers.intervals import bootstrap_weights, replicate_means
from probes.layers.refit import refit_bits
from tests.probes.toys import gaussian_layers


def planted(
    distances: list[float], sentences: int = 120, words: int = 8, width: int = 24, seed: int = 0, classes: int = 2
) -> Problem:
    features, label, sentence = gaussian_layers(distances, sentences, words, width, seed, shared=0.1)
    if classes == 3:
        label = label + (torch.arange(len(label)) % 7 == 0) * (2 - label)
    names = [str(i) for i in range(classes)]
    return prepare("planted", features, label, sentence, assign_folds(sentences, 5), names)


@pytest.mark.parametrize(("given", "classes"), [(False, 2), (True, 2), (False, 3), (True, 3)])
def test_with_every_sentence_drawn_once_the_bits_are_those_of_the_probe_itself(given: bool, classes: int) -> None:
    problem = planted([0.5, 1.5, 2.5], classes=classes)
    found = (conditional_bits if given else usable_bits)(problem)
    refitted = refit_bits(problem, torch.ones(2, problem.sentences), given)
    torch.testing.assert_close(refitted, found.bits.expand(2, 3), atol=2e-5, rtol=0)


def written_out(problem: Problem, weights: Tensor, given: bool) -> Tensor:
    """Bits of the drawn corpus written out word for word, fitted by `discriminant` at the choices of the full data."""
    rows = torch.arange(len(problem.label)).repeat_interleave(weights[problem.sentence].long())
    label, fold = problem.label[rows], problem.fold[rows]
    slices = [slice(int((fold < f).sum()), int((fold <= f).sum())) for f in range(5)]
    onehot = torch.nn.functional.one_hot(label, len(problem.classes))
    blocks = [Block.of(h[rows].double(), slices, onehot.double()) for h in problem.features]
    counts = torch.stack([onehot[r].double().sum(0) for r in slices])
    reads = read_given(problem) if given else [read_alone(problem, i) for i in range(len(blocks))]
    held = read_alone(problem, 0).penalty
    bits = []
    for block, read in zip(blocks, reads, strict=True):
        family = Given(blocks[0], counts, held).beside(block) if given else Alone(block, counts)
        first = Alone(blocks[0], counts)
        total = 0.0
        for f, r in enumerate(slices):
            prior = log_prior(counts.sum(0) - counts[f])
            score = family.solve((f,), f, read.penalty[f : f + 1]).scores(
                [b.features[r].float() for b in family.blocks]
            )
            logit = read.slope[f] * score[0] + (read.offset[f] + prior)[:, None]
            loss = log_loss_bits(logit, label[r], prior, 1 / len(problem.label))
            base = -prior[label[r]] / math.log(2)
            if given:
                one = read_alone(problem, 0)
                score = first.solve((f,), f, held[f : f + 1]).scores([blocks[0].features[r].float()])
                logit = one.slope[f] * score[0] + (one.offset[f] + prior)[:, None]
                base = log_loss_bits(logit, label[r], prior, 1 / len(problem.label))
            total += float((base - loss).double().sum())
        bits.append(total / len(rows))
    return torch.tensor(bits, dtype=torch.float64)


@pytest.mark.parametrize("given", [False, True])
def test_a_replicate_is_the_drawn_corpus_written_out_and_fitted_again(given: bool) -> None:
    problem = planted([0.5, 1.5, 2.5])
    weights = bootstrap_weights(problem.sentences, 4)
    found = refit_bits(problem, weights, given)
    expected = torch.stack([written_out(problem, one, given) for one in weights])
    assert float(found.std(0).max()) > 0.005  # or it would prove little
    torch.testing.assert_close(found, expected, atol=3e-4, rtol=0)


def test_its_spread_is_not_below_that_of_new_corpora_where_fixed_probes_fall_short() -> None:
    bits = torch.stack([usable_bits(planted([1.0], 60, 8, 48, seed)).bits for seed in range(100, 200)])
    problems = [planted([1.0], 60, 8, 48, seed) for seed in range(12)]
    weights = bootstrap_weights(60, 100)
    refitted = torch.stack([refit_bits(p, weights).std(0) for p in problems]).mean()
    found = [usable_bits(p) for p in problems]
    fixed = torch.stack([replicate_means(d.gain, d.words, weights).std(0) for d in found]).mean()
    truth = bits.std(0)
    assert fixed < 0.85 * truth  # leaves out that another corpus fits another probe
    assert 0.9 * truth < refitted < 1.6 * truth


def test_weights_of_another_probe_set_are_refused() -> None:
    problem = planted([1.0, 1.0])
    with pytest.raises(LabError, match="for 120 sentences"):
        refit_bits(problem, torch.ones(3, 119))
    with pytest.raises(LabError, match="not negative"):
        refit_bits(problem, -torch.ones(3, 120))


def test_given_layer_0_without_layer_0_is_untestable() -> None:
    features, label, sentence = gaussian_layers([1.0, 1.0], 120, 8, 8)
    problem = prepare("planted", features, label, sentence, assign_folds(120, 5), ("a", "b"), layers=(1, 2))
    with pytest.raises(Untestable, match="needs layer 0"):
        refit_bits(problem, torch.ones(2, 120), given_layer_0=True)


def test_a_replicate_without_words_is_not_a_number() -> None:
    problem = planted([1.0])
    weights = torch.stack((torch.zeros(120), torch.ones(120)))
    assert refit_bits(problem, weights).isnan().flatten().tolist() == [True, False]


@pytest.mark.parametrize("given", [False, True])
def test_on_several_threads_the_replicates_are_the_same_bit_for_bit(given: bool) -> None:
    threads = torch.get_num_threads()
    found = []
    for count in (1, 3):
        problem = planted([0.5, 1.5, 2.5], classes=3)
        torch.set_num_threads(count)
        found.append(refit_bits(problem, bootstrap_weights(problem.sentences, 20, 0), given))
        assert torch.get_num_threads() == count
    torch.set_num_threads(threads)
    assert torch.equal(*found)
