"""How each mode of a freeze holds a concept: what it adds to the loss, does to the gradients and does to the weights.

With V the concept's subspace at layer l and 0 for the moment of the freeze:

- anchor: adds λ·E‖Vᵀ(h_l − h_l⁰)‖² / tr Cov(Vᵀh_l⁰) to the loss, λ steered so that its root, the NRMSE, comes to a target.
  Approximate, and on text like the training text.
- pin: h_l ← h_l − VVᵀh_l + VVᵀh_l⁰ in every forward pass; exact for every input. `lab.pins`.
- write: VᵀW = VᵀW⁰ for every matrix that writes to the stream up to layer l. Exact in the weights; not a freeze of the
  concept, which also moves with what those matrices are fed.
- lower: no parameter up to layer l moves. Exact, and costs most.

Under AdamW a projected gradient alone does not hold a subspace: weight decay shrinks it by (1 − ηλ) a step, momentum goes on
for 1/(1 − β₁) steps, and dividing by √v leaves the subspace (V is not aligned with coordinates). So the weights themselves
are put back after every step, and the momentum projected; the gradient is projected too, before it is clipped, so that what
is clipped is what is used (arXiv:2604.22407 shows what the second moment does to projections otherwise).
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lab.lower_copy import LowerCopy
from lab.model import GPT
from lab.pins import residual_point
from lab.subspaces import Subspaces
from train.parallel import totals

# λ grows by ρ·(NRMSE²/ε² − 1) a step on a log scale, at most FASTEST: from drift at twice the target it is multiplied by ten
# in 16 steps. Downwards it goes at most ρ a step, so that the first steps, without any drift yet, cost it little.
RHO, FASTEST = 0.05, 0.25
FIRST_WEIGHT, WEIGHTS = 1.0, (1e-3, 1e3)  # 1: as much as a loss of one nat, when the drift is as large as the spread
SMALLEST_SPREAD = 1e-12


class Anchor:
    """Pulls the coordinates of the stream towards what the lower copy says they were.

    Args:
        weight: λ, as it was saved.
        target: the NRMSE that λ is steered to.
    """

    def __init__(
        self, model: GPT, basis: Float[Tensor, "d_model k"], copy: LowerCopy, target: float, weight: float
    ) -> None:
        self.weight, self.target, self.nrmse = weight, target, math.nan
        self._basis, self.copy = basis, copy
        self._captured: Tensor | None = None
        self._squares: list[tuple[float, int]] = []  # NRMSE² and tokens of each micro-batch of this step
        self._handle = residual_point(model, copy.layer).register_forward_hook(self._capture)

    def _capture(self, _: nn.Module, __: object, resid: Tensor) -> None:
        if resid.requires_grad:
            self._captured = resid

    def loss(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, ""]:
        """λ·NRMSE² of the forward pass that was just made of these tokens.

        Position 0 is left out: it sees nothing but itself, and its norm is another (attention sinks).
        """
        assert self._captured is not None, "the loss of an anchor follows the forward pass that it is of"
        stream, self._captured = self._captured, None
        basis = self._basis.to(stream.device)
        aim = self.copy.stream(tokens.to(stream.device))[:, 1:] @ basis
        drift = (stream[:, 1:].float() @ basis - aim).square().sum(-1).mean()
        spread = aim.flatten(0, 1).var(0, unbiased=False).sum().clamp(min=SMALLEST_SPREAD)
        square = drift / spread
        self._squares.append((float(square.detach()), aim.shape[0] * aim.shape[1]))
        return self.weight * square

    def after_step(self) -> None:
        """Steer λ: dual ascent on a log scale."""
        here = (sum(value * count for value, count in self._squares), sum(count for _, count in self._squares))
        summed, tokens = totals(here)
        self._squares = []
        if not tokens:
            return
        square = summed / tokens
        self.nrmse = math.sqrt(square)
        excess = min(FASTEST, RHO * (square / self.target**2 - 1))
        self.weight = min(max(self.weight * math.exp(excess), WEIGHTS[0]), WEIGHTS[1])

    def again(self) -> None:
        """Forget this step's micro-batches: it is made once more."""
        self._squares, self._captured = [], None

    def remove(self) -> None:
        self._handle.remove()


class Dictionary:
    """Keeps VᵀW of every writer of the stream where it was, for one or several subspaces at once.

    Writers of the stream up to layer l are the rows of W_E and every W_O and W_out of blocks below l; biases are zero here
    and no norm writes. Tied embeddings: the unembedding's V part is W_E's, and so is held too.

    Args:
        held: per concept its layer, V, and the lower copy whose writers say what VᵀW was.
        spared: parameters that do not move at all, which must not be rounded either.
    """

    def __init__(
        self,
        model: GPT,
        optimizer: torch.optim.Optimizer,
        held: Sequence[tuple[int, Tensor, Mapping[str, Tensor]]],
        spared: Iterable[Tensor] = (),
    ) -> None:
        self._optimizer = optimizer
        self._written: list[tuple[nn.Parameter, Subspaces, Tensor]] = []
        kept = set(spared)
        for name, parameter in writers(model).items():
            on = [(basis, before[name]) for _, basis, before in held if name in before]
            if on and parameter not in kept:
                subspaces = Subspaces([basis for basis, _ in on])
                # fp64: what is held is what the writers were, not what a product of theirs was rounded to.
                aims = [(before.cpu().double() @ basis.double()).float() for basis, before in on]
                self._written.append((parameter, subspaces, torch.cat(aims, -1).to(parameter.device)))

    @torch.no_grad()
    def before_step(self) -> None:
        """Gradients lose what is in the subspaces."""
        for parameter, subspaces, _ in self._written:
            if parameter.grad is not None:
                parameter.grad = subspaces.without(parameter.grad)

    @torch.no_grad()
    def after_step(self) -> None:
        """Weights get back their coordinates; momentum loses its own, so that nothing is set free at a release."""
        for parameter, subspaces, aim in self._written:
            parameter.copy_(subspaces.moved(parameter, aim - subspaces.coordinates(parameter)))
            momentum = self._optimizer.state.get(parameter, {}).get("exp_avg")
            if momentum is not None:
                momentum.copy_(subspaces.without(momentum))


class Still:
    """Keeps every parameter below a layer as it is: without a gradient AdamW leaves weights and moments alone."""

    def __init__(self, model: GPT, optimizer: torch.optim.Optimizer, layer: int) -> None:
        self._optimizer = optimizer
        below = tuple(f"blocks.{index}." for index in range(layer))
        self.parameters = [p for name, p in model.named_parameters() if name == "embed.W_E" or name.startswith(below)]

    def before_step(self) -> None:
        """Drop the gradients; a parameter that never had a step gets the moments of one, for the checkpoint to hold."""
        for parameter in self.parameters:
            parameter.grad = None
            if not self._optimizer.state.get(parameter):
                self._optimizer.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }


def writers(model: GPT) -> dict[str, nn.Parameter]:
    """Every matrix that writes to the residual stream, by name; the stream is its last axis."""
    return {n: p for n, p in model.named_parameters() if n == "embed.W_E" or n.endswith((".attn.W_O", ".mlp.W_out"))}
