"""The decide reading: at which depth is the next token settled, where it belongs to A and where it belongs to B?

Published for function words as a result of next-token lenses (Gupta et al. 2025, arXiv:2510.18871), where it is confounded:
early layers mostly predict frequent tokens, and function words are frequent. So the difference that counts is adjusted for
log frequency, surprisal and position, and shown beside the unadjusted one, a frequency-matched one, the hard depth and
the raw logit lens. "Settled" says nothing about where in the model a word is processed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lab.errors import LabError
from probes.layers.adjust import KNOT_QUANTILES, Estimate, Tokens, mean
from probes.layers.collect import collect, residual_names
from probes.layers.evidence import Difference, Evidence, Side, Variant
from probes.layers.groups import Group, Unit, bare_sides, choose, draw_words, half, only_words, resampling, too_few
from probes.layers.intervals import REPLICATES, NoInterval, difference, interval
from probes.layers.lens import LEAST_KL_BITS, LOGIT_LENS, Head, Lens, Reading, check_head, fit_ridge, read_tokens
from probes.layers.probe_set import ProbeSet
from probes.layers.problem import Untestable, one_thread
from probes.layers.settled import Settled, differences, settle, with_curve

LEAST_AGREEMENT = 0.5  # of the ridge lens one layer below the last with the final first choice
CONVENTION = "0 = blocks.0.hook_resid_pre, l = blocks.{l-1}.hook_resid_post, before the final norm; depth = layer / L"


def decide(
    model: Any,
    exploration: ProbeSet,
    confirmation: ProbeSet,
    group_a: Group,
    group_b: Group | None,
    frequencies: Float[Tensor, "d_vocab"],
    *,
    tokens: int = 4000,
    fit_words: int = 8000,
    replicates: int = REPLICATES,
    seed: int = 0,
    unit: Unit | None = None,
    region: tuple[float, float] | None = None,
) -> Evidence:
    """How much deeper next tokens of B are settled than those of A, frequency, surprisal and position held fixed.

    The ridge lens is fitted on words of the exploration set and applied to the confirmation set. Primary: soft depth by
    the ridge lens, difference adjusted by regression, bootstrap over documents (sentences where there are few). With no
    group B, the mean soft depth of A alone. "half n" is lens, tokens and sentences all halved.

    Args:
        group_a, group_b: words of the confirmation set, by the class of their next token.
        frequencies: how often each token id occurs in training text (or in text like it), any scale.
        tokens: at most this many are read, half of each group.
        fit_words: at most this many exploration words fit the ridge lens.
        region: of relative depth, for a claim about A alone: `p_in_region` is the share of replicates inside.

    Returns:
        Evidence "decide". The variants "raw" and "adjusted" are the unadjusted difference and `delta`, by the ridge lens;
        `settings` has, per lens and layer, cross-entropy in nats and agreement with the final first choice. What cannot
        be tested has its reason in `untestable`, and neither depth nor difference.

    Raises:
        BadActivations: the model has no residual hooks or no head that a lens could use, or is not finite.
        LabError: groups or frequencies do not fit the set or the model.
    """
    names, head = residual_names(model), Head.of(model)
    if frequencies.shape != (len(head.weight),) or not bool((frequencies >= 0).all()):
        raise LabError(
            f"decide: frequencies of shape {tuple(frequencies.shape)} for {len(head.weight)} tokens. "
            "Give a count of 0 or more for each token id."
        )
    groups = (group_a,) if group_b is None else (group_a, group_b)
    settings: dict[str, Any] = {
        "tokens": tokens,
        "fit_words": fit_words,
        "replicates": replicates,
        "seed": seed,
        "least_kl_bits": LEAST_KL_BITS,
        "spline_knots": list(KNOT_QUANTILES),
        "convention": CONVENTION,
    }
    chosen = choose(confirmation, group_a, group_b, tokens, seed)
    sides = bare_sides(confirmation, groups, chosen.is_b, chosen.sentence)
    if reasons := _too_few(sides):
        return _evidence(sides, reasons, chosen.notes(), settings)
    check_head(model, head, confirmation.tokens[int(chosen.sentence[0])], names[-1])
    try:
        whole, halved = _lenses(model, exploration, fit_words, seed)
    except Untestable as error:
        return _evidence(sides, (str(error),), chosen.notes(), settings)
    found = collect(model, only_words(confirmation, chosen.words))
    chosen.dropped["outlier positions"] = found.outliers
    ridge, logit = read_tokens(head, (whole, LOGIT_LENS), found.values, chosen.target)
    in_half = torch.isin(chosen.sentence, half(chosen.sentence, seed))
    (at_half,) = read_tokens(head, (halved,), found.values[:, in_half], chosen.target[in_half])
    draw = resampling(confirmation, chosen.sentence, replicates, seed, unit)
    with one_thread():
        every = Tokens(chosen.is_b, chosen.sentence, draw.weights)
        frequency = torch.log2((frequencies.double() + 0.5) / (frequencies.double() + 0.5).sum())[chosen.target]
        position = torch.tensor(confirmation.word_position, dtype=torch.long)[chosen.words]

        def settled(reading: Reading, rows: Tensor) -> Settled:
            part = every.select(rows), found.kept[rows], frequency[rows], position[rows]
            return settle(reading, *part, two_groups=group_b is not None, seed=seed)

        rows = torch.ones_like(in_half)
        primary, raw_lens, few = settled(ridge, rows), settled(logit, rows), settled(at_half, in_half)
        sides = bare_sides(confirmation, groups, primary.tokens.is_b, primary.tokens.sentence)
        settings |= {
            "unit": draw.unit,
            "units": draw.units,
            "settled_at_layer_0": int((~ridge.measurable).sum()),
            "clipped": primary.clipped,
            "lens": {"ridge": ridge.quality() | {"penalty": list(whole.penalty)}, "logit": logit.quality()},
        }
        notes = (
            *chosen.notes(),
            f"{settings['settled_at_layer_0']} tokens move by less than {LEAST_KL_BITS} bit and have no depth",
            f"{primary.clipped} of {len(primary.tokens.is_b)} soft depths beyond 1 were clipped",
        )
        reasons = (*_too_few(sides), *_unread(ridge))
        if reasons:
            return _evidence(sides, reasons, notes, settings)
        if group_b is None:
            sides = (with_curve(sides[0], primary, of_b=False),)
            alone = _evidence(sides, (), notes, settings)
            return alone if region is None else replace(alone, p_in_region=_share_within(primary, region))
        others = {"logit lens": (raw_lens, False), "logit lens, hard depth": (raw_lens, True), "half n": (few, False)}
        try:
            estimates, matching, remarks = differences(primary, others)
            delta, variants, lost = _told(estimates, draw.unit, draw.units)
        except (Untestable, NoInterval) as error:
            return _evidence(sides, (str(error),), notes, settings)
        sides = tuple(with_curve(side, primary, bool(index)) for index, side in enumerate(sides))
        evidence = _evidence(sides, (), (*notes, *remarks, *lost), settings | matching)
        return replace(evidence, delta=delta, variants=variants)


def _lenses(model: Any, exploration: ProbeSet, most: int, seed: int) -> tuple[Lens, Lens]:
    """The ridge lens on exploration words, and one on those of half the sentences."""
    words = draw_words(exploration, torch.ones(exploration.words, dtype=torch.bool), most, seed)
    if len(words) == 0:
        raise Untestable("ridge lens: the exploration set has no labelled words. Give it more exploration text.")
    found = collect(model, only_words(exploration, words))
    sentence = torch.tensor(exploration.word_sentence, dtype=torch.long)[words][found.kept]
    values = found.values if bool(found.kept.all()) else found.values[:, found.kept]
    in_half = torch.isin(sentence, half(sentence, seed))
    return fit_ridge(values, sentence, seed), fit_ridge(values[:, in_half], sentence[in_half], seed)


def _too_few(sides: tuple[Side, ...]) -> tuple[str, ...]:
    return tuple(reason for side in sides if (reason := too_few(side.subject, side.words, side.sentences)))


def _unread(ridge: Reading) -> tuple[str, ...]:
    """Why this lens reads too little of the model one layer below the last; empty where it reads enough."""
    agreement = float(ridge.agrees[-2].double().mean())
    if agreement >= LEAST_AGREEMENT:
        return ()
    return (
        f"the ridge lens one layer below the last has the final first choice for {agreement:.0%} of the tokens (at least "
        f"{LEAST_AGREEMENT:.0%} needed): it does not read this model",
    )


def _told(
    estimates: Mapping[str, Estimate], unit: str, units: int
) -> tuple[Difference, tuple[Variant, ...], tuple[str, ...]]:
    """The adjusted difference, every estimate with its interval, and those that have none."""
    adjusted = estimates["adjusted"]
    delta = difference(adjusted.value, adjusted.samples, unit, units, "fixed")
    variants, lost = [], []
    for name, estimate in estimates.items():
        try:
            one = interval(estimate.value, estimate.samples)
            variants.append(Variant(name, one.value, one.lo, one.hi))
        except NoInterval as error:
            lost.append(f"{name} not told: {error}")
    return delta, tuple(variants), tuple(lost)


def _share_within(settled: Settled, region: tuple[float, float]) -> float:
    depths = mean(settled.tokens, settled.reading.soft_depth, of_b=False).samples
    return float(((depths >= region[0]) & (depths <= region[1])).double().mean())


def _evidence(
    sides: tuple[Side, ...], reasons: tuple[str, ...], notes: tuple[str, ...], settings: dict[str, Any]
) -> Evidence:
    b = sides[1] if len(sides) > 1 else None
    return Evidence("decide", None, sides[0], b, untestable=reasons, notes=notes, settings=settings)
