"""From a question to an answer: which weights, which tokens, which seed, and the record of it. No HTTP.

The server runs this in its one worker thread and `lab chat` in the terminal's, so both say the same and record the same.
The tokens are those of `lab.generate` for the recorded prompt, seed and settings; log-probabilities are read off the very
logits that they were drawn from.
"""

import contextlib
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from app.server_weights import Loaded, Published
from lab.chats import Chats, Exchange
from lab.errors import LabError
from lab.generate import Generation, Sampling, stream
from lab.run import Run
from train.conversations import fitted, room

PLAIN_STOP = "\nUser:"  # where a tokenizer has no chat format: the next line of the script is not the model's to write
COMPLETION_TOKENS = 16  # OpenAI's default for completions
LONGEST_CLIENT = 120
IMPOSSIBLE = -9999.0  # OpenAI's log-probability of what cannot be: JSON has no infinity


class TooLong(LabError):
    """The question does not fit into the model's context."""


class Gone(Exception):
    """Nobody waits for this answer any more."""


@dataclass(frozen=True)
class Ask:
    """A question as it came, checked for form.

    Attributes:
        messages: of a chat: role and content; a completion has none.
        prompt: of a completion: text, or token ids as they are.
        max_tokens: None: a chat's answer takes half of the context at most, a completion's 16 tokens.
        seed: None draws one; it is recorded.
        top_logprobs: alternatives to report beside each token; None reports no log-probabilities.
    """

    kind: Literal["chat", "completion"]
    model: str
    messages: tuple[Mapping[str, str], ...] = ()
    prompt: str | tuple[int, ...] = ""
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    top_logprobs: int | None = None
    client: str = ""


@dataclass(frozen=True)
class Said:
    """One token, its natural-log probability under the model (temperature 1), and the likeliest ones in its place."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Piece:
    """Some whole characters of an answer and the tokens that are complete with them."""

    text: str
    tokens: tuple[Said, ...] = ()


@dataclass
class ChatBook:
    """The `chats.db` of each run that is talked with, opened when the first exchange comes."""

    _open: dict[str, Chats] = field(default_factory=dict)

    def of(self, run: Run) -> Chats:
        """Raises ChatsUnwritable."""
        key = str(run.path)
        if key not in self._open:
            self._open[key] = Chats.writer(run.path)
        return self._open[key]

    def close(self) -> None:
        for chats in self._open.values():
            chats.close()
        self._open.clear()


@dataclass(frozen=True)
class Talk:
    """Who answers: published weights, a system prompt for conversations that bring none, and where it is recorded."""

    published: Published
    chats: ChatBook
    system_prompt: str | None = None

    def begin(self, ask: Ask) -> "Answer":
        """Load the weights, lay out the prompt, record the exchange. Nothing is generated yet.

        Raises:
            ModelMissing, WeightsMissing, ChatsUnwritable
            TooLong, BadTokenizer, BadSampling: the question cannot be put to this model.
        """
        loaded = self.published.load(ask.model)
        system = self.system_prompt
        if ask.kind == "completion" or not system or ask.messages[0]["role"] == "system":
            system = None
        if ask.kind == "chat":
            ids, heard, sampling = _chat_prompt(loaded, ask, system)
        else:
            ids, heard, sampling = _completion_prompt(loaded, ask)
        prefix = "chatcmpl" if ask.kind == "chat" else "cmpl"
        exchange = Exchange(
            id=f"{prefix}-{secrets.token_hex(12)}",
            kind=ask.kind,
            run=loaded.run.name,
            step=loaded.step,
            checkpoint=loaded.info.weights_sha256,
            tokenizer=loaded.tokenizer.sha256,
            client="".join(c if c.isprintable() else "·" for c in ask.client[:LONGEST_CLIENT]),
            asked=_asked(ask),
            system_prompt=system,
            heard=heard,
            prompt_ids=ids,
            seed=sampling.seed,
            settings={
                "max_tokens": sampling.max_tokens,
                "temperature": sampling.temperature,
                "top_k": sampling.top_k,
                "top_p": sampling.top_p,
                "stop": list(sampling.stop),
            },
        )
        chats = self.chats.of(loaded.run)
        chats.begin(exchange)
        return Answer(exchange.id, ask, loaded, tuple(ids), sampling, chats)


@dataclass
class Answer:
    """One answer: iterate over `pieces` once; then `generation` is whole."""

    id: str
    ask: Ask
    loaded: Loaded
    prompt_ids: tuple[int, ...]
    sampling: Sampling
    chats: Chats
    generation: Generation = field(default_factory=Generation)
    created: int = field(default_factory=lambda: int(time.time()))

    def pieces(self, gone: Callable[[], bool] = lambda: False) -> Iterator[Piece]:
        """The answer as it becomes certain. It is on disk in full before the last piece has been consumed.

        Args:
            gone: asked before every token; when true the answer ends and is recorded as abandoned.

        Raises:
            Gone: nobody waits any more.
        """
        state = "failed"
        try:
            yield from self._said(gone)
            state = "done"
        except (Gone, GeneratorExit, KeyboardInterrupt):
            state = "abandoned"
            raise
        finally:
            found = self.generation
            reason = found.finish_reason if state == "done" else None
            self.chats.end(self.id, state, found.ids, found.text, reason)

    def _said(self, gone: Callable[[], bool]) -> Iterator[Piece]:
        loaded, generation, tokenizer = self.loaded, self.generation, self.loaded.tokenizer
        told = bytes_told = 0
        with _listening(loaded.model, self.ask.top_logprobs, gone) as heard:
            for text in stream(loaded.model, tokenizer, self.prompt_ids, self.sampling, generation):
                generation.text += text
                tokens: list[Said] = []
                while heard and told < len(generation.ids):
                    size = len(tokenizer.decode_bytes(generation.ids[told : told + 1]))
                    if bytes_told + size > len(generation.text.encode()):
                        break  # its last character, or whether it begins a stop text, is not decided yet
                    tokens.append(_with_token(heard[told], generation.ids[told]))
                    told, bytes_told = told + 1, bytes_told + size
                yield Piece(text, tuple(tokens))
        if heard and not self._ended_by_a_text():
            rest = zip(heard[told:], generation.ids[told:], strict=False)  # the token that ended it was heard, too
            if left := tuple(_with_token(row, id) for row, id in rest):
                yield Piece("", left)

    def _ended_by_a_text(self) -> bool:
        """Whether the last tokens are a stop text's, which is no part of the answer."""
        size = len(self.loaded.tokenizer.decode_bytes(self.generation.ids))
        return bool(self.sampling.stop) and size > len(self.generation.text.encode())


Heard = tuple[Tensor, tuple[tuple[int, float], ...]]  # log-probabilities of every token, and the likeliest


@contextlib.contextmanager
def _listening(model: torch.nn.Module, top: int | None, gone: Callable[[], bool]) -> Iterator[list[Heard]]:
    """Hears the logits of every step of sampling, if asked to; and the one place that is passed once a token."""
    heard: list[Heard] = []

    def hear(_: object, __: object, logits: Tensor) -> None:
        if gone():
            raise Gone
        if top is not None:
            share = torch.log_softmax(logits[0, -1].float().cpu(), dim=-1).clamp(min=IMPOSSIBLE)
            likeliest = share.topk(min(top, len(share)))
            heard.append((share, tuple(zip(likeliest.indices.tolist(), likeliest.values.tolist(), strict=True))))

    handle = model.register_forward_hook(hear)
    try:
        yield heard
    finally:
        handle.remove()


def _with_token(heard: Heard, id: int) -> Said:
    return Said(id, float(heard[0][id]), heard[1])


def _chat_prompt(loaded: Loaded, ask: Ask, system: str | None) -> tuple[list[int], int, Sampling]:
    """As self-play and check-ins put a conversation into tokens: the oldest turns go where the context is too short."""
    context = int(loaded.model.cfg.n_ctx)
    answer = room(loaded.model, ask.max_tokens or context)
    messages = [*({"role": "system", "content": one} for one in (system,) if one is not None), *ask.messages]
    least = messages[:1] * (messages[0]["role"] == "system" and len(messages) > 1) + messages[-1:]
    needed = len(fitted(loaded.tokenizer, loaded.layout, least, sys.maxsize)[0])
    if needed > context - answer:
        raise TooLong(
            f"the last message takes {needed} tokens and the answer {answer}, but the model reads {context} in all. "
            "Shorten the message, or ask for fewer tokens."
        )
    ids, heard = fitted(loaded.tokenizer, loaded.layout, messages, context - answer)
    stop = ask.stop + ((PLAIN_STOP,) if loaded.layout == "plain" else ())
    return ids, heard - (system is not None), _sampling(ask, ask.max_tokens or answer, stop)


def _completion_prompt(loaded: Loaded, ask: Ask) -> tuple[list[int], int, Sampling]:
    tokenizer, context = loaded.tokenizer, int(loaded.model.cfg.n_ctx)
    ids = [tokenizer.bos, *tokenizer.encode(ask.prompt)] if isinstance(ask.prompt, str) else list(ask.prompt)
    tokenizer.decode_bytes(ids)  # refuses an id that is none
    if len(ids) >= context:
        raise TooLong(f"the prompt has {len(ids)} tokens and the model reads {context}, answer included. Shorten it.")
    return ids, 1, _sampling(ask, ask.max_tokens or COMPLETION_TOKENS, ask.stop)


def _sampling(ask: Ask, max_tokens: int, stop: tuple[str, ...]) -> Sampling:
    seed = secrets.randbits(31) if ask.seed is None else ask.seed
    return Sampling(max_tokens=max_tokens, temperature=ask.temperature, top_p=ask.top_p, stop=stop, seed=seed)


def _asked(ask: Ask) -> list[dict[str, str]]:
    if ask.kind == "chat":
        return [dict(message) for message in ask.messages]
    prompt = ask.prompt if isinstance(ask.prompt, str) else f"token ids {_shown(ask.prompt)}"
    return [{"role": "prompt", "content": prompt}]


def _shown(ids: Sequence[int]) -> str:
    return ", ".join(map(str, ids))


def usage(answer: Answer) -> dict[str, Any]:
    """Tokens read and drawn; those of a stop text were drawn, too."""
    read, drawn = len(answer.prompt_ids), len(answer.generation.ids)
    return {"prompt_tokens": read, "completion_tokens": drawn, "total_tokens": read + drawn}
