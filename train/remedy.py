"""The loop remedy: what the model looped over becomes unlikely, and layout is spared. Off by default; compare with a twin.

An intervention. Unlikelihood training (Welleck et al. 2019, arXiv:1908.04319) at the level of sequences: of replies that fell
into a loop, every token from the second copy on is made less likely where it stood. Tokens on lines that are layout
(`probes.behaviour.structure`) are left alone, so that lists, tables and rulers are not unlearned with the loops. The text is
the model's own, and is never fed back as something to say.

Two kinds of replies are heard: turns of self-play, and, as in the paper, continuations of training text. The latter are there
because small models loop where they go on at length: a `demo` run of 700 steps did in 0 of 320 turns of self-play at
temperatures of .2 to .8, and in 51 of 96 greedy continuations of validation text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lab.corpus import Batch
from lab.model import GPT
from lab.sections import RemedyConfig
from lab.tokenizer import Tokenizer
from probes.behaviour import loops, structure
from probes.behaviour.findings import Span, as_characters
from train import many
from train.freeze_items import Change
from train.generators import derived_generator
from train.parallel import of_rank_0
from train.talk import Talk

KIND = "remedy"
PREFIX = 16  # tokens of a training text that is gone on from


class Remedy:
    """The looping replies that were heard, and a term of the loss on some of them at every due step.

    Attributes:
        pool: `read` and `ids` of each, and the places in `ids` that are to become unlikely.
        heard, looped: replies so far, and those of them with something to unlearn.
    """

    name = "remedy"

    def __init__(self, config: RemedyConfig, tokenizer: Tokenizer, seed: int, dtype: torch.dtype) -> None:
        self.config = config
        self.pool: list[dict[str, list[int]]] = []
        self.heard, self.looped = 0, 0
        self._tokenizer, self._seed, self._dtype = tokenizer, seed, dtype
        self._step, self._begun, self._newest, self._went_on = 0, False, 0.0, -1
        self._before = (self.pool, self.heard, self.looped)  # the newest continuations were remembered

    def hear(self, talk: Talk) -> None:
        """Remember the replies of a conversation that looped."""
        for turn in talk.turns:
            self._remember(turn.read, turn.ids, turn.text)

    def go_on(self, model: GPT, batch: Batch) -> None:
        """Let the model continue how some of the batch's sequences begin, and remember the continuations that loop."""
        # Of several processes rank 0's, so that all remember the same replies.
        prompts = of_rank_0(batch.tokens[: self.config.continuations, :PREFIX]).tolist()
        numbers = many.randoms(
            len(prompts), int(model.cfg.n_ctx), derived_generator(self._seed, f"{self.name}/continuations", self._step)
        )
        for read, ids in zip(
            prompts, many.answers(model, self._tokenizer, prompts, numbers, self.config.temperature), strict=True
        ):
            self._remember(read, ids, self._tokenizer.decode(ids))

    def _remember(self, read: Sequence[int], ids: Sequence[int], text: str) -> None:
        places = repeated(self._tokenizer, ids, text)
        self.heard, self.looped = self.heard + 1, self.looped + bool(places)
        if places:
            self.pool = [*self.pool, {"read": list(read), "ids": list(ids), "places": places}][-self.config.keep :]

    def loss(self, model: GPT, batch: Batch) -> Tensor | None:
        """`weight` times the mean of -log(1 - p) over the repeated tokens of some replies; None without any."""
        if not self._begun:
            return None
        settings = self.config
        if settings.continuations and self._step % settings.continuations_every == 0 and self._went_on != self._step:
            self._went_on = self._step  # once a step, whatever the number of micro-batches
            self._before = (self.pool, self.heard, self.looped)
            self.go_on(model, batch)
        if not self.pool or self._step % settings.every:
            return None
        order = torch.randperm(len(self.pool), generator=derived_generator(self._seed, self.name, self._step))
        rows = [self.pool[at] for at in order[: self.config.texts].tolist()]
        tokens, marked = _window(rows, int(model.cfg.n_ctx))
        term = unlikelihood(model, tokens, marked, self._dtype)
        self._newest = float(term.detach())
        return self.config.weight * term

    def before_step(self) -> None:
        """Nothing."""

    def after_step(self) -> None:
        """Nothing."""

    def again(self) -> None:
        if self._went_on == self._step:
            self._went_on = -1
            self.pool, self.heard, self.looped = self._before

    def at(self, step: int, micro: int = 0) -> None:
        self._step = step

    def between_steps(self, step: int) -> list[Change]:
        """Begins at the configured step."""
        self.at(step)
        if self._begun or step < self.config.from_step:
            return []
        self._begun = True
        text = f"the loop remedy begins at step {step}: spans that the model repeats become unlikely, layout is spared"
        return [Change(KIND, text, {"protocol": self.config.model_dump(mode="json")})]

    def numbers(self) -> dict[str, float]:
        """Metrics of the newest step."""
        counts = {"remedy/replies": float(self.heard), "remedy/looping_replies": float(self.looped)}
        return counts | {"remedy/unlikelihood": self._newest}

    def state_dict(self) -> dict[str, Any]:
        pool = [{key: list(value) for key, value in one.items()} for one in self.pool]
        counts = {"heard": self.heard, "looped": self.looped, "newest": self._newest}
        return {"pool": pool, "begun": self._begun, **counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.pool = [{key: list(value) for key, value in one.items()} for one in state["pool"]]
        self.heard, self.looped, self._begun = int(state["heard"]), int(state["looped"]), bool(state["begun"])
        self._newest = float(state["newest"])


def repeated(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> list[int]:
    """Places of tokens in the second copy or later of an exact loop, without those on lines that are layout."""
    places = sorted(
        {at for event in loops.scan(ids) for at in range(event.start + event.period, event.start + event.cover)}
    )
    spared = structure.read(text).spans if places else ()
    if not spared:
        return places
    pieces = [tokenizer.decode_bytes([token]) for token in ids]

    def is_layout(at: int) -> bool:
        where = as_characters(Span(at, at + 1, "token"), pieces)
        return any(span.start < max(where.end, where.start + 1) and where.start < span.end for span in spared)

    return [at for at in places if not is_layout(at)]


def unlikelihood(
    model: GPT,
    tokens: Int[Tensor, "row pos_plus_1"],
    marked: Bool[Tensor, "row pos"],
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, ""]:
    """Mean of -log(1 - p) over the marked targets, nats per token."""
    device = model.W_E.device
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        logits = model(tokens[:, :-1].to(device))
    chosen = marked.to(device)
    logs = logits[chosen].float().log_softmax(dim=-1)
    targets = tokens[:, 1:].to(device)[chosen][:, None]
    # log(1 - p) as the log of what all others have together: 1 - p rounds to 0 for a token that is certain, and the usual
    # clamp of it has no gradient just where a loop is tightest.
    term: Tensor = -logs.scatter(-1, targets, -torch.inf).logsumexp(dim=-1).mean()
    return term


def _window(
    rows: Sequence[dict[str, list[int]]], n_ctx: int
) -> tuple[Int[Tensor, "row pos_plus_1"], Bool[Tensor, "row pos"]]:
    """Each reply after what was read, as much of that as the context holds; padded on the right, where nothing is marked."""
    whole = [[*row["read"], *row["ids"]] for row in rows]
    cuts = [max(0, len(one) - n_ctx - 1) for one in whole]
    width = max(len(one) - cut for one, cut in zip(whole, cuts, strict=True))
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    marked = torch.zeros(len(rows), width - 1, dtype=torch.bool)
    for at, (row, one, cut) in enumerate(zip(rows, whole, cuts, strict=True)):
        tokens[at, : len(one) - cut] = torch.tensor(one[cut:])
        targets = torch.tensor(row["places"]) + len(row["read"]) - cut - 1
        marked[at, targets[targets >= 0]] = True
    return tokens, marked
