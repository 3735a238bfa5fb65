"""A claim's card beside what `lab verify --json` printed: every number on the card is one of those, on a real run."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.verdict_text import number
from lab.run import Run
from tests.app.commands import lab
from tests.app.test_journal_view import card, may_be_shown, numbers_in
from tests.train.test_verifying import SEED, run

Opener = Callable[..., AppTest]
__all__ = ["run"]  # a fixture: a run of sixty steps on sixty speeches


@pytest.mark.slow
def test_every_number_on_a_claim_card_is_one_that_lab_verify_printed(run: Run, open_app: Opener) -> None:
    done = lab("verify", run.name, "--text", SEED, "--author", "log", "--quick", "--json", runs=run.path.parent)
    assert done.returncode == 0, done.stderr
    [verdict] = json.loads(done.stdout)
    allowed = may_be_shown(verdict)
    for reading, evidence in verdict["readings"].items():
        shown = open_app(Path(run.path.parent), "journal", entry="1", reading=reading)
        assert not shown.exception
        text = card(shown).replace("Claim 1", "")
        assert numbers_in(text) <= allowed, numbers_in(text) - allowed
        assert reading in text and verdict["verdict"] in text
        if evidence["delta"] is not None:
            assert number(evidence["delta"]["value"], signed=True) in text
