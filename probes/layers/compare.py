"""The decode reading: at what depth the bits about A and about B become linearly readable, like with like.

Both labels are of the same target (the word itself, or the next one), on equally many words of the same sentences, in the
same folds, drawn by the same bootstrap; the depth is that of the gain over a never-trained twin. The same comparison
without the twin and on half of the text rides along as variants, because either has been seen to turn the sign on a real
model. Guards read the curve as measured, the twin not taken off: a twin that decays with depth would lift a flat curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.layers import depth, intervals
from probes.layers.balance import equal_words, halve
from probes.layers.collect import Activations
from probes.layers.control_task import selectivity, word_types
from probes.layers.evidence import Curve, Difference, Evidence, Interval, Side, Target, Variant
from probes.layers.fit import Decoding, Problem, Untestable, conditional_bits, prepare, usable_bits
from probes.layers.groups import ENOUGH_DOCUMENTS
from probes.layers.intervals import Method, NoInterval
from probes.layers.probe_set import NO_LABEL, ProbeSet
from probes.layers.problem import RARE_SENTENCES, RARE_WORDS, assign_folds
from probes.layers.refit import refit_bits

FOLDS = 5
Statistic = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Labelled:
    """A label to read: whose it is, its name, and a class per word of the probe set (`NO_LABEL` where there is none)."""

    subject: str
    name: str
    label: Int[Tensor, "word"]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Bench:
    """What one comparison is made on: activations of the model and of its twin at the words of one probe set."""

    probe_set: ProbeSet
    model: Activations
    twin: Activations
    seed: int = 0
    replicates: int = intervals.REPLICATES
    refit_replicates: int = intervals.REFIT_REPLICATES

    @property
    def sentence(self) -> Int[Tensor, "word"]:
        return torch.tensor(self.probe_set.word_sentence, dtype=torch.long)

    @property
    def unit(self) -> tuple[str, Int[Tensor, "sentence"]]:
        """What is drawn in the bootstrap and kept whole in the folds: documents where there are enough of them."""
        documents = torch.tensor(self.probe_set.units, dtype=torch.long)
        if len(documents) and int(documents.max()) + 1 >= ENOUGH_DOCUMENTS:
            return "document", documents
        return "sentence", torch.arange(len(self.probe_set.sentences))

    @property
    def together(self) -> Int[Tensor, "sentence"]:
        """What stays in one fold: documents, unless they are so few that folds would differ much in size."""
        documents = torch.tensor(self.probe_set.units, dtype=torch.long)
        return documents if len(set(self.probe_set.units)) >= 4 * FOLDS else torch.arange(len(documents))


@dataclass(frozen=True)
class _Curve:
    """A curve on all the text and in every replicate: as measured, and with the probes' fitting loss given back."""

    measured: Float[Tensor, "layer"]
    samples: Float[Tensor, "replicate layer"]
    level: Float[Tensor, "layer"]
    level_samples: Float[Tensor, "replicate layer"]


@dataclass(frozen=True)
class _Read:
    """One label, read of the model and of its twin."""

    problem: Problem
    decoding: Decoding
    model: _Curve
    twin: _Curve

    @property
    def gain(self) -> tuple[Float[Tensor, "layer"], Float[Tensor, "replicate layer"]]:
        """Over the twin: what has a depth."""
        return self.model.level - self.twin.level, self.model.level_samples - self.twin.level_samples

    @property
    def alone(self) -> tuple[Float[Tensor, "layer"], Float[Tensor, "replicate layer"]]:
        return self.model.level, self.model.level_samples


def decode(
    bench: Bench, a: Labelled, b: Labelled | None, target: Target, region: tuple[float, float] | None = None
) -> Evidence:
    """Read A, and B if there is one, and say which comes first.

    Args:
        target: "current" reads what [h_0; h_l] adds to h_0, since layer 0 has a word's identity; "next" reads h_l alone.
        region: of a claim about A alone, its relative depths from and to.

    Returns:
        Evidence whose `untestable` says why there is no depth, where there is none; never raises for the data's sake.
    """
    given = target == "current"
    unit, _ = bench.unit
    sides = [a] if b is None else [a, b]
    reasons: list[str] = []
    settings = {
        "folds": FOLDS, "seed": bench.seed, "unit": unit, "given_layer_0": given, "layers": list(bench.model.layers)
    }  # fmt: skip
    try:
        labels = _comparable(bench, sides)
        if b is not None and (reason := depth.labels_overlap(_correlation(bench, a, b))):
            reasons.append(reason)
        drawn = _drawn(bench, labels)
        method: Method = "refit" if drawn < intervals.ENOUGH_UNITS else "fixed"
        read = [_read(bench, side, label, given, method) for side, label in zip(sides, labels, strict=True)]
    except Untestable as error:
        return Evidence("decode", target, _bare(a), None if b is None else _bare(b), untestable=(*reasons, str(error)))
    settings |= {"method": method, "units": drawn, "replicates": len(read[0].model.samples)}
    told = [_side(bench, side, label, one, method, given) for side, label, one in zip(sides, labels, read, strict=True)]
    for found, why in told:
        reasons += [f"{found.subject}: {reason}" for reason in why]
    rare = {side.name: len(one.decoding.rare) for side, one in zip(sides, read, strict=True)}
    notes = [f"{count} rare classes of {name} left out" for name, count in rare.items() if count]
    if bench.model.outliers:
        notes.append(f"{bench.model.outliers} words at outlier positions left out at every layer")
    if unit == "sentence":
        notes.append(f"sentences of {told[0][0].documents} documents are drawn as if independent, documents being few")
    delta: Difference | None = None
    variants: list[Variant] = []
    inside: float | None = None
    layers = bench.model.layers
    if not reasons and b is not None:
        try:
            apart = _apart(read, layers, lambda one: one.gain)
            delta = intervals.difference(*apart, unit, drawn, method)
        except NoInterval as error:
            reasons.append(str(error))
    if delta is not None:
        routes: dict[str, Callable[[], tuple[float, Tensor]]] = {
            "without twin": lambda: _apart(read, layers, lambda one: one.alone),
            "half n": lambda: _at_half(bench, sides, labels, given, method),
        }
        for name, route in routes.items():
            try:
                variants.append(_variant(name, *route(), method))
            except (NoInterval, Untestable) as error:
                notes.append(f"{name}: {error}")
    if not reasons and b is None and region is not None:
        value, samples = (depth.expected_depth(one, layers) for one in read[0].gain)
        depths = _centred(value, samples, method)
        inside = float(((depths >= region[0]) & (depths <= region[1])).double().mean())
    return Evidence(
        "decode", target, told[0][0], told[1][0] if b is not None else None, delta, inside, tuple(variants),
        untestable=tuple(reasons), notes=tuple(notes), settings=settings,
    )  # fmt: skip


def _comparable(bench: Bench, sides: Sequence[Labelled]) -> list[Int[Tensor, "word"]]:
    """Labels without outliers and rare classes, with equal numbers of words in every sentence.

    Taking words away can make a class rare, and leaving a class out can make numbers unequal: until neither changes.
    """
    labels = [torch.where(bench.model.kept & bench.twin.kept, side.label, NO_LABEL) for side in sides]
    while True:
        before = [label.clone() for label in labels]
        labels = [_without_rare(bench, label) for label in labels]
        if len(labels) == 2:
            labels = list(equal_words(labels[0], labels[1], bench.sentence, bench.seed))
        if all(torch.equal(old, new) for old, new in zip(before, labels, strict=True)):
            return labels


def _without_rare(bench: Bench, label: Int[Tensor, "word"]) -> Int[Tensor, "word"]:
    result = label.clone()
    for one in set(label.tolist()) - {NO_LABEL}:
        words = label == one
        if int(words.sum()) < RARE_WORDS or len(set(bench.sentence[words].tolist())) < RARE_SENTENCES:
            result[words] = NO_LABEL
    return result


def _drawn(bench: Bench, labels: Sequence[Int[Tensor, "word"]]) -> int:
    """How many units hold a labelled word."""
    _, units = bench.unit
    return len(set(units[bench.sentence[labels[0] != NO_LABEL]].tolist()))


def _problem(bench: Bench, side: Labelled, label: Int[Tensor, "word"], of: Activations) -> Problem:
    folds = assign_folds(len(bench.probe_set.sentences), FOLDS, bench.seed, bench.together)
    return prepare(side.name, of.values, label, bench.sentence, folds, side.classes, of.layers)


def _read(bench: Bench, side: Labelled, label: Int[Tensor, "word"], given: bool, method: Method) -> _Read:
    problems = [_problem(bench, side, label, of) for of in (bench.model, bench.twin)]
    decodings = [conditional_bits(problem) if given else usable_bits(problem) for problem in problems]
    curves = []
    for problem, decoding in zip(problems, decodings, strict=True):
        bits = decoding.bits.double()
        if method == "refit":
            samples = refit_bits(problem, _weights(bench, bench.refit_replicates), given)
            curves.append(_Curve(bits, samples, *intervals.unbiased(bits, samples)))
        else:
            samples = intervals.replicate_means(decoding.gain, decoding.words, _weights(bench, bench.replicates))
            curves.append(_Curve(bits, samples, bits, samples))
    return _Read(problems[0], decodings[0], *curves)


def _weights(bench: Bench, replicates: int) -> Float[Tensor, "replicate sentence"]:
    return intervals.bootstrap_weights(len(bench.probe_set.sentences), replicates, bench.seed, bench.unit[1])


def _side(
    bench: Bench, side: Labelled, label: Int[Tensor, "word"], read: _Read, method: Method, given: bool
) -> tuple[Side, list[str]]:
    """What was found of one subject, and the reasons why it has no depth."""
    layers = bench.model.layers
    measured, samples = read.model.measured, read.model.samples
    bands = [intervals.interval(float(v), s, method=method) for v, s in zip(measured, samples.T, strict=True)]
    gain = _interval(depth.total_gain, measured, samples, method)
    net = _interval(depth.net_gain, measured, samples, method)
    types = word_types(bench.probe_set, side.name.partition(":")[0])
    beyond = selectivity(read.problem, types, given_layer_0=given)
    best = int(measured.argmax())
    means = intervals.replicate_means(beyond.gain[best], beyond.words, _weights(bench, bench.replicates))
    selective = intervals.interval(float(beyond.bits[best]), means)
    share = float(depth.twin_share(measured, read.twin.measured))  # not finite where this model gains nothing
    reasons = [
        reason
        for reason in (
            depth.too_little_gain(gain),
            depth.ends_lower(net),
            depth.too_unselective(selective),
            depth.twin_has_it(share) if math.isfinite(share) else None,
        )
        if reason
    ]
    where: Interval | None = None
    half = top = None
    if not reasons:
        try:
            where = _interval(lambda g: depth.expected_depth(g, layers), *read.gain, method)
            half = float(depth.half_gain(read.gain[0], layers))
            top = float(depth.peak(beyond.bits, layers))
        except NoInterval as error:
            reasons.append(str(error))
    labelled = bench.sentence[label != NO_LABEL]
    sentences = set(labelled.tolist())
    curve = Curve(
        "usable bits per word" + (" beyond layer 0" if given else ""),
        layers,
        tuple(b.value for b in bands),
        tuple(b.lo for b in bands),
        tuple(b.hi for b in bands),
        tuple(read.twin.measured.tolist()),
    )
    documents = len({bench.probe_set.documents[s] for s in sentences})
    return (
        Side(
            side.subject, side.name, len(labelled), len(sentences), documents, curve, where, half, top, gain,
            selective, share if math.isfinite(share) else None,
        ),
        reasons,
    )  # fmt: skip


def _bare(side: Labelled) -> Side:
    words = int((side.label != NO_LABEL).sum())
    return Side(side.subject, side.name, words, 0, 0)


def _apart(
    read: Sequence[_Read], layers: Sequence[int], curves: Callable[[_Read], tuple[Tensor, Tensor]]
) -> tuple[float, Float[Tensor, "replicate"]]:
    """Depth of B less depth of A: the value and its replicates."""
    (value_a, samples_a), (value_b, samples_b) = (curves(one) for one in read)
    value = depth.expected_depth(value_b, layers) - depth.expected_depth(value_a, layers)
    return float(value), depth.expected_depth(samples_b, layers) - depth.expected_depth(samples_a, layers)


def _at_half(
    bench: Bench, sides: Sequence[Labelled], labels: Sequence[Int[Tensor, "word"]], given: bool, method: Method
) -> tuple[float, Float[Tensor, "replicate"]]:
    """The same on half of the units: where a depth depends on how much text it was read from, this shows it."""
    kept = halve(bench.unit[1], bench.seed)[bench.sentence]
    halves = [_without_rare(bench, torch.where(kept, label, NO_LABEL)) for label in labels]
    halves = list(equal_words(halves[0], halves[1], bench.sentence, bench.seed))
    half = [_read(bench, side, label, given, method) for side, label in zip(sides, halves, strict=True)]
    return _apart(half, bench.model.layers, lambda one: one.gain)


def _variant(name: str, value: float, samples: Float[Tensor, "replicate"], method: Method) -> Variant:
    found = intervals.interval(value, samples, method=method)
    return Variant(name, found.value, found.lo, found.hi)


def _interval(statistic: Statistic, value: Tensor, samples: Tensor, method: Method) -> Interval:
    return intervals.interval(float(statistic(value)), statistic(samples), method=method)


def _centred(value: Tensor, samples: Float[Tensor, "replicate"], method: Method) -> Float[Tensor, "replicate"]:
    finite = samples[samples.isfinite()]
    return finite - finite.mean() + value if method == "refit" else finite


def _correlation(bench: Bench, a: Labelled, b: Labelled) -> float:
    """Cramér's V of the two labels over the words that have both; 0 where one of them is constant there."""
    both = (a.label != NO_LABEL) & (b.label != NO_LABEL)
    if not both.any():
        return 0.0
    table = torch.zeros(len(a.classes), len(b.classes), dtype=torch.float64)
    table.index_put_((a.label[both], b.label[both]), torch.ones(int(both.sum()), dtype=torch.float64), accumulate=True)
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    fewest = min(table.shape) - 1
    if fewest < 1:
        return 0.0
    expected = table.sum(1, keepdim=True) * table.sum(0, keepdim=True) / table.sum()
    return float((((table - expected) ** 2 / expected).sum() / table.sum() / fewest).sqrt())
