"""The exploration server: a run's published weights behind OpenAI's API, and the lab's own routes beside it.

A process of its own that reads the run and never the trainer, so it goes on answering when training stands still or has
died. The whole of what can be asked is the table in `routes`; `server_guard` stands before all of it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from starlette.responses import Response

from app.server_answers import ChatBook, Talk
from app.server_guard import Guard, Policy, Receive, Scope, Send
from app.server_jobs import Jobs
from app.server_lab import ControlRequest, JobRequest, Lab, OfRun, Page
from app.server_openai import answered, detokenized, listed, retrieved, tokenized
from app.server_queue import MOST_WAITING, Turns
from app.server_requests import ChatRequest, CompletionRequest, DetokenizeRequest, TokenizeRequest
from app.server_routes import Call, Route, ok, openapi, router
from app.server_trace import TraceRequest
from app.server_weights import Published
from lab.run_folder import CONFIG, MANIFEST


@dataclass(frozen=True)
class Server:
    """An ASGI application; `routes` is everything that it answers."""

    guard: Guard
    routes: tuple[Route, ...]
    lab: Lab

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.guard(scope, receive, send)

    def close(self) -> None:
        """End jobs, let the running answer end, close the records; what is asked afterwards fails."""
        self.lab.jobs.close()
        self.lab.turns.close()
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
    table = routes(lab)

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        yield
        server.close()

    server = Server(Guard(router(table, lifespan), policy), table, lab)
    return server


def routes(lab: Lab) -> tuple[Route, ...]:
    """Everything that can be asked."""
    talk, turns = lab.talk, lab.turns

    async def models(_: Call) -> Response:
        return ok(listed(talk))

    async def model(call: Call) -> Response:
        return ok(retrieved(talk, call.path["model"]))

    async def document(_: Call) -> Response:
        return ok(openapi(table, _version()))

    answer = partial(answered, talk, turns)
    table = (
        Route("GET", "/health", lab.health, "whether it answers, and whether the run trains; needs no token"),
        Route("GET", "/openapi.json", document, "this document"),
        Route("GET", "/v1/models", models, "the newest weights and every checkpoint, by name"),
        Route("GET", "/v1/models/{model}", model, "one of them"),
        Route("POST", "/v1/chat/completions", answer, "an answer to a conversation", ChatRequest),
        Route("POST", "/v1/completions", answer, "how a text goes on", CompletionRequest),
        Route("POST", "/tokenize", partial(tokenized, talk), "tokens of a text", TokenizeRequest),
        Route("POST", "/detokenize", partial(detokenized, talk), "text of tokens", DetokenizeRequest),
        Route("POST", "/lab/v1/trace", lab.trace, "what the layers hold at each token of a text", TraceRequest),
        Route("GET", "/lab/v1/status", lab.status, "how runs and server do", query=OfRun),
        Route("GET", "/lab/v1/findings", lab.findings, "what instruments saw, newest first", query=Page),
        Route("GET", "/lab/v1/journal", lab.journal, "entries, claims and verdicts, newest first", query=Page),
        Route("GET", "/lab/v1/timeline", lab.timeline, "what happened to the run, by step", query=OfRun),
        Route("POST", "/lab/v1/control", lab.control, "act on training: one verb of a closed set", ControlRequest),
        Route("POST", "/lab/v1/jobs", lab.ask_job, "ask for long work", JobRequest),
        Route("GET", "/lab/v1/jobs", lab.list_jobs, "the jobs, newest first"),
        Route("GET", "/lab/v1/jobs/{id}", lab.show_job, "one job"),
        Route("DELETE", "/lab/v1/jobs/{id}", lab.cancel_job, "cancel a job"),
    )
    return table


def _version() -> str:
    try:
        return version("brightwoven-lab")
    except PackageNotFoundError:
        return "0"
