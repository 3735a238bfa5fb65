"""The subspace of a random twin: as wide as a concept's, and with as much variance of the stream in it, but of nothing.

A uniformly random subspace would hold rank/d of the variance, a concept far more, and freezing little costs little. So
directions are drawn where the stream's axes are independent, weighted by a power of their variance, and the power is what
makes the variance equal; `probes.layers.erase.random_eraser` draws its own so.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lab.concepts import Concept
from lab.errors import LabError
from lab.run import Run
from probes.layers.erase import Spectrum
from probes.layers.fit import one_thread
from train.generators import derived_generator
from train.session import Progress, corpus_of

TOKENS, BATCH = 8192, 16
_TILTS = (-32.0, 32.0)  # exponent of the variance; the ends are its extremes
_BISECTIONS = 60


class NoTwin(LabError):
    """No random subspace stands for this concept."""


def random_basis(
    spectrum: Spectrum, rank: int, variance: float, generator: torch.Generator
) -> Float[Tensor, "d_model rank"]:
    """Orthonormal columns whose coordinates have this variance in all, as near as any random subspace can have it.

    Args:
        variance: tr VᵀΣV of the concept it stands for, on activations of this spectrum.

    Raises:
        NoTwin: the stream moves in fewer dimensions than the rank.
    """
    axes = len(spectrum.variance)
    if not 1 <= rank < axes:
        raise NoTwin(
            f"a random twin of rank {rank}: the stream moves in {axes} dimensions only. Take a smaller concept."
        )
    with one_thread():
        drawn = torch.randn(axes, rank, generator=generator, dtype=torch.float64)
        log_variance = spectrum.variance.log()
        log_variance = log_variance - log_variance.max()

        def directions(tilt: float) -> Tensor:
            weight = tilt * log_variance
            found: Tensor = torch.linalg.qr((weight - weight.max()).exp()[:, None] * drawn).Q
            return found

        low, high = _TILTS
        for _ in range(_BISECTIONS):  # the variance rises with the tilt
            middle = (low + high) / 2
            taken = float((spectrum.variance[:, None] * directions(middle).square()).sum())
            low, high = (middle, high) if taken < variance else (low, middle)
        basis: Tensor = torch.linalg.qr(spectrum.axes @ directions((low + high) / 2)).Q
    return basis.float()


@torch.no_grad()
def random_concept(run: Run, name: str, step: int, progress: Progress | None = None) -> Concept:
    """`<name>-random`: a random subspace in a concept's place, drawn for the stream of a checkpoint on held-out text.

    Raises:
        ConceptMissing, BadConcept, CheckpointMissing, NoTwin
    """
    concept, model = Concept.load(run, name), run.model(step)
    batches = corpus_of(run, progress).validation_batches(TOKENS, BATCH)
    streams = [model(batch.tokens[:, :-1], stop_at_layer=concept.layer) for batch in batches]
    features = torch.cat([stream[:, 1:].flatten(0, 1) for stream in streams]).double()
    spectrum = Spectrum.of(features)
    variance = float((features @ concept.basis.double()).var(0, unbiased=False).sum())
    generator = derived_generator(run.config.train.seed, f"random twin of {concept.name}", step)
    basis = random_basis(spectrum, concept.rank, variance, generator)
    taken = float((features @ basis.double()).var(0, unbiased=False).sum())
    overlap = float(torch.linalg.svdvals(basis.double().T @ concept.basis.double()).max())
    return Concept(
        name=f"{concept.name[:40]}-random",
        layer=concept.layer,
        basis=basis,
        mean=spectrum.mean.float(),
        weight=torch.zeros(0, concept.rank),
        bias=torch.zeros(0),
        classes=(),
        checkpoint={"step": step, "sha256": run.checkpoint_info(step).weights_sha256},
        tokenizer=concept.tokenizer,
        details={
            "how": "random subspace of equal rank and variance",
            "stands_for": concept.name,
            "variance": {"concept": variance, "random": taken},
            "largest_cosine_to_concept": overlap,
            "tokens": len(features),
        },
    )
