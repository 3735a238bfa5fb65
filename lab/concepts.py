"""Concepts of a run: a subspace of one layer's residual stream, with all that is needed to find it again, check and use it.

One folder each, `concepts/<name>/` with `subspace.safetensors` and `card.json`. Finding one is `probes.concepts.find`.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from lab.durable import sync_folder, write_file
from lab.errors import LabError
from lab.run_names import resolve_inside

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from lab.run import Run

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,47}")
ORTHONORMAL = 1e-4  # largest entry of |VᵀV − 1|: single precision leaves about 1e-6
SUBSPACE, CARD = "subspace.safetensors", "card.json"


class BadConcept(LabError):
    """A subspace that is none, or that does not belong to this run."""


class ConceptMissing(LabError):
    """The run has no concept of that name."""


class ConceptExists(LabError):
    """The run has one of that name already."""


class ConceptFrozen(LabError):
    """Checkpoints of the run stand on a frozen lower copy that lies with the concept."""


@dataclass(frozen=True)
class Concept:
    """A subspace V of the residual stream at one layer, and what it was found on.

    Attributes:
        name: as people type it.
        layer: 0..L; 0 = the embedding sum, l = after block l, before the final norm.
        basis: V, orthonormal columns, float32.
        mean: of the stream at that layer over the labelled words, float32.
        weight, bias: a linear probe that reads the class off the coordinates Vᵀ(h − mean); no rows where there are no labels.
        classes: what the rows of the probe stand for, in order.
        checkpoint: {"step": …, "sha256": …} of the weights it was found in.
        tokenizer: sha256 of the tokenizer its words were cut by.
        details: how it was found and what it looked like then; JSON-able.
    """

    name: str
    layer: int
    basis: "Float[Tensor, 'd_model k']"
    mean: "Float[Tensor, 'd_model']"
    weight: "Float[Tensor, 'class k']"
    bias: "Float[Tensor, 'class']"
    classes: tuple[str, ...]
    checkpoint: Mapping[str, Any]
    tokenizer: str
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        return int(self.basis.shape[1])

    @property
    def sha256(self) -> str:
        """Of the subspace, its layer and its probe: what a freeze holds."""
        digest = hashlib.sha256(f"{self.layer}:{','.join(self.classes)}".encode())
        for tensor in (self.basis, self.mean, self.weight, self.bias):
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def coordinates(self, resid: "Float[Tensor, '*any d_model']") -> "Float[Tensor, '*any k']":
        """Vᵀ(h − mean)."""
        return (resid - self.mean.to(resid)) @ self.basis.to(resid)

    def check(self, n_layers: int, d_model: int) -> None:
        """
        Raises:
            BadConcept: a layer or width that is not the model's, rank 0 or full, NaN, or columns not orthonormal.
        """
        import torch

        if not 0 <= self.layer <= n_layers:
            raise BadConcept(f"{self.name}: layer {self.layer}, but the model has layers 0..{n_layers}.")
        width, rank = self.basis.shape
        if width != d_model or self.mean.shape != (d_model,):
            raise BadConcept(
                f"{self.name}: a subspace of {width} dimensions, but the model is {d_model} wide. It is of another model."
            )
        if not 0 < rank < d_model:
            raise BadConcept(f"{self.name}: rank {rank} of {d_model} dimensions is no subspace. Give 1..{d_model - 1}.")
        tensors = {"basis": self.basis, "mean": self.mean, "weight": self.weight, "bias": self.bias}
        for what, tensor in tensors.items():
            if not bool(torch.isfinite(tensor).all()):
                raise BadConcept(f"{self.name}: its {what} holds NaN or infinity. Find the concept again.")
        off = float((self.basis.double().T @ self.basis.double() - torch.eye(rank, dtype=torch.float64)).abs().max())
        if off > ORTHONORMAL:
            raise BadConcept(
                f"{self.name}: its columns are not orthonormal (off by {off:.2g}). Orthonormalise them: torch.linalg.qr(V).Q"
            )
        if self.weight.shape != (len(self.classes), rank) or self.bias.shape != (len(self.classes),):
            raise BadConcept(f"{self.name}: its probe does not fit {len(self.classes)} classes and rank {rank}.")

    def save(self, run: "Run", replace: bool = False) -> Path:
        """Write it under the run's `concepts/`, whole or not at all; the folder.

        Raises:
            BadConcept: a name that is none, or a subspace that does not fit the run.
            ConceptExists: unless `replace`.
            ConceptFrozen: one to replace was frozen in this run.
        """
        from safetensors.torch import save

        self.check(run.config.model.n_layers, run.config.model.d_model)
        target = folder_of(run, self.name)
        if target.exists() and not replace:
            raise ConceptExists(
                f"{run.name} has a concept {self.name!r} already. Choose another name, or remove it: lab concept rm"
            )
        _require_not_frozen(run, target)
        tensors = {"basis": self.basis, "mean": self.mean, "weight": self.weight, "bias": self.bias}
        card = {
            "version": 1,
            "name": self.name,
            "layer": self.layer,
            "classes": list(self.classes),
            "checkpoint": dict(self.checkpoint),
            "tokenizer": self.tokenizer,
            "sha256": self.sha256,
            "details": dict(self.details),
        }
        temporary = run.concepts / f".tmp-{self.name}"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            write_file(
                temporary / SUBSPACE, save({k: v.detach().cpu().float().contiguous() for k, v in tensors.items()})
            )
            write_file(temporary / CARD, json.dumps(card, indent=1, sort_keys=True).encode())
            if target.exists():
                shutil.rmtree(target)
            temporary.rename(target)
            sync_folder(run.concepts)
        except OSError as error:
            raise BadConcept(
                f"{target}: could not be written ({error.strerror or error}). Make room, or make the folder writable."
            ) from error
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return target

    @classmethod
    def load(cls, run: "Run", name: str) -> Self:
        """
        Raises:
            ConceptMissing: naming those there are.
            BadConcept: the files do not hold together, or it was made with another tokenizer.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load

        folder = folder_of(run, name)
        if not (folder / CARD).is_file():
            known = ", ".join(names(run)) or "none yet"
            raise ConceptMissing(
                f"{run.name} has no concept {name!r}. Concepts there: {known}. Make one: lab concept add"
            )
        try:
            card = read_card(run, name)
            tensors = load((folder / SUBSPACE).read_bytes())
            concept = cls(
                name=name,
                layer=int(card["layer"]),
                **{key: tensors[key] for key in ("basis", "mean", "weight", "bias")},
                classes=tuple(card["classes"]),
                checkpoint=card["checkpoint"],
                tokenizer=card["tokenizer"],
                details=card["details"],
            )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise BadConcept(f"{folder}: cannot be read ({error}). Find the concept again.") from None
        concept.check(run.config.model.n_layers, run.config.model.d_model)
        if concept.sha256 != card["sha256"]:
            raise BadConcept(f"{folder}: its subspace is not the one that its card describes. Find the concept again.")
        if concept.tokenizer != run.tokenizer().sha256:
            raise BadConcept(
                f"{name}: was found with another tokenizer than this run's, so its words mean other tokens."
            )
        return concept


def folder_of(run: "Run", name: str) -> Path:
    """
    Raises:
        BadConcept: a name that could not be a folder's.
    """
    if not NAME.fullmatch(name):
        raise BadConcept(f"{name[:60]!r} is no name for a concept. Use a-z, 0-9, '.', '_' and '-', at most 48 letters.")
    return resolve_inside(run.concepts, name)


def names(run: "Run") -> list[str]:
    """The run's concepts, sorted. No torch."""
    if not run.concepts.is_dir():
        return []
    return sorted(path.parent.name for path in run.concepts.glob("*/" + CARD) if NAME.fullmatch(path.parent.name))


def read_card(run: "Run", name: str) -> dict[str, Any]:
    """The card alone, for listings. No torch.

    Raises:
        BadConcept: not a JSON object any more.
    """
    file = folder_of(run, name) / CARD
    try:
        card = json.loads(file.read_text(encoding="utf8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise BadConcept(f"{file}: cannot be read ({error}). Find the concept again.") from None
    if not isinstance(card, dict):
        raise BadConcept(f"{file}: not a JSON object. Find the concept again.")
    return card


def remove(run: "Run", name: str) -> None:
    """
    Raises:
        ConceptMissing: there is none of that name.
        ConceptFrozen: it was frozen in this run.
    """
    folder = folder_of(run, name)
    if not folder.is_dir():
        raise ConceptMissing(f"{run.name} has no concept {name!r}. Concepts there: {', '.join(names(run)) or 'none'}.")
    _require_not_frozen(run, folder)
    shutil.rmtree(folder)


def _require_not_frozen(run: "Run", folder: Path) -> None:
    frozen = sorted(folder.glob("frozen-*"))
    if frozen:
        raise ConceptFrozen(
            f"{folder.name}: was frozen in {run.name}, and checkpoints of it stand on {frozen[0].name} in that folder: "
            "without it they could not be read. Keep the concept, or use another name for the new one."
        )
