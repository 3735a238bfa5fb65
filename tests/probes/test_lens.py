"""Depths of settling are found where we put them; what frequency explains vanishes, what class explains stays."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from lab.errors import LabError
from lab.model import GPT, GPTConfig
from probes.layers.adjust import Tokens, adjusted_difference, matched_difference, raw_difference, spline
from probes.layers.collect import BadActivations, collect
from probes.layers.decide import decide
from probes.layers.evidence import Evidence
from probes.layers.groups import Group, choose
from probes.layers.intervals import bootstrap_weights
from probes.layers.lens import LOGIT_LENS, Head, Reading, check_head, fit_ridge, read_tokens
from probes.layers.problem import Untestable
from tests.probes.settling import Settling, sentences
from tests.probes.toys import Toy, probe_set

SET = probe_set()


def small_gpt(tied: bool = False) -> GPT:
    return GPT(GPTConfig(n_layers=2, d_model=32, n_heads=2, n_ctx=16, d_vocab=600, tie_embeddings=tied))


def next_tokens(chosen: Tensor) -> Tensor:
    return torch.tensor([SET.tokens[SET.word_sentence[w]][SET.word_position[w] + 1] for w in chosen.tolist()])


def measurable_words() -> Tensor:
    inside = [p + 1 < len(SET.tokens[s]) for s, p in zip(SET.word_sentence, SET.word_position, strict=True)]
    return torch.tensor(inside).nonzero()[:, 0]


# --- lenses -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
def test_the_last_layer_of_every_lens_is_the_models_own_prediction(tied: bool) -> None:
    model, words = small_gpt(tied), measurable_words()
    values = collect(model, SET).values[:, words]
    ridge = fit_ridge(values, torch.tensor(SET.word_sentence)[words])
    readings = read_tokens(Head.of(model), (LOGIT_LENS, ridge), values, next_tokens(words))
    losses = [model(torch.tensor([ids]), return_type="loss", loss_per_token=True)[0].detach() for ids in SET.tokens]
    own = torch.stack([losses[SET.word_sentence[w]][SET.word_position[w]] for w in words.tolist()])
    for reading in readings:
        torch.testing.assert_close(reading.cross_entropy[-1].float(), own, atol=1e-4, rtol=1e-5)
        assert bool((reading.divergence[-1] == 0).all()) and bool(reading.agrees[-1].all())


def test_divergence_is_that_of_the_two_distributions_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    model, words = small_gpt(), measurable_words()
    values, target = collect(model, SET).values[:, words], next_tokens(words)
    (reading,) = read_tokens(Head.of(model), (LOGIT_LENS,), values, target)
    with torch.no_grad():
        log_p = [model.unembed(model.ln_final(layer)).double().log_softmax(-1) for layer in values]
    expected = torch.stack([(log_p[-1].exp() * (log_p[-1] - log)).sum(-1) for log in log_p])
    torch.testing.assert_close(reading.divergence, expected, atol=2e-5, rtol=1e-4)
    monkeypatch.setattr("probes.layers.lens._CHUNK_ENTRIES", 600 * 7)
    (in_sevens,) = read_tokens(Head.of(model), (LOGIT_LENS,), values, target)
    torch.testing.assert_close(in_sevens.divergence, reading.divergence, atol=1e-5, rtol=1e-4)


def test_the_ridge_lens_finds_an_affine_map_to_the_last_layer_in_spite_of_scale_and_still_dimensions() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 12, generator=generator)
    y = x @ torch.randn(12, 12, generator=generator) + 5 + 0.01 * torch.randn(2000, 12, generator=generator)
    scaled = 1000 * x
    scaled[:, 3] = 7.0  # what it held is lost, and dividing by its spread would be dividing by nothing
    lens = fit_ridge(torch.stack((x, scaled, y)), torch.arange(2000) // 10)
    assert float((lens.read(0, x) - y).square().mean()) < 1.2e-4
    without = torch.cat((x[:, :3], x[:, 4:], torch.ones(2000, 1)), dim=1)
    best = without @ torch.linalg.lstsq(without, y).solution
    torch.testing.assert_close(lens.read(1, scaled), best, atol=0.02, rtol=0.01)
    assert torch.equal(lens.read(2, y), y)


def test_the_penalty_grows_where_the_last_layer_cannot_be_foreseen() -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(3, 300, 40, generator=generator)
    values[1] = values[2] + 0.01 * values[1]
    lens = fit_ridge(values, torch.arange(300) // 5)
    assert lens.penalty[0] >= 1.0 and lens.penalty[1] <= 1e-3


def test_too_little_exploration_text_for_the_ridge_lens_is_untestable() -> None:
    with pytest.raises(Untestable, match="more words than dimensions"):
        fit_ridge(torch.randn(3, 30, 40), torch.arange(30))


def test_soft_depth_is_the_area_and_hard_depth_the_first_layer_that_stays() -> None:
    divergence = torch.tensor([[2.0, 2.0, 0.01], [2.0, 1.0, 0.0], [0.0, 9.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 0.0]])
    agrees = torch.tensor([[0, 1, 1], [0, 1, 1], [1, 0, 1], [1, 0, 1], [1, 1, 1]]).bool()
    reading = Reading("hand-made", divergence.double(), divergence.double(), agrees)
    torch.testing.assert_close(reading.soft_depth[:2], torch.tensor([0.5, 1.0]).double())
    assert reading.hard_depth.tolist() == [0.5, 1.0, 0.0]
    assert float(reading.unclipped[1]) == 21 / 8 and reading.measurable.tolist() == [True, True, False]


def test_a_model_without_a_head_or_with_more_than_a_head_is_refused() -> None:
    with pytest.raises(BadActivations, match=r"ln_final and unembed\.W_U"):
        Head.of(Toy())
    model = Settling([1, 2])
    scaled = Settling([1, 2])
    scaled.forward = lambda tokens: 3 * Settling.forward(scaled, tokens)  # type: ignore[method-assign]
    check_head(model, Head.of(model), [0, 1, 2], "blocks.7.hook_resid_post")
    with pytest.raises(BadActivations, match="logits are not unembed"):
        check_head(scaled, Head.of(scaled), [0, 1, 2], "blocks.7.hook_resid_post")


# --- adjustment ---------------------------------------------------------------------------------------------------------


def tokens_with(
    effect: float, seed: int = 0, sentences: int = 150, replicates: int = 400
) -> tuple[Tokens, Tensor, Tensor]:
    """Depths that bend with log frequency and, by `effect`, with a class that is commoner where words are frequent."""
    generator = torch.Generator().manual_seed(seed)
    sentence = torch.arange(sentences).repeat_interleave(8)
    log_frequency = torch.randn(len(sentence), generator=generator).double() * 2 - 10
    is_b = torch.rand(len(sentence), generator=generator) < torch.sigmoid(-(log_frequency + 10)).float()
    noise = 0.1 * torch.randn(len(sentence), generator=generator)
    noise += 0.05 * torch.randn(sentences, generator=generator)[sentence]
    depth = 0.5 - 0.15 * torch.tanh((log_frequency + 10) / 2) + effect * is_b + noise
    return Tokens(is_b, sentence, bootstrap_weights(sentences, replicates, seed)), depth, log_frequency


def bounds(samples: Tensor) -> tuple[float, float]:
    low, high = torch.quantile(samples, torch.tensor([0.025, 0.975]).double()).tolist()
    return low, high


def test_an_effect_of_frequency_alone_vanishes_after_adjustment_and_nearly_after_matching() -> None:
    tokens, depth, log_frequency = tokens_with(0.0)
    raw = raw_difference(tokens, depth)
    assert bounds(raw.samples)[0] > 0.05  # B is rarer, so it looks deeper
    adjusted = adjusted_difference(tokens, depth, spline(log_frequency))
    low, high = bounds(adjusted.samples)
    assert low < 0 < high and abs(adjusted.value) < 0.02
    matched = matched_difference(tokens, depth, log_frequency)
    assert matched is not None and matched.bins == 10 and abs(matched.estimate.value) < raw.value / 3


def test_an_effect_of_class_alone_survives_adjustment_and_matching() -> None:
    tokens, depth, log_frequency = tokens_with(-0.08)
    adjusted = adjusted_difference(tokens, depth, spline(log_frequency))
    matched = matched_difference(tokens, depth, log_frequency)
    assert adjusted.value == pytest.approx(-0.08, abs=0.025) and bounds(adjusted.samples)[1] < 0
    assert matched is not None and bounds(matched.estimate.samples)[1] < 0


def test_adjusted_intervals_hold_the_truth_as_often_as_they_say() -> None:
    inside = 0
    for seed in range(60):
        tokens, depth, log_frequency = tokens_with(0.05, seed, sentences=100, replicates=200)
        low, high = bounds(adjusted_difference(tokens, depth, spline(log_frequency)).samples)
        inside += low < 0.05 < high
    assert 51 <= inside <= 60  # 57 expected; 51 or fewer come by chance in 1 of 100


def test_a_replicate_equals_the_regression_on_the_drawn_tokens() -> None:
    tokens, depth, log_frequency = tokens_with(0.1)
    controls = spline(log_frequency)
    estimate = adjusted_difference(tokens, depth, controls)
    times = tokens.weights[5][tokens.sentence].long()
    rows = torch.arange(len(depth)).repeat_interleave(times)
    design = torch.cat((tokens.is_b[rows, None].double(), torch.ones(len(rows), 1).double(), controls[rows]), dim=1)
    expected = torch.linalg.lstsq(design, depth[rows, None], driver="gelsd").solution[0, 0]
    assert float(estimate.samples[5]) == pytest.approx(float(expected), abs=1e-6)


def test_a_spline_is_straight_beyond_its_outer_knots_and_falls_back_to_a_line() -> None:
    x = torch.linspace(-10, 10, 401, dtype=torch.float64)
    columns = spline(x)
    assert columns.shape == (401, 4)
    for end in (columns[:15], columns[-15:]):  # 5 % of the points lie beyond either knot
        torch.testing.assert_close(end.diff(dim=0).diff(dim=0), torch.zeros(13, 4).double(), atol=1e-9, rtol=0)
    assert spline(torch.tensor([1.0, 1.0, 2.0, 2.0])).shape[1] <= 3 and spline(torch.ones(9)).shape == (9, 1)


def test_a_class_that_is_its_frequency_cannot_be_adjusted() -> None:
    tokens, depth, log_frequency = tokens_with(0.0)
    with pytest.raises(Untestable, match="cannot be told apart"):
        adjusted_difference(tokens, depth, tokens.is_b[:, None] * 2.0 + 1e-3 * log_frequency[:, None])


# --- the reading --------------------------------------------------------------------------------------------------------

KINDS = 8


def read_planted(settles_at: list[int], count: Tensor, a: set[int], shares: Tensor, **options: object) -> Evidence:
    """Decide on the settling model: kind i settles at settles_at[i], its followers occur count[i] times, is A if in a."""
    model = Settling(settles_at)

    def draw(generator: torch.Generator) -> int:
        return int(torch.multinomial(shares, 1, generator=generator))

    exploration, confirmation = sentences(model, 60, 12, 0, draw), sentences(model, 60, 12, 1, draw)
    frequencies = torch.ones(model.d_vocab)
    frequencies[-4 * KINDS :] = count.repeat_interleave(4)
    is_a = torch.tensor([kind in a for kind in confirmation.labels["kind"]])
    groups = Group("function words", "kind", is_a), Group("content words", "kind", ~is_a)
    return decide(model, exploration, confirmation, *groups, frequencies, replicates=300, **options)  # type: ignore[arg-type]


LEVELS = 2.0 ** torch.arange(4, 20, 4).repeat(2)  # kinds 0..3 and 4..7: the same four frequencies


def test_tokens_are_settled_where_the_model_settles_them() -> None:
    found = read_planted([2] * 4 + [6] * 4, LEVELS, {0, 1, 2, 3}, torch.ones(KINDS))
    assert found.untestable == () and found.name == "decide" and found.b is not None and found.delta is not None
    assert found.a.depth is not None and found.a.depth.value == pytest.approx(2 / 8, abs=0.01)
    assert found.b.depth is not None and found.b.depth.value == pytest.approx(6 / 8, abs=0.01)
    assert found.a.gain is not None and found.a.gain.lo > 1.3  # one in four is 1.39 nats away, and the lens errs too
    assert (
        found.delta.value == pytest.approx(0.5, abs=0.02) and found.delta.lo > 0.45 and found.delta.unit == "document"
    )
    variants = {variant.name: variant.value for variant in found.variants}
    assert set(variants) == {
        *("adjusted", "raw", "matched", "hard depth", "logit lens", "logit lens, hard depth", "half n")
    }
    assert variants["adjusted"] == found.delta.value
    for name in ("raw", "matched", "logit lens", "half n"):
        assert variants[name] == pytest.approx(0.5, abs=0.06), name
    for name in (
        "hard depth",
        "logit lens, hard depth",
    ):  # a first choice of four is right by luck for a quarter or more
        assert 0.2 < variants[name] < 0.5, name
    assert found.a.words == found.b.words and found.a.curve is not None and found.a.half_gain == pytest.approx(2 / 8)
    assert found.a.curve.value[0] == 1 and found.a.curve.value[-1] == 0 and found.a.curve.value[2] < 0.01


def test_the_logit_lens_is_exact_on_a_model_that_speaks_its_language_throughout() -> None:
    model = Settling([2, 6])
    some = sentences(model, 20, 6, 0)
    target = torch.tensor([some.tokens[s][p + 1] for s, p in zip(some.word_sentence, some.word_position, strict=True)])
    (reading,) = read_tokens(Head.of(model), (LOGIT_LENS,), collect(model, some).values, target)
    due = torch.tensor([2, 6])[torch.tensor(some.labels["kind"])]
    torch.testing.assert_close(reading.soft_depth, due / 8, atol=1e-6, rtol=0, check_dtype=False)
    torch.testing.assert_close(reading.divergence[0], torch.full((120,), 1.386).double(), atol=0.02, rtol=0)
    right = reading.hard_depth[reading.hard_depth > 0]  # a draw of four words is broken by order, so some are right
    assert set(right.tolist()) == {2 / 8, 6 / 8} and 0.6 < len(right) / 120 < 0.9


def test_a_difference_of_frequency_alone_is_there_raw_and_gone_when_adjusted() -> None:
    settles_at = [7, 5, 3, 1] * 2  # the more frequent, the earlier: layers fall evenly with log frequency
    shares = torch.tensor([1.0, 2, 4, 8, 8, 4, 2, 1])  # A is mostly frequent, B mostly rare
    found = read_planted(settles_at, LEVELS, {0, 1, 2, 3}, shares)
    raw = next(variant for variant in found.variants if variant.name == "raw")
    assert raw.lo > 0.2 and found.delta is not None and abs(found.delta.value) < 0.02
    assert found.settings["class_and_frequency"] < -0.4 and found.settings["matched"]["pairs"] > 50


def test_without_words_enough_or_with_one_group_twice_there_is_a_reason_and_no_number() -> None:
    model = Settling([1, 2])
    few = sentences(model, 20, 4, 0)
    kind = torch.tensor(few.labels["kind"])
    a, b = Group("a", "kind", kind == 0), Group("b", "kind", kind == 1)
    for other in (b, Group("also a", "kind", kind == 0)):
        found = decide(model, few, few, a, other, torch.ones(model.d_vocab))
        assert found.delta is None and found.variants == () and found.a.depth is None
        assert "at least 100 in 30 are needed" in found.untestable[0]


def test_a_lens_that_does_not_read_the_model_makes_the_reading_untestable() -> None:
    found = read_planted([8] * KINDS, LEVELS, {0, 1, 2, 3}, torch.ones(KINDS))  # all is decided in the last block
    assert found.delta is None and found.a.depth is None and found.variants == ()
    assert "does not read this model" in found.untestable[0]
    assert found.settings["lens"]["ridge"]["top1"][-2] < 0.5


def test_one_group_alone_has_a_depth_and_a_share_of_replicates_in_a_region() -> None:
    model = Settling([2] * 4)
    train, test = sentences(model, 40, 8, 0), sentences(model, 40, 8, 1)
    group = Group("function words", "kind", torch.ones(test.words, dtype=torch.bool))
    found = decide(model, train, test, group, None, torch.ones(model.d_vocab), region=(0.0, 1 / 3), replicates=100)
    assert found.b is None and found.delta is None and found.p_in_region == 1.0
    assert found.a.depth is not None and found.a.depth.value == pytest.approx(0.25, abs=0.01)


def test_the_same_seed_gives_the_same_evidence_and_observing_leaves_the_model_as_it_was() -> None:
    first, second = (
        read_planted([2] * 4 + [6] * 4, LEVELS, {0, 1, 2, 3}, torch.ones(KINDS), tokens=400) for _ in range(2)
    )
    assert first.to_json() == second.to_json()


def test_groups_are_made_equal_and_words_of_both_count_for_the_more_special() -> None:
    a, b = torch.zeros(SET.words, dtype=torch.bool), torch.zeros(SET.words, dtype=torch.bool)
    a[:200], b[150:190] = True, True
    chosen = choose(SET, Group("content words", "", a), Group("animals", "", b), 1000, 0)
    assert int(chosen.is_b.sum()) == int((~chosen.is_b).sum()) and bool(b[chosen.words[chosen.is_b]].all())
    assert not bool(b[chosen.words[~chosen.is_b]].any())
    ends = [len(SET.tokens[SET.word_sentence[w]]) - 1 for w in chosen.words.tolist()]
    assert all(SET.word_position[w] < end for w, end in zip(chosen.words.tolist(), ends, strict=True))
    with pytest.raises(LabError, match="a group of 5 entries"):
        choose(SET, Group("a", "", a[:5]), None, 10, 0)


def test_frequencies_of_another_vocabulary_are_refused() -> None:
    model = Settling([1, 2])
    some = sentences(model, 20, 4, 0)
    group = Group("a", "kind", torch.ones(some.words, dtype=torch.bool))
    for wrong in (torch.ones(5), -torch.ones(model.d_vocab)):
        with pytest.raises(LabError, match="for each token id"):
            decide(model, some, some, group, None, wrong)
    assert replace(some, labels={}, classes={}).words == some.words
