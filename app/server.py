"""The exploration server: a run's published weights behind OpenAI's API, and the lab's own routes beside it.

A process of its own that reads the run and never the trainer, so it goes on answering when training stands still or has
died. The whole of what can be asked is the table in `_routes`; `server_guard` stands before all of it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.types import Receive, Scope, Send

from app.server_answers import ChatBook, Talk
from app.server_errors import HANDLERS, Failure, nothing_unasked
from app.server_guard import Guard, Policy
from app.server_jobs import Jobs
from app.server_lab import Lab
from app.server_openai import OpenAI
from app.server_queue import MOST_WAITING, Turns
from app.server_replies import ChatCompletion, Completion, Traced
from app.server_weights import Published
from lab.run_folder import CONFIG, MANIFEST

STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}


@dataclass(frozen=True)
class Server:
    """An ASGI application: `api` answers what `guard` lets through to it."""

    guard: Guard
    api: FastAPI
    lab: Lab

    @property
    def routes(self) -> list[APIRoute]:
        """Everything that it answers."""
        return [route for route in self.api.routes if isinstance(route, APIRoute)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.guard(scope, receive, send)

    def stop(self) -> None:
        """End what is being answered, as far as it came, and take no more on: streams would keep the server for minutes."""
        self.lab.turns.stop()
        self.lab.jobs.stop()

    def close(self) -> None:
        """End jobs and answers, close the records; what is asked afterwards fails."""
        self.lab.turns.close()
        self.lab.jobs.close()
        self.lab.talk.chats.close()


def create(
    path: Path,
    policy: Policy,
    system_prompt: str | None = None,
    device: str = "cpu",
    most_waiting: int = MOST_WAITING,
) -> Server:
    """The server of a run, or of every run in a folder.

    Args:
        system_prompt: put before conversations that bring none of their own; each record says whether it was.
    """
    single = (path / MANIFEST).is_file() and (path / CONFIG).is_file()
    talk = Talk(Published(path, single, device), ChatBook(), system_prompt or None)
    lab = Lab(talk, Turns(most_waiting), Jobs(path.parent if single else path))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        server.close()

    api = FastAPI(
        title="Brightwoven Lab",
        version=_version(),
        lifespan=lifespan,
        openapi_url=None,  # a route of the table instead: this one would come with HEAD, and with pages of scripts
        redirect_slashes=False,
        exception_handlers=HANDLERS,
        dependencies=[Depends(nothing_unasked), Security(HTTPBearer(auto_error=False))],  # the guard checks the token
        responses={"default": {"model": Failure, "description": "not done, and why"}},
    )
    _routes(api, OpenAI(talk, lab.turns), lab)
    server = Server(Guard(api, policy), api, lab)
    return server


def _routes(api: FastAPI, openai: OpenAI, lab: Lab) -> None:
    """Everything that can be asked. Default deny: another path is a 404, another method of a path a 405."""
    get, post, delete = api.get, api.post, api.delete
    said: dict[str, Any] = {"responses": STREAMED}
    bare: dict[str, Any] = {"response_model_exclude_unset": True}

    def document() -> dict[str, Any]:
        return api.openapi()

    get("/health", summary="whether it answers, and whether the run trains", **bare)(lab.health)
    get("/openapi.json", summary="this document")(document)
    get("/v1/models", summary="the newest weights and every checkpoint, by name")(openai.models)
    get("/v1/models/{model}", summary="one of them")(openai.model)
    post("/v1/chat/completions", summary="an answer to a conversation", response_model=ChatCompletion, **said)(
        openai.chat
    )
    post("/v1/completions", summary="how a text goes on", response_model=Completion, **said)(openai.completion)
    post("/tokenize", summary="tokens of a text")(openai.tokenize)
    post("/detokenize", summary="text of tokens")(openai.detokenize)
    post("/lab/v1/trace", summary="what the layers hold at each token", response_model=Traced, **bare)(lab.trace)
    get("/lab/v1/status", summary="how runs and server do")(lab.status)
    get("/lab/v1/findings", summary="what instruments saw, newest first")(lab.findings)
    get("/lab/v1/journal", summary="entries, claims and verdicts, newest first")(lab.journal)
    get("/lab/v1/timeline", summary="what happened to the run, by step")(lab.timeline)
    post("/lab/v1/control", summary="act on training: one verb of a closed set")(lab.control)
    post("/lab/v1/jobs", summary="ask for long work", status_code=202)(lab.ask_job)
    get("/lab/v1/jobs", summary="the jobs, newest first")(lab.list_jobs)
    get("/lab/v1/jobs/{id}", summary="one job")(lab.show_job)
    delete("/lab/v1/jobs/{id}", summary="cancel a job")(lab.cancel_job)


def _version() -> str:
    try:
        return version("brightwoven-lab")
    except PackageNotFoundError:
        return "0"
