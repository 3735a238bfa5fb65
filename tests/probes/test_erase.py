"""What is erased is gone, what is not is left, and erasing costs only where the model still needs it."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lab.errors import LabError
from lab.model import GPT, GPTConfig
from probes.layers.ablate import erasure_costs
from probes.layers.collect import BadActivations
from probes.layers.erase import Eraser, Spectrum, fit_leace, random_eraser
from probes.layers.erasers import Concept
from probes.layers.groups import Group
from probes.layers.probe_set import ProbeSet
from probes.layers.problem import Untestable
from probes.layers.use import use
from tests.probes.settling import Settling, sentences
from tests.probes.toys import Toy, probe_set

SET = probe_set()
NO_LIMIT = dict.fromkeys(range(9), float("inf"))


def gap(h: Tensor, label: Tensor) -> float:
    means = [h[label == one].double().mean(0) for one in torch.unique(label)]
    return max(float((one - means[0]).abs().max()) for one in means)


def mixed(words: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(words, width, generator=generator) @ torch.randn(width, width, generator=generator)


# --- LEACE --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_rare_concept_is_erased_where_the_published_implementation_leaves_all_of_it(dtype: torch.dtype) -> None:
    from concept_erasure import LeaceEraser

    generator = torch.Generator().manual_seed(0)
    h = torch.randn(20_000, 32, generator=generator, dtype=dtype)
    label = (torch.arange(20_000) % 100 == 0).long()
    for one in (0, 1):
        h[label == one] -= h[label == one].mean(0)
    h[label == 1, 0] += 1
    before = gap(h, label)
    assert before == pytest.approx(1.0, abs=1e-5)
    assert gap(fit_leace(h, label).apply(h), label) < 1e-6
    published = LeaceEraser.fit(h.double(), label.double())
    assert gap(published(h.double()), label) == pytest.approx(before, rel=1e-3)


@pytest.mark.parametrize("classes", [2, 5])
def test_a_common_concept_is_erased_as_by_the_published_implementation(classes: int) -> None:
    from concept_erasure import LeaceEraser

    generator = torch.Generator().manual_seed(classes)
    label = torch.randint(classes, (5000,), generator=generator)
    h = (mixed(5000, 24) + torch.randn(classes, 24, generator=generator)[label]).double()
    ours = fit_leace(h, label)
    published = LeaceEraser.fit(h, torch.nn.functional.one_hot(label).double(), shrinkage=False)
    assert ours.rank == classes - 1
    torch.testing.assert_close(ours.apply(h), published(h), atol=1e-5, rtol=0)


def test_erasing_is_a_projection_of_the_least_change_and_keeps_the_mean() -> None:
    label = torch.arange(3000) % 3
    h = mixed(3000, 16).double()
    h[:, 2] += 2 * label
    eraser = fit_leace(h, label)
    once = eraser.apply(h)
    torch.testing.assert_close(eraser.apply(once), once, atol=1e-9, rtol=0)
    torch.testing.assert_close(once.mean(0), h.mean(0), atol=1e-9, rtol=0)
    change = float((once - h).square().sum(1).mean())
    assert change == pytest.approx(eraser.removed, rel=1e-9)
    x = h - h.mean(0)
    subspace, _ = torch.linalg.qr(torch.stack([x[label == one].mean(0) for one in range(2)], dim=1))
    assert change < float(
        (x @ subspace).square().sum(1).mean()
    )  # the orthogonal projection erases as well, at more cost


def test_scale_still_dimensions_and_fewer_words_than_dimensions_do_not_matter() -> None:
    label = torch.arange(400) % 2
    h = mixed(400, 12).double()
    h[:, 1] += label
    scale = 10.0 ** torch.arange(-4, 8).double()
    expected = fit_leace(h, label).apply(h)
    torch.testing.assert_close(fit_leace(h * scale, label).apply(h * scale) / scale, expected, atol=1e-6, rtol=0)
    still = torch.cat((h, torch.full((400, 1), 1e4).double()), dim=1)
    torch.testing.assert_close(fit_leace(still, label).apply(still)[:, :12], expected, atol=1e-9, rtol=0)
    assert bool((fit_leace(still, label).apply(still)[:, 12] == 1e4).all())
    wide = torch.cat((h, h.roll(1, 0), mixed(400, 500, 1).double()), dim=1)[:40]
    assert gap(fit_leace(wide, label[:40]).apply(wide), label[:40]) < 1e-8


def test_words_without_a_label_are_not_used() -> None:
    label, h = torch.arange(300) % 2, mixed(300, 8).double()
    some = torch.where(torch.arange(300) < 200, label, -1)
    torch.testing.assert_close(fit_leace(h, some).left, fit_leace(h[:200], label[:200]).left)


def test_random_erasers_have_the_rank_and_remove_the_variance_that_is_asked_for_and_differ() -> None:
    h = mixed(3000, 20).double()
    spectrum, generator = Spectrum.of(h), torch.Generator().manual_seed(0)
    for rank in (1, 3):
        target = float(spectrum.variance[5 : 5 + rank].sum())
        found = [random_eraser(spectrum, rank, target, generator) for _ in range(3)]
        for eraser in found:
            change = eraser.apply(h) - h
            assert float(change.square().sum(1).mean()) == pytest.approx(target, rel=1e-6)
            assert int(torch.linalg.matrix_rank(change, rtol=1e-6)) == rank == eraser.rank
            torch.testing.assert_close(eraser.apply(eraser.apply(h)), eraser.apply(h), atol=1e-8, rtol=0)
        assert float((found[0].left - found[1].left).abs().max()) > 1e-3


def test_what_cannot_be_erased_is_refused_with_the_reason() -> None:
    h = mixed(100, 4)
    with pytest.raises(Untestable, match="1 classes"):
        fit_leace(h, torch.zeros(100, dtype=torch.long))
    with pytest.raises(Untestable, match="5 labels for 100 words"):
        fit_leace(h, torch.zeros(5, dtype=torch.long))
    with pytest.raises(Untestable, match="finite"):
        fit_leace(torch.full((100, 4), torch.nan), torch.arange(100) % 2)
    with pytest.raises(Untestable, match="all activations are equal"):
        fit_leace(torch.ones(100, 4), torch.arange(100) % 2)
    with pytest.raises(Untestable, match="rank 9 of 4"):
        random_eraser(Spectrum.of(h), 9, 1.0, torch.Generator())


# --- what erasing costs -------------------------------------------------------------------------------------------------


def measured(some: ProbeSet) -> tuple[Tensor, Tensor]:
    words = [w for w in range(some.words) if some.word_position[w] + 1 < len(some.tokens[some.word_sentence[w]])]
    target = [some.tokens[some.word_sentence[w]][some.word_position[w] + 1] for w in words]
    return torch.tensor(words), torch.tensor(target)


def test_running_the_blocks_above_equals_editing_by_a_hook_in_a_whole_forward_pass() -> None:
    model = GPT(GPTConfig(n_layers=3, d_model=32, n_heads=2, n_ctx=16, d_vocab=600))
    words, target = measured(SET)
    eraser = fit_leace(mixed(500, 32), torch.arange(500) % 4)
    nothing = Eraser(eraser.mean, 0 * eraser.left, eraser.right, 0.0)
    costs = erasure_costs(model, SET, words, target, {layer: [nothing, eraser] for layer in range(4)}, NO_LIMIT)
    for layer, rise in costs.rise.items():
        assert float(rise[0].abs().max()) < 1e-5  # nothing erased, nothing lost, up to the order of sums
        name = "blocks.0.hook_resid_pre" if layer == 0 else f"blocks.{layer - 1}.hook_resid_post"
        for word in range(0, len(words), 37):
            sentence, position = SET.word_sentence[int(words[word])], SET.word_position[int(words[word])]
            ids = torch.tensor([SET.tokens[sentence]])
            hook = (name, lambda value, hook: eraser.apply(value))
            with torch.no_grad():
                edited = model.run_with_hooks(ids, return_type="loss", loss_per_token=True, fwd_hooks=[hook])
                plain = model(ids, return_type="loss", loss_per_token=True)
            assert float(rise[1, word]) == pytest.approx(float(edited[0, position] - plain[0, position]), abs=1e-4)


def test_positions_beyond_the_norm_limit_are_left_alone_and_counted() -> None:
    model = GPT(GPTConfig(n_layers=2, d_model=32, n_heads=2, n_ctx=16, d_vocab=600))
    words, target = measured(SET)
    eraser = fit_leace(mixed(500, 32), torch.arange(500) % 2)
    costs = erasure_costs(model, SET, words, target, {1: [eraser]}, {1: 0.0})
    assert float(costs.rise[1].abs().max()) < 1e-5
    used = {SET.word_sentence[w] for w in words.tolist()}
    assert costs.spared[1] == sum(len(SET.tokens[s]) for s in used)


def test_erasing_a_known_direction_hurts_only_before_the_block_that_reads_it() -> None:
    model = Settling([4])
    some = sentences(model, 30, 6, 0)
    words, target = measured(some)
    axis = torch.zeros(model.embed.weight.shape[1], 1, dtype=torch.float64)
    axis[1] = 1  # the sign a
    eraser = Eraser(torch.zeros(len(axis)).double(), axis, axis.T.clone(), 1.0)
    costs = erasure_costs(model, some, words, target, {layer: [eraser] for layer in range(9)}, NO_LIMIT)
    rises = torch.stack([costs.rise[layer].mean() for layer in range(9)])
    torch.testing.assert_close(rises[:4], torch.full((4,), 0.69).double(), atol=0.02, rtol=0)  # one in two, in nats
    torch.testing.assert_close(rises[4:], torch.zeros(5).double(), atol=1e-6, rtol=0)


# --- the reading --------------------------------------------------------------------------------------------------------


def concepts(model: Settling, train: ProbeSet, test: ProbeSet, label: str = "sign") -> tuple[Concept, Concept]:
    kind, labels = torch.tensor(test.labels["kind"]), torch.tensor(train.labels[label])
    half = model.kinds // 2
    return (
        Concept(Group("function words", "sign", kind < half), labels),
        Concept(Group("semantic concepts", "sign", kind >= half), labels),
    )


def test_the_centre_of_the_cost_lies_where_the_model_needs_what_is_erased() -> None:
    model = Settling([2] * 3 + [6] * 3)
    train, test = sentences(model, 80, 10, 0), sentences(model, 60, 10, 1)
    a, b = concepts(model, train, test)
    found = use(model, train, test, a, b, layers=9, replicates=300)
    assert found.name == "use" and found.untestable == () and found.delta is not None
    assert found.b is not None and found.a.depth is not None and found.b.depth is not None
    # a is needed at 0, 1 by A's kinds and at 0..5 by B's: centres 0.5 / 8 and 2.5 / 8
    assert found.a.depth.value == pytest.approx(0.5 / 8, abs=0.04)
    assert found.b.depth.value == pytest.approx(2.5 / 8, abs=0.04)
    assert found.delta.value == pytest.approx(0.25, abs=0.04) and found.delta.lo > 0.15
    assert found.a.gain is not None and found.a.gain.lo > 0.3 and found.a.curve is not None
    assert found.a.curve.layers == tuple(range(9)) and found.a.curve.unit == "nats"
    assert abs(found.a.curve.value[7]) < 0.1 and found.a.words == found.b.words
    cost = found.settings["cost"][0]
    assert cost["subject"] == "function words" and cost["rank"] == [1] * 9
    assert cost["removed_variance_random"] == pytest.approx(cost["removed_variance"], rel=0.01)
    assert cost["on"]["semantic concepts"]["erased"][4] > 0.5 > abs(cost["on"]["function words"]["erased"][4])
    assert [found.settings[name] for name in ("sentences", "subspaces", "layers")] == [100, 5, list(range(9))]
    assert found.variants[0].name == "half n" and found.variants[0].value == pytest.approx(0.25, abs=0.08)


def test_swapping_the_subjects_turns_the_sign_and_nothing_else_much() -> None:
    model = Settling([2] * 3 + [6] * 3)
    train, test = sentences(model, 80, 10, 0), sentences(model, 60, 10, 1)
    a, b = concepts(model, train, test)
    found = use(model, train, test, b, a, layers=(0, 2, 4, 6, 8), replicates=200)
    assert found.delta is not None and found.delta.hi < 0


def test_a_label_that_means_nothing_to_the_model_has_no_depth_and_a_reason() -> None:
    model = Settling([2] * 3 + [6] * 3)
    train, test = sentences(model, 80, 10, 0), sentences(model, 60, 10, 1)
    a, b = concepts(model, train, test)
    nothing = torch.randint(2, (train.words,), generator=torch.Generator().manual_seed(3))
    found = use(model, train, test, a, replace(b, labels=nothing), layers=3, replicates=200)
    assert found.delta is None and found.variants == () and found.b is not None and found.b.depth is None
    assert found.a.depth is not None  # what can be told of A is told
    assert "nowhere surely more than random subspaces" in found.untestable[0]


def test_too_few_words_no_labels_or_a_model_that_cannot_start_at_a_layer_are_refused() -> None:
    model = Settling([2, 6])
    train, few = sentences(model, 80, 10, 0), sentences(model, 10, 4, 1)
    a, b = concepts(model, train, few)
    assert "at least 100 in 30 are needed" in use(model, train, few, a, b).untestable[0]
    enough = sentences(model, 60, 10, 2)
    a, b = concepts(model, train, enough)
    unlabelled = torch.full((train.words,), -1)
    found = use(model, train, enough, replace(a, labels=unlabelled), replace(b, labels=unlabelled))
    assert found.delta is None and "no exploration word has a label" in found.untestable[0]
    with pytest.raises(LabError, match="3 labels for 800 exploration words"):
        use(model, train, enough, replace(a, labels=unlabelled[:3]), b)
    with pytest.raises(LabError, match="At least 2"):
        use(model, train, enough, a, b, subspaces=1)
    with pytest.raises(BadActivations, match="start_at_layer"):
        erasure_costs(Toy(), SET, *measured(SET), {}, {})
