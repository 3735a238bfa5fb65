"""Sampling: the cache changes nothing, the settings do what they say, and nobody else's generator is touched."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.generate import BadSampling, Generation, Sampling, generate, pick, sample_tokens, stream
from lab.model import GPT, GPTConfig, KeyValueCache
from lab.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(text_file: Path) -> Tokenizer:
    return Tokenizer.train([text_file.read_text(encoding="utf8"), "naïve café 東京 🦊🦊🦊 naïve café 東京 🦊🦊🦊"], 330)


@pytest.fixture(scope="module")
def model() -> GPT:
    model = GPT(GPTConfig(n_layers=2, d_model=32, n_heads=4, n_ctx=48, d_vocab=330, n_key_value_heads=2), seed=1)
    with torch.no_grad():
        for weight in model.parameters():  # far from uniform, so that settings show
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)) * 0.1)
    return model.eval()


def test_cached_and_uncached_logits_agree_token_by_token(model: GPT) -> None:
    tokens = torch.randint(330, (3, 40), generator=torch.Generator().manual_seed(0))
    cache = KeyValueCache(model.cfg, 3, "cpu")
    with torch.no_grad():
        whole = model(tokens)
        pieces = [model(tokens[:, :7], past_kv_cache=cache), model(tokens[:, 7:12], past_kv_cache=cache)]
        pieces += [model(tokens[:, i : i + 1], past_kv_cache=cache) for i in range(12, 40)]
    assert torch.allclose(torch.cat(pieces, dim=1), whole, atol=1e-5 * max(1.0, float(whole.abs().max())))


def test_greedy_text_is_what_running_the_whole_sequence_again_gives(model: GPT) -> None:
    prompt = [5, 17, 200]
    found = list(sample_tokens(model, prompt, Sampling(max_tokens=20, temperature=0)))
    row = list(prompt)
    with torch.no_grad():
        for _ in range(20):
            row.append(int(model(torch.tensor([row]))[0, -1].argmax()))
    assert found == row[3:]


def test_the_same_seed_gives_the_same_tokens_and_leaves_the_global_generator_alone(model: GPT) -> None:
    before = torch.get_rng_state()
    one, two, other = (list(sample_tokens(model, [5], Sampling(seed=seed, max_tokens=30))) for seed in (3, 3, 4))
    assert one == two != other
    assert torch.equal(torch.get_rng_state(), before)


def test_hooks_act_while_generating(model: GPT) -> None:
    plain = list(sample_tokens(model, [5], Sampling(temperature=0, max_tokens=10)))
    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_post", lambda resid, hook: -resid)]):
        turned = list(sample_tokens(model, [5], Sampling(temperature=0, max_tokens=10)))
    assert plain != turned


def test_top_k_and_top_p_keep_the_likeliest_tokens_alone() -> None:
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    generator = torch.Generator().manual_seed(0)

    def seen(**settings: float) -> set[int]:
        return {pick(logits, Sampling(temperature=1, **settings), generator) for _ in range(400)}  # type: ignore[arg-type]

    assert seen() == {0, 1, 2, 3}
    assert seen(top_k=2) == {0, 1}
    assert seen(top_p=0.79) == {0, 1}
    assert seen(top_p=0.81) == {0, 1, 2}
    assert seen(top_p=0.01) == {0}
    assert seen(top_k=3, top_p=0.6) == {0, 1}


def test_sampled_frequencies_follow_the_temperature() -> None:
    logits, generator = torch.tensor([0.0, 1.0, 2.0]), torch.Generator().manual_seed(0)
    for temperature in (0.5, 1.0, 2.0):
        drawn = torch.tensor([pick(logits, Sampling(temperature=temperature), generator) for _ in range(4000)])
        share = torch.bincount(drawn, minlength=3) / 4000
        assert torch.allclose(share, torch.softmax(logits / temperature, 0), atol=0.03)


class Scripted:
    """A model that says one thing, whatever it is asked."""

    def __init__(self, ids: list[int], cfg: GPTConfig) -> None:
        self.ids, self.cfg, self.W_E = ids, cfg, torch.zeros(1)

    def __call__(self, tokens: torch.Tensor, past_kv_cache: KeyValueCache) -> torch.Tensor:
        past_kv_cache.length += tokens.shape[1]
        logits = torch.full((1, tokens.shape[1], 330), -100.0)
        logits[0, -1, self.ids[past_kv_cache.length - 1]] = 100.0
        return logits


Say = Callable[..., Generation]


@pytest.fixture
def say(tokenizer: Tokenizer) -> Say:
    def said(text: str, stop: tuple[str, ...] = (), end: bool = True) -> Generation:
        ids = tokenizer.encode(text)
        cfg = GPTConfig(n_layers=1, d_model=4, n_heads=2, n_ctx=len(ids) + 2, d_vocab=330)
        script = Scripted([*ids, tokenizer.end if end else 0, 0], cfg)
        record = Generation()
        sampling = Sampling(temperature=0, stop=stop, max_tokens=len(ids) + (1 if end else 0) or 1)
        pieces = list(stream(script, tokenizer, [1], sampling, record))  # type: ignore[arg-type]
        assert all(pieces), "an empty piece is no piece"
        record.text = "".join(pieces)
        return record

    return said


@settings(max_examples=60, deadline=None)
@given(text=st.text(min_size=1, max_size=30))
def test_streamed_pieces_join_to_the_text_whatever_its_characters(text: str, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(text)
    cfg = GPTConfig(n_layers=1, d_model=4, n_heads=2, n_ctx=len(ids) + 2, d_vocab=330)
    script = Scripted([*ids, tokenizer.end, 0], cfg)
    pieces = stream(script, tokenizer, [1], Sampling(temperature=0, max_tokens=len(ids) + 1))  # type: ignore[arg-type]
    assert "".join(pieces) == text


def test_the_answer_ends_at_the_model_s_own_end_a_stop_text_or_the_length(say: Say) -> None:
    assert (say("He ran.").finish_reason, say("He ran.").text) == ("stop", "He ran.")
    assert say("He ran.", end=False).finish_reason == "length"
    stopped = say("He ran. And then?", stop=("And", "never"))
    assert (stopped.text, stopped.finish_reason) == ("He ran. ", "stop")
    assert say("He ran. An apple", stop=("And",)).text == "He ran. An apple"  # the beginning of a stop text is kept


def test_bad_settings_and_prompts_are_refused(model: GPT, tokenizer: Tokenizer) -> None:
    wrong: list[dict[str, object]] = [
        {"max_tokens": 0}, {"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}, {"top_p": 0.0},
        {"top_p": 1.5}, {"stop": ("",)}, {"seed": -1}, {"seed": 2**63},
    ]  # fmt: skip
    for setting in wrong:
        with pytest.raises(BadSampling):
            Sampling(**setting)  # type: ignore[arg-type]
    with pytest.raises(BadSampling, match="Shorten"):
        generate(model, tokenizer, "word " * 100)
    with pytest.raises(BadSampling, match="empty"):
        generate(model, tokenizer, [])


def test_every_seed_in_range_is_one_that_the_generator_takes(model: GPT) -> None:
    for seed in (0, 2**63 - 1):
        assert len(list(sample_tokens(model, [5], Sampling(seed=seed, max_tokens=1)))) == 1
