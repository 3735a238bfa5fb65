"""Activations come from the right layer, word and sentence, and a bad model is refused."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lab.model import GPT, GPTConfig
from probes.layers.collect import BadActivations, collect, outliers
from tests.probes.toys import Toy, probe_set

SET = probe_set()


def test_a_batch_gives_each_sentence_what_it_gets_alone() -> None:
    model, found = Toy(), collect(Toy(), SET)
    assert found.values.shape == (3, SET.words, 16) and found.values.dtype == torch.float32
    for word in range(0, SET.words, 17):
        tokens = torch.tensor([SET.tokens[SET.word_sentence[word]]])
        _, cache = model.run_with_cache(tokens)
        position = SET.word_position[word]
        expected = [cache["blocks.0.hook_resid_pre"], *(cache[f"blocks.{i}.hook_resid_post"] for i in range(2))]
        torch.testing.assert_close(found.values[:, word], torch.stack([x[0, position] for x in expected]))


def test_our_gpt_is_collected_with_layer_0_the_embedding_sum() -> None:
    model = GPT(GPTConfig(n_layers=2, d_model=32, n_heads=2, n_ctx=16, d_vocab=600))
    found = collect(model, SET)
    tokens = torch.tensor([SET.tokens[s][p] for s, p in zip(SET.word_sentence, SET.word_position, strict=True)])
    torch.testing.assert_close(found.values[0], model.W_E[tokens].detach())
    whole, cache = model.run_with_cache(torch.tensor([SET.tokens[0]]))
    at = [word for word in range(SET.words) if SET.word_sentence[word] == 0]
    expected = cache["blocks.1.hook_resid_post"][0, [SET.word_position[word] for word in at]]
    torch.testing.assert_close(found.values[2, at], expected.detach(), atol=1e-5, rtol=1e-5)
    assert whole.logits.shape[-1] == 600 if hasattr(whole, "logits") else whole.shape[-1] == 600


def test_chosen_layers_are_the_same_numbers_as_all_of_them() -> None:
    everything, some = collect(Toy(), SET), collect(Toy(), SET, layers=(2, 0))
    assert some.layers == (0, 2)
    assert torch.equal(some.values, everything.values[[0, 2]])


def test_collecting_leaves_mode_hooks_and_generators_as_they_were() -> None:
    model = Toy().train()
    before = torch.get_rng_state()
    collect(model, SET)
    assert model.training and torch.equal(torch.get_rng_state(), before)
    assert not any(point._forward_hooks for point in model.hook_dict.values())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_position_of_enormous_norm_is_left_out_at_every_layer_and_counted() -> None:
    model = Toy()
    token = SET.tokens[3][-1]
    model.embed.weight.data[token] *= 500
    found = collect(model, SET)
    struck = [SET.tokens[s][p] == token for s, p in zip(SET.word_sentence, SET.word_position, strict=True)]
    assert found.outliers == sum(struck) and not found.kept[torch.tensor(struck)].any()
    values = torch.randn(2, 50, 8)
    values[1, 7] *= 1000
    assert outliers(values).nonzero().tolist() == [[7]]


def test_outliers_are_counted_by_layer_and_a_shorter_number_format_keeps_the_same_words() -> None:
    model = Toy()
    model.embed.weight.data[SET.tokens[3][-1]] *= 500
    wide, short = collect(model, SET), collect(model, SET, dtype=torch.bfloat16)
    assert len(wide.outliers_by_layer) == 3 and wide.outliers_by_layer[0] == wide.outliers > 0
    assert short.values.dtype == torch.bfloat16 and torch.equal(short.kept, wide.kept)
    torch.testing.assert_close(short.values.float(), wide.values, rtol=1 / 128, atol=1e-6)
    model.embed.weight.data[SET.tokens[3][-1]] *= 1e4
    with pytest.raises(BadActivations, match="not finite"):
        collect(model, SET, dtype=torch.float16)


def test_activations_that_are_not_finite_are_refused_with_their_layer() -> None:
    model = Toy()
    model.blocks[1].map.weight.data[0, 0] = torch.nan
    with pytest.raises(BadActivations, match="layer 2: activations are not finite"):
        collect(model, SET)


def test_a_model_without_residual_hooks_is_refused() -> None:
    with pytest.raises(BadActivations, match="no hooks named"):
        collect(nn.Linear(2, 2), SET)


def test_a_layer_that_is_not_there_is_refused_with_the_range() -> None:
    with pytest.raises(BadActivations, match=r"has 9, but the model has layers 0..2"):
        collect(Toy(), SET, layers=(0, 9))


def test_a_set_without_words_is_refused() -> None:
    empty = replace(SET, word_sentence=(), word_position=(), labels={"class.next": ()})
    with pytest.raises(BadActivations, match="no labelled words"):
        collect(Toy(), empty)
