"""The journal: what the model was asked and wrote, kept whole, parsed at once, shown inert, and never written by the lab."""

import json
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.records import Claim, Entry, Event
from lab.run import Run
from lab.sections import JournalConfig
from tests.made_runs import made_run
from tests.train.talkers import scene_of, silent
from train import journal
from train.conversations import Reply, weights_mark
from train.entries import entries
from train.journal import Journal, parsed_share, write, write_now
from train.journal_mirror import fenced, rendered
from train.journal_prompt import NoReadingsToShow

SEED = "Function words are settled at lower layers, semantic concepts at higher layers."
HOSTILE = (
    "```\n# a heading\n````text\n<script>alert(1)</script> ![x](http://evil.example/x.png)\n"
    "\x1b[2J\u202egnirts\u2028~~~\n`````\n[link](javascript:1)\r\n/pause\n\x00"
)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return made_run(tmp_path, n_ctx=512)


def says(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model says this, whatever it is asked."""

    def reply(scene: Any, messages: Any, sampling: Any) -> Reply:
        ids = tuple(scene.tokenizer.encode(text))
        return Reply(text, ids, "stop", sampling.seed, messages[0]["content"], 1)

    monkeypatch.setattr(journal, "reply", reply)


def rows_of(run: Run, kind: Any) -> list[Any]:
    with run.records() as records:
        return list(records.rows(kind))


def events(run: Run) -> list[Event]:
    return [row for row in rows_of(run, Event) if row.kind == "journal"]


def test_an_entry_is_kept_with_everything_that_gives_it_again(run: Run) -> None:
    written = write_now(run, 8)
    blind, informed = rows_of(run, Entry)
    assert [row.kind for row in (blind, informed)] == ["blind", "informed"]
    for row, said in zip((blind, informed), written, strict=True):
        assert (row.author, row.step, row.segment, row.temperature) == ("model", 8, 1, 0.8)
        assert row.checkpoint == weights_mark(run.model(8), 8) and row.seed == said["seed"]
        assert row.text == said["text"] and row.prompt == said["prompt"] and "training step 8" in row.prompt
        assert row.prompt.startswith("<|bos|><|user|>") and row.prompt.endswith("<|end|><|assistant|>")
        kept = json.loads((run.evidence / f"journal-entry-{row.id}.json").read_text())
        assert (kept["seed"], kept["prompt"], kept["checkpoint"]) == (row.seed, row.prompt, row.checkpoint)
        assert kept["probes"]["step"] == 8 and kept["probes"]["readings"][0]["layer"] == 2
        assert (run.journal / f"step-000000008-{row.kind}-{row.id}.md").exists()
    assert "bits per word" not in blind.prompt, "a blind entry must see no reading"
    reading = "function or content word, next word: 0.50 bits per word, at layer 2 of 2 (0.40 to 0.60; untrained 0.01)."
    assert reading in informed.prompt


def test_the_same_words_of_the_same_weights_are_one_entry(run: Run) -> None:
    first, again = write_now(run, 8, ["blind"]), write_now(run, 8, ["blind"])
    assert first[0]["entry"] == again[0]["entry"] and first[0]["so_far"] == again[0]["so_far"]
    assert len(rows_of(run, Entry)) == len(events(run)) == 1
    other = write_now(run, 8, ["blind"], seed=7)
    assert other[0]["text"] != first[0]["text"] and len(rows_of(run, Entry)) == 2


def test_claims_that_a_kill_left_out_are_added_when_the_entry_is_met_again(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(SEED, monkeypatch)
    (first,) = write_now(run, 8, ["blind"])
    (claim,) = rows_of(run, Claim)
    with sqlite3.connect(run.database) as connection:
        connection.execute("DELETE FROM claims")
    (again,) = write_now(run, 8, ["blind"])
    assert again["entry"] == first["entry"] and [row.id for row in rows_of(run, Claim)] == [claim.id]


def test_claims_are_parsed_at_once_and_their_share_is_reported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    says(f"I like dogs. {SEED} It rained.", monkeypatch)
    (said,) = write_now(run, 8, ["blind"])
    assert (said["sentences"], said["parsable"]) == (3, 1)
    (claim,) = rows_of(run, Claim)
    assert claim.data["status"] == "PARSED" and claim.kind == "depth_order" and claim.text in SEED
    assert "1 of its 3 sentences can be tested" in said["said"] and "too weak" not in said["said"]
    assert said["so_far"]["count"] == 1 and 0 < said["so_far"]["lo"] < 1 / 3 < said["so_far"]["hi"] < 1
    assert entries(run)[0]["claims"][0]["verdict"] is None, "only lab verify gives verdicts"


def test_of_a_model_too_weak_for_claims_that_is_said_and_nothing_is_written_for_it(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    says("the dog the dog. it is. yes.", monkeypatch)
    (said,) = write_now(run, 8, ["blind"])
    assert said["parsable"] == 0 and "too weak to write a testable claim" in said["said"]
    assert not rows_of(run, Claim) and rows_of(run, Entry)[0].text == "the dog the dog. it is. yes."
    assert [event.text for event in events(run)] == [said["said"]]


def test_a_model_that_writes_nothing_has_no_entry(run: Run) -> None:
    with scene_of(run, silent) as scene:
        said = write(scene, JournalConfig(), "blind", 0)
    assert said["entry"] is None and "wrote nothing" in said["said"] and said["so_far"] is None
    assert not rows_of(run, Entry) and not list(run.journal.iterdir())
    (event,) = events(run)
    assert event.text == said["said"]


def test_what_an_informed_entry_repeats_is_marked_as_an_echo_of_its_prompt(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(SEED, monkeypatch)
    monkeypatch.setattr(journal, "reading_lines", lambda scene, shown: [SEED])
    blind, informed = (
        json.loads((run.evidence / f"journal-entry-{one['entry']}.json").read_text()) for one in write_now(run, 8)
    )
    assert informed["claims"][0]["echo"]["echo"] and not blind["claims"][0]["echo"]["echo"]


def test_without_readings_or_room_no_informed_entry_is_written_and_that_is_said_once(run: Run, tmp_path: Path) -> None:
    small = made_run(tmp_path, "small", n_ctx=64)
    with pytest.raises(NoReadingsToShow, match="n_ctx = 64"):
        write_now(small, 8, ["informed"])
    with run.records() as records:
        assert records.reading_steps() == [0, 8]
    rider = Journal(JournalConfig(every=5, kinds=("informed",)))
    with scene_of(run) as scene:
        moment: Any = SimpleNamespace(
            step=-1, segment=1, model=scene.model, corpus=SimpleNamespace(tokenizer=scene.tokenizer),
            records=scene.records, run=run,
        )  # fmt: skip
        rider.visit(moment)
        rider.visit(moment)
    told = [row.text for row in rows_of(run, Event) if row.kind == "untestable"]
    assert len(told) == 1 and "no probe readings" in told[0] and not rows_of(run, Entry)


def test_hostile_text_is_inert_in_the_markdown_mirror() -> None:
    entry = Entry(step=8, author="model", kind="blind", text=HOSTILE, created_at=0.0, prompt=HOSTILE, seed=1)
    entry.temperature, entry.checkpoint = 0.8, "step-000000008@00"
    text = rendered(3, entry)
    assert not {"\x1b", "\u202e", "\u2028", "\x00", "\r"} & set(text)
    fence = "`" * 6  # one longer than the longest run inside
    lines = text.split("\n")
    inside, outside = False, []
    for line in lines:
        if line in (fence, f"{fence}text"):
            inside = not inside
        elif not inside:
            outside.append(line)
    assert not inside and not any(word in "\n".join(outside) for word in ("script", "evil", "javascript", "/pause"))
    assert fenced("plain") == ["```text", "plain", "```"]


def test_sentences_are_counted_as_the_grammar_sees_them() -> None:
    assert parsed_share("", []) == (0, 0)
    assert parsed_share("One. Two?\n\n- three", [])[0] == 3
