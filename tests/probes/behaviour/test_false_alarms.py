"""How often each rule fires on what people wrote: the default corpus, and Markdown that installed packages carry.

Small counts in the default run; all of the corpus under `slow`, where every rule's rate is printed with its interval.
Thresholds are the rules' own: none was moved for these texts, and what misses its mark says so.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import pytest

from lab.tokenizer import Tokenizer
from probes.behaviour import structure
from probes.behaviour.loops import detect, examine, near_copies
from probes.behaviour.rates import Rate, wilson
from tests.probes.behaviour.texts import conversations, markdown_descriptions, passages_of, speech_passages

Record = Callable[[str, object], None]
LIST_ITEM = re.compile(r"^\s*(?:[•*+-]|\(?\d{1,3}[.)])\s+\S", re.MULTILINE)


def ordinary_passages() -> list[str]:
    return [*(document.text for document in conversations()), *speech_passages()]


def fired(texts: Sequence[str], tokenizer: Tokenizer) -> dict[str, Rate]:
    """Per loop rule, the share of texts in which it fired."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update({finding.rule for finding in examine(tokenizer.encode(text), text)})
    names = ("loops.tail-cycle", "loops.passing-cycle", "loops.seq-rep-4", "loops.zlib")
    return {name: wilson(counts[name], len(texts)) for name in names}


def windows(texts: Iterable[str], tokenizer: Tokenizer, length: int) -> list[list[int]]:
    """Stretches of `length` tokens one after the other, as an answer that ran out of tokens would end."""
    encoded = (tokenizer.encode(text) for text in texts)
    return [ids[at : at + length] for ids in encoded for at in range(0, len(ids) - length + 1, length)]


def show(record: Record, where: str, rates: dict[str, Rate]) -> None:
    for name, rate in rates.items():
        record(f"{where}, {name}", str(rate))
        print(f"{where}, {name}: {rate}")


def test_few_ordinary_passages_end_in_a_loop(tokenizer: Tokenizer) -> None:
    some = random.Random(0).sample(ordinary_passages(), 500)
    assert fired(some, tokenizer)["loops.tail-cycle"].value <= 0.002


def test_markdown_descriptions_end_in_no_loop_but_are_layout(tokenizer: Tokenizer) -> None:
    texts = markdown_descriptions()
    assert len(texts) >= 40
    assert wilson(sum(detect(tokenizer.encode(text)) is not None for text in texts), len(texts)).value <= 0.002
    assert wilson(sum(structure.read(text).is_structured for text in texts), len(texts)).value >= 0.4


def test_conversations_are_not_layout(record_property: Record) -> None:
    texts = [document.text for document in conversations()]
    rate = wilson(sum(structure.read(text).is_structured for text in texts), len(texts))
    show(record_property, "conversations", {"structure.layout": rate})
    assert rate.value <= 0.001


def test_only_speeches_that_hold_lists_are_layout(record_property: Record) -> None:
    """A miss of the mark of .1 %, as it is: .5 % of the speeches' passages, of addresses that were written and enumerate.

    They are lists, not prose; the passages without three list items in them keep the mark.
    """
    texts = speech_passages()
    layout = [text for text in texts if structure.read(text).is_structured]
    lists = [text for text in texts if len(LIST_ITEM.findall(text)) >= structure.FEWEST_LINES]
    rate, prose = wilson(len(layout), len(texts)), wilson(len(set(layout) - set(lists)), len(texts) - len(lists))
    show(record_property, "speeches", {"structure.layout": rate})
    show(record_property, f"speeches without the {len(lists)} passages that hold lists", {"structure.layout": prose})
    assert prose.value <= 0.001
    assert rate.value <= 0.01


def test_people_seldom_repeat_a_turn(tokenizer: Tokenizer) -> None:
    some = random.Random(0).sample(conversations(), 300)
    copies = [near_copies([tokenizer.encode(text) for _, text in one.messages]) for one in some]
    assert wilson(sum(map(bool, copies)), len(some)).value <= 0.01


@pytest.mark.slow
def test_all_ordinary_passages_by_every_rule(tokenizer: Tokenizer, record_property: Record) -> None:
    texts = ordinary_passages()
    assert len(texts) >= 2_000
    rates = fired(texts, tokenizer)
    show(record_property, f"{len(texts)} passages", rates)
    assert rates["loops.tail-cycle"].value <= 0.002
    assert rates["loops.tail-cycle"].hi <= 0.002


@pytest.mark.slow
@pytest.mark.parametrize("length", [128, 256])
def test_ordinary_text_cut_at_any_token_seldom_ends_in_a_loop(
    tokenizer: Tokenizer, record_property: Record, length: int
) -> None:
    """And there the soft rules are quiet as well: their limits were made for texts of this length."""
    cut = windows(ordinary_passages()[::5], tokenizer, length)
    rates = fired([tokenizer.decode(ids) for ids in cut], tokenizer)
    ends = wilson(sum(detect(ids) is not None for ids in cut), len(cut))
    show(record_property, f"stretches of {length} tokens", {**rates, "loops.tail-cycle": ends})
    assert ends.value <= 0.002
    assert max(rates["loops.seq-rep-4"].value, rates["loops.zlib"].value) <= 0.01


@pytest.mark.slow
def test_markdown_by_every_rule(tokenizer: Tokenizer, record_property: Record) -> None:
    """Whole descriptions and passages of them end in no loop. Cut at any token, they do: inside rulers and aligned blanks."""
    whole = markdown_descriptions()
    passages = [passage for text in whole for passage in passages_of(text)]
    for where, texts in ((f"{len(whole)} descriptions", whole), (f"{len(passages)} passages of them", passages)):
        rates = fired(texts, tokenizer)
        layout = wilson(sum(structure.read(text).is_structured for text in texts), len(texts))
        show(record_property, where, {**rates, "structure.layout": layout})
        assert rates["loops.tail-cycle"].value <= 0.002
        assert layout.value >= 0.4
    cut = windows(passages, tokenizer, 256)
    ends = wilson(sum(detect(ids) is not None for ids in cut), len(cut))
    show(record_property, "descriptions cut at every 256th token", {"loops.tail-cycle": ends})
    assert ends.value <= 0.12  # not the mark of .2 %: stated in `loops`, so that no view reads it as a model's failure


@pytest.mark.slow
def test_near_copies_in_all_conversations(tokenizer: Tokenizer, record_property: Record) -> None:
    turns = [[tokenizer.encode(text) for _, text in one.messages] for one in conversations()]
    copies = [near_copies(one) for one in turns]
    by_turn = wilson(sum(map(len, copies)), sum(map(len, turns)))
    by_conversation = wilson(sum(map(bool, copies)), len(copies))
    show(record_property, "turns", {"loops.turn-near-copy": by_turn})
    show(record_property, "conversations", {"loops.turn-near-copy": by_conversation})
    assert by_turn.value <= 0.001
