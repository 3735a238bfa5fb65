"""OpenAI's routes: chat and completions, whole or streamed, the list of models, and tokens.

What is asked is in `server_requests`, how it is written down in `server_shapes`. `finish_reason` is "stop" only at the
model's own end or a stop text.
"""

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from sse_starlette import EventSourceResponse, JSONServerSentEvent, ServerSentEvent
from starlette.types import Receive, Scope, Send

from app.server_answers import Answer, Gone, Piece, Said, Talk
from app.server_errors import problem_of
from app.server_guard import Problem
from app.server_queue import Turn, Turns
from app.server_replies import Detokenized, Model, Models, Tokenized
from app.server_requests import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from app.server_shapes import ChatShape, CompletionShape, Shape
from lab.checkpoint import CheckpointInfo
from lab.errors import LabError
from lab.run import Run

log = logging.getLogger(__name__)
PING_SECONDS = 15
POLL_SECONDS = 0.05  # so soon is it known that a client has left
LAST_SECONDS = 0.2  # that a stream which nobody reads keeps the server when it is to stop; others end by themselves
LINE = "\n"  # OpenAI's own end of one


@dataclass(frozen=True)
class OpenAI:
    """What OpenAI's routes share."""

    talk: Talk
    turns: Turns

    # -------------------------------------------------------------------------------------------------------- answering

    async def chat(self, asked: ChatRequest, request: Request) -> Any:
        """Whole, or as server-sent events where `stream` is true."""
        return await self._answered(asked, request)

    async def completion(self, asked: CompletionRequest, request: Request) -> Any:
        """Whole, or as server-sent events where `stream` is true."""
        return await self._answered(asked, request)

    async def _answered(self, asked: ChatRequest | CompletionRequest, request: Request) -> Any:
        """Stands in line, and answers whole or in pieces."""
        ask = asked.ask(request.headers.get("user-agent", ""))

        def work(gone: Callable[[], bool]) -> Iterator[Answer | Piece]:
            answer = self.talk.begin(ask)
            yield answer
            yield from answer.pieces(gone)

        turn: Turn[Any] = self.turns.take(work)
        try:
            answer = await patiently(turn, request)
            shape = (ChatShape if ask.kind == "chat" else CompletionShape)(answer, ask.model)
            if asked.stream:
                return EventStream(turn, shape, asked.with_usage)
            said: list[Said] = []
            async for piece in _pieces(turn, request):
                said += piece.tokens
            return shape.whole(answer.generation.text, said)
        except BaseException:
            turn.leave()
            raise

    # ------------------------------------------------------------------------------------------------ models and tokens

    def models(self) -> Models:
        return Models(data=[_model(*found) for found in self.talk.published.models()])

    def model(self, model: str) -> Model:
        run, step = self.talk.published.find(model)
        for id, owner, info in self.talk.published.models():
            if owner.path == run.path and (id == model if step is not None else True):
                return _model(model, run, info)
        raise Problem(503, f"{run.name}: has no checkpoint yet.", "model", "no_weights")

    def tokenize(self, asked: TokenizeRequest) -> Tokenized:
        run = self._run(asked.model)
        tokenizer = run.tokenizer()
        if asked.messages:
            ids = tokenizer.chat([message.plain() for message in asked.messages], reply_as="assistant")[0]
        else:
            ids = [tokenizer.bos] * asked.add_special_tokens + tokenizer.encode(asked.prompt or "")
        strings = [tokenizer.decode([id]) for id in ids] if asked.return_token_strs else None
        return Tokenized(count=len(ids), max_model_len=run.config.model.n_ctx, tokens=ids, token_strs=strings)

    def detokenize(self, asked: DetokenizeRequest) -> Detokenized:
        return Detokenized(prompt=self._run(asked.model).tokenizer().decode(asked.tokens))

    def _run(self, model: str | None) -> Run:
        return self.talk.published.find(model)[0] if model else self.talk.published.run()


def _model(id: str, run: Run, info: CheckpointInfo) -> Model:
    return Model(id=id, created=int(info.saved_at), owned_by=run.name, step=info.step)


async def patiently(turn: Turn[Any], request: Request) -> Any:
    """The next item, for as long as the client is there. Raises Gone when it is not; StopAsyncIteration at the end."""
    while not await request.is_disconnected():  # asked before each: items may come faster than any patience runs out
        try:
            return await turn.next(POLL_SECONDS)
        except TimeoutError:
            continue
    turn.leave()
    raise Gone


async def _pieces(turn: Turn[Any], request: Request) -> AsyncIterator[Piece]:
    while True:
        try:
            yield await patiently(turn, request)
        except StopAsyncIteration:
            return


class EventStream(EventSourceResponse):
    """An answer as server-sent events. However it ends, its place in the line is free."""

    def __init__(self, turn: Turn[Any], shape: Shape, with_usage: bool) -> None:
        super().__init__(
            _events(turn, shape, with_usage),
            ping=PING_SECONDS,
            ping_message_factory=lambda: ServerSentEvent(comment="ping", sep=LINE),
            shutdown_grace_period=LAST_SECONDS,
            sep=LINE,
        )
        self.turn = turn

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self.turn.leave()


async def _events(turn: Turn[Any], shape: Shape, with_usage: bool) -> AsyncIterator[ServerSentEvent | str]:
    """An answer's chunks and the end mark; after a failure its words, and no end mark."""
    for chunk in shape.first():
        yield _event(chunk)
    try:
        async for piece in turn:
            yield _event(shape.chunk(piece))
    except Gone:
        return
    except LabError as error:
        yield _event(problem_of(error).body())
        return
    except Exception:
        log.exception("an answer failed halfway")
        yield _event(Problem(500, "the answer failed halfway.", code="internal").body())
        return
    yield _event(shape.last())
    if with_usage:
        yield _event(shape.usage_chunk())
    yield "[DONE]"


def _event(data: dict[str, Any]) -> ServerSentEvent:
    return JSONServerSentEvent(data, sep=LINE)
