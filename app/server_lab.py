"""The lab's own routes, `/lab/v1/*`: status, findings, journal, timeline, trace, control and jobs of the runs served.

Control takes verbs of a closed set with typed arguments, on its own route; nothing that was said in a chat is ever read as
one. What is shown is read from the run, which the server never writes to.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.responses import Response

from app import queries
from app.server_answers import Talk
from app.server_jobs import KINDS, Jobs
from app.server_openai import patiently
from app.server_queue import Turns
from app.server_routes import Call, ok
from app.server_trace import Tracer, TraceRequest
from app.server_weights import ONE_RUN, newest
from app.timeline import timeline as moments
from lab.records import Finding, Records, RecordsBroken
from lab.run import Run
from train import control
from train.commands import VERBS, order

RunName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
# The closed sets as they are when asked; `order` and `Jobs.ask` refuse everything else.
Verb = Annotated[str, StringConstraints(max_length=64), Field(json_schema_extra={"enum": list(VERBS)})]
Kind = Annotated[str, StringConstraints(max_length=64), Field(json_schema_extra={"enum": list(KINDS)})]


class OfRun(BaseModel):
    """Which run; may be left out where one alone is served."""

    model_config = ConfigDict(extra="forbid")

    run: RunName | None = None


class Page(OfRun):
    limit: int = Field(100, ge=1, le=1000)


class ControlRequest(OfRun):
    """One verb with its arguments; `lab` has the same."""

    verb: Verb
    arguments: dict[str, Any] = Field(default_factory=dict, max_length=16)
    wait: float = Field(10.0, ge=0, le=30, description="seconds to wait for the acknowledgement")


class JobRequest(OfRun):
    """A verb of the command line that takes long, and its options."""

    kind: Kind
    options: dict[str, bool | int | float | str | list[int | float | str]] = Field(default_factory=dict, max_length=16)


@dataclass
class Lab:
    """What the routes share."""

    talk: Talk
    turns: Turns
    jobs: Jobs
    tracer: Tracer = field(default_factory=Tracer)
    started_at: float = field(default_factory=time.time)
    _readers: dict[tuple[str, int, int], queries.Opened] = field(default_factory=dict)

    def run(self, name: str | None) -> Run:
        return self.talk.published.run(name)

    # ---------------------------------------------------------------------------------------------------------- showing

    async def health(self, _: Call) -> Response:
        """Without a token, so: no names of people or things, no reasons, no paths."""
        return ok(await asyncio.to_thread(self._health))

    def _health(self) -> dict[str, Any]:
        published = self.talk.published
        about: dict[str, Any] = {"status": "ok", "uptime": round(time.time() - self.started_at, 1)}
        if not published.single:
            return about | {"runs": len(published.run_names())}
        found = self._standing(published.run())
        return about | {key: found[key] for key in ("training", "step", "weights_step")}

    async def status(self, call: Call) -> Response:
        return ok(await asyncio.to_thread(self._status, call.query.run))

    def _status(self, name: str | None) -> dict[str, Any]:
        published = self.talk.published
        chosen = [name] if name is not None or published.single else published.run_names()
        return {
            "server": {
                "uptime": round(time.time() - self.started_at, 1),
                "device": published.device,
                "busy": self.turns.busy,
                "waiting": self.turns.waiting,
                "most_waiting": self.turns.most,
                "weights_step": published.newest_step,
                "system_prompt": self.talk.system_prompt,
            },
            "runs": [self._standing(self.run(one)) for one in chosen],
        }

    def _standing(self, run: Run) -> dict[str, Any]:
        """How a run does: its own numbers, whether anybody trains it, and how old the newest weights are."""
        opened = self._opened(run)
        summary = asdict(queries.summarise(opened))
        info = newest(run)
        latches: list[dict[str, Any]] = []
        if opened.records is not None:
            try:
                latches = [
                    {"owner": one.owner, "reason": one.reason, "since": one.since, "severity": one.severity}
                    for one in opened.records.latches()
                ]
            except queries.UNREADABLE:
                latches = []  # the summary says already that it cannot be read
        return summary | {
            "training": summary["state"],
            "model": ONE_RUN if self.talk.published.single else run.name,
            "latches": latches,
            "weights_step": info.step if info else None,
            "weights_saved_at": info.saved_at if info else None,
            "weights_age": round(time.time() - info.saved_at, 1) if info else None,
        }

    def _opened(self, run: Run) -> queries.Opened:
        """One connection a run: opening one takes longer than all that is asked through it."""
        key = queries.identity(run.path)
        found = self._readers.get(key) or queries.open_run(run.path)
        if found.problem is None:
            self._readers[key] = found
        return found

    def _records(self, run: Run) -> Records:
        """Raises RecordsBroken: in words."""
        opened = self._opened(run)
        if opened.records is None:
            raise RecordsBroken(opened.problem or f"{run.name}: cannot be read.")
        return opened.records

    async def findings(self, call: Call) -> Response:
        def work() -> dict[str, Any]:
            run = self.run(call.query.run)
            rows = self._records(run).rows(Finding)
            newest_rows = sorted(rows, key=lambda row: row.id, reverse=True)[: call.query.limit]
            columns = Finding.__table__.columns.keys()
            found = [{name: getattr(row, name) for name in columns} for row in newest_rows]
            return {"run": run.name, "count": len(rows), "findings": found}

        return ok(await asyncio.to_thread(work))

    async def journal(self, call: Call) -> Response:
        def work() -> dict[str, Any]:
            run = self.run(call.query.run)
            entries = queries.journal(self._records(run), run.evidence)
            return {
                "run": run.name,
                "count": len(entries),
                "entries": [asdict(entry) for entry in entries[: call.query.limit]],
            }

        return ok(await asyncio.to_thread(work))

    async def timeline(self, call: Call) -> Response:
        def work() -> dict[str, Any]:
            run = self.run(call.query.run)
            return {"run": run.name, "moments": [one.to_json() for one in moments(run)]}

        return ok(await asyncio.to_thread(work))

    async def trace(self, call: Call) -> Response:
        """Uses the model, so it stands in the same line as chats."""
        asked: TraceRequest = call.body

        def work(_: Callable[[], bool]) -> Iterator[dict[str, Any]]:
            name = asked.model or (ONE_RUN if self.talk.published.single else self.run(None).name)
            yield self.tracer.trace(self.talk.published.load(name), asked)

        turn = self.turns.take(work)
        try:
            return ok(await patiently(turn, call.request))
        finally:
            turn.leave()

    # ----------------------------------------------------------------------------------------------------------- acting

    async def control(self, call: Call) -> Response:
        asked: ControlRequest = call.body

        def work() -> tuple[dict[str, Any], int]:
            run = self.run(asked.run)
            order(asked.verb, asked.arguments)  # refused before anything is sent
            id = control.send(run, asked.verb, asked.arguments)
            about = {"run": run.name, "verb": asked.verb, "arguments": asked.arguments, "id": id}
            try:
                answer = control.wait(run, id, asked.wait)
            except control.NotAcknowledged as error:  # sent, and to be obeyed: no failure that asks to be repeated
                return about | {"acknowledged": False, "result": str(error)}, 202
            return about | asdict(answer) | {"acknowledged": True, "refused": answer.refused}, 200

        return ok(*await asyncio.to_thread(work))

    async def ask_job(self, call: Call) -> Response:
        asked: JobRequest = call.body
        job = await asyncio.to_thread(lambda: self.jobs.ask(asked.kind, self.run(asked.run), asked.options))
        return ok(job.to_json(), 202)

    async def list_jobs(self, _: Call) -> Response:
        return ok({"jobs": [job.to_json() for job in self.jobs.all()]})

    async def show_job(self, call: Call) -> Response:
        return ok(self.jobs.job(call.path["id"]).to_json())

    async def cancel_job(self, call: Call) -> Response:
        return ok(self.jobs.cancel(call.path["id"]).to_json())
