"""The proof of a freeze: looks at a parent, a branch and its twins in; eight measurements, a verdict and flags out.

M1 weights, M2 drift, M3 decisions, M4 the direction found again, M5 leak, M6 use, M7 cost. (M8, time and memory, is in the
run's records.) Pure: who trained what, and where it is kept, is `train.proving`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lab.concepts import Concept
from probes.concepts import rules
from probes.concepts.decisions import Decisions, decisions
from probes.concepts.drift import drift, drift_ratio
from probes.concepts.leak import Leak, Words, gain, leak
from probes.concepts.look import HeldOut, Look
from probes.concepts.losses import cost, use
from probes.concepts.refound import PENALTY, SPLITS, refound
from probes.layers.evidence import Interval
from probes.layers.fit import assign_folds
from probes.layers.intervals import REPLICATES, NoInterval, bootstrap_weights
from probes.layers.problem import Untestable

PARENT, BRANCH, UNFROZEN, RANDOM, LOWER = "parent", "branch", "unfrozen", "random", "lower"
TWINS = (UNFROZEN, RANDOM, LOWER)
FOLDS = 5
Json = dict[str, Any]


def prove(
    concept: Concept,
    text: HeldOut,
    looks: Mapping[str, Look],
    weights: Mapping[str, Mapping[str, float]],
    missing: Mapping[str, str],
    seed: int = 0,
    replicates: int = REPLICATES,
    splits: int | None = None,
) -> Json:
    """Measure and judge.

    Args:
        looks: "parent" and "branch", and those of the twins "unfrozen", "random" and "lower" that there are.
        weights: `drift.weight_drift` of the same models but the parent.
        missing: twins that are not there, and why.
        replicates, splits: of the bootstrap over documents; into halves, for M4.

    Returns:
        JSON-able: weights, drift, decisions, refound, leak, use, cost, each by model, and verdict, flags, reasons, undecided.

    Raises:
        Untestable: the looks were not taken on one text.
    """
    before, branch, twin = looks[PARENT], looks[BRANCH], looks.get(UNFROZEN)
    others = {name: one for name, one in looks.items() if name != PARENT}
    draws = bootstrap_weights(len(text.names), replicates, seed)
    document = before.coordinates.document
    moved = {name: drift(before.coordinates, one.coordinates, draws) for name, one in others.items()}
    ratio = drift_ratio(before.coordinates, branch.coordinates, twin.coordinates, draws) if twin else None
    decided_by = _decisions(concept, text, looks)
    absent = {one: f"there is no {one} twin: {missing.get(one, 'not trained')}" for one in TWINS if one not in looks}
    reasons: dict[str, str] = {}
    if twin is None:
        reasons["ratio"] = reasons[rules.LEAK] = absent[UNFROZEN]
    elif ratio is None:
        reasons["ratio"] = "the unfrozen twin has not moved at all"
    if RANDOM in absent:
        reasons[rules.COSTLY] = absent[RANDOM]
    words = _words(concept, text, seed)
    units = bootstrap_weights(words.documents, replicates, seed + 1)
    leaks, excess = _leaks(concept, looks, words, units, reasons)
    found = _refound(concept, others, before, words, (seed, splits or SPLITS), reasons)
    used = _use(text, looks, words, units, reasons)
    costs = {name: cost(branch.loss, one.loss, document, draws) for name, one in others.items() if name != BRANCH}
    facts = rules.Facts(
        weights=max(weights[BRANCH].values()),
        nrmse=moved[BRANCH].raw,
        worst=moved[BRANCH].worst,
        churn=decided_by[BRANCH].churn.value,
        ratio=ratio,
        leak=excess,
        drop=used[BRANCH].drop if used else None,
        cost=costs.get(RANDOM),
        stale=found[BRANCH].stale if found else None,
    )
    verdict = rules.judge(facts, reasons)
    return {
        "verdict": verdict.name,
        "flags": list(verdict.flags),
        "reasons": list(verdict.reasons),
        "undecided": dict(verdict.undecided),
        "missing": {one: absent[one] for one in absent},
        "text": _text(text, words),
        "weights": {name: {"largest": max(by.values()), "writers": dict(by)} for name, by in weights.items()},
        "drift": {name: asdict(one) | {"worst_document": text.names[one.worst_document]} for name, one in moved.items()}
        | {"ratio": _interval(ratio)},
        "decisions": {name: _decisions_json(one) for name, one in decided_by.items()},
        "refound": {name: asdict(one) for name, one in found.items()} if found else None,
        "leak": _leak_json(leaks, excess, units),
        "use": {name: asdict(one) for name, one in used.items()} if used else None,
        "cost": {name: asdict(one) for name, one in costs.items()},
        "loss": {name: float(one.loss.mean()) for name, one in looks.items()},
    }


def _words(concept: Concept, text: HeldOut, seed: int) -> Words:
    units = torch.tensor(text.words.units)
    sentences = len(text.words.sentences)
    few = len(torch.unique(units)) < 2 * FOLDS  # then whole documents cannot be kept in one fold
    return Words(
        label=text.label,
        classes=concept.classes,
        sentence=torch.tensor(text.words.word_sentence),
        fold=assign_folds(sentences, FOLDS, seed, None if few else units),
        document=torch.arange(sentences) if few else units,
    )


def _decisions(concept: Concept, text: HeldOut, looks: Mapping[str, Look]) -> dict[str, Decisions]:
    """On labelled words; on every held-out token where nothing is labelled."""
    known = text.label >= 0
    if concept.classes and bool(known.any()):
        basis = concept.basis.double()
        at = {name: one.at(concept.layer)[known].double() @ basis for name, one in looks.items()}
        return {name: decisions(concept, at[PARENT], own, text.label[known]) for name, own in at.items()}
    start = looks[PARENT].coordinates.values
    return {name: decisions(concept, start, one.coordinates.values, None) for name, one in looks.items()}


def _leaks(
    concept: Concept,
    looks: Mapping[str, Look],
    words: Words,
    units: Float[Tensor, "replicate document"],
    reasons: dict[str, str],
) -> tuple[dict[str, Leak], dict[int, Interval] | None]:
    try:
        leaks = {name: leak(one.features, one.layers, concept.basis, words) for name, one in looks.items()}
    except Untestable as error:
        reasons[rules.LEAK] = str(error)
        return {}, None
    if UNFROZEN not in leaks:
        return leaks, None
    over = gain(leaks[BRANCH].outside, leaks[UNFROZEN].outside, units)
    return leaks, dict(zip(leaks[BRANCH].layers, over, strict=True))


def _leak_json(leaks: Mapping[str, Leak], excess: Mapping[int, Interval] | None, units: Tensor) -> Json | None:
    if not leaks:
        return None
    start = leaks[PARENT]
    return {
        "layers": list(start.layers),
        "words": int(start.whole.right.shape[1]),
        "models": {
            name: {
                part: {"accuracy": list(refit.accuracy), "bits": list(refit.mean_bits)}
                for part, refit in (("whole", one.whole), ("outside", one.outside), ("erased", one.erased))
                if refit is not None
            }
            | {"gained": [asdict(found) for found in gain(one.outside, start.outside, units)]}
            for name, one in leaks.items()
        },
        "excess": None if excess is None else [asdict(found) for found in excess.values()],
    }


def _refound(
    concept: Concept,
    others: Mapping[str, Look],
    before: Look,
    words: Words,
    drawing: tuple[int, int],
    reasons: dict[str, str],
) -> dict[str, Any] | None:
    start = before.at(concept.layer)
    penalty = float(concept.details.get("penalty", PENALTY))
    try:
        return {
            name: refound(start, one.at(concept.layer), concept.basis, words, *drawing, penalty)
            for name, one in others.items()
        }
    except Untestable as error:
        reasons[rules.STALE] = str(error)
        return None


def _use(
    text: HeldOut, looks: Mapping[str, Look], words: Words, units: Tensor, reasons: dict[str, str]
) -> dict[str, Any] | None:
    if not len(text.used):
        reasons[rules.UNUSED] = "no held-out word carries the concept"
        return None
    document = words.document[words.sentence[text.used]]
    drawn = torch.zeros(words.documents, dtype=torch.float64)
    drawn[document] = 1.0
    some = units[(units.double() @ drawn) > 0]  # a draw without any of these tokens says nothing
    try:
        found = {name: use(looks[PARENT].rise, one.rise, document, some) for name, one in looks.items()}
    except (NoInterval, Untestable) as error:
        reasons[rules.UNUSED] = str(error)
        return None
    if found[BRANCH].drop is None:
        start = found[BRANCH].before
        reasons[rules.UNUSED] = (
            f"ablating V did not surely cost its tokens anything at the freeze ({start.value:.4f} "
            f"[{start.lo:.4f}, {start.hi:.4f}] nats), so there was no use that could drop"
        )
    return found


def _text(text: HeldOut, words: Words) -> Json:
    labelled = text.label >= 0
    return {
        "documents": len(text.names),
        "tokens": text.tokens,
        "labelled_words": int(labelled.sum()),
        "labelled_documents": len(torch.unique(words.document[words.sentence[labelled]])),
        "words_of_the_concept": len(text.used),
    }


def _decisions_json(one: Decisions) -> Json:
    return {
        "accuracy": None if one.accuracy is None else asdict(one.accuracy),
        "auroc": one.auroc,
        "churn": asdict(one.churn),
    }


def _interval(found: Interval | None) -> Json | None:
    return None if found is None else asdict(found)
