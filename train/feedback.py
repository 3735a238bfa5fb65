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
import torch.nn.functional as F
from jaxtyping import Bool, Int
from torch import Tensor

from lab.corpus import Batch
from lab.model import GPT
from lab.sections import FeedbackConfig
from lab.tokenizer import BadTokenizer, Tokenizer
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
        self._texts: deque[tuple[list[int], list[bool]]] = deque(maxlen=LAST)
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
        tokens, counts = rows
        self._newest = int(counts.sum())
        device = model.W_E.device
        with torch.autocast(device.type, self._dtype, enabled=self._dtype != torch.float32):
            logits = model(tokens[:, :-1].to(device))
        targets = tokens[:, 1:].masked_fill(~counts, -100).to(device)
        summed = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-100, reduction="sum")
        return summed / real

    def rows(self, most: int, n_ctx: int) -> tuple[Int[Tensor, "row pos_plus_1"], Bool[Tensor, "row pos"]] | None:
        """Conversations drawn for this micro-batch, and which targets count: `most` of them, never more; None for none."""
        draw = derived_generator(self._seed, f"{self.name}/{self._micro}", self._step)
        self._micro += 1
        chosen: list[tuple[list[int], list[bool]]] = []
        for at in torch.randperm(len(self._texts), generator=draw).tolist():
            whole, told = self._texts[at]
            ids, counted = whole[: n_ctx + 1], told[: n_ctx + 1]
            places = [place for place, counts in enumerate(counted) if counts][:most]
            if not places:
                break
            most -= len(places)
            end = places[-1] + 1
            chosen.append((ids[:end], counted[:end]))
        if not chosen:
            return None
        width = max(len(ids) for ids, _ in chosen)
        tokens = torch.zeros(len(chosen), width, dtype=torch.long)
        counts = torch.zeros(len(chosen), width, dtype=torch.bool)
        for row, (ids, counted) in enumerate(chosen):
            tokens[row, : len(ids)], counts[row, : len(ids)] = torch.tensor(ids), torch.tensor(counted)
        return tokens, counts[:, 1:]

    def before_step(self) -> None:
        """Nothing."""

    def after_step(self) -> None:
        self._micro = 0

    def between_steps(self, step: int) -> list[Change]:
        """Begin at the configured step, once there is an evaluation to hold later ones against; end if it did harm."""
        self._step, self._micro = step, 0
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
        self._texts.append(laid_out(self._tokenizer, topic, texts))


def most_tokens(share: float, real: int) -> int:
    """How many own tokens are at most `share` of them and `real` real ones together.

    >>> most_tokens(0.1, 90)
    10
    """
    most = int(share / (1 - share) * real) + 1
    while most * (1 - share) > share * real + 1e-9 * real:  # rounding, either way
        most -= 1
    return max(0, most)


def laid_out(tokenizer: Tokenizer, topic: str, texts: Sequence[str]) -> tuple[list[int], list[bool]]:
    """A conversation as training reads one, and which tokens count: those of the model, not the topic nor what opens it."""
    roles = ["assistant" if at % 2 else "user" for at in range(len(texts) + 1)]
    contents = [topic, *texts]
    given = [{"role": "user", "content": topic}]
    try:
        ids = tokenizer.chat([{"role": r, "content": c} for r, c in zip(roles, contents, strict=True)])[0]
        before = len(tokenizer.chat(given)[0])
    except BadTokenizer:  # a base model's, without a chat template
        names = {"user": "User", "assistant": "Assistant"}
        lines = [f"{names[role]}: {content}" for role, content in zip(roles, contents, strict=True)]
        first = [tokenizer.bos, *tokenizer.encode(f"{lines[0]}\n")]
        ids, before = [*first, *tokenizer.encode("\n".join(lines[1:])), tokenizer.end], len(first)
    return ids, [at >= before for at in range(len(ids))]
