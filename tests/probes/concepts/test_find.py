"""Subspaces planted in Gaussian activations → what is found, how well it is said to be known, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from probes.concepts.find import Found, find, noise_floor
from probes.concepts.subspace import (
    NoSubspace,
    check_orthonormal,
    matched_subspace,
    overlap,
    principal_cosines,
    random_subspace,
    span,
    variance_in,
)
from probes.layers.erase import Spectrum
from probes.layers.fit import Untestable, assign_folds, prepare, usable_bits
from tests.probes.toys import binary_bits

WIDTH, SENTENCES, WORDS = 24, 300, 10
SENTENCE = torch.arange(SENTENCES).repeat_interleave(WORDS)
UNIT = torch.arange(SENTENCES) // 5  # sixty documents
FOLDS = assign_folds(SENTENCES, 5, 0, UNIT)


def planted(distance: float = 2.0, seed: int = 0, classes: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Activations, labels, and the exact subspace: class means along own axes of a noise that is mixed, hence not round."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(classes, (len(SENTENCE),), generator=generator)
    mix = torch.eye(WIDTH) + 0.5 * torch.randn(WIDTH, WIDTH, generator=generator)
    noise = torch.randn(len(SENTENCE), WIDTH, generator=generator)
    if classes == 2:
        noise[:, 0] += distance * (label - 0.5)
        difference = mix[:1].double()
    else:
        noise[:, :classes] += distance * torch.nn.functional.one_hot(label, classes)
        means = mix[:classes].double()
        difference = (means - means.mean(0))[:-1]
    probe = torch.linalg.solve((mix.T @ mix).double(), difference.T)
    truth: Tensor = torch.linalg.qr(torch.cat((difference.T, probe), dim=1)).Q
    return noise @ mix, label, truth


def found_in(values: Tensor, label: Tensor, classes: tuple[str, ...] = ("no", "yes")) -> Found:
    return find(values, label, SENTENCE, FOLDS, classes, unit=UNIT)


@pytest.fixture(scope="module")
def binary() -> tuple[Found, Tensor, Tensor, Tensor]:
    values, label, truth = planted()
    return found_in(values, label), values, label, truth


def test_a_planted_subspace_is_found_to_within_its_noise_floor_and_a_random_one_is_not(
    binary: tuple[Found, Tensor, Tensor, Tensor],
) -> None:
    found, _, _, truth = binary
    assert (found.span.rank, found.span.asked, found.span.dropped) == (2, 2, 0)
    assert overlap(found.basis, truth) > found.floor.overlap > 0.8
    drawn = random_subspace(WIDTH, 2, torch.Generator().manual_seed(3))
    assert overlap(drawn, truth) < found.floor.overlap
    assert float(found.floor.random.mean()) == pytest.approx(2 / WIDTH, abs=0.05)
    assert found.floor.unit == "document" and found.floor.units == 60


def test_where_mean_difference_and_discriminant_differ_both_are_inside(
    binary: tuple[Found, Tensor, Tensor, Tensor],
) -> None:
    found, values, label, _ = binary
    difference = values[label == 1].double().mean(0) - values[label == 0].double().mean(0)
    within = torch.cat([values[label == k].double() - values[label == k].double().mean(0) for k in (0, 1)])
    probe = torch.linalg.solve(within.T @ within, difference)
    cosine = float(torch.nn.functional.cosine_similarity(difference, probe, dim=0))
    assert abs(cosine) < 0.7, "they would be one direction"
    for direction in (difference, probe):
        inside = (found.basis.T @ (direction / direction.norm())).norm()
        assert float(inside) > 0.999
    first = difference / difference.norm()
    torch.testing.assert_close(found.basis[:, 0], first)  # towards the last class, and not away from it
    assert float(found.basis[:, 0] @ probe / probe.norm()) < 0.9, "one column alone does not hold both"


def test_the_bits_inside_are_those_of_the_channel_and_of_the_whole_layer(
    binary: tuple[Found, Tensor, Tensor, Tensor],
) -> None:
    found, values, label, _ = binary
    whole = usable_bits(prepare("whole", values[None], label, SENTENCE, FOLDS, ("no", "yes")))
    assert float(found.probe.decoding.bits[0]) == pytest.approx(binary_bits(2.0), abs=0.04)
    assert float(found.probe.decoding.bits[0]) == pytest.approx(float(whole.bits[0]), abs=0.01)


def test_the_probe_reads_the_class_off_the_coordinates(binary: tuple[Found, Tensor, Tensor, Tensor]) -> None:
    found, values, label, _ = binary
    score = (values.double() - found.mean) @ found.basis @ found.probe.weight.T + found.probe.bias
    assert float((score.argmax(1) == label).double().mean()) == pytest.approx(0.841, abs=0.03)  # Φ(1)
    share = score.softmax(1)[:, 1]
    assert float(share.mean()) == pytest.approx(float(label.double().mean()), abs=0.02)  # calibrated on the whole


def test_labels_that_mean_nothing_have_no_bits_inside_the_subspace_that_they_span() -> None:
    """In sample such a subspace separates the classes; without each fold it cannot."""
    generator = torch.Generator().manual_seed(1)
    values, label = torch.randn(3000, 24, generator=generator), torch.randint(2, (3000,), generator=generator)
    found = found_in(values, label)
    assert float(found.probe.decoding.bits[0]) < 0.005
    assert found.floor.overlap < 0.5, "halves agree on nothing, and the floor says so"


def test_four_classes_give_six_columns_that_hold_the_planted_ones() -> None:
    values, label, truth = planted(2.5, classes=4)
    found = found_in(values, label, ("a", "b", "c", "d"))
    assert (found.span.rank, found.span.differences) == (6, 3)
    assert overlap(found.basis, truth) > found.floor.overlap > 0.7
    assert found.probe.weight.shape == (4, 6) and found.counts == tuple(torch.bincount(label).tolist())


def test_columns_that_repeat_others_are_dropped_and_counted() -> None:
    """Three classes on one line: one difference and one discriminant direction where four columns were asked for."""
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(900) % 3
    mix = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    values = torch.randn(900, 8, generator=generator, dtype=torch.float64) @ mix
    for k in range(3):
        values[label == k] -= values[label == k].mean(0)
    values[:, 0] += label.double()
    found = span(values, label, 1e-4)
    assert (found.asked, found.rank, found.dropped, found.differences) == (4, 2, 2, 1)


def test_a_subspace_of_round_noise_is_one_direction_when_the_discriminant_adds_none() -> None:
    """Within classes exactly round: Σ⁻¹ difference is the difference, and the second column would be rounding."""
    generator = torch.Generator().manual_seed(0)
    half = torch.linalg.qr(torch.randn(400, 6, generator=generator, dtype=torch.float64)).Q * 20
    half = half - half.mean(0)
    half = half @ torch.linalg.inv(torch.linalg.cholesky(half.T @ half / 400)).T
    label = torch.arange(800) // 400
    values = torch.cat((half, half))
    values[:, 2] += 3.0 * label
    found = span(values, label, 0.0)
    assert (found.rank, found.dropped) == (1, 1)


@given(
    width=st.integers(3, 12),
    classes=st.integers(2, 4),
    words=st.integers(12, 60),
    still=st.integers(0, 2),
    levels=st.sampled_from([0, 2, 5]),
    scale=st.sampled_from([1e-3, 1.0, 1e4]),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_the_basis_is_orthonormal_whatever_the_activations(
    width: int, classes: int, words: int, still: int, levels: int, scale: float, seed: int
) -> None:
    """Still dimensions, repeated words, coarse values and any scale: orthonormal columns, or a reason for none."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(words, width, generator=generator)
    if levels:
        values = (values * levels).round() / levels
    values[:, :still] = 1.0
    values = values * scale
    label = torch.arange(words) % classes
    try:
        found = span(values, label, 1e-3)
    except NoSubspace as error:
        assert "same mean" in str(error) or "all" in str(error)
        return
    basis = found.basis
    off = basis.T @ basis - torch.eye(found.rank, dtype=torch.float64)
    assert float(off.abs().max()) < 1e-9
    assert 1 <= found.rank < width and found.rank + found.dropped == 2 * (classes - 1)
    check_orthonormal(basis.float(), 1e-4)


def test_a_random_subspace_that_is_matched_holds_as_much_variance() -> None:
    values, _, truth = planted()
    spectrum, generator = Spectrum.of(values), torch.Generator().manual_seed(0)
    wanted = variance_in(spectrum, truth)
    direct = (values.double() - values.double().mean(0)) @ truth
    assert wanted == pytest.approx(float(direct.square().mean(0).sum()), rel=1e-6)
    for _ in range(5):
        drawn = matched_subspace(spectrum, 2, wanted, generator)
        assert variance_in(spectrum, drawn) == pytest.approx(wanted, rel=1e-3)
        torch.testing.assert_close(drawn.T @ drawn, torch.eye(2).double(), atol=1e-10, rtol=0)
        assert overlap(drawn, truth) < 0.9


@pytest.mark.parametrize("replicates", [6, pytest.param(60, marks=pytest.mark.slow)])
def test_the_noise_floor_lets_the_same_subspace_pass_and_stops_one_that_turned(replicates: int) -> None:
    """Other text of the same truth, documents that share noise; then the truth turned by 60 degrees."""
    alarms, missed = 0, 0
    for seed in range(replicates):
        values, label = drawn_text(seed, 0.0, 0)
        basis = span(values, label, 1e-3).basis
        floor = noise_floor(values, label, UNIT[SENTENCE], SENTENCE, 1e-3, seed=seed).overlap
        alarms += overlap(basis, span(*drawn_text(seed, 0.0, 1), 1e-3).basis) < floor
        missed += overlap(basis, span(*drawn_text(seed, math.pi / 3, 1), 1e-3).basis) >= floor
    assert alarms <= 0.1 * replicates and missed <= 0.05 * replicates


def drawn_text(seed: int, angle: float, sample: int) -> tuple[Tensor, Tensor]:
    """Class means 1.5 deviations apart, along a direction that is turned by an angle; the noise is mixed the same way."""
    world, generator = (torch.Generator().manual_seed(number) for number in (seed, 1000 + 2 * seed + sample))
    mix = torch.eye(WIDTH) + 0.5 * torch.randn(WIDTH, WIDTH, generator=world)
    label = torch.randint(2, (len(SENTENCE),), generator=generator)
    noise = 0.7**0.5 * torch.randn(len(SENTENCE), WIDTH, generator=generator)
    noise += 0.3**0.5 * torch.randn(int(UNIT.max()) + 1, WIDTH, generator=generator)[UNIT[SENTENCE]]
    noise[:, 0] += 1.5 * math.cos(angle) * (label - 0.5)
    noise[:, 1] += 1.5 * math.sin(angle) * (label - 0.5)
    return noise @ mix, label


def test_few_documents_are_split_by_sentence_and_it_is_said() -> None:
    values, label, _ = planted()
    floor = noise_floor(values, label, UNIT[SENTENCE] % 4, SENTENCE, 1e-3, splits=3)
    assert (floor.unit, floor.units) == ("sentence", SENTENCES)
    assert floor.to_dict()["splits"] == 3 and len(floor.to_dict()["angles_degrees"]) == 2


def test_a_class_that_lies_in_one_document_makes_a_floor_of_no_overlap_in_that_half() -> None:
    values, label, _ = planted(classes=3)
    label = torch.where((label == 2) & (UNIT[SENTENCE] != 0), 0, label)
    floor = noise_floor(values, label, UNIT[SENTENCE], SENTENCE, 1e-3, splits=4)
    assert float(floor.overlaps.max()) <= 0.5 + 1e-9  # two of four columns at most are in both halves


def test_angles_of_known_planes() -> None:
    axes = torch.eye(4, dtype=torch.float64)
    turned = torch.stack((axes[0], (axes[1] + axes[2]) / 2**0.5), dim=1)
    torch.testing.assert_close(principal_cosines(axes[:, :2], turned), torch.tensor([1.0, 0.5**0.5]).double())
    assert overlap(axes[:, :2], turned) == pytest.approx(0.75)
    assert overlap(axes[:, :2], axes[:, :1]) == pytest.approx(0.5)


def test_what_spans_nothing_is_refused_with_the_reason() -> None:
    values, label, _ = planted()
    with pytest.raises(NoSubspace, match="1 classes"):
        span(values, torch.zeros_like(label), 1e-3)
    with pytest.raises(NoSubspace, match="not finite"):
        span(torch.where(torch.arange(len(values))[:, None] == 7, torch.nan, values), label, 1e-3)
    with pytest.raises(NoSubspace, match="same mean"):
        span(torch.ones(40, 5), torch.arange(40) % 2, 1e-3)
    with pytest.raises(NoSubspace, match="nothing would be left outside"):
        span(values[:, :4], torch.arange(len(values)) % 4, 1e-3)
    with pytest.raises(Untestable, match="needs 2 classes"):
        found_in(values, torch.zeros_like(label))
    with pytest.raises(NoSubspace, match="not orthonormal"):
        check_orthonormal(torch.ones(6, 2), 1e-4)
    with pytest.raises(NoSubspace, match="no subspace"):
        check_orthonormal(torch.eye(3), 1e-4)
