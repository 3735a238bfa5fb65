"""Words of a probe set as characters again, and probe sets from sentences that somebody chose.

`labels.build` chooses its own sentences; here the caller has them (word lists, sentence files, contrast prompts).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from probes.layers.alignment import align
from probes.layers.annotated import Sentence, plain
from probes.layers.labels import EncodesWithOffsets
from probes.layers.probe_set import BadProbeSet, ProbeSet

Characters = tuple[int, int]  # [start, end) of a word in its sentence


def unlabelled_set(sentences: Sequence[Sentence], tokenizer: EncodesWithOffsets, n_ctx: int) -> ProbeSet:
    """Tokens and word positions of these sentences, in this order, without labels; as `labels.build` lays them out.

    Raises:
        BadProbeSet: no sentence, or none with a word that has a token of its own.
    """
    dropped: Counter[str] = Counter()
    tokens: list[tuple[int, ...]] = []
    places: list[tuple[int, int]] = []
    for number, sentence in enumerate(sentences):
        ids, spans = tokenizer.encode_with_offsets(sentence.text)
        tokens.append((tokenizer.bos, *ids[: n_ctx - 1]))
        last = [place.last + 1 for place in align(sentence, spans, dropped).places]
        places += [(number, position) for position in last if position < n_ctx]
        dropped["words beyond the context"] += sum(position >= n_ctx for position in last)
    if not places:
        raise BadProbeSet(f"{len(sentences)} sentences without a word that could be labelled. Give text with words.")
    return ProbeSet(
        sentences=tuple(sentence.text for sentence in sentences),
        documents=tuple(sentence.document for sentence in sentences),
        tokens=tuple(tokens),
        word_sentence=tuple(number for number, _ in places),
        word_position=tuple(position for _, position in places),
        labels={},
        classes={},
        dropped=dict(sorted((+dropped).items())),
        origin={"tokenizer": tokenizer.sha256, "n_ctx": n_ctx, "selection": "as given"},
    )


def characters(probe_set: ProbeSet, tokenizer: EncodesWithOffsets) -> list[Characters]:
    """Where each word of the set stands in its sentence.

    A word that the rules for raw text cut otherwise (gold files have words of their own) is its last token.
    """
    found: list[dict[int, Characters]] = []
    last_token: list[list[Characters]] = []
    for text in probe_set.sentences:
        _, spans = tokenizer.encode_with_offsets(text)
        sentence = plain(text, "")
        places = align(sentence, spans, Counter()).places
        found.append({p.last + 1: (sentence.words[p.word].start, sentence.words[p.word].end) for p in places})
        last_token.append(spans)
    return [
        found[number].get(position) or last_token[number][position - 1]
        for number, position in zip(probe_set.word_sentence, probe_set.word_position, strict=True)
    ]
