"""The server as a process: its socket, its token, its place in the queue of the machine, and how others find it.

While it answers, `server.json` in the run (or the folder of runs) says where, and the id that this process drew. A kill
leaves the file behind, and another server may have the port by then: whoever reads it asks `/health` for the id first.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from app.interrupts import Interrupts
from app.server_guard import LOOPBACK, Policy, token_in
from lab.durable import replace_file
from lab.errors import LabError

NOTE_FILE = "server.json"
USUAL_PORT = 8123
NICE = 10
_LOCAL = re.compile(r"http://(127\.0\.0\.1|localhost|\[::1\]):[0-9]{1,5}")
TICK_SECONDS = 0.1  # so often is looked whether it is to end, as uvicorn does
GRACE_SECONDS = 1  # for streams to end when the server is asked to: they are told, and need the time of a token


class ServerDidNotStart(LabError):
    """The address cannot be used, or must not be without saying so."""


@dataclass(frozen=True)
class Found:
    """A server that answers now; its id is that of its process, "" where nobody asked."""

    url: str
    token: str
    id: str = ""


def listening(address: str, port: int | None) -> socket.socket:
    """A socket on the port asked for; without one, on the usual port or any free one.

    Raises:
        ServerDidNotStart
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for candidate in (port,) if port is not None else (USUAL_PORT, 0):
        found = socket.socket(family, socket.SOCK_STREAM)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind((address, candidate))
        except OSError as error:
            found.close()
            reason = error.strerror or str(error)
            continue
        return found
    raise ServerDidNotStart(
        f"{address}:{port or USUAL_PORT} cannot be used ({reason}). Choose another --port or --host."
    )


def url_of(address: str, port: int) -> str:
    """Where a client on this machine reaches it."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(address, f"[{address}]" if ":" in address else address)
    return f"http://{name}:{port}"


def serve(
    path: Path,
    address: str = LOOPBACK[0],
    port: int | None = None,
    names: tuple[str, ...] = (),
    system_prompt: str | None = None,
    device: str = "cpu",
    threads: int = 1,
    nice: int = NICE,
    most_waiting: int | None = None,
    ready: Callable[[str, Path], None] = lambda url, token: None,
) -> int:
    """Answer until a signal ends it.

    Args:
        path: a run, or a folder of runs.
        names: further Host names that it may be called by.
        threads: of the model's arithmetic; one leaves the machine to the trainer.
        nice: how far behind others it stands in line for the processor.
        ready: told the address and the token's file as soon as it answers.

    Returns:
        The number of the signal.

    Raises:
        ServerDidNotStart, BadToken, ChatsUnwritable
    """
    with Interrupts(signal.SIGINT, signal.SIGTERM) as interrupts:
        _serve(interrupts, path, address, port, names, system_prompt, device, threads, nice, most_waiting, ready)
    return interrupts.number


def _serve(
    interrupts: Interrupts,
    path: Path,
    address: str,
    port: int | None,
    names: tuple[str, ...],
    system_prompt: str | None,
    device: str,
    threads: int,
    nice: int,
    most_waiting: int | None,
    ready: Callable[[str, Path], None],
) -> None:
    import torch
    import uvicorn

    from app.server import create
    from app.server_queue import MOST_WAITING

    token = token_in(path)
    with listening(address, port) as opened:
        number = int(opened.getsockname()[1])
        policy = Policy.of(token, address, number, names)
        waiting = MOST_WAITING if most_waiting is None else most_waiting
        server = create(path, policy, system_prompt, device, waiting)
        if server.lab.talk.published.single:  # another that keeps the record is met now, not at a question
            server.lab.talk.chats.of(server.lab.run(None))
        with contextlib.suppress(OSError):
            os.nice(nice)
        torch.set_num_threads(threads)
        config = uvicorn.Config(
            server,
            log_level="warning",
            access_log=False,  # a log of who asked what is what `chats.db` is for
            proxy_headers=False,
            server_header=False,
            date_header=False,
            ws="none",
            lifespan="on",
            timeout_graceful_shutdown=GRACE_SECONDS,
        )
        running = uvicorn.Server(config)
        url = url_of(address, number)

        async def run() -> None:
            serving = asyncio.create_task(running.serve(sockets=[opened]))  # it hands signals on at its end
            while not running.started and not serving.done():
                await asyncio.sleep(TICK_SECONDS)
            running.should_exit |= interrupts.number > 0
            if running.started:
                note = {"url": url, "pid": os.getpid(), "id": server.lab.id, "started": time.time()}
                replace_file(path / NOTE_FILE, json.dumps(note).encode())
                ready(url, path / "server.token")
            while not running.should_exit and not serving.done():
                await asyncio.sleep(TICK_SECONDS)
            server.stop()
            await serving

        interrupts.raising = False
        try:
            asyncio.run(run())
        finally:
            forget(path, os.getpid())


def leave(signal_number: int) -> NoReturn:
    """End this process at once, as one that a signal ended (without one: as one that failed).

    All that is to be kept is on disk. Taking apart what torch has loaded would cost a second of processor time, which
    at the server's low priority beside a trainer became ten: Ctrl-C must not seem to hang.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(128 + signal_number if signal_number else 1)


def forget(path: Path, pid: int) -> None:
    """Take the note away, if it is this process's."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if json.loads((path / NOTE_FILE).read_bytes())["pid"] == pid:
            (path / NOTE_FILE).unlink()


def find(run: Path) -> Found | None:
    """The server that answers for a run now: its own, or one of the folder it lies in."""
    for folder in (run, run.parent):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, LabError):
            note = json.loads((folder / NOTE_FILE).read_bytes())
            url, id = str(note["url"]), str(note["id"])
            # a run may come from a stranger: its note leads nowhere else, and no other server is sent its token
            if _LOCAL.fullmatch(url) and answers(url, id):
                return Found(url, token_in(folder), id)
    return None


def answers(url: str, id: str, seconds: float = 2.0) -> bool:
    """Whether the server process with this id answers there."""
    try:
        with _direct().open(f"{url}/health", timeout=seconds) as answer:
            said = json.loads(answer.read(65_536))
            return bool(answer.status == 200 and said.get("status") == "ok" and said.get("id") == id)
    except (urllib.error.URLError, OSError, ValueError, AttributeError):
        return False


def _direct() -> urllib.request.OpenerDirector:
    """Without the machine's proxies: what is said to a local server stays here."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))
