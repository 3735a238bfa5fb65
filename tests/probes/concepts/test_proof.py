"""The proof of a freeze on planted looks: each verdict and flag where it belongs, and not where it does not."""

import json
from dataclasses import replace

import pytest
import torch

from probes.concepts.decisions import auroc, decisions
from probes.concepts.drift import Coordinates, affine_parts, drift, drift_ratio, weight_drift, writers
from probes.concepts.leak import Words, gain, leak
from probes.concepts.proof import _words, prove
from probes.concepts.rules import HOLDS, Facts, judge
from probes.layers.evidence import Interval
from probes.layers.intervals import bootstrap_weights
from probes.layers.problem import Untestable
from tests.probes.concepts.planted_proof import DOCUMENTS, LAYERS, WIDTH, World, concept, proof, world


@pytest.fixture(scope="module")
def made() -> World:
    return world()


# ------------------------------------------------------------------------------------------------- the measurements


@pytest.mark.parametrize("planted", [0.0, 0.01, 0.1, 0.33, 1.0])
def test_a_planted_drift_is_measured_and_its_interval_holds_it(made: World, planted: float) -> None:
    weights = bootstrap_weights(DOCUMENTS, 400, 0)
    found = drift(made.parent.coordinates, made.look(moved=planted).coordinates, weights)
    assert found.raw.lo <= planted <= found.raw.hi or abs(found.raw.value / planted - 1) < 0.05
    assert found.worst >= found.raw.value
    assert abs(sum(found.parts.values()) - found.raw.value**2) < 1e-9


def test_a_shift_a_factor_a_turn_and_noise_are_told_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200_000, 2, generator=generator, dtype=torch.float64)  # tr Cov = 2
    turn = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    assert affine_parts(x, x + torch.tensor([0.3, 0.4]))["bias"] == pytest.approx(0.125, abs=0.01)
    assert affine_parts(x, 1.5 * x)["scale"] == pytest.approx(0.25, abs=0.01)
    assert affine_parts(x, x + 0.2 * x @ turn)["rotation"] == pytest.approx(0.04, abs=0.01)
    noise = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    parts = affine_parts(x, x + 0.1 * noise)
    assert parts["rest"] == pytest.approx(0.01, abs=0.001)
    assert max(parts[name] for name in ("bias", "scale", "rotation")) < 1e-4


def test_the_worst_document_is_named_when_only_one_has_moved(made: World) -> None:
    start = made.parent.coordinates
    values = start.values.clone()
    values[start.document == 17] += 1.0
    found = drift(start, Coordinates(values, start.rms, start.document), bootstrap_weights(DOCUMENTS, 200, 0))
    assert found.worst_document == 17
    assert found.worst > 5 * found.raw.value


def test_the_normed_drift_sees_a_scale_that_the_raw_one_does_not(made: World) -> None:
    start = made.parent.coordinates
    louder = Coordinates(start.values, 2 * start.rms, start.document)
    found = drift(start, louder, bootstrap_weights(DOCUMENTS, 200, 0))
    assert found.raw.value == 0.0
    assert found.normed.value > 0.5
    assert found.rms_ratio == 2.0


def test_the_ratio_to_a_twin_is_paired_over_documents(made: World) -> None:
    weights = bootstrap_weights(DOCUMENTS, 400, 0)
    start, twin = made.parent.coordinates, made.look(moved=0.4, seed=3).coordinates
    tenth = Coordinates(start.values + 0.1 * (twin.values - start.values), start.rms, start.document)
    found = drift_ratio(start, tenth, twin, weights)
    assert found is not None
    assert found.lo == pytest.approx(0.1) and found.hi == pytest.approx(0.1)
    assert drift_ratio(start, tenth, start, weights) is None


def test_looks_at_other_tokens_are_refused(made: World) -> None:
    start = made.parent.coordinates
    fewer = Coordinates(start.values[:-1], start.rms[:-1], start.document[:-1])
    with pytest.raises(Untestable, match="same tokens"):
        drift(start, fewer, bootstrap_weights(DOCUMENTS, 50, 0))
    still = Coordinates(torch.ones_like(start.values), start.rms, start.document)
    with pytest.raises(Untestable, match="never vary"):
        drift(still, start, bootstrap_weights(DOCUMENTS, 50, 0))


def test_only_what_moves_within_the_subspace_and_below_the_layer_counts_as_weight_drift() -> None:
    generator = torch.Generator().manual_seed(0)
    names = ["embed.W_E", "blocks.0.attn.W_O", "blocks.0.mlp.W_out", "blocks.1.attn.W_O", "blocks.0.attn.W_Q"]
    before = {name: torch.randn(5, 8, generator=generator) for name in names}
    basis = torch.eye(8)[:, :2]
    assert writers(before, 1) == ["blocks.0.attn.W_O", "blocks.0.mlp.W_out", "embed.W_E"]
    outside = {name: one + torch.cat((torch.zeros(5, 2), torch.ones(5, 6)), 1) for name, one in before.items()}
    assert max(weight_drift(before, outside, basis, 1).values()) == 0.0
    shrunk = before | {"embed.W_E": 0.9 * before["embed.W_E"], "blocks.1.attn.W_O": before["blocks.1.attn.W_O"] + 9}
    assert weight_drift(before, shrunk, basis, 1)["embed.W_E"] == pytest.approx(0.1, rel=1e-5)
    assert max(weight_drift(before, shrunk, basis, 1).values()) == pytest.approx(0.1, rel=1e-5)


def test_churn_counts_changed_decisions_even_where_accuracy_stays() -> None:
    one = concept()
    before = torch.tensor([[1.0, 0.0], [-1.0, 0.0]] * 50)
    label = torch.tensor([1, 1] * 50)  # half of the decisions are right, before and after
    found = decisions(one, before, -before, label)
    assert found.accuracy is not None and found.accuracy.value == 0.5
    assert found.churn.value == 1.0
    assert decisions(one, before, before, label).churn.value == 0.0


def test_auroc_is_the_share_of_pairs_in_order_and_ties_count_half() -> None:
    score = torch.tensor([[0.0, 0.1], [0.0, 0.4], [0.0, 0.35], [0.0, 0.8]])
    assert auroc(score, torch.tensor([0, 0, 1, 1])) == 0.75
    assert auroc(torch.zeros(4, 2), torch.tensor([0, 0, 1, 1])) == 0.5
    assert auroc(score, torch.ones(4, dtype=torch.long)) is None


# ------------------------------------------------------------------------------------------------------ the verdicts


def test_coordinates_that_have_not_moved_at_all_are_frozen_exactly(made: World) -> None:
    found = proof(made, made.look())
    assert found["verdict"] == "FROZEN-EXACT"
    assert found["flags"] == []
    assert found["undecided"] == {}


def test_coordinates_held_within_a_few_per_cent_are_frozen_functionally(made: World) -> None:
    found = proof(made, made.look(moved=0.02))
    assert found["verdict"] == "FROZEN-FUNCTIONAL"
    assert found["drift"]["ratio"]["hi"] < 0.1


def test_weights_held_while_coordinates_drift_are_frozen_in_the_weights_only(made: World) -> None:
    assert proof(made, made.look(moved=0.3), weights=3e-8)["verdict"] == "FROZEN-WEIGHTS-ONLY"
    assert proof(made, made.look(moved=0.3), weights=3e-6)["verdict"] == "NOT FROZEN"


def test_a_run_without_a_freeze_is_not_frozen(made: World) -> None:
    found = proof(made, made.look(moved=0.33, seed=9))
    assert found["verdict"] == "NOT FROZEN"
    assert any("times as far as the unfrozen twin" in reason for reason in found["reasons"])


def test_a_drift_as_small_as_the_twins_is_no_freeze(made: World) -> None:
    found = proof(made, made.look(moved=0.03, seed=2), unfrozen=made.look(moved=0.03, seed=3))
    assert found["verdict"] == "NOT FROZEN"


# --------------------------------------------------------------------------------------------------------- the flags


def words(made: World) -> Words:
    return _words(concept(), made.text, 0)


@pytest.mark.parametrize("layer", [1, 2, 4])
def test_a_label_learned_outside_the_subspace_is_told_at_its_layer_and_nowhere_else(made: World, layer: int) -> None:
    one, two = (
        leak(look.features, LAYERS, concept().basis, words(made))
        for look in (made.look(leaked=2.0, at=layer), made.parent)
    )
    found = gain(one.outside, two.outside, bootstrap_weights(words(made).documents, 200, 0))
    assert [at for at, gained in zip(LAYERS, found, strict=True) if gained.lo > 0.02] == [layer]


def test_a_leak_is_flagged_unless_the_unfrozen_twin_learned_the_same_outside(made: World) -> None:
    assert proof(made, made.look(leaked=2.0))["flags"] == ["LEAK"]
    twin = made.look(moved=0.33, seed=7, leaked=2.0)
    assert proof(made, made.look(leaked=2.0), unfrozen=twin)["flags"] == []


def test_what_is_in_the_subspace_is_no_leak_and_a_fresh_eraser_takes_it_out(made: World) -> None:
    models = proof(made, made.look())["leak"]["models"]
    at = 1  # the concept's layer
    assert models["parent"]["whole"]["accuracy"][at] > 0.8  # two deviations apart: .84 of words are told
    assert abs(models["parent"]["outside"]["accuracy"][at] - 0.5) < 0.05
    # An eraser from 400 other words leaves the classes √(12 · 8/400) deviations apart, which tells .60 of them.
    assert models["parent"]["erased"]["accuracy"][at] < 0.66
    leaked = proof(made, made.look(leaked=2.0, at=2))["leak"]["models"]["branch"]
    assert leaked["outside"]["accuracy"][at] > 0.8
    assert leaked["outside"]["bits"][at] > 0.2


def test_a_concept_that_nothing_depends_on_any_more_is_unused(made: World) -> None:
    assert proof(made, made.look(rise=0.02))["flags"] == ["UNUSED"]
    assert proof(made, made.look(rise=0.15))["flags"] == []


def test_a_concept_that_was_never_used_cannot_fall_out_of_use(made: World) -> None:
    idle = World(made.text, made.look(rise=0.0), made.label)
    found = proof(idle, idle.look())
    assert found["flags"] == []
    assert "at the freeze" in found["undecided"]["UNUSED"]


def test_a_loss_above_the_random_twins_is_costly_and_one_above_the_unfrozen_twins_is_not(made: World) -> None:
    assert proof(made, made.look(nats=0.05))["flags"] == ["COSTLY"]
    assert proof(made, made.look(nats=0.05), random=made.look(moved=0.3, nats=0.05))["flags"] == []
    assert proof(made, made.look(nats=0.005))["flags"] == []


def test_a_label_that_has_turned_to_another_direction_makes_the_frozen_one_stale(made: World) -> None:
    found = proof(made, made.look(turned=True))
    assert "STALE-DIRECTION" in found["flags"]
    assert found["refound"]["branch"]["overlap"] < found["refound"]["branch"]["floor_low"]
    assert "STALE-DIRECTION" not in proof(made, made.look(moved=0.02))["flags"]


# ----------------------------------------------------------------------------------------------------- what is missing


def test_missing_twins_are_named_and_what_needs_them_is_left_undecided(made: World) -> None:
    looks = {"parent": made.parent, "branch": made.look(moved=0.02)}
    found = prove(
        concept(), made.text, looks, {"branch": {"embed.W_E": 0.1}}, {"random": "not trained"}, replicates=200
    )
    assert found["verdict"] == "UNDECIDED"
    assert set(found["missing"]) == {"unfrozen", "random", "lower"}
    assert set(found["undecided"]) == {"verdict", "LEAK", "COSTLY"}
    assert "unfrozen" in found["undecided"]["verdict"]


def test_an_exact_freeze_needs_no_twin_and_a_large_drift_is_none_without_one(made: World) -> None:
    for moved, expected in ((0.0, "FROZEN-EXACT"), (0.5, "NOT FROZEN")):
        looks = {"parent": made.parent, "branch": made.look(moved=moved)}
        found = prove(concept(), made.text, looks, {"branch": {"embed.W_E": 0.1}}, {}, replicates=100, splits=8)
        assert found["verdict"] == expected


def test_a_direction_without_classes_is_proved_by_its_sides_and_says_what_it_cannot_tell(made: World) -> None:
    bare = replace(concept(classes=()), mean=torch.full((WIDTH,), 5.0))
    unlabelled = replace(made.text, label=torch.full_like(made.label, -1))
    looks = {"parent": made.parent, "branch": made.look(moved=0.5), "unfrozen": made.look(moved=0.5, seed=4)}
    weights = {"branch": {"embed.W_E": 0.1}, "unfrozen": {"embed.W_E": 0.1}}
    found = prove(bare, unlabelled, looks, weights, {}, replicates=100, splits=8)
    assert found["decisions"]["branch"]["accuracy"] is None
    assert found["decisions"]["branch"]["churn"]["value"] > 0.05
    assert {"LEAK", "STALE-DIRECTION"} <= set(found["undecided"])


def test_a_proof_is_the_same_twice_and_plain_json(made: World) -> None:
    one, two = (json.dumps(proof(made, made.look(moved=0.05)), allow_nan=False) for _ in range(2))
    assert one == two


def test_thresholds_are_met_at_their_very_value() -> None:
    here = Interval(0.09, 0.08, 0.10)
    facts = Facts(1.0, here, 0.2, 0.02, Interval(0.3, 0.2, 0.4), {}, None, None, None)
    assert judge(facts, {}).name == "FROZEN-FUNCTIONAL"
    assert judge(Facts(1.0, here, 1e-4, 0.02, None, {}, None, None, None), {}).name == "FROZEN-EXACT"
    beyond = Facts(1.0, here, 0.2, 0.0201, Interval(0.3, 0.2, 0.4), {}, None, None, None)
    assert judge(beyond, {}).name == "NOT FROZEN"


def test_every_mode_says_what_it_does_not_hold() -> None:
    assert set(HOLDS) == {"none", "anchor", "pin", "write", "write+anchor", "lower"}
    assert "dictionary, not the function" in HOLDS["write"]
    assert "approximate" in HOLDS["anchor"]
    assert "exact for every input" in HOLDS["pin"]
