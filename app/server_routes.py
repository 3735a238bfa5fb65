"""A route as data: method, path, what it takes, who answers. The router, the OpenAPI document and the guard's tests are all
made from the same table, so none can forget a route that another knows. No torch.
"""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as Mounted
from starlette.routing import Router

from app.chats import ChatsUnwritable
from app.server_answers import Gone
from app.server_guard import Problem, Receive, Scope, Send, refuse
from app.server_queue import QueueFull
from app.server_weights import ModelMissing, WeightsMissing
from lab.database import RecordsBroken, RecordsMissing, RecordsTooNew
from lab.errors import LabError
from lab.run import CheckpointMissing, NotARun, RunBroken, RunMissing

log = logging.getLogger(__name__)
CLIENT_GONE = 499
HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
_STATUS: tuple[tuple[tuple[type[LabError], ...], int, str | None], ...] = (
    ((QueueFull,), 429, "queue_full"),
    ((ModelMissing,), 404, "model_not_found"),
    ((RunMissing, NotARun, CheckpointMissing, RecordsMissing), 404, None),
    ((WeightsMissing,), 503, "no_weights"),
    ((ChatsUnwritable,), 503, "not_recorded"),
    ((RunBroken, RecordsBroken, RecordsTooNew), 503, "unreadable"),
)


class Missing(LabError):
    """Something that was asked for by name is not there."""


@dataclass(frozen=True)
class Call:
    """A request whose form has been checked."""

    request: Request
    body: Any
    query: Any
    path: Mapping[str, str]


@dataclass(frozen=True)
class Route:
    """One thing that can be asked.

    Attributes:
        path: with {names}; the answerer gets them in `Call.path`.
        body, query: what is taken; None takes nothing.
    """

    method: str
    path: str
    answer: Callable[[Call], Awaitable[Response]]
    summary: str
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None


def router(routes: Sequence[Route], lifespan: Any) -> Router:
    """Default deny: a path that is not in the table is a 404, a method that its path has not a 405."""
    paths: dict[str, dict[str, Route]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method] = route
    mounted = [Mounted(path, _Path(methods)) for path, methods in paths.items()]

    async def nowhere(scope: Scope, receive: Receive, send: Send) -> None:
        await refuse(Problem(404, "there is no such route. See /openapi.json."), send)

    return Router(mounted, redirect_slashes=False, default=nowhere, lifespan=lifespan)


class _Path:
    """All methods of one path, as an ASGI application."""

    def __init__(self, methods: Mapping[str, Route]) -> None:
        self.methods = methods

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            if scope["method"] not in self.methods:
                known = ", ".join(self.methods)
                raise Problem(405, f"this route does not take {scope['method'][:16]}, only {known}.")
            request = Request(scope, receive, send)
            response = await _answered(self.methods[scope["method"]], request)
        except Problem as problem:
            await refuse(problem, send)
            return
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        await response(scope, receive, send)


async def _answered(route: Route, request: Request) -> Response:
    """Raises Problem: whatever went wrong, in words."""
    body = checked(route.body, json.loads(await request.body() or b"null")) if route.body else None
    if route.body is None and await request.body():
        raise Problem(400, "this route takes no body.", code="unexpected_body")
    query = checked(route.query, dict(request.query_params)) if route.query else None
    try:
        return await route.answer(Call(request, body, query, request.path_params))
    except Problem:
        raise
    except LabError as error:
        raise problem_of(error) from None
    except Gone:
        raise Problem(CLIENT_GONE, "the client left.") from None
    except Exception:
        log.exception("%s %s failed", route.method, route.path)  # a defect of ours; what was asked is not logged
        raise Problem(500, "the server failed at this request; its log says how.", code="internal") from None


def checked(model: type[BaseModel], value: Any) -> Any:
    """The value as that model. Raises Problem: 400, naming the field and what it must be."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        wrong = error.errors()[0]
        place = ".".join(map(str, wrong["loc"])) or None
        said = wrong["msg"].removeprefix("Value error, ")
        raise Problem(400, f"{place or 'the body'}: {said[0].lower()}{said[1:]}.", place, "invalid_value") from None


def problem_of(error: LabError) -> Problem:
    """An error meant for people as an HTTP status."""
    if isinstance(error, Missing):
        return Problem(404, str(error))
    for kinds, status, code in _STATUS:
        if isinstance(error, kinds):
            return Problem(status, str(error), "model" if status == 404 else None, code)
    return Problem(400, str(error))


def ok(content: Any, status: int = 200) -> JSONResponse:
    """An answer of strict JSON: NaN and infinity, which records may hold, become null."""
    return JSONResponse(plain(content), status)


def plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


def openapi(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document of a table of routes."""
    schemas: dict[str, Any] = {"Error": _ERROR}
    paths: dict[str, Any] = {}
    for route in routes:
        about: dict[str, Any] = {"summary": route.summary, "responses": _responses(route)}
        parameters = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in _names_in(route.path)
        ]
        if route.query:
            found = _schema(route.query, schemas, keep=False)
            required = found.get("required", ())
            parameters += [
                {"name": name, "in": "query", "required": name in required, "schema": schema}
                for name, schema in found["properties"].items()
            ]
        if parameters:
            about["parameters"] = parameters
        if route.body:
            _schema(route.body, schemas)
            content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{route.body.__name__}"}}}
            about["requestBody"] = {"required": True, "content": content}
        paths.setdefault(route.path.replace(":path}", "}"), {})[route.method.lower()] = about
    return {
        "openapi": "3.1.0",
        "info": {"title": "Brightwoven Lab", "version": version},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _schema(model: type[BaseModel], schemas: dict[str, Any], keep: bool = True) -> dict[str, Any]:
    found = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= found.pop("$defs", {})
    if keep:
        schemas[model.__name__] = found
    return found


def _responses(route: Route) -> dict[str, Any]:
    error = {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}}
    return {"200": {"description": "done"}, "default": {"description": "not done, and why", **error}}


def _names_in(path: str) -> list[str]:
    return [part[1:-1].removesuffix(":path") for part in path.split("/") if part.startswith("{")]


_ERROR = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
            },
        }
    },
}
