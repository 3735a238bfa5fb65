"""OpenAI's routes: chat and completions, whole or streamed, the list of models, and tokens.

What is asked is in `server_requests`, how it is written down in `server_shapes`. `finish_reason` is "stop" only at the
model's own end or a stop text.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from app.server_answers import Answer, Gone, Piece, Said, Talk
from app.server_guard import Problem, Receive, Scope, Send
from app.server_queue import Turn, Turns
from app.server_requests import DetokenizeRequest, TokenizeRequest
from app.server_routes import Call, ok, problem_of
from app.server_shapes import ChatShape, CompletionShape, Shape
from lab.errors import LabError

PING_SECONDS = 15.0
POLL_SECONDS = 0.05  # so soon is it known that a client has left
DONE = b"data: [DONE]\n\n"


# ------------------------------------------------------------------------------------------------------------ answering


async def answered(talk: Talk, turns: Turns, call: Call) -> Response:
    """A chat or a completion: stands in line, and answers whole or in pieces."""
    request, body = call.request, call.body
    ask = body.ask(request.headers.get("user-agent", ""))

    def work(gone: Callable[[], bool]) -> Iterator[Answer | Piece]:
        answer = talk.begin(ask)
        yield answer
        yield from answer.pieces(gone)

    turn = turns.take(work)
    try:
        answer = await patiently(turn, request)
        assert isinstance(answer, Answer)
        shape = ChatShape(answer, ask.model) if ask.kind == "chat" else CompletionShape(answer, ask.model)
        if body.stream:
            return EventStream(turn, request, shape, body.with_usage)
        said: list[Said] = []
        async for piece in _pieces(turn, request):
            said += piece.tokens
        return ok(shape.whole(answer.generation.text, said))
    except BaseException:
        turn.leave()
        raise


async def patiently(turn: Turn[Any], request: Request) -> Any:
    """The next item, for as long as the client is there. Raises Gone when it is not; StopAsyncIteration at the end."""
    while (
        not await request.is_disconnected()
    ):  # asked before every item: they may come faster than any patience runs out
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


class EventStream(Response):
    """Server-sent events. Nothing but its own end, a failure or the client's leaving frees its place in the line."""

    def __init__(self, turn: Turn[Any], request: Request, shape: Shape, with_usage: bool) -> None:
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self.turn, self.request, self.shape, self.with_usage = turn, request, shape, with_usage

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async for event in self._events():
                await send({"type": "http.response.body", "body": event, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except Gone:
            return
        finally:
            self.turn.leave()

    async def _events(self) -> AsyncIterator[bytes]:
        silent = 0.0
        for first in self.shape.first():
            yield _event(first)
        while True:
            if await self.request.is_disconnected():
                raise Gone
            try:
                piece: Piece = await self.turn.next(POLL_SECONDS)
            except TimeoutError:
                silent += POLL_SECONDS
                if silent >= PING_SECONDS:
                    silent = 0.0
                    yield b": ping\n\n"
                continue
            except StopAsyncIteration:
                break
            except Gone:
                raise
            except LabError as error:
                yield _event(problem_of(error).body())
                return
            except Exception:
                yield _event(Problem(500, "the answer failed halfway.", code="internal").body())
                return
            silent = 0.0
            yield _event(self.shape.chunk(piece))
        yield _event(self.shape.last())
        if self.with_usage:
            yield _event(self.shape.usage_chunk())
        yield DONE


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


# --------------------------------------------------------------------------------------------------- models and tokens


def listed(talk: Talk) -> dict[str, Any]:
    return {"object": "list", "data": [_model(*found) for found in talk.published.models()]}


def retrieved(talk: Talk, name: str) -> dict[str, Any]:
    """Raises ModelMissing."""
    run, step = talk.published.find(name)
    for id, owner, info in talk.published.models():
        if owner.path == run.path and (id == name if step is not None else True):
            return _model(name, run, info)
    raise Problem(503, f"{run.name}: has no checkpoint yet.", "model", "no_weights")


def _model(id: str, run: Any, info: Any) -> dict[str, Any]:
    return {"id": id, "object": "model", "created": int(info.saved_at), "owned_by": run.name, "step": info.step}


async def tokenized(talk: Talk, call: Call) -> Response:
    asked: TokenizeRequest = call.body

    def work() -> dict[str, Any]:
        run, _ = talk.published.find(asked.model) if asked.model else (talk.published.run(), None)
        tokenizer = run.tokenizer()
        if asked.messages:
            ids = tokenizer.chat([message.plain() for message in asked.messages], reply_as="assistant")[0]
        else:
            ids = [tokenizer.bos] * asked.add_special_tokens + tokenizer.encode(asked.prompt or "")
        strings = [tokenizer.decode([id]) for id in ids] if asked.return_token_strs else None
        return {"count": len(ids), "max_model_len": run.config.model.n_ctx, "tokens": ids, "token_strs": strings}

    return ok(await asyncio.to_thread(work))


async def detokenized(talk: Talk, call: Call) -> Response:
    asked: DetokenizeRequest = call.body

    def work() -> dict[str, Any]:
        run, _ = talk.published.find(asked.model) if asked.model else (talk.published.run(), None)
        return {"prompt": run.tokenizer().decode(asked.tokens)}

    return ok(await asyncio.to_thread(work))
