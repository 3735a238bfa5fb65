"""Who may ask the server anything: default deny on every method and on WebSockets, before a route is looked at.

A web page that a person visits can reach 127.0.0.1, too (DNS rebinding: Ray CVE-2025-62593, MLflow CVE-2025-14279), and a
guard of some methods forgets others (Ray CVE-2026-27482). So: Host and Origin must be on a list, the token must be right, a
body must be JSON, small and shallow, whatever the method. There are no CORS headers. No torch.
"""

import asyncio
import json
import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lab.durable import write_file
from lab.errors import LabError

TOKEN_FILE = "server.token"
TOKEN_BYTES = 24
MOST_BYTES = 1024 * 1024  # of a body
DEEPEST = 32  # arrays and objects inside one another
BODY_SECONDS = 30.0
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
OPEN_PATH = "/health"  # the one route without a token, for reading
HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}  # of every answer
_TYPES = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}


class BadToken(LabError):
    """The token's file is not one that only its owner can read."""


class Problem(Exception):
    """A request that is not carried out: an HTTP status, and words in OpenAI's form."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        usual = "server_error" if self.status >= 500 else "invalid_request_error"
        kind = _TYPES.get(self.status, usual)
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        hints = {401: {"www-authenticate": "Bearer"}, 429: {"retry-after": "1"}}
        return JSONResponse(self.body(), self.status, hints.get(self.status))


def token_in(folder: Path) -> str:
    """The token of the servers of a folder (a run, or a folder of runs): 24 random bytes in a file of mode 0600.

    Raises:
        BadToken: the file is a link, another user's, readable by others, or holds something else.
    """
    path = folder / TOKEN_FILE
    try:
        write_file(path, secrets.token_hex(TOKEN_BYTES).encode())
    except FileExistsError:
        pass
    except OSError as error:
        raise BadToken(f"{path}: cannot be written ({error}). Make the folder writable.") from None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            about = os.fstat(descriptor)
            content = file.read(1000)
    except OSError as error:
        raise BadToken(f"{path}: cannot be read ({error}). Delete it; the server makes a new one.") from None
    token = content.decode("ascii", errors="replace").strip()
    private = stat.S_ISREG(about.st_mode) and about.st_uid == os.geteuid() and not about.st_mode & 0o077
    if not private or len(token) != 2 * TOKEN_BYTES or not set(token) <= set("0123456789abcdef"):
        raise BadToken(
            f"{path}: is no token that only you can read. Delete it; the server makes a new one (mode 0600)."
        )
    return token


@dataclass(frozen=True)
class Policy:
    """What a request must bring.

    Attributes:
        token: as `Authorization: Bearer …`.
        hosts: names that the Host header may have, in lower case, IPv6 in brackets; the port does not matter.
        origins: what an Origin header must be one of, where there is one.
    """

    token: str = field(repr=False)
    hosts: frozenset[str] = frozenset(LOOPBACK)
    origins: frozenset[str] = frozenset(f"http://{name}" for name in LOOPBACK)

    @classmethod
    def of(cls, token: str, address: str, port: int, names: tuple[str, ...] = ()) -> "Policy":
        """For a server on this address and port; `names` are others that it may be called by."""
        own = f"[{address}]" if ":" in address else address
        anywhere = () if own in ("0.0.0.0", "[::]") else (own,)  # no name: any address of the machine
        hosts = frozenset(name.lower() for name in (*LOOPBACK, *anywhere, *names))
        return cls(token, hosts, frozenset(f"http://{name}:{port}" for name in hosts))

    def check(self, scope: Scope) -> None:
        """Raises Problem: 403 for a foreign Host or Origin, 401 for a wrong token."""
        headers: dict[bytes, list[bytes]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.lower(), []).append(value)
        hosts = headers.get(b"host", [])
        if len(hosts) != 1 or _name_of(hosts[0]) not in self.hosts:
            raise Problem(403, "this Host is not served here.", code="host_not_allowed")
        origins = headers.get(b"origin", [])
        if any(origin.decode("latin1").lower() not in self.origins for origin in origins) or (
            headers.get(b"sec-fetch-site", [b"none"])[0] not in (b"none", b"same-origin")
        ):
            raise Problem(403, "other sites may not ask here.", code="origin_not_allowed")
        reading = scope["type"] == "http" and scope["method"] in ("GET", "HEAD")
        if scope["path"] == OPEN_PATH and reading:
            return
        given = headers.get(b"authorization", [])
        kind, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        right = secrets.compare_digest(token.strip(), self.token.encode())
        if kind.lower() != b"bearer" or not right:
            raise Problem(
                401,
                f"the token is missing or wrong. Send it as 'Authorization: Bearer …'; it lies in {TOKEN_FILE}.",
                code="invalid_api_key",
            )


def _name_of(host: bytes) -> str:
    """The name in a Host header, without its port; "" for what is none.

    >>> _name_of(b"[::1]:8123"), _name_of(b"LOCALHOST:1"), _name_of(b"user@localhost")
    ('[::1]', 'localhost', '')
    """
    try:
        found = urlsplit(f"//{host.decode('ascii')}")
        name, _ = found.hostname, found.port
    except ValueError:
        return ""
    if not name or found.username is not None or found.path or found.query or found.fragment:
        return ""
    return f"[{name}]" if ":" in name else name


@dataclass(frozen=True)
class Guard:
    """The outermost layer: an ASGI application around another."""

    app: ASGIApp
    policy: Policy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket":  # there is no route for one: refused before it is accepted, which is a 403
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        try:
            self.policy.check(scope)
            body = await _body(scope, receive)
        except Problem as problem:
            await problem.response()(scope, receive, _private(send))
            return
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()  # only whether the client has left
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, _private(send))


def _private(send: Send) -> Send:
    """Every answer says that nobody may keep it, or guess what it is."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sending


async def _body(scope: Scope, receive: Receive) -> bytes:
    """The whole body: small, of JSON, not deep. Empty where there is none."""
    too_large = Problem(413, f"the body is larger than {MOST_BYTES} bytes.", code="body_too_large")
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"0")
    if not length.isdigit() or int(length[:20]) > MOST_BYTES:
        raise too_large
    parts: list[bytes] = []
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Problem(400, "the body ended early.", code="incomplete_body")
                parts.append(message.get("body", b""))
                if sum(map(len, parts)) > MOST_BYTES:
                    raise too_large
                if not message.get("more_body"):
                    break
    except TimeoutError:
        raise Problem(408, f"the body took longer than {BODY_SECONDS:g} s.", code="body_timeout") from None
    body = b"".join(parts)
    if body or b"content-type" in headers:
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if kind != b"application/json":
            raise Problem(415, "send JSON: Content-Type: application/json.", code="not_json")
    if body:
        check_json(body)
    return body


def check_json(body: bytes) -> None:
    """Refuse what is no JSON, what is nested deeper than `DEEPEST`, NaN, infinity and halves of surrogate pairs.

    Raises:
        Problem: 400
    """

    def refused(text: str) -> float:
        raise ValueError(f"{text} is no JSON")

    try:
        level = _containers([json.loads(body.decode("utf8"), parse_constant=refused)])
        for _ in range(DEEPEST):
            level = _containers([inner for one in level for inner in (one if isinstance(one, list) else _both(one))])
        if not level:
            return
    except (ValueError, RecursionError) as error:
        if not isinstance(error, RecursionError):
            raise Problem(400, f"the body is no JSON: {str(error)[:200]}.", code="bad_json") from None
    raise Problem(400, f"the JSON is nested deeper than {DEEPEST} levels.", code="json_too_deep")


def _containers(values: list[Any]) -> list[Any]:
    """Those that hold others; the texts among the rest must be encodable."""
    for value in values:
        if isinstance(value, str):
            value.encode()  # a UnicodeEncodeError is a ValueError
    return [value for value in values if isinstance(value, list | dict)]


def _both(value: dict[str, Any]) -> list[Any]:
    return [*value, *value.values()]
