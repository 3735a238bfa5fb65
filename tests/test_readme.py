"""Every command of the README runs as printed, shortened to twenty steps; so does its Python."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.app.commands import lab

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf8")
SETTINGS = (
    "train.steps=20",
    "train.batch=2",
    "optimizer.warmup_steps=5",
    "checkpoint.every=10",
    "evaluation.tokens=4096",
    "probing.log_spaced=false",
)
SHORT = [word for setting in SETTINGS for word in ("--set", setting)]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    joined = "\n".join(blocks("sh")).replace("\\\n", " ")
    lines = [shlex.split(line, comments=True) for line in joined.splitlines()]
    return [words for words in lines if words and words[0] != "make"]


def test_the_readme_names_only_the_lab_and_make() -> None:
    assert {words[0] for words in commands()} == {".venv/bin/lab"}
    assert {words[1] for words in commands()} >= {"demo", "train", "resume", "probe", "generate", "app"}


def test_every_command_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text_file: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(text_file.read_text() * 40)  # varied enough for the preset's vocabulary
    book = ["--set", "model.d_vocab=400", "--set", "data.tokenizer_bytes=200000"]
    for words in commands():
        arguments = words[1:]
        if arguments[0] == "app":
            continue  # opened in a real browser by tests/app
        if arguments[0] == "resume":
            arguments = [*arguments, "--extend-to", "24"]  # a run that was stopped would need none
        if arguments[0] in ("demo", "train"):
            own = any("book.txt" in word for word in arguments)
            arguments = [*arguments, *SHORT, "--set", "probing.sentences=60", *(book if own else [])]
        done = lab(*arguments, runs=tmp_path / "runs")
        assert done.returncode == 0, f"lab {' '.join(arguments)}: {done.stderr[-2000:]}"
        assert done.stdout.strip(), arguments
    environment = os.environ | {"LAB_RUNS": str(tmp_path / "runs"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for code in blocks("python"):
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_the_table_of_figures_is_the_one_that_was_measured() -> None:
    from tests.figures.__main__ import rendered_readme

    assert rendered_readme() == README


def test_what_a_model_said_is_no_markup_in_the_readme() -> None:
    from tests.figures.talks import quoted

    hostile = "<script>x</script>\n# title\n![i](http://e.example/x.png) `code` | cell | \x1b[2J **b** <!-- /talks -->"
    shown = quoted(hostile)
    bare = re.sub(r"\\[\\`*_{}\[\]<>()#+\-!|~&$:]", "", shown)
    assert not set(bare) & set("`*_[]<>#!|:\n\x1b") and "<!-- /talks -->" not in shown
