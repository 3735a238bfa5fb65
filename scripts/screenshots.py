"""Take the README's pictures of the app, light and dark, on the example run: `make screenshots`.

    python scripts/screenshots.py [--output FOLDER]

Starts the app and a server over a fresh copy of the example, opens each view in a headless Chromium as wide as a laptop's
screen, and writes `app_<view>_<scheme>.png`, each at most 150 kB: with all its colours where that is enough.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from PIL import Image
from playwright.sync_api import sync_playwright

from app.example import copied
from app.launch import start
from app.server_process import find
from lab.records import Entry
from lab.run import Run
from tests.app.browsing import Watched
from tests.app.conftest import CHROMIUM, FLAGS

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT = 1280, 1200
HEIGHTS = {"layers": 1120}  # ends with the caption; what comes next names a temporary folder
LARGEST = 150_000  # bytes of a picture
PATIENCE = 180.0  # seconds for the server's first answer
TEXT = "The old farmer walked to the market because his"
FIGURE = ".js-plotly-plot .main-svg"
COLOURS = (None, 256, 128, 64, 32)  # a palette drops colours that are rare, a ring around a point say


def views(run: Run) -> dict[str, tuple[dict[str, str], str]]:
    """By view: what its link says, and the element that is there when it is drawn."""
    with run.records() as records:
        seed = next(str(entry.id) for entry in records.rows(Entry) if entry.author == "log")
    return {
        "journal": ({"entry": seed}, FIGURE),
        "layers": ({"task": "class.next", "step": "1000", "layer": "2"}, FIGURE),
        "text": ({"text": TEXT}, FIGURE),
        "concepts": ({"concept": "person"}, FIGURE),
    }


@contextlib.contextmanager
def served(run: Run) -> Iterator[None]:
    """`lab serve` of the run, in a process of its own, as long as one is inside."""
    environment = os.environ | {"LAB_RUNS": str(run.path.parent), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "app.cli", "serve", str(run.path)], env=environment, stdin=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while find(run.path) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the server did not start; see its output")
            time.sleep(0.2)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def small(picture: bytes) -> bytes:
    """The picture with as many colours as its size allows.

    Raises:
        SystemExit: too large even so.
    """
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    for colours in COLOURS:
        out = io.BytesIO()
        drawn = image if colours is None else image.quantize(colours, dither=Image.Dither.NONE)
        drawn.save(out, "PNG", optimize=True)
        if out.tell() <= LARGEST:
            return out.getvalue()
    raise SystemExit(f"a picture has {out.tell()} bytes with {COLOURS[-1]} colours; {LARGEST} are wanted")


def take(watched: Watched, address: str, wanted: str) -> bytes:
    """One view, drawn to its end."""
    page: Any = watched.page
    page.goto(address)
    page.locator(wanted).first.wait_for()
    watched.settles()
    page.wait_for_timeout(1500)  # Plotly moves labels once more when its margins are known
    watched.settles()
    picture: bytes = page.screenshot(animations="disabled")
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=ROOT / "tests" / "figures")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    with copied() as root, contextlib.ExitStack() as stack:
        run = Run.find("example", root)
        stack.enter_context(served(run))
        app = start(root, quiet=True)
        stack.callback(app.stop)
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        stack.callback(browser.close)
        for scheme in ("light", "dark"):
            watched = Watched(browser, app, scheme, viewport={"width": WIDTH, "height": HEIGHT})
            for view, (link, wanted) in views(run).items():
                watched.page.set_viewport_size({"width": WIDTH, "height": HEIGHTS.get(view, HEIGHT)})
                picture = small(take(watched, f"{app.url}/{view}?{urlencode({'run': run.name, **link})}", wanted))
                file = output / f"app_{view}_{scheme}.png"
                file.write_bytes(picture)
                print(f"{file}: {len(picture) / 1000:.0f} kB", flush=True)
            watched.close()


if __name__ == "__main__":
    main()
