"""A bench over a run: resumable, unchanged by a kill, kept item by item; and the attachment."""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lab.benchmark_files import BadItems
from lab.benchmark_items import load_items
from lab.config import RunConfig, load_config
from lab.records import Item as Row
from lab.records import Records
from lab.run import Run
from lab.sections import EvaluationConfig
from probes.behaviour.reasoning import SCORERS
from probes.behaviour.two_by_two import SOURCES
from tests.made_runs import made_run
from tests.train.digest import digest
from train import benchmarking, reasoning
from train.benchmark_records import ADMISSION, REASONS, admissions, answered, benched, reasoned
from train.benchmarking import Asked, Benchmarks, asked, bench
from train.loop import train
from train.rationales import CannotReason, reason_first, with_rationale, write
from train.session import start


def made(root: Path, steps: tuple[int, ...] = (0, 8)) -> Run:
    return made_run(root, steps=steps, n_ctx=160)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Admission tests on 4 of our 40 items; the slow test takes all."""
    monkeypatch.setattr(reasoning, "load_items", lambda name: load_items(name, 4))


def content(run: Run) -> dict[tuple[int, str, str], Any]:
    with run.records() as records:
        return {(row.step, row.task, row.item): row.data for row in records.rows(Row)}


def test_a_second_bench_asks_nothing_and_a_wider_one_asks_only_what_is_new(tmp_path: Path) -> None:
    run = made(tmp_path)
    (first,) = bench(run, asked(["lab"], limit=20))
    (again,) = bench(run, asked(["lab"], limit=20))
    (wider,) = bench(run, asked(["lab"]))
    assert (first.fresh, again.fresh, wider.fresh) == (20, 0, 20)
    assert again.answers == first.answers == wider.answers[:20]
    assert [one.item for one in wider.answers] == load_items("lab")


def test_other_weights_are_asked_anew(tmp_path: Path) -> None:
    run = made(tmp_path)
    early, late = bench(run, asked(["lab"], limit=16), steps=(0, 8))
    assert (early.fresh, late.fresh) == (16, 16) and early.answers != late.answers
    with run.records() as records:
        assert benched(records) == {"lab": [0, 8]}
        assert dict.fromkeys(name for name in records.metric_names() if name.startswith("bench/lab/")).keys() >= {
            "bench/lab/acc",
            "bench/lab/acc_norm",
            "bench/lab/items",
        }


def _bench_and_die(path: Path, after: int) -> None:
    """Killed by the kernel before batch `after` is written."""
    commits = Records.add_now
    seen = 0

    def add_now(self: Records, *rows: Any) -> None:
        nonlocal seen
        if isinstance(rows[0], Row):
            if seen == after:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1
        commits(self, *rows)

    Records.add_now = add_now  # type: ignore[method-assign]
    bench(Run.open(path), asked(["lab"], limit=10), with_reasons=True)


def test_a_bench_that_was_killed_goes_on_without_asking_again_and_comes_to_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    monkeypatch.setattr(benchmarking, "BATCH", 4)
    monkeypatch.setattr(reasoning, "BATCH", 4)
    whole, killed = made(tmp_path / "a", (8,)), made(tmp_path / "b", (8,))
    bench(whole, asked(["lab"], limit=10), with_reasons=True)
    for after in (2, 2, 4):  # in the answers, in the admission tests, in the reasons: 3 batches of each
        child = multiprocessing.get_context("fork").Process(target=_bench_and_die, args=(killed.path, after))
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
    before = content(killed)
    scored: list[str] = []
    score = benchmarking.score

    def watched(model: Any, words: Any, items: Any, text: Any = None) -> Any:
        scored.extend(item.id for item in items)
        return score(model, words, items, text)

    monkeypatch.setattr(benchmarking, "score", watched)
    bench(killed, asked(["lab"], limit=10), with_reasons=True)
    after_all = content(killed)
    assert before.items() <= after_all.items() and len(before) < len(after_all)
    assert not scored, "all answers had been committed before the third kill"
    assert json.dumps(sorted(after_all.items())) == json.dumps(sorted(content(whole).items()))


def test_reasons_have_every_control_and_every_scorer(tmp_path: Path, quick: None) -> None:
    run = made(tmp_path)
    bench(run, asked(["lab"], limit=6), with_reasons=True)
    with run.records() as records:
        found = reasoned(records, "lab", 8)
        assert admissions(records, 8).keys() == SCORERS.keys()
        answers = {one.item.id: one for one in answered(records, "lab", 8)}
    assert len(found) == 6
    for one in found:
        assert one.rationales.keys() == SOURCES.keys() and one.scores.keys() == SCORERS.keys()
        assert all(scores.keys() == SOURCES.keys() for scores in one.scores.values())
        assert one.chosen == answers[one.item].choice() != one.forced
        assert 0 <= one.first_choice < 4 and one.reference == "an untrained twin"
    assert len({one.rationales["own"] for one in found}) == 6


@pytest.mark.slow
def test_random_weights_admit_no_scorer(tmp_path: Path) -> None:
    run = made(tmp_path, (8,))
    bench(run, asked(["lab"], limit=1), with_reasons=True)
    with run.records() as records:
        tested = admissions(records, 8)
    assert not any(one.admitted for one in tested.values())
    assert all(one.good["real"].checks == 40 for one in tested.values())


def test_the_reference_checkpoints_rationales_are_a_control_where_there_is_one(tmp_path: Path, quick: None) -> None:
    run = made(tmp_path, (0, 8))
    run.update_config(load_config(file=run.path / "config.toml", overrides=["reference.step=0"]))
    bench(run, asked(["lab"], limit=3), with_reasons=True)
    with run.records() as records:
        assert {one.reference for one in reasoned(records, "lab", 8)} == {"step 0"}


def test_rationales_do_not_depend_on_the_batch_they_are_written_in(tmp_path: Path) -> None:
    run = made(tmp_path, (8,))
    model, words, items = run.model(), run.tokenizer(), load_items("lab", 5)
    prompts = [reason_first(item) for item in items]

    def drawn() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(at) for at in range(5)]

    together = write(model, words, prompts, drawn(), tokens=12)
    alone = [write(model, words, [prompts[at]], [drawn()[at]], tokens=12)[0] for at in range(5)]
    assert together == alone and all("\n" not in text for text in together)


def test_an_item_without_a_question_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    run, file = made(tmp_path, (8,)), tmp_path / "ends.jsonl"
    file.write_text('{"id": "a", "context": "The cat sat on the", "options": ["mat", "moon"], "gold": 0}\n')
    with pytest.raises(CannotReason, match="--with-reasons"):
        bench(run, asked([], [file]), with_reasons=True)
    assert not content(run)
    (result,) = bench(run, asked([], [file]))
    assert result.task == "ends" and len(result.answers) == 1


def test_a_file_named_like_a_benchmark_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "lab.jsonl"
    file.write_text('{"id": "a", "question": "Why?", "options": ["so", "not"], "gold": 0}\n')
    with pytest.raises(BadItems, match="Rename"):
        asked(["lab"], [file])


def test_a_rationale_stands_between_question_and_answer() -> None:
    item = load_items("lab", 1)[0]
    assert with_rationale(item, " it follows. ") == item.contexts[0].replace(
        "Answer:", "Reasoning: it follows.\nAnswer:"
    )
    assert with_rationale(item, "  ") == item.contexts[0]


def test_items_in_the_training_text_are_counted(tmp_path: Path, text_file: Path) -> None:
    file = tmp_path / "copied.jsonl"
    paragraphs = text_file.read_text(encoding="utf8").split("\n\n")
    items = [
        {"id": f"copied-{at}", "context": words, "options": ["yes", "no"], "gold": 0}
        for at, words in enumerate(paragraphs)
    ]
    file.write_text("\n".join(json.dumps(item) for item in items[:40]) + "\n")
    run = made_run(tmp_path, text=text_file, steps=(8,), n_ctx=160)
    run.update_manifest(data={"sources": "planted"})  # as a run has that was trained here
    (copied,) = bench(run, asked([], [file]))
    (own,) = bench(run, asked(["lab"], limit=4))
    shares = [one.contamination for one in copied.answers]
    assert all(share is not None and share > 0.5 for share in shares), "all but the validation slice stands there whole"
    assert sum(share is not None and share > 0.9 for share in shares) >= 0.5 * len(shares)
    assert all(one.contamination == 0 for one in own.answers)


@pytest.fixture(scope="module")
def runs(tiny_config: Callable[..., RunConfig], tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """The same eight steps without and with the attachment."""
    root = tmp_path_factory.mktemp("attached")
    short = ("train.steps=8", "optimizer.warmup_steps=3", "checkpoint.every=4", "evaluation.every=0", "probing.every=0")
    asking = ('evaluation.benchmarks=["lab"]', "evaluation.benchmarks_every=4", "evaluation.benchmark_items=6")
    made = []
    for name, more in (("plain", ()), ("asked", asking)):
        with start(tiny_config(*short, "understanding.every=0", *more), root, name) as session:
            session.records.end_segment(session.segment, session.step, train(session).reason)
            made.append(session.run)
    return made[0], made[1]


def test_the_attachment_answers_the_same_items_at_every_visit_and_moves_no_weight(runs: tuple[Run, Run]) -> None:
    plain, watched = runs
    with watched.records() as records:
        assert benched(records) == {"lab": [0, 1, 2, 4, 8]}
        answers = [answered(records, "lab", step) for step in (0, 4, 8)]
        assert [step for _, step, _ in records.series("bench/lab/acc")] == [0, 1, 2, 4, 8]
        assert not [event for event in records.events() if event.kind == "untestable"]
    assert all([one.item for one in found] == [one.item for one in answers[0]] for found in answers)
    assert answers[0] != answers[2]
    same = ("model.safetensors", "optimizer.safetensors", "generators", "corpus")
    assert {key: digest(plain)[key] for key in same} == {key: digest(watched)[key] for key in same}


def test_a_stored_checkpoint_answers_what_the_live_model_answered(runs: tuple[Run, Run]) -> None:
    with runs[1].records() as records:
        live = answered(records, "lab", 8)
    (stored,) = bench(runs[1], asked(["lab"], limit=6), contamination=False)
    assert stored.fresh == 0 and sorted(stored.answers, key=lambda one: one.item.id) == sorted(
        live, key=lambda one: one.item.id
    )


def test_an_unknown_benchmark_is_refused_before_the_first_step() -> None:
    from lab.benchmark_items import UnknownTask

    with pytest.raises(UnknownTask, match="lab"):
        Benchmarks(EvaluationConfig(benchmarks=("arc_hard",), benchmarks_every=5))


def test_an_asked_benchmark_keeps_the_order_of_its_items() -> None:
    (one,) = asked(["lab", "lab"], limit=7)
    assert one == Asked("lab", tuple(load_items("lab", 7)))


def test_rows_of_reasons_and_admissions_are_no_benchmarks_of_their_own(tmp_path: Path, quick: None) -> None:
    run = made(tmp_path, (8,))
    bench(run, asked(["lab"], limit=2), with_reasons=True)
    kinds = {task for _, task, _ in content(run)}
    assert kinds == {"lab", "lab" + REASONS, ADMISSION}
    with run.records() as records:
        assert benched(records) == {"lab": [8]}
