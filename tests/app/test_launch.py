"""Starting the app: what waits for it, and how it asks."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading

import pytest

from app.launch import App, _wait_for


class Well(http.server.BaseHTTPRequestHandler):
    """Says that it is well."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_a_proxy_of_the_machine_s_is_not_asked_whether_the_app_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    process = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
    with http.server.HTTPServer(("127.0.0.1", 0), Well) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        app = App(process, f"http://127.0.0.1:{server.server_port}")
        try:
            _wait_for(app, 3.0)
        finally:
            app.stop()
            server.shutdown()
