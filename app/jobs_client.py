"""Asking a run's server for long work and following it: the app's side of `/lab/v1/jobs`. No torch, no Streamlit.

Only a server of this machine is spoken to (`server_process.find`), without the machine's proxies. What it answers is
checked before a word of it is shown.
"""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from app.server_process import Found
from app.server_replies import JobList, JobReply
from lab.errors import LabError

PATIENCE = 10.0  # seconds; asking takes milliseconds, but the server runs behind everybody else on the machine
MOST_BYTES = 8 * 1024 * 1024  # a hundred jobs with their results are some 2 MB
JOBS = "/lab/v1/jobs"
Options = Mapping[str, bool | int | float | str]


class JobRefused(LabError):
    """The server does not take the job, and said why."""


class ServerSilent(LabError):
    """The server does not answer, or answers in a way that is none of ours."""

    exit_code = 1


def ask(found: Found, run: str, kind: str, options: Options) -> JobReply:
    """Put a job in line.

    Args:
        kind: of `server_jobs.KINDS`; options are those of its verb.

    Raises:
        JobRefused, ServerSilent
    """
    return _job(_answer(found, JOBS, {"run": run, "kind": kind, "options": dict(options)}))


def of_run(found: Found, run: str, kind: str) -> list[JobReply]:
    """The server's jobs of one kind about a run, newest first. Raises JobRefused, ServerSilent."""
    try:
        jobs = JobList.model_validate(_answer(found, JOBS)).jobs
    except ValidationError:
        raise ServerSilent(f"{found.url}: its list of jobs is none of ours. Is it `lab serve`?") from None
    return [job for job in jobs if (job.run, job.kind) == (run, kind)]


def cancel(found: Found, id: str) -> JobReply:
    """Take a job out of the line, or interrupt it as Ctrl-C would. Raises JobRefused, ServerSilent."""
    return _job(_answer(found, f"{JOBS}/{id}", method="DELETE"))


def _job(answer: Any) -> JobReply:
    try:
        return JobReply.model_validate(answer)
    except ValidationError:
        raise ServerSilent("the server's answer is no job of ours. Is it `lab serve`?") from None


def _answer(found: Found, path: str, body: Any = None, method: str | None = None) -> Any:
    headers = {"Authorization": f"Bearer {found.token}"} | (
        {} if body is None else {"Content-Type": "application/json"}
    )
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(found.url + path, content, headers, method=method)
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # what is said to a local server stays here
    try:
        with direct.open(request, timeout=PATIENCE) as answer:
            return json.loads(answer.read(MOST_BYTES))
    except urllib.error.HTTPError as error:
        raise JobRefused(_words(error)) from None
    except (urllib.error.URLError, OSError, ValueError) as error:
        raise ServerSilent(f"{found.url}: does not answer ({error}). Start it again: lab serve") from None


def _words(error: urllib.error.HTTPError) -> str:
    """Why not, in the server's words."""
    try:
        return str(json.loads(error.read(65_536))["error"]["message"])[:600]
    except (OSError, ValueError, KeyError, TypeError):
        return f"the server answered {error.code} {error.reason}"
