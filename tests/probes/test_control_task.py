"""Control tasks: memory of words is no skill, and context is."""

import dataclasses

import pytest
import torch
from torch import Tensor

from probes.layers.control_task import control_problem, selectivity, word_types
from probes.layers.fit import Problem, assign_folds, prepare, usable_bits
from tests.probes.toys import probe_set


def of_types(contextual: bool, types: int = 60, sentences: int = 300, words: int = 10) -> tuple[Problem, Tensor]:
    """Word types with an embedding each; the label is a matter of the type, or of context alone.

    Types are equally frequent and embedded alike, so any random label on them is as hard as any other.
    """
    generator = torch.Generator().manual_seed(0)
    n = sentences * words
    kind = torch.randint(types, (n,), generator=generator)
    x = 8 * torch.nn.functional.one_hot(kind, types).float()
    label = torch.randint(2, (types,), generator=generator)[kind]
    if contextual:
        label = torch.randint(2, (n,), generator=generator)
    x = torch.cat((x, 3.0 * contextual * label[:, None]), 1) + torch.randn(n, types + 1, generator=generator)
    sentence = torch.arange(sentences).repeat_interleave(words)
    return prepare("planted", x[None], label, sentence, assign_folds(sentences, 5), ("a", "b")), kind


def test_a_label_that_is_a_matter_of_the_word_alone_has_no_selectivity() -> None:
    problem, types = of_types(contextual=False)
    found = selectivity(problem, types, seeds=range(5))
    assert float(found.task.bits) > 0.3
    assert abs(float(found.bits)) < 0.06


def test_a_label_of_context_is_selective() -> None:
    problem, types = of_types(contextual=True)
    found = selectivity(problem, types)
    assert float(found.bits) > 0.1 and float(found.bits) < float(found.task.bits)


def test_the_gain_by_sentence_adds_up_to_the_bits_and_controls_share_the_words() -> None:
    problem, types = of_types(contextual=True)
    found = selectivity(problem, types, seeds=(3,))
    expected = usable_bits(problem).bits - usable_bits(control_problem(problem, types, 3)).bits
    torch.testing.assert_close(found.bits, expected)
    assert torch.equal(found.controls[0].words, found.words)
    assert sum(found.types.values()) >= 60 and set(found.types) == {"a", "b"}


def test_a_type_has_one_label_wherever_it_stands_and_another_seed_may_change_it() -> None:
    problem, types = of_types(contextual=False)
    control = control_problem(problem, types, seed=4)
    of_type: dict[int, set[int]] = {}
    for kind, label in zip(types[problem.word].tolist(), control.label.tolist(), strict=True):
        of_type.setdefault(kind, set()).add(label)
    assert all(len(labels) == 1 for labels in of_type.values())
    assert torch.equal(control.label, control_problem(problem, types, seed=4).label)
    assert not torch.equal(control.label, control_problem(problem, types, seed=5).label)


def test_control_labels_follow_the_shares_of_the_label() -> None:
    generator = torch.Generator().manual_seed(0)
    label = torch.multinomial(torch.tensor([0.6, 0.3, 0.1]), 4000, True, generator=generator)
    x = torch.randn(1, 4000, 4, generator=generator)
    problem = prepare("shares", x, label, torch.arange(400).repeat_interleave(10), assign_folds(400, 5), "abc")
    control = control_problem(problem, torch.arange(4000))
    shares = torch.bincount(control.label, minlength=3) / 4000
    assert shares.tolist() == pytest.approx([0.6, 0.3, 0.1], abs=0.03)


def test_types_are_the_token_of_the_label_and_for_the_next_word_the_token_to_come() -> None:
    given = probe_set()
    current, following = word_types(given, "class.current"), word_types(given, "class.next")
    for word, (s, p) in enumerate(zip(given.word_sentence, given.word_position, strict=True)):
        ids = given.tokens[s]
        assert current[word] == ids[p]
        assert following[word] == (ids[p + 1] if p + 1 < len(ids) else -1)


def test_controls_side_by_side_are_the_same_bit_for_bit_as_one_after_the_other() -> None:
    threads = torch.get_num_threads()
    problem, types = of_types(contextual=True)
    found = []
    for count in (1, 3):
        torch.set_num_threads(count)
        found.append(selectivity(dataclasses.replace(problem, memory={}), types, given_layer_0=True))
        assert torch.get_num_threads() == count
    torch.set_num_threads(threads)
    assert torch.equal(found[0].gain, found[1].gain)
    for one, other in zip(*(each.controls for each in found), strict=True):
        assert torch.equal(one.gain, other.gain) and torch.equal(one.penalty, other.penalty)
