"""Words with classes that a concept is found from: those of a label task, or of the subjects of a journal claim.

Both use held-out text of the run, the probe set of its probes where that has the labels, so that concepts and probes speak
of the same words. Sources that bring words or text of their own are in `concept_texts`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from lab.errors import LabError
from lab.run import Run
from probes.claims.vocabulary import SUBJECTS, Subject
from probes.layers import labels
from probes.layers.balance import binary
from probes.layers.families import LIVE
from probes.layers.lexicons import installed_concreteness
from probes.layers.problem import FEWEST_SENTENCES, FEWEST_WORDS, RARE_SENTENCES, RARE_WORDS
from probes.layers.tagging import FAMILIES as TAGGED
from probes.layers.tagging import SpacyTagger
from train.probing import Bench

LARGEST_FILE = 20_000_000  # bytes of a text file that a person names


class BadSource(LabError):
    """What a concept is to be found from cannot be used; the message says why and what would help."""


@dataclass(frozen=True)
class Labelled:
    """Words with classes.

    Attributes:
        label: class per word of the set, −1 = none.
        named: classes that were asked for by name, which must have words enough; none = rare ones are left out.
        of: the classes that the concept is about; the others are what it is told from ("other").
        held_out: its sentences are validation text of the run.
        grouped: sentences of one document must stay together whatever their number (the two prompts of a pair).
    """

    probe_set: labels.ProbeSet
    label: Int[Tensor, "word"]
    classes: tuple[str, ...]
    named: tuple[str, ...]
    of: tuple[str, ...]
    held_out: bool = True
    grouped: bool = False


@dataclass(frozen=True)
class Text:
    """Held-out text of a run.

    Attributes:
        take: sentences; None = as many as the run's probes use.
    """

    run: Run
    take: int | None = None

    @property
    def sentences(self) -> int:
        return self.take or self.run.config.probing.sentences

    def documents(self) -> list[str]:
        from train.session import corpus_of

        return corpus_of(self.run).validation_documents()

    def probe_set(self, families: Sequence[str] = LIVE) -> labels.ProbeSet:
        """The set of the run's probes, or one with more families or sentences, chosen by the same rule.

        Raises:
            BadProbeSet: too little text, or a stored set of another tokenizer.
        """
        run, config, tokenizer = self.run, self.run.config.probing, self.run.tokenizer()
        if not self.take and set(families) <= set(LIVE):
            return Bench.open(run, config, tokenizer, self.documents, store=False).probe_set
        known: dict[str, Any] = {}
        if "frequency" in families:
            from train.session import corpus_of

            known["frequencies"] = corpus_of(run).token_counts().tolist()
        if "concreteness" in families:
            known["concreteness"] = installed_concreteness()
        if TAGGED & set(families):
            known["tagger"] = SpacyTagger()
        wanted = {*LIVE, *families}
        n_ctx = run.config.model.n_ctx
        return labels.build(self.documents(), tokenizer, self.sentences, n_ctx, config.seed, families=wanted, **known)


# ------------------------------------------------------------------------------------------------------------ by label


@dataclass(frozen=True)
class Task:
    """A label of `probes.layers.families`, "class.next" say; with ":noun.animal" one class against all others.

    Attributes:
        classes: two or more of the label's classes; None = all that have words enough.
        origin: where the source is from (a claim), for the card.
    """

    task: str
    classes: tuple[str, ...] | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)

    def label(self, text: Text) -> Labelled:
        """
        Raises:
            BadSource: an unknown task or class, fewer than two classes, or labels that this text does not carry.
        """
        name, _, one = self.task.partition(":")
        if name not in labels.ALL_LABELS:
            raise BadSource(f"task {name!r} is none of ours. Tasks are: {', '.join(labels.ALL_LABELS)}.")
        if one and self.classes:
            raise BadSource(f"{self.task}: is one class against the rest already. Leave the class, or --classes, out.")
        if self.classes is not None and (len(self.classes) < 2 or len(set(self.classes)) < len(self.classes)):
            raise BadSource(
                f"--classes {','.join(self.classes)}: a concept is a difference between at least two classes, each named "
                f"once. For one class against all others: --task {name}:{self.classes[0] if self.classes else 'CLASS'}"
            )
        probe_set = text.probe_set((name.split(".")[0],))
        values, known = _labels_of(probe_set, name)
        if one:
            _check_known(name, (one,), known)
            found, pair = binary(values, known, one)
            return Labelled(probe_set, found, pair, pair, (one,))
        if self.classes is None:
            return Labelled(probe_set, values, known, (), known)
        _check_known(name, self.classes, known)
        wanted = [known.index(each) for each in self.classes]
        table = torch.full((len(known) + 1,), labels.NO_LABEL)  # the last entry serves NO_LABEL
        table[wanted] = torch.arange(len(wanted))
        return Labelled(probe_set, table[values], self.classes, self.classes, self.classes)

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": "task",
            "task": self.task,
            "classes": self.classes and list(self.classes),
            "origin": self.origin,
        }


@dataclass(frozen=True)
class Groups:
    """Words of one class of a family against words of another, of any family.

    Attributes:
        groups: (family, class) of either side.
        target: "next" = words that must be predicted, "current" = words read.
    """

    names: tuple[str, str]
    groups: tuple[tuple[str, str], tuple[str, str]]
    target: str
    origin: Mapping[str, Any] = field(default_factory=dict)

    def label(self, text: Text) -> Labelled:
        """
        Raises:
            BadSource, Untestable: labels that this text does not carry, or no word of a class.
        """
        probe_set = text.probe_set(tuple(dict.fromkeys(family for family, _ in self.groups)))
        of_a, of_b = (
            binary(*_labels_of(probe_set, f"{family}.{self.target}"), value)[0] == 1 for family, value in self.groups
        )
        both = of_a & of_b  # of both: counts for the smaller, as the more special ("animals" against "content words")
        label = torch.full((probe_set.words,), labels.NO_LABEL)
        label[of_a], label[of_b] = 0, 1
        label[both] = 0 if int(of_a.sum()) < int(of_b.sum()) else 1
        return Labelled(probe_set, label, self.names, self.names, self.names)

    def to_dict(self) -> dict[str, Any]:
        groups = [list(group) for group in self.groups]
        return {
            "kind": "groups",
            "names": list(self.names),
            "groups": groups,
            "target": self.target,
            "origin": self.origin,
        }


def of_claim(run: Run, claim: str, target: str = "next") -> Task | Groups:
    """The subjects of a claim in the journal: its A against its B, or A against the rest.

    Args:
        target: "next" as the decide and use readings of claims have it, or "current".

    Raises:
        BadSource: no such claim, or one about what no label task knows.
    """
    from lab.records import Claim

    with run.records() as records:
        rows = {row.id: row for row in records.rows(Claim)}
    row = rows.get(claim)
    if row is None:
        there = ", ".join(sorted(rows)[-12:]) or "none yet"
        raise BadSource(f"{run.name}: has no claim {claim!r}. Claims: {there}. See: lab journal ls {run.name}")
    subjects = [_subject(name) for name in (row.a, row.b) if name]
    if not subjects:
        raise BadSource(f"claim {claim}: names no subject that could be labelled: {row.text[:80]!r}")
    origin = {"claim": claim, "text": row.text}
    if len(subjects) == 1:
        a = subjects[0]
        alone = a.value is None or a.family == "class"  # two classes: one against the rest is the family itself
        return Task(f"{a.family}.{target}" + ("" if alone else f":{a.value}"), None, origin)
    a, b = subjects
    groups = _group_of(a), _group_of(b)
    if groups[0] == groups[1]:
        same = ": ".join(groups[0])
        raise BadSource(
            f"claim {claim}: {a.name} and {b.name} are the same words here ({same}); nothing tells them apart."
        )
    return Groups((a.name, b.name), groups, target, origin)


def check_classes(found: Labelled, label: Int[Tensor, "word"]) -> None:
    """Refuse a class that was asked for by name and has too few words, and words that are too few in all.

    Args:
        label: as `found.label`, outlier positions taken out.

    Raises:
        BadSource: naming the class and how many words it has.
    """
    sentence = torch.tensor(found.probe_set.word_sentence)
    way = "Use more held-out text: --take, with more sentences." if found.held_out else "Give more text of it."
    used = label[label >= 0]
    sentences = len(torch.unique(sentence[label >= 0]))
    for index, name in enumerate(found.classes):
        words = int((label == index).sum())
        inside = len(torch.unique(sentence[label == index]))
        if name in found.named and (words < RARE_WORDS or inside < RARE_SENTENCES):
            raise BadSource(
                f"class {name!r}: {words} words in {inside} sentences; a concept needs at least {RARE_WORDS} in "
                f"{RARE_SENTENCES}. {way}"
            )
    if len(used) < FEWEST_WORDS or sentences < FEWEST_SENTENCES:
        raise BadSource(
            f"{len(used)} words in {sentences} sentences have a class; a concept needs at least {FEWEST_WORDS} in "
            f"{FEWEST_SENTENCES} to be found and measured. {way}"
        )


# ------------------------------------------------------------------------------------------------------------- details


def _check_known(task: str, wanted: Sequence[str], known: Sequence[str]) -> None:
    for each in wanted:
        if each not in known:
            raise BadSource(f"class {each!r}: 0 words of {task} have it. Classes there: {', '.join(known) or 'none'}.")


def _labels_of(probe_set: labels.ProbeSet, task: str) -> tuple[Tensor, tuple[str, ...]]:
    if task not in probe_set.labels:
        why = probe_set.origin.get("absent", {}).get(task.split(".")[0], "this text does not carry it")
        raise BadSource(f"{task}: the run's held-out text has no such labels: {why}.")
    return torch.tensor(probe_set.labels[task], dtype=torch.long), tuple(probe_set.classes[task])


def _subject(name: str) -> Subject:
    if name not in SUBJECTS:
        raise BadSource(
            f"the claim is about {name!r}, which no label task knows. Use a claim about: {', '.join(sorted(SUBJECTS))}."
        )
    return SUBJECTS[name]


def _group_of(subject: Subject) -> tuple[str, str]:
    """(family, class) of the words that a subject means; "semantic concepts" are content words, as in the decide reading."""
    if subject.value is not None:
        return subject.family, subject.value
    if subject.words is None:
        raise BadSource(f"{subject.name}: names a distinction, not a group of words to set against another.")
    return "class", subject.words
