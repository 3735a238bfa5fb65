"""Several subspaces taken as one: their coordinates read, set and taken out together.

Two concepts of one layer are seldom orthogonal: setting the coordinates of one and then of the other would move the first
again. The dual basis sets both at once, by the smallest change that does it.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

SAME = 1e-6  # of the largest singular value of VᵀV: below it a direction is in two subspaces, and counts once


class Subspaces:
    """The columns B of several bases, and their dual D = B (BᵀB)⁺, for which BᵀD = 1; worked out in fp64, kept in fp32.

    Args:
        bases: each [d_model, k_i]; orthonormal columns within one, any angle between two.
    """

    def __init__(self, bases: "Sequence[Float[Tensor, 'd_model k']]") -> None:
        joined = torch.cat([basis.detach().cpu().double() for basis in bases], dim=1)
        dual = joined @ torch.linalg.pinv(joined.T @ joined, hermitian=True, rtol=SAME)
        self._basis, self._dual = joined.float(), dual.float()

    def _placed(self, like: Tensor) -> tuple[Tensor, Tensor]:
        if self._basis.device != like.device:
            with torch.inference_mode(False):  # placed while generating, they are used in training too
                self._basis, self._dual = self._basis.to(like.device), self._dual.to(like.device)
        return self._basis.to(like.dtype), self._dual.to(like.dtype)

    def coordinates(self, x: "Float[Tensor, '*any d_model']") -> "Float[Tensor, '*any k']":
        """Bᵀx, in the type of x."""
        return x @ self._placed(x)[0]

    def moved(
        self, x: "Float[Tensor, '*any d_model']", by: "Float[Tensor, '*any k']"
    ) -> "Float[Tensor, '*any d_model']":
        """x, its coordinates changed by this much, and nothing outside the subspaces."""
        return x + by @ self._placed(x)[1].T

    def without(self, x: "Float[Tensor, '*any d_model']") -> "Float[Tensor, '*any d_model']":
        """x with the coordinates taken out: an orthogonal projection."""
        basis, dual = self._placed(x)
        return x - (x @ basis) @ dual.T
