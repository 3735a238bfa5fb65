"""Reasons for benchmark answers: the model writes them, controls are made, and every scorer judges all of them alike.

The answer comes first, by likelihood, and the rationale after it; once more the rationale first and the answer after it. What
a scorer makes of texts that are no reasons for the answer stands in the same row (`probes.behaviour.two_by_two`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from lab.benchmark_items import OWN as OWN_TASK
from lab.benchmark_items import Item, load_items
from lab.benchmarks import Answer
from lab.model import GPT
from lab.records import Item as Row
from probes.behaviour.reasoning import SCORERS, Case, Reader, admit, asked_of, echo, of_others, words_shuffled
from probes.behaviour.two_by_two import OWN, SAME_SUBJECT
from train.benchmark_records import ADMISSION, REASONS, Reasons, done
from train.conversations import Scene, weights_mark
from train.generators import derived_generator
from train.prompts import canonical
from train.rationales import MAX_TOKENS, TEMPERATURE, CannotReason, ModelReader, reason_first, reason_for, write
from train.references import earlier_reference

PROTOCOL = "answer by likelihood, then a rationale; a rationale, then the answer, 2"
BATCH = 20  # items; they lend one another their rationales
Report = Callable[[str, float], None]


def check_questions(items: Sequence[Item]) -> None:
    """Raises CannotReason unless every item has a question that a rationale can answer."""
    bad = next((item for item in items if item.stem is None or len(item.options) < 2), None)
    if bad is not None:
        raise CannotReason(
            f"{bad.task}: its items are no questions with options, so nobody can be asked for a reason. Leave "
            f"{bad.task} out, or leave --with-reasons out."
        )


def reason(scene: Scene, task: str, answers: Sequence[Answer], report: Report | None = None) -> None:
    """Reasons for answers, batch by batch; batches that the records have are passed over."""
    say = report or (lambda what, share: None)
    check_questions([answer.item for answer in answers])
    reference, said_by = _reference(scene)
    key = canonical(
        {
            "protocol": PROTOCOL,
            "weights": weights_mark(scene.model, scene.step),
            "reference": weights_mark(reference, 0),
            "seed": scene.seed,
            "max_tokens": MAX_TOKENS,
            "temperature": TEMPERATURE,
            "scorers": {scorer.id: scorer.version for scorer in SCORERS.values()},
        }
    )
    reader = ModelReader(scene.model, scene.tokenizer)
    _admissions(scene, reader, key, say)
    known = done(scene.records, task + REASONS, scene.step, key)
    ordered = sorted(
        answers, key=lambda answer: answer.item.subject
    )  # stable: a batch is of one subject, where it can be
    for start in range(0, len(ordered), BATCH):
        batch = ordered[start : start + BATCH]
        if not all(answer.item.id in known for answer in batch):
            found = _reasons(scene, task, batch, reader, reference, said_by)
            new = [one for one in found if one.item not in known]
            scene.records.add_now(
                *(
                    Row(
                        step=scene.step, task=task + REASONS, item=one.item, data={"key": key, "reasons": one.to_json()}
                    )
                    for one in new
                )
            )
            reader.forget()
        say(f"reasons for {task} at step {scene.step}", min(1.0, (start + BATCH) / len(ordered)))


def _reasons(
    scene: Scene, task: str, answers: Sequence[Answer], reader: ModelReader, reference: GPT, said_by: str
) -> list[Reasons]:
    items = [answer.item for answer in answers]
    chosen = [answer.choice() for answer in answers]
    forced = [_another(scene.seed, item, choice) for item, choice in zip(items, chosen, strict=True)]

    prompts = {
        OWN: [reason_for(item, choice) for item, choice in zip(items, chosen, strict=True)],
        "first": [reason_first(item) for item in items],
        "forced": [reason_for(item, option) for item, option in zip(items, forced, strict=True)],
    }

    def written(model: GPT, kinds: Mapping[str, list[str]]) -> dict[str, list[str]]:
        generators = [
            derived_generator(scene.seed, f"bench/{task}/{item.id}/{kind}", scene.step)
            for kind in kinds
            for item in items
        ]
        said = iter(write(model, scene.tokenizer, [one for kind in kinds.values() for one in kind], generators))
        return {kind: [next(said) for _ in items] for kind in kinds}

    said = written(scene.model, prompts) | written(reference, {"reference": prompts[OWN]})
    own, first = said[OWN], said["first"]
    others = of_others(items, own)
    texts = {
        OWN: own,
        SAME_SUBJECT: [other[-1] if other else "" for other in others],
        "word-shuffled": [words_shuffled(text) for text in own],
        "echo": [echo(item) for item in items],
        "reference": said["reference"],
        "forced": said["forced"],
    }
    scores = judge(items, {source: forced if source == "forced" else chosen for source in texts}, texts, others, reader)
    read = reader([(item, text) for item, text in zip(items, first, strict=True)])
    return [
        Reasons(
            item=item.id,
            subject=item.subject,
            chosen=chosen[at],
            gold=item.gold,
            forced=forced[at],
            rationales={source: said[at] for source, said in texts.items()},
            scores={scorer: {source: found[at] for source, found in by.items()} for scorer, by in scores.items()},
            first=first[at],
            first_choice=max(range(len(item.options)), key=lambda option, at=at: read[at][option]),  # type: ignore[misc]
            reference=said_by,
        )
        for at, item in enumerate(items)
    ]


def judge(
    items: Sequence[Item],
    options: dict[str, list[int]],
    texts: dict[str, list[str]],
    others: Sequence[tuple[str, ...]],
    reader: Reader,
) -> dict[str, dict[str, list[float]]]:
    """Scores by scorer and source, a score an item.

    Args:
        options: by source, which option of each item the rationale is for.
        texts: by source, the rationale of each item.
    """
    cases = {
        source: [Case(*case) for case in zip(items, options[source], said, others, strict=True)]
        for source, said in texts.items()
    }
    # All at once: what every scorer will ask about an item is run after its question, which is run once.
    reader([(case.item, text) for some in cases.values() for case in some for text in asked_of(case)])
    return {
        scorer.id: {source: scorer.score(some, reader) for source, some in cases.items()} for scorer in SCORERS.values()
    }


def _another(seed: int, item: Item, chosen: int) -> int:
    """A random option that was not chosen."""
    left = [option for option in range(len(item.options)) if option != chosen]
    generator = derived_generator(seed, f"bench/{item.task}/{item.id}/forced option", 0)
    return left[int(torch.randint(len(left), (1,), generator=generator))]


def _reference(scene: Scene) -> tuple[GPT, str]:
    """The model whose rationales are a control: the reference checkpoint, or an untrained twin where there is none before."""
    found = earlier_reference(scene.run, scene.step)
    if found is not None:
        return scene.run.model(found.step).to(scene.model.W_E.device), f"step {found.step}"
    twin = GPT(scene.model.cfg, seed=scene.seed).to(scene.model.W_E.device)
    return twin.eval(), "an untrained twin"


def _admissions(scene: Scene, reader: ModelReader, key: str, say: Report) -> None:
    """Each scorer's admission test on our own items, with this model as the reader; once a checkpoint."""
    known = done(scene.records, ADMISSION, scene.step, key)
    items = load_items(OWN_TASK)
    for at, scorer in enumerate(SCORERS.values()):
        if scorer.id in known:
            continue
        say(f"admission test of {scorer.id}", at / len(SCORERS))
        found = admit(scorer, items, reader if scorer.read else None)
        data = {"key": key, "admission": found.to_json()}
        scene.records.add_now(Row(step=scene.step, task=ADMISSION, item=scorer.id, data=data))
    reader.forget()
