"""Understanding: findings, rules, alarms, regimes and latches as they are stored; buttons that only send commands."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app import behaviour, behaviour_figures, first_seen, health_rules, interventions, timeline
from lab.records import Records, Regime
from lab.run import Run
from probes.behaviour import contrasts
from probes.behaviour.fallback import FALLBACK
from tests.app.commands import ROOT
from tests.app.planted import make_run
from tests.app.planted_behaviour import ALARMS, DEAD, DIVERGES, EVIL, FALLBACKS, make_behaviour
from tests.app.test_journal_view import blocks, figure, plain
from tests.app.test_views import as_markdown, words
from train import health
from train.control import Control

Opener = Callable[..., AppTest]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("understood")
    make_behaviour(root, "fox")
    return root


def table(page: AppTest, column: str) -> list[str]:
    found = next(frame.value for frame in page.dataframe if column in frame.value)
    return [str(cell) for cell in found[column]]


def say(page: AppTest, label: str, reason: str, button: str) -> AppTest:
    next(box for box in page.text_input if label in box.label).set_value(reason)
    next(one for one in page.button if one.label == button).click()
    return page.run()


def test_the_pages_load_no_torch_and_none_of_what_a_first_page_would_wait_for() -> None:
    program = "import sys; import app.main; print([name for name in sys.argv[1:] if name in sys.modules])"
    heavy = ["torch", "scipy", "ruptures", "sklearn", "spacy"]
    done = subprocess.run([sys.executable, "-c", program, *heavy], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("page", ["understanding", "conversations", "behaviour"])
def test_nothing_recorded_and_nothing_readable_are_said_in_words(
    tmp_path: Path, broken_root: Path, page: str, open_app: Opener
) -> None:
    assert "lab demo" in words(open_app(tmp_path, page))
    for name in ("ruin", "half"):
        shown = open_app(broken_root, page, run=name)
        assert not shown.exception and shown.error[0].value == "This run cannot be shown."
    make_run(tmp_path, "new", steps=())
    shown = open_app(tmp_path, page)
    assert not shown.exception and not shown.error
    assert any(phrase in words(shown) for phrase in ("Nothing was found", "Nobody has talked", "Nobody has asked"))


def test_findings_of_the_newest_history_stand_newest_first_with_value_and_interval(
    root: Path, open_app: Opener
) -> None:
    shown = open_app(root, "understanding")
    assert not shown.exception and not shown.error
    assert table(shown, "Severity") == ["['alert']", "['alert']", "['critical']", "['alert']"]
    assert "left behind" not in "".join(table(shown, "What"))  # at a step that the resume overtook
    assert table(shown, "95 %")[0] == "0.110 to 0.169" and table(shown, "Value")[0] == "0.137"
    assert table(shown, "Rule")[2] == f"{DIVERGES.rule} {DIVERGES.version}"


def test_filters_and_step_are_in_the_link(root: Path, open_app: Opener) -> None:
    shown = open_app(root, "understanding", severity="critical")
    assert table(shown, "What") == [DIVERGES.text]
    shown = open_app(root, "understanding", step="600")
    assert table(shown, "What") == [DEAD.text] and "1 of 1 findings up to step 600" in words(shown)
    assert not open_app(root, "understanding", step="601", severity="purple").exception


def test_a_tally_of_many_visits_is_told_in_full_and_every_look_is_counted(tmp_path: Path) -> None:
    run, rule, visits = make_run(tmp_path, "fox"), health.LOSS_SPIKE.id, 5000  # more than a thinned series has
    with Records.writer(run.database) as records:
        segment, first = records.segments()[-1].id, 2001
        spikes = 0
        for at in range(visits):
            spikes += at % 700 == 699 or at == visits - 2
            tally = {f"alarms/{rule}": spikes, f"checks/{rule}": 5 * (at + 1), "understanding/probe_loss": 4.0}
            records.metrics(segment, first + at, tally | {"validation/bits_per_byte": 3.0 - at / 10_000})
        records.add_now(Regime(name="understanding", step=first - 1, protocol={"every": 5}, hash="x"))
    with run.records() as records:
        [one] = behaviour.alarms(records)
        [half] = behaviour.alarms(records, first + 2500)
        looks = timeline._looks(records, [], lambda *_: True)
        checks = first_seen._checks(records, rule)
    assert (one.rate.count, one.rate.checks) == (8, 25_000) and (half.rate.count, half.rate.checks) == (3, 12_505)
    assert len(looks["understanding"]) == len(checks) == visits and {count for _, count in checks} == {5}
    assert interventions._read(run, first + 2501).step == first + 2501


def test_a_chosen_finding_shows_its_evidence_as_text(root: Path, open_app: Opener) -> None:
    with Run.open(root / "fox").records() as records:
        evil = next(one for one in behaviour.findings(records) if one.rule == EVIL.rule)
    shown = open_app(root, "understanding", finding=str(evil.id))
    assert not shown.exception and shown.query_params["finding"] in (str(evil.id), [str(evil.id)])
    assert any("alert(2)" in element.value and "\u202e" not in element.value for element in shown.code)
    assert EVIL.rule in plain("".join(blocks(shown)))


def test_each_rule_says_when_it_would_pause_and_how_often_it_fired(root: Path, open_app: Opener) -> None:
    block = next(b for b in blocks(open_app(root, "understanding")) if "<table>" in b)
    rows = {row.split()[0]: row for row in map(plain, block.split("<tr>")[2:])}
    assert set(rows) == {rule.id for rule in (*health.RULES, FALLBACK, *contrasts.RULES)}
    for rule in health.RULES:
        pauses = "never; it is noted" not in rows[rule.id]
        assert pauses == (rule.severity == "critical"), rule.id
    assert "every 250 steps" in rows[health.DIVERGENCE.id]  # as it was changed to, not as configured
    assert "3 of 900 every 100; 1 of 240 every 250" in rows[health.LOSS_SPIKE.id]
    assert "1 of 3 every 500" in rows[FALLBACK.id]  # on the batteries' own interval
    assert "step 1,750; now 0.137" in rows[health.DEAD_UNITS.id]
    assert health_rules.would_pause(health.DIVERGENCE, 100, observe_only=True).startswith("never")
    assert health_rules.would_pause(health.DIVERGENCE, 0, observe_only=False).startswith("never")


def test_alarms_of_two_intervals_stand_side_by_side_per_thousand_checks(root: Path, open_app: Opener) -> None:
    drawn = figure(open_app(root, "understanding"), 0)["data"]
    assert [trace["name"] for trace in drawn] == ["every 100 steps", "every 250 steps", "every 500 steps"]
    for trace, (count, checks) in zip(drawn, (*ALARMS.values(), FALLBACKS[1:]), strict=True):
        assert trace["x"] == pytest.approx([1000 * count / checks]) and trace["customdata"][0][1:3] == [count, checks]
    assert behaviour_figures.alarms_by_rule([]) is None


def test_regimes_are_listed_with_what_changed_and_home_has_the_timeline(root: Path, open_app: Opener) -> None:
    shown = open_app(root, "understanding")
    assert any("understanding: changed every 100 → 250" in row for row in shown.dataframe[-1].value["What"])
    home = open_app(root)
    assert not home.exception
    rows = next(frame.value for frame in home.dataframe if "Counted" in frame.value)
    assert list(rows["Step"]) == sorted(rows["Step"], reverse=True)
    assert {"regime", "first", "journal"} <= set(rows["Kind"])
    assert "1, of how many was not counted" in set(rows["Counted"])  # a first occurrence without a denominator says so
    looped = next(
        row for row in rows.to_dict("records") if "health.divergence" in row["What"] and row["Kind"] == "first"
    )
    assert looped["Step"] == 1500 and "\u202e" not in "".join(rows["What"])


def test_latches_show_owner_reason_and_since_and_a_critical_one_needs_a_reason(
    tmp_path: Path, open_app: Opener
) -> None:
    run = make_behaviour(tmp_path, "fox")
    shown = open_app(tmp_path, "understanding")
    text = plain("".join(blocks(shown)))
    assert DIVERGES.text in text and "lunch" in text and "1,900" in text
    assert not any(one.label == "Pause for this reason" for one in shown.button)  # the user's latch is held already
    say(shown, "critical latch", " ", "Lift the understanding latch")
    assert "Say why training may go on" in shown.error[0].value and not list(run.inbox.iterdir())
    say(shown, "critical latch", "looked at step 1500, a bad batch", "Lift the understanding latch")
    assert not shown.exception and shown.success[0].value == "unpause: done"
    assert "understanding released" in words(shown) and "held by user: lunch" in words(shown)
    assert [latch.owner for latch in run.records().latches()] == ["user"]  # another's is never lifted along
    say(shown, "Why it may go on", "", "Lift the user latch")
    assert run.records().latches() == []


def test_without_a_trainer_pause_holds_the_next_resume_and_is_acknowledged(tmp_path: Path, open_app: Opener) -> None:
    run = make_run(tmp_path, "fox")
    shown = say(open_app(tmp_path, "understanding"), "stand still", "to look <b>closer</b>", "Pause for this reason")
    assert not shown.exception and shown.success[0].value == "pause: done"
    [latch] = run.records().latches()
    assert (latch.owner, latch.reason) == ("user", "to look <b>closer</b>")
    assert table(shown, "Verb") == ["pause"] and "holds training" in table(shown, "Answer")[0]
    assert not list(run.inbox.glob("*.json"))


def test_beside_a_trainer_pausing_writes_one_inbox_file_and_nothing_else(
    tmp_path: Path, open_app: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, "fox")
    with run.lock("train"):
        shown = open_app(tmp_path, "understanding")
        before = {
            path: path.read_bytes() for path in run.path.rglob("*") if path.is_file() and path.suffix != ".db-shm"
        }
        monkeypatch.setattr("app.asking.WAIT", 0.0)
        say(shown, "stand still", "lunch", "Pause for this reason")
        made = [path for path in run.path.rglob("*") if path.is_file() and path not in before]
        sent = [path for path in made if path.name not in ("run.db-wal", "run.db-shm")]
        assert len(sent) == 1 and sent[0].parent == run.inbox
        assert json.loads(sent[0].read_text())["verb"] == "pause"
        assert {path: path.read_bytes() for path in before} == before
        assert shown.warning[0].value == "pause: not answered yet"


def test_a_trainer_s_acknowledgement_is_shown_with_its_step(tmp_path: Path, open_app: Opener) -> None:
    run = make_run(tmp_path, "fox")
    done = threading.Event()

    def train() -> None:
        with run.lock("train"), Records.writer(run.database) as records:
            control = Control(records, run.inbox)
            while not done.wait(0.02):
                control.obey(1234, None)

    trainer = threading.Thread(target=train)
    trainer.start()
    try:
        while (run.holder() or {}).get("purpose") != "train":
            time.sleep(0.01)
        shown = say(open_app(tmp_path, "understanding"), "stand still", "lunch", "Pause for this reason")
        assert shown.success[0].value == "pause: done" and "at step 1234" in words(shown)
    finally:
        done.set()
        trainer.join()


def test_a_reason_that_no_command_takes_is_refused_in_words(tmp_path: Path, open_app: Opener) -> None:
    run = make_run(tmp_path, "fox")
    shown = say(open_app(tmp_path, "understanding"), "stand still", "a\u202eb", "Pause for this reason")
    assert shown.error[0].value == "pause: refused" and "printable" in words(shown)
    assert not list(run.inbox.iterdir()) and run.records().latches() == []


def test_hostile_text_is_neither_markup_nor_a_command(tmp_path: Path, open_app: Opener) -> None:
    run = make_behaviour(tmp_path, "fox")
    with Records.writer(run.database) as records:
        records.hold("![x](http://evil.example/c.png)", "SYSTEM: stop", 1900)
    shown = open_app(tmp_path, "understanding")
    assert not shown.exception
    assert "evil" not in as_markdown(shown)
    assert not any("evil" in one.label for one in (*shown.button, *shown.text_input))
    for block in blocks(shown):
        assert "<img" not in block and "<script" not in block and "\u202e" not in block
    assert not list(run.inbox.iterdir())


def test_a_tally_follows_the_interval_that_was_in_force(root: Path) -> None:
    with Run.open(root / "fox").records() as records:
        found = {one.every: (one.rate.count, one.rate.checks) for one in behaviour.alarms(records)}
        every, *counts = FALLBACKS
        assert found == {**ALARMS, every: tuple(counts)}
        assert [one.every for one in behaviour.alarms(records, up_to=1000)] == [100]
