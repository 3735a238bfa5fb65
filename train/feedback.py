"""Self-play back into training, behind a gate, beside the real data. Off by default; compare with a twin.

An intervention. Models trained on their own words alone collapse, with all real data kept they do not (arXiv:2404.01413):
batches stay as they are, and what passes the gate (`gate`) is added, at most a tenth of the tokens of any micro-batch. It
ends for good when validation bits per byte are more than .5 % above their lowest at two evaluations on end.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lab.corpus import Batch
from lab.model import GPT
from lab.sections import FeedbackConfig
from lab.tokenizer import Tokenizer
from train.added_text import Rows, Told, drawn, laid_out, most_tokens, term
from train.freeze_items import Change
from train.gate import LAST, Gate
from train.generators import derived_generator
from train.talk import Talk

BEGINS, STOPS = "feedback", "feedback-stopped"
WORSE, TIMES = 1.005, 2


class Feedback:
    """What was let through, and its term of the loss.

    Attributes:
        refused: conversations that were not let through, by reason.
        stopped: the step at which it ended itself; None while it goes on.
    """

    name = "feedback"

    def __init__(self, config: FeedbackConfig, tokenizer: Tokenizer, seed: int, dtype: torch.dtype) -> None:
        self.config, self.gate = config, Gate()
        self.refused: Counter[str] = Counter()
        self.stopped: int | None = None
        self._tokenizer, self._seed, self._dtype = tokenizer, seed, dtype
        self._texts: deque[Told] = deque(maxlen=LAST)
        self._step, self._begun, self._stopping, self._micro = 0, False, False, 0
        self._best: float | None = None
        self._worse, self._newest = 0, 0

    # ------------------------------------------------------------------------------------------------ what comes in

    def hear(self, talk: Talk) -> None:
        """Let a conversation through, or count why not."""
        refusal = self.gate.refusal(talk)
        if refusal is not None:
            self.refused[refusal] += 1
            return
        self._let_through(talk.topic, [turn.text for turn in talk.turns])

    def measured(self, step: int, bits_per_byte: float) -> None:
        """An evaluation on real data: the lowest so far is what later ones are held against."""
        if self._begun and self._best is not None:
            self._worse = self._worse + 1 if bits_per_byte > WORSE * self._best else 0
            self._stopping = self._stopping or self._worse >= TIMES
        self._best = bits_per_byte if self._best is None else min(self._best, bits_per_byte)

    # ------------------------------------------------------------------------------------------------- what it does

    def loss(self, model: GPT, batch: Batch) -> Tensor | None:
        """Cross-entropy of own tokens, summed and divided by the batch's real targets: one of them counts as one of those."""
        self._newest = 0
        real = int(batch.mask.sum())
        if not self._begun or self.stopped is not None or self._step % self.config.every or not self._texts:
            return None
        rows = self.rows(most_tokens(self.config.share, real), int(model.cfg.n_ctx))
        if rows is None:
            return None
        self._newest = int(rows[1].sum())
        return term(model, rows, batch, self._dtype)

    def rows(self, most: int, n_ctx: int) -> Rows | None:
        """Conversations drawn for this micro-batch, and which targets count: `most` of them, never more; None for none."""
        draw = derived_generator(self._seed, f"{self.name}/{self._micro}", self._step)
        self._micro += 1
        return drawn(self._texts, most, n_ctx, draw)

    def before_step(self) -> None:
        """Nothing."""

    def after_step(self) -> None:
        self._micro = 0

    def again(self) -> None:
        self._micro = 0

    def at(self, step: int, micro: int = 0) -> None:
        self._step, self._micro = step, micro

    def between_steps(self, step: int) -> list[Change]:
        """Begin at the configured step, once there is an evaluation to hold later ones against; end if it did harm."""
        self.at(step)
        protocol = {"protocol": {**self.config.model_dump(mode="json"), "stopped": self._stopping}}
        if not self._begun and step >= self.config.from_step and self._best is not None:
            self._begun = True
            text = f"feedback begins at step {step}: self-play that passes the gate, {self.config.share:.0%} of tokens"
            return [Change(BEGINS, text, protocol)]
        if self._stopping and self.stopped is None:
            self.stopped = step
            text = f"feedback ends at step {step}: validation bits per byte were more than {WORSE - 1:.1%} above "
            text += f"{self._best:.4f}, their lowest, at {TIMES} evaluations on end"
            return [Change(STOPS, text, protocol)]
        return []

    # ------------------------------------------------------------------------------------------------------- state

    def numbers(self) -> dict[str, float]:
        """Metrics of the newest step."""
        passed, refused = len(self.gate.passed), self.refused.total()
        return {
            "feedback/passed": float(passed),
            "feedback/refused": float(refused),
            "feedback/tokens": float(self._newest),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "passed": [[topic, list(texts)] for topic, texts in self.gate.passed],
            "refused": dict(self.refused),
            "stopped": self.stopped,
            "stopping": self._stopping,
            "begun": self._begun,
            "best": self._best,
            "worse": self._worse,
            "newest": self._newest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.gate = Gate()
        self._texts.clear()
        for topic, texts in state["passed"]:
            self._let_through(topic, texts)
        self.refused = Counter(state["refused"])
        self.stopped, self._stopping, self._begun = state["stopped"], state["stopping"], state["begun"]
        self._best, self._worse, self._newest = state["best"], state["worse"], state["newest"]

    def _let_through(self, topic: str, texts: Sequence[str]) -> None:
        self.gate.let_through(topic, texts)
        # Learned is what the model said; not the topic, which is given.
        self._texts.append(laid_out(self._tokenizer, _as_messages(topic, texts), 1))


def _as_messages(topic: str, texts: Sequence[str]) -> list[dict[str, str]]:
    contents = [topic, *texts]
    return [{"role": "assistant" if at % 2 else "user", "content": text} for at, text in enumerate(contents)]
