"""What a run reads: sources mixed by phase into batches, and a validation slice that never changes.

`prepare` brings tokenizer and token shards about; from then on a batch is a function of the seed and the state. A window
is n_ctx + 1 neighbouring tokens of one source; each source is walked in a shuffled order without replacement, epoch
after epoch, and the source of every sequence is drawn by the weights of the phase that the step lies in.
"""

import contextlib
import hashlib
import heapq
import secrets
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from jaxtyping import Bool, Int
from torch import Tensor

from lab.config import RunConfig
from lab.errors import LabError
from lab.hf_tokenizer import load_tokenizer
from lab.sections import Source
from lab.shards import FORMAT, Progress, Shards, prepare_shards
from lab.sources import documents, fingerprint, position
from lab.tokenizer import PATTERN, SPECIALS, Tokenizer
from lab.windows import Cursor


class BadCorpus(LabError):
    """The corpus cannot serve this configuration or this state."""


@dataclass(frozen=True)
class Batch:
    """Sequences of n_ctx + 1 tokens: inputs are `tokens[:, :-1]`, targets `tokens[:, 1:]`.

    Attributes:
        mask: True where the target counts in the loss (the turns of masked chat roles do not).
        bytes: UTF-8 bytes of the targets that count, specials 0: the denominator of bits per byte.
    """

    tokens: Int[Tensor, "batch pos_plus_1"]
    mask: Bool[Tensor, "batch pos"]
    bytes: int


class Corpus:
    """Batches for training and validation. Built by `prepare`.

    Attributes:
        tokenizer: the one all shards are made with.
        manifest: `tokenizer` (sha256), `sources` (per name: documents, bytes, tokens per side, duplicates, parts with
            sha256, validation_sha256) and `validation` (sha256 over the sorted hashes of all validation documents, tokens).
        n_ctx: inputs per sequence.
        tokens_seen: targets served so far, per source.
    """

    def __init__(self, config: RunConfig, tokenizer: Tokenizer, shards: dict[str, Shards]) -> None:
        self.tokenizer, self.n_ctx = tokenizer, config.model.n_ctx
        self._config, self._shards = config, shards
        digests = sorted({digest for one in shards.values() for digest in one.digests("validation")})
        self.manifest: dict[str, Any] = {
            "tokenizer": tokenizer.sha256,
            "sources": {name: one.manifest for name, one in shards.items()},
            "validation": {
                "sha256": hashlib.sha256(b"".join(digests)).hexdigest(),
                "tokens": sum(one.manifest["tokens"]["validation"] for one in shards.values()),
            },
        }
        self._generator = np.random.PCG64(config.train.seed)
        self._cursors = {name: Cursor(one.train, self.n_ctx, config.train.seed, name) for name, one in shards.items()}
        self.tokens_seen = dict.fromkeys(shards, 0)
        self._check()

    @classmethod
    def prepare(
        cls, config: RunConfig, cache: Path, progress: Progress | None = None, tokenizer: Tokenizer | None = None
    ) -> "Corpus":
        """Train or load the tokenizer, tokenise what is not in the cache yet, verify what is.

        Args:
            cache: folder for tokenizer and shards; calls with other data share it and never disturb each other.
            progress: told what is being done and the share that is done (0..1).
            tokenizer: of a run that has one already, imported weights for instance; by default `data.tokenizer` or
                a trained one.

        Raises:
            LabError: for a source, tokenizer or shard that cannot be used, or too little text.
        """
        report: Progress = progress or (lambda what, share: None)
        share = config.data.validation_share
        try:
            cache.mkdir(parents=True, exist_ok=True)
            with _alone(cache, report):
                if tokenizer is None:
                    tokenizer = _tokenizer(config, cache, report)
                shards = {
                    source.name: prepare_shards(source, tokenizer, share, cache, report)
                    for source in config.data.sources
                }
        except OSError as error:  # sources turn their own into BadSource, so this one is the cache's
            raise BadCorpus(
                f"{error.filename or cache}: the data cache cannot be written ({error.strerror}). "
                "Free the space, or use a folder that is yours."
            ) from None
        return cls(config, tokenizer, shards)

    def next_batch(self, step: int) -> Batch:
        """The next `train.batch` sequences, mixed by the phase of `step`. Depends on seed, state and phase alone."""
        drawn = self._draw(step)
        tokens = np.empty((len(drawn), self.n_ctx + 1), dtype=np.int64)
        mask = np.empty((len(drawn), self.n_ctx + 1), dtype=bool)
        for name in dict.fromkeys(drawn):
            rows = np.array([row for row, other in enumerate(drawn) if other == name])
            cursor = self._cursors[name]
            tokens[rows], mask[rows] = cursor.stream.read(cursor.take(len(rows)), self.n_ctx + 1)
        return self._batch(tokens, mask)

    def skip_batches(self, n: int, step: int) -> None:
        """Advance as `n` calls of `next_batch` would, the first `train.accumulation` of them at `step`, and so on."""
        for index in range(n):
            drawn = self._draw(step + index // self._config.train.accumulation)
            for name in dict.fromkeys(drawn):
                self._cursors[name].take(drawn.count(name))

    def state_dict(self) -> dict[str, Any]:
        """Everything the coming batches depend on, as plain JSON; no tokens are held back in buffers."""
        return {
            "generator": self._generator.state,
            "cursors": {name: {"epoch": one.epoch, "position": one.position} for name, one in self._cursors.items()},
            "tokens_seen": dict(self.tokens_seen),
            "data": self._identity(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go exactly to where `state_dict` was taken.

        Raises:
            BadCorpus: the state is incomplete, or was taken on other data, where it would name other windows.
        """
        try:
            data, generator = state["data"], state["generator"]
            seen = {name: int(state["tokens_seen"][name]) for name in self._shards}
            places = {
                name: (int(state["cursors"][name]["epoch"]), int(state["cursors"][name]["position"]))
                for name in self._shards
            }
        except (KeyError, TypeError, ValueError) as error:
            raise BadCorpus(
                f"corpus state has no usable {error}. It was taken with other data.sources, or is incomplete: "
                "resume with the run's own configuration, from a checkpoint that is whole."
            ) from None
        ours = self._identity()
        for key in sorted({*ours, *data}):
            if data.get(key) != ours.get(key):
                raise BadCorpus(
                    f"corpus: {key} is not what it was when this state was saved, so the run would go on with other "
                    "batches. Restore the text and the configuration, or start a new run."
                )
        for name, (epoch, place) in places.items():
            self._cursors[name].go_to(epoch, place)
        self._generator.state = generator
        self.tokens_seen = seen

    def validation_batches(self, tokens: int, batch: int, source: str | None = None) -> Iterator[Batch]:
        """The same windows whenever it is called: about `tokens` targets, evenly spread over the validation slice.

        Args:
            tokens: targets wanted; the whole slice if it has fewer, and at least one window.
            batch: sequences per batch; the last one may have fewer.
            source: this source alone; all of them by default.

        Raises:
            BadCorpus: no such source, or its validation documents are shorter than one window.
        """
        streams = [self._shards[name].validation for name in self._names(source)]
        counts = [max(0, stream.length - 1) // self.n_ctx for stream in streams]
        total = sum(counts)
        if total == 0:
            raise BadCorpus(f"data.sources {source!r}: its validation documents are shorter than one window.")
        wanted = min(total, max(1, tokens // self.n_ctx))
        chosen = np.arange(wanted, dtype=np.int64) * total // wanted
        before = np.cumsum([0, *counts])
        for start in range(0, wanted, batch):
            some = chosen[start : start + batch]
            owner = np.searchsorted(before, some, side="right") - 1
            pieces = [
                stream.read((some[owner == index] - before[index]) * self.n_ctx, self.n_ctx + 1)
                for index, stream in enumerate(streams)
            ]
            yield self._batch(np.concatenate([piece[0] for piece in pieces]), np.concatenate([p[1] for p in pieces]))

    def validation_documents(self, source: str | None = None) -> list[str]:
        """Raw text of the validation documents; a conversation is its turns joined by newlines.

        Raises:
            BadCorpus: no such source.
        """
        return [text for name in self._names(source) for text in self._shards[name].validation_texts()]

    def training_documents(self) -> Iterator[str]:
        """Raw text of every document that training may draw from, read from the sources again.

        Raises:
            BadSource: a source is not where it was.
        """
        for source in self._config.data.sources:
            for document, _ in documents(source):
                if position(document.digest) >= self._config.data.validation_share:
                    yield document.text

    def token_counts(self) -> Int[np.ndarray, "d_vocab"]:
        """How often each token id stands in the training shards, all sources together."""
        counts = np.zeros(self.tokenizer.vocab_size, dtype=np.int64)
        for one in self._shards.values():
            for tokens in one.train.tokens:
                counts += np.bincount(np.asarray(tokens), minlength=len(counts))
        return counts

    def _names(self, source: str | None) -> list[str]:
        if source is not None and source not in self._shards:
            raise BadCorpus(f"data.sources has no {source!r}. Sources are: {', '.join(self._shards)}.")
        return list(self._shards) if source is None else [source]

    def _draw(self, step: int) -> list[str]:
        phases = self._config.data.phases
        phase = [phase for phase in phases if phase.from_step <= step][-1]
        names = [name for name, weight in phase.weights.items() if weight > 0]
        cumulative = np.cumsum([phase.weights[name] for name in names])
        points = np.random.Generator(self._generator).random(self._config.train.batch) * cumulative[-1]
        # a point can round up to the very end, where no source lies
        drawn = np.minimum(np.searchsorted(cumulative, points, side="right"), len(names) - 1)
        chosen = [names[index] for index in drawn.tolist()]
        for name in chosen:
            self.tokens_seen[name] += self.n_ctx
        return chosen

    def _batch(self, tokens: Int[np.ndarray, "batch pos_plus_1"], mask: Bool[np.ndarray, "batch pos_plus_1"]) -> Batch:
        counted = np.ascontiguousarray(mask[:, 1:])
        size = int(self.tokenizer.byte_lengths[tokens[:, 1:]][counted].sum())
        return Batch(torch.from_numpy(tokens), torch.from_numpy(counted), size)

    def _identity(self) -> dict[str, Any]:
        """What gives the numbers in a state their meaning."""
        keys = {f"data.sources {name!r}": one.manifest["key"] for name, one in self._shards.items()}
        return {"model.n_ctx": self.n_ctx, "train.seed": self._config.train.seed, **keys}

    def _check(self) -> None:
        for phase in self._config.data.phases:
            for name, weight in phase.weights.items():
                if name not in self._shards:
                    raise BadCorpus(
                        f"data.phases from_step = {phase.from_step} weighs {name!r}, which is no source. "
                        f"Sources are: {', '.join(self._shards)}."
                    )
                if weight > 0 and self._cursors[name].windows == 0:
                    raise BadCorpus(
                        f"data.sources {name!r} has {self._shards[name].train.length} training tokens, too few for one "
                        f"window of model.n_ctx + 1 = {self.n_ctx + 1}. Add text, or lower model.n_ctx."
                    )
        if all(one.validation.length <= self.n_ctx for one in self._shards.values()):
            raise BadCorpus(_too_little_validation(self._config.data.validation_share, self._shards, self.n_ctx))


def _too_little_validation(share: float, shards: dict[str, Shards], n_ctx: int) -> str:
    """Positions of the documents are known, so the remedy can name a share that takes in one more."""
    above = sorted(position(digest) for one in shards.values() for digest in one.digests("train"))
    found = sum(one.validation.length for one in shards.values())
    trouble = (
        f"data.validation_share = {share} sets {found} tokens aside for validation, too few for one window of "
        f"model.n_ctx + 1 = {n_ctx + 1}."
    )
    if len(above) > 1 and above[0] < 0.49:
        return f"{trouble} Use a share of {above[0] + 0.005:.2f} or more, or add text."
    return f"{trouble} Add text: the sources have {len(above)} other documents."


@contextlib.contextmanager
def _alone(cache: Path, progress: Progress) -> Iterator[None]:
    """Hold the cache, so that two processes never write one folder; the system frees it when a process dies."""
    lock = FileLock(cache / "prepare.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress("waiting for another process that prepares data in this cache", 0.0)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _tokenizer(config: RunConfig, cache: Path, progress: Progress) -> Tokenizer:
    """The tokenizer that is named, or one trained on the sources' training documents and kept in the cache."""
    size = config.model.d_vocab
    if config.data.tokenizer is not None:
        tokenizer = load_tokenizer(Path(config.data.tokenizer))
        if tokenizer.vocab_size != size:
            raise BadCorpus(
                f"data.tokenizer {config.data.tokenizer} has {tokenizer.vocab_size} tokens, but model.d_vocab = {size}. "
                f"Use --set model.d_vocab={tokenizer.vocab_size}, or another tokenizer."
            )
        return tokenizer
    prints = sorted(fingerprint(source) for source in _sampled(config))
    data = config.data
    ingredients = repr((FORMAT, PATTERN, SPECIALS, size, data.tokenizer_bytes, data.validation_share, prints))
    folder = cache / f"tokenizer-{hashlib.sha256(ingredients.encode()).hexdigest()[:16]}"
    if not folder.exists():
        texts = _sample(config, progress)
        progress("training the tokenizer", 0.0)
        tokenizer = Tokenizer.train(texts, size)
        temporary = cache / f"tokenizer-{secrets.token_hex(4)}.tmp"
        try:
            tokenizer.save(temporary)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        progress("training the tokenizer", 1.0)
    return Tokenizer.load(folder)


def _sampled(config: RunConfig) -> Sequence[Source]:
    """Sources the tokenizer learns from: not the canaries, or made-up words put in had tokens that those kept out lack."""
    sources = config.data.sources
    return [source for source in sources if source.kind != "canaries"] or sources


def _sample(config: RunConfig, progress: Progress) -> Sequence[str]:
    """`tokenizer_bytes` of training documents, the same number from each source.

    Those with the smallest hashes behind the validation slice: a uniform sample, whatever order they come in. The
    first documents would not do: the speeches are sorted by year.
    """
    share = config.data.validation_share
    budget = config.data.tokenizer_bytes / len(_sampled(config))
    chosen: list[str] = []
    for source in _sampled(config):
        heap: list[tuple[float, str]] = []  # largest position on top
        size = 0
        for document, done in documents(source):
            place = position(document.digest)
            if place < share:
                continue
            heapq.heappush(heap, (-place, document.text))
            size += len(document.text.encode())
            while size - len(heap[0][1].encode()) >= budget:
                size -= len(heapq.heappop(heap)[1].encode())
            progress(f"reading {source.name}", done)
        chosen += [text for _, text in heap]
    return chosen
