"""A concept as it stands in a safetensors file: one direction (a row of an autoencoder's decoder, say) or a basis."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lab.concepts import ORTHONORMAL
from probes.concepts.subspace import NoSubspace, check_orthonormal
from train.concept_sources import BadSource

UNIT = 1e-4  # a direction whose length is off by more was not of length 1, and that is said


@dataclass(frozen=True)
class FromFile:
    """A tensor of a file.

    Attributes:
        tensor: its name; None = the only one.
        row: of a matrix whose rows are directions; None = the tensor is one direction, or a basis [d_model, k].
    """

    file: Path
    tensor: str | None = None
    row: int | None = None

    def read(self, d_model: int) -> tuple[Float[Tensor, "d_model k"], dict[str, Any], list[str]]:
        """Orthonormal columns, what they were made from, and what was done to them.

        Raises:
            BadSource: no such file, tensor or row, another width, NaN, or columns that are not orthonormal.
        """
        name, values = self._tensor()
        where = f"--from-file {self.file.name}: {name}" + ("" if self.row is None else f", row {self.row}")
        if self.row is not None:
            if values.ndim != 2 or not -len(values) <= self.row < len(values):
                raise BadSource(f"{where}: has shape {list(values.shape)}. Give a row in 0..{max(0, len(values) - 1)}.")
            values = values[self.row]
        if values.ndim not in (1, 2) or len(values) != d_model:
            raise BadSource(
                f"{where}: has shape {list(values.shape)}, but the stream is {d_model} wide. Give a direction [{d_model}], "
                f"columns [{d_model}, k], or --row with a matrix [rows, {d_model}]."
            )
        columns = (values[:, None] if values.ndim == 1 else values).double()
        notes = []
        if not bool(columns.isfinite().all()):
            raise BadSource(f"{where}: holds NaN or infinity. Write the file anew.")
        if columns.shape[1] == 1:
            length = float(columns.norm())
            if not length > 0:
                raise BadSource(f"{where}: is all zeros, which is no direction. Give another.")
            columns = columns / length
            if abs(length - 1) > UNIT:
                notes.append(f"the direction had length {length:.4g} and was brought to length 1")
        try:
            check_orthonormal(columns, ORTHONORMAL)
        except NoSubspace as error:
            raise BadSource(f"{where}: {error}") from None
        digest = hashlib.sha256(self.file.read_bytes()).hexdigest()
        return columns, {"kind": "file", "files": {self.file.name: digest}, "tensor": name, "row": self.row}, notes

    def _tensor(self) -> tuple[str, Tensor]:
        if not self.file.is_file():
            raise BadSource(f"--from-file {self.file}: there is no such file.")
        try:
            with safe_open(self.file, "pt") as opened:
                names = sorted(opened.keys())
                wanted = self.tensor or (names[0] if len(names) == 1 else None)
                if wanted is None or wanted not in names:
                    what = "which of them is meant?" if wanted is None else f"there is no {wanted!r}."
                    there = ", ".join(names[:12]) or "the file is empty"
                    raise BadSource(f"--from-file {self.file.name}: {what} Name one with --tensor: {there}.")
                tensor: Tensor = opened.get_tensor(wanted)
        except (OSError, SafetensorError) as error:
            raise BadSource(f"--from-file {self.file.name}: is no safetensors file ({error}).") from None
        if not tensor.is_floating_point():
            raise BadSource(f"--from-file {self.file.name}: {wanted} holds {tensor.dtype}, not real numbers.")
        return wanted, tensor.to(torch.float64)
