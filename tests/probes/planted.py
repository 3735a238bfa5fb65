"""Worlds whose truth is known because we made them: P1, Gaussian layers, and P3, traps. (P2 is in `staircase`.)

Generators only; the tests that use them say what must come out. `probe_set_of` and `activations_of` turn a world into
what the public paths take.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.layers.collect import Activations, outliers
from probes.layers.depth import expected_depth
from probes.layers.labels import ProbeSet
from tests.probes.toys import binary_bits

LAYERS = 8  # the last layer of every Gaussian world


@dataclass(frozen=True)
class World:
    """Activations and labels whose depths are known.

    Attributes:
        values: fp32 activations.
        labels: per task, class index per word; -1 = none.
        sentence: per word, 0..sentences-1, ascending.
        truth: per task, the exact relative expected depth of the usable bits, where there is one.
        bits: per task, the exact usable bits per word by layer, where they are known.
        twin: activations of a never-trained model at the same words, where the world has one.
        document: per sentence.
    """

    values: Float[Tensor, "layer word d_model"]
    labels: dict[str, Int[Tensor, "word"]]
    sentence: Int[Tensor, "word"]
    sentences: int
    truth: dict[str, float]
    bits: dict[str, Float[Tensor, "layer"]]
    twin: Float[Tensor, "layer word d_model"] | None = None
    document: Int[Tensor, "sentence"] | None = None

    @property
    def difference(self) -> float:
        """True depth of b less that of a."""
        return self.truth["b"] - self.truth["a"]


def onset(layer: float, width: float = 1.0, most: float = 2.5, least: float = 0.0) -> tuple[float, ...]:
    """Class distance in deviations at layers 0..8: a sigmoid that is half way at `layer`."""
    steps = torch.arange(LAYERS + 1, dtype=torch.float64)
    return tuple((least + (most - least) * torch.sigmoid((steps - layer) / width)).tolist())


@cache
def exact_bits(distances: tuple[float, ...]) -> tuple[float, ...]:
    """Usable bits by layer: a fair label seen through Gaussian noise, by one-dimensional quadrature.

    The marginal of a word is Gaussian within its class whatever its sentence shares, so the best linear probe is the
    best probe, and its bits are the channel's.
    """
    return tuple(binary_bits(distance) for distance in distances)


def gaussian(
    distances: dict[str, tuple[float, ...]],
    sentences: int = 400,
    seed: int = 0,
    width: int = 8,
    words: tuple[int, int] = (4, 12),
    shared: float = 0.3,
    between_layers: float = 0.5,
) -> World:
    """P1: h_l = sum over tasks of distance_l (y - 1/2) w + noise, one direction w a task, the noise of layer l mixed by M_l.

    Args:
        distances: per task, class distance at each layer in deviations of the noise along w.
        words: least and most words of a sentence, drawn evenly; sentences differ in length as in text.
        shared: share of the noise variance that all words of a sentence have in common, along w too.
        between_layers: share of the word noise that is the same at all layers, as in a residual stream.
    """
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(words[0], words[1] + 1, (sentences,), generator=generator)
    sentence = torch.arange(sentences).repeat_interleave(lengths)
    n, depth = len(sentence), len(next(iter(distances.values())))
    of_word = _between((depth, n, width), between_layers, generator)
    of_sentence = _between((depth, sentences, width), between_layers, generator)
    values = (1 - shared) ** 0.5 * of_word + shared**0.5 * of_sentence[:, sentence]
    labels = {}
    for axis, (task, distance) in enumerate(distances.items()):
        labels[task] = torch.randint(2, (n,), generator=generator)
        values[:, :, axis] += torch.tensor(distance, dtype=torch.float32)[:, None] * (labels[task] - 0.5)
    mix = torch.eye(width) + 0.3 * torch.randn(depth, width, width, generator=generator)
    bits = {task: torch.tensor(exact_bits(distance)) for task, distance in distances.items()}
    truth = {task: float(expected_depth(curve)) for task, curve in bits.items()}
    return World(values @ mix, labels, sentence, sentences, truth, bits)


def _between(shape: tuple[int, int, int], same: float, generator: torch.Generator) -> Tensor:
    own = torch.randn(shape, generator=generator)
    common = torch.randn(shape[1:], generator=generator)
    return (1 - same) ** 0.5 * own + same**0.5 * common


# P3: traps. Each is a World with labels a and b; what must come out is said beside it.


def swapped(world: World) -> World:
    """b for a and a for b: a supported claim must turn into REFUTED-REVERSED."""
    labels, truth, bits = ({"a": of["b"], "b": of["a"]} for of in (world.labels, world.truth, world.bits))
    return replace(world, labels=labels, truth=truth, bits=bits)


def permuted(world: World, seed: int = 0) -> World:
    """Labels shuffled over all words: nothing to read, UNTESTABLE."""
    order = torch.randperm(len(world.sentence), generator=torch.Generator().manual_seed(seed))
    return replace(world, labels={task: label[order] for task, label in world.labels.items()}, truth={}, bits={})


def saturated(sentences: int = 400, seed: int = 0) -> World:
    """Both labels as readable at layer 0 as anywhere, as a word's own class is: nothing is gained, UNTESTABLE."""
    flat = (2.5,) * (LAYERS + 1)
    return gaussian({"a": flat, "b": flat}, sentences, seed)


def growing_norm(world: World) -> World:
    """Every layer twice as large as the one before: depths must not move."""
    factor = 2.0 ** torch.arange(len(world.values))
    return replace(world, values=world.values * factor[:, None, None])


def decaying_twin(sentences: int = 400, seed: int = 0) -> World:
    """Flat curves of the model, and a twin that has them at layer 0 and loses b's late and a's early.

    Only subtracting the twin makes a gain, and a difference of depths: UNTESTABLE by the guard on the curve as measured.
    """
    flat = (1.5,) * (LAYERS + 1)
    world = gaussian({"a": flat, "b": flat}, sentences, seed)
    falling = {task: tuple(1.5 - d for d in onset(layer, most=1.5)) for task, layer in (("a", 2.0), ("b", 6.0))}
    twin = gaussian(falling, sentences, seed)  # the same seed, hence the same words and labels
    assert all(torch.equal(twin.labels[task], world.labels[task]) for task in ("a", "b"))
    return replace(world, twin=twin.values, truth={}, bits={})


def twin_alike(sentences: int = 400, seed: int = 0) -> World:
    """The never-trained model gains as much: it comes with the architecture, UNTESTABLE."""
    rising = {"a": onset(3.0), "b": onset(5.0)}
    world = gaussian(rising, sentences, seed)
    return replace(world, twin=gaussian(rising, sentences, seed).values)


def unequal(world: World, share: float = 0.1, seed: int = 0) -> World:
    """Label b on a tenth of the words only. Fewer words read deeper, so with equal truths b must not come out deeper."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(len(world.sentence), generator=generator) < share
    return replace(world, labels={**world.labels, "b": torch.where(kept, world.labels["b"], -1)})


def with_outliers(world: World, every: int = 97, times: float = 1000.0) -> World:
    """One word in 97 a thousand times as large at layers 2 to 6, as single tokens of real models are."""
    values = world.values.clone()
    values[2:7, ::every] *= times
    return replace(world, values=values)


def duplicated(distinct: int = 80, copies: int = 5, width: int = 64, seed: int = 0) -> World:
    """Noise labels, every sentence five times over: only a probe that sees copies on both sides reads anything.

    `document` numbers the originals: folds by document keep copies together, and then UNTESTABLE.
    """
    flat = (0.0,) * (LAYERS + 1)
    once = gaussian({"a": flat, "b": flat}, distinct, seed, width)
    labels = {task: label.repeat(copies) for task, label in once.labels.items()}
    sentence = torch.cat([once.sentence + distinct * copy for copy in range(copies)])
    document = torch.arange(distinct).repeat(copies)
    return World(once.values.repeat(1, copies, 1), labels, sentence, distinct * copies, {}, {}, document=document)


def constant_in_sentence(sentences: int = 400, width: int = 64, seed: int = 0) -> World:
    """A label tossed once a sentence, in activations that know the sentence and not the label.

    Words of a sentence on both sides of a split give the label away; sentences kept whole give nothing: UNTESTABLE.
    """
    flat = (0.0,) * (LAYERS + 1)
    world = gaussian({"a": flat, "b": flat}, sentences, seed, width, shared=0.9)
    tossed = torch.randint(2, (2, sentences), generator=torch.Generator().manual_seed(seed + 1))[:, world.sentence]
    return replace(world, labels={"a": tossed[0], "b": tossed[1]}, truth={}, bits={})


def probe_set_of(world: World, types: int = 300) -> ProbeSet:
    """A probe set with the world's words, each of a random type; labels are named a.next and b.next."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.bincount(world.sentence, minlength=world.sentences).tolist()
    position = torch.cat([torch.arange(1, length + 1) for length in lengths])
    document = torch.arange(world.sentences) if world.document is None else world.document
    return ProbeSet(
        sentences=tuple(f"sentence {number}" for number in range(world.sentences)),
        documents=tuple(f"{number:016x}" for number in document.tolist()),
        tokens=tuple((1, *torch.randint(2, types, (n + 1,), generator=generator).tolist()) for n in lengths),
        word_sentence=tuple(world.sentence.tolist()),
        word_position=tuple(position.tolist()),
        labels={f"{task}.next": tuple(label.tolist()) for task, label in world.labels.items()},
        classes={f"{task}.next": ("no", "yes") for task in world.labels},
    )


def activations_of(world: World) -> tuple[Activations, Activations]:
    """Of the model and of its twin; a world without one gets a twin that knows nothing."""
    layers = tuple(range(len(world.values)))
    twin = world.twin
    if twin is None:
        twin = torch.randn(world.values.shape, generator=torch.Generator().manual_seed(1))
    return tuple(Activations(values, layers, ~outliers(values)) for values in (world.values, twin))  # type: ignore[return-value]
