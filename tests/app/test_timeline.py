"""`lab timeline` on one run that has everything a person would want to find again: each with how much was looked at.

The words are planted, as no model of two layers says such things; everything else is real: the attachments, their schedules,
the command that changes an interval, the records, and the report that counts base rates.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from lab.config import RunConfig
from lab.run import Run
from tests.app.commands import lab
from train import check_ins, journal, self_play
from train.control import send
from train.conversations import Message, Reply, Scene
from train.loop import train
from train.reports import marker_report
from train.session import start

LOOP = "well," + " so we all say thank you," * 6
BACK, WHO, CONCISE = "wait a moment, I will be right back", "now I wonder what kind of being am I", "I like the sea."
PLANTED = {12: BACK, 16: WHO, 20: CONCISE}  # by step: one of the eight turns of the self-play there
TALK = "Function words are at lower layers, semantic concepts at higher layers."
SETTINGS = (
    *("train.steps=24", "optimizer.warmup_steps=3", "checkpoint.every=8", "checkpoint.log_spaced=false"),
    *("evaluation.every=8", "evaluation.tokens=1024", "probing.every=0", "understanding.every=100"),
    *('evaluation.benchmarks=["lab"]', "evaluation.benchmarks_every=8", "evaluation.benchmark_items=4"),
    *("self_play.every=4", "self_play.turns=8", "journal.every=8", 'journal.kinds=["blind"]'),
    *("check_ins.every=4", "check_ins.prompts=2", "check_ins.samples=1"),
    *('check_ins.system_prompt="Be kind."', "check_ins.system_from=8"),
)

Row = dict[str, Any]


def says(words: Callable[[Scene, int], str]) -> Callable[[Scene, Sequence[Message], object], Reply]:
    """A reply in planted words, given the scene and how many replies there were."""
    given = iter(range(10_000))

    def reply(scene: Scene, messages: Sequence[Message], sampling: object) -> Reply:
        text = words(scene, next(given))
        return Reply(text, tuple(scene.tokenizer.encode(text)), "stop", 0, messages[-1]["content"], len(messages))

    return reply


@pytest.fixture(scope="module")
def run(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> Run:
    def at_play(scene: Scene, number: int) -> str:
        if scene.step == 12 and number % 8 == 0:
            send(scene.run, "set-interval", {"name": "understanding", "every": 250})
        return PLANTED[scene.step] if number % 8 == 3 and scene.step in PLANTED else LOOP

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(self_play, "reply", says(at_play))
        patch.setattr(check_ins, "reply", says(lambda scene, number: LOOP))
        patch.setattr(journal, "reply", says(lambda scene, number: TALK if scene.step == 16 else "I saw a dog."))
        with start(tiny_config(*SETTINGS), tmp_path_factory.mktemp("runs"), "fox") as session:
            session.records.end_segment(session.segment, session.step, train(session).reason)
    return session.run


def rows_of(run: Run) -> list[Row]:
    done = lab("timeline", run.name, "--json", runs=run.path.parent)
    assert done.returncode == 0, done.stderr
    moments: list[Row] = json.loads(done.stdout)["moments"]
    return moments


def one(rows: Sequence[Row], kind: str, words: str = "") -> Row:
    (found,) = [row for row in rows if row["kind"] == kind and words in row["text"]]
    return found


def counted(row: Row) -> tuple[Any, ...]:
    return row["step"], row["count"], row["of"], row["unit"]


def test_the_timeline_of_one_run_has_the_whole_list_each_with_its_denominator(run: Run) -> None:
    rows = rows_of(run)
    assert [row["step"] for row in rows] == sorted(row["step"] for row in rows)

    tracking = one(rows, "tracking", "self_play")
    assert counted(tracking) == (0, 56, None, "texts examined in 7 conversations so far")
    assert "patterns are tracked from here on" in tracking["text"] and "4 markers" in tracking["text"]

    talk = one(rows, "first", "architecture talk")
    assert counted(talk) == (16, 1, 4, "entries so far speak of layers") and talk["by_then"] == 3
    assert "1 of 3 entries by then" in talk["text"] and "the prompt asks about layers" in talk["text"]

    introduced = one(rows, "system prompt")
    assert counted(introduced) == (8, 10, 20, "answers since were asked that way")

    interval = one(rows, "interval")
    assert interval["text"] == "understanding looks every 250 steps, not 100"
    assert counted(interval) == (12, 1, 2, "looks so far came after it"), "the last step is looked at in any case"

    for rule, step in (("markers.pause", 12), ("markers.identity-self", 16), ("markers.concise", 20)):
        first, until = one(rows, "first", f"{rule} "), 8 * (step // 4 + 1)
        assert counted(first) == (step, 1, 56, "findings in texts examined so far") and first["by_then"] == until
        assert f"1 of {until} examined by then" in first["text"] and "not asked for" in first["text"]

    snapshots = [row for row in rows if row["kind"] == "benchmark"]
    assert [row["step"] for row in snapshots if row["step"] % 8 == 0] == [0, 8, 16, 24]
    assert all((row["of"], row["unit"]) == (4, "items right") and "guessing" in row["text"] for row in snapshots)


def test_a_first_marker_stands_beside_its_base_rate_once_that_is_counted(run: Run) -> None:
    before = one(rows_of(run), "first", "markers.pause ")
    assert before["base"] is None and "base rate not counted yet: lab report markers fox" in before["text"]
    marker_report(run)
    after = one(rows_of(run), "first", "markers.pause ")
    base = after["base"]
    assert 0 <= base["count"] < base["checks"] and base["lo"] <= base["value"] <= base["hi"]
    expected = 1 - (1 - base["value"]) ** after["by_then"]
    assert f"at least one in {after['by_then']} texts by chance with probability {expected:.0%}" in after["text"]
    (run.evidence / "report-markers.json").write_text(
        '{"markers": [{"name": "pause", "training": {"base": "mallory"}}, 7]}'
    )
    assert one(rows_of(run), "first", "markers.pause ")["base"] is None, "a stranger's file is no base rate"


def test_a_marker_that_was_looked_for_and_not_found_is_a_row_with_its_denominator(run: Run) -> None:
    absent = [row for row in rows_of(run) if row["kind"] == "not seen"]
    own = one(absent, "not seen", "markers.identity-other in self-play")
    assert (own["count"], own["of"]) == (0, 56) and "below 6.4% (95 %)" in own["text"]
    assert {row["text"].split()[2].strip(":") for row in absent} == {"self-play", "check-in"}
    assert not [row for row in absent if row["text"].startswith("markers.pause in self-play")], "that one was seen"


def test_a_snapshot_is_counted_as_the_bench_counts_it(run: Run) -> None:
    from app.benchmark_snapshots import snapshots
    from probes.behaviour.accuracy import accuracy, chance
    from train.benchmark_records import answered

    with run.records() as records:
        found = snapshots(records)
        for snapshot in found:
            answers = answered(records, snapshot.task, snapshot.step)
            rate = accuracy(answers)
            assert (snapshot.right, snapshot.items) == (rate.count, rate.checks)
            assert snapshot.chance == pytest.approx(chance(answers))
    assert len(found) >= 4


def test_the_timeline_as_text_has_one_line_for_each_row(run: Run) -> None:
    text = lab("timeline", run.name, runs=run.path.parent).stdout.splitlines()
    assert len(text) == len(rows_of(run))
    assert any(line.startswith(" 8  system prompt") and "[10 of 20 answers since" in line for line in text)


def test_reading_the_timeline_loads_no_torch() -> None:
    code = "import sys, app.timeline; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True)
