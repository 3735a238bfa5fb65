"""The operations whose growth `growth` measures, each at several sizes: what is timed, and on what. No timing here."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from lab import checkpoint
from lab.config import load_config
from lab.corpus import Corpus
from lab.model import GPT, GPTConfig
from lab.records import Records
from lab.run import Run
from lab.sections import PROBE_TASKS
from tests.app.planted_huge import Size, make_huge
from tests.benchmarks.standard_queries import QUERIES
from tests.benchmarks.step import Contender
from train.probing import Bench

Work = Callable[[], object]
SMALL = Size(metrics=5_000, entries=10, checkpoints=10, layers=7, tasks=4, findings=50, events=50, episodes=10)


@dataclass(frozen=True)
class Curve:
    """One operation at ascending sizes.

    Attributes:
        quantity: what grows; operation: what is done with it.
        at_most: the exponent that the operation may have beside a constant.
        held: files that must stay open until everything is timed.
    """

    quantity: str
    operation: str
    at_most: float
    sizes: Sequence[int]
    works: Sequence[Work]
    held: Sequence[Records] = field(default_factory=tuple)


def steps() -> list[Curve]:
    """A training step: forward, loss, backward, clip, AdamW."""

    def curve(quantity: str, operation: str, at_most: float, shapes: Sequence[GPTConfig], batch: int) -> Curve:
        models = [GPT(shape, seed=0) for shape in shapes]
        counted = {
            "parameters": [sum(weight.numel() for weight in model.parameters()) for model in models],
            "context": [shape.n_ctx for shape in shapes],
            "vocabulary": [shape.d_vocab for shape in shapes],
        }
        return Curve(
            quantity, operation, at_most, counted[quantity], [_step(model, batch, model.cfg.n_ctx) for model in models]
        )

    def shape(d_model: int = 64, n_ctx: int = 64, d_vocab: int = 512, n_layers: int = 2) -> GPTConfig:
        return GPTConfig(n_layers=n_layers, d_model=d_model, n_heads=d_model // 32, n_ctx=n_ctx, d_vocab=d_vocab)

    widths, contexts = (64, 96, 160, 256, 384), (128, 256, 512, 1024, 2048)
    vocabularies = (1024, 2048, 4096, 8192, 16384)
    return [
        curve("parameters", "training step, 256 tokens", 1, [shape(d, n_layers=4) for d in widths], 4),
        curve("context", "training step, one sequence", 2, [shape(128, n_ctx=n) for n in contexts], 1),
        curve("vocabulary", "training step, 256 tokens", 1, [shape(d_vocab=n) for n in vocabularies], 4),
    ]


def _step(model: GPT, batch: int, n_ctx: int) -> Work:
    side = Contender(model, lambda tokens: model(tokens, return_type="loss"))
    tokens = torch.randint(model.cfg.d_vocab, (batch, n_ctx), generator=torch.Generator().manual_seed(1))
    return lambda: side.step(tokens)


def probing(folder: Path, runs: Path) -> list[Curve]:
    """A live visit of the probes, twin and probe set made before: over layers at all tasks, and over tasks.

    Args:
        runs: the folder that has the tokenised corpus.
    """
    settings = ["model.n_layers=24", "model.d_model=128", "model.n_ctx=64"]
    config = load_config("tiny", overrides=settings)
    corpus = Corpus.prepare(config, runs / ".data")
    run = Run.create(folder, "probed", config)
    model = GPT(GPTConfig.from_config(config.model), seed=0).eval()
    for weight in model.parameters():  # writers start at zero: give every layer something to write
        weight.data.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.02)
    texts = corpus.validation_documents

    def visit(layers: Sequence[int], tasks: Sequence[str]) -> Work:
        chosen = config.probing.model_copy(update={"layers": tuple(layers), "tasks": tuple(tasks)})
        bench = Bench.open(run, chosen, corpus.tokenizer, texts)
        return lambda: bench.whole(model, bench.tasks)

    layers = (
        3,
        6,
        12,
        24,
    )  # beside layer 0, which is always read; the last is always the top one, so the forward is whole
    some = [range(24 // count, 25, 24 // count) for count in layers]
    shares = range(1, len(PROBE_TASKS) + 1)
    return [
        Curve("layers probed", "probing visit, all tasks", 1, layers, [visit(each, PROBE_TASKS) for each in some]),
        Curve(
            "tasks", "probing visit, layers 0 to 6", 1, shares, [visit(range(1, 7), PROBE_TASKS[:n]) for n in shares]
        ),
    ]


def records(folder: Path) -> list[Curve]:
    """What pages ask of databases with ever more rows of one kind."""
    folder.mkdir()
    # A fifth of the rows is one curve; from 4,000 points on, as a shorter one than 2,000 is not thinned at all.
    metrics = _databases(folder, "metrics", (20_000, 50_000, 150_000, 400_000, 1_000_000))
    entries = _databases(folder, "entries", (10, 32, 100, 316, 1000))
    checkpoints = _databases(folder, "checkpoints", (10, 32, 100, 316, 1000))
    episodes = _databases(folder, "episodes", (10, 32, 100, 316, 1000))
    return [
        _asked("metric rows", "curve of a fifth of them", "curve", 1, metrics),
        _asked("metric rows", "newest numbers", "summary", 0, metrics),
        _asked("metric rows", "names of metrics", "metric names", 0, metrics),
        _asked("entries", "the journal with its claims", "journal", 1, entries),
        _asked("entries", "has the journal changed?", "journal changed", 0, entries),
        _asked("checkpoints", "readings of a task, 7 layers", "readings", 1, checkpoints),
        _asked("conversations", "list of all with their rates", "conversations", 1, episodes),
    ]


Made = Sequence[tuple[int, Run, Records]]


def _databases(folder: Path, kind: str, sizes: Sequence[int]) -> Made:
    made = [(size, make_huge(folder, f"{kind}-{size}", replace(SMALL, **{kind: size}))) for size in sizes]
    return [(size, run, run.records()) for size, run in made]


def _asked(quantity: str, operation: str, query: str, at_most: float, made: Made) -> Curve:
    works: list[Work] = [lambda run=run, known=known: QUERIES[query](run, known) for _, run, known in made]  # type: ignore[misc]
    return Curve(quantity, operation, at_most, [size for size, _, _ in made], works, [known for _, _, known in made])


def folders(folder: Path) -> Curve:
    """What a start does with a folder of checkpoints: the list of all, and the hashes of the newest."""

    def filled(count: int) -> Work:
        place = folder / str(count)
        weights = {"w": torch.zeros(64, 64)}
        for step in range(count):
            checkpoint.save(place, step, weights, {}, {"step": step})
        return lambda: checkpoint.newest_valid(place)

    sizes = (10, 20, 40, 80, 160)
    return Curve("checkpoints", "the newest whole one", 1, sizes, [filled(count) for count in sizes])
