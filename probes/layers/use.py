"""The use reading: at which depth does the model need A, told by what erasing A costs A's tokens?

Amnesic probing (Elazar et al. 2021, arXiv:2006.00995) with LEACE: what can be read need not be used. The cost is the rise of
the next token's cross-entropy, less the rise under random subspaces of equal rank and equal removed variance. Layers,
sentences and subspaces are samples, and their numbers are part of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lab.errors import LabError
from probes.layers.ablate import Costs, erasure_costs
from probes.layers.adjust import Tokens
from probes.layers.collect import check_layers, residual_names
from probes.layers.erasers import Concept, Plan, fit_erasers
from probes.layers.evidence import Curve, Evidence, Side, Variant
from probes.layers.groups import (
    Chosen,
    Group,
    Unit,
    bare_sides,
    choose,
    half,
    resampling,
    too_few,
)
from probes.layers.intervals import REPLICATES, NoInterval, difference, interval
from probes.layers.lens import Head, check_head
from probes.layers.probe_set import ProbeSet
from probes.layers.problem import Untestable, one_thread

CONVENTION = "0 = blocks.0.hook_resid_pre, l = blocks.{l-1}.hook_resid_post, erased there; depth = layer / L"


def use(
    model: Any,
    exploration: ProbeSet,
    confirmation: ProbeSet,
    a: Concept,
    b: Concept | None,
    *,
    layers: int | Sequence[int] = 6,
    sentences: int = 100,
    subspaces: int = 5,
    fit_words: int = 8000,
    replicates: int = REPLICATES,
    seed: int = 0,
    unit: Unit | None = None,
    region: tuple[float, float] | None = None,
) -> Evidence:
    """How much deeper the cost of erasing B lies than that of erasing A.

    Erasers are fitted on labelled exploration words at each layer and applied at all positions of the confirmation
    sentences but outliers. With u the cost less the control, the depth is sum l·u⁺ / (L · sum u⁺) over the chosen layers.
    Replicates draw sentences (or documents) and, at each layer, random subspaces. Without B, the depth of A alone.

    Args:
        layers: which of 0..L, or how many of them, evenly spaced.
        sentences: of the confirmation set, at most; A and B are measured on the same ones, on equally many tokens.
        subspaces: random ones for each concept and layer.
        fit_words: labelled exploration words that fit an eraser, at most.
        region: of relative depth, for a claim about A alone: `p_in_region` is the share of replicates inside.

    Returns:
        Evidence "use". `Side.curve` is u by layer and `Side.gain` the largest u, its interval Bonferroni over layers, in
        nats. A concept that costs nowhere surely more than the control has no depth; the reason is in `untestable`.

    Raises:
        BadActivations: no residual hooks, no head, no way to start at a layer, or activations that are not finite.
        LabError: groups or labels do not fit their sets, or there is no subspace to compare with.
    """
    names = residual_names(model)
    depth = len(names) - 1
    at = check_layers(_spaced(layers, depth) if isinstance(layers, int) else layers, depth)
    concepts = (a,) if b is None else (a, b)
    _check(concepts, exploration, subspaces)
    settings: dict[str, Any] = {
        "layers": list(at),
        "sentences": sentences,
        "subspaces": subspaces,
        "fit_words": fit_words,
        "replicates": replicates,
        "seed": seed,
        "convention": CONVENTION,
    }
    groups = tuple(concept.group for concept in concepts)
    chosen = _choose(confirmation, groups, sentences, seed)
    sides = bare_sides(confirmation, groups, chosen.is_b, chosen.sentence)
    notes = chosen.notes()
    reasons = tuple(r for side in sides if (r := too_few(side.subject, side.words, side.sentences)))
    if reasons:
        return _evidence(sides, reasons, notes, settings)
    check_head(model, Head.of(model), confirmation.tokens[int(chosen.sentence[0])], names[-1])
    try:
        plan = fit_erasers(model, exploration, concepts, at, depth, subspaces, fit_words, seed)
    except Untestable as error:
        return _evidence(sides, (str(error),), notes, settings)
    costs = erasure_costs(model, confirmation, chosen.words, chosen.target, plan.erasers, plan.norm_limit)
    draw = resampling(confirmation, chosen.sentence, replicates, seed, unit)
    settings |= {"unit": draw.unit, "units": draw.units, "spared_positions": list(costs.spared.values())}
    with one_thread():
        tokens = Tokens(chosen.is_b, chosen.sentence, draw.weights)
        settings["cost"] = [_table(plan, costs, chosen.is_b, index, groups) for index in range(len(groups))]
        curves = [_curve(plan, costs, tokens, index, seed) for index in range(len(groups))]
        told = [_with_curve(side, curve, plan) for side, curve in zip(sides, curves, strict=True)]
        sides, reasons = tuple(side for side, _ in told), tuple(reason for _, reason in told if reason)
        if reasons:
            return _evidence(sides, reasons, notes, settings)
        centres = [_centre(curve, plan) for curve in curves]
        if b is None:
            found = _evidence(sides, (), notes, settings)
            return found if region is None else replace(found, p_in_region=_share_within(centres[0][1:], region))
        kept = torch.isin(tokens.sentence, half(tokens.sentence, seed))
        fewer = [_centre(_curve(plan, costs, tokens, index, seed, kept), plan) for index in range(2)]
        try:
            apart = centres[1] - centres[0]
            delta = difference(float(apart[0]), apart[1:], draw.unit, draw.units, "fixed")
        except NoInterval as error:
            return _evidence(sides, (str(error),), notes, settings)
        variants, more = _variant("half n", fewer[1] - fewer[0])
        return replace(_evidence(sides, (), (*notes, *more), settings), delta=delta, variants=variants)


def _check(concepts: Sequence[Concept], exploration: ProbeSet, subspaces: int) -> None:
    for concept in concepts:
        if len(concept.labels) != exploration.words:
            raise LabError(
                f"{concept.group.subject}: {len(concept.labels)} labels for {exploration.words} exploration words. "
                "Make them from the labels of that set."
            )
    if subspaces < 2:
        raise LabError(f"use: {subspaces} random subspaces. At least 2 are needed to know how much they differ.")


def _spaced(count: int, depth: int) -> tuple[int, ...]:
    """So many layers of 0..depth, both ends among them, as evenly as whole numbers allow."""
    if count < 2:
        raise LabError(f"use: {count} layers. A depth needs at least 2.")
    return tuple(sorted({round(step * depth / (count - 1)) for step in range(count)}))


def _choose(confirmation: ProbeSet, groups: tuple[Group, ...], sentences: int, seed: int) -> Chosen:
    """Words of both groups, equally many, in sentences drawn at random from those that have any."""
    sentence = torch.tensor(confirmation.word_sentence, dtype=torch.long)
    b = groups[1] if len(groups) > 1 else None
    every = choose(confirmation, groups[0], b, 2 * confirmation.words, seed)
    candidates = torch.unique(every.sentence)
    generator = torch.Generator().manual_seed(seed % 2**63)
    drawn = candidates[torch.randperm(len(candidates), generator=generator)[:sentences]]
    inside = torch.isin(sentence, drawn)
    within = tuple(replace(group, words=group.words & inside) for group in groups)
    return choose(confirmation, within[0], within[1] if b else None, 2 * confirmation.words, seed)


def _curve(
    plan: Plan, costs: Costs, tokens: Tokens, index: int, seed: int, kept: Bool[Tensor, "token"] | None = None
) -> Float[Tensor, "replicate_and_first layer"]:
    """u by layer: mean cost of the concept on its own tokens less that of the random subspaces, drawn anew as well."""
    own = (tokens.is_b == bool(index)) if kept is None else (tokens.is_b == bool(index)) & kept
    rows = slice(plan.first[index], plan.first[index] + plan.subspaces + 1)
    rise = torch.stack([costs.rise[layer][rows][:, own] for layer in plan.layers])  # [layer, 1 + subspace, token]
    flat = torch.cat((rise.flatten(0, 1), torch.ones(1, rise.shape[-1])))
    sums = tokens.select(own).resampled(flat.T)
    means = (sums[:, :-1] / sums[:, -1:]).reshape(len(sums), *rise.shape[:2])
    generator = torch.Generator().manual_seed((seed + plan.first[index]) % 2**63)
    drawn = torch.randint(plan.subspaces, (len(sums), len(plan.layers), plan.subspaces), generator=generator)
    drawn[0] = torch.arange(plan.subspaces)  # the value itself is of every subspace once
    return means[..., 0] - means[..., 1:].gather(2, drawn).mean(2)


def _centre(curve: Float[Tensor, "replicate_and_first layer"], plan: Plan) -> Float[Tensor, "replicate_and_first"]:
    """Relative depth of the cost's centre; NaN where no layer costs more than the control."""
    positive = curve.clamp(min=0)
    return positive @ torch.tensor(plan.layers, dtype=positive.dtype) / (plan.depth * positive.sum(1))


def _with_curve(side: Side, curve: Float[Tensor, "replicate_and_first layer"], plan: Plan) -> tuple[Side, str | None]:
    """The side with its costs, and with its depth or the reason why it has none."""
    bands = [interval(float(layer[0]), layer[1:]) for layer in curve.T]
    highest = int(curve[0].argmax())
    # The highest of several layers is high by chance too: each has its share of the 5 %.
    gain = interval(float(curve[0, highest]), curve[1:, highest], 1 - 0.05 / len(plan.layers))
    side = replace(
        side,
        curve=Curve(
            unit="nats",
            layers=plan.layers,
            value=tuple(band.value for band in bands),
            lo=tuple(band.lo for band in bands),
            hi=tuple(band.hi for band in bands),
        ),
        gain=gain,
    )
    if not gain.lo > 0:
        return side, (
            f"erasing {side.subject} costs its tokens nowhere surely more than random subspaces do: at most "
            f"{gain.value:.3f} [{gain.lo:.3f}, {gain.hi:.3f}] nats, at layer {plan.layers[highest]}"
        )
    centre = _centre(curve, plan)
    try:
        depth = interval(float(centre[0]), centre[1:])
    except NoInterval as error:
        return side, f"{side.subject}: {error}"
    return replace(side, depth=depth, peak=plan.layers[highest] / plan.depth), None


def _variant(name: str, apart: Float[Tensor, "replicate_and_first"]) -> tuple[tuple[Variant, ...], tuple[str, ...]]:
    try:
        told = interval(float(apart[0]), apart[1:])
    except NoInterval as error:
        return (), (f"{name} not told: {error}",)
    return (Variant(name, told.value, told.lo, told.hi),), ()


def _share_within(samples: Float[Tensor, "replicate"], region: tuple[float, float]) -> float:
    return float(((samples >= region[0]) & (samples <= region[1])).double().mean())


def _table(
    plan: Plan, costs: Costs, is_b: Bool[Tensor, "token"], index: int, groups: tuple[Group, ...]
) -> dict[str, Any]:
    """Cost of one concept's erasure by layer and word group, in nats, with what the control was."""
    at = plan.first[index]
    randoms = slice(at + 1, at + 1 + plan.subspaces)
    concept = [plan.erasers[layer][at] for layer in plan.layers]
    return {
        "subject": groups[index].subject,
        "rank": [eraser.rank for eraser in concept],
        "removed_variance": [eraser.removed for eraser in concept],
        "removed_variance_random": [
            sum(eraser.removed for eraser in plan.erasers[layer][randoms]) / plan.subspaces for layer in plan.layers
        ],
        "on": {
            group.subject: {
                "erased": [float(costs.rise[layer][at][is_b == bool(i)].mean()) for layer in plan.layers],
                "random": [float(costs.rise[layer][randoms][:, is_b == bool(i)].mean()) for layer in plan.layers],
            }
            for i, group in enumerate(groups)
        },
    }


def _evidence(
    sides: tuple[Side, ...], reasons: tuple[str, ...], notes: tuple[str, ...], settings: dict[str, Any]
) -> Evidence:
    b = sides[1] if len(sides) > 1 else None
    return Evidence("use", None, sides[0], b, untestable=reasons, notes=notes, settings=settings)
