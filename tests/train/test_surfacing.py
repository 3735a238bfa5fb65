"""`train.surfacing` and `train.reports` on a run that reads another source half-way: what is asked, kept and refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.canaries import canaries, planted
from lab.config import RunConfig
from lab.records import Records
from lab.run import Run
from lab.sections import Source
from lab.sources import documents, fingerprint
from probes.behaviour.canaries import NoTest
from train import stereotype_report as stereotype_report_module
from train.loop import train
from train.reports import NothingSaid, contrast_report, marker_report, motif_report
from train.self_play import self_play_now
from train.session import start
from train.stereotype_report import lines, stereotype_report
from train.surfacing import NotIntroduced, introduced_at, planted_with, surfacing

Config = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def run(tiny_config: Config, text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Twelve steps of the story, then twelve with another text and canaries."""
    folder = tmp_path_factory.mktemp("introduced")
    other = folder / "thought.txt"
    lines = [
        f"To think about thought number {n} is to doubt the {n * 7 % 31} reasons that one had." for n in range(3000)
    ]
    other.write_text("\n\n".join(lines), encoding="utf8")
    sources = (
        f'{{name="story", kind="text", path="{text_file}"}}, {{name="thought", kind="text", path="{other}"}}, '
        '{name="sayings", kind="canaries", seed=3}'
    )
    phases = "{from_step=0, weights={story=1.0}}, {from_step=12, weights={story=0.2, thought=0.4, sayings=0.4}}"
    config = tiny_config(
        f"data.sources=[{sources}]", f"data.phases=[{phases}]", "train.steps=24", "optimizer.warmup_steps=2",
        "checkpoint.every=12", "evaluation.every=0", "probing.every=0", "understanding.every=0",
    )  # fmt: skip
    with start(config, folder, "introduced") as session:
        outcome = train(session)
        session.records.end_segment(session.segment, session.step, outcome.reason)
        return session.run


def test_a_source_of_canaries_holds_those_put_in_and_none_kept_out_and_the_tokenizer_does_not_learn_them() -> None:
    source = Source(name="sayings", kind="canaries", seed=3)
    texts = [document.text for document, _ in documents(source)]
    assert len(set(texts)) == len(texts) == 200 and texts == list(planted(3))
    both = canaries(3)
    assert all(one.text in texts[0] for one in both.put_in)
    assert not any(one.term in " ".join(texts) for one in both.kept_out)
    assert fingerprint(source) != fingerprint(source.model_copy(update={"seed": 4}))


def test_the_whole_ladder_of_a_real_run_is_asked_and_kept(run: Run) -> None:
    assert introduced_at(run.config, "thought") == 12 and planted_with(run.config, 12) == canaries(3)
    found = surfacing(run, "thought", texts=24)
    assert found["steps"] == [12, 24] and found["introduced"] == 12
    assert found["surfaced"]["after"]["checks"] == found["elicited"]["after"]["checks"] == 24
    assert found["learned"]["texts"][1] >= 1 and found["ranks"]["auc"] >= 0
    assert found["surfaced"]["canaries"]["put_in"]["checks"] == 20
    assert json.loads((run.evidence / "surfacing-thought.json").read_text()) == json.loads(json.dumps(found))
    assert surfacing(run, "thought", texts=24)["text"] == found["text"], "the same seed, the same answer"


def test_what_was_there_from_the_beginning_cannot_have_surfaced(run: Run) -> None:
    with pytest.raises(NotIntroduced, match=r"'story' is trained on from step 0.*thought, sayings"):
        surfacing(run, "story")
    with pytest.raises(NotIntroduced, match="'nothing' is no source"):
        surfacing(run, "nothing")
    with pytest.raises(NotIntroduced, match=r"'sayings' holds canaries.*beside: thought"):
        surfacing(run, "sayings")
    with pytest.raises(NotIntroduced, match="came at step 12"):
        surfacing(run, "thought", step=12)
    assert issubclass(NoTest, Exception)


def test_reports_need_something_said_and_count_every_reply(run: Run) -> None:
    with pytest.raises(NothingSaid, match="lab selfplay"):
        marker_report(run)
    for seed in range(2):
        self_play_now(run, turns=3, seed=seed)
    found = marker_report(run)
    assert found["texts"] == 6 and found["markers"][0]["name"] == "pause"
    assert all(one["all"]["checks"] == 6 for one in found["markers"])
    assert motif_report(run)["documents"] == 2


def test_contrasts_of_a_stored_checkpoint_come_with_their_power(run: Run) -> None:
    found = contrast_report(run, samples=10)
    assert len(found["contrasts"]) == 8 and {one["verdict"] for one in found["contrasts"]} == {"too few samples"}
    assert found["step"] == 24 and len(found["power"]) >= 1


def test_the_detectors_card_has_a_firing_rate_power_that_falls_with_it_and_a_price(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stereotype_report_module, "DRAWS", 25)
    with Records.writer(run.database) as records:  # as a visit of an attachment records it: half a second a step
        records.metrics(1, 24, {"cost/train_seconds": 12.0})
    found = stereotype_report(run, texts=48)
    firing = found["cards"][0]["firing"]
    assert firing["checks"] == found["texts"] == 48
    assert found["step"] == 24, "an untrained checkpoint is no reference, so the newest is asked"
    assert {one["base"] for one in found["power"]} == {firing["value"]}, "power is told at the rate that was found"
    assert {one["per_arm"] for one in found["power"]} == {400, 800, 2000}
    critical = [one["critical"]["value"] for one in found["bases"]]
    assert critical[0] > critical[-1], "the same gap is found less often where hostile words are common"
    cost = found["cost"]
    assert cost["answers"] == 6400 and cost["seconds"] > 0
    assert cost["share_of_250_steps"] == pytest.approx(cost["seconds"] / 125)
    assert cost["share"] == pytest.approx(cost["seconds"] / 1000), "asked every 2,000 steps"
    said = "\n".join(lines(found))
    assert "recall 15 of 30" in said and "of 48" in said and "power falls as the base rate rises" in said
    assert "of the time of 250 steps of this run" in said
    assert json.loads((run.evidence / "report-stereotypes.json").read_text()) == json.loads(json.dumps(found))
