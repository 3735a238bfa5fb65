"""Tracks from planted activations: directions that turn by known angles, decisions that change, probes refitted from sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from probes.concepts.geometry import direction, turn
from probes.concepts.snapshot import Frame, Snapshot, refit, snapshot, standard_error
from probes.concepts.track import shimmer_index, track
from probes.layers.fit import assign_folds
from probes.layers.intervals import bootstrap_weights, replicate_means
from probes.layers.problem import Untestable
from probes.layers.statistics import BadStatistics, assign_blocks

SENTENCES, WORDS, WIDTH = 200, 10, 24
N = SENTENCES * WORDS


def frame() -> Frame:
    fold = assign_folds(SENTENCES, 5, seed=0)
    block, _ = assign_blocks(fold)
    sentence = torch.arange(SENTENCES).repeat_interleave(WORDS)
    return Frame(sentence, fold, block, torch.arange(SENTENCES))


def directions(angle: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two unit vectors at an angle in degrees."""
    basis = torch.linalg.qr(torch.randn(WIDTH, 2, generator=generator)).Q
    turned = math.cos(math.radians(angle)) * basis[:, 0] + math.sin(math.radians(angle)) * basis[:, 1]
    return basis[:, 0], turned


def snapshots(
    towards: list[Tensor], length: float, seed: int, classes: int = 2, noise: float = 1.0
) -> list[tuple[int, Snapshot]]:
    """Checkpoints 1, 2, 4, … of the same words: the same noise, and a class difference along each direction in turn."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(classes, (N,), generator=generator)
    words = noise * torch.randn(N, WIDTH, generator=generator)
    names = [str(each) for each in range(classes)]
    made = []
    for at, vector in enumerate(towards):
        values = words + length * label[:, None] * vector
        made.append((2**at, snapshot("planted", values[None], (3,), label, names, frame())))
    return made


def test_a_cosine_is_found_through_the_noise() -> None:
    """60°, at a signal so weak that the raw cosine of the estimates would be read as another angle."""
    found, raw, reader = [], [], []
    for seed in range(12):
        a, b = directions(60, torch.Generator().manual_seed(seed))
        (_, one), (_, two) = snapshots([a, b], 0.5, seed)
        there = [direction(each.statistics, 0, each.classes, 1e-3) for each in (one, two)]
        turned = turn(*there)
        found.append(turned.cosine)
        reader.append(turned.cosine_reader)
        whole = [d.halves.mean(0).flatten() for d in there]
        raw.append(float(torch.nn.functional.cosine_similarity(whole[0], whole[1], dim=0)))
    assert np.mean(found) == pytest.approx(0.5, abs=0.05) and np.mean(reader) == pytest.approx(0.5, abs=0.05)
    assert np.mean(raw) > 0.55, "the shared noise draws the raw cosine up; if it does not, this test tests nothing"


def test_an_unmoved_direction_has_cosine_one_and_no_excess_churn() -> None:
    a, _ = directions(0, torch.Generator().manual_seed(1))
    found = track(snapshots([a, a, a], 1.0, 1), 3, frame().unit)
    for point in found.points[1:]:
        assert point.cosine == pytest.approx(1.0, abs=1e-6) and point.turning == pytest.approx(0.0, abs=0.1)
        assert point.churn > 0 and point.excess_churn == pytest.approx(0.0, abs=1e-12)
        assert point.se_step == pytest.approx(0.0, abs=1e-9) and point.norm_ratio == pytest.approx(1.0)
    assert found.newest.norm == pytest.approx(1.0 / 2**0.5, rel=0.1)  # two means about their average, 1/2 each way


def test_a_turned_direction_changes_decisions_beyond_the_noise() -> None:
    a, b = directions(90, torch.Generator().manual_seed(2))
    found = track(snapshots([a, b], 1.5, 2), 3, frame().unit).newest
    assert found.excess_churn > 0.1 and abs(found.cosine) < 0.1
    assert found.turning == pytest.approx(90 / math.log2(3 / 2), rel=0.1), "degrees per doubling, from step 1 to step 2"


def test_a_direction_turned_round_is_a_flip_and_one_made_of_noise_is_not() -> None:
    a, _ = directions(0, torch.Generator().manual_seed(3))
    found = track(snapshots([a, -a, -a, a], 1.0, 3), 3, frame().unit)
    assert found.flips == (2, 8) and found.newest.cosine < -0.99
    flipped = 0
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        random = [torch.nn.functional.normalize(torch.randn(WIDTH, generator=generator), dim=0) for _ in range(2)]
        none = track(snapshots(random, 0.0, seed), 3, frame().unit)
        flipped += bool(none.flips)
        assert math.isnan(none.newest.cosine) or none.newest.reliability > 0.3, "no direction, so no cosine"
    assert flipped == 0


def test_more_than_two_classes_have_a_direction_too() -> None:
    a, b = directions(60, torch.Generator().manual_seed(4))
    found = track(snapshots([a, b], 2.0, 4, classes=4), 3, frame().unit).newest
    assert found.cosine == pytest.approx(0.5, abs=0.05)


def test_the_reference_is_the_step_that_was_named() -> None:
    a, b = directions(90, torch.Generator().manual_seed(5))
    rows = snapshots([a, b, b], 1.5, 5)
    assert track(rows, 3, frame().unit).newest.to_reference < 0.1
    assert track(rows, 3, frame().unit, reference=2).newest.to_reference == pytest.approx(1.0, abs=1e-6)


def test_the_standard_error_is_that_of_a_bootstrap_over_units() -> None:
    (_, one) = snapshots([directions(0, torch.Generator().manual_seed(6))[0]], 1.0, 6)[0]
    weights = bootstrap_weights(SENTENCES, 4000)
    drawn = replicate_means(one.gain, one.words, weights).std(0)
    assert standard_error(one.gain, one.words, frame().unit) == pytest.approx(drawn, rel=0.05)
    documents = torch.arange(SENTENCES) // 4
    by_document = replicate_means(one.gain, one.words, bootstrap_weights(SENTENCES, 4000, units=documents)).std(0)
    assert standard_error(one.gain, one.words, documents) == pytest.approx(by_document, rel=0.06)


@pytest.mark.parametrize("classes", [2, 3])
def test_any_closed_form_probe_can_be_refitted_from_what_is_stored(classes: int) -> None:
    """Through the stored form and back: Fisher's discriminant, and the difference of means, as from the activations."""
    generator = torch.Generator().manual_seed(7)
    label = torch.randint(classes, (N,), generator=generator)
    mixing = torch.randn(WIDTH, WIDTH, generator=generator)
    centres = torch.randn(classes, WIDTH, generator=generator)
    values = torch.randn(N, WIDTH, generator=generator) @ mixing + centres[label] + 30.0  # a large mean costs digits
    made = snapshot("planted", values[None], (3,), label, [str(k) for k in range(classes)], frame())
    stored = Snapshot.from_tensors("planted", made.card(), made.to_tensors())
    again = refit(stored.statistics, 0, 1e-9).scores([values])[0].T.double().numpy()
    oracle = LinearDiscriminantAnalysis(solver="lsqr", priors=np.full(classes, 1 / classes))
    expected = oracle.fit(values.double().numpy(), label.numpy()).decision_function(values.double().numpy())
    found = again[:, 1] - again[:, 0] if classes == 2 else again - again.mean(1, keepdims=True)
    wanted = expected if classes == 2 else expected - expected.mean(1, keepdims=True)
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.99999
    assert (found.argmax(-1) == wanted.argmax(-1)).mean() > 0.999
    of_class = stored.statistics.class_sum[0].sum(0) / stored.statistics.count.sum(0)[:, None]
    for one in range(classes):
        assert torch.allclose(of_class[one].float(), values[label == one].mean(0), atol=1e-4)


def test_a_refit_is_the_probe_of_the_shrinkage_family_at_any_penalty() -> None:
    a, _ = directions(0, torch.Generator().manual_seed(8))
    generator = torch.Generator().manual_seed(8)
    label = torch.randint(2, (N,), generator=generator)
    values = torch.randn(N, WIDTH, generator=generator) + label[:, None] * a
    made = snapshot("planted", values[None], (3,), label, ["0", "1"], frame())
    x = ((values - values.mean(0)) / values.std(0, correction=0)).double()
    for penalty in (1e-3, 1.0):
        means = torch.stack([x[label == k].mean(0) for k in (0, 1)])
        within = sum((x[label == k] - means[k]).T @ (x[label == k] - means[k]) for k in (0, 1)) / N
        weight = torch.linalg.solve(within + penalty * torch.eye(WIDTH, dtype=torch.float64), means[1] - means[0])
        score = refit(made.statistics, 0, penalty).scores([values])[0]
        assert np.corrcoef((x @ weight).numpy(), (score[1] - score[0]).numpy())[0, 1] > 0.999999


def test_a_stored_snapshot_comes_back_and_a_damaged_one_is_refused() -> None:
    made = snapshots([directions(0, torch.Generator().manual_seed(9))[0]], 1.0, 9)[0][1]
    tensors = made.to_tensors()
    back = Snapshot.from_tensors("planted", made.card(), tensors)
    assert torch.equal(back.decision, made.decision) and torch.equal(back.gain, made.gain) and back.n == made.n == N
    assert torch.equal(back.bits(), made.bits())
    assert torch.allclose(back.statistics.second_moment, made.statistics.second_moment, rtol=1e-5)
    with pytest.raises(BadStatistics, match="has no gain"):
        Snapshot.from_tensors("planted", made.card(), {k: v for k, v in tensors.items() if k != "gain"})
    with pytest.raises(BadStatistics, match="different layers"):
        Snapshot.from_tensors("planted", made.card() | {"layers": [3, 4]}, tensors)


def test_labels_that_carry_no_reading_are_untestable() -> None:
    values, label = torch.randn(1, N, WIDTH), torch.zeros(N, dtype=torch.long)
    with pytest.raises(Untestable, match="1 classes"):
        snapshot("planted", values, (0,), label, ["0", "1"], frame())


def test_the_shimmer_index_is_movement_over_the_spread_of_features() -> None:
    a, _ = directions(0, torch.Generator().manual_seed(10))
    rows = [snapshots([length * a for length in lengths], 1.0, 10) for lengths in ([2.0, 0.5] * 4, [1.0] * 8)]
    moving, still = (track(one, 3, frame().unit) for one in rows)
    first, second = shimmer_index([moving, still])
    assert first > 0.5 > second == 0.0
    assert math.isnan(shimmer_index([moving])[0])


def test_a_track_is_json_without_nan() -> None:
    import json

    found = track(snapshots([directions(0, torch.Generator().manual_seed(11))[0]], 1.0, 11), 3, frame().unit)
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert data["state"] == "ABSENT" and data["points"][0]["cosine"] is None and data["flicker"] is None
