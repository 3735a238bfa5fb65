"""Probes of all layers × folds × penalties against scikit-learn's: process CPU time, alternating pairs, one thread.

    python -m tests.benchmarks.probes

The size of a nine-layer reading: 256 wide, 20,000 words, two classes, 5 folds of whole sentences, 6 penalties, so 270
fits. Both sides are given the same fp32 activations, standardise them on each training fold, fit every penalty, and
score the words held out by every fit.

- ridge: `Alone` (shrinkage discriminant from fold sums) against `Ridge(solver="cholesky")` on labels ±1. With two classes
  the two have the same direction at the same penalty; the largest angle found between them is in the figure.
- logistic: `fit_logistic` against `LogisticRegression(solver="newton-cholesky")`, same C, each with its own tolerance
  (ours is ten times smaller); out-of-fold bits of both are in the figure.

scikit-learn keeps fp32 in both estimators. JSON on stdout.
"""

import argparse
import json
import math
import sys
import warnings
from typing import Any

import numpy as np
import sklearn
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor

from probes.layers.discriminant import PENALTIES, Alone, Block
from probes.layers.fit import Problem, assign_folds, prepare
from probes.layers.logistic import fit_logistic
from tests.benchmarks.pairs import alternate, circumstances
from tests.probes.toys import gaussian_layers


def planted(layers: int, sentences: int, width: int) -> Problem:
    distances = [0.5 + 2.0 * layer / max(1, layers - 1) for layer in range(layers)]
    features, label, sentence = gaussian_layers(distances, sentences, 20, width, shared=0.1)
    return prepare("planted", features, label, sentence, assign_folds(sentences, 5), ("a", "b"))


def blocks(problem: Problem) -> list[Block]:
    """Made anew every time: the sums are part of the work."""
    onehot = torch.nn.functional.one_hot(problem.label, 2).float()
    return [Block.of(features, problem.rows, onehot) for features in problem.features]


def our_ridge(problem: Problem) -> Tensor:
    """Scores out of fold [layer, penalty, word]."""
    scores = torch.empty(len(problem.layers), len(PENALTIES), len(problem.label))
    for layer, block in enumerate(blocks(problem)):
        family = Alone(block, problem.counts)
        for fold, rows in enumerate(problem.rows):
            found = family.solve((fold,), fold, family.grid).scores([block.features[rows]])
            scores[layer, :, rows] = found[:, 1] - found[:, 0]
    return scores


def our_logistic(problem: Problem) -> Tensor:
    scores = torch.empty(len(problem.layers), len(PENALTIES), len(problem.label))
    training = len(problem.label) - problem.counts.sum(1)
    penalty = training[:, None] * torch.tensor(PENALTIES, dtype=torch.float64)
    for layer, block in enumerate(blocks(problem)):
        found = fit_logistic(block, problem.label, 2, [(fold,) for fold in range(problem.folds)], penalty)
        for fold, rows in enumerate(problem.rows):
            scores[layer, :, rows] = found.log_odds(block.features[rows], fold)[:, 1]
    return scores


def their(problem: Problem, logistic: bool) -> Tensor:
    scores = np.empty((len(problem.layers), len(PENALTIES), len(problem.label)), dtype=np.float32)
    label = problem.label.numpy()
    for layer, features in enumerate(problem.features.numpy()):
        for fold, rows in enumerate(problem.rows):
            train = problem.fold.numpy() != fold
            mean, deviation = features[train].mean(0), features[train].std(0)
            x, z = (features[train] - mean) / deviation, (features[rows] - mean) / deviation
            for index, share in enumerate(PENALTIES):
                if logistic:
                    model = LogisticRegression(C=1 / (share * len(x)), solver="newton-cholesky").fit(x, label[train])
                    scores[layer, index, rows] = model.decision_function(z)
                else:
                    target = (2 * label[train] - 1).astype(np.float32)
                    scores[layer, index, rows] = (
                        Ridge(alpha=share * len(x), solver="cholesky").fit(x, target).predict(z)
                    )
    return torch.from_numpy(scores)


def largest_angle(problem: Problem, ours: Tensor, theirs: Tensor) -> float:
    """Degrees between the centred scores of a layer, penalty and fold."""
    worst = 1.0
    for rows in problem.rows:
        a, b = (s[..., rows].double() - s[..., rows].double().mean(-1, keepdim=True) for s in (ours, theirs))
        cosine = (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
        worst = min(worst, float(cosine.min()))
    return math.degrees(math.acos(min(1.0, worst)))


def best_bits(problem: Problem, scores: Tensor) -> list[float]:
    """Bits per word of each layer at the penalty that is best there."""
    sign = (2 * problem.label - 1).double()
    losses = torch.nn.functional.softplus(-sign * scores.double()).mean(-1) / math.log(2)
    share = problem.counts.sum(0) / problem.counts.sum()
    entropy = float(-(share * share.log2()).sum())
    return [round(entropy - float(one), 4) for one in losses.min(1).values]


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--layers", type=int, default=9)
    parser.add_argument("--sentences", type=int, default=1000, help="of 20 words")
    parser.add_argument("--width", type=int, default=256)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    problem = planted(options.layers, options.sentences, options.width)
    size = {"layers": options.layers, "folds": 5, "penalties": len(PENALTIES), "words": len(problem.label)}
    ridge = (our_ridge(problem), their(problem, logistic=False))
    logistic = (our_logistic(problem), their(problem, logistic=True))
    rows: list[dict[str, Any]] = [
        {
            "estimator": "ridge",
            "peer": 'Ridge(solver="cholesky")',
            "largest_angle_degrees": round(largest_angle(problem, *ridge), 4),
        },
        {
            "estimator": "logistic",
            "peer": 'LogisticRegression(solver="newton-cholesky")',
            "ours_bits": best_bits(problem, logistic[0]),
            "theirs_bits": best_bits(problem, logistic[1]),
        },
    ]
    for row, mine, logistic_peer in zip(rows, (our_ridge, our_logistic), (False, True), strict=True):
        timed = alternate(lambda f=mine: f(problem), lambda p=logistic_peer: their(problem, p), options.pairs)
        row |= timed | {"times_faster": round(1 / timed["ratio_median"], 2)}
    figures = size | {"width": options.width, "scikit_learn": sklearn.__version__, "rows": rows}
    print(json.dumps(circumstances("tests.benchmarks.probes", arguments, 1) | figures, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])
