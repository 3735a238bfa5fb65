"""Looks at models that never were: what moved, leaked and was used in them is known because we wrote it."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lab.concepts import Concept
from probes.concepts.drift import Coordinates
from probes.concepts.look import HeldOut, Look
from probes.concepts.proof import prove
from probes.layers.probe_set import ProbeSet

WIDTH, RANK, DOCUMENTS, TOKENS, WORDS = 12, 2, 50, 30, 16
LAYERS = (1, 2, 4)  # the concept is at 2; 4 is the last
SPREAD = 2.0  # distance of the two class means along the first column, in deviations


def concept(classes: tuple[str, ...] = ("other", "animal")) -> Concept:
    basis = torch.eye(WIDTH)[:, :RANK]
    weight = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])[: len(classes)]
    zeros = torch.zeros(WIDTH)
    return Concept("animal", 2, basis, zeros, weight, torch.zeros(len(classes)), classes, {}, "t")


@dataclass(frozen=True)
class World:
    """Held-out text and the parent's look at it."""

    text: HeldOut
    parent: Look
    label: Tensor

    def look(
        self,
        moved: float = 0.0,
        seed: int = 1,
        leaked: float = 0.0,
        at: int = 4,
        rise: float | None = None,
        nats: float = 0.0,
        turned: bool = False,
    ) -> Look:
        """The parent, changed.

        Args:
            moved: NRMSE of the coordinates, as noise of its own at every token and word.
            leaked: distance of the class means along a direction outside V, at layer `at`.
            rise: what ablating V costs now; nats: what every token's loss has gone up by.
            turned: the label's difference stands in another direction altogether, V's coordinates as they were.
        """
        generator = torch.Generator().manual_seed(seed)
        start = self.parent
        values = start.coordinates.values
        spread = float(values.var(0, unbiased=False).sum()) ** 0.5
        noise = torch.randn(values.shape, generator=generator, dtype=torch.float64)
        values = values + moved * spread / RANK**0.5 * noise
        features = start.features.clone()
        own = features[LAYERS.index(2)]
        own[:, :RANK] += moved * spread / RANK**0.5 * torch.randn(own[:, :RANK].shape, generator=generator)
        features[LAYERS.index(at), :, RANK] += leaked * (self.label - 0.5)
        if turned:
            own[:, WIDTH - 1] += 12 * (self.label - 0.5)
        loss = start.loss + nats + 0.02 * torch.randn(start.loss.shape, generator=generator, dtype=torch.float64)
        risen = start.rise if rise is None else torch.full_like(start.rise, rise)
        return replace(
            start,
            coordinates=replace(start.coordinates, values=values),
            loss=loss,
            features=features,
            rise=risen,
        )


def world(seed: int = 0) -> World:
    generator = torch.Generator().manual_seed(seed)
    n = DOCUMENTS * WORDS
    label = torch.randint(2, (n,), generator=generator)
    features = torch.randn(len(LAYERS), n, WIDTH, generator=generator)
    features[:, :, 0] += SPREAD * (label - 0.5)
    sentence = [word // 8 for word in range(n)]  # three sentences a document
    probe_set = ProbeSet(
        sentences=tuple(f"sentence {i}" for i in range(n // 8)),
        documents=tuple(f"document {i // 3}" for i in range(n // 8)),
        tokens=((1, *range(2, 11)),) * (n // 8),
        word_sentence=tuple(sentence),
        word_position=tuple(word % 8 + 1 for word in range(n)),
        labels={},
        classes={},
    )
    used = (label == 1).nonzero()[:, 0]
    text = HeldOut(
        windows=((1, *range(2, 2 + TOKENS)),) * DOCUMENTS,
        document=tuple(range(DOCUMENTS)),
        names=tuple(f"document {i}" for i in range(DOCUMENTS)),
        words=probe_set,
        label=label,
        used=used,
        target=torch.zeros(len(used), dtype=torch.long),
    )
    tokens = DOCUMENTS * TOKENS
    coordinates = Coordinates(
        values=torch.randn(tokens, RANK, generator=generator, dtype=torch.float64) * torch.tensor([3.0, 1.0]) + 5.0,
        rms=torch.ones(tokens, dtype=torch.float64),
        document=torch.arange(DOCUMENTS).repeat_interleave(TOKENS),
    )
    loss = 3 + torch.randn(tokens, generator=generator, dtype=torch.float64)
    rise = 0.2 + 0.1 * torch.randn(len(used), generator=generator, dtype=torch.float64)
    return World(text, Look(coordinates, loss, LAYERS, features, rise), label)


def proof(made: World, branch: Look, weights: float = 0.1, **twins: Look) -> dict[str, Any]:
    """Proved beside an unfrozen twin that moved by a third of the spread and a random one, or those given."""
    standard = {"unfrozen": made.look(moved=0.33, seed=7), "random": made.look(moved=0.33, seed=8)}
    looks = {"parent": made.parent, "branch": branch} | standard | twins
    drifts = {name: {"embed.W_E": weights if name == "branch" else 0.2} for name in looks if name != "parent"}
    return prove(concept(), made.text, looks, drifts, {}, replicates=200, splits=12)
