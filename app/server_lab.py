"""The lab's own routes, `/lab/v1/*`: status, findings, journal, timeline, trace, control and jobs of the runs served.

Control takes verbs of a closed set with typed arguments, on its own route; nothing that was said in a chat is ever read as
one. What is shown is read from the run, which the server never writes to.
"""

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any

from fastapi import Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from app import queries
from app.server_answers import Talk
from app.server_jobs import KINDS, Job, Jobs
from app.server_openai import patiently
from app.server_queue import Turns
from app.server_replies import (
    Acknowledged,
    Findings,
    Health,
    JobList,
    JobReply,
    Journal,
    Latch,
    RunStatus,
    ServerStatus,
    Status,
    Timeline,
)
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

ID_BYTES = 16


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
    id: str = field(default_factory=lambda: secrets.token_hex(ID_BYTES))  # told to anybody: it opens nothing
    _readers: dict[tuple[str, int, int], queries.Opened] = field(default_factory=dict)

    def run(self, name: str | None) -> Run:
        return self.talk.published.run(name)

    # ---------------------------------------------------------------------------------------------------------- showing

    def health(self) -> Health:
        """Needs no token, so it has no names of people or things, no reasons, no paths."""
        published, uptime = self.talk.published, self._uptime()
        if not published.single:
            return Health(status="ok", id=self.id, uptime=uptime, runs=len(published.run_names()))
        one = self._standing(published.run())
        about = {"training": one.training, "step": one.step, "weights_step": one.weights_step}
        return Health(status="ok", id=self.id, uptime=uptime, **about)

    def status(self, of: Annotated[OfRun, Query()]) -> Status:
        published = self.talk.published
        chosen = [of.run] if of.run is not None or published.single else published.run_names()
        server = ServerStatus(
            uptime=self._uptime(),
            device=published.device,
            busy=self.turns.busy,
            waiting=self.turns.waiting,
            most_waiting=self.turns.most,
            weights_step=published.newest_step,
            system_prompt=self.talk.system_prompt,
        )
        return Status(server=server, runs=[self._standing(self.run(one)) for one in chosen])

    def _uptime(self) -> float:
        return round(time.time() - self.started_at, 1)

    def _standing(self, run: Run) -> RunStatus:
        """How a run does: its own numbers, whether anybody trains it, and how old the newest weights are."""
        opened = self._opened(run)
        summary = asdict(queries.summarise(opened))
        info = newest(run)
        latches: list[Latch] = []
        if opened.records is not None:
            try:
                latches = [
                    Latch(owner=one.owner, reason=one.reason, since=one.since, severity=one.severity)
                    for one in opened.records.latches()
                ]
            except queries.UNREADABLE:
                latches = []  # the summary says already that it cannot be read
        return RunStatus(
            **summary,
            training=summary["state"],
            model=ONE_RUN if self.talk.published.single else run.name,
            latches=latches,
            weights_step=info.step if info else None,
            weights_saved_at=info.saved_at if info else None,
            weights_age=round(time.time() - info.saved_at, 1) if info else None,
            chats_trained_on=run.config.data.chats,
        )

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

    def findings(self, page: Annotated[Page, Query()]) -> Findings:
        run = self.run(page.run)
        rows = sorted(self._records(run).rows(Finding), key=lambda row: row.id, reverse=True)
        columns = Finding.__table__.columns.keys()
        shown = [{name: getattr(row, name) for name in columns} for row in rows[: page.limit]]
        return Findings(run=run.name, count=len(rows), findings=shown)

    def journal(self, page: Annotated[Page, Query()]) -> Journal:
        run = self.run(page.run)
        entries = queries.journal(self._records(run), run.evidence)
        return Journal(run=run.name, count=len(entries), entries=entries[: page.limit])

    def timeline(self, of: Annotated[OfRun, Query()]) -> Timeline:
        run = self.run(of.run)
        return Timeline(run=run.name, moments=moments(run))

    async def trace(self, asked: TraceRequest, request: Request) -> Any:
        """Uses the model, so it stands in the same line as chats."""

        def work(_: Callable[[], bool]) -> Iterator[dict[str, Any]]:
            name = asked.model or (ONE_RUN if self.talk.published.single else self.run(None).name)
            yield self.tracer.trace(self.talk.published.load(name), asked)

        turn = self.turns.take(work)
        try:
            return await patiently(turn, request)
        finally:
            turn.leave()

    # ----------------------------------------------------------------------------------------------------------- acting

    def control(self, asked: ControlRequest, response: Response) -> Acknowledged:
        """202: sent, and not acknowledged yet."""
        run = self.run(asked.run)
        order(asked.verb, asked.arguments)  # refused before anything is sent
        id = control.send(run, asked.verb, asked.arguments)
        about = {"run": run.name, "verb": asked.verb, "arguments": asked.arguments, "id": id}
        try:
            answer = control.wait(run, id, asked.wait)
        except control.NotAcknowledged as error:  # sent, and to be obeyed: no failure that asks to be repeated
            response.status_code = 202
            return Acknowledged(**about, acknowledged=False, result=str(error))
        return Acknowledged(**about | asdict(answer), acknowledged=True, refused=answer.refused)

    def ask_job(self, asked: JobRequest) -> JobReply:
        return _reply(self.jobs.ask(asked.kind, self.run(asked.run), asked.options))

    def list_jobs(self) -> JobList:
        return JobList(jobs=[_reply(job) for job in self.jobs.all()])

    def show_job(self, id: str) -> JobReply:
        return _reply(self.jobs.job(id))

    def cancel_job(self, id: str) -> JobReply:
        return _reply(self.jobs.cancel(id))


def _reply(job: Job) -> JobReply:
    return JobReply(**job.to_json())
