"""Tests against HookedTransformer 3.9.0, the oracle; they run in its environment alone (`make test-tl39`).

transformer-lens 4.0 removed HookedTransformer, so elsewhere there is nothing to compare with, and nothing is collected:
a skip would count as a failure under LAB_STRICT although the other environment has run these very tests.
"""

from importlib.metadata import version

import pytest
import torch

VERSION = version("transformer-lens")
ORACLE = VERSION.startswith("3.9.")
if not ORACLE:
    collect_ignore_glob = ["test_*.py"]

torch.set_num_threads(1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not ORACLE:
        reason = f"transformer-lens {VERSION} has no HookedTransformer; run `make test-tl39`"
        terminalreporter.write_line(f"tests/tl39: not collected, {reason}")
