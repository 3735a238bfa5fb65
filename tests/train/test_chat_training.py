"""Chats enter training by `data.chats` alone: a person's words and nothing else, and a resumed run is the same run."""

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from lab.chats import Chats, Exchange
from lab.config import RunConfig
from lab.corpus import Batch
from lab.records import Event, Regime
from lab.run import Run
from lab.tokenizer import Tokenizer
from tests.made_runs import made_run
from tests.train.digest import digest, losses
from tests.train.own_words import SHORT, finish
from train.added_text import most_tokens
from train.chat_training import KEPT, SHARE, ChatTraining
from train.session import resume, start

Config = Callable[..., RunConfig]
TALK = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "the old dog"},
    {"role": "assistant", "content": "a song of the king"},
    {"role": "user", "content": "who sang it then?"},
]
SWITCHED_ON = [*(one for one in SHORT if "self_play" not in one), "self_play.every=0", "data.chats=true"]


def say(
    folder: Path,
    *texts: str,
    kind: str = "chat",
    messages: list[dict[str, str]] | None = None,
    begun_at: float | None = None,
) -> None:
    """Record exchanges as the server does. `begun_at`: by its clock."""
    with Chats.writer(folder) as chats:
        for text in texts:
            chats.begin(
                Exchange(
                    id=f"{kind}-{chats.count()}",
                    kind=kind,
                    run=folder.name,
                    step=0,
                    checkpoint="0" * 64,
                    tokenizer="0" * 64,
                    client="a test",
                    asked=messages or [{"role": "user" if kind == "chat" else "prompt", "content": text}],
                    system_prompt=None,
                    heard=1,
                    prompt_ids=[1],
                    seed=0,
                    settings={},
                    begun_at=time.time() if begun_at is None else begun_at,
                )
            )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made_run(tmp_path_factory.mktemp("chat-training"))


@pytest.fixture(scope="module")
def letters(made: Run) -> Tokenizer:
    return made.tokenizer()


def training(folder: Path, tokenizer: Tokenizer, n_ctx: int = 96) -> ChatTraining:
    return ChatTraining(folder, 4, n_ctx, tokenizer, 0, torch.float32)


def real(targets: int) -> Batch:
    mask = torch.ones(1, targets, dtype=torch.bool)
    return Batch(torch.zeros(1, targets + 1, dtype=torch.long), mask, targets)


def learned(chats: ChatTraining, tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.decode([id for id, told in zip(*text, strict=True) if told]) for text in chats._texts]


def test_only_the_newest_words_of_a_person_are_learned_and_completions_stay_out(
    tmp_path: Path, letters: Tokenizer
) -> None:
    say(tmp_path, "", messages=TALK)
    say(tmp_path, "once upon a time", kind="completion")
    chats = training(tmp_path, letters)
    (change,) = chats.between_steps(0)
    assert change.data["taken"] == 1 and change.text.startswith("1 message that people wrote")
    (text,) = learned(chats, letters)
    assert "who sang it then?" in text
    assert not any(word in text for word in ("old dog", "king", "kind", "once upon"))
    whole = letters.decode(chats._texts[0][0])
    assert "the old dog" in whole and "a song of the king" in whole, "what went before is context"


def test_a_conversation_that_is_too_long_loses_its_oldest_words(tmp_path: Path, letters: Tokenizer) -> None:
    say(tmp_path, "", messages=[*TALK[1:3] * 6, TALK[3]])
    chats = training(tmp_path, letters, n_ctx=40)
    chats.between_steps(0)
    ids, _ = chats._texts[0]
    assert len(ids) <= 41 and "who sang it then?" in learned(chats, letters)[0]


def test_chats_are_taken_at_checkpoints_once_and_the_newest_are_kept(tmp_path: Path, letters: Tokenizer) -> None:
    chats = training(tmp_path, letters)
    assert chats.between_steps(0) == [], "nobody has talked yet"
    say(tmp_path, "hello", "hello", "good morning")
    assert chats.between_steps(3) == [] and len(chats.between_steps(4)) == 1 and chats.between_steps(4) == []
    assert [one[-1]["content"] for one in chats.said] == ["hello", "good morning"]
    assert chats.between_steps(8) == [], "nothing new"
    say(tmp_path, *(f"word number {at}" for at in range(KEPT)))
    chats.between_steps(12)
    assert len(chats.said) == KEPT and chats.said[0][-1]["content"] == "word number 0"


def test_a_chat_recorded_after_one_that_began_later_is_taken(tmp_path: Path, letters: Tokenizer) -> None:
    """A clock was set back, or of two people the one who began first was recorded last."""
    chats = training(tmp_path, letters)
    say(tmp_path, "hello", begun_at=2000.0)
    chats.between_steps(0)
    say(tmp_path, "an hour earlier, by the clock", begun_at=1000.0)
    (change,) = chats.between_steps(4)
    assert change.data["taken"] == 1
    assert [one[-1]["content"] for one in chats.said] == ["hello", "an hour earlier, by the clock"]
    assert chats.between_steps(8) == []


def test_a_state_that_kept_the_time_begun_is_gone_on_with(tmp_path: Path, letters: Tokenizer) -> None:
    say(tmp_path, "hello", begun_at=2000.0)
    said = [[{"role": "user", "content": "hello"}]]
    chats = training(tmp_path, letters)
    chats.load_state_dict({"said": said, "after": [2000.0, "chat-0"], "taken_at": 0})
    assert chats.between_steps(4) == [] and chats.said == said
    say(tmp_path, "good morning", begun_at=1000.0)
    assert chats.between_steps(8)[0].data["taken"] == 1
    again = training(tmp_path, letters)
    again.load_state_dict(chats.state_dict())
    assert again.state_dict() == chats.state_dict() and again.between_steps(12) == []
    fresh = training(tmp_path, letters)
    fresh.load_state_dict({"said": [], "after": [0.0, ""], "taken_at": -1})
    assert fresh.between_steps(0)[0].data["taken"] == 2


def test_a_new_record_is_read_from_its_beginning_though_it_is_shorter(tmp_path: Path, letters: Tokenizer) -> None:
    """The older one was moved away, or belongs to the run that this one branched from."""
    chats = training(tmp_path / "parent", letters)
    (tmp_path / "parent").mkdir()
    say(tmp_path / "parent", "one", "two", "three")
    chats.between_steps(0)
    branched = training(tmp_path, letters)
    branched.load_state_dict(chats.state_dict())
    say(tmp_path, "four")
    with sqlite3.connect(tmp_path / "chats.db") as connection:
        connection.execute("UPDATE exchanges SET id = 'another'")
    assert branched.between_steps(4)[0].data["taken"] == 1 and len(branched.said) == 4


def test_the_share_is_never_exceeded_and_the_term_is_over_the_real_tokens(tmp_path: Path, made: Run) -> None:
    say(tmp_path, *(f"the {word} of the old king and his horse" for word in ("song", "house", "garden", "winter")))
    chats, model = training(tmp_path, made.tokenizer()), made.model()
    chats.between_steps(0)
    for targets in (10, 90, 400):
        term = chats.loss(model, real(targets))
        added = chats.numbers()["chats/tokens"]
        assert added <= most_tokens(SHARE, targets) and (term is None) == (added == 0)
    assert added == 44 and term is not None and 0 < float(term.detach()) < 44 * 12 / 400


def test_a_damaged_record_of_chats_does_not_end_training(tmp_path: Path, letters: Tokenizer) -> None:
    (tmp_path / "chats.db").write_bytes(b"this is not SQLite" * 500)
    chats = training(tmp_path, letters)
    assert chats.between_steps(0) == [] and chats.numbers()["chats/unreadable"] == 1.0


def test_chats_change_training_only_where_the_run_was_told_to_and_a_resume_takes_the_same_ones(
    tiny_config: Config, tmp_path: Path
) -> None:
    def told(name: str, *overrides: str) -> Run:
        with start(tiny_config(*SWITCHED_ON, *overrides), tmp_path, name) as session:
            say(session.run.path, "the river was cold this morning")
            return finish(session)

    on, off = told("on"), told("off", "data.chats=false")
    with start(tiny_config(*SWITCHED_ON), tmp_path, "silent") as session:
        silent = finish(session)
    assert losses(off) == losses(silent), "without the setting, and without words, nothing is another"
    assert losses(on) != losses(silent)
    with start(tiny_config(*SWITCHED_ON), tmp_path, "cut") as session:
        say(session.run.path, "the river was cold this morning")
        cut = finish(session, stop_at=6)
    with resume(cut, from_step=4) as session:
        say(session.run.path, "said too late for the steps 4 to 8")
        finish(session, stop_at=7)
    assert dict(losses(cut))[7] == dict(losses(on))[7]
    with on.records() as records:
        assert [event.step for event in records.rows(Event) if event.kind == "chats"] == [0]
        assert [regime.protocol["share"] for regime in records.rows(Regime) if regime.name == "chats"] == [SHARE]
    assert digest(on) != digest(off)
