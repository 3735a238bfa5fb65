"""A small parent run with planted concepts, branches of it, and the two measures of what a freeze held."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from lab.concepts import Concept
from lab.config import RunConfig
from lab.model import GPT
from lab.run import Run
from train.freeze import FreezeRequest
from train.freeze_modes import writers
from train.loop import Outcome, train
from train.session import Session, corpus_of, resume, start

Config = Callable[..., RunConfig]
SETTINGS = (
    "train.steps=60",
    "optimizer.warmup_steps=5",
    "checkpoint.every=10",
    "evaluation.every=0",
    "probing.every=0",
    "understanding.every=0",
)
PARENT_STEP = 12


def parent_run(config: RunConfig, root: Path, name: str = "parent", stop_at: int = PARENT_STEP) -> Run:
    """A run stopped at a step, with a concept at each layer: the directions in which its stream varies most there."""
    with start(config, root, name) as session:
        stop(session, stop_at)
        run = session.run
    for layer in range(run.config.model.n_layers + 1):
        plant(run, f"top-{layer}", layer)
    return run


def plant(run: Run, name: str, layer: int, rank: int = 2, skip: int = 0) -> Concept:
    """A concept of the newest checkpoint: principal directions of the stream, the first `skip` left out."""
    model, info = run.model(), run.checkpoint_info()
    with torch.no_grad():
        h = torch.cat([model(tokens, stop_at_layer=layer)[0, 1:] for tokens in documents(run)]).double()
    axes = torch.linalg.eigh((h - h.mean(0)).T @ (h - h.mean(0)))[1]
    basis = axes.flip(1)[:, skip : skip + rank].float().contiguous()
    concept = Concept(
        name=name,
        layer=layer,
        basis=basis,
        mean=h.mean(0).float(),
        weight=torch.zeros(0, rank),
        bias=torch.zeros(0),
        classes=(),
        checkpoint={"step": info.step, "sha256": info.weights_sha256},
        tokenizer=run.tokenizer().sha256,
    )
    concept.save(run)
    return concept


def stop(session: Session, at: int | None = None) -> Outcome:
    """Train, as if SIGINT had come at a step."""

    def interrupt(session: Session) -> None:
        if session.step == at:
            session.control.stop_reason = "SIGINT"

    session.report = interrupt
    outcome = train(session)
    session.records.end_segment(session.segment, session.step, outcome.reason)
    return outcome


def resume_to(run: Run, at: int | None = None) -> Outcome:
    with resume(run) as session:
        return stop(session, at)


def request(concept: str, mode: str = "anchor", **more: object) -> FreezeRequest:
    return FreezeRequest.model_validate({"concept": concept, "mode": mode, **more})


def documents(run: Run) -> list[Tensor]:
    """Every held-out document as one row of tokens, cut to the context."""
    tokenizer, most = run.tokenizer(), run.config.model.n_ctx
    rows = [[tokenizer.bos, *tokenizer.encode(text)][:most] for text in corpus_of(run).validation_documents()]
    return [torch.tensor([row]) for row in rows if len(row) > 2]


def drifts(then: GPT, now: GPT, concept: Concept, rows: Sequence[Tensor]) -> list[float]:
    """NRMSE of each document, position 0 dropped, over the spread of all of them; fp64."""
    v = concept.basis.double()
    with torch.no_grad():
        aims = [(_stream(then, concept.layer, row)[0, 1:].double() @ v) for row in rows]
        found = [(_stream(now, concept.layer, row)[0, 1:].double() @ v) for row in rows]
    spread = torch.cat(aims).var(0, unbiased=False).sum()
    return [float(((f - a).square().sum(-1).mean() / spread).sqrt()) for f, a in zip(found, aims, strict=True)]


def drift(then: GPT, now: GPT, concept: Concept, rows: Sequence[Tensor]) -> float:
    values = torch.tensor(drifts(then, now, concept, rows))
    return float(values.square().mean().sqrt())


def _stream(model: GPT, layer: int, tokens: Tensor) -> Tensor:
    name = "blocks.0.hook_resid_pre" if layer == 0 else f"blocks.{layer - 1}.hook_resid_post"
    found: Tensor = model.run_with_cache(tokens, names_filter=name)[1][name]
    return found


@torch.no_grad()
def written_drift(then: GPT, now: GPT, layer: int, basis: Float[Tensor, "d_model k"]) -> float:
    """Largest relative change of VᵀW over the writers up to a layer; fp64."""
    before, after, v = writers(then), writers(now), basis.double()
    names = [n for n in before if n == "embed.W_E" or int(n.split(".")[1]) < layer]
    return max(
        float((after[n].double() @ v - before[n].double() @ v).norm() / (before[n].double() @ v).norm()) for n in names
    )


def tree_hash(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
