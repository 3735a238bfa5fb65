"""`lab selfplay`, `lab checkin`, `lab journal write` and `lab timeline`: live runs are asked, others are read now."""

import json
from pathlib import Path
from typing import Any

import pytest

from app import cli_conversations
from app.timeline import timeline
from lab.records import Records
from lab.run import Run
from tests.app.commands import Done, lab
from tests.made_runs import made_run
from tests.train.talkers import brief


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    brief(made_run(root, "fox", n_ctx=512))
    return root


def done(*arguments: str, runs: Path) -> Done:
    answer = lab(*arguments, runs=runs)
    assert answer.returncode == 0, answer.stderr
    return answer


def test_a_run_that_nobody_trains_talks_now_and_the_timeline_tells_with_denominators(runs: Path) -> None:
    talk = json.loads(done("selfplay", "fox", "--turns", "2", "--step", "0", "--json", runs=runs).stdout)
    assert (talk["run"], talk["step"], len(talk["turns"])) == ("fox", 0, 3)
    shown = done("selfplay", "fox", "--turns", "1", "--topic", "a\x1b[2Jb", runs=runs).stdout
    assert "A: a·[2Jb" in shown and "\x1b" not in shown and "of 1 turns" in shown
    asked = done("checkin", "fox", "--samples", "1", "--system", "Be kind.", runs=runs).stdout
    assert "3 answers" in asked and "against the last check-in: there is none before this" in asked
    assert "against the reference: step 0;" in asked
    again = json.loads(done("checkin", "fox", "--samples", "1", "--json", runs=runs).stdout)
    assert again["system"] is None and again["last"] is None, "another setting is not compared with"
    written = done("journal", "write", "fox", "--blind", runs=runs).stdout
    assert written.startswith("blind entry 1: 0 of its") and "too weak" in written
    (entry,) = json.loads(done("journal", "ls", "fox", "--json", runs=runs).stdout)
    assert (entry["author"], entry["kind"], entry["step"]) == ("model", "blind", 8)

    with Records.writer(runs / "fox" / "run.db") as records:
        records.hold("user", "a look", 8)
        records.release("user", 8)
    rows = json.loads(done("timeline", "fox", "--json", runs=runs).stdout)["moments"]
    kinds = {row["kind"] for row in rows}
    assert {"regime", "journal", "pause", "unpause", "evaluation"} <= kinds
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    (pause,) = [row for row in rows if row["kind"] == "pause"]
    assert (pause["count"], pause["of"], pause["unit"]) == (1, 8, "steps trained until now")
    regimes = [row for row in rows if row["kind"] == "regime" and row["text"].startswith("self_play")]
    assert [row["count"] for row in regimes] == [1, 1] and "turns 2 → 1" in regimes[1]["text"]
    text = done("timeline", "fox", runs=runs).stdout.splitlines()
    assert len(text) == len(rows) and any("8  pause" in line and "[1 of 8 steps" in line for line in text)


def test_a_first_finding_is_told_with_what_was_examined_before_it(tmp_path: Path) -> None:
    from probes.behaviour.loops import TAIL_CYCLE
    from train.conversations import open_regime, record, stored_scene

    run = made_run(tmp_path, "owl")
    for step, findings in ((0, 0), (8, 2)):
        with stored_scene(run, step, "test") as scene:
            regime = open_regime(scene.records, "check_ins", step, {"samples": 10})
            found: list[tuple[Any, dict[str, Any]]] = [(TAIL_CYCLE.finding("loops"), {})] * findings
            record(scene, "check-in", regime, {"samples": [{}] * 10}, found)
    (first,) = [row for row in timeline(run) if row.kind == "first"]
    assert (first.step, first.count, first.of) == (8, 2, 20) and "2 of 20 examined by then" in first.text
    assert (first.by_then, first.base) == (20, None)


@pytest.mark.parametrize(
    ("arguments", "verb"),
    [(["selfplay", "fox"], "selfplay"), (["checkin", "fox"], "checkin"), (["journal", "write", "fox"], "journal")],
)
def test_a_run_that_trains_is_asked_to_do_it_itself(
    arguments: list[str], verb: str, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[tuple[Any, ...]] = []
    monkeypatch.setattr(Run, "state", lambda self: "training")
    monkeypatch.setattr(cli_conversations, "tell", lambda *given: sent.append(given))
    done(*arguments, runs=runs)
    assert sent == [(str(runs / "fox"), verb, {}, 30.0, False)]
    refused = lab(*arguments, "--step", "8", runs=runs)
    assert (
        refused.returncode == 2 and "--step" in refused.stderr and "lab stop fox" in refused.stderr and len(sent) == 1
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["selfplay", "wolf"], "wolf"),
        (["selfplay", "fox", "--topic", " "], "--topic"),
        (["selfplay", "fox", "--turns", "0"], "--turns"),
        (["selfplay", "fox", "--step", "3"], "no checkpoint of step 3"),
        (["checkin", "fox", "--samples", "-1"], "--samples"),
        (["journal", "write", "fox", "--step", "3"], "no checkpoint of step 3"),
        (["timeline", "wolf"], "wolf"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_sentence(arguments: list[str], says: str, runs: Path) -> None:
    refused = lab(*arguments, runs=runs)
    assert refused.returncode != 0 and says in refused.stderr and not refused.stdout
    assert "Traceback" not in refused.stderr
