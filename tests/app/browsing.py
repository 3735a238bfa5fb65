"""A browser page that is watched while a test uses it, and what a person does again when a busy machine has lost a click."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from typing import Any

from playwright.sync_api import TimeoutError as PlaywrightTimeout

from app.launch import App

PATIENCE = 90_000  # ms; a page takes 1 s on an idle machine, but CI shares two cores with whatever came before
KNOWN = re.compile(r"/_stcore/(health|host-config)$")  # two harmless 404s of Streamlit on every deep link
IDLE = "[data-testid=stApp][data-test-script-state=notRunning]"


class Watched:
    """A browser page together with everything on it that must not happen.

    Args:
        scheme: "light" or "dark", which the app follows.
    """

    def __init__(self, browser: Any, app: App | None, scheme: str = "light", **context: Any) -> None:
        self.offences: list[str] = []
        self.home = app.url if app else "file:"
        context = {"viewport": {"width": 1280, "height": 1400}, "color_scheme": scheme} | context
        self.page = browser.new_context(**context).new_page()
        self.page.set_default_timeout(PATIENCE)
        self.page.on("request", lambda r: self._request(r.url))
        self.page.on("response", lambda r: self._response(r))
        self.page.on("console", lambda m: self._console(m))
        self.page.on("pageerror", lambda error: self.offences.append(f"script error: {error}"))
        self.page.on("dialog", lambda dialog: self._dialog(dialog))

    def _request(self, url: str) -> None:
        if not url.startswith((self.home, self.home.replace("http", "ws", 1), "file:", "data:", "blob:")):
            self.offences.append(f"request to {url}")

    def _response(self, response: Any) -> None:
        if response.status >= 400 and not KNOWN.search(response.url):
            self.offences.append(f"{response.status} {response.url}")

    def _console(self, message: Any) -> None:
        if message.type == "error" and "404" not in message.text:  # those are judged by their address, above
            self.offences.append(f"console: {message.text}")

    def _dialog(self, dialog: Any) -> None:
        self.offences.append(f"dialog: {dialog.message}")
        dialog.dismiss()  # an open one would stop everything else

    def sees(self, text: str | re.Pattern[str]) -> None:
        """Wait for a text; when it does not come, say what the page shows instead."""
        try:
            self.page.get_by_text(text).first.wait_for()
        except PlaywrightTimeout:
            shown = self.page.inner_text("body")[:2000]
            raise AssertionError(f"{text!r} never came. The page shows: {shown!r}. {self.offences}") from None

    def settles(self) -> None:
        """Wait until the page's script has run to its end."""
        self.page.locator(IDLE).wait_for()

    def close(self) -> None:
        """No offence happened; and an open tab goes on asking the server, which the next test would pay for."""
        self.page.context.close()
        assert self.offences == []


def until(holds: Callable[[], bool], seconds: float = PATIENCE / 1000) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to hold in time"
        time.sleep(0.05)


def choose(page: Any, label: str, option: str) -> None:
    """Pick from a list; again, as a person would, where a page that was still being drawn has closed it."""
    for _ in range(6):
        page.get_by_role("combobox", name=re.compile(label)).click()
        with contextlib.suppress(PlaywrightTimeout):
            page.get_by_role("option", name=option).click(timeout=5_000)
            return
    raise AssertionError(f"{label}: {option} could not be chosen")
