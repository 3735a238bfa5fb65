"""Servers for tests: in this process through Starlette's client, or on a real loopback socket in a process of its own."""

import contextlib
import json
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn
from starlette.testclient import TestClient

from app.server import Server, create
from app.server_guard import Policy, token_in
from app.server_process import NOTE_FILE
from lab import checkpoint
from lab.run import Run
from tests.app.commands import command, environment
from tests.made_runs import made_run

TOKEN = "5" * 48
BASE = "http://127.0.0.1"
PATIENCE = 120.0


@contextlib.contextmanager
def served(path: Path, **options: Any) -> Iterator[tuple[TestClient, Server]]:
    """A server in this process, and a client that has its token, and gets a 500 where the server fails."""
    server, headers = create(path, Policy(TOKEN), **options), {"Authorization": f"Bearer {TOKEN}"}
    with TestClient(server, base_url=BASE, headers=headers, raise_server_exceptions=False) as client:
        yield client, server


def chat(client: TestClient, text: str = "the old dog", **more: Any) -> Any:
    body = {"model": "lab", "messages": [{"role": "user", "content": text}], "max_tokens": 12, "seed": 7} | more
    return client.post("/v1/chat/completions", json=body)


def events(text: str) -> list[dict[str, Any]]:
    """The chunks of a streamed answer; its end mark must be there."""
    lines = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@dataclass
class Real:
    """A server on a real socket, and its process where it is not this one."""

    process: "subprocess.Popen[bytes] | None"
    url: str
    token: str

    def request(self, path: str, body: Any = None, method: str | None = None) -> urllib.request.Request:
        headers = {"Authorization": f"Bearer {self.token}"} | ({"Content-Type": "application/json"} if body else {})
        content = None if body is None else json.dumps(body).encode()
        return urllib.request.Request(self.url + path, content, headers, method=method)

    def ask(self, path: str, body: Any = None) -> Any:
        with urllib.request.urlopen(self.request(path, body), timeout=PATIENCE) as answer:
            return json.loads(answer.read())

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        self.process.wait(30)


def start(path: Path, *options: str) -> Real:
    """`lab serve`, waited for until it answers."""
    words = command("serve", *options, "--port", "0", "--nice", "0", "--", str(path))
    process = subprocess.Popen(words, env=environment(path.parent), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    note, deadline = path / "server.json", time.monotonic() + PATIENCE
    while True:
        assert process.poll() is None, (process.stderr.read() if process.stderr else b"").decode()
        if time.monotonic() > deadline:
            process.kill()
            raise AssertionError("it did not answer in time")
        with contextlib.suppress(OSError, ValueError):
            about = json.loads(note.read_bytes())
            if about["pid"] == process.pid:
                return Real(process, about["url"], (path / "server.token").read_text())
        time.sleep(0.05)


@contextlib.contextmanager
def really_served(path: Path, *options: str) -> Iterator[Real]:
    real = start(path, *options)
    try:
        yield real
    finally:
        if real.process is not None and real.process.poll() is None:
            real.stop()


@contextlib.contextmanager
def loopback(server: Server) -> Iterator[str]:
    """A server of this process on a real socket, in a thread: its address. Its policy must know no port, and need not."""
    config = uvicorn.Config(server, port=0, log_level="warning", ws="none", timeout_graceful_shutdown=1)
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    until(lambda: running.started, "it listens")
    try:
        yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join(PATIENCE)


def talkative(root: Path) -> Run:
    """A run whose newest weights, of step 9, never end an answer where the likeliest token is taken (temperature 0)."""
    run = made_run(root, n_ctx=2048)
    state = run.model(8).state_dict()
    state["unembed.W_U"] = state["unembed.W_U"].clone()
    state["unembed.W_U"][:, list(run.tokenizer().specials.values())] = 0.0  # below the largest of 313 others, always
    about = {"step": 9, "segment": 1, "config_hash": run.config.hash()}
    checkpoint.save(run.checkpoints_folder, 9, state, {}, about)
    return run


@contextlib.contextmanager
def noted(run: Run, **options: Any) -> Iterator[Server]:
    """A server of this process that `app.server_process.find` finds, as the app does: with a note and a token in the run."""
    server = create(run.path, Policy(token_in(run.path)), **options)
    with loopback(server) as url:
        (run.path / NOTE_FILE).write_text(json.dumps({"url": url, "id": server.lab.id}))
        try:
            yield server
        finally:
            (run.path / NOTE_FILE).unlink()


@contextlib.contextmanager
def training(root: Path, text_file: Path, *overrides: str) -> Iterator[Run]:
    """A small run from scratch that trains in a process of its own, until the block ends; it has weights already."""
    settings = [
        f'data.sources=[{{name="story", kind="text", path="{text_file}"}}]',
        "data.phases=[{from_step=0, weights={story=1.0}}]", "model.d_vocab=400", "data.tokenizer_bytes=200000",
        "data.validation_share=0.1", "train.threads=1", "train.steps=1000000", "checkpoint.every=200", "probing.every=0",
        "model.n_ctx=128", *overrides,
    ]  # fmt: skip
    words = command("train", "--preset", "tiny", "--name", "fox", *(w for one in settings for w in ("--set", one)))
    trainer = subprocess.Popen(words, env=environment(root), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: (root / "fox" / "checkpoints" / "LATEST").exists() or trainer.poll() is not None, "it trains")
        yield Run.open(root / "fox")
        assert trainer.poll() is None, "training went on to the end of the test"
    finally:
        trainer.terminate()
        trainer.wait(60)


def until(true: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline, f"not so after {PATIENCE:.0f} s: {what}"
        time.sleep(0.005)


def commands_of(run: Run) -> int:
    """Commands that the run was ever sent: in its inbox, or recorded."""
    from lab.records import Command

    with run.records() as records:
        return len(list(run.inbox.iterdir())) + len(records.rows(Command))
