"""What goes wrong, as an answer in OpenAI's form: which status it has, and which words. No torch is used."""

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from app.server_answers import Gone
from app.server_guard import Problem
from app.server_queue import QueueFull, Stopping
from app.server_weights import ModelMissing, WeightsMissing
from lab.chats import ChatsUnwritable
from lab.database import RecordsBroken, RecordsMissing, RecordsTooNew
from lab.errors import LabError
from lab.run import CheckpointMissing, NotARun, RunBroken, RunMissing

Model = TypeVar("Model", bound=BaseModel)
CLIENT_GONE = 499


class Missing(LabError):
    """Something that was asked for by name is not there."""


class Words(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class Failure(BaseModel):
    """What OpenAI's clients read an error from."""

    error: Words


_STATUS: tuple[tuple[tuple[type[LabError], ...], int, str | None, str | None], ...] = (
    ((Missing,), 404, None, None),
    ((QueueFull,), 429, None, "queue_full"),
    ((Stopping,), 503, None, "stopping"),
    ((ModelMissing,), 404, "model", "model_not_found"),
    ((RunMissing, NotARun, CheckpointMissing, RecordsMissing), 404, "model", None),
    ((WeightsMissing,), 503, None, "no_weights"),
    ((ChatsUnwritable,), 503, None, "not_recorded"),
    ((RunBroken, RecordsBroken, RecordsTooNew), 503, None, "unreadable"),
    ((LabError,), 400, None, None),
)


def problem_of(error: Exception) -> Problem:
    """Whatever went wrong, as the client is told of it: an error of ours in its own words, a defect without details."""
    if isinstance(error, Problem):
        return error
    for kinds, status, param, code in _STATUS:
        if isinstance(error, kinds):
            return Problem(status, str(error), param, code)
    if isinstance(error, RequestValidationError):
        return _invalid(error.errors()[0], 1)  # its places begin with "body" or "query"
    if isinstance(error, Gone):
        return Problem(CLIENT_GONE, "the client left.")
    if isinstance(error, HTTPException) and error.status_code == 404:
        return Problem(404, "there is no such route. See /openapi.json.")
    if isinstance(error, HTTPException):
        return Problem(error.status_code, f"{error.detail}.")
    return Problem(500, "the server failed at this request; its log says how.", code="internal")


async def answered(request: Request, error: Exception) -> Response:
    """The answer to a request that failed; one whose method alone is wrong learns which would do."""
    response = problem_of(error).response()
    if response.status_code == 405:
        near = (route for route in request.app.routes if route.matches(request.scope)[0] is Match.PARTIAL)
        response.headers["allow"] = ", ".join(method for route in near for method in route.methods)
    return response


# FastAPI lets the server log what only `Exception` catches, after it was answered.
HANDLERS: dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]] = dict.fromkeys(
    (Problem, LabError, Gone, RequestValidationError, HTTPException, Exception), answered
)


async def nothing_unasked(request: Request) -> None:
    """A body where none is taken is a mistake, and is said to be one. Raises Problem: 400."""
    if request.scope["route"].body_field is None and await request.body():
        raise Problem(400, "this route takes no body.", code="unexpected_body")


def checked(model: type[Model], value: Any) -> Model:
    """The value as that model. Raises Problem: 400, naming the field and what it must be."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise _invalid(error.errors()[0]) from None


def _invalid(wrong: Any, skipped: int = 0) -> Problem:
    place = ".".join(map(str, wrong["loc"][skipped:])) or None
    said = wrong["msg"].removeprefix("Value error, ")
    return Problem(400, f"{place or 'the body'}: {said[0].lower()}{said[1:]}.", place, "invalid_value")
