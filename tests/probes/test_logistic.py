"""Logistic regression: scikit-learn's estimator to the bit's hundredth, and a solver that never makes the loss worse."""

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from probes.layers.discriminant import PENALTIES
from probes.layers.fit import Problem, assign_folds, inner_folds, prepare
from probes.layers.logistic import TOLERANCE, fit_logistic, logistic_bits
from tests.probes.test_fit import standard_error, word_types
from tests.probes.toys import binary_bits, gaussian_layers


def of_types(classes: int, words: int, types: int = 500) -> Problem:
    x, label, sentence = word_types(classes, types, 250, words)
    return prepare("types", x[None], label, sentence, assign_folds(250, 5), [str(i) for i in range(classes)])


def scikit_learn_bits(problem: Problem) -> tuple[float, list[float]]:
    """Bits by LogisticRegression(solver="newton-cholesky") on the same folds, inner folds, grid and standardisation."""
    x, label, fold = problem.features[0].double().numpy(), problem.label.numpy(), problem.fold.numpy()
    rows = np.arange(len(label))

    def losses(train: np.ndarray, test: np.ndarray, share: float) -> np.ndarray:
        mean, deviation = x[train].mean(0), x[train].std(0)
        model = LogisticRegression(C=1 / (share * train.sum()), solver="newton-cholesky", tol=1e-6, max_iter=200)
        model.fit((x[train] - mean) / deviation, label[train])
        given = model.predict_log_proba((x[test] - mean) / deviation)
        return np.asarray(-given[rows[: test.sum()], label[test]] / math.log(2))

    bits, chosen = 0.0, []
    for f in range(problem.folds):
        inner = [
            sum(losses((fold != f) & (fold != o), fold == o, share).sum() for o in inner_folds(problem, f))
            for share in PENALTIES
        ]
        chosen.append(PENALTIES[int(np.argmin(inner))])
        count = np.bincount(label[fold != f]) + 0.5
        base = -np.log2(count / count.sum())[label[fold == f]]
        bits += float((base - losses(fold != f, fold == f, chosen[-1])).sum())
    return bits / len(label), chosen


@pytest.mark.parametrize(("classes", "words"), [(2, 8), (5, 6)])
def test_bits_are_those_of_scikit_learn_on_the_same_folds_within_a_hundredth(classes: int, words: int) -> None:
    problem = of_types(classes, words)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bits, chosen = scikit_learn_bits(problem)
    found = logistic_bits(problem)
    assert float(found.bits) == pytest.approx(bits, rel=0.01)
    assert found.penalty[0].tolist() == pytest.approx(chosen)


def test_bits_of_a_gaussian_label_are_its_mutual_information() -> None:
    features, label, sentence = gaussian_layers([0.0, 1.5, 3.0], 600, 20, 16)
    found = logistic_bits(prepare("planted", features, label, sentence, assign_folds(600, 5), ("a", "b")))
    truth = torch.tensor([binary_bits(distance) for distance in (0.0, 1.5, 3.0)])
    error = standard_error(found)
    assert (found.bits <= truth + 2.5 * error + 1e-3).all()
    assert (found.bits >= 0.97 * truth - 2.5 * error - 2e-3).all()


@pytest.mark.parametrize("classes", [2, 6])
def test_the_loss_never_rises_and_the_gradient_ends_at_nothing(classes: int) -> None:
    problem = of_types(classes, 6)
    n = float(len(problem.label))
    shares = torch.tensor([PENALTIES] * 2, dtype=torch.float64) * n
    found = fit_logistic(problem.blocks[0], problem.label, len(problem.classes), [(0,), (1, 2)], shares)
    assert found.converged and float(found.gradient.max()) <= TOLERANCE
    assert (found.losses.diff(dim=0) <= 0).all()
    assert len(found.losses) < 15


def test_a_label_that_a_plane_separates_still_ends() -> None:
    features, label, sentence = gaussian_layers([40.0], 100, 10, 8)
    problem = prepare("planted", features, label, sentence, assign_folds(100, 5), ("a", "b"))
    found = logistic_bits(problem)
    assert 0.99 < float(found.bits) <= found.base_bits and found.gain.isfinite().all()


def test_starting_from_the_answer_takes_no_step() -> None:
    problem = of_types(3, 6)
    penalty = torch.tensor([[5.0, 50.0]])
    first = fit_logistic(problem.blocks[0], problem.label, 3, [(0,)], penalty)
    again = fit_logistic(problem.blocks[0], problem.label, 3, [(0,)], penalty, start=first.weight)
    assert len(again.losses) <= 2
    torch.testing.assert_close(again.weight, first.weight, atol=1e-3, rtol=1e-3)


def test_permuted_labels_give_no_bits() -> None:
    features, label, sentence = gaussian_layers([3.0], 100, 10, 64)
    shuffled = label[torch.randperm(len(label), generator=torch.Generator().manual_seed(5))]
    found = logistic_bits(prepare("planted", features, shuffled, sentence, assign_folds(100, 5), ("a", "b")))
    assert -0.05 < float(found.bits) < 0.02
