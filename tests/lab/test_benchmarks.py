"""Items, their files, and likelihoods with shared prefixes."""

import json
import random
from pathlib import Path

import pytest
import torch

from lab.benchmark_files import MOST_OPTIONS, BadItems, read_items
from lab.benchmark_items import Item, UnknownTask, in_order, load_items, task, tasks
from lab.benchmark_scoring import Request, likelihoods, requests
from lab.benchmark_trees import planted
from lab.benchmarks import METRICS, Answer, TrainingText, score
from lab.model import GPT, GPTConfig
from tests.contract import randomise
from tests.made_runs import VOCABULARY, tokenizer

GOOD = {"id": "sky", "question": "What colour is the sky?", "options": ["blue", "green"], "gold": 0}


def model(n_ctx: int = 96, seed: int = 3) -> GPT:
    made = GPT(GPTConfig(n_layers=2, d_model=32, n_heads=4, n_key_value_heads=2, n_ctx=n_ctx, d_vocab=VOCABULARY))
    randomise(made, seed=seed, gains=True)
    return made.eval()


def one_by_one(made: GPT, request: Request) -> list[float]:
    ids = (*request.context, *request.continuation)[-(made.cfg.n_ctx + 1) :]
    with torch.no_grad():
        logs = made(torch.tensor([ids[:-1]]))[0].log_softmax(-1)
    first = len(ids) - len(request.continuation)
    return [float(logs[at - 1, ids[at]]) for at in range(first, len(ids))]


# ------------------------------------------------------------------------------------------------------- likelihoods


def test_a_batch_with_shared_prefixes_gives_what_one_text_at_a_time_gives() -> None:
    made, drawn = model(), random.Random(1)
    stems = [tuple(drawn.randrange(300) for _ in range(length)) for length in (1, 2, 9, 30, 31, 60)]
    wanted = [
        Request(
            (*stem, *(drawn.randrange(300) for _ in range(extra))), tuple(drawn.randrange(300) for _ in range(size))
        )
        for stem in stems
        for extra in (0, 0, 3, 20)
        for size in (1, 4, 11)
    ]
    drawn.shuffle(wanted)
    found = likelihoods(made, wanted, batch_tokens=400)
    for request, one in zip(wanted, found, strict=True):
        assert one.tokens == pytest.approx(one_by_one(made, request), abs=2e-5)
        assert one.total == pytest.approx(sum(one.tokens)) and not one.truncated


def test_a_question_under_many_rationales_is_run_once_and_each_rationale_once_for_all_options() -> None:
    made, drawn = model(), random.Random(2)

    def some(size: int) -> tuple[int, ...]:
        return tuple(drawn.randrange(300) for _ in range(size))

    question, options = some(30), [some(3) for _ in range(4)]
    wanted = [
        Request((*question, *rationale), option) for rationale in [some(20) for _ in range(8)] for option in options
    ]
    for request, one in zip(wanted, likelihoods(made, wanted), strict=True):
        assert one.tokens == pytest.approx(one_by_one(made, request), abs=2e-5)
    texts = [(*one.context, *one.continuation[:-1]) for one in wanted]
    wide = GPT(GPTConfig(n_layers=1, d_model=512, n_heads=8, n_ctx=96, d_vocab=8))
    (tree,) = planted(wide, texts)
    assert len(tree.tokens) <= 30 + 8 * 20 + len(texts) * 2  # one at a time: 32 × 52
    assert len(planted(made, texts)) > 1, "in a narrow model, comparing all with all costs more than the question again"


def test_a_listener_hears_every_text_and_what_it_changes_counts() -> None:
    made = model()
    wanted = [Request((5, 6, 7), (at, 9)) for at in range(6)]
    heard: list[int] = []

    def halve(value: torch.Tensor, hook: object) -> torch.Tensor:
        heard.append(value.shape[0])
        return value / 2

    plain = likelihoods(made, wanted)
    made.add_hook("blocks.1.hook_resid_pre", halve)
    changed = likelihoods(made, wanted)
    assert sum(heard) == len(wanted)
    for request, one in zip(wanted, changed, strict=True):
        assert one.tokens == pytest.approx(one_by_one(made, request), abs=2e-5)
    assert all(one.total != pytest.approx(other.total, abs=1e-3) for one, other in zip(plain, changed, strict=True))


def test_the_batch_a_text_stands_in_changes_its_likelihood_by_float_noise_only() -> None:
    made = model()
    wanted = [Request((5, at % 7, 9), (at, 11)) for at in range(70)]
    together, alone = likelihoods(made, wanted), [likelihoods(made, [one])[0] for one in wanted]
    assert [one.total for one in together] == pytest.approx([one.total for one in alone], abs=1e-5)
    assert [one.greedy for one in together] == [one.greedy for one in alone]


def test_a_context_that_is_too_long_loses_its_beginning_and_says_so() -> None:
    made = model(n_ctx=16)
    request = Request(tuple(range(40)), (7, 8, 9))
    (found,) = likelihoods(made, [request])
    assert found.truncated and found.tokens == pytest.approx(one_by_one(made, request), abs=1e-5)


def test_greedy_is_true_exactly_where_the_model_would_write_the_text() -> None:
    made = model()
    with torch.no_grad():
        likeliest = int(made(torch.tensor([[4, 5, 6]]))[0, -1].argmax())
    first, second = likelihoods(made, [Request((4, 5, 6), (likeliest,)), Request((4, 5, 6), ((likeliest + 1) % 300,))])
    assert first.greedy and not second.greedy


def test_spaces_at_the_end_of_a_context_are_scored_with_what_follows() -> None:
    words = tokenizer()
    moved, plain = requests(words, [("the dog ", "ran"), ("the dog", " ran")])
    assert moved == plain and moved.context[0] == words.bos


def test_scoring_changes_no_weight_and_draws_nothing() -> None:
    made = model()
    before = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    score(made, tokenizer(), load_items("lab", 4))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(before[name], tensor) for name, tensor in made.state_dict().items())


# ----------------------------------------------------------------------------------------------------------- counting


def answer(likelihood: tuple[float, ...], bare: tuple[float, ...], options: tuple[str, ...], gold: int = 0) -> Answer:
    item = Item("t", "i", ("Question: q\nAnswer:",) * len(options), options, gold)
    return Answer(item, likelihood, bare, ((),) * len(options), (False,) * len(options))


def test_each_way_of_counting_chooses_what_it_says() -> None:
    #                 sums            without the question   characters 2, 10, 5; bytes 2, 10, 10
    one = answer((-4.0, -9.0, -5.0), (-4.5, -20.0, -1.0), ("ab", "abcdefghij", "ééééé"))
    assert {metric: one.choice(metric) for metric in METRICS} == {
        "acc": 0,
        "acc_norm": 1,
        "acc_bytes": 2,
        "acc_unconditional": 1,
        "zero_prompt": 2,
    }


def test_one_option_alone_is_right_when_the_model_would_write_it() -> None:
    item = Item("t", "i", ("The cat sat on the",), ("mat",), 0)
    assert Answer(item, (-1.0,), (-2.0,), ((-1.0,),), (True,)).right()
    assert not Answer(item, (-0.1,), (-2.0,), ((-0.1,),), (False,)).right()
    assert item.chance == 0


def test_an_answer_comes_back_from_json_as_it_was() -> None:
    found = score(model(), tokenizer(), load_items("lab", 3))
    assert all(one is not None and Answer.from_json(json.loads(json.dumps(one.to_json()))) == one for one in found)


def test_an_item_with_an_option_longer_than_the_model_reads_is_left_out_alone() -> None:
    short, long = Item("t", "a", ("q",) * 2, ("x", "y"), 0), Item("t", "b", ("q",) * 2, ("x", "word " * 40), 0)
    first, second = score(model(n_ctx=16), tokenizer(), [short, long])
    assert first is not None and second is None


def test_an_item_copied_into_the_training_text_is_found_and_another_is_not() -> None:
    inside, outside = load_items("lab", 2)
    text = TrainingText(["Something else first.", f"{inside.contexts[0]} {inside.options[inside.gold]}, they said."])
    assert text.contamination(inside) == 1.0
    assert text.contamination(outside) == 0.0


# -------------------------------------------------------------------------------------------------------------- items


def test_our_own_items_are_sound() -> None:
    items = load_items("lab")
    assert len(items) == 40 and len({item.id for item in items}) == 40
    for item in items:
        assert len(set(item.options)) == 4 and item.options[item.gold].lower() in item.reason.lower()
    golds = [item.gold for item in items]
    assert all(golds.count(at) >= 6 for at in range(4)), "an answer that is always in the same place needs no question"


def test_the_first_n_items_are_among_the_first_2n_and_do_not_depend_on_the_order_of_the_file() -> None:
    items = load_items("lab")
    assert load_items("lab", 10) == items[:10] == in_order(reversed(items))[:10]


def test_an_unknown_benchmark_names_those_there_are() -> None:
    with pytest.raises(UnknownTask, match="arc_easy"):
        task("arc_hard")


@pytest.mark.parametrize("name", [name for name, one in tasks().items() if one.file and name != "hellaswag"])
def test_every_set_that_the_asset_ships_has_whole_items(name: str) -> None:
    from lab.assets import asset

    if not asset("benchmarks").present:
        pytest.skip("lab data get benchmarks")
    _whole(name)


@pytest.mark.slow
def test_hellaswag_has_whole_items() -> None:  # 10,042 of them, 3 s
    from lab.assets import asset

    if not asset("benchmarks").present:
        pytest.skip("lab data get benchmarks")
    _whole("hellaswag")


def _whole(name: str) -> None:
    items = load_items(name)
    assert len(items) >= 100
    for item in items:
        assert 0 <= item.gold < len(item.options) == len(item.contexts) and all(item.options) and all(item.contexts)
    assert max(len(item.options) for item in items) >= (1 if name == "lambada" else 2)


# -------------------------------------------------------------------------------------------------------------- files


def test_a_file_of_every_form_is_read(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    lines = [
        GOOD | {"subject": "nature", "reason": "It scatters blue."},
        {"id": 7, "context": "It rained, so I took my", "options": ["umbrella"], "gold": 0},
        {"sentence_good": "She runs.", "sentence_bad": "She run.", "UID": "agreement", "pairID": "3"},
    ]
    file.write_text("\n\n".join(json.dumps(line) for line in lines) + "\n")
    first, second, third = read_items(file)
    assert first == Item(
        "mine",
        "sky",
        ("Question: What colour is the sky?\nAnswer:",) * 2,
        ("blue", "green"),
        0,
        " ",
        "nature",
        "It scatters blue.",
    )
    assert (second.id, second.delimiter, second.stem) == ("7", " ", None)
    assert (third.contexts, third.options, third.delimiter) == (("", ""), ("She runs.", "She run."), "")


def line(**changes: object) -> str:
    return json.dumps({key: value for key, value in (GOOD | changes).items() if value != "absent"})


BAD = {
    "no gold": (line(gold="absent"), "has no gold"),
    "gold too large": (line(gold=2), "gold = 2, but there are options 0 to 1"),
    "gold negative": (line(gold=-1), "gold = -1"),
    "gold true": (line(gold=True), "gold is true or false"),
    "gold a text": (line(gold="0"), "gold is a text"),
    "gold 0.5": (line(gold=0.5), "gold is a number, not a whole number"),
    "the same id twice": (line() + "\n" + line(), "line 2: the id 'sky' is that of line 1 too"),
    "no id": (line(id="absent"), "has no id"),
    "empty id": (line(id=" "), "no short printable text"),
    "empty option": (line(options=["blue", " "]), "option 1 is empty"),
    "equal options": (line(options=["blue", "blue"]), "'blue' stands there twice"),
    "one option to a question": (line(options=["blue"]), "1 options, but an item has 2 to"),
    "too many options": (line(options=[str(n) for n in range(MOST_OPTIONS + 1)]), f"{MOST_OPTIONS + 1} options"),
    "options a text": (line(options="blue"), "options must be a list of texts, not a text"),
    "an option a number": (line(options=["blue", 4]), "option 1 is a number"),
    "no question": (line(question="absent"), "neither question nor context"),
    "question and context": (line(context="The sky is"), "both question and context"),
    "empty question": (line(question=""), "question is empty"),
    "huge question": (line(question="a " * 20_000), "but at most 20,000 are read"),
    "huge line": (line(question="a" * 1_100_000), "a line has at most 1,000,000"),
    "unknown key": (line(answer="blue"), "has 'answer'. Keys are"),
    "no JSON": (line()[:-5], "is not JSON"),
    "a key twice": (line()[:-1] + ', "gold": 1}', "a key stands there twice"),
    "NaN": (line()[:-1] + ', "subject": NaN}', "NaN is no JSON number"),
    "a list": ("[1, 2]", "is a list, not an object"),
    "a control character": (line(question="a\x07b"), "has a control character"),
    "half a character": (line(question="\ud800"), "half of a surrogate pair"),
    "wrong encoding": (line().encode().replace(b"colour", b"cou\xe9ur"), "is not UTF-8"),
    "UTF-16": (line().encode("utf-16"), "is UTF-16"),
    "compressed": (b"\x1f\x8b\x08\x00", "is compressed"),
    "nothing": ("\n\n", "holds no items"),
    "half a pair": ('{"sentence_good": "a b"}', "sentence_bad is missing"),
    "nested": ("[" * 100_000, "nested too deeply"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_by_line_and_reason(tmp_path: Path, case: str) -> None:
    content, reason = BAD[case]
    file = tmp_path / "bad.jsonl"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(BadItems) as refused:
        read_items(file)
    assert reason in str(refused.value) and (case == "nothing" or "line" in str(refused.value))


def test_a_pair_of_equal_sentences_asks_nothing_and_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    rows = [{"sentence_good": "It rains.", "sentence_bad": bad, "pairID": bad} for bad in ("It rains.", "It rain.")]
    file.write_text("\n".join(json.dumps(row) for row in rows))
    assert [item.options[1] for item in read_items(file)] == ["It rain."]


def test_at_least_25_kinds_of_bad_files_are_tried() -> None:
    assert len(BAD) >= 25


def test_a_folder_is_one_benchmark_with_a_subject_a_file(tmp_path: Path) -> None:
    for name in ("agreement", "islands"):
        (tmp_path / f"{name}.jsonl").write_text(line(id=f"{name}-1"))
    assert [item.subject for item in read_items(tmp_path)] == ["agreement", "islands"]
    with pytest.raises(BadItems, match=r"no \.jsonl file"):
        read_items(tmp_path.parent / "none" if (tmp_path.parent / "none").mkdir() is None else tmp_path)
