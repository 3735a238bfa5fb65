"""Blind review of answers: people say whether an option is defensible, its rationale supports it, and which option is best.

The rater sees question, options, the model's choice and its rationale: not the gold option, not whether the choice was right,
not a score. As many right as wrong answers are drawn, and of each as many whose rationale a scorer calls good as bad. What a
model wrote is data in every sheet: a cell that a spreadsheet would run as a formula is quoted.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.verdict_text import visible
from lab.benchmark_items import Item
from lab.durable import replace_file
from lab.errors import LabError
from lab.records import Records
from probes.behaviour.rates import wilson
from probes.behaviour.reasoning import SCORERS, SEED, echo
from probes.behaviour.two_by_two import OWN
from train.benchmark_records import admissions, answered, benched, reasoned

SHOWN = ("id", "question", "options", "chosen", "rationale")
ASKED = ("defensible", "supports", "best")
QUESTIONS = {
    "defensible": "could a careful person defend the chosen option? (yes, no)",
    "supports": "does the rationale give a reason for it? (yes, no)",
    "best": "the number of the option that you find best",
}
KINDS = {
    "valid alternative": "the wrong option can be defended",
    "interpretation mismatch": "it cannot, but the rationale supports it",
    "reasoning failure": "it cannot, and the rationale does not support it",
    "the key is not best": "the rater finds another option best than the key does",
}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


class BadReview(LabError):
    """Nothing to review, or a sheet that cannot be read."""


@dataclass(frozen=True)
class Drawn:
    """One answer to be rated, and what the rater is not shown."""

    task: str
    step: int
    item: Item
    chosen: int
    rationale: str
    good: bool

    @property
    def right(self) -> bool:
        return self.chosen == self.item.gold


@dataclass(frozen=True)
class Rating:
    """What a rater said of one item: `best` is an option's number, from 0."""

    defensible: bool
    supports: bool
    best: int


@dataclass(frozen=True)
class Rated:
    """All that one rater said, by item."""

    rater: str
    ratings: Mapping[str, Rating]


def draw(records: Records, task: str | None, step: int | None, sample: int, seed: int) -> list[Drawn]:
    """A stratified sample of answers with reasons, in an order that tells nothing.

    Raises:
        BadReview: no answers with reasons under this task and step.
    """
    steps = {name: found for name, found in benched(records).items() if task in (None, name)}
    for name, found in steps.items():
        for at in reversed(found if step is None else [step]):
            reasons = {one.item: one for one in reasoned(records, name, at)}
            if not reasons:
                continue
            scorer = next((SCORERS[id] for id, one in admissions(records, at).items() if one.admitted), SEED)
            everything = [
                Drawn(name, at, one.item, why.chosen, why.rationales[OWN], scorer.good(why.scores[scorer.id][OWN]))
                for one in answered(records, name, at)
                if (why := reasons.get(one.item.id)) is not None
            ]
            return _stratified(everything, sample, seed)
    raise BadReview(
        f"there are no answers with reasons{f' to {task}' if task else ''}{f' at step {step}' if step is not None else ''}. "
        "Ask for them first: lab bench RUN --with-reasons"
    )


def _stratified(everything: Sequence[Drawn], sample: int, seed: int) -> list[Drawn]:
    """In turns one of each stratum (right or wrong × good or bad), while there are any; then shuffled."""

    def order(one: Drawn) -> bytes:
        return hashlib.sha256(f"{seed}/{one.item.id}".encode()).digest()

    strata: dict[tuple[bool, bool], list[Drawn]] = {}
    for one in sorted(everything, key=order):
        strata.setdefault((one.right, one.good), []).append(one)
    taken: list[Drawn] = []
    while len(taken) < sample and any(strata.values()):
        for left in strata.values():
            if left and len(taken) < sample:
                taken.append(left.pop())
    return sorted(taken, key=order)


def file_of(evidence: Path, one: Drawn, rater: str) -> Path:
    """Where a rater's sheet is kept in a run, by the command and by the app. Raises BadReview: a name without letters."""
    name = _in_a_name(rater.strip())
    if not name.strip("-"):
        raise BadReview(f"{rater!r} is no name for a rater. Give one of letters and digits.")
    return evidence / f"review-{_in_a_name(one.task)}-{one.step}-{name}.csv"


def keep(evidence: Path, one: Drawn, rater: str, rows: Sequence[Mapping[str, str]]) -> Path:
    """Write a rater's sheet where it is kept. Raises BadReview."""
    file = file_of(evidence, one, rater)
    evidence.mkdir(exist_ok=True)
    write_csv(file, rows)
    return file


def sheets(evidence: Path, one: Drawn) -> list[Path]:
    """The sheets of all raters of these answers."""
    return sorted(evidence.glob(f"review-{_in_a_name(one.task)}-{one.step}-*.csv"))


def sheet(drawn: Sequence[Drawn]) -> list[dict[str, str]]:
    """Rows of the blind sheet, the rater's columns empty."""
    return [words_of(one, None) for one in drawn]


def ask(drawn: Sequence[Drawn], prompt: Callable[[str], str], say: Callable[[str], object]) -> list[dict[str, str]]:
    """The sheet filled in by asking; what is no answer is asked again."""
    rows = []
    for number, one in enumerate(drawn, start=1):
        row = _shown(one)
        say(f"\n{number} of {len(drawn)}\n{visible(row['question'])}\n{visible(row['options'])}")
        say(f"chosen: {row['chosen']}\nbecause: {visible(row['rationale'])}")
        for name, question in QUESTIONS.items():
            while (word := _normal(name, prompt(question), len(one.item.options))) is None:
                say("that is no answer to it")
            row[name] = word
        rows.append(row)
    return rows


def write_csv(file: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write a sheet, replacing what is there. Raises BadReview where the disk refuses."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=(*SHOWN, *ASKED))
    writer.writeheader()
    writer.writerows({name: _quoted(cell) for name, cell in row.items()} for row in rows)
    try:
        replace_file(file, text.getvalue().encode())
    except OSError as error:
        raise BadReview(f"{file}: cannot be written ({error.strerror or error}). Name another place.") from error


def read_ratings(file: Path, drawn: Sequence[Drawn]) -> Rated:
    """A filled-in sheet; rows without any answer are left out.

    Raises:
        BadReview: naming the line and what is wrong with it.
    """
    known = {one.item.id: one for one in drawn}
    try:
        rows = list(csv.DictReader(io.StringIO(file.read_text(encoding="utf8"), newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadReview(f"{file}: cannot be read ({error}). Give a sheet that lab review --out wrote.") from error
    ratings: dict[str, Rating] = {}
    for line, row in enumerate(rows, start=2):
        where = f"{file}: line {line}"
        missing = [name for name in ("id", *ASKED) if row.get(name) is None]
        if missing:
            raise BadReview(f"{where}: has no {missing[0]}. Keep the columns of the sheet.")
        if not any(row[name].strip() for name in ASKED):
            continue
        id = row["id"].removeprefix("'")
        if id not in known:
            raise BadReview(
                f"{where}: {id[:40]!r} is not in this sample. Use the same --task, --step, --sample and --seed."
            )
        if id in ratings:
            raise BadReview(f"{where}: {id[:40]!r} is rated twice. Keep one of the rows.")
        words = {name: _normal(name, row[name], len(known[id].item.options)) for name in ASKED}
        for name, word in words.items():
            if word is None:
                raise BadReview(f"{where}: {name} is {row[name][:40]!r}. It asks: {QUESTIONS[name]}.")
        ratings[id] = Rating(words["defensible"] == "yes", words["supports"] == "yes", int(words["best"] or 1) - 1)
    if not ratings:
        raise BadReview(f"{file}: no row is filled in. Write yes, no and a number into the last three columns.")
    return Rated(file.stem, ratings)


def kinds_of(one: Drawn, rating: Rating) -> list[str]:
    """What a rating makes of an answer: what a wrong one is, and whether the key is best."""
    wrong = (
        "valid alternative"
        if rating.defensible
        else "interpretation mismatch"
        if rating.supports
        else "reasoning failure"
    )
    return ([] if one.right else [wrong]) + (["the key is not best"] if rating.best != one.item.gold else [])


def words_of(one: Drawn, rating: Rating | None) -> dict[str, str]:
    """A row of the sheet, filled in where there is a rating."""
    if rating is None:
        return {**_shown(one), **dict.fromkeys(ASKED, "")}
    said = (*("yes" if part else "no" for part in (rating.defensible, rating.supports)), str(rating.best + 1))
    return {**_shown(one), **dict(zip(ASKED, said, strict=True))}


def summarise(rated: Rated, drawn: Sequence[Drawn]) -> dict[str, Any]:
    """Rates by one rater: of wrong answers with good and with bad rationales apart, as these were not drawn in proportion."""
    here = [(one, rated.ratings[one.item.id]) for one in drawn if one.item.id in rated.ratings]
    found: dict[str, Any] = {}
    for good in (True, False):
        wrong = [(one, rating) for one, rating in here if not one.right and one.good is good]
        counts = Counter(kind for one, rating in wrong for kind in kinds_of(one, rating))
        for kind in KINDS:
            if wrong:
                name = f"wrong, {'good' if good else 'bad'} rationale: {kind}"
                found[name] = asdict(wilson(counts[kind], len(wrong)))
    return {"rater": rated.rater, "items": len(here), "kinds": found}


def agree(rated: Sequence[Rated]) -> dict[str, float | None]:
    """Krippendorff's alpha of each question over the items that at least two rated; {} of one rater."""
    if len(rated) < 2:
        return {}
    found = {}
    for name in ASKED:
        by_item: dict[str, list[Any]] = {}
        for one in rated:
            for id, rating in one.ratings.items():
                by_item.setdefault(id, []).append(getattr(rating, name))
        found[name] = alpha(list(by_item.values()))
    return found


def alpha(units: Sequence[Sequence[Any]]) -> float | None:
    """Krippendorff's alpha for nominal values (2011), any number of raters, gaps allowed; None where all say one thing.

    >>> alpha([[1, 1], [1, 1], [2, 2], [2, 2]])
    1.0
    """
    pairable = [unit for unit in units if len(unit) > 1]
    totals = Counter(value for unit in pairable for value in unit)
    count = sum(totals.values())
    if len(totals) < 2:
        return None
    observed = sum(
        (len(unit) ** 2 - sum(times**2 for times in Counter(unit).values())) / (len(unit) - 1) for unit in pairable
    )
    expected = (count**2 - sum(times**2 for times in totals.values())) / (count - 1)
    return 1 - observed / expected


def _shown(one: Drawn) -> dict[str, str]:
    options = "; ".join(f"{number} {option}" for number, option in enumerate(one.item.options, start=1))
    chosen = f"{one.chosen + 1} {one.item.options[one.chosen]}"
    return {
        "id": one.item.id,
        "question": echo(one.item),
        "options": options,
        "chosen": chosen,
        "rationale": one.rationale,
    }


def _normal(name: str, answer: str, options: int) -> str | None:
    word = answer.strip().casefold()
    if name == "best":
        return word if word.isdecimal() and word.isascii() and 1 <= int(word) <= options else None
    return {"y": "yes", "yes": "yes", "n": "no", "no": "no"}.get(word)


def _in_a_name(text: str) -> str:
    """A task's or a rater's name as part of a file's: a task may come from a stranger's run."""
    return "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in text)[:40]


def _quoted(cell: str) -> str:
    return f"'{cell}" if cell.startswith(_FORMULA) else cell
