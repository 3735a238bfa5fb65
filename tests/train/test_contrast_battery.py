"""Contrasts asked of models by hand: what is counted, that a planted gap pauses a run, and what is too dear."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.config import RunConfig
from lab.records import Episode, Event, Finding, Records
from lab.run import Run
from probes.behaviour import contrasts, stereotypes
from probes.behaviour.rates import wilson
from tests.made_runs import made_run
from tests.train.digest import digest
from train import contrast_battery, many
from train.contrast_battery import TooDear, ask, contrast, likelihood
from train.loop import train
from train.session import Session, start
from train.understanding import Understanding

Config = Callable[..., RunConfig]
SHORT = (
    "train.steps=6",
    "optimizer.warmup_steps=2",
    "checkpoint.every=2",
    "evaluation.every=0",
    "probing.every=0",
    "reference.step=2",
    "understanding.every=100",
    "understanding.batteries_every=0",
    "understanding.contrasts_every=4",
    "understanding.contrast_samples=10",
    "understanding.budget=1.0",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made_run(tmp_path_factory.mktemp("contrasts"))


def finish(session: Session) -> Run:
    outcome = train(session)
    session.records.end_segment(session.segment, session.step, outcome.reason)
    return session.run


def afford(session: Session) -> None:
    """A step of `tiny` takes 10 ms: a battery is worth thousands of them."""
    watch = next(one for one in session.attachments if isinstance(one, Understanding))
    watch.contrasts.budget = 1e9


def batteries_of(records: Records) -> list[Episode]:
    return [row for row in records.rows(Episode) if row.kind == "contrasts"]


def planted(monkeypatch: pytest.MonkeyPatch, shares: Callable[[str], float]) -> None:
    """Answers of one word: "lazy" in this share of the prompts of an arm, the same share of the same numbers."""

    def answers(
        model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], numbers: torch.Tensor, progress: Any = None
    ) -> list[list[int]]:
        texts = [tokenizer.decode(ids[1:]) for ids in prompts]
        hostile = [float(row[0]) < shares(text) for row, text in zip(numbers, texts, strict=True)]
        return [tokenizer.encode(" lazy" if one else " here") for one in hostile]

    monkeypatch.setattr(many, "answers", answers)


# ------------------------------------------------------------------------------------------------------- many answers


def test_an_answer_depends_on_its_prompt_and_its_numbers_and_not_on_its_company(made: Run) -> None:
    model, tokenizer = made.model(), made.tokenizer()
    prompts = [[1, *tokenizer.encode(text)] for text in ("The dog", "A cat sat on the mat", "The cat", "My dog")]
    numbers = many.randoms(4, 12, torch.Generator().manual_seed(1))
    together = many.answers(model, tokenizer, prompts, numbers)
    alone = [many.answers(model, tokenizer, [p], numbers[[row]])[0] for row, p in enumerate(prompts)]
    assert together == alone
    same = many.answers(model, tokenizer, [prompts[0], prompts[0]], numbers[[2, 2]])
    assert same[0] == same[1]


def test_tokens_come_as_often_as_the_model_says(made: Run) -> None:
    model, tokenizer = made.model(), made.tokenizer()
    prompt = [1, *tokenizer.encode("The")]
    numbers = many.randoms(4000, 1, torch.Generator().manual_seed(2))
    drawn = [ids[0] for ids in many.answers(model, tokenizer, [prompt] * 4000, numbers, temperature=1.0) if ids]
    with torch.no_grad():
        wanted = torch.softmax(model(torch.tensor([prompt]))[0, -1].double(), dim=-1)
    for token in wanted.topk(3).indices.tolist():
        rate = wilson(drawn.count(token), 4000, level=0.999)
        assert rate.lo <= float(wanted[token]) <= rate.hi


def test_the_likelihood_of_an_ending_is_the_sum_over_its_tokens(made: Run) -> None:
    model, tokenizer = made.model(), made.tokenizer()
    (found,) = likelihood(model, tokenizer)([("The farmer", " walked")])
    before, after = tokenizer.encode("The farmer"), tokenizer.encode(" walked")
    tokens = torch.tensor([[tokenizer.bos, *before, *after]])
    with torch.no_grad():
        logs = model(tokens[:, :-1]).log_softmax(-1).gather(-1, tokens[:, 1:, None])[0, len(before) :, 0]
    assert found == pytest.approx(float(logs.sum()), rel=1e-5)


# ---------------------------------------------------------------------------------------------------------- a battery


def test_both_arms_are_asked_the_same_templates_with_the_same_numbers(made: Run, monkeypatch: Any) -> None:
    seen: dict[str, list[float]] = {}

    def answers(
        model: Any, tokenizer: Any, prompts: Any, numbers: torch.Tensor, progress: Any = None
    ) -> list[list[int]]:
        for ids, row in zip(prompts, numbers.tolist(), strict=True):
            seen.setdefault(tokenizer.decode(ids[1:]), []).append(row[0])
        return [tokenizer.encode("x") for _ in prompts]

    monkeypatch.setattr(many, "answers", answers)
    pair = stereotypes.pairs()[0]
    ask(made.model(), made.tokenizer(), [pair], 30, 0, "contrasts")
    for one in stereotypes.asks(pair, 30):
        assert seen[one.first] == seen[one.second]


def test_a_planted_gap_of_30_points_that_the_reference_lacks_is_confirmed_in_a_model_that_is_able(
    made: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = stereotypes.pairs()[4]
    calls = iter(range(99))

    def shares(text: str) -> float:
        return (0.35 if pair.first in text else 0.05) if now else 0.05

    planted(monkeypatch, shares)
    monkeypatch.setattr(stereotypes, "competence", lambda likelihood: wilson(36, 40))
    now = True

    def reference() -> Any:
        nonlocal now
        now = next(calls) < 0
        return made.model(0)

    original = contrast_battery._reference

    def asked(*given: Any) -> Any:
        nonlocal now
        try:
            return original(*given)
        finally:
            now = True

    monkeypatch.setattr(contrast_battery, "_reference", asked)
    outcome = contrast(made, made.model(), made.tokenizer(), 8, 0, 400, (0, "a", reference))
    verdicts = {one.pair: one.verdict for one in outcome.contrasts}
    assert verdicts.pop(pair.name) == "confirmed"
    assert set(verdicts.values()) <= {"none", "small"}
    assert outcome.second is not None and [one.pair for one in outcome.second.counts] == [pair.name]
    weak = contrasts.confirm(outcome.contrasts, {}, wilson(1, 40), {})
    assert weak == outcome.contrasts
    again = contrast(made, made.model(), made.tokenizer(), 8, 0, 400, (0, "a", pytest.fail))
    assert [one.verdict for one in again.contrasts] == [one.verdict for one in outcome.contrasts], (
        "kept, not asked again"
    )


def test_a_battery_that_may_not_go_on_is_given_up_after_two_batches(made: Run) -> None:
    told: list[float] = []

    def refuse(seconds: float) -> bool:
        told.append(seconds)
        return False

    with pytest.raises(TooDear):
        ask(made.model(), made.tokenizer(), stereotypes.pairs()[:2], 20, 0, "contrasts", may_go_on=refuse)
    assert len(told) == 1 and told[0] > 0


# ------------------------------------------------------------------------------------------------------ in a real run


@pytest.fixture
def gap(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Confirmed, whatever the answers are: a battery of 10 an arm judges nothing."""
    true = contrasts.screen

    def screen(counts: Any, reference: Any = None) -> Any:
        found = list(true(counts, reference))
        found[0] = replace(found[0], verdict="confirmed")
        return tuple(found)

    monkeypatch.setattr(contrasts, "screen", screen)
    yield


def test_a_confirmed_contrast_pauses_the_run_once_and_leaves_the_answers_it_rests_on(
    tiny_config: Config, tmp_path: Path, gap: None
) -> None:
    held = []
    with start(tiny_config(*SHORT), tmp_path, "biased") as session:

        def say(text: str) -> None:
            if "stands still" in text:
                held.append(session.control.held["understanding"])
                session.control.stop_reason = "SIGINT"

        session.say = say
        afford(session)
        run = finish(session)
    assert len(held) == 1 and contrasts.CONFIRMED.id in held[0]
    with run.records() as records:
        (finding,) = records.rows(Finding, rule=contrasts.CONFIRMED.id)
        (episode,) = batteries_of(records)
        assert (records.newest(f"checks/{contrasts.CONFIRMED.id}") or (0, 0.0))[1] == 8
    assert finding.severity == "critical" and finding.step == episode.step == 4
    assert episode.data["reference"] == 2 and len(episode.data["contrasts"]) == 8
    (bundle,) = run.evidence.glob(f"bundle-*{contrasts.CONFIRMED.id}/*.json")
    assert '"quoted"' in bundle.read_text() and '"protocol"' in bundle.read_text()


def test_asking_changes_no_bit_and_too_little_budget_puts_it_off_with_a_word(
    tiny_config: Config, tmp_path: Path
) -> None:
    with start(tiny_config(*SHORT, "understanding.budget=0.00001"), tmp_path, "poor") as session:
        poor = finish(session)
    with start(
        tiny_config(*SHORT, "understanding.budget=1.0", "understanding.contrasts_every=3"), tmp_path, "rich"
    ) as session:
        afford(session)
        rich = finish(session)
    same = ("model.safetensors", "optimizer.safetensors", "generators", "corpus")
    assert {key: digest(poor)[key] for key in same} == {key: digest(rich)[key] for key in same}
    with poor.records() as records:
        assert not batteries_of(records)
        assert [row for row in records.rows(Event) if row.kind == "budget" and "contrasts" in row.text]
    with rich.records() as records:
        assert [row.step for row in batteries_of(records)] == [3, 6]
