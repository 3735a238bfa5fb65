"""Start the app: Streamlit on the packaged `main.py`, on 127.0.0.1, with nothing leaving the machine. No torch."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError
from lab.run_names import default_root

ELSEWHERE = "LAB_RUNS_ELSEWHERE"  # set for the app when it shows runs that `lab` in the same terminal would not find
HERE = Path(__file__).resolve().parent
USUAL_PORT = 8501
HARDENED = {  # on the command line too: there they win over a configuration file in the working directory
    "server.address": "127.0.0.1",
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "server.enableCORS": "true",
    "server.enableXsrfProtection": "true",
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "viewer",
    "client.showErrorDetails": "type",
    "client.showErrorLinks": "false",
    "logger.level": "error",  # Streamlit warns, with a stack, at every click that sets a slider
}


class AppDidNotStart(LabError):
    """The port is taken, or Streamlit ended before it answered."""


@dataclass
class App:
    """The running app: a child process and its address."""

    process: subprocess.Popen[bytes]
    url: str

    def wait(self) -> int:
        """Until it ends; its exit status."""
        return self.process.wait()

    def stop(self) -> None:
        """End it; safe to call twice."""
        self.process.terminate()
        try:
            self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def choose_port(port: int | None) -> int:
    """The port asked for, or 8501, or any free one.

    Raises:
        AppDidNotStart: the port asked for is taken.
    """
    for candidate in (port,) if port else (USUAL_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise AppDidNotStart(f"port {port} of 127.0.0.1 cannot be used. Choose another with --port, or leave it out.")


def start(runs: Path, port: int | None = None, timeout: float = 60.0, quiet: bool = False) -> App:
    """Start the app over the run folders under `runs` and wait until it answers.

    Args:
        port: this one or none other; None = 8501, or a free one when that is taken.
        timeout: seconds to wait for the first answer.
        quiet: drop what Streamlit prints.

    Raises:
        AppDidNotStart: with the reason.
    """
    number = choose_port(port)
    # -P: a folder named lab or app in the working directory must not shadow ours
    command = [sys.executable, "-P", "-m", "streamlit", "run", str(HERE / "main.py"), f"--server.port={number}"]
    command += [f"--{option}={value}" for option, value in HARDENED.items()]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STREAMLIT_")}
    environment["LAB_RUNS"] = str(Path(runs).resolve())
    environment[ELSEWHERE] = "" if Path(runs).resolve() == default_root().resolve() else "1"
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    sink = subprocess.DEVNULL if quiet else None
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
    app = App(process, f"http://127.0.0.1:{number}")
    try:
        _wait_for(app, timeout)
    except BaseException:  # Ctrl-C too: nobody else knows of it yet
        app.stop()
        raise
    return app


def _wait_for(app: App, timeout: float) -> None:
    """Until it answers. Raises AppDidNotStart."""
    deadline = time.monotonic() + timeout
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy of the machine's cannot reach it
    while time.monotonic() < deadline:
        if (status := app.process.poll()) is not None:
            raise AppDidNotStart(f"the app ended with status {status} before it answered; see its output.")
        try:
            with direct.open(f"{app.url}/_stcore/health", timeout=2) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AppDidNotStart(f"the app did not answer on {app.url} within {timeout:.0f} s. Is the machine very busy?")
