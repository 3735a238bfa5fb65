"""Training on what people said to the model while it trained: `data.chats = true`. Off by default: chats are for talking.

An intervention, like feedback: batches stay as they are, and of the chats in the run's `chats.db` the *person's* words are
added, at most a tenth of the tokens of a micro-batch. What the model answered is read as context and never learned: a model
that trains on its own words wants the gate of `feedback`. Completions are no chats, and stay out.

New chats are taken in where a checkpoint falls due and nowhere else, and what was taken is part of that checkpoint. So a run
that is killed and resumed trains on the same words at the same steps as one that was not.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from sqlalchemy.exc import SQLAlchemyError
from torch import Tensor

from lab.chats import Chats, ChatsMissing
from lab.corpus import Batch
from lab.model import GPT
from lab.tokenizer import Tokenizer
from train.added_text import Told, drawn, laid_out, most_tokens, term
from train.freeze_items import Change
from train.generators import derived_generator

KIND = "chats"
SHARE = 0.1  # of the tokens of a micro-batch, at most: as feedback, after arXiv:2404.01413 all real data stay
KEPT = 256  # questions, the newest
Messages = list[dict[str, str]]


class ChatTraining:
    """What was said to the model, and its term of the loss.

    Attributes:
        said: conversations up to and with a person's newest words, which are what is learned of each.
    """

    name = "chats"

    def __init__(self, run: Path, every: int, n_ctx: int, tokenizer: Tokenizer, seed: int, dtype: torch.dtype) -> None:
        """Args: run: the run's folder; every: steps between two takings, those between two checkpoints."""
        self.said: list[Messages] = []
        self._run, self._every, self._n_ctx = run, every, n_ctx
        self._tokenizer, self._seed, self._dtype = tokenizer, seed, dtype
        self._texts: list[Told] = []
        self._after, self._taken_at = "", -1
        self._step, self._micro, self._newest, self._unreadable = 0, 0, 0, False

    def loss(self, model: GPT, batch: Batch) -> Tensor | None:
        """Cross-entropy of the person's words, summed and divided by the batch's real targets; None without any."""
        self._newest = 0
        most = most_tokens(SHARE, int(batch.mask.sum()))
        generator = derived_generator(self._seed, f"{self.name}/{self._micro}", self._step)
        self._micro += 1
        rows = drawn(self._texts, most, self._n_ctx, generator)
        if rows is None:
            return None
        self._newest = int(rows[1].sum())
        return term(model, rows, batch, self._dtype)

    def before_step(self) -> None:
        """Nothing."""

    def after_step(self) -> None:
        self._micro = 0

    def again(self) -> None:
        self._micro = 0

    def at(self, step: int, micro: int = 0) -> None:
        self._step, self._micro = step, micro

    def between_steps(self, step: int) -> list[Change]:
        """Take in what was said since the last time, where a checkpoint is due."""
        self.at(step)
        if step % self._every or step == self._taken_at:
            return []
        self._taken_at = step
        begun, new = bool(self.said), self._new()
        if not new:
            return []
        self._take([*self.said, *new])
        many = f"{len(new)} {'more ' if begun else ''}message{'s' * (len(new) > 1)}"
        text = f"{many} that people wrote in chats: trained on from step {step}, {SHARE:.0%} of tokens at most"
        return [Change(KIND, text, {"protocol": {"chats": True, "share": SHARE, "kept": KEPT}, "taken": len(new)})]

    def numbers(self) -> dict[str, float]:
        """Metrics of the newest step."""
        return {"chats/said": float(len(self.said)), "chats/tokens": float(self._newest)} | (
            {"chats/unreadable": 1.0} if self._unreadable else {}
        )

    def state_dict(self) -> dict[str, Any]:
        return {"said": [list(one) for one in self.said], "after": self._after, "taken_at": self._taken_at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        after = state["after"]
        # Older checkpoints kept the time at which that exchange began beside its id.
        self._after, self._taken_at = str(after if isinstance(after, str) else after[1]), int(state["taken_at"])
        self._take(state["said"])

    def _new(self) -> list[Messages]:
        """Conversations with a person's newest words last, oldest first, of chats recorded since the last taking.

        None from a record that cannot be read: training goes on, and a metric says so.
        """
        self._unreadable = False
        try:
            with Chats.reader(self._run) as chats:
                found = chats.said_after(self._after)
        except ChatsMissing:
            return []
        except (sqlite3.Error, SQLAlchemyError):
            self._unreadable = True
            return []
        if found:
            self._after = found[-1][0]
        return [messages for _, messages in found if messages and messages[-1]["role"] == "user"]

    def _take(self, said: Sequence[Messages]) -> None:
        """The newest of them, the same words in the same place once; laid out in tokens."""
        once = {repr(messages): messages for messages in said}
        self.said = list(once.values())[-KEPT:]
        self._texts = [_told(self._tokenizer, messages, self._n_ctx) for messages in self.said]


def _told(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]], n_ctx: int) -> Told:
    """The newest words are learned, those before them are context; the oldest of that go where the window is too short."""
    while True:
        ids, learned = laid_out(tokenizer, messages, len(messages) - 1)
        if len(ids) <= n_ctx + 1 or len(messages) == 1:
            return ids, learned
        messages = messages[1:]
