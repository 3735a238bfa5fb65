"""What verdicts are made on: a checkpoint, its never-trained twin, and text that neither training nor journal has seen.

Exploration text (half of the validation documents, by hash) is for whatever is fitted beforehand: the lens, the erasers.
Confirmation text (the other half) decides, and sentences of it that stand in training text are taken out. Both are made
anew from the run's own text or from files a person names; the same run, step and options give the same material.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lab.corpus import Corpus
from lab.errors import LabError
from lab.model import GPT, GPTConfig
from lab.run import Run
from probes.claims.vocabulary import SUBJECTS, Subject
from probes.layers import labels
from probes.layers.annotated import GoldText
from probes.layers.balance import binary
from probes.layers.collect import Activations, collect
from probes.layers.compare import Labelled
from probes.layers.conllu import read_conllu
from probes.layers.evidence import Target
from probes.layers.families import PER_DOCUMENT_FAMILIES
from probes.layers.groups import Group
from probes.layers.lexicons import installed_concreteness
from probes.layers.probe_set import ProbeSet, restrict
from probes.layers.problem import Untestable
from probes.layers.splits import IN_TRAINING, sentence_key, split, unseen
from probes.layers.streusle import read_streusle
from probes.layers.tagging import SpacyTagger
from train.generators import derived_generator

SENTENCES = 1000  # of confirmation; 400 are the least for fixed-probe intervals, 1000 the target of the method
SPARE = 1.1  # one short sentence of conversation in thirty stands in training text too, and is taken out again
LAYER_CONVENTION = (
    "0 = embedding sum (blocks.0.hook_resid_pre), l = after block l, before the final norm; depth = layer / L"
)
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Material:
    """A checkpoint and the text to test claims about it on."""

    run: Run
    step: int
    checkpoint: str
    model: GPT
    twin_seed: int
    corpus: Corpus
    counts: Float[Tensor, "d_vocab"]
    exploration: ProbeSet
    confirmation: ProbeSet
    source: str

    def activations(self) -> Activations:
        """Of the model at the words of the confirmation set, every layer."""
        return collect(self.model, self.confirmation)

    @cached_property
    def twin(self) -> Activations:
        """The same of a model of this shape that was never trained; one twin for all checkpoints."""
        return collect(GPT(GPTConfig.from_config(self.run.config.model), seed=self.twin_seed), self.confirmation)

    @property
    def n_layers(self) -> int:
        return self.run.config.model.n_layers

    def corpus_summary(self, subjects: Collection[str]) -> dict[str, Any]:
        """The text, in numbers, and where the labels of these subjects come from."""
        found = self.confirmation
        sources: Mapping[str, str] = found.origin.get("labels", {})
        families = {SUBJECTS[name].family for name in subjects if name in SUBJECTS} | (
            {"class"} if any(SUBJECTS[name].words for name in subjects if name in SUBJECTS) else set()
        )
        used = {family: sources[family] for family in sorted(families) if family in sources}
        return {
            "source": self.source,
            "labels": used,
            "silver": any(source.startswith("silver") for source in used.values()),
            "documents": len(set(found.documents)),
            "sentences": len(found.sentences),
            "words": found.words,
            "exploration_sentences": len(self.exploration.sentences),
            "in_training": 0,
            "removed_as_in_training": found.dropped.get(IN_TRAINING, 0),
        }

    def inputs(self) -> dict[str, Any]:
        """Hashes of everything that a number here depends on."""
        return {
            "checkpoint": self.checkpoint,
            "twin_seed": self.twin_seed,
            "confirmation": self.confirmation.sha256,
            "exploration": self.exploration.sha256,
            "tokenizer": self.confirmation.origin["tokenizer"],
            "training_text": canonical(self.corpus.manifest["sources"]),
            "token_counts": hashlib.sha256(self.counts.numpy().tobytes()).hexdigest(),
        }

    def labelled(self, name: str, target: Target) -> Labelled:
        """The label that decodes a subject.

        Raises:
            Untestable: its family has no labels in this text, and why.
        """
        return Labelled(name, *_label(self.confirmation, _subject(name), target))

    def group(self, name: str) -> Group:
        """The words of the confirmation set whose next token the subject speaks of.

        Raises:
            Untestable: as `labelled`.
        """
        label, words = _next_words(self.confirmation, _subject(name))
        return Group(name, label, words)

    def erased(self, name: str) -> Int[Tensor, "word"]:
        """What tells the subject apart on exploration text: the labels that an eraser is fitted on."""
        return _label(self.exploration, _subject(name), "next")[1]


def gather(
    run: Run,
    step: int | None,
    sentences: int = SENTENCES,
    conllu: Sequence[Path] = (),
    streusle: Sequence[Path] = (),
    progress: Progress | None = None,
) -> Material:
    """Everything that claims are tested on; the same whatever is claimed, so that no claim's figures depend on another's.

    Args:
        sentences: how many of confirmation text are wanted; fewer if the text has fewer.
        conllu, streusle: gold files instead of the run's own validation text.

    Raises:
        LabError: too little text, a file that cannot be read, no such checkpoint.
    """
    from train.session import corpus_of

    report = progress or (lambda what, share: None)
    if sentences < 50:
        raise LabError(f"--sentences {sentences}: a verdict needs at least 50 sentences, better {SENTENCES}.")
    if conllu and streusle:
        raise LabError("--conllu and --streusle: give files of one kind, their labels differ.")
    info = run.checkpoint_info(step)
    report("reading the text", 0.0)
    corpus = corpus_of(run)
    counts = corpus.token_counts()
    asked = math.ceil(SPARE * sentences)
    families = set(labels.FAMILIES) - PER_DOCUMENT_FAMILIES  # topics of documents nobody gives here
    known: dict[str, Any] = {"frequencies": counts.tolist(), "concreteness": installed_concreteness()}
    n_ctx, tokenizer = run.config.model.n_ctx, run.tokenizer()
    sets: list[ProbeSet] = []
    if conllu or streusle:
        gold = _gold(conllu, streusle)
        for half in split(gold.documents):
            part, avoid = gold.only(half), _keys(sets)
            wanted = families | gold.families
            sets.append(
                labels.build_gold(part, tokenizer, asked, n_ctx, families=wanted, spread=True, avoid=avoid, **known)
            )
        source = gold.name
    else:
        known["tagger"] = _tagger()
        for half in split(corpus.validation_documents()):
            sets.append(
                labels.build(half, tokenizer, asked, n_ctx, families=families, spread=True, avoid=_keys(sets), **known)
            )
        source = "validation text of " + ", ".join(one.name for one in run.config.data.sources)
    report("looking for the text in training text", 0.2)
    confirmation = unseen(sets[1], corpus.training_documents())
    confirmation = restrict(confirmation, range(min(sentences, len(confirmation.sentences))), "sentences to spare")
    model = run.model(info.step)
    return Material(
        run=run,
        step=info.step,
        checkpoint=info.weights_sha256,
        model=model,
        twin_seed=derived_generator(run.config.train.seed, "twin", 0).initial_seed(),
        corpus=corpus,
        counts=torch.from_numpy(counts).double(),
        exploration=sets[0],
        confirmation=confirmation,
        source=source,
    )


@cache
def _tagger() -> SpacyTagger:
    """Loaded once a process, which takes three seconds."""
    return SpacyTagger()


def canonical(data: Any) -> str:
    """sha256 of data in one spelling."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _subject(name: str) -> Subject:
    if name not in SUBJECTS:
        raise Untestable(f"no label task is known for {name!r}.")
    return SUBJECTS[name]


def _label(probe_set: ProbeSet, subject: Subject, target: Target) -> tuple[str, Int[Tensor, "word"], tuple[str, ...]]:
    """Label name, class per word, class names: the family, or one class of it against the rest."""
    name = f"{subject.family}.{target}"
    if name not in probe_set.labels:
        absent: Mapping[str, str] = probe_set.origin.get("absent", {})
        if f"{subject.family}.current" in probe_set.labels:
            raise Untestable(f"{subject.name}: there is no label of the {target} word for {subject.family!r}.")
        why = absent.get(subject.family, "this text does not carry it")
        raise Untestable(f"{subject.name}: no labels of the family {subject.family!r}: {why}.")
    values = torch.tensor(probe_set.labels[name], dtype=torch.long)
    if subject.value is None or subject.family == "class":  # two classes: one against the rest is the family itself
        return name, values, tuple(probe_set.classes[name])
    found, classes = binary(values, probe_set.classes[name], subject.value)
    return f"{name}: {subject.value}", found, classes


def _next_words(probe_set: ProbeSet, subject: Subject) -> tuple[str, Tensor]:
    if subject.words is not None and subject.value is None:
        subject = replace(subject, family="class", value=subject.words)
    name = f"{subject.family}.next"
    if subject.value is None:
        raise Untestable(f"{subject.name}: names a distinction, not a group of words whose prediction could be timed.")
    _, values, classes = _label(probe_set, subject, "next")
    wanted = classes.index(subject.value) if subject.value in classes else 1
    return f"{name}: {subject.value}", values == wanted


def _keys(sets: Sequence[ProbeSet]) -> set[str]:
    """Sentences that are taken: one of exploration text must not come again in confirmation text."""
    return {sentence_key(text) for one in sets for text in one.sentences}


def _gold(conllu: Sequence[Path], streusle: Sequence[Path]) -> GoldText:
    """Several files of one kind as one text; labels that only some of them carry are not used."""
    read = [read_conllu(file) for file in conllu] + [read_streusle(file) for file in streusle]
    dropped: Counter[str] = Counter()
    for one in read:
        dropped.update(one.dropped)
    return GoldText(
        " + ".join(one.name for one in read),
        frozenset.intersection(*(one.families for one in read)),
        tuple(sentence for one in read for sentence in one.sentences),
        dropped,
    )
