"""Bits against planted truth and against scikit-learn, and every way in which a probe could flatter."""

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from torch import Tensor

from probes.layers.fit import (
    Decoding,
    Problem,
    Untestable,
    assign_folds,
    conditional_bits,
    prepare,
    usable_bits,
)
from probes.layers.intervals import bootstrap_weights, sentence_intervals
from tests.probes.toys import binary_bits, gaussian_layers, simplex_bits


def problem(
    features: Tensor, label: Tensor, sentence: Tensor, classes: int = 2, seed: int = 0, sentences: int | None = None
) -> Problem:
    folds = assign_folds(sentences or int(sentence.max()) + 1, 5, seed)
    return prepare("planted", features, label, sentence, folds, [f"class {i}" for i in range(classes)])


def standard_error(found: Decoding) -> Tensor:
    intervals = sentence_intervals(found.gain, found.words, bootstrap_weights(len(found.words), 500))
    return (intervals.high - intervals.low) / 3.92


def test_bits_of_a_gaussian_label_are_its_mutual_information() -> None:
    distances = [0.0, 1.0, 2.0, 3.0, 5.0]
    features, label, sentence = gaussian_layers(distances, 800, 20, 16)
    found = usable_bits(problem(features, label, sentence))
    truth = torch.tensor([binary_bits(distance) for distance in distances])
    error = standard_error(found)
    assert (found.bits <= truth + 2.5 * error + 1e-3).all()
    assert (found.bits >= 0.97 * truth - 2.5 * error - 2e-3).all()


@pytest.mark.parametrize("distance", [1.5, 3.0])
def test_bits_of_six_classes_are_their_mutual_information(distance: float) -> None:
    generator = torch.Generator().manual_seed(1)
    label = torch.randint(6, (12_000,), generator=generator)
    features = torch.randn(12_000, 24, generator=generator)
    features[torch.arange(12_000), label] += distance
    found = usable_bits(problem(features[None], label, torch.arange(600).repeat_interleave(20), 6))
    truth = simplex_bits(6, distance)
    assert 0.97 * truth < float(found.bits) < truth + 0.01
    assert found.base_bits == pytest.approx(math.log2(6), abs=1e-3)


def test_permuted_labels_give_no_bits_even_with_more_features_than_words() -> None:
    features, label, sentence = gaussian_layers([3.0, 3.0], 60, 5, 400)
    shuffled = label[torch.randperm(len(label), generator=torch.Generator().manual_seed(5))]
    found = usable_bits(problem(features, shuffled, sentence))
    assert (found.bits < 0.02).all() and (found.bits > -0.05).all()
    assert (conditional_bits(problem(features, shuffled, sentence)).bits < 0.02).all()


def test_a_label_constant_within_a_sentence_is_not_read_from_the_sentences_own_noise() -> None:
    generator = torch.Generator().manual_seed(2)
    sentence = torch.arange(200).repeat_interleave(10)
    label = torch.randint(2, (200,), generator=generator)[sentence]
    features = torch.randn(200, 64, generator=generator)[sentence] + 0.1 * torch.randn(2000, 64, generator=generator)
    assert float(usable_bits(problem(features[None], label, sentence)).bits) < 0.02
    leaking = problem(
        features[None], label, torch.arange(2000)
    )  # each word its own sentence: what token folds would do
    assert float(usable_bits(leaking).bits) > 0.1


def test_what_layer_0_already_says_is_no_gain_at_any_layer() -> None:
    generator = torch.Generator().manual_seed(3)
    (first,), label, sentence = gaussian_layers([2.0], 400, 15, 32)
    mixed = [first @ torch.randn(32, 32, generator=generator) for _ in range(2)]
    noisy = first + 0.5 * first.std() * torch.randn(first.shape, generator=generator)
    given = problem(torch.stack([first, *mixed, noisy]), label, sentence)
    raw, conditional = usable_bits(given), conditional_bits(given)
    assert raw.bits[0] > 0.4
    assert (conditional.bits.abs() < 0.004).all()


def test_what_a_layer_adds_to_layer_0_is_the_information_it_adds() -> None:
    label = torch.randint(2, (9000,), generator=torch.Generator().manual_seed(4))
    noise = torch.randn(2, 9000, 12, generator=torch.Generator().manual_seed(5))
    noise[0, :, 0] += 1.5 * (label - 0.5)
    noise[1, :, 0] += 2.0 * (label - 0.5)
    found = conditional_bits(problem(noise, label, torch.arange(450).repeat_interleave(20)))
    both = math.hypot(1.5, 2.0)  # independent pieces of evidence add as squared distances
    truth = binary_bits(both) - binary_bits(1.5)
    assert float(found.bits[1]) == pytest.approx(truth, rel=0.06)


def test_the_scale_of_a_layer_changes_nothing() -> None:
    features, label, sentence = gaussian_layers([1.0, 1.0, 2.0], 200, 10, 32)
    grown = features * (2.0 ** torch.tensor([0.0, 8.0, 30.0]))[:, None, None] + 0.0
    for read in (usable_bits, conditional_bits):
        plain, scaled = read(problem(features, label, sentence)), read(problem(grown, label, sentence))
        torch.testing.assert_close(plain.bits, scaled.bits, atol=1e-4, rtol=0)


def test_a_dimension_that_never_moves_is_no_feature() -> None:
    features, label, sentence = gaussian_layers([2.0], 200, 10, 8)
    constant = torch.cat((features, torch.full((1, 2000, 4), 1234.5)), dim=2)
    plain = usable_bits(problem(features, label, sentence)).bits
    torch.testing.assert_close(usable_bits(problem(constant, label, sentence)).bits, plain, atol=1e-4, rtol=0)


def word_types(classes: int, types: int, sentences: int, words: int) -> tuple[Tensor, Tensor, Tensor]:
    """Not Gaussian: Zipfian word types with an embedding each, a class per type, context noise, squashed."""
    generator = torch.Generator().manual_seed(classes)
    n = sentences * words
    kind = torch.multinomial(1 / torch.arange(1.0, types + 1), n, True, generator=generator)
    of_type = torch.randint(classes, (types,), generator=generator)
    centre = torch.randn(types, 48, generator=generator) + torch.randn(classes, 48, generator=generator)[of_type] * 0.5
    x = centre[kind] + torch.randn(n, 48, generator=generator)
    x = torch.tanh(x @ torch.randn(48, 48, generator=generator) / 7) + 0.2 * x
    return x, of_type[kind], torch.arange(sentences).repeat_interleave(words)


def reference(given: Problem, candidates: tuple[float, ...]) -> tuple[float, float]:
    """Bits of scikit-learn's logistic regression and accuracy of its ridge classifier, on the same folds."""
    features, label, fold = given.features[0].numpy(), given.label.numpy(), given.fold.numpy()
    bits, right = 0.0, 0
    for held in range(5):
        train, test = fold != held, fold == held
        mean, deviation = features[train].mean(0), features[train].std(0)
        x, z = (features[train] - mean) / deviation, (features[test] - mean) / deviation
        inner = fold[train] == (held + 1) % 5
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fits = [LogisticRegression(C=c, max_iter=100).fit(x[~inner], label[train][~inner]) for c in candidates]
            losses = [-log_probability(fit, x[inner], label[train][inner]).sum() for fit in fits]
            best = LogisticRegression(C=candidates[int(np.argmin(losses))], max_iter=200).fit(x, label[train])
        share = np.bincount(label[train]) / train.sum()
        bits += float((log_probability(best, z, label[test]) - np.log(share[label[test]])).sum()) / math.log(2)
        right += int((RidgeClassifier(alpha=10.0).fit(x, label[train]).predict(z) == label[test]).sum())
    return bits / len(label), right / len(label)


def log_probability(fit: LogisticRegression, x: np.ndarray, label: np.ndarray) -> np.ndarray:
    return np.asarray(fit.predict_log_proba(x)[np.arange(len(x)), label])


@pytest.mark.parametrize(("classes", "words"), [(2, 12), (8, 8), (12, 3)])
def test_bits_are_those_of_logistic_regression_on_the_same_folds(classes: int, words: int) -> None:
    x, label, sentence = word_types(classes, 500, 250, words)
    given = problem(x[None], label, sentence, classes)
    bits, accuracy = reference(given, (0.03, 0.3))
    found = usable_bits(given)
    assert float(found.bits) == pytest.approx(bits, rel=0.05)
    # A classifier right a share a of the time, errors spread evenly, knows at least this much (Fano).
    error = 1 - accuracy
    fano = found.base_bits - (
        -accuracy * math.log2(accuracy) - error * math.log2(error) + error * math.log2(max(1, len(given.classes) - 1))
    )
    assert float(found.bits) > fano - 0.05


def test_rare_classes_are_left_out_and_reported() -> None:
    features, label, sentence = gaussian_layers([2.0], 200, 10, 8)
    label[:15] = 2
    label[100:150] = 3  # fifty words, but of five sentences only
    found = usable_bits(problem(features, label, sentence, 5))
    assert found.classes == ("class 0", "class 1")
    assert found.rare == {"class 2": 15, "class 3": 50}
    assert found.n == int(found.words.sum()) == 2000 - 65


def test_a_class_that_one_fold_owns_gives_a_number_and_not_nan() -> None:
    features, label, sentence = gaussian_layers([2.0], 200, 10, 8)
    own = assign_folds(200, 5)
    label[own[sentence] == 3] = 2
    found = usable_bits(problem(features, label, sentence, 3))
    assert found.gain.isfinite().all() and found.bits.isfinite().all()


def test_unlabelled_words_and_empty_sentences_count_nowhere() -> None:
    features, label, sentence = gaussian_layers([2.0], 200, 10, 8)
    label[sentence < 20] = -1
    found = usable_bits(problem(features, label, sentence, sentences=210))
    assert found.n == 1800 and not found.words[:20].any() and not found.words[200:].any()
    assert (found.gain[:, found.words == 0] == 0).all()


def test_folds_are_fixed_balanced_and_whole_sentences() -> None:
    folds = assign_folds(403, 5, seed=7)
    assert torch.equal(folds, assign_folds(403, 5, seed=7)) and not torch.equal(folds, assign_folds(403, 5, seed=8))
    assert sorted(torch.bincount(folds).tolist()) == [80, 80, 81, 81, 81]


def test_duplicates_and_documents_stay_in_one_fold_and_folds_stay_even() -> None:
    document = torch.arange(400) // 7
    folds = assign_folds(400, 5, seed=3, groups=document)
    assert all(len(folds[document == one].unique()) == 1 for one in range(58))
    sizes = torch.bincount(folds).tolist()
    assert max(sizes) - min(sizes) <= 7
    assert torch.equal(folds, assign_folds(400, 5, seed=3, groups=document))
    with pytest.raises(Untestable, match="9 groups"):
        assign_folds(400, 5, groups=torch.arange(400) % 9)
    with pytest.raises(Untestable, match="Give one per sentence"):
        assign_folds(400, 5, groups=document[:-1])


def test_sentences_copied_into_other_folds_flatter_and_grouped_copies_do_not() -> None:
    generator = torch.Generator().manual_seed(6)
    original = torch.arange(180) % 60  # every sentence stands three times; 600 distinct words for 256 dimensions
    x, label = torch.randn(600, 256, generator=generator), torch.randint(2, (600,), generator=generator)
    word = (original[:, None] * 10 + torch.arange(10)).flatten()
    sentence = torch.arange(180).repeat_interleave(10)

    def bits(folds: Tensor) -> float:
        return float(usable_bits(prepare("copies", x[None, word], label[word], sentence, folds, ("a", "b"))).bits)

    assert bits(assign_folds(180, 5)) > 0.1
    assert bits(assign_folds(180, 5, groups=original)) < 0.02


def test_the_same_numbers_come_out_on_any_number_of_threads() -> None:
    features, label, sentence = gaussian_layers([1.0, 2.0], 100, 10, 64)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(conditional_bits(problem(features, label, sentence)).gain)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


def test_three_sentences_are_untestable() -> None:
    features, label, sentence = gaussian_layers([2.0], 3, 100, 8)
    with pytest.raises(Untestable, match="at least 2 sentences"):
        problem(features, label, sentence)
    with pytest.raises(Untestable, match="a reading needs 2 classes, 100 words and 30 sentences"):
        problem(features, label, sentence, sentences=100)


def test_one_class_only_is_untestable() -> None:
    features, label, sentence = gaussian_layers([2.0], 100, 10, 8)
    with pytest.raises(Untestable, match="1 classes"):
        problem(features, torch.zeros_like(label), sentence)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_activations_that_are_not_finite_are_untestable(bad: float) -> None:
    features, label, sentence = gaussian_layers([2.0], 100, 10, 8)
    features[0, 17, 3] = bad
    with pytest.raises(Untestable, match="not finite"):
        problem(features, label, sentence)


def test_labels_longer_than_the_activations_are_refused() -> None:
    features, label, sentence = gaussian_layers([2.0], 100, 10, 8)
    with pytest.raises(Untestable, match="1001 labels"):
        problem(features, torch.cat((label, label[:1])), sentence)


def test_too_few_folds_are_refused() -> None:
    with pytest.raises(Untestable, match="at least 3 folds"):
        assign_folds(100, 2)


def test_a_reading_given_layer_0_needs_layer_0() -> None:
    features, label, sentence = gaussian_layers([2.0, 2.0], 100, 10, 8)
    folds = assign_folds(100, 5)
    with pytest.raises(Untestable, match="needs layer 0"):
        conditional_bits(prepare("planted", features, label, sentence, folds, ("a", "b"), layers=(1, 2)))
