"""The bigram yardstick, on sources whose entropy is known."""

import numpy as np
import pytest
import torch

from lab.bigram import Bigram
from lab.corpus import Batch


def batch(tokens: np.ndarray) -> Batch:
    rows = torch.from_numpy(tokens.astype(np.int64))
    return Batch(rows, torch.ones(rows.shape[0], rows.shape[1] - 1, dtype=torch.bool), rows[:, 1:].numel())


def chain(generator: np.random.Generator, transition: np.ndarray, length: int) -> np.ndarray:
    tokens = np.zeros(length, dtype=np.int64)
    for i in range(1, length):
        tokens[i] = generator.choice(len(transition), p=transition[tokens[i - 1]])
    return tokens[None]


def test_a_markov_chain_is_predicted_at_its_entropy_rate() -> None:
    generator = np.random.default_rng(0)
    transition = generator.dirichlet(np.ones(8) * 0.5, size=8)
    model = Bigram.estimate([batch(chain(generator, transition, 20_000))], 8)
    test = batch(chain(generator, transition, 20_000))
    tokens = test.tokens.numpy()[0]
    truth = -np.log2(transition[tokens[:-1], tokens[1:]]).mean()
    assert model.bits_per_byte([test]) == pytest.approx(truth, rel=0.01)


def test_probabilities_sum_to_one_after_seen_and_unseen_tokens() -> None:
    model = Bigram.estimate([batch(np.array([[0, 1, 2, 1, 2, 1, 3, 1, 2]]))], 6)
    for previous in range(6):
        total = np.exp(-model.surprisal(np.arange(6) + 6 * previous)).sum()
        assert total == pytest.approx(1.0)


def test_masked_targets_are_neither_learned_nor_counted() -> None:
    rows = batch(np.array([[0, 1, 0, 1, 0, 5]]))
    mask = rows.mask.clone()
    mask[0, -1] = False
    model = Bigram.estimate([Batch(rows.tokens, mask, 4)], 6)
    assert 5 not in model.pairs % 6
