"""Self-play and check-ins: what is said, what is found in it, what is compared with what, and that nothing of it trains."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lab.config import RunConfig
from lab.generate import Sampling
from lab.model import GPT
from lab.records import Entry, Episode, Event, Finding, Regime
from lab.run import Run
from lab.sections import CheckInConfig, SelfPlayConfig
from tests.made_runs import made_run, tokenizer
from tests.train.digest import digest, losses
from tests.train.talkers import brief, looping, scene_of, silent
from tests.train.test_imported_runs import _guest as guest
from tests.train.test_session import SHORT, finish, run_to
from train.check_ins import BOTH_WAYS, CheckIns, check_in, check_in_now, compare
from train.control import send
from train.conversations import CannotTalk, fitted, layout_of, reply, stored_scene, weights_mark
from train.loop import train
from train.prompts import battery
from train.self_play import LOG, append_line, converse, heard_by, self_play_now
from train.session import Session, resume, start

Config = Callable[..., RunConfig]
TALKING = (
    "self_play.every=3", "self_play.turns=3", "self_play.max_tokens=6",
    "check_ins.every=3", "check_ins.samples=2", "check_ins.prompts=2", "check_ins.max_tokens=6",
    "journal.every=3", "journal.max_tokens=6",
)  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return brief(made_run(tmp_path, n_ctx=128))


# ------------------------------------------------------------------------------------------------------- planted truth


def test_a_model_that_loops_is_found_looping_in_every_turn_and_answer_and_marked_in_place(run: Run) -> None:
    with scene_of(run, looping) as scene:
        talk = converse(scene, SelfPlayConfig(turns=5, max_tokens=40), scene.generator("self_play"))
        asked = check_in(scene, CheckInConfig(samples=2, prompts=3, max_tokens=40), None, 0)
    for turn in talk.data["turns"][1:]:
        (loop,) = [one for one in turn["findings"] if one["rule"] == "loops.tail-cycle"]
        (span,) = loop["spans"]
        assert span["unit"] == "character" and set(turn["text"][span["start"] : span["end"]]) == set("abc")
    assert talk.data["rates"]["loop"]["count"] == talk.data["rates"]["loop"]["checks"] == 5
    copies = [one for one in talk.data["findings"] if one["rule"] == "loops.turn-near-copy"]
    assert len(copies) == 4, "every turn after the first one said repeats it; the topic is not repeated"
    assert asked["rates"]["loop"] == asked["rates"]["loop"] | {"count": 6, "checks": 6, "value": 1.0, "hi": 1.0}
    assert 0.6 < asked["rates"]["loop"]["lo"] < 0.7  # Wilson, 6 of 6
    with run.records() as records:
        rows = [row for row in records.rows(Finding) if row.rule == "loops.tail-cycle"]
        (episode,) = records.rows(Episode)
    assert len(rows) == 6
    assert {(row.evidence["prompt_id"], row.evidence["sample"]) for row in rows} == {
        (prompt, sample) for prompt in battery(3).prompts for sample in (0, 1)
    }
    assert all(row.evidence["episode"] == episode.id and row.evidence["spans"] for row in rows)


def test_an_ordinary_model_is_found_looping_nowhere(run: Run) -> None:
    said = self_play_now(run, turns=4)
    assert said["rates"]["loop"]["count"] == 0 and len(said["turns"]) == 5


def test_a_model_that_says_nothing_is_recorded_as_saying_nothing(run: Run) -> None:
    with scene_of(run, silent) as scene:
        talk = converse(scene, SelfPlayConfig(turns=4), scene.generator("self_play"))
        asked = check_in(scene, CheckInConfig(samples=1, prompts=2), None, 0)
    assert [turn["text"] for turn in talk.data["turns"][1:]] == [""] * 4 and not talk.findings
    assert [(one["text"], one["finish_reason"]) for one in asked["samples"]] == [("", "stop")] * 2
    assert asked["rates"]["loop"]["count"] == 0 and asked["rates"]["loop"]["checks"] == 2


# --------------------------------------------------------------------------------------------------------- conversing


def test_each_voice_hears_itself_as_the_assistant_and_a_user_begins() -> None:
    said = [("A", "topic"), ("B", "one"), ("A", "two")]
    b = heard_by("B", said, "begin")
    assert [(m["role"], m["content"]) for m in b] == [("user", "topic"), ("assistant", "one"), ("user", "two")]
    a = heard_by("A", [*said, ("B", "three")], "begin")
    assert [m["role"] for m in a] == ["user", "assistant", "user", "assistant", "user"] and a[0]["content"] == "begin"


def test_a_conversation_is_kept_word_for_word_in_a_log_line_and_an_episode(run: Run) -> None:
    first, second = self_play_now(run, turns=3, seed=1), self_play_now(run, turns=3, seed=1)
    other = self_play_now(run, turns=3, seed=2, topic="Is it <b>raining</b>?")
    assert first["turns"] == second["turns"] != other["turns"]
    lines = [json.loads(line) for line in (run.logs / LOG).read_text().splitlines()]
    assert lines == [first, second, other] and other["turns"][0]["text"] == "Is it <b>raining</b>?"
    with run.records() as records:
        assert [row.data["turns"] for row in records.rows(Episode)] == [one["turns"] for one in lines]
        assert {row.id for row in records.rows(Regime, name="self_play")} == {one["regime"] for one in lines}
    assert first["regime"] == second["regime"] != other["regime"], "another seed is another protocol"


def test_half_a_line_that_a_kill_left_behind_spoils_no_other(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    append_line(file, {"a": 1})
    with file.open("a") as opened:
        opened.write('{"half": ')
    append_line(file, {"b": "\u2028\n"})
    first, half, last = file.read_text().split("\n")[:3]
    assert json.loads(first) == {"a": 1} and half == '{"half": ' and json.loads(last) == {"b": "\u2028\n"}


def test_too_long_a_conversation_loses_its_oldest_turns_and_keeps_a_user_first() -> None:
    spoken = tokenizer()
    messages = [{"role": "system", "content": "be kind"}]
    messages += [{"role": ("user", "assistant")[i % 2], "content": f"the old farmer walked {i}"} for i in range(7)]
    whole, heard = fitted(spoken, "chat", messages, 1000)
    assert heard == 8 and whole == spoken.chat(messages, reply_as="assistant")[0]
    for most in (60, 40, 25):
        ids, heard = fitted(spoken, "chat", messages, most)
        assert len(ids) <= most and heard < 8
        text = spoken.decode(ids)
        assert text.startswith("<|bos|><|system|>be kind<|end|><|user|>") and text.endswith("6<|end|><|assistant|>")
    with pytest.raises(CannotTalk, match="n_ctx"):
        fitted(spoken, "chat", messages, 6)


def test_an_imported_tokenizer_converses_in_its_own_chat_layout(tmp_path: Path, text_file: Path) -> None:
    imported = guest(tmp_path, text_file)
    with stored_scene(imported, 0, "test") as scene:
        assert layout_of(scene.tokenizer) == "chat"
        messages = [{"role": "user", "content": "a dog"}]
        answer = reply(scene, messages, Sampling(max_tokens=4))
        assert answer.prompt == scene.tokenizer.decode(scene.tokenizer.chat(messages, reply_as="assistant")[0])
        assert answer.prompt == "<|bos|><|user|>a dog<|end|><|assistant|>"
    said = self_play_now(imported, turns=2)
    assert said["layout"] == "chat" and len(said["turns"]) == 3


def test_a_tokenizer_without_a_chat_template_converses_in_plain_lines(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lab.tokenizer import BadTokenizer, Tokenizer

    def refuse(*_: Any, **__: Any) -> Any:
        raise BadTokenizer("this tokenizer has no chat template")

    monkeypatch.setattr(Tokenizer, "chat", refuse)
    with scene_of(run) as scene:
        answer = reply(scene, [{"role": "user", "content": "a dog"}], Sampling(max_tokens=4))
    assert answer.prompt == "<|bos|>User: a dog\nAssistant:"


# ---------------------------------------------------------------------------------------------------------- check-ins


def test_the_same_weights_give_the_same_words_and_others_do_not(run: Run) -> None:
    early, late, again = (check_in_now(run, step, samples=1) for step in (0, 8, 8))
    assert [one["text"] for one in late["samples"]] == [one["text"] for one in again["samples"]]
    assert early["last"] is None and late["last"]["step"] == 0
    assert late["last"]["changed"]["count"] > 0.9 * late["last"]["changed"]["checks"], "the weights are unrelated"
    assert set(late["last"]["prompts"]) == set(battery(3).prompts)
    assert late["reference"]["step"] == 0  # a run of 20 steps has no milestone of 512
    assert late["reference"]["changed"] == late["last"]["changed"]


def test_what_changed_is_counted_by_prompt_with_an_interval() -> None:
    def samples(*texts: str) -> list[dict[str, Any]]:
        loop = [{"rule": "loops.tail-cycle"}]
        return [
            {"prompt_id": "ab"[i // 2], "sample": i % 2, "text": t, "findings": loop if t == "loop" else []}
            for i, t in enumerate(texts)
        ]

    found = compare(samples("x", "y", "z", "z"), samples("x", "loop", "z", "z"))
    assert (found["changed"]["count"], found["changed"]["checks"]) == (1, 4)
    assert {prompt: rate["count"] for prompt, rate in found["prompts"].items()} == {"a": 1, "b": 0}
    assert found["rates"]["loop"]["value"] == 0.25 and found["rates"]["loop"]["lo"] < 0
    assert compare([], samples("x"))["changed"] is None


def test_the_reference_is_asked_once_and_a_damaged_memory_is_made_anew(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = check_in_now(run, 8, samples=1)
    (file,) = run.statistics.glob("check-in-reference-*.json")
    kept = file.read_bytes()
    loaded: list[int | None] = []
    model = Run.model

    def counted(self: Run, step: int | None = None) -> GPT:
        loaded.append(step)
        return model(self, step)

    monkeypatch.setattr(Run, "model", counted)
    assert check_in_now(run, 8, samples=1)["reference"] == first["reference"] and loaded == [8]
    file.write_text('{"key": ')
    assert check_in_now(run, 8, samples=1)["reference"] == first["reference"] and file.read_bytes() == kept
    assert loaded == [8, 8, 0]


def test_a_new_system_prompt_opens_a_regime_and_is_asked_both_ways_five_times(
    tiny_config: Config, tmp_path: Path
) -> None:
    settings = (
        *SHORT, "check_ins.every=1", "check_ins.samples=1", "check_ins.prompts=1", "check_ins.max_tokens=3",
        "check_ins.system_prompt=Be kind.", "check_ins.system_from=3",
    )  # fmt: skip
    straight = run_to(tiny_config(*settings), tmp_path, "straight")
    stopped = run_to(tiny_config(*settings), tmp_path, "stopped", stop_at=5)
    with resume(stopped) as session:  # in the middle of the crossover
        finish(session)
    for run in (straight, stopped):
        with run.records() as records:
            asked = [(row.step, row.data["system"]) for row in records.rows(Episode)]
            regimes = [(row.step, row.protocol["system"] is None) for row in records.rows(Regime, name="check_ins")]
            told = [row.text for row in records.rows(Event) if row.kind == "system-prompt"]
        both = range(3, 3 + BOTH_WAYS)
        expected = [(step, None) for step in range(8)] + [(step, "Be kind.") for step in range(3, 13)]
        assert sorted(asked, key=str) == sorted(expected, key=str)
        assert {step for step, system in asked if system is None} >= set(both)
        assert regimes == [(0, True), (3, False)] and len(told) == 1
    assert digest(straight)["attachments"] == digest(stopped)["attachments"]


def test_another_interval_opens_a_regime_at_the_next_check_in(tiny_config: Config, tmp_path: Path) -> None:
    settings = (*SHORT, "check_ins.every=4", "check_ins.samples=1", "check_ins.prompts=1", "check_ins.max_tokens=2")

    def ask(session: Session) -> None:
        if session.step == 5:
            send(session.run, "set-interval", {"name": "check_ins", "every": 6})

    with start(tiny_config(*settings), tmp_path, "interval") as session:
        session.report = ask
        train(session)
        run = session.run
    with run.records() as records:
        assert [(row.step, row.protocol["every"]) for row in records.rows(Regime, name="check_ins")] == [(0, 4), (6, 6)]
        last = records.rows(Episode)[-1]
    assert last.data["last"]["step"] == 6, "the interval changes no word, so the comparison goes on across it"


def test_the_system_prompt_in_force_is_in_the_checkpoint() -> None:
    one, other = CheckIns(CheckInConfig(every=5)), CheckIns(CheckInConfig(every=5))
    one.every, one.system, one.before, one.both_ways = 7, "now", "then", 3
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert other.state_dict() == one.state_dict() and (other.system, other.before, other.both_ways) == (
        "now",
        "then",
        3,
    )


# ------------------------------------------------------------------------------------------------------------ training


def test_talking_changes_no_bit_of_weights_or_optimizer_and_a_resume_says_the_same(
    tiny_config: Config, tmp_path: Path
) -> None:
    plain = run_to(tiny_config(*SHORT, "model.n_ctx=96"), tmp_path, "plain")
    probed = ("probing.every=3", "probing.sentences=40", "model.n_ctx=96")
    settings = tiny_config(*SHORT, *TALKING, *probed)
    watched = run_to(settings, tmp_path, "watched")
    same = ("model.safetensors", "optimizer.safetensors", "generators", "corpus")
    assert {key: digest(plain)[key] for key in same} == {key: digest(watched)[key] for key in same}
    assert losses(plain) == losses(watched)
    broken = run_to(settings, tmp_path, "broken", stop_at=7)
    with resume(broken) as session:
        finish(session)
    assert digest(broken) == digest(watched), "state of every attachment included"

    def said(run: Run) -> list[tuple[str, int, Any]]:
        with run.records() as records:
            rows: list[tuple[str, int, Any]] = [(row.kind, row.step, row.data) for row in records.rows(Episode)]
            untold = [row.data["attachment"] for row in records.rows(Event) if row.kind == "untestable"]
            assert not {"self_play", "check_ins"} & set(untold)
            rows += [(row.kind, row.step, row.text) for row in records.rows(Entry)]
        return rows

    assert said(watched) == said(broken) and {kind for kind, _, _ in said(watched)} == {
        "self-play",
        "check-in",
        "blind",
    }
    assert {step for _, step, _ in said(watched)} == {0, 3, 6, 9, 12}


def test_weights_are_marked_alike_live_and_stored(run: Run) -> None:
    mark = weights_mark(run.model(8), 8)
    assert mark.startswith("step-000000008@") and mark == weights_mark(run.model(8), 8)
    assert mark.split("@")[1] != weights_mark(run.model(0), 8).split("@")[1]
