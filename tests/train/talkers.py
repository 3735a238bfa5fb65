"""Models made by hand that talk in a known way, and the places where they do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from lab.config import load_config
from lab.model import GPT, GPTConfig
from lab.run import Run
from train.conversations import Scene, stored_scene

CIRCLE = (ord("a"), ord("b"), ord("c"))


def looping(run: Run) -> GPT:
    """A model by hand that says the same three tokens for ever: each embedding points at the next token's unembedding."""
    model = GPT(GPTConfig.from_config(run.config.model), seed=0)
    with torch.no_grad():
        for parameter in model.blocks.parameters():
            parameter.zero_()  # no block adds anything: the stream is the embedding
        model.embed.W_E.zero_()
        model.unembed.W_U.zero_()
        directions = torch.eye(3, run.config.model.d_model)
        model.embed.W_E[:] = directions[0]  # whatever comes first leads into the circle
        for at, token in enumerate(CIRCLE):
            model.embed.W_E[token] = directions[at]
            model.unembed.W_U[:, CIRCLE[(at + 1) % 3]] = 50 * directions[at]
    model.eval()
    return model


def silent(run: Run) -> GPT:
    """A model by hand that ends every answer at once."""
    model = GPT(GPTConfig.from_config(run.config.model), seed=0)
    with torch.no_grad():
        model.unembed.W_U.zero_()
        for parameter in model.blocks.parameters():
            parameter.zero_()
        model.embed.W_E[:] = 1.0
        model.unembed.W_U[:, run.tokenizer().end] = 10.0
    model.eval()
    return model


@contextmanager
def scene_of(run: Run, model: Callable[[Run], GPT] | None = None) -> Iterator[Scene]:
    with stored_scene(run, None, "test") as scene:
        yield scene if model is None else replace(scene, model=model(run))


def brief(run: Run) -> Run:
    """The run with little to say, so that a test takes a second."""
    few = ("check_ins.prompts=3", "check_ins.max_tokens=12", "self_play.max_tokens=12", "journal.max_tokens=12")
    run.update_config(load_config(file=run.path / "config.toml", overrides=few))
    return run
