"""What all tests share: small configurations and runs, strictness about skips, and the seconds that each part took."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from lab.config import RunConfig, load_config

torch.set_num_threads(1)

_seconds: dict[str, float] = defaultdict(float)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "browser" in item.keywords:
            item.add_marker(pytest.mark.xdist_group("browser"))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and os.environ.get("LAB_STRICT") == "1":
        report.outcome = "failed"
        report.longrepr = f"skipped, which LAB_STRICT=1 does not allow: {report.longrepr}"


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    part = "/".join(report.nodeid.split("::")[0].split("/")[:2])
    _seconds[part] += report.duration


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    parts = ", ".join(f"{part} {seconds:.0f} s" for part, seconds in sorted(_seconds.items()))
    if parts:
        terminalreporter.write_line(f"seconds per part (sum over workers): {parts}")


STORY = (
    "The old farmer walked slowly to the market. His daughter carried a basket of apples, and the dog ran after them. "
    "At the gate a soldier asked for money. They gave him two coins, but he wanted bread. The river was high that spring. "
)


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus of its own: 400 paragraphs that differ, plain enough to learn in seconds."""
    nouns = "king queen horse house river stone bread night morning child teacher soldier garden winter song road"
    words = nouns.split()
    verbs = ["saw", "found", "lost", "carried", "wanted", "loved", "feared", "built", "sold", "remembered"]
    lines = [
        f"{STORY}The {words[i % 16]} {verbs[i % 10]} the {words[(i * 7 + 3) % 16]} in the {words[(i * 3 + 5) % 16]}. "
        f"Then it was the {words[(i * 11 + 1) % 16]} of number {i}, and everyone {verbs[(i * 3) % 10]} it."
        for i in range(400)
    ]
    file = tmp_path_factory.mktemp("corpus") / "story.txt"
    file.write_text("\n\n".join(lines), encoding="utf8")
    return file


@pytest.fixture(scope="session")
def tiny_config(text_file: Path) -> Callable[..., RunConfig]:
    """A `tiny` configuration on the small corpus; arguments are further overrides."""

    def build(*overrides: str) -> RunConfig:
        source = f'data.sources=[{{name="story", kind="text", path="{text_file}"}}]'
        defaults = (
            source,
            "data.phases=[{from_step=0, weights={story=1.0}}]",
            "model.d_vocab=400",
            "train.threads=1",
            "data.tokenizer_bytes=200000",
            "data.validation_share=0.1",
        )
        return load_config("tiny", None, [*defaults, *overrides])

    return build
