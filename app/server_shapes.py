"""How an answer is written down in OpenAI's dialect: whole, or as the chunks of a stream. Pure."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

from app.server_answers import Answer, Piece, Said, usage
from lab.tokenizer import Tokenizer


class Shape(ABC):
    """How an answer is written down."""

    object, chunk_object = "", ""

    def __init__(self, answer: Answer, model: str) -> None:
        self.answer, self.model = answer, model
        self.tokenizer = answer.loaded.tokenizer
        self.with_logprobs = answer.ask.top_logprobs is not None

    def whole(self, text: str, said: list[Said]) -> dict[str, Any]:
        choice = self.said(text, said) | {"finish_reason": self.answer.generation.finish_reason}
        return self._frame(self.object, [choice]) | {"usage": usage(self.answer)}

    def first(self) -> Iterator[dict[str, Any]]:
        """Chunks before the first piece."""
        yield from ()

    def chunk(self, piece: Piece) -> dict[str, Any]:
        return self._frame(self.chunk_object, [self.delta(piece.text, list(piece.tokens)) | {"finish_reason": None}])

    def last(self) -> dict[str, Any]:
        reason = self.answer.generation.finish_reason
        return self._frame(self.chunk_object, [self.delta(None, []) | {"finish_reason": reason}])

    def usage_chunk(self) -> dict[str, Any]:
        return self._frame(self.chunk_object, []) | {"usage": usage(self.answer)}

    @abstractmethod
    def said(self, text: str, said: list[Said]) -> dict[str, Any]:
        """The choice of a whole answer."""

    @abstractmethod
    def delta(self, text: str | None, said: list[Said]) -> dict[str, Any]:
        """The choice of one chunk."""

    def _frame(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.answer.id,
            "object": kind,
            "created": self.answer.created,
            "model": self.model,
            "system_fingerprint": f"step-{self.answer.loaded.step}",
            "choices": choices,
        }


class ChatShape(Shape):
    object, chunk_object = "chat.completion", "chat.completion.chunk"

    def first(self) -> Iterator[dict[str, Any]]:
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        yield self._frame(self.chunk_object, [choice])

    def said(self, text: str, said: list[Said]) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": 0, "message": message, "logprobs": self._logprobs(said)}

    def delta(self, text: str | None, said: list[Said]) -> dict[str, Any]:
        delta = {} if text is None else {"content": text}
        return {"index": 0, "delta": delta, "logprobs": self._logprobs(said) if said else None}

    def _logprobs(self, said: list[Said]) -> dict[str, Any] | None:
        if not self.with_logprobs:
            return None
        content = [
            _spelled(self.tokenizer, one.id, one.logprob)
            | {"top_logprobs": [_spelled(self.tokenizer, id, logprob) for id, logprob in one.top]}
            for one in said
        ]
        return {"content": content, "refusal": None}


class CompletionShape(Shape):
    object = chunk_object = "text_completion"

    def __init__(self, answer: Answer, model: str) -> None:
        super().__init__(answer, model)
        self.offset = 0

    def said(self, text: str, said: list[Said]) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": self._logprobs(said)}

    def delta(self, text: str | None, said: list[Said]) -> dict[str, Any]:
        return {"index": 0, "text": text or "", "logprobs": self._logprobs(said) if said else None}

    def _logprobs(self, said: list[Said]) -> dict[str, Any] | None:
        if not self.with_logprobs:
            return None
        tokens, offsets = [spelling(self.tokenizer, one.id) for one in said], []
        for one in said:
            offsets.append(self.offset)
            self.offset += len(self.tokenizer.decode([one.id]))
        return {
            "tokens": tokens,
            "token_logprobs": [one.logprob for one in said],
            "top_logprobs": [{spelling(self.tokenizer, id): value for id, value in one.top} for one in said],
            "text_offset": offsets,
        }


def _spelled(tokenizer: Tokenizer, id: int, logprob: float) -> dict[str, Any]:
    data = tokenizer.decode_bytes([id])
    return {"token": spelling(tokenizer, id), "logprob": logprob, "bytes": list(data)}


def spelling(tokenizer: Tokenizer, id: int) -> str:
    """A token as text; one that is a part of a character as OpenAI writes it, "bytes:\\xc3", so that no two look alike."""
    data = tokenizer.decode_bytes([id])
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)
