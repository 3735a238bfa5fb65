"""The loop remedy: what it marks, what its term does to a looping model, and that switched off it changes nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lab.config import BadConfig, RunConfig
from lab.corpus import Batch
from lab.records import Event, Finding, Regime
from lab.run import Run
from lab.sections import RemedyConfig
from probes.behaviour import loops
from tests.made_runs import made_run
from tests.train.digest import digest
from tests.train.own_words import SHORT, finish
from tests.train.talkers import CIRCLE, looping
from train.branch import branch, go_on
from train.remedy import Remedy, repeated, unlikelihood
from train.session import Session, resume, start
from train.talk import Talk, Turn

Config = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made_run(tmp_path_factory.mktemp("remedy"))


def test_everything_from_the_second_copy_on_is_marked_and_nothing_of_the_first(made: Run) -> None:
    tokenizer = made.tokenizer()
    ids = tokenizer.encode("Once upon ") + list(b"abc") * 10
    places = repeated(tokenizer, ids, tokenizer.decode(ids))
    start = len(ids) - 30
    assert places == list(range(start + 3, len(ids)))
    assert repeated(tokenizer, tokenizer.encode("One, two, three, and a good morning to you all."), "") == []


def test_a_loop_that_is_a_list_is_spared_and_the_same_words_in_a_line_are_not(made: Run) -> None:
    tokenizer = made.tokenizer()
    as_list, in_line = "- one apple\n" * 12, "one apple and " * 12
    assert loops.detect(tokenizer.encode(as_list)) is not None
    marked = repeated(tokenizer, tokenizer.encode(as_list), as_list)
    said = {tokenizer.decode([tokenizer.encode(as_list)[at]]) for at in marked}
    assert said <= {"\n"}, "only what ends a line lies outside the layout"
    assert len(repeated(tokenizer, tokenizer.encode(in_line), in_line)) > 20


def test_unlikelihood_of_what_is_certain_is_large_and_falls_when_it_is_followed(made: Run) -> None:
    model = looping(made)
    tokens = torch.tensor([list(CIRCLE) * 8])
    marked = torch.ones(1, 23, dtype=torch.bool)
    before = unlikelihood(model, tokens, marked).detach()
    assert float(before) > 20, "the model is certain, and that is where the term must still pull"
    even = torch.tensor([[5, 9, 11, 8]])
    assert float(unlikelihood(model, even, torch.ones(1, 3, dtype=torch.bool)).detach()) < 0.5
    optimizer = torch.optim.SGD([model.unembed.W_U], lr=1.0)
    for _ in range(20):
        optimizer.zero_grad()
        term = unlikelihood(model, tokens, marked)
        torch.autograd.backward(term)
        optimizer.step()
    assert float(term.detach()) < 0.5 * float(before)


def test_long_reading_is_cut_from_the_front_and_marks_stay_on_their_tokens(made: Run) -> None:
    tokenizer, n_ctx = made.tokenizer(), made.config.model.n_ctx
    remedy = Remedy(RemedyConfig(every=1, continuations=0), tokenizer, 0, torch.float32)
    remedy.between_steps(0)
    ids = list(CIRCLE) * 12
    remedy.hear(Talk("x", (Turn(tuple([40] * n_ctx), tuple(ids), tokenizer.decode(ids)),)))
    model = looping(made)
    batch = Batch(torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 2, dtype=torch.bool), 2)
    term = remedy.loss(model, batch)
    assert term is not None and float(term.detach()) > 5, "the marked tokens are the certain ones"
    assert (remedy.heard, remedy.looped) == (1, 1)


def test_only_the_newest_looping_replies_are_kept_and_nothing_is_added_before_its_time(made: Run) -> None:
    tokenizer = made.tokenizer()
    remedy = Remedy(RemedyConfig(every=2, from_step=4, keep=3, continuations=0), tokenizer, 0, torch.float32)
    for copies in range(10, 16):
        ids = list(CIRCLE) * copies
        remedy.hear(Talk("x", (Turn((1,), tuple(ids), tokenizer.decode(ids)), Turn((1,), (5, 6, 7), "fgh"))))
    assert [len(one["ids"]) for one in remedy.pool] == [39, 42, 45] and (remedy.heard, remedy.looped) == (12, 6)
    model, batch = looping(made), Batch(torch.zeros(1, 3, dtype=torch.long), torch.ones(1, 2, dtype=torch.bool), 2)
    told = {step: (len(remedy.between_steps(step)), remedy.loss(model, batch) is not None) for step in (0, 3, 4, 5, 6)}
    assert told == {0: (0, False), 3: (0, False), 4: (1, True), 5: (0, False), 6: (0, True)}


def test_switched_off_it_is_not_there_and_on_without_self_play_it_is_refused(
    tiny_config: Config, tmp_path: Path
) -> None:
    from train.equipment import build_interventions

    assert build_interventions(tiny_config(), tmp_path, torch.float32, None, []) == []  # type: ignore[arg-type]
    with pytest.raises(BadConfig, match=r"feedback.every = 1, but self_play.every = 0"):
        tiny_config("feedback.every=1")
    with pytest.raises(BadConfig, match=r"self_play.every = 0 and remedy.continuations = 0"):
        tiny_config("remedy.every=1", "remedy.continuations=0")
    with pytest.raises(BadConfig, match=r"evaluation.every = 0"):
        tiny_config("feedback.every=1", "self_play.every=5", "evaluation.every=0")


def test_continuations_of_training_text_that_loop_are_heard_once_a_step(made: Run) -> None:
    remedy = Remedy(RemedyConfig(every=1, continuations=3, continuations_every=5), made.tokenizer(), 0, torch.float32)
    model = looping(made)
    tokens = torch.randint(0, 90, (4, 40), generator=torch.Generator().manual_seed(1))
    batch = Batch(tokens, torch.ones(4, 39, dtype=torch.bool), 4)
    for step in range(6):
        remedy.between_steps(step)
        for _ in range(2):  # micro-batches
            assert remedy.loss(model, batch) is not None
    assert (remedy.heard, remedy.looped) == (6, 6)
    first = remedy.pool[0]
    assert first["read"] == tokens[0, :16].tolist() and set(first["ids"]) == set(CIRCLE)


def test_a_run_with_the_remedy_is_resumed_bit_for_bit_and_its_twin_has_other_weights(
    tiny_config: Config, tmp_path: Path
) -> None:
    config = tiny_config(*SHORT, "remedy.every=1", "remedy.from_step=1", "remedy.continuations_every=2")
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
        assert [(row.kind, row.step) for row in records.rows(Event) if row.kind == "remedy"] == [("remedy", 1)]
        assert [row.rule for row in records.rows(Finding, instrument="remedy")] == ["remedy.begun"]
        assert records.rows(Regime, name="remedy")[0].protocol["weight"] == 1.0
        assert (records.newest("remedy/looping_replies") or (0, 0.0))[1] >= 1
    twin = branch(whole, "whole--twin", step=4, steps=4, overrides=["remedy.every=0"])
    go_on(twin)
    again = branch(whole, "whole--again", step=4, steps=4)
    go_on(again)
    assert digest(again)["model.safetensors"] == digest(whole)["model.safetensors"] != digest(twin)["model.safetensors"]


def plant(session: Session) -> None:
    """One looping reply from the start: a model of eight steps says nothing of length."""
    remedy = next(one for one in session.interventions if isinstance(one, Remedy))
    ids = list(CIRCLE) * 10
    remedy.hear(Talk("x", (Turn((1, 2, 3), tuple(ids), session.corpus.tokenizer.decode(ids)),)))
