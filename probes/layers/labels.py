"""A fixed set of sentences with labelled words: what every layer of every checkpoint is asked about.

From text to tokens, positions and labels. Nothing here touches a model; `collect` reads activations at these positions,
`fit` probes them. The set is plain data (`probe_set`); whoever owns the run writes it.

Conventions, the same in every artefact:

- a sentence is its own sequence, starting with the beginning-of-text token, cut to the model's context;
- a label sits at the position of its word's last sub-token (position 0, the beginning-of-text token, has none);
- `*.current` labels that word; `*.next` labels the word holding the *next token* of the text, which is what the model
  has to predict there. Where the next token is punctuation, a number or a clitic there is no `*.next` label;
- labels come from deterministic rules (a closed list of function words, WordNet's supersense of words that have exactly
  one, norms, counts), from gold files, or from a tagger; `origin["labels"]` says which, family by family. A family that
  was asked for and has no source is absent and `origin["absent"]` says why. No label is guessed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

from probes.layers.alignment import align
from probes.layers.annotated import GoldText, Sentence, checked, document_name, plain
from probes.layers.families import (
    FAMILIES,
    LIVE,
    PER_DOCUMENT_FAMILIES,
    Counts,
    Labelling,
    class_names,
    names_of,
)
from probes.layers.lexicons import Concreteness, supersense, word_class
from probes.layers.probe_set import NO_LABEL, BadProbeSet, ProbeSet, check, from_dict, restrict, to_dict
from probes.layers.selection import ORDERS, PER_DOCUMENT, WORDS_PER_SENTENCE, document_order, select
from probes.layers.tagging import FAMILIES as TAGGED
from probes.layers.tagging import Tagger, tagged
from probes.layers.text import split_sentences

__all__ = [
    "ALL_LABELS",
    "FAMILIES",
    "LABELS",
    "NO_LABEL",
    "BadProbeSet",
    "EncodesWithOffsets",
    "ProbeSet",
    "build",
    "build_gold",
    "check",
    "from_dict",
    "names_of",
    "restrict",
    "supersense",
    "to_dict",
    "word_class",
]

LABELS = names_of(LIVE)
ALL_LABELS = names_of(FAMILIES)


class EncodesWithOffsets(Protocol):
    """The part of a tokenizer that is needed: `lab.tokenizer.Tokenizer`, or any wrapper with these names."""

    @property
    def bos(self) -> int: ...
    @property
    def sha256(self) -> str: ...
    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]: ...


def build(
    documents: Sequence[str],
    tokenizer: EncodesWithOffsets,
    sentences: int,
    n_ctx: int,
    seed: int = 0,
    *,
    families: Collection[str] = LIVE,
    tagger: Tagger | None = None,
    frequencies: Counts | None = None,
    concreteness: Concreteness | None = None,
    topics: Sequence[str | None] | None = None,
    per_document: int = PER_DOCUMENT,
    spread: bool = False,
    avoid: Collection[str] = (),
) -> ProbeSet:
    """Choose and label a probe set from raw text; the same arguments give the same set on any machine.

    `selection.select` says which sentences are taken. All families live on the same sentences.

    Args:
        documents: raw validation text that no training shard holds.
        sentences: how many to choose; fewer are returned if the text has fewer.
        n_ctx: the model's context; sentences are cut to it, words beyond it are dropped and counted.
        families: of `FAMILIES`. "pos", "number", "tense" need `tagger`, "frequency" needs `frequencies` (how often each
            token id occurs in training text), "concreteness" its ratings, "topic" needs `topics`, one per document.
        per_document: most sentences that are considered from one document.
        spread: as many documents as possible: one sentence of each before the second of any.
        avoid: `splits.sentence_key` of sentences that must not be taken.

    Raises:
        BadProbeSet: fewer than 10 sentences could be found, an unknown family, or arguments that do not fit each other.
    """
    _check_arguments(families, sentences, per_document)
    if topics is not None and len(topics) != len(documents):
        raise BadProbeSet(f"topics: {len(topics)} for {len(documents)} documents. Give one per document, or None.")
    topic_of = dict(reversed(list(zip(documents, topics or (), strict=False))))  # of equal documents the first counts
    dropped: Counter[str] = Counter()
    ordered = ((text, _plain_sentences(text, topic_of.get(text))) for text in document_order(documents, seed))
    chosen = select(ordered, sentences, seed, per_document, spread, avoid, dropped)
    if len(chosen) < min(10, sentences):
        low, high = WORDS_PER_SENTENCE
        raise BadProbeSet(
            f"probing: the validation text has {len(chosen)} usable sentences ({low} to {high} words), too few to probe. "
            "Add text, raise data.validation_share, or switch probing off with probing.every = 0."
        )
    sources: dict[str, str] = {}
    if tagger is not None and TAGGED & set(families):
        chosen = tagged(chosen, tagger, dropped)
        sources = {family: f"silver: {tagger.name}" for family in sorted(TAGGED & set(families))}
    if any(sentence.topic is not None for sentence in chosen):
        sources["topic"] = "given with the documents"
    origin = {"tokenizer": tokenizer.sha256, "n_ctx": n_ctx, "seed": seed, "selection": ORDERS[spread]}
    return _assemble(chosen, tokenizer, n_ctx, families, sources, frequencies, concreteness, dropped, origin)


def build_gold(
    gold: GoldText,
    tokenizer: EncodesWithOffsets,
    sentences: int,
    n_ctx: int,
    seed: int = 0,
    *,
    families: Collection[str] | None = None,
    frequencies: Counts | None = None,
    concreteness: Concreteness | None = None,
    per_document: int = PER_DOCUMENT,
    spread: bool = True,
    avoid: Collection[str] = (),
) -> ProbeSet:
    """The same from sentences whose words and labels people gave; families that they did not label are by rule or absent.

    Args:
        gold: from `conllu.read_conllu`, `streusle.read_streusle` or `stories.stories`; one side of a split with `only`.
        families: by default those of the file and the two live ones.

    Raises:
        BadProbeSet: as `build`, or words that lie outside their text.
    """
    wanted = tuple(gold.families | set(LIVE)) if families is None else families
    _check_arguments(wanted, sentences, per_document)
    by_document: defaultdict[str, list[Sentence]] = defaultdict(list)
    for sentence in gold.sentences:
        by_document[sentence.document].append(checked(sentence))
    dropped: Counter[str] = Counter(gold.dropped)
    ordered = ((name, by_document[name]) for name in document_order(list(by_document), seed))
    chosen = select(ordered, sentences, seed, per_document, spread, avoid, dropped)
    if len(chosen) < min(10, sentences):
        low, high = WORDS_PER_SENTENCE
        raise BadProbeSet(
            f"{gold.name}: has {len(chosen)} usable sentences ({low} to {high} words), too few to probe. "
            "Give a longer file, or both halves of its documents."
        )
    sources = {family: f"gold: {gold.name}" for family in sorted(gold.families & set(wanted))}
    origin = {"tokenizer": tokenizer.sha256, "n_ctx": n_ctx, "seed": seed, "selection": ORDERS[spread]}
    return _assemble(chosen, tokenizer, n_ctx, wanted, sources, frequencies, concreteness, dropped, origin)


def _plain_sentences(document: str, topic: str | None) -> Iterator[Sentence]:
    name = document_name(document)
    return (plain(text, name, topic) for text in split_sentences(document))


def _assemble(
    chosen: Sequence[Sentence],
    tokenizer: EncodesWithOffsets,
    n_ctx: int,
    families: Collection[str],
    sources: Mapping[str, str],
    frequencies: Counts | None,
    concreteness: Concreteness | None,
    dropped: Counter[str],
    origin: dict[str, Any],
) -> ProbeSet:
    """Tokens, positions and labels of chosen sentences. `sources`: where the labels that words carry come from."""
    labelling = Labelling.of(families, sources, frequencies, concreteness)
    tokens: list[tuple[int, ...]] = []
    word_sentence: list[int] = []
    word_position: list[int] = []
    names: dict[str, list[str | None]] = {label: [] for label in names_of(labelling.by_family)}
    for index, sentence in enumerate(chosen):
        ids, spans = tokenizer.encode_with_offsets(sentence.text)
        tokens.append((tokenizer.bos, *ids[: n_ctx - 1]))
        alignment = align(sentence, spans, dropped)
        for place in alignment.places:
            if place.last + 1 >= n_ctx:
                dropped["words beyond the context"] += 1
                continue
            word_sentence.append(index)
            word_position.append(place.last + 1)
            targets = {"current": place.word, "next": place.following}
            for label, values in names.items():
                family, which = label.split(".")
                word = targets[which]
                pieces = () if word is None else [ids[token] for token in alignment.tokens[word]]
                values.append(None if word is None else labelling.by_family[family](sentence, word, pieces))
    classes = {label: class_names(label, names) for label in names}
    index_of = {label: {name: i for i, name in enumerate(classes[label])} for label in names}
    grouped = [label for label in names if label.split(".")[0] in PER_DOCUMENT_FAMILIES]
    return ProbeSet(
        sentences=tuple(sentence.text for sentence in chosen),
        documents=tuple(sentence.document for sentence in chosen),
        tokens=tuple(tokens),
        word_sentence=tuple(word_sentence),
        word_position=tuple(word_position),
        labels={
            label: tuple(NO_LABEL if name is None else index_of[label][name] for name in values)
            for label, values in names.items()
        },
        classes=classes,
        dropped=dict(sorted(dropped.items())),
        origin=origin
        | {
            "layers": "0 = blocks.0.hook_resid_pre, l = blocks.{l-1}.hook_resid_post",
            "labels": dict(labelling.sources),
            "absent": dict(labelling.absent),
            "constant_within_document": grouped,
        },
    )


def _check_arguments(families: Collection[str], sentences: int, per_document: int) -> None:
    unknown = sorted(set(families) - set(FAMILIES))
    if unknown or not families:
        raise BadProbeSet(
            f"label family {unknown[0] if unknown else 'none at all'!r} is not one of ours: {', '.join(FAMILIES)}."
        )
    if sentences < 1 or per_document < 1:
        raise BadProbeSet(
            f"probing: sentences = {sentences} and per_document = {per_document}; both must be 1 or more."
        )
