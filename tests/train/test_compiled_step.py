"""A run whose training step is one compiled graph: the same losses, attachments outside it, and no hook inside."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.compiled import HookOnCompiled
from lab.config import RunConfig
from lab.model import GPT
from tests.train.digest import losses
from tests.train.freezing import plant
from tests.train.test_session import SHORT, finish, run_to
from train.freeze import FreezeRequest
from train.session import start

Config = Callable[..., RunConfig]
COMPILED = "train.compile=true"


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.compile without code generation, so that no test waits for a C++ compiler."""
    torch._dynamo.reset()
    compiled = GPT.compiled
    monkeypatch.setattr(GPT, "compiled", lambda self, **options: compiled(self, backend="aot_eager", **options))


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize(
    "more",
    [
        ("train.checkpoint_blocks=true", "train.accumulation=2"),
        pytest.param(("train.dtype=bfloat16",), marks=pytest.mark.slow),
    ],
)
def test_a_compiled_run_has_the_losses_of_an_eager_one_and_attachments_that_hook(
    tiny_config: Config, tmp_path: Path, more: tuple[str, ...]
) -> None:
    settings = (*SHORT, "train.steps=6", *more)
    eager = run_to(tiny_config(*settings), tmp_path, "eager")
    run = run_to(tiny_config(*settings, COMPILED, "probing.every=3", "probing.sentences=40"), tmp_path, "compiled")
    bound = 2e-2 if "train.dtype=bfloat16" in more else 1e-4
    assert [loss for _, loss in losses(run)] == pytest.approx([loss for _, loss in losses(eager)], abs=bound)
    with run.records() as records:
        assert records.reading_steps()


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("mode", ["pin", "anchor"])
def test_a_freeze_that_needs_a_hook_stops_a_compiled_run_and_says_what_to_do(
    tiny_config: Config, tmp_path: Path, mode: Any
) -> None:
    with start(tiny_config(*SHORT, COMPILED), tmp_path, "frozen") as session:
        session.save()
        plant(session.run, "held", 1)
        session.note(session.freeze.add(FreezeRequest(concept="held", mode=mode), 0))
        with pytest.raises(HookOnCompiled, match=r"train\.compile=false"):
            finish(session)
        assert session.step == 0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_a_run_compiled_to_machine_code_has_the_losses_of_an_eager_one(tiny_config: Config, tmp_path: Path) -> None:
    torch._dynamo.reset()
    eager, run = (
        run_to(tiny_config(*SHORT, *more), tmp_path, name) for name, more in (("eager", ()), ("compiled", (COMPILED,)))
    )
    assert [loss for _, loss in losses(run)] == pytest.approx([loss for _, loss in losses(eager)], abs=1e-4)
