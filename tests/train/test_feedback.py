"""Feedback: its share is never exceeded, it stops when it does harm, and a resumed run is the same run."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.config import RunConfig
from lab.corpus import Batch
from lab.records import Event, Finding
from lab.run import Run
from lab.sections import FeedbackConfig
from lab.tokenizer import Tokenizer
from tests.made_runs import VOCABULARY, made_run
from tests.train.digest import digest
from tests.train.own_words import SHORT, finish, ids_of, sentence
from train.added_text import laid_out, most_tokens
from train.feedback import Feedback, _as_messages
from train.session import Session, resume, start
from train.talk import Talk, Turn

Config = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made_run(tmp_path_factory.mktemp("feedback"))


def good(seed: int) -> Talk:
    texts = (sentence(seed), sentence(seed + 500))
    return Talk("What did you see?", tuple(Turn((1,), ids_of(text), text) for text in texts))


def fed(tokenizer: Tokenizer, share: float = 0.1, talks: int = 5, **settings: int) -> Feedback:
    feedback = Feedback(FeedbackConfig(every=1, share=share, **settings), tokenizer, 0, torch.float32)
    for seed in range(talks):
        feedback.hear(good(seed))
    return feedback


def real(targets: int, width: int = 64) -> Batch:
    rows = max(1, -(-targets // width))
    mask = torch.zeros(rows, width, dtype=torch.bool)
    mask.view(-1)[:targets] = True
    return Batch(torch.zeros(rows, width + 1, dtype=torch.long), mask, targets)


# -------------------------------------------------------------------------------------------------------- its share


@given(share=st.floats(0.0001, 0.1), targets=st.integers(0, 20_000))
@settings(max_examples=300, deadline=None)
def test_own_tokens_never_exceed_their_share_of_all(share: float, targets: int) -> None:
    most = most_tokens(share, targets)
    assert most <= share * (most + targets) * (1 + 1e-9)
    assert most + 1 > share * (most + 1 + targets) * (1 - 1e-9), "and the share is used"


@given(share=st.floats(0.001, 0.1), targets=st.integers(0, 3000), step=st.integers(0, 50), talks=st.integers(0, 8))
@settings(max_examples=60, deadline=None)
def test_no_micro_batch_holds_more_own_tokens_than_its_share(
    letters: Tokenizer, share: float, targets: int, step: int, talks: int
) -> None:
    feedback = fed(letters, share, talks)
    feedback.measured(0, 3.0)
    feedback.between_steps(step)
    for _ in range(3):  # micro-batches of one step
        rows = feedback.rows(most_tokens(share, targets), 96)
        own = 0 if rows is None else int(rows[1].sum())
        assert own <= share * (own + targets) * (1 + 1e-9)
        assert rows is None or rows[0].shape[1] <= 97


@pytest.fixture(scope="module")
def letters(made: Run) -> Tokenizer:
    return made.tokenizer()


def test_the_term_is_the_summed_loss_of_own_tokens_over_the_real_ones(made: Run) -> None:
    feedback, model = fed(made.tokenizer()), made.model()
    feedback.measured(0, 3.0)
    feedback.between_steps(0)
    batch = real(600)
    term = feedback.loss(model, batch)
    assert term is not None
    feedback.between_steps(0)  # the same micro-batch again
    rows = feedback.rows(most_tokens(0.1, 600), 96)
    assert rows is not None
    per_token = model(rows[0][:, :-1]).log_softmax(-1).gather(-1, rows[0][:, 1:, None])[..., 0]
    assert float(term) == pytest.approx(float(-(per_token * rows[1]).sum()) / 600, rel=1e-5)
    assert feedback.numbers()["feedback/tokens"] == float(rows[1].sum()) <= 66


def test_topic_and_what_opens_a_conversation_do_not_count(letters: Tokenizer) -> None:
    ids, counts = laid_out(letters, _as_messages("Tell me about bread.", ("I like it.", "So do I.")), 1)
    own = letters.decode([token for token, counted in zip(ids, counts, strict=True) if counted])
    assert "bread" not in own and "I like it." in own and "So do I." in own
    assert max(ids) < VOCABULARY


# ---------------------------------------------------------------------------------------------------- when it ends


def test_it_ends_at_the_second_evaluation_on_end_that_is_worse_and_not_before(letters: Tokenizer) -> None:
    def lived(*bits: float) -> list[str]:
        feedback, told = fed(letters), []
        for step, value in enumerate(bits):
            feedback.measured(step, value)
            told += [change.kind for change in feedback.between_steps(step)]
        return told

    assert lived(3.0, 3.01, 3.01) == ["feedback"], "a third of a percent is not worse"
    assert lived(3.0, 3.02, 3.0, 3.02, 2.99) == ["feedback"], "once is not twice on end"
    assert lived(3.0, 3.02, 3.02) == ["feedback", "feedback-stopped"]
    assert lived(3.0, 2.8, 2.82, 2.83, 2.5) == ["feedback", "feedback-stopped"], (
        "held against the lowest, ended for good"
    )
    assert lived(3.2, 3.0) == ["feedback"]


def test_planted_harm_ends_it_in_a_real_run_and_what_follows_is_trained_without_it(
    tiny_config: Config, tmp_path: Path
) -> None:
    config = tiny_config(*SHORT, "evaluation.every=1", "evaluation.tokens=640", "feedback.every=1")
    with start(config, tmp_path, "harmed") as session:
        feedback = plant(session)
        true, feedback.measured = feedback.measured, lambda step, bits: None  # type: ignore[method-assign, assignment]
        evaluation = next(one for one in session.attachments if one.name == "evaluation")
        evaluation.listeners[:] = [lambda step, bits: true(step, bits + max(0, step - 3))]  # type: ignore[attr-defined]
        run = finish(session)
        assert feedback.stopped == 5
    with run.records() as records:
        assert [(row.kind, row.step) for row in records.rows(Event) if "feedback" in row.kind] == [
            ("feedback", 0),
            ("feedback-stopped", 5),
        ]
        (alert,) = records.rows(Finding, rule="feedback.stopped")
    assert alert.severity == "alert"
    assert feedback.loss(run.model(), real(600)) is None


def test_a_run_with_feedback_is_resumed_bit_for_bit(tiny_config: Config, tmp_path: Path) -> None:
    config = tiny_config(
        *SHORT, "evaluation.every=4", "evaluation.tokens=640", "feedback.every=1", "train.accumulation=2"
    )
    with start(config, tmp_path, "whole") as session:
        plant(session)
        whole = finish(session)
    with start(config, tmp_path, "halves") as session:
        plant(session)
        halves = finish(session, stop_at=5)
    with resume(halves) as session:
        finish(session)
    assert digest(halves) == digest(whole)
    with whole.records() as records:
        assert (records.newest("feedback/tokens") or (0, 0.0))[1] > 0
    with start(tiny_config(*SHORT, "train.accumulation=2"), tmp_path, "plain") as session:
        plain = finish(session)
    assert digest(plain)["model.safetensors"] != digest(whole)["model.safetensors"]


def plant(session: Session) -> Feedback:
    """Four conversations that pass: a model of eight steps says nothing that would."""
    feedback = next(one for one in session.interventions if isinstance(one, Feedback))
    for seed in range(4):
        feedback.hear(good(seed))
    assert len(feedback.gate.passed) == 4
    return feedback
