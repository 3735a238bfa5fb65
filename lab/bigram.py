"""What a model must beat to have learned more than which token follows which: an interpolated token-bigram model.

Estimated on exactly the tokens that a run has seen, evaluated on the run's own validation slice.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lab.config import RunConfig
from lab.corpus import Batch, Corpus


@dataclass(frozen=True)
class Bigram:
    """Bigram counts with absolute discounting, interpolated with add-one unigrams (Ney et al. 1994).

    Attributes:
        pairs: sorted codes `previous * vocabulary + next` of the bigrams seen.
        counts: how often each was seen.
        discount: what every seen bigram gives up for unseen ones, n1 / (n1 + 2·n2).
    """

    vocabulary: int
    pairs: Int[np.ndarray, "bigram"]
    counts: Int[np.ndarray, "bigram"]
    unigram: Float[np.ndarray, "token"]
    context: Int[np.ndarray, "token"]
    followers: Int[np.ndarray, "token"]
    discount: float

    @classmethod
    def estimate(cls, batches: Iterable[Batch], vocabulary: int) -> "Bigram":
        """From the (input, target) pairs of batches, targets that do not count left out."""
        codes = np.concatenate([_codes(batch, vocabulary) for batch in batches])
        pairs, counts = np.unique(codes, return_counts=True)
        following = np.bincount(codes % vocabulary, minlength=vocabulary)
        once, twice = int((counts == 1).sum()), int((counts == 2).sum())
        return cls(
            vocabulary=vocabulary,
            pairs=pairs,
            counts=counts,
            unigram=(following + 1.0) / (following.sum() + vocabulary),
            context=np.bincount(codes // vocabulary, minlength=vocabulary),
            followers=np.bincount(pairs // vocabulary, minlength=vocabulary),
            discount=once / max(1, once + 2 * twice),
        )

    def surprisal(self, codes: Int[np.ndarray, "pair"]) -> Float[np.ndarray, "pair"]:
        """−ln p(next | previous) in nats, for codes `previous * vocabulary + next`."""
        previous, following = codes // self.vocabulary, codes % self.vocabulary
        where = np.searchsorted(self.pairs, codes).clip(max=len(self.pairs) - 1)
        seen = np.where(self.pairs[where] == codes, self.counts[where], 0)
        context = np.maximum(self.context[previous], 1)
        own = np.maximum(seen - self.discount, 0) / context
        # A previous token that was never seen leaves everything to the unigrams.
        spare = np.where(self.context[previous] > 0, self.discount * self.followers[previous] / context, 1.0)
        result: Float[np.ndarray, "pair"] = -np.log(own + spare * self.unigram[following])
        return result

    def bits_per_byte(self, batches: Iterable[Batch]) -> float:
        """On the targets that count, as the model's own evaluation counts them."""
        nats, size = 0.0, 0
        for batch in batches:
            nats += float(self.surprisal(_codes(batch, self.vocabulary)).sum())
            size += batch.bytes
        return nats / math.log(2) / max(1, size)


def bigram_bits_per_byte(config: RunConfig, corpus: Corpus, steps: int) -> float:
    """Validation bits per byte of a bigram model of the tokens that `steps` steps see. `corpus` is read from its start."""
    per_step = config.train.accumulation
    seen = (corpus.next_batch(step) for step in range(steps) for _ in range(per_step))
    model = Bigram.estimate(seen, config.model.d_vocab)
    return model.bits_per_byte(corpus.validation_batches(config.evaluation.tokens, config.train.batch))


def _codes(batch: Batch, vocabulary: int) -> Int[np.ndarray, "pair"]:
    tokens, mask = batch.tokens.numpy(), batch.mask.numpy()
    codes: Int[np.ndarray, "pair"] = (tokens[:, :-1] * vocabulary + tokens[:, 1:])[mask]
    return codes
