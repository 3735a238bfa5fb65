"""Does the model find a claim likelier than its reversal? Over paraphrases, and against a reference checkpoint.

A sentence that a model would as gladly turn round is no self-knowledge, whatever the layers show. The figure is the mean over
six wordings (`reversal`) of log P(claim) − log P(reversal), in nats a sentence after a neutral prefix (the beginning-of-text
token), with Student's t interval over wordings: they are few, and each is one independent try at putting it. Claim and
reversal hold the same tokens, so their number, length and frequency cancel. A preference that an early checkpoint has too
came with common usage, not with anything noticed since; so the same difference is taken there, by wording.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from lab.errors import LabError
from lab.model import GPT
from lab.tokenizer import Tokenizer
from probes.claims.grammar import Claim
from probes.claims.reversal import WORDINGS, wordings
from probes.layers.evidence import Interval
from probes.layers.problem import Untestable, one_thread

Scorer = Callable[[Sequence[str]], Sequence[float]]
_T95 = 2.5706  # two-sided 95 % point of Student's t with 5 degrees of freedom, one less than WORDINGS


class BadScores(LabError):
    """A scorer that does not give one finite log-probability a sentence."""


@dataclass(frozen=True)
class Preference:
    """Mean log-probabilities in nats a sentence; `difference` is claim less reversal, `reference` what it gained since.

    Attributes:
        paraphrases: sentences of the claim, mirrors included.
        prefers: by the 95 % interval of the difference.
    """

    claim_nats: float
    reversal_nats: float
    difference: Interval
    reference: Interval | None
    paraphrases: int
    prefers: Literal["claim", "reversal", "neither"]

    @property
    def self_knowledge(self) -> bool:
        """Whether a preference for the claim is there, and grew since the reference checkpoint where there is one.

        False means "no self-knowledge"; True only that this test does not rule it out.
        """
        return self.prefers == "claim" and (self.reference is None or self.reference.lo > 0)

    @property
    def text(self) -> str:
        if self.prefers == "reversal":
            return "No self-knowledge: the model finds the reverse likelier."
        if self.prefers == "neither":
            return "No self-knowledge: the model would as gladly say the reverse."
        if not self.self_knowledge:
            return (
                "No self-knowledge: the model prefers the claim, but surely no more than the reference checkpoint did."
            )
        since = " more than the reference checkpoint did" if self.reference else ""
        return f"The model prefers the claim to its reverse{since}; that is not yet knowledge of itself."

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "text": self.text}


def preference(claim: Claim, score: Scorer, reference: Scorer | None = None) -> Preference:
    """Whether the model prefers the claim to its reversal, and more than the reference checkpoint does.

    Args:
        claim: PARSED; its canonical subjects are used, not the words of the entry.
        score: log-probability of each sentence in nats, `sentence_scorer` of the checkpoint.
        reference: the same of the reference checkpoint.

    Raises:
        Untestable: the claim has no reversal.
        BadScores: a scorer gives other than one finite number a sentence.
    """
    pairs = wordings(claim)
    sentences = [text for pair in pairs for text in (*pair.claim, *pair.reversal)]
    mine = _by_wording(score, sentences)
    differences = [of_claim - of_reversal for of_claim, of_reversal in mine]
    gained = None
    if reference is not None:
        theirs = [of_claim - of_reversal for of_claim, of_reversal in _by_wording(reference, sentences)]
        gained = _interval([now - then for now, then in zip(differences, theirs, strict=True)])
    found = _interval(differences)
    return Preference(
        claim_nats=statistics.fmean(of_claim for of_claim, _ in mine),
        reversal_nats=statistics.fmean(of_reversal for _, of_reversal in mine),
        difference=found,
        reference=gained,
        paraphrases=2 * len(pairs),
        prefers="claim" if found.lo > 0 else "reversal" if found.hi < 0 else "neither",
    )


def sentence_scorer(model: GPT, tokenizer: Tokenizer) -> Scorer:
    """Log-probability of whole sentences after the beginning-of-text token, in nats; leaves the model as it was."""

    def score(sentences: Sequence[str]) -> list[float]:
        rows = [[tokenizer.bos, *tokenizer.encode(text)] for text in sentences]
        width = max(map(len, rows), default=0)
        if width > model.cfg.n_ctx:
            raise Untestable(f"a paraphrase has {width} tokens, the model reads {model.cfg.n_ctx}.")
        tokens = torch.tensor([row + [tokenizer.bos] * (width - len(row)) for row in rows], device=model.W_E.device)
        with torch.inference_mode(), one_thread():  # the padding is to the right, where causal attention never looks
            loss = model(tokens, return_type="loss", loss_per_token=True).double()
        return [-float(line[: len(row) - 1].sum()) for line, row in zip(loss, rows, strict=True)]

    return score


def _by_wording(score: Scorer, sentences: Sequence[str]) -> list[tuple[float, float]]:
    """Claim and reversal of each wording, each the mean of the sentence and its mirror."""
    scores = [float(value) for value in score(sentences)]
    if len(scores) != len(sentences) or not all(map(math.isfinite, scores)):
        raise BadScores(
            f"preference: {len(scores)} scores for {len(sentences)} sentences, all of which must be finite. "
            "Check the checkpoint's weights."
        )
    return [((one + two) / 2, (three + four) / 2) for one, two, three, four in zip(*[iter(scores)] * 4, strict=True)]


def _interval(values: Sequence[float]) -> Interval:
    if len(values) != WORDINGS:
        raise BadScores(f"preference: {len(values)} wordings, the interval is made for {WORDINGS}.")
    half = _T95 * statistics.stdev(values) / math.sqrt(len(values))
    value = statistics.fmean(values)
    return Interval(value, value - half, value + half)
